//! Packing: from a model and what is known of it to a bundle, as a file or a folder.
//!
//! The model is written anew, so that a bundle never depends on how its model was saved: [`MODEL_FILE`] without large tensors,
//! these in [`WEIGHTS_FILE`], each aligned to 64 bytes, as ONNX's external data: an unpacked folder opens in Netron and
//! onnxruntime as it is. The same model and manifest always give the same bytes. What is written appears under its name
//! when it is complete and on the disk, or not at all.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use hedge_graph::Graph;
use hedge_tensor::NamedTensor;

use crate::blob::Blob;
use crate::bundle::{made_up, open_bundle_files, read_golden, read_manifest, read_manifest_file};
use crate::data::FolderData;
use crate::manifest::{FileRecord, GoldenFile, GoldenFiles, MANIFEST_FILE, MODEL_FILE, WEIGHTS_FILE};
use crate::{Bundle, BundleError, Digest, FileName, GoldenCase, Manifest, container, folder, npy};

/// The end of a single-file bundle's name.
pub const EXTENSION: &str = "hedge";

/// A bundle that is being made.
#[derive(Clone, Debug)]
pub struct Draft {
    /// What is known of the model. Its list of files is made when the draft is written.
    pub manifest: Manifest,
    graph: Graph,
    files: BTreeMap<FileName, Blob>,
}

/// What became of a draft.
#[derive(Clone, Debug)]
pub struct Packed {
    /// The manifest with its list of files.
    pub manifest: Manifest,
    /// The bundle's digest.
    pub digest: [u8; 32],
}

impl Bundle {
    /// Packs a folder, an ONNX file or another bundle, with its own manifest or the one given, to `out`: a file where its name
    /// ends in `.hedge`, else a new folder.
    pub fn pack(source: &Path, manifest: Option<&Path>, out: &Path) -> Result<Packed, BundleError> {
        Draft::read(source, manifest)?.write(out)
    }
}

impl Draft {
    /// A draft of a model in memory.
    pub fn new(manifest: Manifest, graph: Graph) -> Self {
        Draft { manifest, graph, files: BTreeMap::new() }
    }

    /// Reads a folder (`model.onnx`, `manifest.json` if no other is given, and every other file), an ONNX file (with the
    /// files that the manifest given speaks of, from the manifest's folder), or a bundle.
    pub fn read(source: &Path, manifest: Option<&Path>) -> Result<Self, BundleError> {
        let given = manifest.map(|path| Ok::<_, BundleError>((read_given(path)?, path))).transpose()?;
        if source.is_dir() {
            return read_folder(source, given.map(|(manifest, _)| manifest));
        }
        if let Some((bundle, files)) = open_bundle_files(source)? {
            let manifest = given.map_or(bundle.manifest, |(manifest, _)| manifest);
            return Ok(Draft { manifest, graph: bundle.graph, files: without_model(files) });
        }
        let graph = crate::open_onnx(source)?;
        let Some((manifest, path)) = given else { return Ok(Draft::new(made_up(source), graph)) };
        let beside = path.parent().unwrap_or(Path::new(""));
        let files = manifest.named_files().map(|name| Ok((name.clone(), folder::open(beside, name.as_str())?)));
        let files = files.collect::<Result<_, BundleError>>()?;
        Ok(Draft { manifest, graph, files })
    }

    /// The model.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Adds a file, such as a tokenizer or a licence's text.
    pub fn add_file(&mut self, name: FileName, content: Bytes) {
        self.files.insert(name, Blob::of_bytes(content));
    }

    /// Adds a golden case as `.npy` files.
    pub fn add_golden(&mut self, case: &GoldenCase) {
        let place = format!("golden/{}", self.manifest.golden.len());
        let mut add = |side: &str, tensors: &[NamedTensor]| {
            let add = |(index, tensor): (usize, &NamedTensor)| {
                let name = format!("{place}/{side}-{index}.npy");
                let file = FileName::parse(&name).expect("a name of this program's own");
                self.files.insert(file.clone(), Blob::of_bytes(npy::encode(&tensor.tensor).into()));
                GoldenFile { name: tensor.name.clone(), file }
            };
            tensors.iter().enumerate().map(add).collect()
        };
        let files = GoldenFiles { inputs: add("input", &case.inputs), outputs: add("output", &case.outputs) };
        self.manifest.golden.push(files);
    }

    /// Writes the bundle: a file where the name ends in `.hedge`, else a folder, which must not be there.
    pub fn write(self, out: &Path) -> Result<Packed, BundleError> {
        let (manifest, contents) = self.complete()?;
        let fail = |source| BundleError::io(out, source);
        if out.extension().is_some_and(|extension| extension == EXTENSION) {
            write_file(&manifest, &contents, out).map_err(fail)?;
        } else {
            write_folder(&manifest, &contents, out).map_err(fail)?;
        }
        Ok(Packed { digest: Digest::of(&manifest.write()).0, manifest })
    }

    /// The bytes of the `.hedge` file.
    pub fn to_bytes(self) -> Result<Vec<u8>, BundleError> {
        let (manifest, contents) = self.complete()?;
        let mut bytes = Vec::new();
        container::write(&manifest, &contents, &mut bytes).map_err(|error| BundleError::io(Path::new(""), error))?;
        Ok(bytes)
    }

