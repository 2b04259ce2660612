//! The outbox's thread: gathers changes into groups, has each group survive by one barrier, and reports.
//!
//! ```text
//! queue ─ group ─ large bodies to files ─ table ─ journal, synced ─ ledger ─ reports
//!                        │                           │
//!                        └── no space ───────────────┴─ undone, the reserve released:
//!                                                       insertions are refused, the rest is tried once more
//! ```
//!
//! The journal is carried over into the database when half of it is full, and after a second (checkpoint.rs).
//!
//! Where the disk is full, new requests are refused and what was accepted goes on in what the reserve held. Once a second
//! the reserve is tried to be had again; from then on new requests are taken.
//!
//! An fsync that fails, or an error of the disk, ends everything: what is on it is in doubt.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hedge_agent_core::outbox::{Change, Ending};

use super::checkpoint::Checkpointer;
use super::database::Fault;
use super::ledger::Ledger;
use super::pace::Pace;
use super::part::INLINE_BYTES;
use super::queue::Command;
use super::rebuild::Places;
use super::room::{self, Reserve};
use super::row::{Account, Body};
use super::table::Step;
use super::{Shared, StoreReport};
use crate::audits::AuditQueue;
use crate::store::caught;

/// How often a full disk is looked at, what was appended to the ledger is synced, and the journal is carried over.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Attempts at a group: as it is, when the audits have given way, and without new requests.
const TRIES: usize = 3;

#[derive(Default)]
pub(super) struct Counters {
    pub(super) full: AtomicBool,
    pub(super) database_bytes: AtomicU64,
    pub(super) barriers: AtomicU64,
    pub(super) changes: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) reopened: AtomicU64,
    pub(super) compacted: AtomicU64,
}

type Report = Box<dyn FnMut(Vec<StoreReport>) + Send>;

/// Starts the thread.
pub(super) fn start(
    shared: Arc<Shared>,
    ledger: Ledger,
    reserve: Reserve,
    report: Report,
) -> io::Result<JoinHandle<()>> {
    shared.counters.full.store(!reserve.is_held(), Ordering::Relaxed);
    let checkpointer = Checkpointer::start(Arc::clone(&shared))?;
    std::thread::Builder::new().name("outbox".into()).spawn(move || {
        let places = Places::new(&shared.config.path);
        let pace = Pace::default();
        let look_at = Instant::now();
        let durable = shared.table().account();
        let mut committer = Committer {
            shared,
            places,
            ledger,
            reserve,
            report,
            pace,
            look_at,
            durable,
            failed_checkpoints: 0,
            checkpointer,
            dead: false,
        };
        // Nobody else would tell those who wait for a report.
        if let Err(why) = caught(|| committer.run()) {
            committer.die(&format!("the outbox's thread panicked: {why}"));
        }
        committer.close();
    })
}

pub(super) struct Committer {
    pub(super) shared: Arc<Shared>,
    pub(super) places: Places,
    pub(super) ledger: Ledger,
    pub(super) reserve: Reserve,
    report: Report,
    pace: Pace,
    /// When to look after the disk, the ledger and the journal.
    look_at: Instant,
    /// The account of the newest change that is on the disk: the ledger must not know of a newer one.
    pub(super) durable: Account,
    /// Checkpoints in a row that the database failed in.
    pub(super) failed_checkpoints: u32,
    pub(super) checkpointer: Checkpointer,
    dead: bool,
}

enum Work {
    Group(Vec<Command>),
    Checkpointed,
    Look,
    Reopen,
    Close,
}

impl Committer {
    fn run(&mut self) {
        while !self.dead {
            match self.next() {
                Work::Group(group) => self.commit(group),
                Work::Checkpointed => self.checkpointed(),
                Work::Look => self.look(),
                Work::Reopen => self.reopen_for_a_reader(),
                Work::Close => return,
            }
        }
    }

