//! Whether a database holds what it must, and what was there if it does not: decisions about what was read, without I/O.

use std::collections::{HashMap, HashSet};

use hedge_wire::RequestId;

use super::database::{Scan, newer};
use super::ledger::Evidence;
use super::row::{Account, Row};

/// What a database that holds everything holds; or the first thing that is wrong with it.
pub(super) fn sound(scan: &Scan, ledger: &Evidence, has_file: impl Fn(&Row) -> bool) -> Result<Vec<Row>, String> {
    if let Some(key) = scan.damaged.first() {
        return Err(format!("{} damaged values, the first under key {}", scan.damaged.len(), hex(key)));
    }
    if ledger.newest.serial > scan.newest.serial {
        let (has, knew) = (scan.newest.serial, ledger.newest.serial);
        return Err(format!("it fell back to change {has} of {knew}"));
    }
    let rows = counted(scan)?;
    let is_whole = ledger.is_whole();
    for row in &rows {
        let (_, account) = scan.rows[&row.id()];
        if was_gone(row, &account, ledger, is_whole) {
            return Err(format!("it has number {}, which was erased", row.number));
        }
    }
    if ledger.newest.serial == scan.newest.serial && is_whole {
        // What the ledger names was there then, and is.
        let ids: HashSet<RequestId> = rows.iter().map(Row::id).collect();
        let lost = ledger.rows.values().map(|(row, _)| row).filter(|row| !ids.contains(&row.id()));
        if let Some(number) = lost.map(|row| row.number).min() {
            return Err(format!("it lost number {number}"));
        }
    }
    for (id, (row, account)) in &scan.rows {
        if let Some((newer, _)) = ledger.rows.get(id).filter(|(known, at)| at.serial > account.serial && known != row) {
            return Err(format!("it lost a change of number {}", newer.number));
        }
    }
    match rows.iter().find(|row| !scan.has_body(row) && !row.body.lost) {
        Some(row) => Err(format!("number {} lacks a part", row.number)),
        None => match rows.iter().find(|row| !row.body.lost && !has_file(row)) {
            Some(row) => Err(format!("number {} lacks its file", row.number)),
            None => Ok(rows),
        },
    }
}

/// The rows, if they are as many as the account says, with that sum.
fn counted(scan: &Scan) -> Result<Vec<Row>, String> {
    let mut rows: Vec<Row> = scan.rows.values().map(|(row, _)| row.clone()).collect();
    rows.sort_by_key(|row| row.number);
    let (live, sum) = totals(&rows);
    let account = scan.newest;
    if live == account.live + 1 {
        // The power went after an account was written and before the row that it no longer counts was removed.
        let erased = sum.wrapping_sub(account.sum);
        rows.retain(|row| row.number != erased);
    }
    match totals(&rows) == (account.live, account.sum) {
        true => Ok(rows),
        false => Err(format!("it has {live} rows where its newest change counted {}", account.live)),
    }
}

/// What is wrong with a database that has lost rows: how many at least that nothing names, and their numbers if they are known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Unnamed {
    pub(super) count: u64,
    pub(super) numbers: String,
}

/// The rows that there were, from everything that can be found of a damaged database and from the ledger; and what must have
/// been there beside them.
pub(super) fn merged(found: &HashMap<u64, (Row, Account)>, ledger: &Evidence) -> (Vec<Row>, Account, Option<Unnamed>) {
    let mut rows: HashMap<RequestId, (Row, Account)> = ledger.rows.clone();
    let (mut newest, is_whole) = (ledger.newest, ledger.is_whole());
    for (row, account) in found.values() {
        newest = newer(newest, *account);
        let known = rows.get(&row.id());
        let newer = known.is_some_and(|(_, known)| account.serial > known.serial);
        if newer || (known.is_none() && !was_gone(row, account, ledger, is_whole)) {
            rows.insert(row.id(), (row.clone(), *account));
        }
    }
    let mut rows: Vec<Row> = rows.into_values().map(|(row, _)| row).collect();
    rows.sort_by_key(|row| row.number);
    let unnamed = unnamed(&rows, &newest, ledger);
    (rows, newest, unnamed)
}

/// Whether a row was removed since, by what the ledger knows: its bytes stay on the disk for a while.
fn was_gone(row: &Row, account: &Account, ledger: &Evidence, is_whole: bool) -> bool {
    let went = ledger.gone.get(&row.id()).is_some_and(|&at| at > account.serial);
    let not_there = account.serial <= ledger.newest.serial && !ledger.rows.contains_key(&row.id());
    went || (not_there && is_whole)
}

