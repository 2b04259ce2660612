//! The processes that write and read a store: a cut may end the one, damage the other.
//!
//! A child is this program itself with [`ROLE`] in its environment: `write STORE JOURNAL SEED STEPS`, `read STORE DUMP`, and
//! `control-write`, `control-read` likewise on a plain sled.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hedge_agent_core::outbox::{Change, Ending, Expiry, Head, ResultHead, Saved, WriteId};
use hedge_agent_spool::{
    Damage, Found, ModelSlots, OutboxConfig, OutboxError, OutboxStore, Slot, SlotFile, StoreReport,
};
use hedge_wire::{BootId, Digest, RequestId};

/// What makes this program a child.
const ROLE: &str = "HEDGE_DISK_CHILD";
/// Writes in flight: a few, or so many that a barrier is for megabytes.
const WIDTHS: [usize; 2] = [24, 96];
/// Bytes of half a journal: so few that each group is carried over at once, few, or as many as ever.
pub(crate) const JOURNALS: [u64; 3] = [4 << 10, 64 << 10, 8 << 20];
/// The bit of an id that says that its bodies are large.
const HEAVY: u8 = 0x80;
/// Requests that wait, and results, at most.
const HELD: usize = 300;
/// The longest that a reader may take.
const READ_PATIENCE: Duration = Duration::from_secs(60);

/// Plays a child's role, if there is one.
pub(crate) fn run_if_asked() -> Option<Result<(), String>> {
    let role = std::env::var(ROLE).ok()?;
    let words: Vec<&str> = role.split(' ').collect();
    Some(match words[..] {
        ["write", store, journal, seed, steps] => {
            write(Path::new(store), Path::new(journal), seed.parse().ok()?, steps.parse().ok()?)
        }
        ["read", store, dump] => read(Path::new(store), Path::new(dump)),
        ["control-write", store, journal, seed, _] => {
            control_write(Path::new(store), Path::new(journal), seed.parse().ok()?)
        }
        ["control-read", store, dump] => control_read(Path::new(store), Path::new(dump)),
        _ => Err(format!("no such role: {role}")),
    })
}

/// Starts a child.
pub(crate) fn start(role: &str) -> Child {
    // For the test, whose `main` is libtest's, the words are the name of the test that plays the role.
    let program = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new(program);
    command.args(["plays_a_child", "--exact", "--nocapture"]).env(ROLE, role);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("this program starts")
}

/// Whether a child that reads ended well, in time.
pub(crate) fn read_in_a_child(role: &str) -> bool {
    let mut child = start(role);
    let begun = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if begun.elapsed() < READ_PATIENCE => std::thread::sleep(Duration::from_millis(2)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return false;
            }
        }
    }
}

/// Bounds for a small disk.
pub(crate) fn config(store: &Path) -> OutboxConfig {
    OutboxConfig {
        // A quarter of it is for the start.
        reserve_bytes: 6 << 20,
        least_free_bytes: 1 << 20,
        max_quarantine_bytes: 8 << 20,
        ..OutboxConfig::new(store.to_owned())
    }
}

/// A store whose reports can be waited for.
pub(crate) struct Open {
    pub(crate) store: OutboxStore,
    pub(crate) found: Found,
    reports: Receiver<Vec<StoreReport>>,
    /// Of the last group.
    told: std::vec::IntoIter<StoreReport>,
    next: u64,
}

impl Open {
    pub(crate) fn new(config: OutboxConfig) -> Result<Self, String> {
        let (sender, reports) = channel();
        // It fails where nobody waits any more.
        let opened = OutboxStore::open(config, move |reports| drop(sender.send(reports)));
        let (store, found) = opened.map_err(|error| error.to_string())?;
        Ok(Self { store, found, reports, told: Vec::new().into_iter(), next: 0 })
    }

    pub(crate) fn persist(&mut self, change: Change<Bytes>, payload: Option<Bytes>) -> WriteId {
        let write = WriteId(self.next);
        self.next += 1;
        self.store.persist(write, change, payload);
        write
    }

    pub(crate) fn report(&mut self, patience: Duration) -> Result<StoreReport, String> {
        loop {
            if let Some(report) = self.told.next() {
                return Ok(report);
            }
            let next = self.reports.recv_timeout(patience).map_err(|_| format!("no report within {patience:?}"))?;
            self.told = next.into_iter();
        }
    }

    /// Whether the write was kept.
    pub(crate) fn done(&mut self, change: Change<Bytes>, payload: Option<Bytes>) -> Result<bool, String> {
        self.persist(change, payload);
        match self.report(Duration::from_secs(30))? {
            StoreReport::Persisted(_) => Ok(true),
            StoreReport::NotPersisted(_) => Ok(false),
            StoreReport::Failed(why) => Err(why),
        }
    }
}

