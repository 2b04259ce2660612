//! The outbox on a real disk: restarts, damage, and every write that the power may interrupt.

use super::*;
use crate::{Audit, State as AuditState, StateConfig};
use hedge_agent_core::outbox::{Expiry, Head};
use hedge_wire::{BootId, Digest};
use std::fs;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use tempfile::TempDir;

mod damage;
mod torn;

const PATIENCE: Duration = Duration::from_secs(20);

struct Bench {
    store: OutboxStore,
    found: Found,
    reports: Receiver<StoreReport>,
    writes: u64,
}

fn config(folder: &Path) -> OutboxConfig {
    OutboxConfig { reserve_bytes: 1 << 16, least_free_bytes: 1 << 20, ..OutboxConfig::new(folder.join("outbox")) }
}

/// Sends on what is reported, one by one.
fn each(sender: Sender<StoreReport>) -> impl FnMut(Vec<StoreReport>) {
    // It fails where nobody waits any more.
    move |reports| reports.into_iter().for_each(|report| drop(sender.send(report)))
}

impl Bench {
    fn open(folder: &Path) -> Self {
        Self::with(config(folder))
    }

    fn with(config: OutboxConfig) -> Self {
        let (sender, reports) = channel();
        let (store, found) = OutboxStore::open(config, each(sender)).unwrap();
        Self { store, found, reports, writes: 0 }
    }

    /// Whether it was kept.
    fn persist(&mut self, change: Change<Bytes>, payload: Option<Bytes>) -> bool {
        let write = WriteId(self.writes);
        self.writes += 1;
        self.store.persist(write, change, payload);
        match self.reports.recv_timeout(PATIENCE).unwrap() {
            StoreReport::Persisted(id) => id == write,
            StoreReport::NotPersisted(_) => false,
            StoreReport::Failed(why) => panic!("{why}"),
        }
    }

    fn insert(&mut self, number: u8, payload: &[u8]) -> bool {
        self.persist(Change::Insert(head(number)), Some(Bytes::copy_from_slice(payload)))
    }

    fn answer(&mut self, number: u8, answer: &[u8]) -> bool {
        self.persist(finish(number, answer), None)
    }

    /// Everything there is, in order, with its body.
    fn all(&self) -> Vec<(Saved, String)> {
        self.found.saved.iter().map(|saved| (saved.clone(), self.body(saved))).collect()
    }

    fn body(&self, saved: &Saved) -> String {
        match saved {
            Saved::Entry(head) | Saved::Damaged(head) => match self.store.payload(&head.id) {
                Ok(payload) => format!("{:?}", payload.unwrap()),
                Err(error) => error.to_string(),
            },
            Saved::Result(head) => match self.store.result(&head.id) {
                Ok(result) => format!("{:?}", result.unwrap().1),
                Err(error) => error.to_string(),
            },
        }
    }
}

fn id(number: u8) -> RequestId {
    RequestId::from_bytes([number; 16])
}

fn expiry() -> Expiry {
    Expiry { boot: BootId(1), at: Duration::from_secs(10), left: Duration::from_secs(5) }
}

fn head(number: u8) -> Head {
    Head { id: id(number), digest: Digest([number; 32]), bytes: 3, attempts: 0, placed: false, expiry: expiry() }
}

fn result(number: u8, bytes: u64) -> ResultHead {
    ResultHead { id: id(number), digest: Digest([number; 32]), bytes, fetched: false, expiry: expiry() }
}

fn finish(number: u8, answer: &[u8]) -> Change<Bytes> {
    let head = result(number, answer.len() as u64);
    Change::Finish { head, ending: Ending::Answered(Bytes::copy_from_slice(answer)) }
}

fn files_in(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, |files| files.count())
}

