//! Bundles opened, packed, cut, flipped and led astray.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use hedge_graph::{Dim, Graph, GraphBuilder};
use hedge_tensor::{DType, NamedTensor, Tensor};
use tempfile::TempDir;

use crate::manifest::{Comparison, Input, MANIFEST_FILE, MODEL_FILE, WEIGHTS_FILE};
use crate::{Bundle, BundleError, ContainerError, Draft, FileName, GoldenCase, Manifest, ModelName, ModelVersion};

/// Columns of the model's weight: enough for it to leave `model.onnx`.
pub(crate) const WIDE: usize = 100;

/// `y = x w`, with a weight that is external data in a bundle.
pub(crate) fn graph() -> Graph {
    let mut b = GraphBuilder::new("line");
    let x = b.input("x", DType::F32, &[Dim::named("N"), 3.into()]);
    let weights: Vec<f32> = (0..3 * WIDE).map(|i| i as f32 / 10.0).collect();
    let w = b.init("w", Tensor::from_slice(&[3, WIDE], &weights).unwrap());
    b.op_as("y", "MatMul", &[&x, &w], &[]);
    b.output("y", DType::F32, &[Dim::named("N"), WIDE.into()]);
    b.finish().unwrap()
}

pub(crate) fn manifest() -> Manifest {
    let mut manifest = Manifest::named(ModelName::parse("line").unwrap(), ModelVersion::parse("1").unwrap());
    manifest.licence = "CC0-1.0".into();
    manifest.inputs = vec![Input { name: "x".into(), meaning: "where".into(), unit: "m".into(), transform: None }];
    manifest
}

fn golden() -> GoldenCase {
    let named = |name: &str, tensor| vec![NamedTensor::new(name, tensor)];
    GoldenCase {
        inputs: named("x", Tensor::zeros(DType::F32, vec![1, 3]).unwrap()),
        outputs: named("y", Tensor::zeros(DType::F32, vec![1, WIDE]).unwrap()),
    }
}

pub(crate) fn draft() -> Draft {
    let mut draft = Draft::new(manifest(), graph());
    draft.add_golden(&golden());
    draft.manifest.comparison = Some(Comparison::Tolerance { output: "y".into(), absolute: 0.5, relative: 0.0 });
    draft.manifest.outputs = vec![crate::Output { name: "y".into(), ..Default::default() }];
    draft
}

pub(crate) fn small() -> Vec<u8> {
    draft().to_bytes().unwrap()
}

fn in_folder() -> (TempDir, std::path::PathBuf) {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("line");
    draft().write(&folder).unwrap();
    (outer, folder)
}

