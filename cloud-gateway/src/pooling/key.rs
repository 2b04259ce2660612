//! The key that signs what is said to classes of devices.
//!
//! ```text
//! state_dir/class-key      the seed: 64 hex digits, 0600; made at the first start, never changed
//! state_dir/class-key.pub  the public key: 64 hex digits, for `link.class_key` of the agents
//! ```
//!
//! Whoever has the seed can revoke and install certificates on every device of the tenant, so a file that others may read is
//! not used. A new key is made only where neither file is there: the devices know the old one, and would hear nothing.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use hedge_wire::{PublicKey, SigningKey};
use ring::rand::{SecureRandom, SystemRandom};

use super::store::sync_folder;

const SEED: &str = "class-key";
const PUBLIC: &str = "class-key.pub";
const SEED_BYTES: usize = 32;

/// More than a key's file ever has.
const MAX_FILE_BYTES: u64 = 1024;

/// Why there is no key to sign with.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Others may read it.
    #[error(
        "the class key {} may be read by others (mode {mode:03o}): run `chmod 600` on it; if somebody may have read it, \
         delete it and class-key.pub instead, and give all agents the new class-key.pub", path.display()
    )]
    Loose {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is no key.
    #[error(
        "the class key {} is damaged, it is not 64 hex digits: restore it from a backup; or delete it and class-key.pub, \
         and give all agents the new class-key.pub", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// It was there once.
    #[error(
        "there is {}, but no class-key beside it: restore it from a backup; or delete class-key.pub as well, and give all \
         agents the new one", path.display()
    )]
    Lost {
        /// The public key's file.
        path: PathBuf,
    },
    /// The system does not let the file be read or made.
    #[error("cannot {what} the class key {}: {source}; check gateway.state_dir and its permissions", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers for a class key")]
    Randomness,
}

/// The key of this folder, made where there was none.
pub(super) fn open(state_dir: &Path) -> Result<SigningKey, KeyError> {
    let (path, public) = (state_dir.join(SEED), state_dir.join(PUBLIC));
    let key = match File::open(&path) {
        Ok(file) => read(file, &path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if public.exists() {
                return Err(KeyError::Lost { path: public });
            }
            make(state_dir, &path)?
        }
        Err(source) => return Err(KeyError::Io { what: "open", path, source }),
    };
    show(state_dir, &public, key.public())?;
    Ok(key)
}

fn read(file: File, path: &Path) -> Result<SigningKey, KeyError> {
    let failed = |source| KeyError::Io { what: "read", path: path.to_owned(), source };
    let mode = mode(&file).map_err(failed)?;
    if mode & 0o077 != 0 {
        return Err(KeyError::Loose { path: path.to_owned(), mode });
    }
    let mut text = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut text).map_err(failed)?;
    let seed = from_hex(text.trim_ascii_end()).ok_or_else(|| KeyError::Damaged { path: path.to_owned() })?;
    Ok(SigningKey::from_seed(&seed))
}

fn make(state_dir: &Path, path: &Path) -> Result<SigningKey, KeyError> {
    let mut seed = [0; SEED_BYTES];
    SystemRandom::new().fill(&mut seed).map_err(|_| KeyError::Randomness)?;
    let text: String = seed.iter().map(|byte| format!("{byte:02x}")).collect();
    put(state_dir, path, &text, 0o600).map_err(|source| KeyError::Io {
        what: "write",
        path: path.to_owned(),
        source,
    })?;
    tracing::info!(path = %path.display(), "made a new class key");
    Ok(SigningKey::from_seed(&seed))
}

/// The public key's file is for people, and made anew where it is not right.
fn show(state_dir: &Path, path: &Path, public: PublicKey) -> Result<(), KeyError> {
    let text = public.to_string();
    if fs::read(path).is_ok_and(|shown| shown.trim_ascii_end() == text.as_bytes()) {
        return Ok(());
    }
    put(state_dir, path, &text, 0o644).map_err(|source| KeyError::Io { what: "write", path: path.to_owned(), source })
}

