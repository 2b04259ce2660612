//! The `.hedge` file: a bundle's files in one, uncompressed, each where a page or a cache line may begin.
//!
//! ```text
//! offset  bytes
//! 0       8      magic: 89 "HEDGE" 0D 0A
//! 8       4      version, 1
//! 12      4      F: files beside the manifest
//! 16      8      bytes of this whole file
//! 24      8      M: bytes of the manifest
//! 32      32     SHA-256 of the manifest, which is the bundle's digest
//! 64      M      manifest.json
//! ..             zeros to the next multiple of 64
//!         256*F  table, one row a file in the order of the manifest's list:
//!                  0    8    offset in this file, a multiple of 64
//!                  8    8    bytes
//!                  16   32   SHA-256
//!                  48   208  name, UTF-8, filled with zeros
//!         ..     the files in the table's order, each at the next multiple of 64 behind the one before, zeros between
//! ```
//!
//! Integers are little-endian. The file ends with the last byte of the last entry. Nothing in it can be otherwise: offsets follow
//! from sizes, the table from the manifest, gaps are zero; so a reader compares instead of trusting, and the same bundle
//! always has the same bytes. The table repeats the manifest for programs that read no JSON.

use std::io::{self, Write};

use bytes::Bytes;
use thiserror::Error;

use crate::blob::Blob;
use crate::limits::{MAX_BUNDLE_BYTES, MAX_FILES, MAX_MANIFEST_BYTES};
use crate::manifest::{FileRecord, Manifest};
use crate::{Digest, ManifestError};

/// The first bytes of a `.hedge` file. The high bit and the line end show a transfer as text (as in PNG, RFC 2083, 12.11).
pub const MAGIC: [u8; 8] = *b"\x89HEDGE\r\n";
/// The version of the file that this program reads and writes.
pub const VERSION: u32 = 1;

const HEADER_BYTES: u64 = 64;
const ROW_BYTES: u64 = 256;
const ALIGNMENT: u64 = 64;
/// Where a row's name begins.
const NAME_AT: usize = 48;

/// A `.hedge` file that is not what it must be.
#[derive(Debug, Error)]
pub enum ContainerError {
    /// Another file.
    #[error("it is no bundle: its first bytes are not those of a .hedge file")]
    NotABundle,
    /// A newer file.
    #[error("it is a bundle of version {0}, this program reads version {VERSION}; install a newer one")]
    Version(u32),
    /// Bytes are missing at the end, or there are more.
    #[error("it has {actual} bytes, but should have {expected}; it was cut off or added to: copy it again")]
    Length {
        /// What there is.
        actual: u64,
        /// What there should be.
        expected: u64,
    },
    /// A count or size beyond its bound.
    #[error("its header declares {count} {what}; {most} are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: u64,
        /// The bound.
        most: u64,
    },
    /// Bytes are not what they were when the bundle was made.
    #[error("{0} is damaged; copy the bundle again from where it came from")]
    Damaged(String),
    /// The manifest cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// An opened `.hedge` file, whose structure, manifest and gaps were checked, but not its entries' digests.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) manifest: Manifest,
    pub(crate) digest: Digest,
    /// Where each of the manifest's files is, in its order.
    pub(crate) entries: Vec<Blob>,
}

impl Container {
    /// Reads header, manifest and table.
    pub(crate) fn open(file: &Blob) -> Result<Self, ContainerError> {
        let header = Header::read(file)?;
        let json = read(file, HEADER_BYTES, header.manifest_bytes)?;
        if Digest::of(&json) != header.digest {
            return Err(ContainerError::Damaged("its manifest".into()));
        }
        let manifest = Manifest::read(&json)?;
        let layout = Layout::of(header.manifest_bytes, &manifest.files);
        if manifest.files.len() as u64 != u64::from(header.files) || layout.end != file.len() {
            return Err(ContainerError::Length { actual: file.len(), expected: layout.end });
        }
        let table_bytes = manifest.files.len() as u64 * ROW_BYTES;
        let table = read(file, layout.table, table_bytes)?;
        check_table(&table, &manifest.files, &layout.offsets)?;
        check_gaps(file, &layout, &manifest.files)?;
        let entries =
            manifest.files.iter().zip(&layout.offsets).map(|(entry, &offset)| part(file, offset, entry.bytes));
        let entries = entries.collect::<Result<_, _>>()?;
        Ok(Container { manifest, digest: header.digest, entries })
    }
}

/// Writes a `.hedge` file. `manifest` lists the files that `contents` holds, in the same order and with their sizes.
pub(crate) fn write(manifest: &Manifest, contents: &[Blob], out: &mut dyn Write) -> io::Result<()> {
    let json = manifest.write();
    let layout = Layout::of(json.len() as u64, &manifest.files);
    let mut position = 0;
    let mut put = |offset: u64, bytes: &[u8]| {
        let gap = usize::try_from(offset - position).expect("offsets rise by less than 64 at a time");
        position = offset + bytes.len() as u64;
        out.write_all(&[0; ALIGNMENT as usize][..gap])?;
        out.write_all(bytes)
    };
    put(0, &header(&json, manifest.files.len(), layout.end))?;
    put(HEADER_BYTES, &json)?;
    put(layout.table, &table(&manifest.files, &layout.offsets))?;
    for (content, &offset) in contents.iter().zip(&layout.offsets) {
        put(offset, &content.read()?)?;
    }
    Ok(())
}

/// Where everything is; follows from sizes alone.
struct Layout {
    manifest_end: u64,
    table: u64,
    offsets: Vec<u64>,
    end: u64,
}

