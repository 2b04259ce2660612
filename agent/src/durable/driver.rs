//! The task that owns the outbox: feeds it events. What it then wants is carried out in `actions`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hedge_agent_core::outbox::{NotAccepted, OutboxAction, OutboxEvent, Ran, Saved, Standing, WriteId};
use hedge_agent_core::{Left, Outbox, OutboxSettings};
use hedge_agent_spool::{Found, OutboxConfig, OutboxError, OutboxStore, StoreReport};
use hedge_wire::{Digest, RequestId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::Instant;

use super::asker::Asker;
use super::clock::MachineClock;
use super::execution::Tools;
use super::placed::Placed;
use super::ticket::{Handed, News};
use super::{Call, Durable, WAITING};
use crate::catalog::Catalog;
use crate::metrics::Metrics;
use crate::row::Shared;
use crate::wait;

mod actions;

/// Groups of reports of the store that may wait for the driver; then the store's thread does.
const REPORTS: usize = 16;

/// A store that was opened, and what lay in it.
pub(crate) struct Opened {
    store: OutboxStore,
    found: Found,
    reports: mpsc::Receiver<Vec<StoreReport>>,
}

/// The task.
pub(crate) struct Driver {
    outbox: Outbox<Bytes>,
    clock: MachineClock,
    store: OutboxStore,
    tools: Arc<Tools>,
    metrics: Arc<Metrics>,
    calls: mpsc::Receiver<Call>,
    /// Where tasks say what happened.
    mailbox: Mailbox,
    reports: mpsc::Receiver<Vec<StoreReport>>,
    tasks: JoinSet<()>,
    /// What those that execute are about.
    executing: HashMap<task::Id, RequestId>,
    /// What is known of each request beside what the outbox knows.
    known: HashMap<RequestId, Known>,
    /// How many of these have a label.
    labels: usize,
    callers: HashMap<RequestId, Vec<Caller>>,
    /// Payloads on their way to the disk.
    payloads: HashMap<RequestId, Bytes>,
    /// When each write was asked for.
    written: HashMap<WriteId, Instant>,
    wake: Option<Instant>,
    up: bool,
    /// Who waits for the last execution to end.
    idle: Option<oneshot::Sender<()>>,
}

/// What came of an execution or a question.
pub(super) enum Happened {
    Event(OutboxEvent<Bytes>),
    /// The row was executed, and the cloud is to answer.
    Left {
        id: RequestId,
        left: Left,
        edge: Digest,
        charged: bool,
    },
    /// The task that asks about this request has ended with this event.
    Over(RequestId, OutboxEvent<Bytes>),
}

/// Where executions and questions say what came of them.
#[derive(Clone)]
pub(super) struct Mailbox(mpsc::Sender<Call>);

struct Known {
    bytes: u64,
    since: Instant,
    placed: Option<Placed>,
    asker: Option<Asker>,
}

/// A caller who waits for a row, which is its so-manieth.
struct Caller {
    row: usize,
    news: mpsc::Sender<(usize, News)>,
}

/// Opens the outbox; what was damaged or lost is logged by name. Blocks for disk I/O.
pub(crate) fn open(config: OutboxConfig, metrics: &Metrics) -> Result<Opened, OutboxError> {
    let (reporter, reports) = mpsc::channel(REPORTS);
    let report = move |reports| {
        // The driver never waits for the store's thread, so this ends; where there is no driver any more, nobody asks.
        let _ = reporter.blocking_send(reports);
    };
    let (store, found) = OutboxStore::open(config, report)?;
    for damage in &found.damage {
        tracing::error!(%damage, "the outbox was damaged");
        metrics.outbox.damaged(damage);
    }
    Ok(Opened { store, found, reports })
}

impl Mailbox {
    pub(super) async fn put(&self, happened: Happened) {
        // Without a driver there is nobody to tell: the process ends.
        let _ = self.0.send(Call::Happened(happened)).await;
    }
}

impl Driver {
    /// A driver that goes on from what was found; `closing` becomes true when the agent is about to stop.
    pub(crate) fn new(
        opened: Opened,
        settings: OutboxSettings,
        rows: &Arc<Shared>,
        catalog: &Arc<Catalog>,
        closing: watch::Receiver<bool>,
    ) -> (Durable, Self) {
        let Opened { store, found, reports } = opened;
        let (sender, calls) = mpsc::channel(WAITING);
        let clock = MachineClock::new();
        let entries = found.saved.iter().filter_map(|saved| match saved {
            Saved::Entry(head) | Saved::Damaged(head) => Some((head.id, Known::new(head.bytes))),
            Saved::Result(_) => None,
        });
        let known = entries.collect();
        let seed = crate::random::bits();
        let under_way = found.under_way.as_ref();
        let (outbox, actions) = Outbox::restore(settings, clock.boot(), seed, found.saved, under_way, clock.now());
        let durable = Durable { calls: sender.clone(), store: store.clone(), closing };
        let mut driver = Self {
            outbox,
            clock,
            tools: Arc::new(Tools::new(Arc::clone(rows), Arc::clone(catalog), store.clone())),
            store,
            metrics: Arc::clone(&rows.metrics),
            calls,
            mailbox: Mailbox(sender),
            reports,
            tasks: JoinSet::new(),
            executing: HashMap::new(),
            known,
            labels: 0,
            callers: HashMap::new(),
            payloads: HashMap::new(),
            written: HashMap::new(),
            wake: None,
            up: false,
            idle: None,
        };
        driver.carry_out(actions, None);
        driver.show();
        (durable, driver)
    }

    /// Runs until the disk fails, and says how it did. Then nothing is told to anybody any more: what is on the disk is in doubt.
    pub(crate) async fn run(mut self) -> String {
        let cloud = Arc::clone(&self.tools.rows.cloud);
        self.look_at_the_cloud();
        loop {
            tokio::select! {
                reports = self.reports.recv() => {
                    let reports = reports.unwrap_or_else(|| vec![StoreReport::Failed("its thread has ended".into())]);
                    if let Err(why) = reports.into_iter().try_for_each(|report| self.reported(report)) {
                        return why;
                    }
                }
                // The driver itself holds a sender.
                Some(call) = self.calls.recv() => self.take(call),
                () = cloud.outbox_news() => self.look_at_the_cloud(),
                () = wait::until(self.wake) => {
                    self.wake = None;
                    self.feed(OutboxEvent::Timer);
                }
                Some(ended) = self.tasks.join_next_with_id() => self.task_ended(ended),
            }
            if self.outbox.running() == 0
                && let Some(idle) = self.idle.take()
            {
                // Who has given up waiting needs no word.
                let _ = idle.send(());
            }
            self.show();
        }
    }

    fn take(&mut self, call: Call) {
        match call {
            Call::HandIn { rows, news } => self.hand_in(rows, &news),
            Call::Look { rows, standings } => {
                // Who has gone needs no answer.
                let _ = standings.send(rows.iter().map(|row| self.outbox.standing(row)).collect());
            }
            Call::Fetched(rows) => rows.into_iter().for_each(|row| self.feed(OutboxEvent::Fetched(row))),
            Call::Happened(happened) => self.happened(happened),
            Call::Stop(idle) => {
                self.feed(OutboxEvent::Stop);
                self.idle = Some(idle);
            }
        }
    }

    /// All rows of a request, or, where there is no room for those that are new, none.
    fn hand_in(&mut self, rows: Vec<Handed>, news: &mpsc::Sender<(usize, News)>) {
        if let Err(why) = self.room_for(&rows) {
            self.metrics.outbox.refused(&why);
            // Who has gone needs no word.
            let _ = news.try_send((0, News::Refused(why)));
            return;
        }
        for (row, handed) in rows.into_iter().enumerate() {
            let caller = Caller { row, news: news.clone() };
            if !self.hand_in_one(handed, caller) {
                // The request is refused: what was handed in of it is joined by its retry, if there is one.
                return;
            }
        }
    }

    /// Whether there is room for those that are new, and nothing of an earlier request that is partly forgotten.
    fn room_for(&self, rows: &[Handed]) -> Result<(), NotAccepted> {
        let (mut count, mut bytes) = (0, 0);
        for row in rows {
            match self.outbox.standing(&row.id) {
                Standing::Gone => return Err(NotAccepted::Gone),
                Standing::Unknown => (count, bytes) = (count + 1, bytes + row.payload.len() as u64),
                Standing::Accepting | Standing::Waiting | Standing::Done => {}
            }
        }
        // Who asks again needs none, also where less is allowed than there was.
        if count == 0 { Ok(()) } else { self.outbox.room_for(count, bytes) }
    }

    /// False where the row is refused.
    fn hand_in_one(&mut self, handed: Handed, caller: Caller) -> bool {
        let Handed { id, digest, payload } = handed;
        let bytes = payload.len() as u64;
        if self.outbox.standing(&id) == Standing::Unknown {
            self.payloads.insert(id, payload);
            self.known.insert(id, Known::new(bytes));
        }
        // As long as the outbox allows.
        let accept = OutboxEvent::Accept { id, digest, bytes, life: Duration::MAX };
        let actions = self.outbox.on(accept, self.clock.now());
        let refused = actions.iter().any(|action| matches!(action, OutboxAction::Refuse { id: of, .. } if *of == id));
        self.carry_out(actions, Some((&id, &caller)));
        if !refused && matches!(self.outbox.standing(&id), Standing::Accepting | Standing::Waiting) {
            let callers = self.callers.entry(id).or_default();
            // Those who have gone make room for those who ask again and again.
            callers.retain(|caller| !caller.news.is_closed());
            callers.push(caller);
        }
        !refused
    }

    fn happened(&mut self, happened: Happened) {
        match happened {
            Happened::Event(event) => self.feed(event),
            Happened::Over(id, event) => {
                if let Some(known) = self.known.get_mut(&id) {
                    known.asker = None;
                }
                self.feed(event);
            }
            Happened::Left { id, left, edge, charged } => {
                let placed = Placed::new(left, edge, charged, self.labels);
                if let Some(known) = self.known.get_mut(&id) {
                    self.labels += usize::from(placed.label.is_some());
                    known.placed = Some(placed);
                }
                self.feed(OutboxEvent::Ran { id, ran: Ran::Offload });
            }
        }
    }

    /// Each execution must come to an end, also one that panicked, which is a fault in here.
    fn task_ended(&mut self, ended: Result<(task::Id, ()), JoinError>) {
        match ended {
            Ok((task, ())) => drop(self.executing.remove(&task)),
            Err(error) => {
                if let Some(id) = self.executing.remove(&error.id()) {
                    tracing::error!(%id, %error, "executing a durable request crashed; report this");
                    self.feed(OutboxEvent::Unreadable(id));
                }
            }
        }
    }

    /// An error if the disk failed.
    fn reported(&mut self, report: StoreReport) -> Result<(), String> {
        let (write, event) = match report {
            StoreReport::Persisted(write) => (write, OutboxEvent::Persisted(write)),
            StoreReport::NotPersisted(write) => (write, OutboxEvent::NotPersisted(write)),
            StoreReport::Failed(why) => return Err(why),
        };
        if let Some(asked) = self.written.remove(&write) {
            self.metrics.outbox.write_seconds.observe_duration(asked.elapsed());
        }
        self.feed(event);
        Ok(())
    }

    fn look_at_the_cloud(&mut self) {
        let up = self.tools.rows.cloud.view().is_up();
        if std::mem::replace(&mut self.up, up) != up {
            self.feed(if up { OutboxEvent::CloudUp } else { OutboxEvent::CloudDown });
        }
    }

    fn feed(&mut self, event: OutboxEvent<Bytes>) {
        let actions = self.outbox.on(event, self.clock.now());
        self.carry_out(actions, None);
    }

    fn show(&self) {
        self.metrics.outbox.show(&self.outbox);
    }
}

impl Known {
    fn new(bytes: u64) -> Self {
        Self { bytes, since: Instant::now(), placed: None, asker: None }
    }

    fn has_label(&self) -> bool {
        self.placed.as_ref().is_some_and(|placed| placed.label.is_some())
    }
}