#[test]
fn what_was_persisted_is_there_after_a_restart_in_the_order_of_acceptance() {
    let folder = TempDir::new().unwrap();
    let mut bench = Bench::open(folder.path());
    assert!(bench.found.saved.is_empty() && bench.found.damage.is_empty());
    for number in [9, 3, 7, 5] {
        assert!(bench.insert(number, &[number; 10]));
    }
    assert!(bench.answer(3, b"answer"));
    bench.store.note(Change::Update(Head { attempts: 1, ..head(7) }));
    bench.store.close();

    let bench = Bench::open(folder.path());
    let expected = vec![
        Saved::Entry(head(9)),
        Saved::Result(result(3, 6)),
        Saved::Entry(Head { attempts: 1, ..head(7) }),
        Saved::Entry(head(5)),
    ];
    assert_eq!(bench.found.saved, expected);
    assert_eq!(bench.found.damage, []);
    assert_eq!(bench.store.payload(&id(9)).unwrap(), Some(Bytes::from_static(&[9; 10])));
    assert_eq!(bench.store.payload(&id(3)).unwrap(), None);
    let answer = Ending::Answered(Bytes::from_static(b"answer"));
    assert_eq!(bench.store.result(&id(3)).unwrap(), Some((result(3, 6), answer)));
    assert_eq!(bench.store.result(&id(9)).unwrap(), None);
}

#[test]
fn every_kind_of_ending_comes_back_as_it_was_until_it_is_erased() {
    let folder = TempDir::new().unwrap();
    let mut bench = Bench::open(folder.path());
    for (number, ending) in [(1, Ending::Poisoned { attempts: 2 }), (2, Ending::Damaged)] {
        bench.insert(number, b"payload");
        assert!(bench.persist(Change::Finish { head: result(number, 0), ending }, None));
    }
    assert!(bench.persist(Change::Fetched(id(2)), None));
    drop(bench);
    let mut bench = Bench::open(folder.path());
    let (first, second) = (result(1, 0), ResultHead { fetched: true, ..result(2, 0) });
    assert_eq!(bench.store.result(&id(1)).unwrap(), Some((first, Ending::Poisoned { attempts: 2 })));
    assert_eq!(bench.store.result(&id(2)).unwrap(), Some((second, Ending::Damaged)));
    assert!(bench.persist(Change::Erase(id(1)), None) && bench.persist(Change::Erase(id(1)), None));
    drop(bench);
    let bench = Bench::open(folder.path());
    assert_eq!((bench.found.saved.len(), bench.found.damage.len()), (1, 0));
}

#[test]
fn a_body_of_64_kib_lies_in_the_database_and_a_larger_one_in_a_file_until_no_row_names_it() {
    let folder = TempDir::new().unwrap();
    let bodies = folder.path().join("outbox/bodies");
    let (inline, large) = (vec![7; INLINE_BYTES], vec![8; INLINE_BYTES + 1]);
    let mut bench = Bench::open(folder.path());
    assert!(bench.insert(1, &inline));
    assert_eq!(files_in(&bodies), 0);
    assert!(bench.insert(2, &large) && bench.insert(3, &large));
    assert_eq!(files_in(&bodies), 1, "one file for the same content");
    drop(bench);
    let mut bench = Bench::open(folder.path());
    assert_eq!(bench.store.payload(&id(1)).unwrap().unwrap(), inline);
    assert_eq!(bench.store.payload(&id(2)).unwrap().unwrap(), large);
    assert!(bench.answer(2, b""));
    assert_eq!(files_in(&bodies), 1, "3 names it");
    assert!(bench.answer(3, &vec![9; INLINE_BYTES + 1]));
    assert_eq!(files_in(&bodies), 1, "the answer's");
    assert!(bench.persist(Change::Erase(id(3)), None));
    assert_eq!(files_in(&bodies), 0);
}

#[test]
fn the_payload_of_a_poisoned_request_is_kept_in_quarantine() {
    let folder = TempDir::new().unwrap();
    let mut bench = Bench::open(folder.path());
    bench.insert(1, b"poison");
    let ending = Ending::Poisoned { attempts: 2 };
    assert!(bench.persist(Change::Finish { head: result(1, 0), ending }, None));
    let kept = folder.path().join("outbox/quarantine").join(format!("00000000-{}", id(1)));
    assert_eq!(fs::read(kept).unwrap(), b"poison");
    assert_eq!(bench.store.stats().quarantined, 1);
}

#[test]
fn a_request_beyond_the_quota_is_refused_and_nothing_of_it_remains() {
    let folder = TempDir::new().unwrap();
    let mut bench = Bench::with(OutboxConfig { max_bytes: 100_000, ..config(folder.path()) });
    assert!(bench.insert(1, &[1; 90_000]));
    assert!(!bench.insert(2, &[2; 90_000]) && !bench.persist(Change::Insert(head(3)), None));
    assert_eq!((bench.store.stats().refused, bench.store.stats().waiting), (2, 1));
    assert_eq!(files_in(&folder.path().join("outbox/bodies")), 1);
    assert!(bench.answer(1, b"done") && bench.insert(2, &[2; 90_000]));
    drop(bench);
    assert_eq!(Bench::open(folder.path()).found.saved, [Saved::Result(result(1, 4)), Saved::Entry(head(2))]);
}

