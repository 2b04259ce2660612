//! Opening the outbox: what the journal has goes into the database, that is compared with the ledger, and made whole again where it
//! is damaged.
//!
//! # A copy before sled opens it
//!
//! sled 0.34 destroys at open what it does not understand: behind a damaged message in its tail it overwrites the rest of the
//! log, and every segment whose header is damaged is overwritten as free. So its file is copied first, which costs reading
//! it and, where the copy goes before the system has written it out, nothing more. The copy is removed when the database is
//! found to be sound. One that is there at the start means that the process died in here, while sled read its file or took what the
//! journal has: then sled is not asked again, so that no damage can make the agent fail at each start.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::checkpoint;
use super::compare::{self, Unnamed};
use super::database::{Database, Fault, Scan};
use super::files::Files;
use super::journal::{Journal, Last};
use super::key::Key;
use super::ledger::{Evidence, Ledger};
use super::quarantine::Quarantine;
use super::raw;
use super::rebuild::Places;
use super::room::Reserve;
use super::row::{Account, Row, State};
use super::table::{Step, Table};
use super::watched::{Progress, Unfinished, watched};
use super::{Damage, Found, OutboxConfig, OutboxError, unusable};
use crate::replace::sync_folder;
use crate::store::remove_any;

/// How long a database may take to be opened, and to take a little of what the journal has; and for each MiB of it.
const PATIENCE: Duration = Duration::from_secs(10);
const PATIENCE_PER_MIB: Duration = Duration::from_millis(500);

/// An outbox that is whole.
pub(super) struct Opened {
    pub(super) database: Database,
    pub(super) journal: Arc<Journal>,
    pub(super) table: Table,
    pub(super) ledger: Ledger,
    pub(super) files: Files,
    pub(super) reserve: Reserve,
    pub(super) quarantine: Quarantine,
    pub(super) found: Found,
}

pub(super) fn open(config: &OutboxConfig) -> Result<Opened, OutboxError> {
    let opening = Opening::begin(config).map_err(|error| unusable(config, &error))?;
    match opening.open() {
        Ok(opened) => Ok(opened),
        Err(Failed::Full(why)) => Err(OutboxError::NoSpace { path: config.path.clone(), why }),
        Err(Failed::Other(why)) => Err(OutboxError::Unusable { path: config.path.clone(), why }),
    }
}

/// Whether there is space for a copy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    Plenty,
    Scarce,
}

/// A database that has everything that can be had.
struct Whole {
    database: Database,
    rows: Vec<Row>,
    account: Account,
    damage: Vec<Damage>,
}

enum Failed {
    Full(String),
    Other(String),
}

struct Opening<'a> {
    config: &'a OutboxConfig,
    places: Places,
    files: Files,
    quarantine: Quarantine,
    journal: Arc<Journal>,
    evidence: Evidence,
}

impl<'a> Opening<'a> {
    fn begin(config: &'a OutboxConfig) -> io::Result<Self> {
        sync_folder(&config.path)?;
        if let Some(parent) = config.path.parent().filter(|parent| parent.is_dir()) {
            sync_folder(parent)?;
        }
        let places = Places::new(&config.path);
        places.settle()?;
        Ok(Self {
            config,
            places,
            files: Files::open(config.path.join("bodies"))?,
            quarantine: Quarantine::new(config.path.join("quarantine"), config.max_quarantine_bytes),
            journal: Arc::new(Journal::open(&config.path, config.journal_bytes)?),
            evidence: Evidence::read(&config.path.join("ledger")),
        })
    }

    fn open(self) -> Result<Opened, Failed> {
        let mut room = Room::Plenty;
        let mut whole = loop {
            match self.open_with(room) {
                // What was held back for such times is for now.
                Err(Failed::Full(_)) if Reserve::release_for_the_start(&self.config.path)? => room = Room::Scarce,
                other => break other?,
            }
        };
        remove_any(&self.places.before())?;
        if self.evidence.damaged > 0 {
            whole.damage.push(Damage::Ledger { records: self.evidence.damaged });
        }
        let Whole { database, rows, account, damage } = whole;
        let table = Table::restore(rows, account);
        let ledger = Ledger::renew(&self.config.path.join("ledger"), &table, &table.account())?;
        self.files.sweep(|file| table.names_file(file))?;
        let reserve = Reserve::open(&self.config.path, self.config.reserve_bytes)?;
        let saved = table.rows().into_iter().map(Row::saved).collect();
        let found = Found { saved, damage, under_way: None };
        let Self { files, quarantine, journal, .. } = self;
        Ok(Opened { database, journal, table, ledger, files, reserve, quarantine, found })
    }

