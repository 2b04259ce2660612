//! The folder in which a pool keeps the states of its classes.
//!
//! ```text
//! state_dir/lock                          held by the gateway that uses the folder
//! state_dir/classes/{class}-{index}.class    a state (file.rs); index is the number up to which the series may be spent
//! state_dir/classes/{class}-{index}.damaged  one that could not be read, for people
//! state_dir/classes/{class}-{index}.past     empty: a class that was forgotten after it had spent so much
//! state_dir/classes/{class}.part             one that is being written
//! ```
//!
//! A state is written beside, synced and renamed: whenever the power goes, the old or the new one is there.
//!
//! # Why the index stands in the name
//!
//! The certificates of a class share one delta: the m-th spends 6 delta / (pi^2 m^2). A pool that lost a class's state and
//! began again at 1 would spend the large first shares once more. What is damaged, though, is a file's content, while its name
//! lies in the folder: from the names alone it is known behind which number a class has to begin anew. An index in a name may
//! have been spent or not; it counts as spent, which costs a smaller share, never more of delta. So names without a state
//! (`.damaged`, `.past`) must stay, and the folder must not be put back from a backup: it would not know what was spent since.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use hedge_gateway_core::Snapshot;
use hedge_wire::Hash16;

use super::file;

/// How long to wait for the lock of a gateway that is just ending.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_POLL: Duration = Duration::from_millis(20);

const STATE: &str = "class";
const DAMAGED: &str = "damaged";
const PAST: &str = "past";
const PART: &str = "part";

/// Why nothing can be kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another gateway has the folder.
    #[error("gateway.state_dir {} is in use by another process: exactly one gateway of a site may pool", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The folder or a file in it cannot be used.
    #[error("gateway.state_dir: cannot use {}: {source}; check that it exists and is readable and writable", path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// What the folder says of a class.
#[derive(Debug, PartialEq)]
pub(super) struct Found {
    pub(super) class: Hash16,
    /// The number up to which its series may be spent.
    pub(super) index: u32,
    /// Its state; `Err` says why it cannot be used. `None` where only the number is known.
    pub(super) state: Option<Result<Vec<u8>, String>>,
}

/// The open folder.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    /// The files of each class that have a state: more than one only while one replaces another.
    states: BTreeMap<Hash16, BTreeSet<u32>>,
    /// Locked until it is dropped.
    _lock: File,
}

impl Store {
    /// Opens the folder, which is made where it does not exist, and reads what is in it.
    pub(super) fn open(state_dir: &Path) -> Result<(Self, Vec<Found>), StoreError> {
        make_folder(state_dir).map_err(unusable(state_dir))?;
        let lock = lock(state_dir)?;
        let folder = state_dir.join("classes");
        make_folder(&folder).map_err(unusable(&folder))?;
        sync_folder(state_dir).map_err(unusable(state_dir))?;
        let names = names(&folder).map_err(unusable(&folder))?;
        let mut store = Self { folder, states: BTreeMap::new(), _lock: lock };
        let mut found = Vec::new();
        for (class, names) in names {
            found.push(store.find(class, &names)?);
        }
        Ok((store, found))
    }

    /// Puts a class's state in the place of what lay there, durably.
    pub(super) fn write(&mut self, class: Hash16, snapshot: &Snapshot) -> io::Result<()> {
        let content = file::encode(class, snapshot).ok_or_else(|| io::Error::other("the state is too large"))?;
        let part = self.folder.join(format!("{class}.{PART}"));
        let mut out = File::create(&part)?;
        out.write_all(&content)?;
        out.sync_all()?;
        drop(out);
        fs::rename(&part, self.path(class, snapshot.index, STATE))?;
        sync_folder(&self.folder)?;
        let old = self.states.insert(class, BTreeSet::from([snapshot.index])).unwrap_or_default();
        for index in old.into_iter().filter(|&index| index != snapshot.index) {
            // One that stays is told from the newer by its number.
            let _ = fs::remove_file(self.path(class, index, STATE));
        }
        Ok(())
    }