#[test]
fn notes_alone_are_written_a_second_later() {
    let folder = TempDir::new().unwrap();
    let mut bench = Bench::open(folder.path());
    bench.insert(1, b"payload");
    let changes = bench.store.stats().changes;
    bench.store.note(Change::Update(Head { placed: true, ..head(1) }));
    let begun = Instant::now();
    while bench.store.stats().changes == changes && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(bench.store.stats().changes, changes + 1);
}

#[test]
fn audits_that_pile_up_refuse_no_durable_work() {
    let folder = TempDir::new().unwrap();
    let state = AuditState::open(StateConfig {
        path: folder.path().join("state"),
        max_audits: 100,
        max_audit_bytes: 10_000,
        max_audit_age: Duration::from_secs(3600),
    });
    let state = state.unwrap();
    let audits = state.audits();
    let mut bench = Bench::with(OutboxConfig { audits: Some(audits.clone()), ..config(folder.path()) });
    for number in 0..20 {
        let ticket = vec![number; 900];
        let audit = Audit { model: "m".into(), ticket, notes: vec![], inputs: vec![], outputs: vec![] };
        audits.push(&audit).unwrap();
        assert!(bench.insert(number, &[number; 100]));
    }
    let stats = audits.stats();
    assert!(stats.bytes <= 10_000 && stats.dropped > 0, "they drop one another: {stats:?}");
    assert_eq!((bench.store.stats().waiting, bench.store.stats().refused), (20, 0));
}

#[test]
fn an_fsync_that_fails_is_told_once_and_ends_it() {
    let folder = TempDir::new().unwrap();
    Bench::open(folder.path()).insert(1, b"before");
    // It takes every byte, and refuses fsync.
    let journal = folder.path().join("outbox/journal-0");
    fs::remove_file(&journal).unwrap();
    std::os::unix::fs::symlink("/dev/null", journal).unwrap();
    let bench = Bench::open(folder.path());
    bench.store.persist(WriteId(7), Change::Insert(head(2)), Some(Bytes::from_static(b"in doubt")));
    let report = bench.reports.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(&report, StoreReport::Failed(why) if why.starts_with("fsync of the outbox's journal failed")));
    bench.store.persist(WriteId(8), Change::Insert(head(3)), Some(Bytes::from_static(b"too late")));
    bench.store.close();
    assert!(bench.reports.try_recv().is_err());
    // What was in doubt may be there, what was accepted is.
    let bench = Bench::open(folder.path());
    assert_eq!(bench.found.saved[0], Saved::Entry(head(1)));
    assert!(!bench.found.saved.contains(&Saved::Entry(head(3))));
}

#[test]
fn an_fsync_that_fails_after_what_was_accepted_ends_it_too_and_costs_nothing() {
    let folder = TempDir::new().unwrap();
    let mut bench = Bench::open(folder.path());
    bench.store.running.shared.database.write().unwrap().as_mut().unwrap().break_fsync();
    assert!(bench.insert(1, b"accepted"));
    let report = bench.reports.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(&report, StoreReport::Failed(why) if why.starts_with("fsync of the outbox's database failed")));
    drop(bench);
    let bench = Bench::open(folder.path());
    assert_eq!((&bench.found.saved, &bench.found.damage), (&vec![Saved::Entry(head(1))], &vec![]));
    assert_eq!(bench.store.payload(&id(1)).unwrap().unwrap(), "accepted");
}

#[test]
fn what_is_over_before_the_journal_is_carried_over_never_reaches_the_database() {
    let folder = TempDir::new().unwrap();
    let mut bench = Bench::with(OutboxConfig { journal_for: Duration::MAX, ..config(folder.path()) });
    bench.insert(1, b"it stays");
    bench.insert(2, b"it is over soon");
    assert!(bench.answer(2, b"an answer") && bench.persist(Change::Erase(id(2)), None));
    let database = folder.path().join("outbox/database/db");
    let has = |what: &[u8]| fs::read(&database).unwrap().windows(what.len()).any(|bytes| bytes == what);
    assert!(!has(b"it stays"));
    bench.store.close();
    assert!(has(b"it stays") && !has(b"it is over soon") && !has(b"an answer"));
    assert_eq!(Bench::open(folder.path()).found.saved, [Saved::Entry(head(1))]);
}