    fn open_with(&self, room: Room) -> Result<Whole, Failed> {
        if self.places.before().exists() {
            return self.salvage("opening it did not come to an end".to_owned());
        }
        let is_new = !self.places.database().exists();
        if is_new && (self.evidence.newest.serial > 0 || !self.journal.is_empty()) {
            return self.salvage("it is not there".to_owned());
        }
        let opened = self.copy_before(room).map_err(InPlace::from).and_then(|()| self.open_in_place());
        let failed = match opened {
            Ok(whole) => return Ok(whole),
            Err(InPlace::Damaged(why)) => return self.salvage(why),
            Err(InPlace::Failed(why)) => Failed::Other(why),
            Err(InPlace::Full(why)) => Failed::Full(why),
        };
        // It is sound as far as is known, and takes less space where it lies.
        remove_any(&self.places.before())?;
        Err(failed)
    }

    /// Copies sled's file; without the space for that it is opened without a copy.
    fn copy_before(&self, room: Room) -> io::Result<()> {
        if room == Room::Scarce {
            return Ok(());
        }
        let (from, to) = (self.places.database().join("db"), self.places.before());
        let part = to.with_extension("part");
        match fs::copy(&from, &part).and_then(|_| fs::rename(&part, &to)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) if super::room::is_full(&error) => remove_any(&part),
            other => other,
        }
    }

    fn open_in_place(&self) -> Result<Whole, InPlace> {
        let (path, journal) = (self.places.database(), Arc::clone(&self.journal));
        let mib = fs::metadata(path.join("db")).map_or(0, |meta| meta.len() >> 20);
        let patience = PATIENCE + PATIENCE_PER_MIB * u32::try_from(mib).unwrap_or(u32::MAX);
        let (database, scan, has_space) = watched(patience, move |progress| read(&path, &journal, progress))??;
        let has_file = |row: &Row| has_file(&self.files, row);
        let rows = compare::sound(&scan, &self.evidence, has_file).map_err(InPlace::Damaged)?;
        // In this order: a start that the power interrupts from here on is begun anew, and finds the same.
        remove_any(&self.places.before())?;
        sync_folder(&self.config.path)?;
        if has_space {
            self.journal.clear_all().map_err(InPlace::of_the_journal)?;
        }
        // Higher than any: nothing that is appended from here on is what a group was that the power interrupted.
        let known = [scan.newest.barrier, self.evidence.newest.barrier, self.journal.generation()];
        let barrier = known.into_iter().max().unwrap_or(0) + 1;
        let stray = Step::removal(stray(&scan, &rows));
        self.journal.append(barrier, &[stray]).map_err(InPlace::of_the_journal)?;
        Ok(Whole { database, rows, account: Account { barrier, ..scan.newest }, damage: Vec::new() })
    }

    /// A new database of all that can be found, the old one to the quarantine.
    fn salvage(&self, why: String) -> Result<Whole, Failed> {
        let mut found = raw::Found::default();
        let journal = self.journal.paths().iter().cloned();
        for path in [self.places.before(), self.places.database()].into_iter().chain(journal) {
            if path.exists() {
                found.search(&path)?;
            }
        }
        let (mut rows, account, unnamed) = compare::merged(&found.rows, &self.evidence);
        // Of what the journal says is gone the ledger may not know yet.
        rows.retain(|row| !matches!(self.journal.last(&Key::Row(row.number)), Ok(Last::Gone)));
        let was_lost: Vec<bool> = rows.iter().map(|row| row.body.lost).collect();
        let rows: Vec<Row> = rows.into_iter().map(|row| self.without_file(row)).collect();
        let account = Account { serial: account.serial + 1, ..totalled(account, &rows) };
        let rows = self.places.build(rows, account, |row, key| Ok(found.part(row, key)?))?;
        let mut kept = "not kept".to_owned();
        self.places.swap(|old| {
            // Better without the old one than without a new one.
            match self.quarantine.take(old, "database") {
                Ok(path) => kept = format!("at {}", path.display()),
                Err(error) => kept = format!("not kept ({error})"),
            }
            Ok(())
        })?;
        let database = Database::open(&self.places.database())?;
        // The new one has all of it.
        self.journal.clear_all()?;
        let mut damage = vec![Damage::Database { why, rows: rows.len(), kept }];
        let lost = rows.iter().zip(was_lost).filter(|(row, was_lost)| row.body.lost && !was_lost);
        damage.extend(lost.map(|(row, _)| lost_body(row)));
        damage.extend(unnamed.map(|Unnamed { count, numbers }| Damage::Unnamed { count, numbers }));
        Ok(Whole { database, rows, account, damage })
    }

    fn without_file(&self, mut row: Row) -> Row {
        row.body.lost |= !has_file(&self.files, &row);
        row
    }
}

