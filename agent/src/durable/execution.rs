//! One execution: a row of the outbox on its way through cache, local model and router.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hedge_agent_core::outbox::{Mode, OutboxEvent, Ran};
use hedge_agent_core::{Asking, Failure};
use hedge_agent_spool::{Mark, OutboxError, OutboxStore};
use hedge_wire::{Digest, RequestId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::driver::Happened;
use super::record::{About, End, Failed, Request};
use crate::answered::Answered;
use crate::catalog::Catalog;
use crate::model::ServedModel;
use crate::row::{RowTask, Shared, Way, Wish};

/// The longest that a local model may take for a row; nobody waits with a deadline here.
const EXECUTION_LIMIT: Duration = Duration::from_secs(600);
/// Bytes of payloads that are in memory at a time, to be executed, and as many to be asked about; more wait.
const MEMORY: usize = 64 * 1024 * 1024;
/// They are counted in KiB.
const UNIT: u64 = 1024;

/// What executions and questions need.
pub(super) struct Tools {
    pub(super) rows: Arc<Shared>,
    catalog: Arc<Catalog>,
    store: OutboxStore,
    to_execute: Arc<Semaphore>,
    to_ask: Arc<Semaphore>,
}

/// What a payload is in memory for. Those that wait for a gateway must not keep others from being executed.
#[derive(Clone, Copy)]
pub(super) enum Use {
    Execution,
    Question,
}

/// Why a row cannot be had.
pub(super) enum Unread {
    /// The database cannot be read at the moment.
    Now,
    /// It is damaged, or of another version.
    Ever,
}

impl Tools {
    pub(super) fn new(rows: Arc<Shared>, catalog: Arc<Catalog>, store: OutboxStore) -> Self {
        let room = || Arc::new(Semaphore::new(MEMORY / UNIT as usize));
        Self { rows, catalog, store, to_execute: room(), to_ask: room() }
    }

    /// Waits until a payload of so many bytes may be in memory.
    pub(super) async fn room(&self, bytes: u64, of: Use) -> Option<OwnedSemaphorePermit> {
        let room = match of {
            Use::Execution => &self.to_execute,
            Use::Question => &self.to_ask,
        };
        let units = bytes.div_ceil(UNIT).min(MEMORY as u64 / UNIT);
        let units = u32::try_from(units).expect("the memory for payloads is counted in 32 bits");
        // The semaphore is never closed.
        Arc::clone(room).acquire_many_owned(units).await.ok()
    }

    /// Marks the row as being tried, as long as this is not dropped.
    pub(super) fn mark(&self, id: RequestId, attempts: u8) -> Option<Mark> {
        self.store.mark(id, attempts)
    }

    /// The row of this id.
    pub(super) async fn stored(&self, id: RequestId, payload: Option<Bytes>) -> Result<Request, Unread> {
        let payload = match payload {
            Some(payload) => payload,
            None => self.read(id, |payload| payload).await?,
        };
        Request::decode(&payload).ok_or(Unread::Ever)
    }

    /// The row of this id, and the digest of its payload.
    pub(super) async fn stored_with_digest(&self, id: RequestId) -> Result<(Request, Digest), Unread> {
        let (digest, payload) = self.read(id, |payload| (Digest::of(&payload), payload)).await?;
        Ok((Request::decode(&payload).ok_or(Unread::Ever)?, digest))
    }

    /// What `make` makes of a payload, off the reactor.
    async fn read<T: Send + 'static>(
        &self,
        id: RequestId,
        make: impl FnOnce(Bytes) -> T + Send + 'static,
    ) -> Result<T, Unread> {
        match super::read(&self.store, move |store| Ok(store.payload(&id)?.map(make))).await {
            Ok(Some(made)) => Ok(made),
            Ok(None) | Err(OutboxError::Damaged { .. }) => Err(Unread::Ever),
            Err(error) => {
                tracing::warn!(%id, %error, "a durable request has to wait");
                Err(Unread::Now)
            }
        }
    }

    /// The model that serves under a name, or why none does.
    pub(super) fn model(&self, name: &str) -> Result<Arc<ServedModel>, String> {
        let slot = self.catalog.slot(name).unwrap_or_default();
        slot.served.ok_or_else(|| slot.problem.unwrap_or_else(|| "there is no such model any more".into()))
    }
}

/// Executes a row, which has so many unfinished attempts; `bytes` is the size of its payload.
pub(super) async fn execute(
    tools: &Tools,
    (id, attempts): (RequestId, u8),
    (bytes, payload): (u64, Option<Bytes>),
    mode: Mode,
) -> Happened {
    let _room = tools.room(bytes, Use::Execution).await;
    let _mark = tools.mark(id, attempts);
    let ran = |ran| Happened::Event(OutboxEvent::Ran { id, ran });
    let ended = |about: About, outcome| ran(Ran::Final(End { about, outcome }.encode()));
    let Request { about, place, inputs } = match tools.stored(id, payload).await {
        Ok(request) => request,
        Err(Unread::Now) => return ran(Ran::Again),
        Err(Unread::Ever) => return Happened::Event(OutboxEvent::Unreadable(id)),
    };
    let model = match tools.model(&about.model) {
        Ok(model) => model,
        Err(why) => {
            let message =
                format!("model {:?} is not served, and cannot answer what was asked of it: {why}", about.model);
            return ended(about, Err(Failed { status: 503, message }));
        }
    };
    // It was split before it was handed in; the model may be another since.
    let row = match model.signature.split(inputs).map(|mut rows| rows.pop()) {
        Ok(Some(row)) => row,
        Ok(None) => return ended(about, Err(Failed { status: 400, message: "there is no row".into() })),
        Err(error) => return ended(about, Err(Failed { status: 400, message: error.to_string() })),
    };
    let asking = match mode {
        Mode::Routed => Asking::Later,
        Mode::Local(reason) => Asking::Never(reason),
    };
    let wish = Wish { place, allowed: EXECUTION_LIMIT, asking };
    match RowTask::start(&tools.rows, &model, row, wish, Instant::now()).run().await {
        Way::Left { left, charged } => Happened::Left { id, left, edge: model.digest, charged },
        Way::Ended(Err(Failure::Overloaded)) => ran(Ran::Again),
        Way::Ended(Ok(answer)) => ended(about, Ok(Answered::new(answer, &model))),
        Way::Ended(Err(failure)) => ended(about, Err(Failed::from(&failure))),
    }
}
