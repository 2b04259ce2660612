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
    let mut newest = ledger.newest;
    for (row, account) in found.values() {
        newest = newer(newest, *account);
        let known = rows.get(&row.id());
        let newer = known.is_some_and(|(_, known)| account.serial > known.serial);
        if newer || (known.is_none() && !was_gone(row, account, ledger)) {
            rows.insert(row.id(), (row.clone(), *account));
        }
    }
    let mut rows: Vec<Row> = rows.into_values().map(|(row, _)| row).collect();
    rows.sort_by_key(|row| row.number);
    let unnamed = unnamed(&rows, &newest, ledger);
    (rows, newest, unnamed)
}

/// Whether a row that the ledger does not have was removed before the damage: its bytes stay on the disk for a while.
fn was_gone(row: &Row, account: &Account, ledger: &Evidence) -> bool {
    let went = ledger.gone.get(&row.id()).is_some_and(|&at| at > account.serial);
    went || (account.serial <= ledger.newest.serial && ledger.unreadable == 0)
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

fn totals(rows: &[Row]) -> (u64, u64) {
    (rows.len() as u64, rows.iter().fold(0, |sum: u64, row| sum.wrapping_add(row.number)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
