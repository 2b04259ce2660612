//! Values found in the raw bytes of a database's files, whatever sled makes of them.
//!
//! sled writes keys and values as they are. So where its own structure is damaged, every value that is not itself damaged can
//! still be found by what it begins with ("hob1") and be trusted by its checksum, which covers its key. Old versions are
//! found as well: of a row the one with the highest serial counts.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use hedge_wire::RequestId;

use super::key::Key;
use super::part::{PART_BYTES, Part};
use super::row::{self, Account, HEADER, MAGIC, Record, Row};
use crate::tensors::array;

/// The longest value, without a row behind it: that is found by itself.
const MAX_VALUE: usize = HEADER + PART_BYTES;
/// Bytes searched at a time.
const CHUNK: usize = 1024 * 1024;
/// What a disk that fails loses at the least.
const PAGE: usize = 4096;

/// What was found.
#[derive(Default)]
pub(super) struct Found {
    files: Vec<PathBuf>,
    /// The newest row of each number.
    pub(super) rows: HashMap<u64, (Row, Account)>,
    /// Where a part lies: in which file, where, and how long its value is.
    parts: HashMap<(Key, RequestId), (usize, u64, usize)>,
}

impl Found {
    /// Searches a file, and what lies below a folder.
    pub(super) fn search(&mut self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            for file in fs::read_dir(path)? {
                self.search(&file?.path())?;
            }
            return Ok(());
        }
        let file = self.files.len();
        self.files.push(path.to_owned());
        each_value(&File::open(path)?, |at, value| self.take(file, at, value))
    }

    /// The value of a part of a row's body, if it was found. A number may have been another request's that was never accepted.
    pub(super) fn part(&self, row: &Row, key: &Key) -> io::Result<Option<Vec<u8>>> {
        let Some(&(file, at, length)) = self.parts.get(&(*key, row.id())) else { return Ok(None) };
        let mut value = vec![0; length];
        File::open(&self.files[file])?.read_exact_at(&mut value, at)?;
        Ok(Part::decode(&value).is_some().then_some(value))
    }

    fn take(&mut self, file: usize, at: u64, value: &[u8]) {
        if let Some(part) = Part::decode(value) {
            let key = Key::Part(part.side, part.number, part.part);
            self.parts.insert((key, part.id), (file, at, value.len()));
        } else if let Some(Record::Row(row, account)) = row::decode(value) {
            let newer = self.rows.get(&row.number).is_none_or(|(_, known)| known.serial < account.serial);
            if newer {
                self.rows.insert(row.number, (row, account));
            }
        }
    }
}

/// Visits everything that may be a value, with its place.
fn each_value(file: &File, mut visit: impl FnMut(u64, &[u8])) -> io::Result<()> {
    let (length, mut start) = (file.metadata()?.len(), 0);
    while start < length {
        let window = read_around(file, start, (length - start).min((CHUNK + MAX_VALUE) as u64) as usize);
        for at in 0..window.len().min(CHUNK) {
            if let Some(value) = value_at(&window[at..]) {
                visit(start + at as u64, value);
            }
        }
        start += CHUNK as u64;
    }
    Ok(())
}

/// Bytes of a file, with zeros for pages that cannot be read.
fn read_around(file: &File, start: u64, length: usize) -> Vec<u8> {
    let mut window = vec![0; length];
    if file.read_exact_at(&mut window, start).is_err() {
        for (page, bytes) in window.chunks_mut(PAGE).enumerate() {
            if file.read_exact_at(bytes, start + (page * PAGE) as u64).is_err() {
                bytes.fill(0);
            }
        }
    }
    window
}

fn value_at(bytes: &[u8]) -> Option<&[u8]> {
    if !bytes.starts_with(MAGIC) || bytes.len() < HEADER {
        return None;
    }
    let length = u32::from_le_bytes(array(&bytes[8..12])) as usize;
    bytes.get(..HEADER.checked_add(length)?).filter(|value| value.len() <= MAX_VALUE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::key::Side;
    use crate::outbox::part;
    use crate::outbox::row::{Body, How, State};
    use hedge_agent_core::outbox::{Expiry, ResultHead};
    use hedge_wire::{BootId, Digest};
    use std::time::Duration;
    use tempfile::TempDir;

    /// A row of the request of that id.
    fn row(id: u8) -> Row {
        let expiry = Expiry { boot: BootId(1), at: Duration::ZERO, left: Duration::ZERO };
        let (id, digest) = (RequestId::from_bytes([id; 16]), Digest([1; 32]));
        let head = ResultHead { id, digest, bytes: 0, fetched: false, expiry };
        Row { number: 0, state: State::Ended(head, How::Answered), body: Body::default() }
    }

    fn value(number: u64, length: usize) -> (Key, Vec<u8>) {
        part::cut(Side::Payload, number, RequestId::from_bytes([1; 16]), &vec![b'h'; length]).next().unwrap()
    }

    #[test]
    fn values_are_found_wherever_they_lie_and_damaged_ones_are_not() {
        let folder = TempDir::new().unwrap();
        let (mut content, mut keys) = (vec![b'o'; CHUNK - MAX_VALUE - 5], Vec::new());
        // Around the border between two chunks, and at the very end.
        for number in 0..6 {
            let (key, value) = value(number, 3000);
            content.extend_from_slice(&value);
            content.extend_from_slice(b"hobhob1ho");
            keys.push(key);
        }
        content.extend_from_slice(&value(9, PART_BYTES).1);
        let mut damaged = value(10, 100).1;
        damaged[50] ^= 1;
        content.extend_from_slice(&damaged);
        content.extend_from_slice(&value(11, 1).1);
        fs::write(folder.path().join("db"), &content).unwrap();
        let mut found = Found::default();
        found.search(folder.path()).unwrap();
        keys.extend([Key::Part(Side::Payload, 9, 0), Key::Part(Side::Payload, 11, 0)]);
        for key in keys {
            assert!(found.part(&row(1), &key).unwrap().is_some(), "{key:?}");
            assert_eq!(found.part(&row(2), &key).unwrap(), None, "another request's");
        }
        assert_eq!(found.part(&row(1), &Key::Part(Side::Payload, 10, 0)).unwrap(), None);
    }

    #[test]
    fn a_file_of_nothing_but_beginnings_is_searched_to_its_end() {
        let folder = TempDir::new().unwrap();
        let mut lie = b"hob1".repeat(1000);
        lie.extend_from_slice(&[255; 100]);
        fs::write(folder.path().join("db"), &lie).unwrap();
        let mut found = Found::default();
        found.search(folder.path()).unwrap();
        assert!(found.rows.is_empty() && found.parts.is_empty());
    }
}
