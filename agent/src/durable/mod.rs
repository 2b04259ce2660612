//! Durable requests: carries out what `hedge_agent_core::Outbox` decides about them.
//!
//! ```text
//! POST, GET ──── hand in, look, fetched ────> driver <──── reports ──── store (hedge_agent_spool)
//!        <── accepted, refused, ended ──────    │  ╰──── writes ─────>
//!                                               ├─ execute ──> a row of the outbox (crate::row)
//!                                               ╰─ ask ──────> a question to the cloud (crate::cloud)
//! ```
//!
//! One entry of the outbox is one row of a request, because each row is routed by itself. A request is accepted when all of
//! its rows are: what is left of one that was not (a crash in between) is executed like the others, was promised to nobody,
//! and is joined by the caller's retry. The driver is one task that owns the outbox; executions and questions are tasks of its,
//! and tell it by events what came of them.
//!
//! Nothing is told to a caller before the store has said that it survives a power cut. When the store's disk fails, the driver ends
//! with why, and so must the process: what it would go on from is in doubt.

mod asker;
mod clock;
mod driver;
mod execution;
mod ids;
mod placed;
mod record;
mod ticket;

use std::time::Duration;

use bytes::Bytes;
use hedge_agent_core::outbox::{Ending, ResultHead, Standing};
use hedge_agent_spool::{OutboxError, OutboxStats, OutboxStore};
use hedge_wire::RequestId;
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use self::clock::MachineClock;
pub(crate) use self::driver::{Driver, Opened, open};
pub(crate) use self::ids::row_id;
pub(crate) use self::record::{About, End, Failed, Request};
use self::ticket::News;
pub(crate) use self::ticket::{Handed, Row, Ticket, Waited};

/// Calls and events that may wait for the driver; who has more waits.
const WAITING: usize = 1024;

/// The durable requests, as the API uses them.
#[derive(Clone)]
pub(crate) struct Durable {
    calls: mpsc::Sender<Call>,
    store: OutboxStore,
    closing: watch::Receiver<bool>,
}

/// Why no durable request is taken, in words.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}; or send it without hedge.durable")]
pub(crate) struct NotDurable(pub(crate) String);

/// The driver has ended: so does the process.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the agent is stopping; send the request again with the same id when it is back")]
pub(crate) struct Stopping;

/// What the driver is asked for, or told.
enum Call {
    HandIn {
        rows: Vec<Handed>,
        news: mpsc::Sender<(usize, News)>,
    },
    Look {
        rows: Vec<RequestId>,
        standings: oneshot::Sender<Vec<Standing>>,
    },
    Fetched(Vec<RequestId>),
    Happened(driver::Happened),
    /// Begin nothing more, and say when nothing is being executed.
    Stop(oneshot::Sender<()>),
}

impl Durable {
    /// Hands in the rows of one request; what becomes of them is told by the ticket.
    pub(crate) async fn hand_in(&self, rows: Vec<Handed>) -> Result<Ticket, Stopping> {
        let count = rows.len();
        let (news, told) = mpsc::channel(ticket::news_of(count));
        self.calls.send(Call::HandIn { rows, news }).await.map_err(|_| Stopping)?;
        Ok(Ticket::new(count, told, self.closing.clone()))
    }

    /// What is known of each row.
    pub(crate) async fn look(&self, rows: Vec<RequestId>) -> Result<Vec<Standing>, Stopping> {
        let (standings, found) = oneshot::channel();
        self.calls.send(Call::Look { rows, standings }).await.map_err(|_| Stopping)?;
        found.await.map_err(|_| Stopping)
    }

    /// The results of these rows are in their caller's hands.
    pub(crate) async fn fetched(&self, rows: Vec<RequestId>) {
        // Who is stopping keeps them.
        let _ = self.calls.send(Call::Fetched(rows)).await;
    }

    /// A row that was handed in and has not ended.
    pub(crate) async fn payload(&self, row: RequestId) -> Result<Option<Bytes>, OutboxError> {
        read(&self.store, move |store| store.payload(&row)).await
    }

    /// A row's end.
    pub(crate) async fn result(&self, row: RequestId) -> Result<Option<(ResultHead, Ending<Bytes>)>, OutboxError> {
        read(&self.store, move |store| store.result(&row)).await
    }

    /// What the store holds; zero where that cannot be told.
    pub(crate) async fn stats(&self) -> OutboxStats {
        read(&self.store, |store| Ok(store.stats())).await.unwrap_or_default()
    }

    /// Begins to end in order: nothing more is begun, and what is being executed may end within `patience`. Nothing depends on it
    /// but how soon a next process goes on.
    pub(crate) async fn stop(&self, patience: Duration) {
        let (idle, is_idle) = oneshot::channel();
        let stop = async {
            if self.calls.send(Call::Stop(idle)).await.is_ok() {
                let _ = is_idle.await;
            }
        };
        if tokio::time::timeout(patience, stop).await.is_err() {
            tracing::info!("durable requests are still being executed; the next process executes them again");
        }
    }

    /// Writes everything out and closes the store, which the driver must have left.
    pub(crate) async fn close(&self) {
        let store = self.store.clone();
        // Its thread ends by itself even if this one could not wait for it.
        let _ = tokio::task::spawn_blocking(move || store.close()).await;
    }
}

/// Reads from the store, off the reactor.
async fn read<T: Send + 'static>(
    store: &OutboxStore,
    what: impl FnOnce(&OutboxStore) -> Result<T, OutboxError> + Send + 'static,
) -> Result<T, OutboxError> {
    let store = store.clone();
    let done = tokio::task::spawn_blocking(move || what(&store)).await;
    done.unwrap_or_else(|error| Err(OutboxError::Unavailable { why: error.to_string() }))
}