#[test]
fn while_the_journal_is_carried_over_everything_can_be_read_and_more_is_accepted() {
    let folder = TempDir::new().unwrap();
    let config = OutboxConfig { journal_bytes: 32 * 1024, journal_for: Duration::MAX, ..config(folder.path()) };
    let mut bench = Bench::with(config);
    let payload = |number: u8| vec![number; 5000];
    for number in 0..100 {
        assert!(bench.insert(number, &payload(number)));
        for known in (0..=number).rev().step_by(7) {
            assert_eq!(bench.store.payload(&id(known)).unwrap().unwrap(), payload(known));
        }
    }
    let journals =
        ["journal-0", "journal-1"].map(|name| fs::metadata(folder.path().join("outbox").join(name)).unwrap().len());
    assert!(journals.iter().all(|&bytes| 0 < bytes && bytes <= 32 * 1024), "{journals:?}");
    drop(bench);
    let bench = Bench::open(folder.path());
    assert_eq!(bench.found.saved, (0..100).map(|number| Saved::Entry(head(number))).collect::<Vec<_>>());
    assert_eq!((&bench.found.damage, bench.store.payload(&id(3)).unwrap().unwrap()), (&vec![], payload(3).into()));
}

#[test]
fn a_start_with_both_halves_of_the_journal_full_goes_on() {
    let (before, folder) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let small = |folder: &Path| OutboxConfig { journal_bytes: 4096, ..config(folder) };
    let mut bench = Bench::with(small(before.path()));
    {
        let shared = Arc::clone(&bench.store.running.shared);
        // A reader that does not end holds the checkpoint of the first half up.
        let _reader = shared.database.read().unwrap();
        assert!(bench.insert(1, &[1; 3000]) && bench.insert(2, &[2; 3000]));
        torn::put(folder.path(), &torn::image_of(before.path()));
    }
    for half in ["journal-0", "journal-1"] {
        assert!(fs::read(folder.path().join("outbox").join(half)).unwrap().starts_with(b"hoj1"));
    }
    let mut bench = Bench::with(small(folder.path()));
    assert_eq!((bench.found.saved.len(), &bench.found.damage), (2, &vec![]));
    assert!(bench.insert(3, &[3; 3000]));
    for number in 1..=3 {
        assert_eq!(bench.store.payload(&id(number)).unwrap().unwrap(), vec![number; 3000]);
    }
    drop(bench);
    let bench = Bench::open(folder.path());
    assert_eq!(bench.found.saved, [1, 2, 3].map(|number| Saved::Entry(head(number))));
    assert_eq!(bench.found.damage, []);
}

#[test]
fn two_processes_do_not_share_an_outbox() {
    let folder = TempDir::new().unwrap();
    let _bench = Bench::open(folder.path());
    let second = OutboxStore::open(config(folder.path()), |_| {});
    assert!(matches!(second, Err(OutboxError::InUse { .. })));
}

#[test]
fn a_database_that_is_opened_anew_has_what_was_accepted_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    let mut bench = Bench::open(folder.path());
    bench.insert(1, b"first");
    bench.insert(2, b"second");
    let shared = &bench.store.running.shared;
    {
        // What a write that failed may have left behind.
        let database = shared.database.read().unwrap();
        let surplus = Row { number: 7, state: State::Waiting(head(7)), body: row::Body::default() };
        let account = shared.table().account();
        database.as_ref().unwrap().put(&key::Key::Row(7), &surplus.encode(&account)).unwrap();
        for (key, value) in part::cut(key::Side::Payload, 8, id(8), b"stray") {
            database.as_ref().unwrap().put(&key, &value).unwrap();
        }
    }
    shared.have_it_reopened();
    assert_eq!(bench.store.stats().reopened, 1);
    assert_eq!(bench.store.payload(&id(1)).unwrap().unwrap(), "first");
    assert!(bench.insert(3, b"third"));
    drop(bench);
    let bench = Bench::open(folder.path());
    assert_eq!(bench.found.saved, [1, 2, 3].map(|number| Saved::Entry(head(number))));
    assert_eq!(bench.found.damage, []);
}
