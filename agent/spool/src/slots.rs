//! Which bundle each model served last, and the time that signed things are judged by. Not in a database, because it is what a
//! device begins from when everything else is damaged.
//!
//! ```text
//! slots/slots-1, slots/slots-2      the same content twice (bytes.rs), each replaced whole, one after the other
//! slots/slots-1.damaged, …          what a copy was before it was written anew
//! ```
//!
//! A copy that is damaged is noticed, healed from the other and reported. Where both are, the device begins without slots and
//! from the time of the program's build, which is reported too: it never keeps the agent from starting.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hedge_wire::Digest;

use crate::clock::{MachineTime, TimeSource, TrustedClock, Wall};
use crate::replace::{replace, sync_folder};

mod bytes;
#[cfg(test)]
mod tests;

use self::bytes::Content;
pub use self::bytes::MAX_SLOTS_BYTES;

/// How far the time may run ahead of what is on the disk: a power cut costs at most that much of it.
const KEEP_TIME_EVERY: u64 = 3600;
/// The copies, in the order in which they are written.
const COPIES: [&str; 2] = ["slots-1", "slots-2"];

/// A bundle that passed its golden run on this device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slot {
    /// Of the bundle.
    pub digest: Digest,
    /// The name of its file or folder.
    pub file: String,
}

/// What is known of one model.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModelSlots {
    /// The bundle that served last.
    pub last: Slot,
    /// The one before it.
    pub before: Option<Slot>,
}

/// Damage that was found when the slots were opened.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SlotDamage {
    /// One copy. Nothing is lost.
    #[error("a copy of the slots was damaged ({copy}: {why}); it was written anew from the other")]
    OneCopy {
        /// Which.
        copy: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Both copies. The models start from what is configured, the time from that of the program's build.
    #[error(
        "both copies of the slots in {folder} were damaged ({why}); models start as configured, and the time starts from that of this program's build"
    )]
    BothCopies {
        /// Where they lie, moved aside.
        folder: PathBuf,
        /// What is wrong with the first.
        why: String,
    },
}

/// The slots cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("the slots cannot be written to {folder}: {why}; after a restart models start from an earlier state")]
pub struct SlotError {
    folder: PathBuf,
    #[source]
    why: io::Error,
}

/// The slots of a device.
pub struct SlotFile {
    folder: PathBuf,
    inner: Mutex<Inner>,
}

struct Inner {
    content: Content,
    clock: TrustedClock,
}

impl SlotFile {
    /// Reads the slots in `folder`. `built_at` is when this program was built, in seconds since 1970. Blocks for disk I/O.
    pub fn open(folder: PathBuf, built_at: u64) -> Result<(Self, Option<SlotDamage>), SlotError> {
        Self::open_at(folder, built_at, Box::new(MachineTime::new()))
    }

    fn open_at(
        folder: PathBuf,
        built_at: u64,
        time: Box<dyn TimeSource>,
    ) -> Result<(Self, Option<SlotDamage>), SlotError> {
        let found = fs::create_dir_all(&folder).and_then(|()| find(&folder));
        let (content, damage) = found.map_err(|why| SlotError { folder: folder.clone(), why })?;
        let clock = TrustedClock::with(time, content.trusted_secs.max(built_at), Wall::Ignored);
        Ok((Self { folder, inner: Mutex::new(Inner { content, clock }) }, damage))
    }

    /// What each model served last.
    #[must_use]
    pub fn models(&self) -> BTreeMap<String, ModelSlots> {
        self.inner().content.models.clone()
    }

    /// The bundle passed its golden run and serves the model. It is on disk when this returns. Blocks.
    pub fn serves(&self, model: &str, slot: Slot) -> Result<(), SlotError> {
        let mut inner = self.inner();
        let known = inner.content.models.get(model);
        if known.is_some_and(|known| known.last == slot) {
            return Ok(());
        }
        let before = known.map(|known| known.last.clone());
        let mut models = inner.content.models.clone();
        models.insert(model.to_owned(), ModelSlots { last: slot, before });
        self.write(&mut inner, models)
    }

    /// The model is no more. Blocks.
    pub fn forget(&self, model: &str) -> Result<(), SlotError> {
        let mut inner = self.inner();
        let mut models = inner.content.models.clone();
        match models.remove(model) {
            Some(_) => self.write(&mut inner, models),
            None => Ok(()),
        }
    }