    /// Deletes a class's state; that it has spent its series up to `spent` is kept.
    pub(super) fn forget(&mut self, class: Hash16, spent: u32) -> io::Result<()> {
        if spent > 0 {
            File::create(self.path(class, spent, PAST))?.sync_all()?;
            sync_folder(&self.folder)?;
        }
        for index in self.states.remove(&class).unwrap_or_default() {
            fs::remove_file(self.path(class, index, STATE))?;
        }
        Ok(())
    }

    /// Moves a state that cannot be used out of the way; what it is called then.
    pub(super) fn set_aside(&mut self, class: Hash16) -> io::Result<Vec<PathBuf>> {
        let mut aside = Vec::new();
        for index in self.states.remove(&class).unwrap_or_default() {
            let path = self.path(class, index, DAMAGED);
            fs::rename(self.path(class, index, STATE), &path)?;
            aside.push(path);
        }
        sync_folder(&self.folder)?;
        Ok(aside)
    }

    fn path(&self, class: Hash16, index: u32, ending: &str) -> PathBuf {
        self.folder.join(format!("{class}-{index}.{ending}"))
    }

    /// What there is of one class. Of several states the one of the highest number counts; one whose number is known to be
    /// spent without it is out of date.
    fn find(&mut self, class: Hash16, names: &[(u32, Kind)]) -> Result<Found, StoreError> {
        let of = |kind| names.iter().filter(move |(_, other)| *other == kind).map(|(index, _)| *index);
        let spent = of(Kind::Spent).max().unwrap_or(0);
        let Some(index) = of(Kind::State).max() else {
            return Ok(Found { class, index: spent, state: None });
        };
        self.states.insert(class, of(Kind::State).collect());
        let state = match index > spent {
            true => self.read(class, index)?,
            false => Err(format!("another file says that {spent} is spent: it is out of date")),
        };
        Ok(Found { class, index: index.max(spent), state: Some(state) })
    }

    fn read(&self, class: Hash16, index: u32) -> Result<Result<Vec<u8>, String>, StoreError> {
        let path = self.path(class, index, STATE);
        let limit = (file::HEADER + file::MAX_STATE_BYTES + 1) as u64;
        let mut content = Vec::new();
        // Not to be allowed to read it is no damage: it is for people to mend.
        let read = File::open(&path).and_then(|file| file.take(limit).read_to_end(&mut content));
        read.map_err(unusable(&path))?;
        Ok(file::decode(class, index, &content))
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    State,
    /// Only its number counts.
    Spent,
}

/// Makes the names in a folder survive the end of the power.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// What lies there is nobody else's business: labels say what devices see.
fn make_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(folder)
}

fn unusable(path: &Path) -> impl Fn(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Unusable { path: path.clone(), source }
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let file = File::create(path.join("lock")).map_err(unusable(path))?;
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if started.elapsed() < LOCK_PATIENCE => std::thread::sleep(LOCK_POLL),
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(unusable(path)(error)),
        }
    }
}

/// Every class that a name speaks of; what has another form of name is left alone.
fn names(folder: &Path) -> io::Result<BTreeMap<Hash16, Vec<(u32, Kind)>>> {
    let mut names: BTreeMap<Hash16, Vec<(u32, Kind)>> = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        if let Some((class, index, kind)) = entry?.file_name().to_str().and_then(parse) {
            names.entry(class).or_default().push((index, kind));
        }
    }
    Ok(names)
}