/// What the newest account counts and nothing has.
fn unnamed(rows: &[Row], account: &Account, ledger: &Evidence) -> Option<Unnamed> {
    let (live, sum) = totals(rows);
    let missing = account.live.checked_sub(live).filter(|&missing| missing > 0)?;
    let numbers = match missing {
        1 => account.sum.wrapping_sub(sum).to_string(),
        _ => {
            let known: HashSet<u64> = rows.iter().map(|row| row.number).collect();
            let first = rows.first().map_or(0, |row| row.number);
            let possible: Vec<String> =
                (first..account.next).filter(|n| !known.contains(n)).take(8).map(|n| n.to_string()).collect();
            format!(
                "among {} and others ({} records of the ledger are unreadable)",
                possible.join(", "),
                ledger.unreadable
            )
        }
    };
    Some(Unnamed { count: missing, numbers })
}

/// How many rows, and the sum of their numbers.
pub(super) fn totals<'a>(rows: impl IntoIterator<Item = &'a Row>) -> (u64, u64) {
    rows.into_iter().fold((0, 0), |(live, sum), row| (live + 1, sum.wrapping_add(row.number)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::key::Key;
    use crate::outbox::row::{Body, State};
    use hedge_agent_core::outbox::{Expiry, Head};
    use hedge_wire::{BootId, Digest};
    use std::time::Duration;

    fn row(number: u64, attempts: u8) -> Row {
        let expiry = Expiry { boot: BootId(1), at: Duration::ZERO, left: Duration::ZERO };
        let (id, digest) = (RequestId::from_bytes([number as u8; 16]), Digest([1; 32]));
        let head = Head { id, digest, bytes: 0, attempts, placed: false, expiry };
        Row { number, state: State::Waiting(head), body: Body { length: 1, ..Body::default() } }
    }

    fn account(serial: u64, numbers: &[u64]) -> Account {
        let next = numbers.iter().max().map_or(0, |last| last + 1);
        Account { serial, barrier: serial, next, live: numbers.len() as u64, sum: numbers.iter().sum() }
    }

    /// A database of these rows, the last change's account being that of `counted`.
    fn scan(numbers: &[u64], counted: &[u64]) -> Scan {
        let newest = account(10, counted);
        let mut scan = Scan { newest, ..Scan::default() };
        for &number in numbers {
            scan.rows.insert(row(number, 0).id(), (row(number, 0), Account { serial: number, ..newest }));
            scan.parts.extend(row(number, 0).parts());
        }
        scan
    }

    fn ledger(numbers: &[u64]) -> Evidence {
        let rows = numbers.iter().map(|&number| (row(number, 0).id(), (row(number, 0), account(10, numbers))));
        Evidence { rows: rows.collect(), newest: account(10, numbers), ..Evidence::default() }
    }

    fn judged(scan: &Scan, ledger: &Evidence) -> Result<Vec<u64>, String> {
        sound(scan, ledger, |_| true).map(|rows| rows.iter().map(|row| row.number).collect())
    }

    fn found(rows: &[(Row, u64)]) -> HashMap<u64, (Row, Account)> {
        rows.iter().map(|(row, serial)| (row.number, (row.clone(), account(*serial, &[])))).collect()
    }

    #[test]
    fn a_database_that_has_what_its_newest_change_counted_is_sound() {
        assert_eq!(judged(&scan(&[3, 1, 2], &[1, 2, 3]), &ledger(&[1, 2, 3])), Ok(vec![1, 2, 3]));
        assert_eq!(judged(&scan(&[], &[]), &Evidence::default()), Ok(vec![]));
        // A ledger that lacks the last second tells nothing against it.
        let behind = Evidence { newest: account(1, &[1]), ..ledger(&[1]) };
        assert_eq!(judged(&scan(&[1, 2], &[1, 2]), &behind), Ok(vec![1, 2]));
    }

    #[test]
    fn a_row_whose_removal_the_power_interrupted_is_gone() {
        assert_eq!(judged(&scan(&[1, 2, 3], &[1, 3]), &ledger(&[1, 3])), Ok(vec![1, 3]));
    }

    #[test]
    fn a_missing_row_a_lost_change_and_an_older_state_are_each_noticed() {
        let wrong = |scan: &Scan, ledger: &Evidence| judged(scan, ledger).unwrap_err();
        assert_eq!(
            wrong(&scan(&[1, 3], &[1, 2, 3]), &ledger(&[1, 2, 3])),
            "it has 2 rows where its newest change counted 3"
        );
        let older = Evidence { newest: account(11, &[1]), ..ledger(&[1]) };
        assert_eq!(wrong(&scan(&[1], &[1]), &older), "it fell back to change 10 of 11");
        let mut changed = ledger(&[1]);
        changed.rows.insert(row(1, 1).id(), (row(1, 1), account(9, &[1])));
        assert_eq!(wrong(&scan(&[1], &[1]), &changed), "it lost a change of number 1");
        let mut torn = scan(&[1], &[1]);
        torn.parts.clear();
        assert_eq!(wrong(&torn, &ledger(&[1])), "number 1 lacks a part");
        let mut damaged = scan(&[1], &[1]);
        damaged.damaged.push(Key::Row(7).bytes());
        assert_eq!(wrong(&damaged, &ledger(&[1])), "1 damaged values, the first under key 010000000000000007");
        let fileless = sound(&scan(&[1], &[1]), &ledger(&[1]), |_| false);
        assert_eq!(fileless.unwrap_err(), "number 1 lacks its file");
    }

    #[test]
    fn rows_that_happen_to_have_the_right_sum_are_noticed() {
        // 5 and 6 were erased and 7 was accepted; with 4 taken for a torn removal, the number of rows and their sum are right.
        let fell_back = scan(&[4, 5, 6], &[4, 7]);
        let mut knows = ledger(&[4, 7]);
        knows.gone = [(row(5, 0).id(), 8), (row(6, 0).id(), 9)].into();
        assert_eq!(judged(&fell_back, &knows).unwrap_err(), "it has number 5, which was erased");
        knows.gone.clear();
        assert_eq!(
            judged(&fell_back, &knows).unwrap_err(),
            "it has number 5, which was erased",
            "it is not in the ledger"
        );
        assert_eq!(judged(&scan(&[1, 4], &[2, 3]), &ledger(&[1, 2, 3, 4])).unwrap_err(), "it lost number 2");
        // A ledger of which the power left a page and not the one before it tells nothing of the kind.
        let torn = Evidence { newest: account(10, &[1, 2, 3, 4, 5]), ..ledger(&[1, 2, 3, 4]) };
        assert_eq!(judged(&scan(&[1, 4], &[2, 3]), &torn), Ok(vec![1, 4]));
    }

    #[test]
    fn what_the_ledger_names_was_there_and_the_newer_state_of_a_row_counts() {
        let newer = found(&[(row(1, 1), 11), (row(2, 1), 9)]);
        let (rows, newest, unnamed) = merged(&newer, &ledger(&[1, 2, 3]));
        assert_eq!(rows, [row(1, 1), row(2, 0), row(3, 0)]);
        assert_eq!((newest.serial, unnamed), (11, None));
    }

    #[test]
    fn bytes_of_what_was_removed_are_not_taken_for_rows() {
        let mut knows = ledger(&[1]);
        knows.gone.insert(row(2, 0).id(), 9);
        let (rows, ..) = merged(&found(&[(row(2, 0), 5), (row(3, 0), 6)]), &knows);
        assert_eq!(rows, [row(1, 0)], "2 went, and 3 is not in a ledger that is newer than it");
        let (rows, ..) = merged(&found(&[(row(4, 0), 11)]), &knows);
        assert_eq!(rows, [row(1, 0), row(4, 0)], "4 came after the ledger was last written");
        (knows.newest, knows.unreadable) = (account(10, &[1, 3]), 1);
        let (rows, ..) = merged(&found(&[(row(3, 0), 6)]), &knows);
        assert_eq!(rows, [row(1, 0), row(3, 0)], "a damaged ledger may have had 3");
    }

    #[test]
    fn what_nothing_names_is_counted_and_a_single_one_has_its_number() {
        let lacks = |numbers: &[u64], counted: &[u64]| {
            let knows = Evidence { newest: account(10, counted), ..ledger(numbers) };
            merged(&HashMap::new(), &knows).2
        };
        assert_eq!(lacks(&[1, 2], &[1, 2]), None);
        assert_eq!(lacks(&[1, 3], &[1, 2, 3]), Some(Unnamed { count: 1, numbers: "2".into() }));
        assert_eq!(lacks(&[1, 4], &[1, 2, 3, 4]).map(|unnamed| unnamed.count), Some(2));
    }
}
