//! Where a model's external tensors come from: the files of a bundle, or files beside a bare model.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use hedge_graph::ExternalData;
use sha2::Digest as _;

use crate::Digest;
use crate::blob::Blob;
use crate::limits::{MAX_BUNDLE_BYTES, MAX_DATA_FILES};

/// The files of a bundle, whose digests are proven by [`BundleData::finish`].
pub(crate) struct BundleData<'a> {
    files: HashMap<&'a str, Mutex<Proven>>,
}

/// A file that is hashed while tensors are taken from it.
///
/// Tensors normally come in the file's order: then each is read once into a buffer of its own, hashed there, and lives as
/// long as its user needs it. A model that goes back in the file gets slices of all of it.
struct Proven {
    blob: Blob,
    expected: Digest,
    state: State,
    /// What was handed out, for tensors that share their bytes.
    handed: HashMap<(u64, u64), Bytes>,
}

enum State {
    InOrder { hasher: Box<sha2::Sha256>, position: u64 },
    Whole(Bytes),
}

impl<'a> BundleData<'a> {
    /// Takes (name, bytes, digest) of each file that tensors may lie in.
    pub(crate) fn new(files: impl Iterator<Item = (&'a str, Blob, Digest)>) -> Self {
        let files = files.map(|(name, blob, expected)| {
            let state = State::InOrder { hasher: Box::default(), position: 0 };
            (name, Mutex::new(Proven { blob, expected, state, handed: HashMap::new() }))
        });
        BundleData { files: files.collect() }
    }

    /// Hashes what is left of each file; gives the names of those that are not what they should be.
    pub(crate) fn finish(self) -> Vec<(&'a str, io::Result<()>)> {
        let finished = self.files.into_iter().map(|(name, file)| {
            let file = file.into_inner().unwrap_or_else(PoisonError::into_inner);
            (name, file.finish())
        });
        finished.filter(|(_, outcome)| outcome.is_err()).collect()
    }
}

impl ExternalData for BundleData<'_> {
    fn read(&self, location: &str, offset: u64, length: Option<u64>) -> Result<Bytes, String> {
        let file = self.files.get(location).ok_or_else(|| {
            format!("it is in the file {location:?}, which is not among the files of the bundle; pack it again")
        })?;
        lock(file).read(offset, length).map_err(|error| format!("the file {location:?}: {error}"))
    }
}

impl Proven {
    fn read(&mut self, offset: u64, length: Option<u64>) -> io::Result<Bytes> {
        let length = length.unwrap_or(self.blob.len().saturating_sub(offset));
        if let Some(bytes) = self.handed.get(&(offset, length)) {
            return Ok(bytes.clone());
        }
        let part = self.blob.part(offset, length).ok_or_else(outside)?;
        let bytes = match &mut self.state {
            State::InOrder { hasher, position } if offset >= *position => {
                let gap = self.blob.part(*position, offset - *position).ok_or_else(outside)?;
                gap.hash_into(hasher)?;
                let bytes = part.read()?;
                hasher.update(&bytes);
                *position = offset + length;
                bytes
            }
            State::InOrder { .. } => {
                let whole = self.blob.read()?;
                if Digest::of(&whole) != self.expected {
                    return Err(damaged());
                }
                self.state = State::Whole(whole.clone());
                slice(&whole, offset, length)?
            }
            State::Whole(whole) => slice(whole, offset, length)?,
        };
        self.handed.insert((offset, length), bytes.clone());
        Ok(bytes)
    }

    fn finish(self) -> io::Result<()> {
        let State::InOrder { mut hasher, position } = self.state else { return Ok(()) };
        let rest = self.blob.part(position, self.blob.len() - position).ok_or_else(outside)?;
        rest.hash_into(&mut hasher)?;
        if Digest(hasher.finalize().into()) == self.expected { Ok(()) } else { Err(damaged()) }
    }
}

/// Files beside a bare model, in its folder or below.
pub(crate) struct FolderData {
    folder: PathBuf,
    files: Mutex<HashMap<String, Beside>>,
}

struct Beside {
    blob: Blob,
    /// Bytes handed out so far, each range once: at most as many as the file has.
    taken: u64,
    handed: HashMap<(u64, u64), Bytes>,
}

impl FolderData {
    /// For the model at `path`.
    pub(crate) fn beside(path: &Path) -> Self {
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        FolderData { folder: folder.to_owned(), files: Mutex::default() }
    }

    /// The files that tensors were taken from, by their names.
    pub(crate) fn into_files(self) -> Vec<(String, Blob)> {
        let files = self.files.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut files: Vec<_> = files.into_iter().map(|(name, file)| (name, file.blob)).collect();
        files.sort_by(|a, b| a.0.cmp(&b.0));
        files
    }

    fn open(&self, location: &str) -> Result<Beside, String> {
        let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', ':', '\0']);
        if !location.split('/').all(plain) {
            return Err(format!("the path {location:?} may lead out of the model's folder"));
        }
        let fail = |error: io::Error| format!("the file {location:?} beside the model cannot be read: {error}");
        let folder = self.folder.canonicalize().map_err(fail)?;
        let path = folder.join(location).canonicalize().map_err(fail)?;
        if !path.starts_with(&folder) {
            return Err(format!(
                "the file {location:?} is a link out of the model's folder; put the file itself there"
            ));
        }
        // Opening a pipe would wait for its writer.
        if !std::fs::metadata(&path).map_err(fail)?.is_file() {
            return Err(format!("{location:?} beside the model is no file"));
        }
        let blob = std::fs::File::open(&path).and_then(Blob::of_file).map_err(fail)?;
        if blob.len() > MAX_BUNDLE_BYTES {
            return Err(format!("the file {location:?} has {} bytes; {MAX_BUNDLE_BYTES} are allowed", blob.len()));
        }
        Ok(Beside { blob, taken: 0, handed: HashMap::new() })
    }
}

impl ExternalData for FolderData {
    fn read(&self, location: &str, offset: u64, length: Option<u64>) -> Result<Bytes, String> {
        let mut files = lock(&self.files);
        if !files.contains_key(location) {
            if files.len() >= MAX_DATA_FILES {
                return Err(format!("the model's tensors lie in more than {MAX_DATA_FILES} files"));
            }
            files.insert(location.to_owned(), self.open(location)?);
        }
        let file = files.get_mut(location).expect("it was put there");
        file.read(offset, length).map_err(|error| format!("the file {location:?} beside the model: {error}"))
    }
}

impl Beside {
    fn read(&mut self, offset: u64, length: Option<u64>) -> io::Result<Bytes> {
        let length = length.unwrap_or(self.blob.len().saturating_sub(offset));
        if let Some(bytes) = self.handed.get(&(offset, length)) {
            return Ok(bytes.clone());
        }
        let part = self.blob.part(offset, length).ok_or_else(outside)?;
        // Ranges that overlap could ask for many times the file's size.
        self.taken = self.taken.saturating_add(length);
        if self.taken > self.blob.len() {
            return Err(io::Error::other("its tensors overlap; save the model again with onnx.save_model"));
        }
        let bytes = part.read()?;
        self.handed.insert((offset, length), bytes.clone());
        Ok(bytes)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn slice(whole: &Bytes, offset: u64, length: u64) -> io::Result<Bytes> {
    let end = offset.checked_add(length).filter(|end| *end <= whole.len() as u64).ok_or_else(outside)?;
    // Both are at most the length of what is in memory.
    Ok(whole.slice(offset as usize..end as usize))
}

fn outside() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it has fewer bytes than the model needs")
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "its bytes are not those that the manifest lists")
}