/// Accepts, ends and erases requests until the disk fails or the steps are done.
fn write(store: &Path, journal: &Path, seed: u64, steps: u64) -> Result<(), String> {
    let mut writer = Writer { journal: append(journal)?, random: Random(seed), ..Writer::default() };
    let journal_bytes = JOURNALS[writer.random.below(JOURNALS.len())];
    let mut open = Open::new(OutboxConfig { journal_bytes, ..config(store) })?;
    let width = WIDTHS[writer.random.below(2)];
    writer.heavy = writer.random.below(2) == 0;
    for saved in &open.found.saved {
        match saved {
            Saved::Entry(head) | Saved::Damaged(head) => writer.waiting.push(head.id),
            Saved::Result(head) => writer.ended.push(head.id),
        }
    }
    let mut step = 0;
    while step < steps || !writer.asked.is_empty() {
        while step < steps && writer.asked.len() < width {
            step += 1;
            writer.ask(&mut open);
        }
        match open.report(Duration::from_secs(30))? {
            StoreReport::Persisted(write) => writer.kept(write),
            StoreReport::NotPersisted(write) => writer.refused(write),
            StoreReport::Failed(why) => return Err(why),
        }
    }
    open.store.close();
    Ok(())
}

#[derive(Default)]
struct Writer {
    journal: Option<File>,
    random: Random,
    heavy: bool,
    waiting: Vec<RequestId>,
    ended: Vec<RequestId>,
    asked: BTreeMap<WriteId, (char, RequestId)>,
}

impl Writer {
    fn ask(&mut self, open: &mut Open) {
        let roll = self.random.next() % 100;
        if !self.waiting.is_empty() && (roll < 30 || self.waiting.len() > HELD) {
            let id = self.draw(true);
            self.note('f', &id);
            let write = open.persist(finish(id), None);
            self.asked.insert(write, ('F', id));
        } else if !self.ended.is_empty() && (roll < 35 || self.ended.len() > HELD) {
            let id = self.draw(false);
            self.note('e', &id);
            open.store.note(Change::Erase(id));
        } else if !self.waiting.is_empty() && roll < 45 {
            let id = self.waiting[self.random.below(self.waiting.len())];
            open.store.note(Change::Update(Head { attempts: 1, ..head(id) }));
        } else {
            let id = weighed(self.random.id(), self.heavy);
            self.note('i', &id);
            let write = open.persist(Change::Insert(head(id)), Some(payload(&id)));
            self.asked.insert(write, ('I', id));
        }
    }

    fn draw(&mut self, waiting: bool) -> RequestId {
        let from = if waiting { &mut self.waiting } else { &mut self.ended };
        let at = (self.random.next() % from.len() as u64) as usize;
        from.swap_remove(at)
    }

    fn kept(&mut self, write: WriteId) {
        if let Some((what, id)) = self.asked.remove(&write) {
            self.note(what, &id);
            if what == 'I' { self.waiting.push(id) } else { self.ended.push(id) }
        }
    }

    fn refused(&mut self, write: WriteId) {
        match self.asked.remove(&write) {
            Some(('I', id)) => self.note('x', &id),
            Some((_, id)) => self.waiting.push(id),
            None => {}
        }
    }

    fn note(&mut self, what: char, id: &RequestId) {
        if let Some(journal) = &mut self.journal {
            // One write each, so that it survives the end of this process.
            journal.write_all(format!("{what} {id}\n").as_bytes()).expect("the journal lies on a sound disk");
        }
    }
}

/// Slots beside a store, as a device has them.
pub(crate) fn write_slots(store: &Path) -> Result<(), String> {
    let (slots, _) = SlotFile::open(store.join("slots"), 0).map_err(|error| error.to_string())?;
    [1, 2].into_iter().try_for_each(|number| slots.serves("model", slot(number))).map_err(|error| error.to_string())
}

fn slot(number: u8) -> Slot {
    Slot { digest: Digest([number; 32]), file: format!("{number}.hedge") }
}

/// Slots that are others than those written must be reported.
fn read_slots(store: &Path) -> Result<Vec<String>, String> {
    let folder = store.join("slots");
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let (slots, damage) = SlotFile::open(folder, 0).map_err(|error| error.to_string())?;
    let expected = ModelSlots { last: slot(2), before: Some(slot(1)) };
    let wrong = (slots.models().get("model") != Some(&expected)).then(|| "W slots".to_owned());
    Ok(wrong.into_iter().chain(damage.map(|damage| format!("! {damage}"))).collect())
}

/// Opens a store and writes down what it holds.
fn read(store: &Path, dump: &Path) -> Result<(), String> {
    let open = Open::new(config(store))?;
    let mut lines = read_slots(store)?;
    for damage in &open.found.damage {
        lines.push(format!("! {damage}"));
        if let Damage::Unnamed { count, .. } = damage {
            lines.push(format!("U {count}"));
        }
    }
    for saved in &open.found.saved {
        lines.extend(look(&open.store, saved)?);
    }
    lines.push("done".to_owned());
    open.store.close();
    std::fs::write(dump, lines.join("\n")).map_err(|error| error.to_string())
}

