//! The file of one model's route: written whole, never in part.
//!
//! ```text
//! offset  size  field                                    integers little-endian
//!      0     8  "hedgerte"
//!      8     1  version = 1
//!      9     1  0
//!     10     2  length of the model's name
//!     12     4  CRC32C of the file with these four bytes left out
//!     16     8  length of the state
//!     24        name (UTF-8) | state
//! ```
//!
//! A file is replaced by writing another beside it, fsync, rename, fsync of the folder: whenever the power goes, the old
//! state or the new one is there. A file that cannot be read is moved aside as NAME.damaged (one is kept) and reported.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::replace::replace;
use crate::tensors::array;

/// The largest state that is kept.
pub const MAX_SNAPSHOT_BYTES: usize = 16 * 1024 * 1024;
/// The longest name of a model.
const MAX_MODEL_BYTES: usize = 256;

const MAGIC: &[u8; 8] = b"hedgerte";
const VERSION: u8 = 1;
const CRC: Range<usize> = 12..16;
const HEADER: usize = 24;
const ENDING: &str = "route";

/// A snapshot that was dropped: what it held is lost, and the route starts from nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the saved route of model {model:?} is damaged ({why}); it was moved to {aside} and the route starts without a certificate"
)]
pub struct DamagedSnapshot {
    /// The model.
    pub model: String,
    /// What is wrong with the file.
    pub why: String,
    /// Where it lies now.
    pub aside: PathBuf,
}

/// Where the snapshot of a model lies. Names of models may hold anything, so the file's is a digest.
pub(crate) fn path(folder: &Path, model: &str) -> PathBuf {
    let digest = Sha256::digest(model.as_bytes());
    let name: String = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    folder.join(name).with_extension(ENDING)
}

/// Whether a file is a snapshot by its name.
pub(crate) fn is_snapshot(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == ENDING)
}

/// The state of `model` that lies in `folder`, if one does.
pub(crate) fn read(folder: &Path, model: &str) -> Result<Option<Vec<u8>>, DamagedSnapshot> {
    let path = path(folder, model);
    let content = match read_bounded(&path) {
        Ok(content) => decode(model, &content),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => Err(error.to_string()),
    };
    content.map(Some).map_err(|why| {
        let aside = path.with_extension("damaged");
        // Where it cannot be moved, the next save replaces it.
        let _ = fs::rename(&path, &aside);
        DamagedSnapshot { model: model.to_owned(), why, aside }
    })
}

/// Puts `state` in the place of what lay there, durably.
pub(crate) fn write(folder: &Path, model: &str, state: &[u8]) -> io::Result<()> {
    let content = encode(model, state).ok_or_else(|| io::Error::other("the state is too large to be saved"))?;
    replace(&path(folder, model), &content)
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let limit = (HEADER + MAX_MODEL_BYTES + MAX_SNAPSHOT_BYTES) as u64;
    let mut content = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut content)?;
    Ok(content)
}

fn encode(model: &str, state: &[u8]) -> Option<Vec<u8>> {
    if model.len() > MAX_MODEL_BYTES || state.len() > MAX_SNAPSHOT_BYTES {
        return None;
    }
    let mut out = Vec::with_capacity(HEADER + model.len() + state.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[VERSION, 0]);
    out.extend_from_slice(&(model.len() as u16).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(state.len() as u64).to_le_bytes());
    out.extend_from_slice(model.as_bytes());
    out.extend_from_slice(state);
    let crc = checksum(&out);
    out[CRC].copy_from_slice(&crc.to_le_bytes());
    Some(out)
}

fn decode(model: &str, content: &[u8]) -> Result<Vec<u8>, String> {
    if content.len() < HEADER || content[..8] != *MAGIC {
        return Err("it is no saved route".into());
    }
    if content[8] != VERSION {
        return Err(format!("its format is version {}, not {VERSION}", content[8]));
    }
    if u32::from_le_bytes(array(&content[CRC])) != checksum(content) {
        return Err("its checksum is wrong".into());
    }
    let name = usize::from(u16::from_le_bytes(array(&content[10..12])));
    let length = u64::from_le_bytes(array(&content[16..24]));
    let body = &content[HEADER..];
    if (name as u64).checked_add(length) != Some(body.len() as u64) {
        return Err("its lengths do not fit its size".into());
    }
    let (name, state) = body.split_at(name);
    match name == model.as_bytes() && state.len() <= MAX_SNAPSHOT_BYTES {
        true => Ok(state.to_vec()),
        false => Err(format!("it is that of model {:?}", String::from_utf8_lossy(name))),
    }
}

fn checksum(content: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&content[..CRC.start]), &content[CRC.end..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    #[test]
    fn a_state_survives_the_round_trip() {
        let folder = TempDir::new().unwrap();
        assert_eq!(read(folder.path(), "m"), Ok(None));
        write(folder.path(), "m", b"old").unwrap();
        write(folder.path(), "m", b"new").unwrap();
        write(folder.path(), "../m", b"").unwrap();
        assert_eq!(read(folder.path(), "m"), Ok(Some(b"new".to_vec())));
        assert_eq!(read(folder.path(), "../m"), Ok(Some(vec![])));
    }

    #[test]
    fn the_layout_is_the_one_drawn_above() {
        let mut golden = b"hedgerte".to_vec();
        golden.extend_from_slice(&[1, 0, 1, 0]);
        golden.extend_from_slice(&GOLDEN_CRC);
        golden.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0, b'm', 8, 9]);
        assert_eq!(encode("m", &[8, 9]), Some(golden));
    }

    #[test]
    fn a_truncated_flipped_or_misplaced_file_is_damage() {
        let content = encode("m", b"state").unwrap();
        for length in 0..content.len() {
            assert!(decode("m", &content[..length]).is_err(), "{length} bytes");
        }
        for bit in 0..content.len() * 8 {
            let mut flipped = content.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode("m", &flipped).is_err(), "bit {bit}");
        }
        assert_eq!(decode("n", &content), Err("it is that of model \"m\"".into()));
    }

    #[test]
    fn a_damaged_file_is_moved_aside_and_named() {
        let folder = TempDir::new().unwrap();
        write(folder.path(), "m", b"state").unwrap();
        fs::write(path(folder.path(), "m"), b"hedgerte nonsense that is long enough").unwrap();
        let damage = read(folder.path(), "m").unwrap_err();
        assert!(damage.to_string().contains("format is version 32"), "{damage}");
        assert!(damage.aside.exists());
        assert_eq!(read(folder.path(), "m"), Ok(None), "and is not met again");
    }

    #[test]
    fn what_is_too_large_is_not_saved() {
        let folder = TempDir::new().unwrap();
        assert!(write(folder.path(), "m", &vec![0; MAX_SNAPSHOT_BYTES + 1]).is_err());
        assert!(write(folder.path(), &"m".repeat(257), b"").is_err());
        assert_eq!(read(folder.path(), "m"), Ok(None));
    }

    // CRC-32C of the file drawn above, from an implementation of its own.
    const GOLDEN_CRC: [u8; 4] = [122, 252, 2, 219];
}
