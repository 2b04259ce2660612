//! The bytes of one audit that waits for the cloud.
//!
//! ```text
//! key     u64 sequence, big-endian, dense: a gap is a record that was lost
//!
//! offset  size  value                                    integers little-endian
//!      0     1  version = 1
//!      1     1  kind: 0 waiting, 1 done (its place is kept until all before it are done; nothing after the header)
//!      2     1  number of inputs
//!      3     1  number of outputs
//!      4     4  CRC32C of the key's 8 bytes followed by this value with these four bytes left out
//!      8     8  stored at: trusted seconds since 1970 (clock.rs)
//!     16     2  length of the model's name
//!     18     2  length of the ticket
//!     20     4  length of the notes
//!     24        name (UTF-8) | ticket | notes | the inputs and the outputs, each as tensors.rs draws it
//! ```

use std::ops::Range;

use bytes::Bytes;
use hedge_tensor::NamedTensor;

use crate::tensors::{self, array};

/// The largest audit that is kept; a row that does not fit one message to the cloud cannot be audited anyway.
pub const MAX_AUDIT_BYTES: usize = 128 * 1024;
/// The longest ticket.
const MAX_TICKET_BYTES: usize = 1024;
/// The longest name of a model.
const MAX_MODEL_BYTES: usize = 256;

const VERSION: u8 = 1;
const WAITING: u8 = 0;
const DONE: u8 = 1;
const CRC: Range<usize> = 4..8;
const STORED_AT: Range<usize> = 8..16;
const LENGTHS: Range<usize> = 16..24;
const HEADER: usize = 24;

/// A row that was answered locally and about which the cloud is to be asked later.
#[derive(Clone, PartialEq, Debug)]
pub struct Audit {
    /// The model's name.
    pub model: String,
    /// What the decision said of the audit: whose it is and with which propensity it was drawn. Opaque here.
    pub ticket: Vec<u8>,
    /// What else has to be known when the verdict comes. Opaque here.
    pub notes: Vec<u8>,
    /// The row.
    pub inputs: Vec<NamedTensor>,
    /// The local outputs that the verdict is compared with.
    pub outputs: Vec<NamedTensor>,
}

/// What a checked value says.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Record {
    Waiting { audit: Audit, stored_at: u64 },
    Done,
}

/// The bytes of an audit; `None` if it does not fit [`MAX_AUDIT_BYTES`].
pub(crate) fn encode(sequence: u64, audit: &Audit, stored_at: u64) -> Option<Vec<u8>> {
    let within = audit.model.len() <= MAX_MODEL_BYTES && audit.ticket.len() <= MAX_TICKET_BYTES;
    if !within || audit.notes.len() > MAX_AUDIT_BYTES {
        return None;
    }
    let mut out = header(WAITING);
    out[2] = u8::try_from(audit.inputs.len()).ok()?;
    out[3] = u8::try_from(audit.outputs.len()).ok()?;
    out[STORED_AT].copy_from_slice(&stored_at.to_le_bytes());
    out[16..18].copy_from_slice(&(audit.model.len() as u16).to_le_bytes());
    out[18..20].copy_from_slice(&(audit.ticket.len() as u16).to_le_bytes());
    out[20..24].copy_from_slice(&(audit.notes.len() as u32).to_le_bytes());
    for part in [audit.model.as_bytes(), &audit.ticket, &audit.notes] {
        out.extend_from_slice(part);
    }
    for tensor in audit.inputs.iter().chain(&audit.outputs) {
        tensors::put(&mut out, tensor, MAX_AUDIT_BYTES)?;
    }
    (out.len() <= MAX_AUDIT_BYTES).then(|| sealed(sequence, out))
}

/// The bytes of the place of one that is done.
pub(crate) fn done(sequence: u64) -> Vec<u8> {
    sealed(sequence, header(DONE))
}

/// What a value says; `None` if it is damaged.
pub(crate) fn decode(sequence: u64, value: &[u8]) -> Option<Record> {
    let stored = array(value.get(CRC)?);
    let sound = value.len() >= HEADER && value.len() <= MAX_AUDIT_BYTES && value[0] == VERSION;
    if !sound || u32::from_le_bytes(stored) != checksum(sequence, value) {
        return None;
    }
    match value[1] {
        WAITING => waiting(value),
        DONE => (value.len() == HEADER).then_some(Record::Done),
        _ => None,
    }
}

