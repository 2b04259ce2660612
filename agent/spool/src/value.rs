//! The bytes of one cached result.
//!
//! ```text
//! offset  size  field                                    integers little-endian
//!      0     1  version = 1
//!      1     1  flags: bit 0 = the score is present; other bits 0
//!      2     2  number of outputs
//!      4     4  CRC32C of the key's 32 bytes followed by this value with these four bytes left out
//!      8     8  stored at: trusted seconds since 1970 (clock.rs)
//!     16     8  sequence: the order of insertion, dense from 0
//!     24     4  score: f32, 0 when absent
//!     28        the outputs, each as tensors.rs draws it
//! ```
//!
//! The checksum covers the key: sled can return a value under the wrong key after damage. A value of another version or
//! with a wrong checksum is damage like any other: a miss.

use bytes::Bytes;
use hedge_tensor::NamedTensor;

use crate::key::Key;
use crate::tensors::{self, array};

/// The largest value that is kept; larger results are not cached.
pub const MAX_VALUE_BYTES: usize = 64 * 1024;

const VERSION: u8 = 1;
const HAS_SCORE: u8 = 1;
const CRC: std::ops::Range<usize> = 4..8;
const STORED_AT: std::ops::Range<usize> = 8..16;
const SEQUENCE: std::ops::Range<usize> = 16..24;
const SCORE: std::ops::Range<usize> = 24..28;
const HEADER: usize = 28;

/// One cached result: the outputs of one row and, for a local one, the score that was computed from them.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// The outputs, leading dimension 1.
    pub outputs: Vec<NamedTensor>,
    /// The score of a local result; none for a model without scores and for a cloud verdict.
    pub score: Option<f32>,
}

/// What the header of a checked value says, without its outputs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) stored_at: u64,
    pub(crate) sequence: u64,
}

/// The bytes of `entry` under `key`; `None` if it cannot be represented within [`MAX_VALUE_BYTES`].
pub(crate) fn encode(key: &Key, entry: &Entry, header: Header) -> Option<Vec<u8>> {
    let mut out = vec![0; HEADER];
    out[0] = VERSION;
    out[1] = if entry.score.is_some() { HAS_SCORE } else { 0 };
    out[2..4].copy_from_slice(&u16::try_from(entry.outputs.len()).ok()?.to_le_bytes());
    out[STORED_AT].copy_from_slice(&header.stored_at.to_le_bytes());
    out[SEQUENCE].copy_from_slice(&header.sequence.to_le_bytes());
    out[SCORE].copy_from_slice(&entry.score.unwrap_or(0.0).to_le_bytes());
    for output in &entry.outputs {
        tensors::put(&mut out, output, MAX_VALUE_BYTES)?;
    }
    let crc = checksum(key, &out);
    out[CRC].copy_from_slice(&crc.to_le_bytes());
    Some(out)
}

/// The header of a value, if its checksum and version are right.
pub(crate) fn check(key: &Key, value: &[u8]) -> Option<Header> {
    let stored = array(value.get(CRC)?);
    if value.len() < HEADER
        || value.len() > MAX_VALUE_BYTES
        || value[0] != VERSION
        || u32::from_le_bytes(stored) != checksum(key, value)
    {
        return None;
    }
    Some(Header {
        stored_at: u64::from_le_bytes(array(&value[STORED_AT])),
        sequence: u64::from_le_bytes(array(&value[SEQUENCE])),
    })
}

/// The entry in a value; `None` if it is damaged.
pub(crate) fn decode(key: &Key, value: &[u8]) -> Option<Entry> {
    check(key, value)?;
    let score = (value[1] & HAS_SCORE != 0).then(|| f32::from_le_bytes(array(&value[SCORE])));
    let count = u16::from_le_bytes(array(&value[2..4]));
    // One copy for all outputs; the tensors share it.
    let mut rest = Bytes::copy_from_slice(&value[HEADER..]);
    let mut outputs = Vec::new();
    for _ in 0..count {
        outputs.push(tensors::take(&mut rest)?);
    }
    rest.is_empty().then_some(Entry { outputs, score })
}

fn checksum(key: &Key, value: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&key.0), &value[..CRC.start]);
    crc32c::crc32c_append(crc, &value[CRC.end..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use hedge_tensor::{DType, Tensor};

    const KEY: Key = Key([7; 32]);
    const AT: Header = Header { stored_at: 1_700_000_000, sequence: 3 };

    fn entry() -> Entry {
        let logits = Tensor::from_slice(&[1, 3], &[0.5_f32, -1.0, 2.0]).unwrap();
        let label = Tensor::from_slice(&[1], &[2_i64]).unwrap();
        Entry { outputs: vec![NamedTensor::new("logits", logits), NamedTensor::new("l", label)], score: Some(0.75) }
    }

    #[test]
    fn an_entry_survives_the_round_trip() {
        let bytes = encode(&KEY, &entry(), AT).unwrap();
        assert_eq!(check(&KEY, &bytes), Some(AT));
        assert_eq!(decode(&KEY, &bytes), Some(entry()));
        let bare = Entry { outputs: vec![], score: None };
        assert_eq!(decode(&KEY, &encode(&KEY, &bare, AT).unwrap()), Some(bare));
    }

    #[test]
    fn the_layout_is_the_one_drawn_above() {
        let logit = Tensor::from_slice(&[1, 1], &[1.0_f32]).unwrap();
        let entry = Entry { outputs: vec![NamedTensor::new("y", logit)], score: Some(0.5) };
        let bytes = encode(&KEY, &entry, Header { stored_at: 2, sequence: 1 }).unwrap();
        let mut golden = vec![1, 1, 1, 0, 0x05, 0x27, 0x76, 0x83];
        golden.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&[0, 0, 0, 0x3f]);
        golden.extend_from_slice(&[1, 0, b'y', 10, 2]);
        golden.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&[4, 0, 0, 0, 0, 0, 0x80, 0x3f]);
        assert_eq!(bytes, golden);
    }

    #[test]
    fn a_truncated_value_is_damage() {
        let bytes = encode(&KEY, &entry(), AT).unwrap();
        for length in 0..bytes.len() {
            assert_eq!(decode(&KEY, &bytes[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_damage() {
        let bytes = encode(&KEY, &entry(), AT).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&KEY, &flipped), None, "bit {bit}");
        }
    }

    #[test]
    fn a_value_under_another_key_is_damage() {
        let bytes = encode(&KEY, &entry(), AT).unwrap();
        assert_eq!(decode(&Key([8; 32]), &bytes), None);
    }

    #[test]
    fn lengths_that_lie_are_damage_even_with_a_right_checksum() {
        let bytes = encode(&KEY, &entry(), AT).unwrap();
        for (at, lie) in [(2, 3), (2, 1), (HEADER, 255), (HEADER + 1, 255), (HEADER + 8, 99), (HEADER + 9, 200)] {
            let mut forged = bytes.clone();
            forged[at] = lie;
            let crc = checksum(&KEY, &forged);
            forged[CRC].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(decode(&KEY, &forged), None, "byte {at} = {lie}");
        }
    }

    #[test]
    fn a_result_that_is_too_large_is_not_a_value() {
        let large = Tensor::zeros(DType::U8, vec![1, MAX_VALUE_BYTES]).unwrap();
        let entry = Entry { outputs: vec![NamedTensor::new("y", large)], score: None };
        assert_eq!(encode(&KEY, &entry, AT), None);
    }
}
