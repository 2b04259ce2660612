//! The bytes of a half of the journal: a header, then entries, each chained to the one before it.
//!
//! ```text
//! offset  size  header                                   integers little-endian
//!      0     4  "hoj1"; a half that begins otherwise is empty
//!      4     4  CRC32C of the generation
//!      8     8  generation: of two halves the one with the higher is the newer
//!
//! offset  size  entry
//!      0     4  CRC32C of the checksum before it (the header's, then each entry's) and of what follows
//!      4     4  bytes of the value; 0xFFFFFFFF: the key is removed
//!      8     1  bytes of the key
//!      9        key (key.rs), value (row.rs, part.rs)
//! ```
//!
//! The chain ends where the last whole entry ends, whatever lies behind it: a half is written over without being cleared, and what an
//! earlier generation left is no part of this one.

use std::io::{self, Read};

use bytes::BufMut as _;

use super::super::key::Key;
use super::super::part::PART_BYTES;
use super::super::row::{HEADER, ROW};
use crate::tensors::array;

const MAGIC: &[u8; 4] = b"hoj1";
/// Bytes of the header of a half.
pub(super) const HALF_HEADER: usize = 16;
/// Bytes of an entry before its key.
const FIXED: usize = 9;
/// The most bytes of an entry before its value.
pub(super) const ENTRY_HEAD: usize = FIXED + 11;
const REMOVED: u32 = u32::MAX;
/// The longest value: a part, and a row behind it.
const MAX_VALUE: usize = HEADER + PART_BYTES + ROW;

/// A change of one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::outbox) struct Entry {
    pub(in crate::outbox) key: Key,
    /// None: the key is removed.
    pub(in crate::outbox) value: Option<Vec<u8>>,
    /// Where the value lies, or would.
    pub(super) at: u64,
}

/// The header of a half, and the checksum that its first entry is chained to.
pub(super) fn header(generation: u64) -> ([u8; HALF_HEADER], u32) {
    let chain = crc32c::crc32c(&generation.to_le_bytes());
    let mut out = [0; HALF_HEADER];
    out[..4].copy_from_slice(MAGIC);
    out[4..8].copy_from_slice(&chain.to_le_bytes());
    out[8..].copy_from_slice(&generation.to_le_bytes());
    (out, chain)
}

/// Appends an entry and says where in `out` its value begins, and what the next one is chained to.
pub(super) fn put(out: &mut Vec<u8>, chain: u32, key: &Key, value: Option<&[u8]>) -> (usize, u32) {
    let (begin, key) = (out.len(), key.bytes());
    out.put_u32_le(0);
    out.put_u32_le(value.map_or(REMOVED, |value| value.len() as u32));
    out.put_u8(key.len() as u8);
    out.put_slice(&key);
    let at = out.len();
    out.put_slice(value.unwrap_or_default());
    let chain = checksum(chain, &out[begin + 4..]);
    out[begin..begin + 4].copy_from_slice(&chain.to_le_bytes());
    (at, chain)
}

/// The entries of a half, as far as they are sound.
pub(super) struct Entries<R> {
    reader: R,
    generation: u64,
    chain: u32,
    at: u64,
    ended: bool,
}

impl<R: Read> Entries<R> {
    /// Of a half that is read from its beginning; none if it is empty.
    pub(super) fn of(mut reader: R) -> Option<Self> {
        let mut bytes = [0; HALF_HEADER];
        reader.read_exact(&mut bytes).ok()?;
        let generation = u64::from_le_bytes(array(&bytes[8..]));
        let (expected, chain) = header(generation);
        (bytes == expected).then_some(Self { reader, generation, chain, at: HALF_HEADER as u64, ended: false })
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Where the sound entries read so far end, and what the next one is chained to.
    pub(super) fn end(&self) -> (u64, u32) {
        (self.at, self.chain)
    }

    /// The next entry; none where nothing sound follows.
    fn read(&mut self) -> io::Result<Option<Entry>> {
        let mut fixed = [0; FIXED];
        self.reader.read_exact(&mut fixed)?;
        let (length, key_bytes) = (u32::from_le_bytes(array(&fixed[4..8])), usize::from(fixed[8]));
        let value_bytes = if length == REMOVED { 0 } else { length as usize };
        if value_bytes > MAX_VALUE {
            return Ok(None);
        }
        let mut rest = vec![0; key_bytes + value_bytes];
        self.reader.read_exact(&mut rest)?;
        let chain = crc32c::crc32c_append(checksum(self.chain, &fixed[4..]), &rest);
        let Some(key) = Key::parse(&rest[..key_bytes]).filter(|_| fixed[..4] == chain.to_le_bytes()) else {
            return Ok(None);
        };
        let at = self.at + (FIXED + key_bytes) as u64;
        (self.at, self.chain) = (at + value_bytes as u64, chain);
        let value = (length != REMOVED).then(|| rest.split_off(key_bytes));
        Ok(Some(Entry { key, value, at }))
    }
}

/// Bytes that cannot be read end it as bytes that are not sound do: what must be there is known elsewhere.
impl<R: Read> Iterator for Entries<R> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        let next = if self.ended { None } else { self.read().ok().flatten() };
        self.ended = next.is_none();
        next
    }
}

