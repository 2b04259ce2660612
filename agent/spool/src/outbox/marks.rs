//! What is under way, for the process after one that is killed: written, and never synced.
//!
//! An attempt is on the disk before it begins and until its end is. A process that is killed meanwhile (by a watchdog, by a person)
//! need not have died of it. So what is really being executed or sent is marked in a file as well. The kernel keeps what a
//! killed process has written; after a reboot the marks mean nothing, and are not looked at.
//!
//! ```text
//! offset  size  field                                    integers little-endian
//!      0     4  "hum1"
//!      4     4  CRC32C of the boot
//!      8     8  boot: the marks are of this boot of the machine
//!     16        128 slots of 24 bytes:
//!      0    16    request id
//!     16     1    its attempts; 0 where the slot is free
//!     17     3    0
//!     20     4    CRC32C of these 20 bytes
//! ```
//!
//! A file that is not as drawn, or that cannot be written, is removed: then nothing is known, and every attempt counts.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hedge_agent_core::outbox::UnderWay;
use hedge_wire::{BootId, RequestId};

use crate::tensors::array;

const MAGIC: &[u8; 4] = b"hum1";
const HEADER: usize = 16;
/// More than an outbox has under way, twice: what the process before left lies there, too, until it is tried again.
const SLOTS: usize = 128;
const SLOT: usize = 24;

/// The file, and who has its slots.
pub(super) struct Marks(Mutex<Slots>);

struct Slots {
    path: PathBuf,
    /// None where nothing can be marked any more.
    file: Option<File>,
    taken: Vec<Option<Taken>>,
    marks: u64,
}

/// Whose a slot is: that of the so-manieth mark, or one from the process before.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Taken {
    id: RequestId,
    mark: u64,
    attempts: u8,
}

/// The mark of one request, for as long as this is not dropped.
pub struct Mark {
    marks: Arc<Marks>,
    slot: Option<(usize, Taken)>,
}

impl Marks {
    /// What an earlier process of this boot left; none where that is not known.
    pub(super) fn read(path: &Path, boot: BootId) -> Option<UnderWay> {
        fs::read(path).ok().and_then(|content| decode(&content, boot))
    }

    /// The marks of a process that begins, with what is held against requests already.
    pub(super) fn begin(path: &Path, boot: BootId, held: &UnderWay) -> Self {
        let (mut taken, mut content) = (vec![None; SLOTS.max(held.len())], header(boot));
        for (slot, (id, attempts)) in taken.iter_mut().zip(held) {
            content.extend_from_slice(&mark(id, *attempts));
            *slot = Some(Taken { id: *id, mark: 0, attempts: *attempts });
        }
        content.resize(HEADER + SLOTS * SLOT, 0);
        let mut slots = Slots { path: path.to_owned(), file: None, taken, marks: 0 };
        match create(path, &content) {
            Ok(file) if held.len() <= SLOTS => slots.file = Some(file),
            Ok(_) => slots.give_up("more is held against requests than there are slots"),
            Err(error) => slots.give_up(&error.to_string()),
        }
        Self(Mutex::new(slots))
    }

    /// Marks a request as being tried.
    pub(super) fn mark(self: &Arc<Self>, id: RequestId, attempts: u8) -> Mark {
        Mark { slot: self.slots().take(id, attempts), marks: Arc::clone(self) }
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    /// Marks the slot that has the request's earlier mark, or a free one.
    fn take(&mut self, id: RequestId, attempts: u8) -> Option<(usize, Taken)> {
        let earlier = self.taken.iter().position(|taken| taken.is_some_and(|taken| taken.id == id));
        let Some(slot) = earlier.or_else(|| self.taken.iter().position(Option::is_none)) else {
            self.give_up("more is under way than there are slots");
            return None;
        };
        self.marks += 1;
        let taken = Taken { id, mark: self.marks, attempts };
        self.taken[slot] = Some(taken);
        self.write(slot, &mark(&id, attempts));
        Some((slot, taken))
    }

    /// Frees the slot, unless the request has a later mark there. Whether the process has survived the attempt or put it off is not
    /// known here: what was held against the request before it stands until the disk says otherwise.
    fn free(&mut self, slot: usize, taken: Taken) {
        if self.taken[slot] != Some(taken) {
            return;
        }
        let Taken { id, attempts, .. } = taken;
        let held = attempts.saturating_sub(1);
        self.taken[slot] = (held > 0).then_some(Taken { id, mark: 0, attempts: held });
        self.write(slot, &if held > 0 { mark(&id, held) } else { [0; SLOT] });
    }

    fn write(&mut self, slot: usize, bytes: &[u8; SLOT]) {
        let Some(file) = &self.file else { return };
        if let Err(error) = file.write_all_at(bytes, (HEADER + slot * SLOT) as u64) {
            self.give_up(&error.to_string());
        }
    }

    /// What is under way and not marked would be taken for innocent.
    fn give_up(&mut self, why: &str) {
        self.file = None;
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => tracing::warn!(why, ?removed, path = %self.path.display(), "what is under way is not marked"),
        }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        if let Some((slot, taken)) = self.slot {
            self.marks.slots().free(slot, taken);
        }
    }
}