impl Layout {
    /// Sizes were bounded by [`Manifest::check`], so that sums do not overflow.
    fn of(manifest_bytes: u64, files: &[FileRecord]) -> Self {
        let manifest_end = HEADER_BYTES + manifest_bytes;
        let table = manifest_end.next_multiple_of(ALIGNMENT);
        let mut end = table + files.len() as u64 * ROW_BYTES;
        let mut offsets = Vec::with_capacity(files.len());
        for file in files {
            let offset = end.next_multiple_of(ALIGNMENT);
            offsets.push(offset);
            end = offset + file.bytes;
        }
        Layout { manifest_end, table, offsets, end }
    }
}

struct Header {
    files: u32,
    manifest_bytes: u64,
    digest: Digest,
}

impl Header {
    fn read(file: &Blob) -> Result<Self, ContainerError> {
        let magic = read(file, 0, MAGIC.len() as u64).map_err(|_| ContainerError::NotABundle)?;
        if *magic != MAGIC {
            return Err(ContainerError::NotABundle);
        }
        let bytes = read(file, 0, HEADER_BYTES)?;
        let version = number32(&bytes, 8);
        if version != VERSION {
            return Err(ContainerError::Version(version));
        }
        let (files, expected, manifest_bytes) = (number32(&bytes, 12), number64(&bytes, 16), number64(&bytes, 24));
        at_most("files", u64::from(files), MAX_FILES as u64)?;
        at_most("bytes of manifest", manifest_bytes, MAX_MANIFEST_BYTES)?;
        at_most("bytes", expected, MAX_BUNDLE_BYTES + MAX_MANIFEST_BYTES + MAX_FILES as u64 * (ROW_BYTES + ALIGNMENT))?;
        if expected != file.len() {
            return Err(ContainerError::Length { actual: file.len(), expected });
        }
        let digest = bytes[32..64].try_into().expect("a header has 64 bytes");
        Ok(Header { files, manifest_bytes, digest: Digest(digest) })
    }
}

fn header(json: &[u8], files: usize, end: u64) -> Vec<u8> {
    let files = u32::try_from(files).expect("a checked manifest has at most 1024 files");
    let (version, files) = (VERSION.to_le_bytes(), files.to_le_bytes());
    let (end, length) = (end.to_le_bytes(), (json.len() as u64).to_le_bytes());
    [&MAGIC[..], &version, &files, &end, &length, &Digest::of(json).0].concat()
}

fn table(files: &[FileRecord], offsets: &[u64]) -> Vec<u8> {
    files.iter().zip(offsets).flat_map(|(file, &offset)| row(file, offset)).collect()
}

fn row(file: &FileRecord, offset: u64) -> [u8; ROW_BYTES as usize] {
    let mut row = [0; ROW_BYTES as usize];
    row[..8].copy_from_slice(&offset.to_le_bytes());
    row[8..16].copy_from_slice(&file.bytes.to_le_bytes());
    row[16..NAME_AT].copy_from_slice(&file.sha256.0);
    let name = file.name.as_str().as_bytes();
    row[NAME_AT..NAME_AT + name.len()].copy_from_slice(name);
    row
}

fn check_table(table: &[u8], files: &[FileRecord], offsets: &[u64]) -> Result<(), ContainerError> {
    let rows = table.chunks_exact(ROW_BYTES as usize);
    for (found, (file, &offset)) in rows.zip(files.iter().zip(offsets)) {
        let expected = row(file, offset);
        let name = &file.name;
        let differs = |part: std::ops::Range<usize>| found[part.clone()] != expected[part];
        let why = if differs(0..8) {
            format!("its table: {name} should begin at {offset}, not at {}", number64(found, 0))
        } else if differs(8..16) {
            format!("its table: {name} should have {} bytes, not {}", file.bytes, number64(found, 8))
        } else if differs(16..NAME_AT) {
            format!("its table: {name} has another digest than in the manifest")
        } else if differs(NAME_AT..found.len()) {
            format!("its table: another name stands where {name} should")
        } else {
            continue;
        };
        return Err(ContainerError::Damaged(why));
    }
    Ok(())
}

fn check_gaps(file: &Blob, layout: &Layout, files: &[FileRecord]) -> Result<(), ContainerError> {
    let table_end = layout.table + files.len() as u64 * ROW_BYTES;
    let ends = layout.offsets.iter().zip(files).map(|(offset, file)| offset + file.bytes);
    let starts: Vec<u64> = std::iter::once(layout.table).chain(layout.offsets.iter().copied()).collect();
    let ends = [layout.manifest_end, table_end].into_iter().chain(ends);
    for (end, start) in ends.zip(starts) {
        if read(file, end, start - end)?.iter().any(|&byte| byte != 0) {
            return Err(ContainerError::Damaged(format!("the gap before byte {start}")));
        }
    }
    Ok(())
}

fn part(file: &Blob, offset: u64, bytes: u64) -> Result<Blob, ContainerError> {
    let missing = || ContainerError::Length { actual: file.len(), expected: offset.saturating_add(bytes) };
    file.part(offset, bytes).ok_or_else(missing)
}

fn read(file: &Blob, offset: u64, bytes: u64) -> Result<Bytes, ContainerError> {
    Ok(part(file, offset, bytes)?.read()?)
}

fn at_most(what: &'static str, count: u64, most: u64) -> Result<(), ContainerError> {
    if count > most { Err(ContainerError::TooMany { what, count, most }) } else { Ok(()) }
}

fn number32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn number64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests;