fn parse(name: &str) -> Option<(Hash16, u32, Kind)> {
    let (stem, ending) = name.rsplit_once('.')?;
    let (class, index) = stem.split_once('-')?;
    let kind = match ending {
        STATE => Kind::State,
        DAMAGED | PAST => Kind::Spent,
        _ => return None,
    };
    Some((Hash16::parse(class).ok()?, index.parse().ok()?, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASS: Hash16 = Hash16([0xab; 8]);

    fn snapshot(index: u32) -> Snapshot {
        Snapshot { index, state: vec![7; 100] }
    }

    fn found(folder: &Path) -> Vec<Found> {
        Store::open(folder).unwrap().1
    }

    fn state(index: u32) -> Vec<Found> {
        vec![Found { class: CLASS, index, state: Some(Ok(vec![7; 100])) }]
    }

    #[test]
    fn the_latest_state_is_found_again_and_no_older_one_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (mut store, none) = Store::open(folder.path()).unwrap();
        assert_eq!(none, []);
        for index in [1, 1, 2] {
            store.write(CLASS, &snapshot(index)).unwrap();
        }
        assert!(!store.path(CLASS, 1, STATE).exists());
        drop(store);
        assert_eq!(found(folder.path()), state(2));
    }

    #[test]
    fn of_two_states_that_a_crash_left_the_newer_counts() {
        let folder = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(folder.path()).unwrap();
        store.write(CLASS, &snapshot(1)).unwrap();
        let old = fs::read(store.path(CLASS, 1, STATE)).unwrap();
        store.write(CLASS, &snapshot(2)).unwrap();
        fs::write(store.path(CLASS, 1, STATE), old).unwrap();
        fs::write(folder.path().join("classes").join(format!("{CLASS}.part")), "half").unwrap();
        drop(store);
        let (mut store, found) = Store::open(folder.path()).unwrap();
        assert_eq!(found, state(2));
        store.write(CLASS, &snapshot(3)).unwrap();
        assert!(!store.path(CLASS, 1, STATE).exists() && !store.path(CLASS, 2, STATE).exists());
    }

    #[test]
    fn of_a_damaged_state_the_number_is_known_for_good() {
        let folder = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(folder.path()).unwrap();
        store.write(CLASS, &snapshot(4)).unwrap();
        let path = store.path(CLASS, 4, STATE);
        fs::write(&path, b"hedgecls nonsense").unwrap();
        drop(store);
        let (mut store, found) = Store::open(folder.path()).unwrap();
        let [Found { index: 4, state: Some(Err(_)), .. }] = found.as_slice() else { panic!("{found:?}") };
        let aside = store.set_aside(CLASS).unwrap();
        assert!(aside.iter().all(|aside| aside.exists()) && aside.len() == 1 && !path.exists());
        drop(store);
        let (mut store, found) = Store::open(folder.path()).unwrap();
        assert_eq!(found, [Found { class: CLASS, index: 4, state: None }]);
        store.write(CLASS, &snapshot(5)).unwrap();
        drop(store);
        assert_eq!(self::found(folder.path()), state(5));
    }

    #[test]
    fn a_state_from_before_what_is_known_to_be_spent_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(folder.path()).unwrap();
        store.write(CLASS, &snapshot(2)).unwrap();
        let backup = fs::read(store.path(CLASS, 2, STATE)).unwrap();
        store.forget(CLASS, 2).unwrap();
        fs::write(store.path(CLASS, 2, STATE), backup).unwrap();
        drop(store);
        let found = found(folder.path());
        assert!(matches!(found.as_slice(), [Found { index: 2, state: Some(Err(_)), .. }]), "{found:?}");
    }

    #[test]
    fn of_a_forgotten_class_only_what_it_spent_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(folder.path()).unwrap();
        let other = Hash16([1; 8]);
        store.write(CLASS, &snapshot(3)).unwrap();
        store.write(other, &snapshot(1)).unwrap();
        store.forget(CLASS, 2).unwrap();
        store.forget(other, 0).unwrap();
        drop(store);
        assert_eq!(found(folder.path()), [Found { class: CLASS, index: 2, state: None }]);
        let names = fs::read_dir(folder.path().join("classes")).unwrap().count();
        assert_eq!(names, 1);
    }

    #[test]
    fn one_folder_is_of_one_gateway() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path()).unwrap();
        let error = Store::open(folder.path()).unwrap_err();
        assert!(matches!(error, StoreError::InUse { .. }), "{error}");
        drop(store);
        assert!(Store::open(folder.path()).is_ok());
    }

    #[test]
    fn only_names_of_the_one_form_are_read() {
        assert_eq!(parse("abababababababab-7.class"), Some((CLASS, 7, Kind::State)));
        assert_eq!(parse("abababababababab-7.past"), Some((CLASS, 7, Kind::Spent)));
        for other in
            ["abababababababab.part", "x-7.class", "abababababababab-.class", "abababababababab-7.bak", ".class"]
        {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
