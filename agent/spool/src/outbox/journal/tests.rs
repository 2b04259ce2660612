//! The journal on a real disk: halves, restarts, what the power tears and what damage does.

use super::*;
use crate::outbox::key::Side;
use tempfile::TempDir;

const CAPACITY: u64 = 4096;

fn part(number: u64) -> Key {
    Key::Part(Side::Payload, number, 0)
}

fn step(puts: &[(Key, &[u8])], removes: &[Key]) -> Step {
    let mut step = Step::default();
    step.puts.extend(puts.iter().map(|(key, value)| (*key, value.to_vec())));
    step.removes.extend(removes);
    step
}

fn replayed(journal: &Journal) -> Vec<(Key, Option<Vec<u8>>)> {
    let mut all = Vec::new();
    let taken = journal.replay_all(|entries| {
        all.extend(entries.iter().map(|entry| (entry.key, entry.value.clone())));
        Ok(())
    });
    taken.unwrap();
    all
}

fn value(bytes: &[u8]) -> Last {
    Last::Value(bytes.to_vec())
}

#[test]
fn the_last_change_of_a_key_counts_whichever_half_it_is_in_and_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let mut journal = Journal::open(folder.path(), CAPACITY).unwrap();
    assert!(journal.is_empty() && journal.seal().is_none() && replayed(&journal).is_empty());
    journal
        .append(5, &[step(&[(part(1), b"one"), (part(2), b"two")], &[]), step(&[(Key::Row(1), b"a")], &[])])
        .unwrap();
    journal.append(6, &[step(&[(Key::Row(1), b"b")], &[part(1)])]).unwrap();
    let sealed = journal.seal().unwrap();
    journal.append(7, &[step(&[(Key::Row(1), b"c"), (part(3), b"")], &[])]).unwrap();
    for _ in 0..2 {
        assert_eq!(journal.filled(), [sealed, HalfId(1)]);
        let lasts = [part(1), part(2), part(3), Key::Row(1), Key::Account].map(|key| journal.last(&key).unwrap());
        assert_eq!(lasts, [Last::Gone, value(b"two"), value(b""), value(b"c"), Last::Elsewhere]);
        // What the database may have of the first part is removed from it; the older rows are nobody's business.
        let expected = [
            (part(2), Some(b"two".to_vec())),
            (part(1), None),
            (Key::Row(1), Some(b"c".to_vec())),
            (part(3), Some(Vec::new())),
        ];
        assert_eq!(replayed(&journal), expected);
        drop(journal);
        journal = Journal::open(folder.path(), CAPACITY).unwrap();
    }
    journal.append(8, &[step(&[(part(4), b"four")], &[])]).unwrap();
    drop(journal);
    let journal = Journal::open(folder.path(), CAPACITY).unwrap();
    assert_eq!(journal.last(&part(4)).unwrap(), value(b"four"), "it goes on where it ended");
}

#[test]
fn one_half_is_sealed_at_a_time_and_a_new_one_has_nothing_of_the_old() {
    let folder = TempDir::new().unwrap();
    let journal = Journal::open(folder.path(), CAPACITY).unwrap();
    for generation in 0..6 {
        let group: Vec<Step> =
            (0..10 - generation).map(|at| step(&[(part(at), &[generation as u8; 100])], &[])).collect();
        journal.append(generation + 1, &group).unwrap();
        let half = journal.seal().unwrap();
        journal.append(generation + 1, &[step(&[(Key::Account, b"next")], &[])]).unwrap();
        assert_eq!(journal.seal(), Some(half), "it still holds something");
        let again = Journal::open(folder.path(), CAPACITY).unwrap();
        assert_eq!(replayed(&again).len(), group.len() + 1);
        journal.clear_all().unwrap();
        assert!(journal.is_empty() && Journal::open(folder.path(), CAPACITY).unwrap().is_empty());
        assert_eq!(half, HalfId(generation as usize % 2));
    }
}

#[test]
fn a_half_has_room_up_to_its_capacity_and_an_empty_one_has_room_for_anything() {
    let folder = TempDir::new().unwrap();
    let journal = Journal::open(folder.path(), CAPACITY).unwrap();
    assert!(journal.has_room(u64::MAX));
    journal.append(1, &[step(&[(part(1), &[1; 1000])], &[])]).unwrap();
    assert!(journal.has_room(3000) && !journal.has_room(3100));
    journal.seal().unwrap();
    assert!(journal.has_room(u64::MAX));
}

#[test]
fn of_a_group_that_the_power_interrupted_the_whole_entries_are_there() {
    let folder = TempDir::new().unwrap();
    let journal = Journal::open(folder.path(), CAPACITY).unwrap();
    journal.append(1, &[step(&[(part(1), &[1; 100])], &[])]).unwrap();
    let first = std::fs::read(&journal.paths()[0]).unwrap();
    journal.append(2, &[step(&[(part(2), &[2; 100]), (Key::Row(2), &[3; 50])], &[])]).unwrap();
    let whole = std::fs::read(&journal.paths()[0]).unwrap();
    let mut seen = Vec::new();
    for length in first.len()..=whole.len() {
        // Whatever was there before lies behind it.
        let torn = [&whole[..length], &vec![0xEE; whole.len() - length]].concat();
        std::fs::write(&journal.paths()[0], torn).unwrap();
        seen.push(replayed(&Journal::open(folder.path(), CAPACITY).unwrap()).len());
    }
    assert!(seen.is_sorted() && seen.first() == Some(&1) && seen.last() == Some(&3), "{seen:?}");
}

#[test]
fn damage_is_noticed_before_a_half_is_given_up() {
    let folder = TempDir::new().unwrap();
    let journal = Journal::open(folder.path(), CAPACITY).unwrap();
    journal.append(1, &[step(&[(part(1), &[1; 100]), (part(2), &[2; 100])], &[])]).unwrap();
    let mut bytes = std::fs::read(&journal.paths()[0]).unwrap();
    bytes[200] ^= 1;
    std::fs::write(&journal.paths()[0], bytes).unwrap();
    let half = journal.seal().unwrap();
    let mut taken = 0;
    let fault = journal.replay(half, |entries| {
        taken += entries.len();
        Ok(())
    });
    assert!(matches!(&fault, Err(Fault::Broken(why)) if why.ends_with("journal-0 was damaged")), "{fault:?}");
    assert_eq!(taken, 1);
}
