//! A run of bytes in a file or in memory, read in parts.
//!
//! Memory for a part is taken only after the file's own size has shown that the part is there.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use sha2::Digest as _;

use crate::Digest;

/// How parts of a file are aligned in memory, in bytes: what vector instructions and caches like.
pub(crate) const ALIGNMENT: usize = 64;
/// Bytes hashed at a time.
const CHUNK: u64 = 256 << 10;

/// Bytes somewhere. It has the length that it was made with, which its maker compared with what is there.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    place: Place,
    bytes: u64,
}

#[derive(Clone, Debug)]
enum Place {
    File { file: Arc<File>, start: u64 },
    Memory(Bytes),
}

impl Blob {
    /// A whole open file.
    pub(crate) fn of_file(file: File) -> io::Result<Self> {
        let bytes = file.metadata()?.len();
        Ok(Blob { place: Place::File { file: Arc::new(file), start: 0 }, bytes })
    }

    /// Bytes in memory.
    pub(crate) fn of_bytes(bytes: Bytes) -> Self {
        Blob { bytes: bytes.len() as u64, place: Place::Memory(bytes) }
    }

    /// How many bytes.
    pub(crate) fn len(&self) -> u64 {
        self.bytes
    }

    /// The part of `bytes` bytes at `offset`; `None` where it is not inside.
    pub(crate) fn part(&self, offset: u64, bytes: u64) -> Option<Blob> {
        let end = offset.checked_add(bytes).filter(|end| *end <= self.bytes)?;
        let place = match &self.place {
            Place::File { file, start } => Place::File { file: Arc::clone(file), start: start + offset },
            Place::Memory(memory) => {
                Place::Memory(memory.slice(usize::try_from(offset).ok()?..usize::try_from(end).ok()?))
            }
        };
        Some(Blob { place, bytes })
    }

    /// All of it: a slice of what is in memory, or one aligned read.
    pub(crate) fn read(&self) -> io::Result<Bytes> {
        match &self.place {
            Place::Memory(bytes) => Ok(bytes.clone()),
            Place::File { .. } => read_aligned(&mut self.reader(), self.bytes),
        }
    }

    /// A reader from the beginning, with a position of its own.
    pub(crate) fn reader(&self) -> Box<dyn Read + '_> {
        match &self.place {
            Place::Memory(bytes) => Box::new(bytes.as_ref()),
            Place::File { file, start } => Box::new(FileReader { file, position: *start }.take(self.bytes)),
        }
    }

    /// Adds all of it to `hasher`.
    pub(crate) fn hash_into(&self, hasher: &mut sha2::Sha256) -> io::Result<()> {
        if let Place::Memory(bytes) = &self.place {
            hasher.update(bytes);
            return Ok(());
        }
        let mut reader = self.reader();
        let mut chunk = Vec::new();
        let mut left = self.bytes;
        while left > 0 {
            chunk.clear();
            let read = reader.by_ref().take(CHUNK).read_to_end(&mut chunk)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            hasher.update(&chunk);
            left = left.saturating_sub(read as u64);
        }
        Ok(())
    }

    /// Its SHA-256.
    pub(crate) fn digest(&self) -> io::Result<Digest> {
        let mut hasher = sha2::Sha256::new();
        self.hash_into(&mut hasher)?;
        Ok(Digest(hasher.finalize().into()))
    }

    /// Whether it is in memory, so that parts of it cost nothing.
    pub(crate) fn is_memory(&self) -> bool {
        matches!(self.place, Place::Memory(_))
    }
}

/// Reads a file without moving the position that its handle has.
struct FileReader<'a> {
    file: &'a File,
    position: u64,
}

impl Read for FileReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        #[cfg(unix)]
        let read = std::os::unix::fs::FileExt::read_at(self.file, buffer, self.position)?;
        #[cfg(windows)]
        let read = std::os::windows::fs::FileExt::seek_read(self.file, buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

fn read_aligned(reader: &mut dyn Read, bytes: u64) -> io::Result<Bytes> {
    let too_large = || io::Error::from(io::ErrorKind::OutOfMemory);
    let count = usize::try_from(bytes).map_err(|_| too_large())?;
    let mut buffer: Vec<u8> = Vec::new();
    buffer.try_reserve_exact(count.checked_add(ALIGNMENT).ok_or_else(too_large)?).map_err(|_| too_large())?;
    let padding = buffer.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT - 1);
    buffer.resize(padding, 0);
    if reader.take(bytes).read_to_end(&mut buffer)? < count {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Bytes::from(buffer).slice(padding..))
}

/// A reader that hashes what passes.
pub(crate) struct Hashing<R> {
    inner: R,
    hasher: sha2::Sha256,
}

impl<R: Read> Hashing<R> {
    pub(crate) fn new(inner: R) -> Self {
        Hashing { inner, hasher: sha2::Sha256::new() }
    }

    /// Reads what is left and gives the digest of all.
    pub(crate) fn finish(mut self) -> io::Result<Digest> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(Digest(self.hasher.finalize().into()))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}
