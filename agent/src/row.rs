//! Carries out what `hedge_agent_core` decides about one row: asks the cache, the local model and the cloud, keeps the
//! timer, and brings back the answer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hedge_agent_core::{
    Action, Answer, Ask, Asking, CachedVerdict, Decision, Event, Failure, Left, LocalFailure, LocalResult, Outputs,
    Place, RouteEvent, Row, RowPolicy, Ticket, Timing,
};
use hedge_agent_spool::{Cache, Entry, Key, RowDigest};
use hedge_certify::Fingerprint;
use hedge_engine::worker::{RowOutput, SubmitError};
use hedge_engine::{RanOn, RunError};
use hedge_tensor::NamedTensor;
use hedge_wire::{Purpose, Query, Reply, RequestId};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::cloud::{Cloud, CloudEvent, Question};
use crate::metrics::Metrics;
use crate::model::{ServedModel, Tally};
use crate::routing::Routes;

/// What every row needs.
pub(crate) struct Shared {
    pub(crate) cloud: Arc<Cloud>,
    pub(crate) cache: Option<Cache>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) routes: Arc<Routes>,
    /// The moment from which rows count time.
    pub(crate) epoch: Instant,
    pub(crate) retry_after: Duration,
}

/// How a row is to be answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) place: Place,
    pub(crate) allowed: Duration,
    pub(crate) asking: Asking,
}

/// Where a row's way has led to.
#[derive(Debug)]
pub(crate) enum Way {
    Ended(Result<Answer, Failure>),
    /// The cloud is to answer, and the outbox asks it ([`Asking::Later`]).
    Left {
        left: Left,
        /// Whether the router has counted a message that is not sent yet.
        charged: bool,
    },
}

/// About what a message has beside its tensors, and a tensor beside its values.
const MESSAGE_BYTES: usize = 128;
const TENSOR_BYTES: usize = 37;

type EngineReply = oneshot::Receiver<Result<RowOutput, RunError>>;

/// One row under way.
pub(crate) struct RowTask {
    shared: Arc<Shared>,
    model: Arc<ServedModel>,
    inputs: Vec<NamedTensor>,
    row: Row,
    arrived: Instant,
    digest: Option<RowDigest>,
    engine: Option<EngineReply>,
    /// Whether the router has counted a message that is not sent yet.
    charged: bool,
    id: Option<RequestId>,
    question: Option<Question>,
    wake: Instant,
    end: Option<Way>,
}

impl RowTask {
    /// Starts a row: everything that can be done without waiting is done, up to queueing it for the local model.
    pub(crate) fn start(
        shared: &Arc<Shared>,
        model: &Arc<ServedModel>,
        inputs: Vec<NamedTensor>,
        wish: Wish,
        arrived: Instant,
    ) -> Self {
        let policy = RowPolicy {
            place: wish.place,
            offload: model.settings.offload,
            cloud_model: model.settings.cloud_model.clone(),
            asking: wish.asking,
        };
        let timing = Timing {
            arrived: arrived.saturating_duration_since(shared.epoch),
            allowed: wish.allowed,
            retry_after: shared.retry_after.min(wish.allowed / 2),
            jitter: crate::random::fraction(),
        };
        let mut task = Self {
            shared: Arc::clone(shared),
            model: Arc::clone(model),
            inputs,
            row: Row::new(policy, timing),
            arrived,
            digest: None,
            engine: None,
            charged: false,
            id: None,
            question: None,
            wake: arrived + wish.allowed,
            end: None,
        };
        task.feed(Event::Arrived);
        task
    }

    /// Waits for the answer to a row that asks the cloud itself.
    pub(crate) async fn finish(self) -> Result<Answer, Failure> {
        match self.run().await {
            Way::Ended(end) => end,
            Way::Left { left, .. } => Err(Failure::NoCloud(left.why)),
        }
    }

    /// Waits for the end.
    pub(crate) async fn run(mut self) -> Way {
        loop {
            if let Some(end) = self.end.take() {
                if let Way::Ended(end) = &end {
                    account(&self.shared, &self.model, end.as_ref(), self.arrived.elapsed());
                }
                return end;
            }
            let event = self.next_event().await;
            self.feed(event);
        }
    }

    async fn next_event(&mut self) -> Event {
        loop {
            if let Some(event) = self.next_news().await {
                return event;
            }
        }
    }