    /// The time that signed things are judged by, in seconds since 1970: the largest of the program's build, what was on disk and
    /// what was signed since, and what has passed. It only moves forward.
    #[must_use]
    pub fn trusted_now(&self) -> u64 {
        self.inner().clock.now()
    }

    /// A signature that was checked says that it is at least this second. It is on disk when this returns. Blocks.
    pub fn signed_at(&self, secs: u64) -> Result<(), SlotError> {
        let mut inner = self.inner();
        inner.clock.believe(secs);
        if inner.content.trusted_secs >= secs {
            return Ok(());
        }
        let models = inner.content.models.clone();
        self.write(&mut inner, models)
    }

    /// Has the time that has passed outlive the process, once an hour. To be called now and then. Blocks.
    pub fn keep_time(&self) -> Result<(), SlotError> {
        let mut inner = self.inner();
        if inner.clock.now() < inner.content.trusted_secs.saturating_add(KEEP_TIME_EVERY) {
            return Ok(());
        }
        let models = inner.content.models.clone();
        self.write(&mut inner, models)
    }

    /// Writes both copies; where the first cannot be written, everything is as it was.
    fn write(&self, inner: &mut Inner, models: BTreeMap<String, ModelSlots>) -> Result<(), SlotError> {
        let generation = inner.content.generation + 1;
        let content = Content { generation, trusted_secs: inner.clock.now(), models };
        let written = content.encode().and_then(|bytes| write_copies(&self.folder, &bytes));
        written.map_err(|why| SlotError { folder: self.folder.clone(), why })?;
        inner.content = content;
        Ok(())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // It is replaced whole, after it is on disk.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_copies(folder: &Path, bytes: &[u8]) -> io::Result<()> {
    COPIES.iter().try_for_each(|copy| replace(&folder.join(copy), bytes))
}

/// The newest sound copy; the other is made equal to it.
fn find(folder: &Path) -> io::Result<(Content, Option<SlotDamage>)> {
    let [first, second] = COPIES.map(|copy| read(&folder.join(copy)));
    let (content, damage) = match (first?, second?) {
        (Copy::None, Copy::None) => return Ok((Content::default(), None)),
        (Copy::Sound(first), Copy::Sound(second)) if first == second => return Ok((first, None)),
        // The power went between the two, or before the first ever was written.
        (Copy::Sound(first), Copy::Sound(second)) => {
            (if first.generation >= second.generation { first } else { second }, None)
        }
        (Copy::Sound(one), Copy::None) | (Copy::None, Copy::Sound(one)) => (one, None),
        (Copy::Damaged(why), Copy::Sound(one)) => (one, Some(one_copy(folder, 0, why)?)),
        (Copy::Sound(one), Copy::Damaged(why)) => (one, Some(one_copy(folder, 1, why)?)),
        (Copy::Damaged(why), _) | (_, Copy::Damaged(why)) => {
            let damage = SlotDamage::BothCopies { folder: folder.to_owned(), why };
            COPIES.iter().try_for_each(|copy| set_aside(&folder.join(copy)))?;
            (Content::default(), Some(damage))
        }
    };
    write_copies(folder, &content.encode()?)?;
    Ok((content, damage))
}

enum Copy {
    None,
    Sound(Content),
    Damaged(String),
}

fn read(path: &Path) -> io::Result<Copy> {
    let mut bytes = Vec::new();
    match fs::File::open(path).and_then(|file| file.take(MAX_SLOTS_BYTES as u64 + 1).read_to_end(&mut bytes)) {
        Ok(_) => Ok(Content::decode(&bytes).map_or_else(Copy::Damaged, Copy::Sound)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Copy::None),
        // A sector that cannot be read.
        Err(error) => Ok(Copy::Damaged(error.to_string())),
    }
}

fn one_copy(folder: &Path, copy: usize, why: String) -> io::Result<SlotDamage> {
    let copy = folder.join(COPIES[copy]);
    set_aside(&copy)?;
    Ok(SlotDamage::OneCopy { copy, why })
}

fn set_aside(path: &Path) -> io::Result<()> {
    match fs::rename(path, path.with_extension("damaged")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => sync_folder(path.parent().unwrap_or(path)),
    }
}