    /// Lists the files and checks everything, as opening will.
    fn complete(mut self) -> Result<(Manifest, Vec<Blob>), BundleError> {
        let (model, weights) = self.graph.write_external(WEIGHTS_FILE);
        let mut own = |name: &str, content: Vec<u8>| {
            let name = FileName::parse(name).expect("a name of this program's own");
            self.files.insert(name, Blob::of_bytes(content.into()));
        };
        own(MODEL_FILE, model);
        if !weights.is_empty() {
            own(WEIGHTS_FILE, weights);
        }
        let mut manifest = self.manifest;
        manifest.complete(&self.graph);
        manifest.files = self.files.iter().map(|(name, blob)| record(name, blob)).collect::<Result<_, _>>()?;
        // Through its bytes: what is written must be what can be read.
        let manifest = Manifest::read(&manifest.write())?;
        manifest.check_against(&self.graph)?;
        for file in manifest.golden.iter().flat_map(|case| case.inputs.iter().chain(&case.outputs)) {
            let content = self.files.get(&file.file).expect("a checked manifest lists what it speaks of");
            let bytes = content.read().map_err(|error| BundleError::io(Path::new(file.file.as_str()), error))?;
            read_golden(&file.file, &bytes)?;
        }
        Ok((manifest, self.files.into_values().collect()))
    }
}

fn read_given(path: &Path) -> Result<Manifest, BundleError> {
    Ok(read_manifest_file(path, &folder::open_file(path)?)?.0)
}

fn read_folder(source: &Path, given: Option<Manifest>) -> Result<Draft, BundleError> {
    let names = folder::list(source)?;
    let manifest = match given {
        Some(manifest) => manifest,
        None if names.iter().any(|name| name.as_str() == MANIFEST_FILE) => read_manifest(source)?.0,
        None => made_up(source),
    };
    let path = source.join(MODEL_FILE);
    let model = folder::open(source, MODEL_FILE)?;
    let data = FolderData::beside(&path);
    let graph = Graph::read_from(&mut model.reader(), model.len(), &data)?;
    let weights: Vec<String> = data.into_files().into_iter().map(|(name, _)| name).collect();
    let others =
        names.into_iter().filter(|name| name.as_str() != MANIFEST_FILE && !weights.iter().any(|w| w == name.as_str()));
    let files = others.map(|name| Ok((name.clone(), folder::open(source, name.as_str())?)));
    let files = files.collect::<Result<Vec<_>, BundleError>>()?;
    Ok(Draft { manifest, graph, files: without_model(files) })
}

fn without_model(files: Vec<(FileName, Blob)>) -> BTreeMap<FileName, Blob> {
    files.into_iter().filter(|(name, _)| !matches!(name.as_str(), MODEL_FILE | WEIGHTS_FILE)).collect()
}

fn record(name: &FileName, blob: &Blob) -> Result<FileRecord, BundleError> {
    let sha256 = blob.digest().map_err(|error| BundleError::io(Path::new(name.as_str()), error))?;
    Ok(FileRecord { name: name.clone(), bytes: blob.len(), sha256 })
}

fn write_file(manifest: &Manifest, contents: &[Blob], out: &Path) -> io::Result<()> {
    let temporary = Temporary::beside(out)?;
    let mut writer = BufWriter::new(File::create_new(&temporary.path)?);
    container::write(manifest, contents, &mut writer)?;
    writer.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    temporary.rename(out)
}

fn write_folder(manifest: &Manifest, contents: &[Blob], out: &Path) -> io::Result<()> {
    if out.try_exists()? {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "it is there already; remove it, or name a .hedge file",
        ));
    }
    let temporary = Temporary::beside(out)?;
    fs::create_dir(&temporary.path)?;
    let write = |path: &Path, bytes: &[u8]| {
        let mut file = File::create_new(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write(&temporary.path.join(MANIFEST_FILE), &manifest.write())?;
    for (record, content) in manifest.files.iter().zip(contents) {
        let path = folder::path_of(&temporary.path, &record.name);
        fs::create_dir_all(path.parent().unwrap_or(&temporary.path))?;
        write(&path, &content.read()?)?;
    }
    temporary.rename(out)
}

/// A name beside the final one; what is there is removed if it was not renamed.
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    fn beside(out: &Path) -> io::Result<Self> {
        let no_name = || io::Error::new(io::ErrorKind::InvalidInput, "it has no file name");
        let name = out.file_name().ok_or_else(no_name)?.to_string_lossy();
        Ok(Temporary { path: out.with_file_name(format!(".{name}.{}.tmp", std::process::id())) })
    }

    fn rename(self, out: &Path) -> io::Result<()> {
        fs::rename(&self.path, out)?;
        sync_folder(out)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // It is gone where it was renamed. Else nothing more can be done than to try.
        let _ = if self.path.is_dir() { fs::remove_dir_all(&self.path) } else { fs::remove_file(&self.path) };
    }
}

/// Makes the new name durable, where the system lets a folder be synchronized.
fn sync_folder(out: &Path) -> io::Result<()> {
    if cfg!(not(unix)) {
        return Ok(());
    }
    let folder = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