/// All that is said, causes included.
fn message<T: std::fmt::Debug>(outcome: Result<T, BundleError>) -> String {
    let error = outcome.unwrap_err();
    match std::error::Error::source(&error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[test]
fn a_bundle_comes_back_from_a_file_a_folder_and_memory_as_it_was_packed() {
    let (outer, folder) = in_folder();
    let file = outer.path().join("line.hedge");
    let packed = draft().write(&file).unwrap();
    assert_eq!(fs::read(&file).unwrap(), small());
    let bundles = [Bundle::open(&folder), Bundle::open(&file), Bundle::from_bytes(small().into())];
    for bundle in bundles {
        let bundle = bundle.unwrap();
        assert_eq!(bundle.digest(), packed.digest);
        assert_eq!(bundle.manifest, packed.manifest);
        assert_eq!(bundle.golden, [golden()]);
        assert_eq!(bundle.graph.initializers, graph().initializers);
        assert_eq!(bundle.graph.nodes, graph().nodes);
    }
}

#[test]
fn packing_a_bundle_again_changes_nothing() {
    let (outer, folder) = in_folder();
    let [first, second, third] = ["a.hedge", "b.hedge", "c"].map(|name| outer.path().join(name));
    Bundle::pack(&folder, None, &first).unwrap();
    assert_eq!(fs::read(&first).unwrap(), small());
    Bundle::pack(&first, None, &second).unwrap();
    assert_eq!(fs::read(&second).unwrap(), small());
    Bundle::pack(&second, None, &third).unwrap();
    for name in [MANIFEST_FILE, MODEL_FILE, WEIGHTS_FILE, "golden/0/input-0.npy"] {
        assert_eq!(fs::read(folder.join(name)).unwrap(), fs::read(third.join(name)).unwrap(), "{name}");
    }
    let left: Vec<_> = fs::read_dir(outer.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 4, "{left:?}");
}

#[test]
fn weights_are_external_data_at_multiples_of_64() {
    let (_outer, folder) = in_folder();
    let model = fs::read(folder.join(MODEL_FILE)).unwrap();
    assert!(Graph::read(model.into()).unwrap_err().to_string().contains(WEIGHTS_FILE));
    assert_eq!(crate::open_onnx(&folder.join(MODEL_FILE)).unwrap().initializers, graph().initializers);
    let bundle = Bundle::open(&folder).unwrap();
    let address = bundle.graph.initializers["w"].bytes().as_ptr().addr();
    assert_eq!(address % 64, 0);
}

#[test]
fn opening_bytes_copies_no_weights() {
    let file = Bytes::from(small());
    let bundle = Bundle::from_bytes(file.clone()).unwrap();
    let weights = bundle.graph.initializers["w"].bytes().as_ptr().addr();
    assert!((file.as_ptr().addr()..file.as_ptr().addr() + file.len()).contains(&weights));
}

#[test]
fn every_flipped_byte_is_found() {
    let whole = small();
    for at in 0..whole.len() {
        for mask in [1, 0x80] {
            let mut flipped = whole.clone();
            flipped[at] ^= mask;
            assert!(Bundle::from_bytes(flipped.into()).is_err(), "byte {at} of {}", whole.len());
        }
    }
}

#[test]
fn a_file_that_ends_anywhere_else_is_refused() {
    let whole = Bytes::from(small());
    for length in 0..whole.len() {
        assert!(Bundle::from_bytes(whole.slice(..length)).is_err(), "{length}");
    }
    let longer = [&whole[..], &[0]].concat();
    let error = Bundle::from_bytes(longer.into()).unwrap_err();
    assert!(matches!(error, BundleError::Container(ContainerError::Length { .. })), "{error}");
}

#[test]
fn random_damage_of_any_kind_is_an_error_and_never_a_panic() {
    let whole = small();
    for seed in 0..2000u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut bytes = whole.clone();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[at] = random.next() as u8,
                1 => drop(bytes.drain(at..(at + random.below(300)).min(bytes.len()))),
                2 => bytes.splice(at..at, (0..random.below(300)).map(|i| i as u8)).for_each(drop),
                _ => bytes[at..].iter_mut().take(8).for_each(|byte| *byte = 0xff),
            }
            if bytes.is_empty() {
                break;
            }
        }
        assert!(bytes == whole || Bundle::from_bytes(bytes.into()).is_err(), "seed {seed}");
    }
}

#[test]
fn a_folder_whose_file_was_changed_cut_or_removed_is_refused_by_name() {
    for name in [MODEL_FILE, WEIGHTS_FILE, "golden/0/output-0.npy"] {
        let (_outer, folder) = in_folder();
        let path = folder.join(name);
        let whole = fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        fs::write(&path, flipped).unwrap();
        let error = message(Bundle::open(&folder));
        assert!(error.contains(name) && error.contains("not those that the manifest lists"), "{error}");
        fs::write(&path, &whole[1..]).unwrap();
        assert!(message(Bundle::open(&folder)).contains("bytes, but should have"), "{name}");
        fs::remove_file(&path).unwrap();
        assert!(message(Bundle::open(&folder)).contains(name.rsplit('/').next().unwrap()), "{name}");
    }
}

#[test]
fn what_no_manifest_lists_is_not_read() {
    let (_outer, folder) = in_folder();
    fs::write(folder.join(".DS_Store"), b"Finder was here").unwrap();
    Bundle::open(&folder).unwrap();
    // Packing takes all there is, so it says what it cannot take.
    let error = Bundle::pack(&folder, None, &folder.with_extension("hedge")).unwrap_err();
    assert!(matches!(error, BundleError::Name { .. }), "{error}");
}