fn look(store: &OutboxStore, saved: &Saved) -> Result<Vec<String>, String> {
    let told = |what: char, id: &RequestId| format!("{what} {id}");
    Ok(match saved {
        Saved::Damaged(head) => vec![told('E', &head.id), told('D', &head.id)],
        Saved::Entry(head) => match store.payload(&head.id) {
            Ok(Some(bytes)) if bytes == payload(&head.id) => vec![told('E', &head.id)],
            Err(OutboxError::Damaged { .. }) => vec![told('E', &head.id), told('D', &head.id)],
            Ok(_) => vec![told('E', &head.id), told('W', &head.id)],
            Err(error) => return Err(error.to_string()),
        },
        Saved::Result(head) => match store.result(&head.id) {
            Ok(Some((_, Ending::Answered(bytes)))) if bytes == answer(&head.id) => vec![told('R', &head.id)],
            Err(OutboxError::Damaged { .. }) => vec![told('R', &head.id), told('D', &head.id)],
            Ok(_) => vec![told('R', &head.id), told('W', &head.id)],
            Err(error) => return Err(error.to_string()),
        },
    })
}

/// The control: records in a plain sled, acknowledged after its `flush`.
fn control_write(store: &Path, journal: &Path, seed: u64) -> Result<(), String> {
    let failed = |error: sled::Error| error.to_string();
    let db = sled::Config::new().path(store).flush_every_ms(None).open().map_err(failed)?;
    let mut writer = Writer { journal: append(journal)?, random: Random(seed), ..Writer::default() };
    loop {
        let ids: Vec<RequestId> = (0..WIDTHS[0]).map(|_| writer.random.id()).collect();
        for id in &ids {
            writer.note('i', id);
            db.insert(id.as_bytes(), payload(id).to_vec()).map_err(failed)?;
        }
        db.flush().map_err(failed)?;
        ids.iter().for_each(|id| writer.note('I', id));
    }
}

fn control_read(store: &Path, dump: &Path) -> Result<(), String> {
    let failed = |error: sled::Error| error.to_string();
    let db = sled::Config::new().path(store).open().map_err(failed)?;
    let mut lines = Vec::new();
    for pair in db.iter() {
        let (key, value) = pair.map_err(failed)?;
        let id = RequestId::from_bytes(key.as_ref().try_into().map_err(|_| "a key of another length")?);
        lines.push(format!("E {id}"));
        if value != payload(&id) {
            lines.push(format!("W {id}"));
        }
    }
    lines.push("done".to_owned());
    std::fs::write(dump, lines.join("\n")).map_err(|error| error.to_string())
}

fn append(journal: &Path) -> Result<Option<File>, String> {
    OpenOptions::new().create(true).append(true).open(journal).map(Some).map_err(|error| error.to_string())
}

pub(crate) fn head(id: RequestId) -> Head {
    head_of(id, payload(&id).len() as u64)
}

/// The head of a request with a payload of so many bytes.
pub(crate) fn head_of(id: RequestId, bytes: u64) -> Head {
    Head { id, digest: Digest([id.as_bytes()[15]; 32]), bytes, attempts: 0, placed: false, expiry: expiry() }
}

pub(crate) fn finish(id: RequestId) -> Change<Bytes> {
    let (digest, answer) = (Digest([id.as_bytes()[15]; 32]), answer(&id));
    let head = ResultHead { id, digest, bytes: answer.len() as u64, fetched: false, expiry: expiry() };
    Change::Finish { head, ending: Ending::Answered(answer) }
}

fn expiry() -> Expiry {
    Expiry { boot: BootId(1), at: Duration::from_secs(86_400), left: Duration::from_secs(86_400) }
}

/// Mostly some KiB; now and then more than lies in the database.
pub(crate) fn payload(id: &RequestId) -> Bytes {
    body(id, 1)
}

pub(crate) fn answer(id: &RequestId) -> Bytes {
    body(id, 2)
}

fn body(id: &RequestId, salt: u64) -> Bytes {
    let start = u64::from_le_bytes(id.as_bytes()[8..].try_into().expect("8 bytes"));
    let mut random = Random(start ^ salt);
    let length = match (random.below(100), id.as_bytes()[0] & HEAVY != 0) {
        (0, _) => 66_000 + random.below(40_000),
        (1..=4, _) | (5..=60, true) => 20_000 + random.below(45_000),
        _ => random.below(3_000),
    };
    (0..length.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).take(length).collect()
}

fn weighed(id: RequestId, heavy: bool) -> RequestId {
    let mut bytes = *id.as_bytes();
    bytes[0] = (bytes[0] & !HEAVY) | if heavy { HEAVY } else { 0 };
    RequestId::from_bytes(bytes)
}

/// SplitMix64: the same for a seed on every machine.
#[derive(Default)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// An id of small bodies.
    pub(crate) fn id(&mut self) -> RequestId {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.next().to_be_bytes());
        bytes[8..].copy_from_slice(&self.next().to_be_bytes());
        weighed(RequestId::from_bytes(bytes), false)
    }
}

/// A folder for one run, removed at its end.
pub(crate) fn scratch() -> Result<tempfile::TempDir, String> {
    tempfile::tempdir().map_err(|error| error.to_string())
}

/// Where a child is to write down what it found.
pub(crate) fn dump_path(folder: &Path) -> PathBuf {
    folder.join("dump")
}
