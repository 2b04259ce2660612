//! Damage: what can be had is had, what cannot is named, and the next start is an ordinary one.

use super::*;

/// An outbox with entries 1 to 3 and the result of 4, closed.
fn filled(folder: &Path) {
    fill(&mut Bench::open(folder));
}

fn fill(bench: &mut Bench) {
    for number in 1..=4 {
        bench.insert(number, format!("payload {number}").repeat(100).as_bytes());
    }
    bench.answer(4, b"answer 4");
}

fn all(folder: &Path) -> Vec<(Saved, String)> {
    Bench::open(folder).all()
}

fn database(folder: &Path) -> std::path::PathBuf {
    folder.join("outbox/database")
}

/// The files of the journal. They still have what they had when it was emptied.
fn journal(folder: &Path) -> [std::path::PathBuf; 2] {
    [0, 1].map(|half| folder.join(format!("outbox/journal-{half}")))
}

/// Damages every copy of `what` in the database's file and in the journal.
fn damage(folder: &Path, what: &[u8]) {
    let [first, second] = journal(folder);
    let damaged = [database(folder).join("db"), first, second].map(|path| damage_in(&path, what));
    assert!(damaged[0] > 0);
}

/// Damages every copy of `what` in a file, and says how many there were.
fn damage_in(path: &Path, what: &[u8]) -> usize {
    let mut content = fs::read(path).unwrap();
    let places: Vec<usize> =
        content.windows(what.len()).enumerate().filter(|(_, at)| *at == what).map(|(at, _)| at).collect();
    places.iter().for_each(|&at| content[at] ^= 1);
    fs::write(path, content).unwrap();
    places.len()
}

/// As `filled`, by a process that was killed before it carried the journal over; and what it had.
fn killed(folder: &Path) -> Vec<(Saved, String)> {
    let before = TempDir::new().unwrap();
    let mut bench = Bench::with(OutboxConfig { journal_for: Duration::MAX, ..config(before.path()) });
    fill(&mut bench);
    torn::put(folder, &torn::image_of(before.path()));
    bench.store.close();
    all(before.path())
}

/// What was reported, without reasons and places.
fn named(bench: &Bench) -> Vec<String> {
    let name = |damage: &Damage| match damage {
        Damage::Payload { number, .. } => format!("payload {number}"),
        Damage::Answer { number, .. } => format!("answer {number}"),
        Damage::Unnamed { count, numbers } => format!("{count} unnamed: {numbers}"),
        Damage::Database { rows, .. } => format!("database, {rows} rows"),
        Damage::Ledger { records } => format!("ledger, {records} records"),
    };
    bench.found.damage.iter().map(name).collect()
}

/// That everything is there, and that the next start is an ordinary one.
fn has_it_for_good(bench: Bench, folder: &Path, before: &[(Saved, String)]) {
    assert_eq!(bench.all(), before);
    drop(bench);
    let again = Bench::open(folder);
    assert_eq!((named(&again), again.all()), (vec![], before.to_vec()), "and the next start is an ordinary one");
}

#[test]
fn a_row_that_the_database_lost_is_found_in_its_bytes() {
    let folder = TempDir::new().unwrap();
    filled(folder.path());
    let before = all(folder.path());
    let lossy = Database::open(&database(folder.path())).unwrap();
    lossy.remove(&key::Key::Part(key::Side::Payload, 1, 0)).unwrap();
    lossy.barrier().unwrap();
    drop(lossy);
    let bench = Bench::open(folder.path());
    assert_eq!(named(&bench), ["database, 4 rows"]);
    assert!(bench.found.damage[0].to_string().contains("3 rows where its newest change counted 4"));
    has_it_for_good(bench, folder.path(), &before);
}