    fn next(&self) -> Work {
        let mut queue = self.shared.queue();
        loop {
            let now = Instant::now();
            let look_at = self.has_to_look().then_some(self.look_at);
            if queue.checkpointed.is_some() {
                return Work::Checkpointed;
            }
            // Before the groups, which may follow one another without a pause.
            if look_at.is_some_and(|at| at <= now) && !queue.closing {
                return Work::Look;
            }
            let due = match self.pace.due(queue.waiting()) {
                None if queue.closing => return Work::Close,
                Some(due) if due <= now || queue.closing => return Work::Group(queue.take()),
                due => due,
            };
            if queue.reopen {
                return Work::Reopen;
            }
            queue.wake_at = self.pace.enough();
            queue = match [due, look_at].into_iter().flatten().min() {
                Some(until) => {
                    let woken = self.shared.wake.wait_timeout(queue, until.saturating_duration_since(now));
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn has_to_look(&self) -> bool {
        self.is_full() || self.ledger.is_behind() || !self.ledger.is_synced() || !self.shared.journal.is_empty()
    }

    fn commit(&mut self, group: Vec<Command>) {
        let mut group = self.admitted(group);
        if group.is_empty() {
            return;
        }
        for _ in 0..TRIES {
            let fault = match self.attempt(&group) {
                Ok(()) => return self.committed(&group),
                Err(fault) => fault,
            };
            self.remove_unnamed(&group);
            match fault {
                Fault::Disk(why) | Fault::Broken(why) => return self.die(&why),
                Fault::Full(_) if self.audits_give_way() => {}
                Fault::Full(why) => {
                    let (was_full, before) = (self.is_full(), group.len());
                    self.become_full(&why);
                    group = self.refuse_insertions(group);
                    if was_full && group.len() == before {
                        break;
                    }
                }
            }
            if group.is_empty() {
                return;
            }
        }
        self.give_up(group);
    }

    /// Refuses new requests for which there is no room; what is left may be written.
    fn admitted(&mut self, group: Vec<Command>) -> Vec<Command> {
        let bytes: u64 = group.iter().map(|command| command.body().len() as u64).sum();
        if !group.iter().any(Command::is_insertion) {
            return group;
        }
        if !self.is_full() {
            let least = self.shared.config.least_free_bytes.saturating_add(bytes.saturating_mul(3));
            if self.lacks(least) && (!self.audits_give_way() || self.lacks(least)) {
                self.become_full(&format!("less than {least} bytes are free"));
            }
        }
        if self.is_full() {
            return self.refuse_insertions(group);
        }
        let mut room = self.shared.config.max_bytes.saturating_sub(self.shared.table().held().payload_bytes);
        let mut fits = |command: &Command| {
            let bytes = command.body().len() as u64;
            let fits = !command.is_insertion() || (command.payload.is_some() && bytes <= room);
            room -= if command.is_insertion() && fits { bytes } else { 0 };
            fits
        };
        let (admitted, refused): (Vec<_>, Vec<_>) = group.into_iter().partition(|command| fits(command));
        self.refuse(refused);
        admitted
    }

    fn lacks(&self, bytes: u64) -> bool {
        room::lacks(&self.shared.config.path, bytes)
    }

    /// Whether audits were dropped to make room.
    pub(super) fn audits_give_way(&self) -> bool {
        let audits = self.shared.config.audits.as_ref().filter(|audits| audits.stats().waiting > 0);
        audits.map(AuditQueue::shed).is_some()
    }

    /// Everything up to the barrier; where it fails nothing of it is left in the table.
    fn attempt(&mut self, group: &[Command]) -> Result<(), Fault> {
        self.make_room(group.iter().map(Command::journal_bytes).sum())?;
        self.write_files(group)?;
        self.keep_poisoned(group);
        let (account, steps) = {
            let mut table = self.shared.table();
            table.next_barrier();
            let step = |command: &Command| table.change(&command.change, command.payload.as_ref());
            let steps = group.iter().map(step).collect::<Vec<Step>>();
            (table.account(), steps)
        };
        if let Err(fault) = self.shared.journal.append(account.barrier, &steps) {
            self.shared.table().undo(steps);
            return Err(fault);
        }
        if steps.iter().any(|step| step.record.is_some()) {
            self.durable = account;
        }
        self.tell_ledger(&steps)?;
        let table = self.shared.table();
        let released = steps.iter().filter_map(Step::released).filter(|file| !table.names_file(file));
        released.for_each(|file| self.shared.files.remove(&file));
        Ok(())
    }

    fn write_files(&self, group: &[Command]) -> Result<(), Fault> {
        let large: Vec<&[u8]> = group.iter().map(Command::body).filter(|body| body.len() > INLINE_BYTES).collect();
        let files = &self.shared.files;
        let written = large.iter().try_for_each(|bytes| match Body::of(bytes).file {
            Some(file) => files.write(&file, bytes),
            None => Ok(()),
        });
        let synced = written.and_then(|()| if large.is_empty() { Ok(()) } else { files.sync() });
        Ok(synced?)
    }

    /// The payload of a request that killed the process is kept for people to look at. Where that fails, it is not.
    fn keep_poisoned(&self, group: &[Command]) {
        for command in group {
            let Change::Finish { head, ending: Ending::Poisoned { .. } } = &command.change else { continue };
            let row = self.shared.table().row(&head.id).cloned();
            let Some(Ok(Some(payload))) = row.map(|row| self.shared.body(&row)) else { continue };
            if let Err(error) = self.shared.quarantine.keep(&head.id, &payload) {
                tracing::warn!(id = %head.id, %error, "the payload of a poisoned request was not kept");
            }
        }
    }

    fn tell_ledger(&mut self, steps: &[Step]) -> Result<(), Fault> {
        let records: Vec<&[u8]> = steps.iter().filter_map(|step| step.record.as_deref()).collect();
        if self.ledger.is_synced() && !self.ledger.is_behind() && !self.is_full() {
            self.look_at = Instant::now() + LOOK_EVERY;
        }
        self.ledger.append(&records.concat()).map_err(|error| ledger_fault(&error))?;
        let is_long = self.ledger.is_long(self.shared.table().len());
        if is_long && !self.is_full() { self.renew_ledger() } else { Ok(()) }
    }

    fn renew_ledger(&mut self) -> Result<(), Fault> {
        let path = self.ledger.path().to_owned();
        self.ledger =
            Ledger::renew(&path, &self.shared.table(), &self.durable).map_err(|error| ledger_fault(&error))?;
        Ok(())
    }

    fn committed(&mut self, group: &[Command]) {
        let counters = &self.shared.counters;
        counters.changes.fetch_add(group.len() as u64, Ordering::Relaxed);
        counters.barriers.fetch_add(1, Ordering::Relaxed);
        let writes = group.iter().filter_map(|command| command.write);
        self.pace.committed(writes.clone().count(), self.shared.queue().waiting().writes);
        self.tell(writes.map(StoreReport::Persisted).collect());
    }

    fn checkpointed(&mut self) {
        if let Err(fault) = self.end_checkpoint() {
            self.die(&fault.to_string());
        }
    }

    /// Removes the files of bodies that were not committed.
    fn remove_unnamed(&self, group: &[Command]) {
        let table = self.shared.table();
        let files = group.iter().filter_map(|command| Body::of(command.body()).file);
        files.filter(|file| !table.names_file(file)).for_each(|file| self.shared.files.remove(&file));
    }

    fn refuse_insertions(&mut self, group: Vec<Command>) -> Vec<Command> {
        let (insertions, rest) = group.into_iter().partition(Command::is_insertion);
        self.refuse(insertions);
        rest
    }

    /// There is no space, even without the reserve. Notes wait on.
    fn give_up(&mut self, group: Vec<Command>) {
        let (writes, notes) = group.into_iter().partition(|command| command.write.is_some());
        self.shared.queue().put_back(notes, Instant::now());
        self.refuse(writes);
    }

    fn refuse(&mut self, commands: Vec<Command>) {
        self.shared.counters.refused.fetch_add(commands.len() as u64, Ordering::Relaxed);
        let writes = commands.into_iter().filter_map(|command| command.write);
        self.tell(writes.map(StoreReport::NotPersisted).collect());
    }

    /// Nobody is woken for nothing.
    fn tell(&mut self, reports: Vec<StoreReport>) {
        if !reports.is_empty() {
            (self.report)(reports);
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.shared.counters.full.load(Ordering::Relaxed)
    }

    pub(super) fn become_full(&mut self, why: &str) {
        if !self.shared.counters.full.swap(true, Ordering::Relaxed) {
            tracing::warn!(why, "the disk is full: no new durable requests until there is space");
        }
        self.look_at = Instant::now() + LOOK_EVERY;
        if let Err(error) = self.reserve.release().and(self.shared.quarantine.clear()) {
            tracing::error!(%error, "the outbox's reserve cannot be released");
        }
    }

    fn look(&mut self) {
        self.look_at = Instant::now() + LOOK_EVERY;
        if self.is_full() {
            self.look_for_space();
        }
        if self.dead {
            return;
        }
        let told = if self.ledger.is_behind() { self.renew_ledger() } else { Ok(()) };
        let synced = self.ledger.sync().map_err(|error| ledger_fault(&error));
        if let Err(fault) = told.and(synced).and_then(|()| self.begin_checkpoint_in_time()) {
            self.die(&fault.to_string());
        }
    }

    /// Takes new requests again where the reserve can be had, and something beside it.
    fn look_for_space(&mut self) {
        let config = &self.shared.config;
        let wanted = self.reserve.bytes().saturating_add(config.least_free_bytes.saturating_mul(2));
        if self.lacks(wanted) {
            return;
        }
        if !self.shared.is_open() {
            match self.reopen() {
                Ok(()) => {}
                Err(Fault::Full(_)) => return,
                Err(fault) => return self.die(&fault.to_string()),
            }
        }
        match self.reserve.take() {
            Ok(true) => {
                self.shared.counters.full.store(false, Ordering::Relaxed);
                tracing::info!("there is space again: durable requests are taken");
            }
            Ok(false) => {}
            Err(error) => self.die(&format!("the outbox's reserve: {error}")),
        }
    }

    fn reopen_for_a_reader(&mut self) {
        if let Err(fault) = self.reopen_or_be_full() {
            self.die(&fault.to_string());
        }
        self.shared.queue().reopen = false;
        self.shared.wake.notify_all();
    }

    fn die(&mut self, why: &str) {
        self.dead = true;
        tracing::error!(why, "the outbox failed; durable requests end here");
        self.tell(vec![StoreReport::Failed(why.to_owned())]);
    }

    fn close(&mut self) {
        {
            let mut queue = self.shared.queue();
            queue.closing = true;
            queue.reopen = false;
        }
        self.shared.wake.notify_all();
        if self.dead {
            let _ = self.wait_for_checkpoint();
        } else {
            // What is missing in either is made good at the next start.
            if let Err(fault) = self.checkpoint_all() {
                tracing::warn!(%fault, "the outbox's journal was not carried over");
            }
            let _ = self.ledger.sync();
        }
        let database = self.shared.database.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(error)) = database.map(super::database::Database::close) {
            tracing::warn!(%error, "the outbox's database did not close cleanly");
        }
    }
}

fn ledger_fault(error: &io::Error) -> Fault {
    Fault::Disk(format!("the outbox's ledger failed: {error}"))
}
