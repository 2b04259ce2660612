//! Opening: from a folder, a `.hedge` file, a bare ONNX model, or bytes.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use hedge_graph::{Graph, ReadError};
use hedge_tensor::{NamedTensor, Tensor};
use thiserror::Error;

use crate::blob::{Blob, Hashing};
use crate::container::{self, Container};
use crate::data::{BundleData, FolderData};
use crate::limits::{MAX_ASSETS_BYTES, MAX_MANIFEST_BYTES};
use crate::manifest::{FileRecord, GoldenFile, GoldenFiles, MANIFEST_FILE, MODEL_FILE};
use crate::{ContainerError, Digest, FileName, Manifest, ManifestError, ModelName, ModelVersion, NameError};
use crate::{folder, npy};

/// A model with all that is known of it. Its manifest, digests and golden vectors were checked when it was opened.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// What is known of the model.
    pub manifest: Manifest,
    /// The model.
    pub graph: Graph,
    /// Inputs of the model with known outputs.
    pub golden: Vec<GoldenCase>,
    assets: BTreeMap<FileName, Bytes>,
    digest: Digest,
}

/// Inputs of a model and the outputs that they must give.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct GoldenCase {
    /// A value for each input of the model.
    pub inputs: Vec<NamedTensor>,
    /// The outputs that are known.
    pub outputs: Vec<NamedTensor>,
}

/// Why a bundle cannot be opened or made.
#[derive(Debug, Error)]
pub enum BundleError {
    /// The system did not give or take a file.
    #[error("{} cannot be read or written", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A link where a file must be.
    #[error("{} is a link; put the file itself into the folder", path.display())]
    Link {
        /// Which.
        path: PathBuf,
    },
    /// A file whose name no bundle may hold.
    #[error("{}: {why}; rename or remove it", path.display())]
    Name {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: NameError,
    },
    /// A `.hedge` file is broken.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// A manifest is wrong.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A folder that was written by hand and never packed.
    #[error(
        "its manifest lists no files, so nothing proves that they are whole; `hedge bundle pack` makes a bundle of it"
    )]
    Draft,
    /// A file of the bundle is not what the manifest says.
    #[error("its file {name}: {why}; copy or pack the bundle again")]
    File {
        /// Which.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// The model cannot be read.
    #[error(transparent)]
    Model(#[from] ReadError),
    /// A golden vector cannot be read.
    #[error("its golden vector {file}: {why}")]
    Golden {
        /// Which file.
        file: FileName,
        /// What is wrong.
        why: String,
    },
}

impl BundleError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        BundleError::Io { path: path.to_owned(), source }
    }

    fn file(name: &FileName, why: &dyn std::fmt::Display) -> Self {
        BundleError::File { name: name.to_string(), why: format!("{why}") }
    }
}

impl Bundle {
    /// Opens a folder with a `manifest.json`, a `.hedge` file, or a bare ONNX file with its data files beside it. What it is
    /// is told by what is there, not by its name.
    pub fn open(path: &Path) -> Result<Bundle, BundleError> {
        if path.is_dir() {
            return open_folder(path);
        }
        let file = folder::open_file(path)?;
        if is_container(&file) { open_container(&file) } else { open_bare(path, &file) }
    }

    /// Opens the bytes of a `.hedge` file; weights and assets are slices of them.
    pub fn from_bytes(file: Bytes) -> Result<Bundle, BundleError> {
        open_container(&Blob::of_bytes(file))
    }

    /// What the bundle is known by: the SHA-256 of its manifest, which holds the digests of all else. Of a bare ONNX file
    /// without data files it is the SHA-256 of the file.
    pub fn digest(&self) -> [u8; 32] {
        self.digest.0
    }

    /// A file that a transform needs.
    pub fn asset(&self, name: &FileName) -> Option<&Bytes> {
        self.assets.get(name)
    }
}

/// Reads a bare ONNX model with the data files beside it, each large tensor into a buffer of its own. A `.hedge` file or a
/// folder is not one: [`Bundle::open`] takes all of them.
pub fn open_onnx(path: &Path) -> Result<Graph, BundleError> {
    let file = folder::open_file(path)?;
    Ok(Graph::read_from(&mut file.reader(), file.len(), &FolderData::beside(path))?)
}

/// Reads the model of a bundle, or a bare ONNX model, and nothing else of it that is not needed for that.
pub fn open_graph(path: &Path) -> Result<Graph, BundleError> {
    let bare = !path.is_dir() && !is_container(&folder::open_file(path)?);
    if bare { open_onnx(path) } else { Ok(Bundle::open(path)?.graph) }
}

