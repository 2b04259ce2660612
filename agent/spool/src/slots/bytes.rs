//! The bytes of the slots.
//!
//! ```text
//! offset  size  field                                    integers little-endian
//!      0     8  "hedgeslt"
//!      8     1  version = 1
//!      9     1  0
//!     10     2  number of models
//!     12     4  CRC32C of the file with these four bytes left out
//!     16     8  generation: counts what was written
//!     24     8  trusted time: seconds since 1970
//!     32        for each model, by name: text name | slot last | u8 1 and slot before, or u8 0
//!
//! slot        32 bytes digest | text file
//! text        u16 length | UTF-8
//! ```

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use bytes::{Buf as _, BufMut as _, Bytes};
use hedge_wire::Digest;

use super::{ModelSlots, Slot};
use crate::tensors::{array, take_bytes};

/// The largest file.
pub const MAX_SLOTS_BYTES: usize = 1024 * 1024;

const MAGIC: &[u8; 8] = b"hedgeslt";
const VERSION: u8 = 1;
const CRC: Range<usize> = 12..16;
const HEADER: usize = 32;

/// What both copies hold.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Content {
    pub(super) generation: u64,
    pub(super) trusted_secs: u64,
    pub(super) models: BTreeMap<String, ModelSlots>,
}

impl Content {
    pub(super) fn encode(&self) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        out.put_slice(MAGIC);
        out.put_slice(&[VERSION, 0]);
        out.put_u16_le(u16::try_from(self.models.len()).map_err(io::Error::other)?);
        out.put_u32_le(0);
        out.put_u64_le(self.generation);
        out.put_u64_le(self.trusted_secs);
        for (name, slots) in &self.models {
            put_text(&mut out, name)?;
            put_slot(&mut out, &slots.last)?;
            out.put_u8(u8::from(slots.before.is_some()));
            slots.before.iter().try_for_each(|before| put_slot(&mut out, before))?;
        }
        let crc = checksum(&out);
        out[CRC].copy_from_slice(&crc.to_le_bytes());
        match out.len() <= MAX_SLOTS_BYTES {
            true => Ok(out),
            false => Err(io::Error::other(format!("they take {} bytes, more than {MAX_SLOTS_BYTES}", out.len()))),
        }
    }

    /// The content, or what is wrong with it.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() < HEADER || bytes[..8] != *MAGIC {
            return Err("it is no file of slots".into());
        }
        if bytes.len() > MAX_SLOTS_BYTES {
            return Err(format!("it is larger than {MAX_SLOTS_BYTES} bytes"));
        }
        if u32::from_le_bytes(array(&bytes[CRC])) != checksum(bytes) {
            return Err("its checksum is wrong".into());
        }
        if bytes[8] != VERSION {
            return Err(format!("its format is version {}, not {VERSION}", bytes[8]));
        }
        let number = u16::from_le_bytes(array(&bytes[10..12]));
        let [generation, trusted_secs] = [16, 24].map(|at| u64::from_le_bytes(array(&bytes[at..at + 8])));
        let mut rest = Bytes::copy_from_slice(&bytes[HEADER..]);
        let models = (0..number).map(|_| take_model(&mut rest)).collect::<Option<BTreeMap<_, _>>>();
        match models.filter(|models| rest.is_empty() && models.len() == usize::from(number)) {
            Some(models) => Ok(Self { generation, trusted_secs, models }),
            None => Err("its lengths do not fit its size".into()),
        }
    }
}

fn put_slot(out: &mut Vec<u8>, slot: &Slot) -> io::Result<()> {
    out.put_slice(slot.digest.as_bytes());
    put_text(out, &slot.file)
}

fn put_text(out: &mut Vec<u8>, text: &str) -> io::Result<()> {
    out.put_u16_le(u16::try_from(text.len()).map_err(io::Error::other)?);
    out.put_slice(text.as_bytes());
    Ok(())
}