    /// What happens next; `None` where it says nothing to the row.
    async fn next_news(&mut self) -> Option<Event> {
        let engine = async {
            match &mut self.engine {
                Some(reply) => reply.await,
                None => std::future::pending().await,
            }
        };
        let cloud = async {
            match &mut self.question {
                Some(question) => question.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            reply = engine => {
                self.engine = None;
                Some(self.ran(reply))
            }
            event = cloud => self.heard(event),
            () = tokio::time::sleep_until(self.wake) => Some(Event::Timer),
        }
    }

    /// Gives the row an event and carries out what it wants, until it has to wait.
    fn feed(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let now = self.shared.epoch.elapsed();
            let actions = self.row.on(event, &self.shared.cloud.view(), now);
            for action in actions {
                events.extend(self.perform(action));
            }
        }
    }

    fn perform(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::LookUp { local, cloud } => Some(self.look_up(local, cloud)),
            Action::RunLocal => self.run_local(),
            Action::StoreLocal(result) => {
                let device = self.model.cached_under(result.stand_in);
                let key = |row: &RowDigest| Key::local(self.model.digest.as_bytes(), device, row);
                self.store(key, &Entry { outputs: result.outputs, score: result.score });
                None
            }
            Action::StoreVerdict { outputs, digest } => {
                self.shared.cloud.saw_digest(&self.model.settings.cloud_model, digest);
                self.store(|row| Key::cloud(digest.as_bytes(), row), &Entry { outputs, score: None });
                None
            }
            Action::Decide(ask) => Some(self.decide(&ask)),
            Action::Audit { ticket, local } => {
                self.shared.routes.audit(&self.model, ticket, &local, &self.inputs);
                None
            }
            Action::Label { ticket, local, verdict, cloud } => {
                label(&self.shared, &self.model, ticket, &local, (&verdict, cloud));
                None
            }
            Action::Heard { outcome, waited } => {
                self.model.route.tell(RouteEvent::Heard { outcome, waited });
                None
            }
            Action::Publish { attempt, left } => self.publish(attempt, left),
            Action::WakeAt(at) => {
                self.wake = self.shared.epoch + at;
                None
            }
            Action::Finish(end) => {
                // Replies from now on are late.
                self.question = None;
                self.end = Some(Way::Ended(end));
                None
            }
            Action::Leave(left) => {
                self.end = Some(Way::Left { left, charged: std::mem::take(&mut self.charged) });
                None
            }
        }
    }

    fn look_up(&mut self, local: bool, cloud: Option<hedge_wire::Digest>) -> Event {
        let Some(cache) = &self.shared.cache else {
            return Event::Looked { local: None, cloud: None };
        };
        let started = Instant::now();
        let row = *self.digest.insert(RowDigest::of(&self.inputs));
        // A verdict cached under an earlier edge model of other outputs does not fit, and is no hit.
        let verdict = cloud.and_then(|digest| {
            let entry = cache.fetch(&Key::cloud(digest.as_bytes(), &row))?;
            let outputs = self.model.accept(entry.outputs).ok()?;
            Some(CachedVerdict { score: self.model.score(&outputs), outputs, digest })
        });
        let stand_in = self.model.worker.stands_in();
        let device = self.model.cached_under(stand_in);
        let result = (local && verdict.is_none())
            .then(|| cache.fetch(&Key::local(self.model.digest.as_bytes(), device, &row)))
            .flatten()
            // The score is computed anew: the configured kind of score may have changed since.
            .map(|entry| self.local_result(entry.outputs, stand_in));
        let hit = verdict.is_some() || result.is_some();
        let tally = if hit { &self.model.counts.cache_hit } else { &self.model.counts.cache_miss };
        tally.add(started.elapsed());
        Event::Looked { local: result, cloud: verdict }
    }

    fn local_result(&self, outputs: Outputs, stand_in: bool) -> LocalResult {
        let (score, features) = (self.model.score(&outputs), self.model.features(&outputs));
        LocalResult { outputs, score, features, stand_in }
    }

    fn decide(&mut self, ask: &Ask) -> Event {
        let decision = self.model.route.decide(ask, offload_bytes(&self.inputs));
        self.charged = matches!(decision, Decision::Offload { .. });
        Event::Decided(decision)
    }

    fn store(&self, key: impl FnOnce(&RowDigest) -> Key, entry: &Entry) {
        if let (Some(cache), Some(row)) = (&self.shared.cache, &self.digest) {
            cache.store(key(row), entry);
        }
    }

    fn run_local(&mut self) -> Option<Event> {
        match self.model.worker.submit(self.inputs.clone()) {
            Ok(reply) => {
                self.engine = Some(reply);
                None
            }
            Err(SubmitError::QueueFull { .. }) => Some(Event::Ran(Err(LocalFailure::QueueFull))),
            Err(error) => Some(Event::Ran(Err(LocalFailure::Fault(error.to_string())))),
        }
    }

    fn ran(&self, reply: Result<Result<RowOutput, RunError>, oneshot::error::RecvError>) -> Event {
        let result = match reply {
            Ok(Ok(output)) => {
                self.model.counts.queue.add(output.queue_time);
                self.model.counts.infer.add(output.model_time);
                let stand_in = output.ran_on == RanOn::StandIn;
                if stand_in {
                    self.shared.metrics.stand_ins.inc();
                }
                Ok(self.local_result(output.outputs, stand_in))
            }
            Ok(Err(error)) => Err(LocalFailure::Fault(error.to_string())),
            Err(_) => Err(LocalFailure::Fault("the model's thread ended".into())),
        };
        if let Err(LocalFailure::Fault(error)) = &result {
            tracing::error!(model = self.model.settings.name, error, "the local model failed");
        }
        Event::Ran(result)
    }

    fn publish(&mut self, attempt: u8, left: Duration) -> Option<Event> {
        // The decision was charged for one message.
        if !std::mem::take(&mut self.charged) {
            self.model.route.tell(RouteEvent::Sent { bytes: offload_bytes(&self.inputs) });
        }
        let id = *self.id.get_or_insert_with(|| RequestId::from_uuid(uuid::Uuid::now_v7()));
        let query = Query {
            id,
            model: self.model.settings.cloud_model.clone(),
            edge: self.model.digest,
            attempt,
            deadline_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
            boot: self.shared.cloud.boot(),
            inputs: self.inputs.clone(),
            purpose: Purpose::Answer,
        };
        let question = self.question.get_or_insert_with(|| self.shared.cloud.question(id));
        question.ask(query, left).err().map(Event::NotSent)
    }

    fn heard(&self, event: CloudEvent) -> Option<Event> {
        Some(match event {
            CloudEvent::Delivered => return None,
            CloudEvent::NotSent(why) => Event::NotSent(why),
            CloudEvent::NoSubscribers => Event::NoSubscribers,
            CloudEvent::Rejected => Event::Rejected,
            CloudEvent::LinkDown => Event::LinkDown,
            CloudEvent::Reply(Reply::Busy { retry_ms, .. }) => {
                Event::Busy { retry: Duration::from_millis(u64::from(retry_ms)) }
            }
            CloudEvent::Reply(Reply::Refused { id, kind, message }) => {
                tracing::debug!(%id, ?kind, message, "the gateway refused a row");
                Event::Refused(kind)
            }
            CloudEvent::Reply(Reply::Verdict(verdict)) => match self.model.accept(verdict.outputs) {
                Ok(outputs) => Event::Verdict {
                    score: self.model.score(&outputs),
                    outputs,
                    digest: verdict.cloud,
                    gateway: verdict.gateway,
                },
                Err(error) => {
                    self.shared.metrics.bad_verdicts.inc();
                    tracing::warn!(gateway = %verdict.gateway, %error, "a verdict does not fit the model; refused");
                    Event::BadVerdict
                }
            },
        })
    }
}

