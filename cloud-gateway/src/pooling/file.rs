//! The file of one class's state.
//!
//! ```text
//! offset  size  field                                    integers little-endian
//!      0     8  "hedgecls"
//!      8     1  version = 1
//!      9     3  0
//!     12     4  index: the number up to which the class may have spent its series
//!     16     8  class: the hash of its subject
//!     24     8  length of the state
//!     32    32  SHA-256 of the file with these bytes left out
//!     64        state
//! ```
//!
//! Class and index stand in the file's name as well, so that they are known where the file is damaged.

use hedge_gateway_core::Snapshot;
use hedge_wire::Hash16;
use sha2::{Digest as _, Sha256};

/// The largest state that is kept: several times what the pool's bounds allow.
pub(super) const MAX_STATE_BYTES: usize = 32 * 1024 * 1024;

pub(super) const HEADER: usize = 64;

const MAGIC: &[u8; 8] = b"hedgecls";
const VERSION: u8 = 1;
const DIGEST_AT: usize = 32;

/// The file's bytes; `None` where the state is too large.
pub(super) fn encode(class: Hash16, snapshot: &Snapshot) -> Option<Vec<u8>> {
    let Snapshot { index, state } = snapshot;
    if state.len() > MAX_STATE_BYTES {
        return None;
    }
    let mut out = Vec::with_capacity(HEADER + state.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[VERSION, 0, 0, 0]);
    out.extend_from_slice(&index.to_le_bytes());
    out.extend_from_slice(&class.0);
    out.extend_from_slice(&(state.len() as u64).to_le_bytes());
    out.extend_from_slice(&[0; HEADER - DIGEST_AT]);
    out.extend_from_slice(state);
    let digest = digest(&out);
    out[DIGEST_AT..HEADER].copy_from_slice(&digest);
    Some(out)
}

/// The state in a file of this name; otherwise what is wrong with it.
pub(super) fn decode(class: Hash16, index: u32, content: &[u8]) -> Result<Vec<u8>, String> {
    if content.len() < HEADER || content[..8] != *MAGIC {
        return Err("it is no class's state".into());
    }
    if content[8] != VERSION {
        return Err(format!("its format is version {}, not {VERSION}", content[8]));
    }
    if content[DIGEST_AT..HEADER] != digest(content) {
        return Err("its digest is wrong".into());
    }
    if content[12..16] != index.to_le_bytes() || content[16..24] != class.0 {
        return Err("it is not the one that its name says".into());
    }
    let state = &content[HEADER..];
    match content[24..32] == (state.len() as u64).to_le_bytes() {
        true => Ok(state.to_vec()),
        false => Err("its length does not fit its size".into()),
    }
}

fn digest(content: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(&content[..DIGEST_AT]).chain_update(&content[HEADER..]).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASS: Hash16 = Hash16([0xab; 8]);

    fn snapshot() -> Snapshot {
        Snapshot { index: 3, state: b"state".to_vec() }
    }

    #[test]
    fn the_layout_is_the_one_drawn_above() {
        let encoded = encode(CLASS, &snapshot()).unwrap();
        let mut golden = b"hedgecls\x01\0\0\0\x03\0\0\0".to_vec();
        golden.extend_from_slice(&[0xab; 8]);
        golden.extend_from_slice(&[5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((&encoded[..32], &encoded[64..]), (golden.as_slice(), b"state".as_slice()));
        let whole: [u8; 32] = Sha256::digest([golden.as_slice(), b"state"].concat()).into();
        assert_eq!(encoded[32..64], whole);
    }

    #[test]
    fn a_truncated_flipped_or_misplaced_file_is_damage() {
        let content = encode(CLASS, &snapshot()).unwrap();
        assert_eq!(decode(CLASS, 3, &content), Ok(b"state".to_vec()));
        for length in 0..content.len() {
            assert!(decode(CLASS, 3, &content[..length]).is_err(), "{length} bytes");
        }
        for bit in 0..content.len() * 8 {
            let mut flipped = content.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(CLASS, 3, &flipped).is_err(), "bit {bit}");
        }
        assert!(decode(CLASS, 3, &[content.as_slice(), &[0]].concat()).is_err());
        assert!(decode(CLASS, 4, &content).is_err() && decode(Hash16([0; 8]), 3, &content).is_err());
    }
}
