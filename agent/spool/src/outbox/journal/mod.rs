//! What was accepted and is not in the database yet: each group is appended here and synced once, and the database has it later.
//!
//! ```text
//! journal-0, journal-1     a half each (entry.rs), of up to 8 MiB
//! ```
//!
//! One half is written to. When it is full, or a second after it was begun, the other one takes its place, and what it has goes
//! into the database (checkpoint.rs); from then on it is empty. Whoever reads asks the journal first, and so does a start. Of the
//! changes of one key only the last counts, so a request that was answered and fetched meanwhile never reaches the database.
//!
//! A half keeps its blocks when it is emptied: overwriting them takes no change of the file system's own, which is half of what
//! an fsync costs where a file grows.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(super) use self::entry::Entry;
use self::entry::{ENTRY_HEAD, Entries, HALF_HEADER};
use super::database::Fault;
use super::key::Key;
use super::table::Step;
use crate::replace::sync_folder;
use crate::store::is_bad_sector;

mod entry;

/// Bytes that are read at a time.
const READ_BYTES: usize = 64 * 1024;
/// Bytes of values that are given at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// The open journal. One thread appends and seals; the others read, and one of them empties the half that was sealed.
pub(super) struct Journal {
    paths: [PathBuf; 2],
    files: [File; 2],
    /// What a half holds at most, unless one group is more.
    capacity: u64,
    halves: Mutex<Halves>,
}

/// One of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct HalfId(usize);

#[derive(Default)]
struct Halves {
    active: usize,
    both: [Half; 2],
}

#[derive(Default)]
struct Half {
    /// Where each key was changed last.
    places: HashMap<Key, Place>,
    /// Where the next entry goes; 0 if there is none.
    end: u64,
    chain: u32,
    generation: u64,
    /// When its first group was appended, or read.
    begun: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    at: u64,
    /// None: the key is removed.
    length: Option<usize>,
}

/// What the journal says of a key.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Last {
    /// Nothing: the database has the last word.
    Elsewhere,
    /// It is removed, or cannot be read.
    Gone,
    Value(Vec<u8>),
}

impl Journal {
    /// Opens the journal in a folder, or makes it there, and reads what it has.
    pub(super) fn open(folder: &Path, capacity: u64) -> io::Result<Self> {
        let paths = [folder.join("journal-0"), folder.join("journal-1")];
        let is_new = paths.iter().any(|path| !path.exists());
        let [first, second] = [&paths[0], &paths[1]]
            .map(|path| File::options().read(true).write(true).create(true).truncate(false).open(path));
        let files = [first?, second?];
        if is_new {
            sync_folder(folder)?;
        }
        // What a killed process wrote and did not sync would be told, and lost when the power goes.
        files.iter().filter(|file| file.metadata().is_ok_and(|meta| meta.len() > 0)).try_for_each(File::sync_data)?;
        let both = [&files[0], &files[1]].map(Half::read);
        let active = usize::from(both[1].generation > both[0].generation);
        Ok(Self { paths, files, capacity, halves: Mutex::new(Halves { active, both }) })
    }

    pub(super) fn paths(&self) -> &[PathBuf; 2] {
        &self.paths
    }

    pub(super) fn is_empty(&self) -> bool {
        self.halves().both.iter().all(Half::is_empty)
    }

    /// The highest generation in it; 0 if it is empty.
    pub(super) fn generation(&self) -> u64 {
        self.halves().both.iter().map(|half| half.generation).max().unwrap_or(0)
    }