/// About what a message with this row has; compression is not tried for it.
pub(crate) fn offload_bytes(inputs: &[NamedTensor]) -> u64 {
    let tensors: usize = inputs.iter().map(|input| input.tensor.bytes().len() + TENSOR_BYTES).sum();
    (tensors + MESSAGE_BYTES) as u64
}

/// The router learns whether the cloud's verdict on a row differs from the local result.
pub(crate) fn label(
    shared: &Shared,
    model: &ServedModel,
    ticket: Ticket,
    local: &LocalResult,
    (verdict, cloud): (&[NamedTensor], hedge_wire::Digest),
) {
    // A ticket is given for rows with features only.
    let Some(features) = local.features else { return };
    let differs = model.differs(&local.outputs, verdict);
    shared.metrics.labelled(&model.settings.name, differs);
    model.route.tell(RouteEvent::Labelled { ticket, features, differs, cloud: Fingerprint(cloud.0) });
}

/// Counts a row's end, `took` after it came.
pub(crate) fn account(shared: &Shared, model: &ServedModel, end: Result<&Answer, &Failure>, took: Duration) {
    let counts = &model.counts;
    match end {
        Ok(answer) => {
            counts.success.add(took);
            shared.metrics.answered(answer, took);
        }
        Err(failure) => {
            counts.fail.add(took);
            shared.metrics.failed(failure);
        }
    }
    counts.last_unix_millis.store(u64::try_from(unix_now().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Tally {
    fn add(&self, took: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