/// Writes a line into a file that is there whole or not at all.
fn put(folder: &Path, path: &Path, line: &str, mode: u32) -> io::Result<()> {
    let part = path.with_extension("part");
    match fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    with_mode(&mut options, mode);
    let mut file = options.open(&part)?;
    writeln!(file, "{line}")?;
    file.sync_all()?;
    drop(file);
    fs::rename(&part, path)?;
    sync_folder(folder)
}

#[cfg(unix)]
fn mode(file: &File) -> io::Result<u32> {
    use std::os::unix::fs::PermissionsExt;
    Ok(file.metadata()?.permissions().mode() & 0o777)
}

#[cfg(unix)]
fn with_mode(options: &mut OpenOptions, mode: u32) {
    use std::os::unix::fs::OpenOptionsExt;
    options.mode(mode);
}

/// Elsewhere a folder's own permissions are all there is.
#[cfg(not(unix))]
fn mode(_file: &File) -> io::Result<u32> {
    Ok(0o600)
}

#[cfg(not(unix))]
fn with_mode(_options: &mut OpenOptions, _mode: u32) {}

fn from_hex(text: &[u8]) -> Option<[u8; SEED_BYTES]> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() == 2 * SEED_BYTES && text.is_ascii())?;
    let mut seed = [0; SEED_BYTES];
    for (byte, digits) in seed.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digit = |at: usize| char::from(digits[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
    }
    Some(seed)
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_key_is_made_once_for_its_owner_alone_and_its_public_half_for_all() {
        let folder = tempfile::tempdir().unwrap();
        let first = open(folder.path()).unwrap();
        let (path, public) = (folder.path().join(SEED), folder.path().join(PUBLIC));
        assert_eq!(mode(&File::open(&path).unwrap()).unwrap(), 0o600);
        assert_eq!(fs::read_to_string(&public).unwrap().trim_end().parse(), Ok(first.public()));
        fs::write(&public, "nonsense").unwrap();
        assert_eq!(open(folder.path()).unwrap().public(), first.public());
        assert_eq!(fs::read_to_string(&public).unwrap().trim_end().parse(), Ok(first.public()));
        let other = tempfile::tempdir().unwrap();
        assert_ne!(open(other.path()).unwrap().public(), first.public());
    }

    #[test]
    fn a_key_that_others_may_read_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path()).unwrap();
        let path = folder.path().join(SEED);
        for loose in [0o640, 0o604, 0o660, 0o601] {
            set_mode(&path, loose);
            let error = open(folder.path()).unwrap_err();
            assert!(matches!(error, KeyError::Loose { mode, .. } if mode == loose), "{error}");
            assert!(error.to_string().contains(&format!("mode {loose:03o}): run `chmod 600`")), "{error}");
        }
        set_mode(&path, 0o400);
        assert!(open(folder.path()).is_ok());
    }

    #[test]
    fn a_damaged_or_lost_key_is_never_replaced_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path()).unwrap();
        let path = folder.path().join(SEED);
        let good = fs::read_to_string(&path).unwrap();
        for bad in ["", "zz", &good[1..], &format!("{}0", good.trim_end()), &good.replace(&good[..1], "x")] {
            fs::write(&path, bad).unwrap();
            assert!(matches!(open(folder.path()), Err(KeyError::Damaged { .. })), "{bad}");
        }
        fs::remove_file(&path).unwrap();
        assert!(matches!(open(folder.path()), Err(KeyError::Lost { .. })));
        fs::write(&path, &good).unwrap();
        set_mode(&path, 0o600);
        assert!(open(folder.path()).is_ok());
    }

    #[test]
    fn what_a_crash_left_half_written_is_written_over() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("class-key.part"), "half").unwrap();
        assert!(open(folder.path()).is_ok());
        assert!(!folder.path().join("class-key.part").exists());
    }
}