#[test]
fn a_damaged_payload_costs_its_request_alone_and_is_told_once() {
    let folder = TempDir::new().unwrap();
    filled(folder.path());
    damage(folder.path(), b"payload 2payload 2");
    let bench = Bench::open(folder.path());
    assert_eq!(named(&bench), ["database, 4 rows", "payload 1"]);
    let expected = [Saved::Entry(head(1)), Saved::Damaged(head(2)), Saved::Entry(head(3)), Saved::Result(result(4, 8))];
    assert_eq!(bench.found.saved, expected);
    assert!(matches!(bench.store.payload(&id(2)), Err(OutboxError::Damaged { .. })));
    assert_eq!(bench.store.payload(&id(3)).unwrap().unwrap(), "payload 3".repeat(100));
    drop(bench);
    let mut bench = Bench::open(folder.path());
    assert_eq!((named(&bench), &bench.found.saved), (vec![], &expected.to_vec()), "it is damaged still, and no news");
    assert!(bench.persist(Change::Finish { head: result(2, 0), ending: Ending::Damaged }, None));
    drop(bench);
    assert_eq!(Bench::open(folder.path()).found.saved[1], Saved::Result(result(2, 0)));
}

#[test]
fn a_damaged_answer_is_a_result_still() {
    let folder = TempDir::new().unwrap();
    filled(folder.path());
    damage(folder.path(), b"answer 4");
    let bench = Bench::open(folder.path());
    assert_eq!(named(&bench), ["database, 4 rows", "answer 3"]);
    assert_eq!(bench.found.saved[3], Saved::Result(result(4, 8)));
    assert!(matches!(bench.store.result(&id(4)), Err(OutboxError::Damaged { .. })));
}

#[test]
fn a_large_body_that_is_damaged_is_noticed_when_it_is_read_and_one_that_is_gone_at_the_start() {
    let folder = TempDir::new().unwrap();
    let mut bench = Bench::open(folder.path());
    bench.insert(1, &[1; INLINE_BYTES + 1]);
    bench.insert(2, &[2; INLINE_BYTES + 1]);
    let files = bench.store.running.shared.files.path(&Digest::of(&[1; INLINE_BYTES + 1]).0);
    drop(bench);
    let mut content = fs::read(&files).unwrap();
    content[70] ^= 1;
    fs::write(&files, content).unwrap();
    let bench = Bench::open(folder.path());
    assert_eq!(bench.found.saved, [Saved::Entry(head(1)), Saved::Entry(head(2))]);
    assert!(matches!(bench.store.payload(&id(1)), Err(OutboxError::Damaged { .. })));
    drop(bench);
    fs::remove_file(files).unwrap();
    let bench = Bench::open(folder.path());
    assert_eq!(named(&bench), ["database, 2 rows", "payload 0"]);
    assert_eq!(bench.found.saved, [Saved::Damaged(head(1)), Saved::Entry(head(2))]);
}

#[test]
fn without_its_database_every_request_is_named() {
    for gone in [true, false] {
        let folder = TempDir::new().unwrap();
        filled(folder.path());
        match gone {
            true => fs::remove_dir_all(database(folder.path())).unwrap(),
            false => fs::write(database(folder.path()).join("db"), vec![0xA5; 3 << 20]).unwrap(),
        }
        journal(folder.path()).iter().for_each(|path| fs::remove_file(path).unwrap());
        let bench = Bench::open(folder.path());
        assert_eq!(named(&bench), ["database, 4 rows", "payload 0", "payload 1", "payload 2", "answer 3"]);
        let entries = [1, 2, 3].map(|number| Saved::Damaged(head(number)));
        assert_eq!(bench.found.saved, [&entries[..], &[Saved::Result(result(4, 8))]].concat());
        assert_eq!(bench.store.stats().quarantined, u64::from(!gone), "what does not open is kept");
    }
}

#[test]
fn what_was_not_carried_over_is_in_the_journal_whatever_became_of_the_database() {
    // sled takes the file of nonsense for an empty one, which is all that it was.
    for (damaged, expected) in [("nothing", &[][..]), ("the folder", &["database, 4 rows"]), ("the file", &[])] {
        let folder = TempDir::new().unwrap();
        let before = killed(folder.path());
        match damaged {
            "the folder" => fs::remove_dir_all(database(folder.path())).unwrap(),
            "the file" => fs::write(database(folder.path()).join("db"), vec![0xA5; 3 << 20]).unwrap(),
            _ => {}
        }
        let bench = Bench::open(folder.path());
        assert_eq!(named(&bench), expected, "{damaged}");
        has_it_for_good(bench, folder.path(), &before);
    }
}