#[cfg(unix)]
#[test]
fn links_are_refused_in_folders_and_beside_models() {
    use std::os::unix::fs::symlink;
    let (outer, folder) = in_folder();
    let (weights, elsewhere) = (folder.join(WEIGHTS_FILE), outer.path().join("elsewhere"));
    fs::rename(&weights, &elsewhere).unwrap();
    symlink(&elsewhere, &weights).unwrap();
    assert!(matches!(Bundle::open(&folder), Err(BundleError::Link { .. })));
    assert!(matches!(Bundle::pack(&folder, None, &outer.path().join("x.hedge")), Err(BundleError::Link { .. })));
    let error = crate::open_onnx(&folder.join(MODEL_FILE)).unwrap_err().to_string();
    assert!(error.contains("link out of the model's folder"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_linked_folder_inside_is_refused() {
    let (outer, folder) = in_folder();
    fs::rename(folder.join("golden"), outer.path().join("golden")).unwrap();
    std::os::unix::fs::symlink(outer.path().join("golden"), folder.join("golden")).unwrap();
    assert!(matches!(Bundle::open(&folder), Err(BundleError::Link { .. })));
}

#[test]
fn a_folder_written_by_hand_is_packed_before_it_is_opened() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("mine");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join(MODEL_FILE), graph().write()).unwrap();
    fs::write(folder.join(MANIFEST_FILE), br#"{"format": 1, "name": "mine", "version": "2"}"#).unwrap();
    fs::write(folder.join("LICENSE"), b"all yours").unwrap();
    assert!(matches!(Bundle::open(&folder), Err(BundleError::Draft)));
    let out = outer.path().join("mine.hedge");
    let packed = Bundle::pack(&folder, None, &out).unwrap();
    let names: Vec<&str> = packed.manifest.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["LICENSE", MODEL_FILE, WEIGHTS_FILE]);
    let bundle = Bundle::open(&out).unwrap();
    assert_eq!((bundle.manifest.inputs[0].name.as_str(), bundle.manifest.outputs[0].name.as_str()), ("x", "y"));
}

#[test]
fn a_bare_model_is_a_bundle_known_by_its_files_digest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("my model.onnx");
    let file = graph().write();
    fs::write(&path, &file).unwrap();
    let bundle = Bundle::open(&path).unwrap();
    assert_eq!((bundle.manifest.name.as_str(), bundle.manifest.version.as_str()), ("my-model", "0"));
    assert_eq!(bundle.digest(), hedge_graph::file_digest(&file));
    assert_eq!(crate::open_graph(&path).unwrap(), graph());
}

#[test]
fn the_digest_of_a_bare_model_covers_its_data_files() {
    let (_outer, folder) = in_folder();
    let path = folder.join(MODEL_FILE);
    let before = Bundle::open(&path).unwrap();
    assert_eq!(before.graph.initializers, graph().initializers);
    let mut weights = fs::read(folder.join(WEIGHTS_FILE)).unwrap();
    weights[0] ^= 1;
    fs::write(folder.join(WEIGHTS_FILE), weights).unwrap();
    assert_ne!(Bundle::open(&path).unwrap().digest(), before.digest());
}

#[test]
fn a_bare_models_data_may_not_lie_elsewhere() {
    let outer = tempfile::tempdir().unwrap();
    fs::write(outer.path().join("secret"), vec![0; 4 * 3 * WIDE]).unwrap();
    let folder = outer.path().join("model");
    fs::create_dir(&folder).unwrap();
    let absolute = outer.path().join("secret");
    for location in ["../secret", absolute.to_str().unwrap(), "a/../../secret", "./../secret", "missing"] {
        let (model, _) = graph().write_external(location);
        fs::write(folder.join("m.onnx"), model).unwrap();
        assert!(crate::open_onnx(&folder.join("m.onnx")).is_err(), "{location}");
    }
}

