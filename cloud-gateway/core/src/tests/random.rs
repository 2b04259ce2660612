//! Random histories against the crate's invariants. A failure prints its seed.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const SEEDS: u64 = 300;
const STEPS: usize = 400;
const DEVICES: usize = 4;
const IDS: usize = 60;

/// What the test knows besides the state under test.
#[derive(Default)]
struct Ledger {
    /// Keys with the engine.
    running: BTreeSet<Key>,
    submitted: BTreeSet<Key>,
    /// Admissions minus final replies, by key.
    owed: BTreeMap<Key, i32>,
}

#[test]
fn random_histories_keep_the_invariants() {
    for seed in 0..SEEDS {
        history(seed);
    }
}

fn history(seed: u64) {
    let limits = Limits {
        queue: 12,
        queue_per_device: 3,
        running_per_model: 4,
        audits: 5,
        audits_per_device: 2,
        ..Limits::default()
    };
    let mut bench = Bench::new(limits.clone());
    let mut ledger = Ledger::default();
    let mut state = seed;
    for _ in 0..STEPS {
        bench.wait(splitmix(&mut state) % 40);
        match below(&mut state, 10) {
            0..6 => arrive(&mut bench, &mut ledger, &mut state, seed),
            6..9 => finish(&mut bench, &mut ledger, &mut state, seed),
            _ => settle(&mut ledger, &bench.tick(), seed),
        }
        check(&bench, &ledger, &limits, seed);
    }
    while !ledger.running.is_empty() {
        finish(&mut bench, &mut ledger, &mut state, seed);
    }
    assert_eq!(bench.admission.queued(), 0, "seed {seed}");
    assert_eq!(bench.admission.queued_bytes(), 0, "seed {seed}");
    assert!(ledger.owed.values().all(|owed| *owed == 0), "seed {seed}: {:?}", ledger.owed);
}

fn arrive(bench: &mut Bench, ledger: &mut Ledger, state: &mut u64, seed: u64) {
    let name = format!("d{}", below(state, DEVICES));
    let id = below(state, IDS) as u8;
    let deadline_ms = below(state, 600) as u32;
    let key = Key { device: device(&name), id: request(id) };
    let purpose = if below(state, 3) == 0 { Purpose::Audit } else { Purpose::Answer };
    let actions = bench.arrive(&name, Query { deadline_ms, purpose, ..query(id) });
    let acks = actions.iter().filter(|action| matches!(action, Action::Ack(_))).count();
    assert_eq!(acks, 1, "seed {seed}: {actions:?}");
    let own: Vec<_> = outcomes(&actions).into_iter().filter(|(about, _)| *about == key).collect();
    match arrival(&actions) {
        Arrival::Admitted | Arrival::Readmitted => *ledger.owed.entry(key).or_default() += 1,
        Arrival::Joined => {
            assert!(own.is_empty(), "seed {seed}: {actions:?}");
            assert_eq!(ledger.owed.get(&key), Some(&1), "seed {seed}");
        }
        // The one reply at once is for this arrival, not for an admitted query.
        Arrival::Repeated | Arrival::TurnedAway => {
            assert_eq!(actions.len(), 2, "seed {seed}: {actions:?}");
            assert_eq!(own.len(), 1, "seed {seed}: {actions:?}");
            return;
        }
    }
    settle(ledger, &actions, seed);
}

fn finish(bench: &mut Bench, ledger: &mut Ledger, state: &mut u64, seed: u64) {
    if ledger.running.is_empty() {
        return;
    }
    let at = below(state, ledger.running.len());
    let key = ledger.running.iter().nth(at).expect("at is below the length").clone();
    ledger.running.remove(&key);
    let actions = bench.finish(key.device.as_str(), key.id.as_bytes()[0]);
    assert!(outcomes(&actions).iter().any(|(about, _)| *about == key), "seed {seed}: {actions:?}");
    settle(ledger, &actions, seed);
}

fn below(state: &mut u64, bound: usize) -> usize {
    (splitmix(state) >> 33) as usize % bound
}

/// Books submissions and replies.
fn settle(ledger: &mut Ledger, actions: &[Action], seed: u64) {
    for (key, _) in outcomes(actions) {
        *ledger.owed.get_mut(&key).expect("a reply is owed") -= 1;
    }
    for action in actions {
        if let Action::Submit { key, .. } = action {
            assert!(ledger.submitted.insert(key.clone()), "seed {seed}: {key:?} is run twice");
            ledger.running.insert(key.clone());
        }
    }
}

fn check(bench: &Bench, ledger: &Ledger, limits: &Limits, seed: u64) {
    let owed: Vec<&Key> = ledger.owed.iter().filter(|(_, owed)| **owed != 0).map(|(key, _)| key).collect();
    assert!(ledger.owed.values().all(|owed| (0..=1).contains(owed)), "seed {seed}: {:?}", ledger.owed);
    assert_eq!(bench.admission.queued(), owed.len(), "seed {seed}");
    assert!(owed.len() <= limits.queue, "seed {seed}");
    assert!(ledger.running.len() <= limits.running_per_model, "seed {seed}");
    for number in 0..DEVICES {
        let share = owed.iter().filter(|key| key.device == device(&format!("d{number}"))).count();
        assert!(share <= limits.queue_per_device + limits.audits_per_device, "seed {seed}");
    }
}