#[test]
fn damage_to_the_journal_costs_the_request_that_it_hit_alone() {
    let folder = TempDir::new().unwrap();
    let before = killed(folder.path());
    assert_eq!(damage_in(&journal(folder.path())[0], b"payload 2payload 2"), 99);
    let bench = Bench::open(folder.path());
    assert_eq!(named(&bench), ["database, 4 rows", "payload 1"]);
    assert!(bench.found.damage[0].to_string().contains("it fell back to change"));
    let found = bench.all();
    assert_eq!(found[1].0, Saved::Damaged(head(2)));
    assert!([0, 2, 3].iter().all(|&at| found[at] == before[at]));
}

#[test]
fn without_the_journal_what_was_only_there_is_named() {
    let folder = TempDir::new().unwrap();
    killed(folder.path());
    journal(folder.path()).iter().for_each(|path| fs::remove_file(path).unwrap());
    let bench = Bench::open(folder.path());
    assert_eq!(named(&bench), ["database, 4 rows", "payload 0", "payload 1", "payload 2", "answer 3"]);
}

#[test]
fn a_ledger_that_is_gone_or_damaged_costs_nothing() {
    let folder = TempDir::new().unwrap();
    filled(folder.path());
    let before = all(folder.path());
    let ledger = folder.path().join("outbox/ledger");
    fs::remove_file(&ledger).unwrap();
    let bench = Bench::open(folder.path());
    assert_eq!((named(&bench), bench.all()), (vec![], before.clone()));
    drop(bench);
    let mut content = fs::read(&ledger).unwrap();
    content[250] ^= 1;
    fs::write(&ledger, content).unwrap();
    let bench = Bench::open(folder.path());
    assert_eq!((named(&bench), bench.all()), (vec!["ledger, 1 records".to_owned()], before));
}

#[test]
fn with_database_and_ledger_damaged_what_is_lost_is_counted() {
    let folder = TempDir::new().unwrap();
    filled(folder.path());
    // The row of number 1 in the ledger, and in all its versions in the database.
    let ledger = folder.path().join("outbox/ledger");
    let mut content = fs::read(&ledger).unwrap();
    for record in content.chunks_mut(row::ROW).filter(|record| record[24..40] == [2; 16]) {
        record[100] ^= 1;
    }
    fs::write(&ledger, content).unwrap();
    damage(folder.path(), &[&[2; 16][..], &2_u64.to_le_bytes()].concat());
    let bench = Bench::open(folder.path());
    assert_eq!(named(&bench), ["database, 3 rows", "1 unnamed: 1", "ledger, 1 records"]);
    assert_eq!(bench.found.saved, [Saved::Entry(head(1)), Saved::Entry(head(3)), Saved::Result(result(4, 8))]);
}

#[test]
fn a_process_that_died_while_it_opened_the_database_does_not_do_so_again() {
    let folder = TempDir::new().unwrap();
    filled(folder.path());
    let before = all(folder.path());
    // sled, asked to open this, might end the process; what it had before is in the copy.
    let db = database(folder.path()).join("db");
    fs::copy(&db, folder.path().join("outbox/database.before")).unwrap();
    fs::write(&db, vec![0; 1 << 20]).unwrap();
    let bench = Bench::open(folder.path());
    assert!(bench.found.damage[0].to_string().contains("did not come to an end"));
    has_it_for_good(bench, folder.path(), &before);
}

#[test]
fn a_new_database_that_the_power_interrupted_is_put_in_place_or_thrown_away() {
    let folder = TempDir::new().unwrap();
    filled(folder.path());
    let before = all(folder.path());
    let [new, old] = ["database.new", "database.old"].map(|name| folder.path().join("outbox").join(name));
    // It was being written.
    fs::create_dir(&new).unwrap();
    fs::write(new.join("db"), b"half").unwrap();
    assert_eq!(all(folder.path()), before);
    assert!(!new.exists());
    // The old one had been moved away, the new one was whole.
    fs::rename(database(folder.path()), &new).unwrap();
    fs::create_dir(&old).unwrap();
    assert_eq!(all(folder.path()), before);
    assert!(!new.exists() && !old.exists());
}