fn waiting(value: &[u8]) -> Option<Record> {
    let lengths = &value[LENGTHS];
    let model = usize::from(u16::from_le_bytes(array(&lengths[..2])));
    let ticket = usize::from(u16::from_le_bytes(array(&lengths[2..4])));
    let notes = usize::try_from(u32::from_le_bytes(array(&lengths[4..]))).ok()?;
    // One copy for all; the tensors share it.
    let mut rest = Bytes::copy_from_slice(&value[HEADER..]);
    let model = String::from_utf8(tensors::take_bytes(&mut rest, model)?.to_vec()).ok()?;
    let ticket = tensors::take_bytes(&mut rest, ticket)?.to_vec();
    let notes = tensors::take_bytes(&mut rest, notes)?.to_vec();
    let mut take = |count: u8| (0..count).map(|_| tensors::take(&mut rest)).collect::<Option<Vec<_>>>();
    let (inputs, outputs) = (take(value[2])?, take(value[3])?);
    let stored_at = u64::from_le_bytes(array(&value[STORED_AT]));
    rest.is_empty().then_some(Record::Waiting { audit: Audit { model, ticket, notes, inputs, outputs }, stored_at })
}

fn header(kind: u8) -> Vec<u8> {
    let mut out = vec![0; HEADER];
    out[0] = VERSION;
    out[1] = kind;
    out
}

fn sealed(sequence: u64, mut value: Vec<u8>) -> Vec<u8> {
    let crc = checksum(sequence, &value);
    value[CRC].copy_from_slice(&crc.to_le_bytes());
    value
}

fn checksum(sequence: u64, value: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&sequence.to_be_bytes()), &value[..CRC.start]);
    crc32c::crc32c_append(crc, &value[CRC.end..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use hedge_tensor::{DType, Tensor};

    fn audit() -> Audit {
        let pixels = Tensor::from_slice(&[1, 2], &[7_u8, 9]).unwrap();
        Audit {
            model: "m".into(),
            ticket: vec![1, 2],
            notes: vec![3],
            inputs: vec![NamedTensor::new("x", pixels)],
            outputs: vec![],
        }
    }

    #[test]
    fn an_audit_survives_the_round_trip() {
        let bytes = encode(5, &audit(), 77).unwrap();
        assert_eq!(decode(5, &bytes), Some(Record::Waiting { audit: audit(), stored_at: 77 }));
        let label = NamedTensor::new("label", Tensor::from_slice(&[1], &[3_i64]).unwrap());
        let compared = Audit { outputs: vec![label], ..audit() };
        let bytes = encode(5, &compared, 77).unwrap();
        assert_eq!(decode(5, &bytes), Some(Record::Waiting { audit: compared, stored_at: 77 }));
        assert_eq!(decode(6, &done(6)), Some(Record::Done));
    }

    #[test]
    fn the_layout_is_the_one_drawn_above() {
        let bytes = encode(5, &audit(), 77).unwrap();
        let mut golden = vec![1, 0, 1, 0, 0, 0, 0, 0, 77, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0, 1, 0, 0, 0];
        golden.extend_from_slice(&[b'm', 1, 2, 3, 1, 0, b'x', 1, 2]);
        golden.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 7, 9]);
        golden[CRC].copy_from_slice(&GOLDEN_CRC);
        assert_eq!(bytes, golden);
    }

    #[test]
    fn a_truncated_flipped_or_misplaced_value_is_damage() {
        let bytes = encode(5, &audit(), 77).unwrap();
        for length in 0..bytes.len() {
            assert_eq!(decode(5, &bytes[..length]), None, "{length} bytes");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(5, &flipped), None, "bit {bit}");
        }
        assert_eq!(decode(4, &bytes), None, "under another key");
    }

    #[test]
    fn lengths_that_lie_are_damage_even_with_a_right_checksum() {
        let bytes = encode(5, &audit(), 77).unwrap();
        for (at, lie) in [(1, 9), (2, 2), (2, 0), (3, 1), (16, 200), (18, 200), (20, 0), (23, 255)] {
            let mut forged = bytes.clone();
            forged[at] = lie;
            assert_eq!(decode(5, &sealed(5, forged)), None, "byte {at} = {lie}");
        }
    }

    #[test]
    fn what_is_too_large_is_no_audit() {
        let large = Tensor::zeros(DType::U8, vec![1, MAX_AUDIT_BYTES]).unwrap();
        let inputs = vec![NamedTensor::new("x", large)];
        assert_eq!(encode(0, &Audit { inputs, ..audit() }, 0), None);
        assert_eq!(encode(0, &Audit { ticket: vec![0; MAX_TICKET_BYTES + 1], ..audit() }, 0), None);
        assert_eq!(encode(0, &Audit { notes: vec![0; MAX_AUDIT_BYTES], ..audit() }, 0), None);
    }

    // CRC-32C of the key and the value drawn above, from an implementation of its own.
    const GOLDEN_CRC: [u8; 4] = [188, 69, 51, 28];
}
