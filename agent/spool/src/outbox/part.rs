//! Payloads and answers of up to 64 KiB, cut into parts.
//!
//! ```text
//! offset  size  field                                    integers little-endian
//!      0     4  "hob1"
//!      4     1  kind: 4 of a payload, 5 of an answer
//!      5     1  0
//!      6     2  part, from 0
//!      8     4  bytes after these 40, at most 4096
//!     12     4  CRC32C of the key, then of this value with these four bytes left out
//!     16     8  number
//!     24    16  request id
//!     40        the bytes
//! ```
//!
//! Behind the last part of a payload, in the same value, is the row of its request as it was accepted (row.rs): of that row and
//! the one under the row's own key the one with the higher serial counts.
//!
//! They are cut because sled 0.34 writes pages above 128 KiB into files of their own, which it syncs never and removes where
//! its log ends early. A page holds some twenty values, so with 4 KiB each none becomes as large.

use bytes::BufMut as _;
use hedge_wire::RequestId;

use super::key::{Key, Side};
use super::row::{HEADER, MAGIC, ROW, checksum, seal};
use crate::tensors::array;

/// The largest payload or answer that lies in the database; larger ones are files.
pub const INLINE_BYTES: usize = 64 * 1024;
/// The most bytes of a part.
pub(super) const PART_BYTES: usize = 4096;

const PAYLOAD: u8 = 4;
const ANSWER: u8 = 5;

/// A checked part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Part<'a> {
    pub(super) side: Side,
    pub(super) number: u64,
    pub(super) part: u16,
    pub(super) id: RequestId,
    pub(super) bytes: &'a [u8],
}

/// How many parts a body of that length has.
pub(super) fn count(length: u64) -> u16 {
    u16::try_from(length.div_ceil(PART_BYTES as u64)).unwrap_or(u16::MAX)
}

/// A value as the part that it begins with, and the row behind it if there is one. Neither is checked.
pub(super) fn split(value: &[u8]) -> (&[u8], Option<&[u8]>) {
    let length = value.get(8..12).map_or(0, |bytes| u32::from_le_bytes(array(bytes)) as usize);
    match value.split_at_checked(HEADER.saturating_add(length)) {
        Some((part, row)) if !row.is_empty() => (part, Some(row)),
        _ => (value, None),
    }
}

/// The parts of a body, with their keys.
pub(super) fn cut(side: Side, number: u64, id: RequestId, body: &[u8]) -> impl Iterator<Item = (Key, Vec<u8>)> {
    let parts = body.chunks(PART_BYTES).zip(0_u16..);
    parts.map(move |(bytes, part)| {
        let key = Key::Part(side, number, part);
        (key, Part { side, number, part, id, bytes }.encode(&key))
    })
}

impl<'a> Part<'a> {
    fn encode(&self, key: &Key) -> Vec<u8> {
        // With room for a row behind it.
        let mut out = Vec::with_capacity(HEADER + self.bytes.len() + ROW);
        out.put_slice(MAGIC);
        out.put_u8(if self.side == Side::Payload { PAYLOAD } else { ANSWER });
        out.put_u8(0);
        out.put_u16_le(self.part);
        out.put_u32_le(self.bytes.len() as u32);
        out.put_u32_le(0);
        out.put_u64_le(self.number);
        out.put_slice(self.id.as_bytes());
        out.put_slice(self.bytes);
        seal(key, &mut out);
        out
    }

    /// A value as a part; none if it is damaged.
    pub(super) fn decode(value: &'a [u8]) -> Option<Self> {
        if value.len() < HEADER || value[..4] != *MAGIC || value[5] != 0 {
            return None;
        }
        let side = match value[4] {
            PAYLOAD => Side::Payload,
            ANSWER => Side::Answer,
            _ => return None,
        };
        let part = u16::from_le_bytes(array(&value[6..8]));
        let number = u64::from_le_bytes(array(&value[16..24]));
        let bytes = &value[HEADER..];
        let sound = bytes.len() <= PART_BYTES && value[8..12] == (bytes.len() as u32).to_le_bytes();
        if !sound || value[12..16] != checksum(&Key::Part(side, number, part), value).to_le_bytes() {
            return None;
        }
        Some(Self { side, number, part, id: RequestId::from_bytes(array(&value[24..40])), bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> RequestId {
        RequestId::from_bytes([7; 16])
    }

    fn cut_all(body: &[u8]) -> Vec<(Key, Vec<u8>)> {
        cut(Side::Payload, 3, id(), body).collect()
    }

    #[test]
    fn a_body_is_its_parts_in_order() {
        for length in [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, INLINE_BYTES] {
            let body: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let parts = cut_all(&body);
            assert_eq!(parts.len(), usize::from(count(length as u64)), "{length}");
            let mut whole = Vec::new();
            for (at, (key, value)) in parts.iter().enumerate() {
                let part = Part::decode(value).unwrap();
                assert_eq!(*key, Key::Part(Side::Payload, 3, at as u16));
                whole.extend_from_slice(part.bytes);
            }
            assert_eq!(whole, body);
        }
    }

    #[test]
    fn a_value_is_a_part_and_perhaps_a_row() {
        let value = cut_all(b"some bytes").remove(0).1;
        assert_eq!(split(&value), (&value[..], None));
        let with_row = [&value[..], b"row"].concat();
        assert_eq!(split(&with_row), (&value[..], Some(&b"row"[..])));
        for length in 0..value.len() {
            assert_eq!(split(&value[..length]), (&value[..length], None), "{length} bytes");
        }
        let mut lie = value.clone();
        lie[8..12].fill(255);
        assert_eq!(split(&lie), (&lie[..], None));
    }

    #[test]
    fn the_layout_is_the_one_drawn_above() {
        let mut golden = b"hob1".to_vec();
        golden.extend_from_slice(&[4, 0, 0, 0, 2, 0, 0, 0]);
        golden.extend_from_slice(&GOLDEN_CRC);
        golden.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&[7; 16]);
        golden.extend_from_slice(&[8, 9]);
        assert_eq!(cut_all(&[8, 9])[0].1, golden);
    }

    #[test]
    fn a_truncated_flipped_or_longer_part_is_damage() {
        let value = cut_all(b"some bytes").remove(0).1;
        for length in 0..value.len() {
            assert_eq!(Part::decode(&value[..length]), None, "{length} bytes");
        }
        for bit in 0..value.len() * 8 {
            let mut flipped = value.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Part::decode(&flipped), None, "bit {bit}");
        }
        assert_eq!(Part::decode(&[&value[..], &[0]].concat()), None);
        let oversized = Part { side: Side::Answer, number: 0, part: 0, id: id(), bytes: &[0; PART_BYTES + 1] };
        assert_eq!(Part::decode(&oversized.encode(&Key::Part(Side::Answer, 0, 0))), None);
    }

    // CRC-32C of the key and the value drawn above, from an implementation of its own.
    const GOLDEN_CRC: [u8; 4] = [101, 237, 21, 45];
}