fn create(path: &Path, content: &[u8]) -> io::Result<File> {
    let file = File::create(path)?;
    file.write_all_at(content, 0)?;
    Ok(file)
}

fn header(boot: BootId) -> Vec<u8> {
    let boot = boot.0.to_le_bytes();
    [&MAGIC[..], &crc32c::crc32c(&boot).to_le_bytes(), &boot].concat()
}

fn mark(id: &RequestId, attempts: u8) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    slot[..16].copy_from_slice(id.as_bytes());
    slot[16] = attempts;
    let crc = crc32c::crc32c(&slot[..20]);
    slot[20..].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn decode(content: &[u8], boot: BootId) -> Option<UnderWay> {
    let slots = content.strip_prefix(&header(boot)[..]).filter(|slots| slots.len() == SLOTS * SLOT)?;
    let taken = slots.chunks_exact(SLOT).filter(|slot| slot.iter().any(|&byte| byte != 0));
    let read = taken.map(|slot| {
        let (id, attempts) = (RequestId::from_bytes(array(&slot[..16])), slot[16]);
        (mark(&id, attempts) == slot).then_some((id, attempts))
    });
    read.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    const BOOT: BootId = BootId(7);

    fn id(number: u8) -> RequestId {
        RequestId::from_bytes([number; 16])
    }

    /// A process that begins, and holds against requests what the last one left.
    fn open(folder: &TempDir) -> (Arc<Marks>, Option<UnderWay>) {
        let path = folder.path().join("under-way");
        let left = Marks::read(&path, BOOT);
        (Arc::new(Marks::begin(&path, BOOT, &left.clone().unwrap_or_default())), left)
    }

    #[test]
    fn what_was_marked_when_the_process_ended_is_known_to_the_next_of_this_boot() {
        let folder = TempDir::new().unwrap();
        let (marks, left) = open(&folder);
        assert_eq!(left, None, "nobody knows at first");
        let (_one, two) = (marks.mark(id(1), 1), marks.mark(id(2), 1));
        drop(two);
        let _three = marks.mark(id(3), 3);
        let left = Some(UnderWay::from([(id(1), 1), (id(3), 3)]));
        assert_eq!(open(&folder).1, left);
        assert_eq!(open(&folder).1, left, "and to the one after, as long as it is not tried again");
        let (marks, _) = open(&folder);
        drop(marks.mark(id(1), 1));
        drop(marks.mark(id(3), 4));
        assert_eq!(open(&folder).1, Some(UnderWay::from([(id(3), 3)])), "what was held before the last attempt stands");
        assert_eq!(Marks::read(&folder.path().join("under-way"), BootId(8)), None, "after a reboot");
    }

    #[test]
    fn what_has_ended_since_is_forgotten_and_more_than_there_are_slots_for_is_not_known() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("under-way");
        let (marks, _) = open(&folder);
        let _marked: Vec<Mark> = (0..SLOTS as u8).map(|number| marks.mark(id(number), 1)).collect();
        let left = Marks::read(&path, BOOT).unwrap();
        assert_eq!(left.len(), SLOTS);
        Marks::begin(&path, BOOT, &UnderWay::from([(id(5), 1)]));
        assert_eq!(Marks::read(&path, BOOT), Some(UnderWay::from([(id(5), 1)])));
        let more = left.into_iter().chain([(id(200), 1)]).collect();
        let marks = Arc::new(Marks::begin(&path, BOOT, &more));
        assert_eq!((Marks::read(&path, BOOT), marks.mark(id(1), 2).slot.is_some()), (None, true));
    }

    #[test]
    fn where_anything_is_wrong_nothing_is_known() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("under-way");
        let _mark = open(&folder).0.mark(id(1), 1);
        let content = fs::read(&path).unwrap();
        for (at, length) in [(0, content.len()), (5, content.len()), (20, content.len()), (0, 20), (0, 0)] {
            let mut damaged = content[..length].to_vec();
            damaged.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1);
            fs::write(&path, damaged).unwrap();
            assert_eq!(open(&folder).1, None, "{at} of {length}");
        }
        let (marks, _) = open(&folder);
        let (earlier, _later) = (marks.mark(id(1), 1), marks.mark(id(1), 2));
        drop(earlier);
        assert_eq!(open(&folder).1, Some(UnderWay::from([(id(1), 2)])), "a mark that ends late takes no other along");
        let _marked: Vec<Mark> = (0..=SLOTS as u8).map(|number| marks.mark(id(number), 1)).collect();
        assert!(!path.exists(), "one was not marked");
        assert_eq!(open(&folder).1, None);
    }

    #[test]
    fn the_layout_is_the_one_drawn_above() {
        let folder = TempDir::new().unwrap();
        let _mark = open(&folder).0.mark(id(9), 2);
        let content = fs::read(folder.path().join("under-way")).unwrap();
        assert_eq!(content.len(), 16 + 128 * 24);
        assert_eq!((&content[..4], &content[8..16]), (&b"hum1"[..], &[7, 0, 0, 0, 0, 0, 0, 0][..]));
        assert_eq!(content[16..36], [&[9; 16][..], &[2, 0, 0, 0]].concat());
    }
}