    /// Whether the half that is written to takes so many bytes more. An empty one takes any.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        let halves = self.halves();
        let half = halves.active();
        half.is_empty() || half.end.saturating_add(bytes) <= self.capacity
    }

    /// Whether something has been in it for that long.
    pub(super) fn holds_for(&self, time: Duration) -> bool {
        self.halves().both.iter().any(|half| half.begun.is_some_and(|begun| begun.elapsed() >= time))
    }

    /// Has the changes survive the end of the power. A half begins with the generation, which is higher from half to half. Where
    /// there is no space, nothing of them stays.
    pub(super) fn append(&self, generation: u64, steps: &[Step]) -> Result<(), Fault> {
        let (active, mut group) = {
            let halves = self.halves();
            (halves.active, Group::behind(halves.active(), generation))
        };
        group.bytes.reserve(steps.iter().map(bytes_of).sum());
        steps.iter().for_each(|step| group.take(step));
        if group.places.is_empty() {
            return Ok(());
        }
        write(&self.files[active], &group)?;
        self.halves().both[active].extend(group);
        Ok(())
    }

    /// Whether it says anything of a key.
    pub(super) fn changes(&self, key: &Key) -> bool {
        self.halves().both.iter().any(|half| half.places.contains_key(key))
    }

    /// The last that it says of a key. What fails may work later, other than a sector that cannot be read any more.
    pub(super) fn last(&self, key: &Key) -> io::Result<Last> {
        // Locked until the value is read: what is emptied may be written over.
        let halves = self.halves();
        let newest_first = [halves.active, 1 - halves.active].into_iter();
        let mut found = newest_first.filter_map(|half| halves.both[half].places.get(key).map(|place| (half, place)));
        let (half, at, length) = match found.next() {
            None => return Ok(Last::Elsewhere),
            Some((_, Place { length: None, .. })) => return Ok(Last::Gone),
            Some((half, Place { at, length: Some(length) })) => (half, *at, *length),
        };
        let mut value = vec![0; length];
        match self.files[half].read_exact_at(&mut value, at) {
            Ok(()) => Ok(Last::Value(value)),
            Err(error) if is_bad_sector(&error) => Ok(Last::Gone),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Last::Gone),
            Err(error) => Err(error),
        }
    }

    /// The half that is to be carried over: one that is sealed, or else the one that is written to so far. Then the other one is.
    pub(super) fn seal(&self) -> Option<HalfId> {
        let mut halves = self.halves();
        let (active, other) = (halves.active, 1 - halves.active);
        if !halves.both[other].is_empty() {
            return Some(HalfId(other));
        }
        (!halves.both[active].is_empty()).then(|| {
            halves.active = other;
            HalfId(active)
        })
    }

    /// The halves that hold something, the older first.
    pub(super) fn filled(&self) -> Vec<HalfId> {
        let halves = self.halves();
        let order = [1 - halves.active, halves.active].into_iter();
        order.filter(|&half| !halves.both[half].is_empty()).map(HalfId).collect()
    }

    /// Gives what a half holds, in order and some at a time, without what was changed again later.
    pub(super) fn replay(
        &self,
        half: HalfId,
        mut take: impl FnMut(&[Entry]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut entries = Entries::of(BufReader::with_capacity(READ_BYTES, At(&self.files[half.0], 0)));
        loop {
            let mut chunk = next_chunk(entries.iter_mut().flatten());
            if chunk.is_empty() {
                break;
            }
            self.halves().retain_last(half, &mut chunk);
            take(&chunk)?;
        }
        match entries.map_or(0, |entries| entries.end().0) == self.halves().both[half.0].end {
            true => Ok(()),
            false => Err(Fault::Broken(format!("{} was damaged", self.paths[half.0].display()))),
        }
    }

    /// Likewise with everything.
    pub(super) fn replay_all(&self, mut take: impl FnMut(&[Entry]) -> Result<(), Fault>) -> Result<(), Fault> {
        self.filled().into_iter().try_for_each(|half| self.replay(half, &mut take))
    }

    /// Empties a half. Of two that hold something the older goes first: without the newer one it would undo what came later.
    pub(super) fn clear(&self, half: HalfId) -> Result<(), Fault> {
        self.files[half.0].write_all_at(&[0; HALF_HEADER], 0)?;
        sync(&self.files[half.0])?;
        self.halves().both[half.0] = Half::default();
        Ok(())
    }

    /// Empties it.
    pub(super) fn clear_all(&self) -> Result<(), Fault> {
        self.filled().into_iter().try_for_each(|half| self.clear(half))
    }

    fn halves(&self) -> MutexGuard<'_, Halves> {
        self.halves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Halves {
    /// The half that is written to.
    fn active(&self) -> &Half {
        &self.both[self.active]
    }

    /// Leaves out what was changed again later.
    fn retain_last(&self, half: HalfId, entries: &mut Vec<Entry>) {
        let newer = (half.0 != self.active).then(|| &self.active().places);
        entries.retain(|entry| {
            let is_last = self.both[half.0].places.get(&entry.key).is_some_and(|place| place.at == entry.at);
            is_last && newer.is_none_or(|places| !places.contains_key(&entry.key))
        });
    }
}

impl Half {
    fn is_empty(&self) -> bool {
        self.end == 0
    }

    fn extend(&mut self, group: Group) {
        self.places.extend(group.places);
        self.end = group.begin + group.bytes.len() as u64;
        (self.chain, self.generation) = (group.chain, group.generation);
        self.begun.get_or_insert_with(Instant::now);
    }

    /// What lies in the file of a half.
    fn read(file: &File) -> Self {
        let mut half = Self::default();
        let Some(mut entries) = Entries::of(BufReader::with_capacity(READ_BYTES, At(file, 0))) else { return half };
        for entry in &mut entries {
            let length = entry.value.as_ref().map(Vec::len);
            half.places.insert(entry.key, Place { at: entry.at, length });
        }
        half.begun = Some(Instant::now());
        half.generation = entries.generation();
        (half.end, half.chain) = entries.end();
        half
    }
}

fn next_chunk(entries: impl Iterator<Item = Entry>) -> Vec<Entry> {
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    for entry in entries {
        bytes += entry.value.as_ref().map_or(0, Vec::len) + ENTRY_HEAD;
        chunk.push(entry);
        if bytes >= CHUNK_BYTES {
            break;
        }
    }
    chunk
}

/// Changes on their way to the end of a half.
struct Group {
    generation: u64,
    /// Where its bytes go.
    begin: u64,
    bytes: Vec<u8>,
    chain: u32,
    places: Vec<(Key, Place)>,
}

impl Group {
    /// One that goes behind what the half has; an empty one begins with a header.
    fn behind(half: &Half, generation: u64) -> Self {
        let generation = if half.is_empty() { generation } else { half.generation };
        let (header, first) = entry::header(generation);
        let (bytes, chain) = if half.is_empty() { (header.to_vec(), first) } else { (Vec::new(), half.chain) };
        Self { generation, begin: half.end, bytes, chain, places: Vec::new() }
    }

    fn take(&mut self, step: &Step) {
        step.puts.iter().for_each(|(key, value)| self.put(key, Some(value)));
        step.removes.iter().for_each(|key| self.put(key, None));
    }

    fn put(&mut self, key: &Key, value: Option<&[u8]>) {
        let (at, chain) = entry::put(&mut self.bytes, self.chain, key, value);
        self.chain = chain;
        self.places.push((*key, Place { at: self.begin + at as u64, length: value.map(<[u8]>::len) }));
    }
}

/// About what a change takes.
fn bytes_of(step: &Step) -> usize {
    let values: usize = step.puts.iter().map(|(_, value)| value.len()).sum();
    values + (step.puts.len() + step.removes.len()) * ENTRY_HEAD
}

/// Writes a group and syncs it.
fn write(file: &File, group: &Group) -> Result<(), Fault> {
    if let Err(error) = file.write_all_at(&group.bytes, group.begin) {
        // Else a part of it might be found behind a shorter group.
        let cut = file.set_len(group.begin);
        cut.map_err(|error| Fault::Disk(format!("the outbox's journal cannot be cut: {error}")))?;
        sync(file)?;
        return Err(error.into());
    }
    sync(file)
}

/// What fails here is not tried again, whatever it is, because the kernel drops pages that it could not write.
fn sync(file: &File) -> Result<(), Fault> {
    file.sync_data().map_err(|error| Fault::Disk(format!("fsync of the outbox's journal failed: {error}")))
}

/// A file from a place on, whoever else reads it.
struct At<'a>(&'a File, u64);

impl Read for At<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read_at(bytes, self.1)?;
        self.1 += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