fn is_container(file: &Blob) -> bool {
    let begin = file.part(0, container::MAGIC.len() as u64).and_then(|begin| begin.read().ok());
    begin.is_some_and(|begin| *begin == container::MAGIC)
}

fn open_container(file: &Blob) -> Result<Bundle, BundleError> {
    let Container { manifest, digest, entries } = Container::open(file)?;
    load(manifest, digest, &entries)
}

/// A bundle's files.
pub(crate) type NamedBlobs = Vec<(FileName, Blob)>;

/// Opens a `.hedge` file and gives its files, too; `None` where the file is none.
pub(crate) fn open_bundle_files(path: &Path) -> Result<Option<(Bundle, NamedBlobs)>, BundleError> {
    let file = folder::open_file(path)?;
    if !is_container(&file) {
        return Ok(None);
    }
    let Container { manifest, digest, entries } = Container::open(&file)?;
    let bundle = load(manifest, digest, &entries)?;
    let names = bundle.manifest.files.iter().map(|file| file.name.clone());
    let files = names.zip(entries).collect();
    Ok(Some((bundle, files)))
}

fn open_folder(path: &Path) -> Result<Bundle, BundleError> {
    let (manifest, digest) = read_manifest(path)?;
    if manifest.files.is_empty() {
        return Err(BundleError::Draft);
    }
    let mut entries = Vec::with_capacity(manifest.files.len());
    for record in &manifest.files {
        let blob = folder::open(path, record.name.as_str())?;
        if blob.len() != record.bytes {
            let why = format!("it has {} bytes, but should have {}", blob.len(), record.bytes);
            return Err(BundleError::file(&record.name, &why));
        }
        entries.push(blob);
    }
    load(manifest, digest, &entries)
}

pub(crate) fn read_manifest(folder: &Path) -> Result<(Manifest, Digest), BundleError> {
    let file = folder::open(folder, MANIFEST_FILE)?;
    read_manifest_file(&folder.join(MANIFEST_FILE), &file)
}

pub(crate) fn read_manifest_file(path: &Path, file: &Blob) -> Result<(Manifest, Digest), BundleError> {
    if file.len() > MAX_MANIFEST_BYTES {
        let (what, count, most) = ("bytes", file.len(), MAX_MANIFEST_BYTES);
        return Err(ManifestError::TooMany { what, count, most }.into());
    }
    let json = file.read().map_err(|error| BundleError::io(path, error))?;
    Ok((Manifest::read(&json)?, Digest::of(&json)))
}

fn open_bare(path: &Path, file: &Blob) -> Result<Bundle, BundleError> {
    let data = FolderData::beside(path);
    let fail = |error| BundleError::io(path, error);
    let mut reader = Hashing::new(file.reader());
    let graph = Graph::read_from(&mut reader, file.len(), &data)?;
    let model = reader.finish().map_err(fail)?;
    let mut manifest = made_up(path);
    manifest.complete(&graph);
    manifest.files = vec![record(MODEL_FILE, file.len(), model)];
    let others = data.into_files();
    for (name, blob) in &others {
        let digest = blob.digest().map_err(|error| BundleError::io(Path::new(name), error))?;
        // A bare model's data files have names of the user's choice; the manifest numbers them.
        manifest.files.push(record(&format!("weights-{}.bin", manifest.files.len()), blob.len(), digest));
    }
    manifest.files.sort_by(|a, b| a.name.cmp(&b.name));
    let digest = if others.is_empty() { model } else { Digest::of(&manifest.write()) };
    Ok(Bundle { manifest, graph, golden: Vec::new(), assets: BTreeMap::new(), digest })
}

/// The manifest of a model that has none.
pub(crate) fn made_up(path: &Path) -> Manifest {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default();
    let version = ModelVersion::parse("0").expect("a digit is a version");
    Manifest::named(ModelName::from_text(&stem), version)
}

fn record(name: &str, bytes: u64, sha256: Digest) -> FileRecord {
    FileRecord { name: FileName::parse(name).expect("a name of this program's own"), bytes, sha256 }
}

/// Reads what the entries hold; each entry's digest is proven before this returns.
fn load(manifest: Manifest, digest: Digest, entries: &[Blob]) -> Result<Bundle, BundleError> {
    let files = Files { records: &manifest.files, entries };
    // Small things first: a wrong manifest costs no reading of weights.
    let golden = files.golden(&manifest)?;
    let assets = files.assets(&manifest)?;
    let graph = files.graph(&manifest)?;
    manifest.check_against(&graph)?;
    Ok(Bundle { manifest, graph, golden, assets, digest })
}

