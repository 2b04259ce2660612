//! The outbox on a real disk.

use super::*;
use hedge_agent_core::outbox::{Expiry, Head};
use hedge_wire::{BootId, Digest};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use tempfile::TempDir;

struct Bench {
    store: OutboxStore,
    found: Found,
    reports: Receiver<StoreReport>,
    writes: u64,
}

fn config(folder: &TempDir) -> OutboxConfig {
    OutboxConfig {
        reserve_bytes: 1 << 20,
        least_free_bytes: 1 << 20,
        ..OutboxConfig::new(folder.path().join("outbox"))
    }
}

impl Bench {
    fn open(config: OutboxConfig) -> Self {
        let (sender, reports) = channel();
        let (store, found) = OutboxStore::open(config, move |report| sender.send(report).unwrap()).unwrap();
        Self { store, found, reports, writes: 0 }
    }

    fn persist(&mut self, change: Change<Bytes>, payload: Option<Bytes>) -> bool {
        let write = WriteId(self.writes);
        self.writes += 1;
        self.store.persist(write, change, payload);
        match self.reports.recv_timeout(Duration::from_secs(20)).unwrap() {
            StoreReport::Persisted(id) => id == write,
            StoreReport::NotPersisted(_) => false,
            StoreReport::Failed(why) => panic!("{why}"),
        }
    }

    fn insert(&mut self, number: u8, payload: &[u8]) -> bool {
        self.persist(Change::Insert(head(number)), Some(Bytes::copy_from_slice(payload)))
    }

    fn finish(&mut self, number: u8, answer: &[u8]) -> bool {
        self.persist(
            Change::Finish { head: result(number), ending: Ending::Answered(Bytes::copy_from_slice(answer)) },
            None,
        )
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

fn result(number: u8) -> ResultHead {
    ResultHead { id: id(number), digest: Digest([number; 32]), fetched: false, expiry: expiry() }
}

#[test]
fn what_was_persisted_is_there_after_a_restart_in_the_order_of_acceptance() {
    let folder = TempDir::new().unwrap();
    let mut bench = Bench::open(config(&folder));
    assert!(bench.found.saved.is_empty() && bench.found.damage.is_empty());
    for number in [9, 3, 7, 5] {
        assert!(bench.insert(number, &[number; 10]));
    }
    assert!(bench.finish(3, b"answer"));
    bench.store.note(Change::Update(Head { attempts: 1, ..head(7) }));
    bench.store.close();

    let bench = Bench::open(config(&folder));
    let expected = vec![
        Saved::Entry(head(9)),
        Saved::Result(result(3)),
        Saved::Entry(Head { attempts: 1, ..head(7) }),
        Saved::Entry(head(5)),
    ];
    assert_eq!(bench.found.saved, expected);
    assert_eq!(bench.found.damage, []);
    assert_eq!(bench.store.payload(&id(9)).unwrap(), Some(Bytes::from_static(&[9; 10])));
    assert_eq!(bench.store.payload(&id(3)).unwrap(), None);
    let answer = Ending::Answered(Bytes::from_static(b"answer"));
    assert_eq!(bench.store.result(&id(3)).unwrap(), Some((result(3), answer)));
}