/// A database with what the journal has, and what is in it; and whether there was space to carry that over.
fn read(path: &Path, journal: &Journal, progress: &Progress) -> Result<(Database, Scan, bool), Fault> {
    let database = Database::open(path)?;
    // Before it is looked at: of damage that the journal hides sled would lose something later.
    let carried_over = checkpoint::replay(journal, &database, || progress.step());
    progress.step()?;
    let (database, journal) = match carried_over {
        Ok(()) => (database, None),
        Err(Fault::Full(_)) => {
            // It takes nothing more. What the journal has is read from there until there is space.
            let _ = database.close();
            (Database::open(path)?, Some(journal))
        }
        Err(fault) => return Err(fault),
    };
    let scan = database.scan(journal)?;
    Ok((database, scan, journal.is_none()))
}

/// What belongs to no row: parts of requests that were not accepted before the power went, and rows that were erased.
fn stray(scan: &Scan, rows: &[Row]) -> Vec<Key> {
    let named: HashSet<_> = rows.iter().flat_map(Row::parts).collect();
    let kept: HashSet<u64> = rows.iter().map(|row| row.number).collect();
    let erased = scan.rows.values().map(|(row, _)| row.number).filter(|number| !kept.contains(number));
    let parts = scan.parts.iter().filter(|key| !named.contains(key)).copied();
    parts.chain(erased.map(Key::Row)).collect()
}

/// The account of these rows.
fn totalled(account: Account, rows: &[Row]) -> Account {
    let next = rows.iter().map(|row| row.number + 1).max().unwrap_or(0).max(account.next);
    let (live, sum) = compare::totals(rows);
    Account { next, live, sum, ..account }
}

fn has_file(files: &Files, row: &Row) -> bool {
    row.body.file.is_none_or(|file| files.has(&file, row.body.length))
}

fn lost_body(row: &Row) -> Damage {
    let (id, number) = (row.id(), row.number);
    match row.state {
        State::Waiting(_) => Damage::Payload { id, number },
        State::Ended(..) => Damage::Answer { id, number },
    }
}

enum InPlace {
    Full(String),
    Damaged(String),
    /// It could not be tried.
    Failed(String),
}

impl InPlace {
    /// Of the journal's faults none is the database's.
    fn of_the_journal(fault: Fault) -> Self {
        match fault {
            Fault::Full(why) => Self::Full(why),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<Unfinished> for InPlace {
    /// sled may wait for ever where it writes to a damaged file.
    fn from(unfinished: Unfinished) -> Self {
        match unfinished {
            Unfinished::NoThread(_) => Self::Failed(unfinished.to_string()),
            Unfinished::Panicked(_) | Unfinished::Stuck(_) => Self::Damaged(unfinished.to_string()),
        }
    }
}

impl From<io::Error> for InPlace {
    fn from(error: io::Error) -> Self {
        Fault::from(error).into()
    }
}

impl From<Fault> for InPlace {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Full(why) => Self::Full(why),
            other => Self::Damaged(other.to_string()),
        }
    }
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Full(why) => Self::Full(why),
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Fault::from(error).into()
    }
}