struct Files<'a> {
    records: &'a [FileRecord],
    entries: &'a [Blob],
}

impl<'a> Files<'a> {
    fn entry(&self, name: &str) -> Result<(&'a FileRecord, &'a Blob), BundleError> {
        let missing = || BundleError::File { name: name.to_owned(), why: "it is missing".to_owned() };
        let index = self.records.binary_search_by(|record| record.name.as_str().cmp(name)).map_err(|_| missing())?;
        Ok((&self.records[index], &self.entries[index]))
    }

    /// A whole file, proven.
    fn read(&self, name: &FileName) -> Result<Bytes, BundleError> {
        let (record, blob) = self.entry(name.as_str())?;
        let bytes = blob.read().map_err(|error| BundleError::file(name, &error))?;
        if Digest::of(&bytes) == record.sha256 { Ok(bytes) } else { Err(damaged(record)) }
    }

    fn golden(&self, manifest: &Manifest) -> Result<Vec<GoldenCase>, BundleError> {
        let case = |case: &GoldenFiles| {
            let (inputs, outputs) = (self.golden_tensors(&case.inputs)?, self.golden_tensors(&case.outputs)?);
            Ok(GoldenCase { inputs, outputs })
        };
        manifest.golden.iter().map(case).collect()
    }

    fn golden_tensors(&self, files: &[GoldenFile]) -> Result<Vec<NamedTensor>, BundleError> {
        files.iter().map(|file| self.golden_tensor(file)).collect()
    }

    fn golden_tensor(&self, golden: &GoldenFile) -> Result<NamedTensor, BundleError> {
        let tensor = read_golden(&golden.file, &self.read(&golden.file)?)?;
        Ok(NamedTensor::new(golden.name.clone(), tensor))
    }

    fn assets(&self, manifest: &Manifest) -> Result<BTreeMap<FileName, Bytes>, BundleError> {
        let mut assets = BTreeMap::new();
        let mut left = MAX_ASSETS_BYTES;
        for name in manifest.assets() {
            if assets.contains_key(name) {
                continue;
            }
            let (record, _) = self.entry(name.as_str())?;
            left = left.checked_sub(record.bytes).ok_or_else(|| {
                BundleError::file(
                    name,
                    &format_args!("files of transforms have more than {MAX_ASSETS_BYTES} bytes together"),
                )
            })?;
            assets.insert(name.clone(), self.read(name)?);
        }
        Ok(assets)
    }

    /// The model, with its external tensors; proves the digests of all files that were not read so far.
    fn graph(&self, manifest: &Manifest) -> Result<Graph, BundleError> {
        let (model, blob) = self.entry(MODEL_FILE)?;
        let read: Vec<&FileName> = manifest.named_files().chain([&model.name]).collect();
        let others = self.records.iter().zip(self.entries).filter(|(record, _)| !read.contains(&&record.name));
        let data = BundleData::new(others.map(|(record, blob)| (record.name.as_str(), blob.clone(), record.sha256)));
        let fail = |error: io::Error| BundleError::file(&model.name, &error);
        // A small model is proven before it is parsed; one with its weights inside is too large to be read twice.
        let graph = if blob.is_memory() || model.bytes <= SMALL_MODEL_BYTES {
            Graph::read_with(self.read(&model.name)?, &data)
        } else {
            let mut reader = Hashing::new(blob.reader());
            let graph = Graph::read_from(&mut reader, model.bytes, &data);
            if reader.finish().map_err(fail)? != model.sha256 {
                return Err(damaged(model));
            }
            graph
        };
        for (name, outcome) in data.finish() {
            outcome.map_err(|why| BundleError::File { name: name.to_owned(), why: why.to_string() })?;
        }
        Ok(graph?)
    }
}

/// A model that is read whole before it is parsed.
const SMALL_MODEL_BYTES: u64 = 16 << 20;

pub(crate) fn read_golden(file: &FileName, bytes: &Bytes) -> Result<Tensor, BundleError> {
    let fail = |why: String| BundleError::Golden { file: file.clone(), why };
    if file.as_str().ends_with(".pb") {
        return hedge_graph::read_tensor_file(bytes.clone()).map_err(|error| fail(error.to_string()));
    }
    npy::decode(bytes).map_err(|error| fail(error.to_string()))
}

fn damaged(record: &FileRecord) -> BundleError {
    BundleError::file(&record.name, &"its bytes are not those that the manifest lists")
}