fn take_model(rest: &mut Bytes) -> Option<(String, ModelSlots)> {
    let (name, last) = (take_text(rest)?, take_slot(rest)?);
    let before = match take_bytes(rest, 1)?[0] {
        0 => None,
        1 => Some(take_slot(rest)?),
        _ => return None,
    };
    Some((name, ModelSlots { last, before }))
}

fn take_slot(rest: &mut Bytes) -> Option<Slot> {
    let digest = Digest(array(&take_bytes(rest, 32)?));
    Some(Slot { digest, file: take_text(rest)? })
}

fn take_text(rest: &mut Bytes) -> Option<String> {
    let length = take_bytes(rest, 2)?.get_u16_le();
    String::from_utf8(take_bytes(rest, usize::from(length))?.to_vec()).ok()
}

pub(super) fn checksum(content: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&content[..CRC.start]), &content[CRC.end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(number: u8) -> Slot {
        Slot { digest: Digest([number; 32]), file: "f".into() }
    }

    fn content() -> Content {
        let models = [
            ("a".to_owned(), ModelSlots { last: slot(2), before: Some(slot(1)) }),
            ("b".to_owned(), ModelSlots { last: slot(3), before: None }),
        ];
        Content { generation: 4, trusted_secs: 5, models: models.into() }
    }

    #[test]
    fn slots_survive_the_round_trip() {
        for content in [content(), Content::default()] {
            assert_eq!(Content::decode(&content.encode().unwrap()), Ok(content));
        }
    }

    #[test]
    fn the_layout_is_the_one_drawn_above() {
        let mut golden = b"hedgeslt".to_vec();
        golden.extend_from_slice(&[1, 0, 2, 0]);
        golden.extend_from_slice(&GOLDEN_CRC);
        golden.extend_from_slice(&[4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&[1, 0, b'a']);
        golden.extend_from_slice(&[2; 32]);
        golden.extend_from_slice(&[1, 0, b'f', 1]);
        golden.extend_from_slice(&[1; 32]);
        golden.extend_from_slice(&[1, 0, b'f', 1, 0, b'b']);
        golden.extend_from_slice(&[3; 32]);
        golden.extend_from_slice(&[1, 0, b'f', 0]);
        assert_eq!(content().encode().unwrap(), golden);
    }

    #[test]
    fn truncated_flipped_or_longer_slots_are_damage() {
        let bytes = content().encode().unwrap();
        for length in 0..bytes.len() {
            assert!(Content::decode(&bytes[..length]).is_err(), "{length} bytes");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Content::decode(&flipped).is_err(), "bit {bit}");
        }
        assert!(Content::decode(&[&bytes[..], &[0]].concat()).is_err());
        assert!(Content::decode(&vec![0; MAX_SLOTS_BYTES + 1]).is_err());
    }

    #[test]
    fn lengths_that_lie_are_damage_even_with_a_right_checksum() {
        let bytes = content().encode().unwrap();
        for (at, lie) in [(10, 1), (10, 3), (HEADER, 255), (HEADER + 35, 200), (HEADER + 38, 2), (HEADER + 38, 0)] {
            let mut forged = bytes.clone();
            forged[at] = lie;
            let crc = checksum(&forged);
            forged[CRC].copy_from_slice(&crc.to_le_bytes());
            assert!(Content::decode(&forged).is_err(), "byte {at} = {lie}");
        }
    }

    #[test]
    fn what_is_too_large_is_not_written() {
        let long = "m".repeat(70_000);
        let models = [(long, ModelSlots { last: slot(1), before: None })];
        assert!(Content { models: models.into(), ..content() }.encode().is_err());
        let many =
            (0..40_u32).map(|n| (format!("{n}{}", "m".repeat(60_000)), ModelSlots { last: slot(1), before: None }));
        assert!(Content { models: many.collect(), ..content() }.encode().is_err());
    }

    // CRC-32C of the file drawn above, from an implementation of its own.
    const GOLDEN_CRC: [u8; 4] = [38, 213, 9, 73];
}