#[test]
fn tensors_that_share_bytes_are_read_once_and_going_back_is_proven_too() {
    let mut b = GraphBuilder::new("order");
    let x = b.input("x", DType::F32, &[300.into()]);
    for name in ["a", "b", "c"] {
        b.init(name, Tensor::from_slice(&[300], &[f32::from(name.as_bytes()[0]); 300]).unwrap());
        b.op_as(&format!("y{name}"), "Add", &[&x, name], &[]);
        b.output(&format!("y{name}"), DType::F32, &[300.into()]);
    }
    let graph = b.finish().unwrap();
    let (model, weights) = graph.write_external(WEIGHTS_FILE);
    let offset = |name: &str| memchr(&weights, f32::from(name.as_bytes()[0]).to_le_bytes());
    // The tensors' order in the model is by name; swapping two offsets makes the reader go back.
    let (second, third) = (offset("b").to_string(), offset("c").to_string());
    assert_eq!(second.len(), third.len());
    let swapped = swap(&model, second.as_bytes(), third.as_bytes());
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(MODEL_FILE), swapped).unwrap();
    fs::write(folder.path().join(WEIGHTS_FILE), &weights).unwrap();
    let mut manifest = manifest();
    manifest.inputs.clear();
    manifest.complete(&graph);
    for name in [MODEL_FILE, WEIGHTS_FILE] {
        let bytes = fs::read(folder.path().join(name)).unwrap();
        let record = crate::FileRecord {
            name: FileName::parse(name).unwrap(),
            bytes: bytes.len() as u64,
            sha256: crate::Digest::of(&bytes),
        };
        manifest.files.push(record);
    }
    fs::write(folder.path().join(MANIFEST_FILE), manifest.write()).unwrap();
    let bundle = Bundle::open(folder.path()).unwrap();
    assert_eq!(bundle.graph.initializers["b"], graph.initializers["c"]);
    let mut flipped = weights;
    flipped[0] ^= 1;
    fs::write(folder.path().join(WEIGHTS_FILE), flipped).unwrap();
    assert!(message(Bundle::open(folder.path())).contains("not those that the manifest lists"));
}

#[test]
fn an_existing_folder_is_never_overwritten_and_an_existing_file_is_replaced() {
    let (outer, folder) = in_folder();
    let error = message(draft().write(&folder));
    assert!(error.contains("there already"), "{error}");
    let file = outer.path().join("line.hedge");
    fs::write(&file, b"old").unwrap();
    draft().write(&file).unwrap();
    Bundle::open(&file).unwrap();
}

#[test]
fn a_manifest_that_speaks_of_another_model_is_refused_when_packing() {
    let mut other = draft();
    other.manifest.inputs[0].name = "z".into();
    let error = other.to_bytes().unwrap_err().to_string();
    assert!(error.contains("the model has no input \"z\"; it has \"x\""), "{error}");
    let mut labelled = draft();
    labelled.manifest.outputs[0].labels = vec!["only".into()];
    assert!(labelled.to_bytes().unwrap_err().to_string().contains("1 labels, but its last dimension is 100"));
    let mut missing = draft();
    missing.manifest.golden[0].inputs[0].file = FileName::parse("golden/none.npy").unwrap();
    assert!(missing.to_bytes().unwrap_err().to_string().contains("golden/none.npy"));
}

#[test]
fn a_pipe_or_a_folder_in_a_files_place_is_no_file() {
    let (_outer, folder) = in_folder();
    fs::remove_file(folder.join(WEIGHTS_FILE)).unwrap();
    fs::create_dir(folder.join(WEIGHTS_FILE)).unwrap();
    assert!(message(Bundle::open(&folder)).contains("not a plain file"));
    assert!(Bundle::open(Path::new("/nowhere/at/all")).is_err());
}

fn memchr(bytes: &[u8], value: [u8; 4]) -> usize {
    bytes.chunks_exact(4).position(|chunk| chunk == value).unwrap() * 4
}

/// `bytes` with every `a` made `b` and the other way round.
fn swap(bytes: &[u8], a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for at in 0..out.len() - a.len() {
        let window = &bytes[at..at + a.len()];
        if window == a {
            out[at..at + a.len()].copy_from_slice(b);
        } else if window == b {
            out[at..at + a.len()].copy_from_slice(a);
        }
    }
    out
}

/// xorshift64 (Marsaglia): it only has to be the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}