fn checksum(chain: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&chain.to_le_bytes()), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::key::Side;

    fn keys() -> [(Key, Option<Vec<u8>>); 4] {
        let part = Key::Part(Side::Payload, 7, 1);
        [(part, Some(vec![5; MAX_VALUE])), (Key::Row(7), Some(vec![6])), (Key::Account, Some(Vec::new())), (part, None)]
    }

    /// A half, and where its entries end.
    fn half(generation: u64) -> (Vec<u8>, Vec<usize>) {
        let (header, mut chain) = header(generation);
        let mut out = header.to_vec();
        let mut ends = vec![out.len()];
        for (key, value) in keys() {
            chain = put(&mut out, chain, &key, value.as_deref()).1;
            ends.push(out.len());
        }
        (out, ends)
    }

    fn read(bytes: &[u8]) -> Vec<Entry> {
        Entries::of(bytes).into_iter().flatten().collect()
    }

    #[test]
    fn what_was_written_is_read_and_where_it_ends_is_known() {
        let (bytes, ends) = half(9);
        let mut entries = Entries::of(&bytes[..]).unwrap();
        assert_eq!(entries.generation(), 9);
        for ((key, value), end) in keys().into_iter().zip(&ends[1..]) {
            let entry = entries.next().unwrap();
            assert_eq!(entry.at as usize + value.as_ref().map_or(0, Vec::len), *end);
            assert_eq!((entry.key, entry.value), (key, value));
            assert_eq!(entries.end().0 as usize, *end);
        }
        assert_eq!(entries.next(), None);
    }

    #[test]
    fn a_torn_half_is_its_whole_entries_and_a_flipped_bit_ends_it_before_its_entry() {
        let (bytes, ends) = half(9);
        let whole = |length: usize| ends.iter().filter(|&&end| end <= length).count().saturating_sub(1);
        for length in 0..bytes.len() {
            assert_eq!(read(&bytes[..length]).len(), whole(length), "{length} bytes");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&flipped).len(), whole(bit / 8), "bit {bit}");
        }
    }

    #[test]
    fn what_an_earlier_generation_left_is_no_part_of_a_half() {
        let (mut bytes, ends) = half(9);
        let (newer, _) = half(10);
        for (whole, &end) in ends.iter().enumerate() {
            bytes[..end].copy_from_slice(&newer[..end]);
            assert_eq!(read(&bytes).len(), whole, "{end} bytes of the newer one");
        }
        assert!(read(&[0; 4096]).is_empty() && read(b"").is_empty());
    }

    #[test]
    fn the_layout_is_the_one_drawn_above() {
        let (header, chain) = header(0x0102_0304);
        assert_eq!(header, *[b"hoj1", &HEADER_CRC[..], &[4, 3, 2, 1, 0, 0, 0, 0]].concat());
        let mut out = Vec::new();
        let (_, chain) = put(&mut out, chain, &Key::Account, Some(&[8, 9]));
        put(&mut out, chain, &Key::Account, None);
        let mut golden = FIRST_CRC.to_vec();
        golden.extend_from_slice(&[2, 0, 0, 0, 1, 0, 8, 9]);
        golden.extend_from_slice(&SECOND_CRC);
        golden.extend_from_slice(&[255, 255, 255, 255, 1, 0]);
        assert_eq!(out, golden);
    }

    // CRC-32C of what is drawn above, from an implementation of its own.
    const HEADER_CRC: [u8; 4] = [208, 138, 173, 246];
    const FIRST_CRC: [u8; 4] = [153, 187, 198, 68];
    const SECOND_CRC: [u8; 4] = [16, 110, 23, 248];
}
