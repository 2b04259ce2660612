//! The way to the cloud: publishes rows, and hands replies, acks and the link's news to the rows that wait for them.
//!
//! It decides nothing: what a row does about a reply is `hedge_agent_core`'s, what is known of the gateways its
//! [`CloudView`]. A reply to a row that is no longer waiting is late: counted and dropped.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use bytes::Bytes;
use hedge_agent_core::{CloudView, NotSent};
use hedge_agent_spool::Cache;
use hedge_link::{Incoming, Link, LinkEvent, Outcome, Outgoing, PublishError, PublishId};
use hedge_wire::{
    BootId, ClassState, DeviceId, Digest, Evidence, GatewayPresence, ModelId, PublicKey, Query, Reply, RequestId,
    TenantId, Topic,
};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::metrics::Metrics;

/// Events that may wait for one row; it can get no more than two acks and a few replies.
const EVENTS_PER_ROW: usize = 8;
/// From the link's coming up to when all retained presence must have arrived.
const SETTLE_AFTER: Duration = Duration::from_secs(2);

/// News for a row that asked the cloud.
#[derive(Debug)]
pub(crate) enum CloudEvent {
    Reply(Reply),
    NoSubscribers,
    Rejected,
    LinkDown,
}

/// The device's side of the link.
pub(crate) struct Cloud {
    link: Option<Arc<dyn Link>>,
    tenant: TenantId,
    device: Option<DeviceId>,
    boot: BootId,
    view: RwLock<CloudView>,
    table: Mutex<Table>,
    metrics: Arc<Metrics>,
    /// Where the digests of cloud models are remembered for the next process.
    notes: Option<Cache>,
    models: Mutex<BTreeSet<ModelId>>,
    class: Option<ClassEar>,
    /// Say that the view may have changed, to the keeper of routes and to the auditor.
    news: [Notify; 2],
}

/// Where the gateway's word to the class of this device goes, once its signature was checked.
pub(crate) struct ClassEar {
    pub(crate) key: PublicKey,
    pub(crate) words: mpsc::Sender<ClassState>,
}

#[derive(Default)]
struct Table {
    rows: HashMap<RequestId, mpsc::Sender<CloudEvent>>,
    publishes: HashMap<PublishId, RequestId>,
}

/// A row's place in the table; leaving it makes later replies late.
pub(crate) struct Waiting {
    cloud: Arc<Cloud>,
    id: RequestId,
    events: mpsc::Receiver<CloudEvent>,
}

/// Who and what a [`Cloud`] serves.
pub(crate) struct CloudParts {
    pub(crate) link: Option<Arc<dyn Link>>,
    pub(crate) tenant: TenantId,
    pub(crate) device: Option<DeviceId>,
    pub(crate) boot: BootId,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) notes: Option<Cache>,
    pub(crate) models: Vec<ModelId>,
    pub(crate) class: Option<ClassEar>,
}

impl Cloud {
    pub(crate) fn new(parts: CloudParts) -> Self {
        let view = RwLock::new(CloudView::new(parts.link.is_some()));
        let CloudParts { link, tenant, device, boot, metrics, notes, models: known, class } = parts;
        let (table, models, news) = (Mutex::default(), Mutex::default(), Default::default());
        let cloud = Self { link, tenant, device, boot, view, table, metrics, notes, models, class, news };
        known.into_iter().for_each(|model| cloud.know(model));
        cloud
    }

    /// From now on `model` may be asked; what an earlier process remembered of it is taken up once.
    pub(crate) fn know(&self, model: ModelId) {
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        if models.contains(&model) {
            return;
        }
        let remembered = self.notes.as_ref().and_then(|notes| notes.note(&note_name(&model)));
        if let Some(digest) = remembered.and_then(|bytes| bytes.try_into().ok()) {
            self.view_mut(|view| view.remember(model.clone(), Digest(digest)));
        }
        models.insert(model);
    }

    /// What is known of the cloud now. Held for a decision, never across an await.
    pub(crate) fn view(&self) -> RwLockReadGuard<'_, CloudView> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a row, before its first publish.
    pub(crate) fn enter(self: &Arc<Self>, id: RequestId) -> Waiting {
        let (sender, events) = mpsc::channel(EVENTS_PER_ROW);
        self.table().rows.insert(id, sender);
        Waiting { cloud: Arc::clone(self), id, events }
    }

    /// Publishes a row; its replies come to the [`Waiting`] of its id.
    pub(crate) fn publish(&self, query: &Query, left: Duration) -> Result<(), NotSent> {
        let (Some(link), Some(device)) = (&self.link, &self.device) else {
            return Err(NotSent::Down);
        };
        let body = query.encode_checked().map_err(|_| NotSent::TooLarge)?;
        let size = body.len();
        let topic = Topic::Query { model: query.model.clone(), device: device.clone() };
        let message = Outgoing {
            expiry: Some(left),
            response_topic: Some(Topic::Reply { device: device.clone() }.path(&self.tenant)),
            correlation: Some(Bytes::copy_from_slice(query.id.as_bytes())),
            ..Outgoing::new(topic.path(&self.tenant), body)
        };
        // Under the lock, so that the broker's word cannot come before the entry.
        let mut table = self.table();
        let publish = link.publish(message).map_err(not_sent)?;
        table.publishes.insert(publish, query.id);
        drop(table);
        self.metrics.sent(size);
        if query.attempt > 0 {
            self.metrics.retries.inc();
        }
        Ok(())
    }

    /// Publishes what the device has found out about its models.
    pub(crate) fn publish_evidence(&self, evidence: &Evidence) -> Result<(), NotSent> {
        let (Some(link), Some(device)) = (&self.link, &self.device) else {
            return Err(NotSent::Down);
        };
        let body = evidence.encode_checked().map_err(|_| NotSent::TooLarge)?;
        let (topic, size) = (Topic::Labels { device: device.clone() }.path(&self.tenant), body.len());
        link.publish(Outgoing::new(topic, body)).map_err(not_sent)?;
        self.metrics.sent(size);
        Ok(())
    }

    /// Waits until the view may have changed; for the keeper of routes.
    pub(crate) async fn news(&self) {
        self.news[0].notified().await;
    }

    /// As [`Cloud::news`], for the auditor.
    pub(crate) async fn audit_news(&self) {
        self.news[1].notified().await;
    }

    pub(crate) fn boot(&self) -> BootId {
        self.boot
    }

    /// A verdict for `model` was accepted: its digest is news where no presence is known.
    pub(crate) fn saw_digest(&self, model: &ModelId, digest: Digest) {
        // The common case, the same digest as before, only reads.
        if self.view().last_digest(model) == Some(digest) {
            return;
        }
        if self.view_mut(|view| view.on_verdict(model, digest)) {
            self.remember_digests();
        }
    }

    /// Takes in one event of the link. Returns when, if at all, [`Cloud::settle`] is due.
    pub(crate) fn on_link_event(&self, event: LinkEvent) -> Option<Instant> {
        match event {
            LinkEvent::Up { limits } => {
                self.view_mut(|view| view.set_link(true));
                self.metrics.link_up.set_flag(true);
                return limits.retain.then(|| Instant::now() + SETTLE_AFTER);
            }
            LinkEvent::Down { reason } => self.on_down(&reason),
            LinkEvent::Message(message) => {
                self.on_message(&message);
                if let Some(link) = &self.link {
                    link.ack(&message);
                }
            }
            LinkEvent::Published { id, outcome } => self.on_published(id, outcome),
        }
        None
    }

    /// All retained presence must have arrived.
    pub(crate) fn settle(&self) {
        self.view_mut(CloudView::settle);
    }

    fn on_down(&self, reason: &str) {
        tracing::debug!(reason, "answering locally until the link is back");
        self.view_mut(|view| view.set_link(false));
        self.metrics.link_up.set_flag(false);
        let waiting: Vec<_> = {
            let mut table = self.table();
            table.publishes.clear();
            table.rows.values().cloned().collect()
        };
        for row in waiting {
            let _ = row.try_send(CloudEvent::LinkDown);
        }
    }

    fn on_message(&self, message: &Incoming) {
        match Topic::parse(&self.tenant, &message.topic) {
            Ok(Topic::Reply { device }) if Some(&device) == self.device.as_ref() => self.on_reply(message),
            Ok(Topic::ClassState { .. }) => self.on_class_state(message),
            Ok(Topic::GatewayPresence { gateway }) if message.payload.is_empty() => {
                if self.view_mut(|view| view.on_gone(&gateway)) {
                    tracing::info!(%gateway, "gateway gone");
                }
                self.show_gateways();
            }
            Ok(Topic::GatewayPresence { gateway }) => match GatewayPresence::decode(&message.payload) {
                Ok(presence) if presence.gateway == gateway => self.on_presence(&presence),
                Ok(presence) => {
                    let claimed = presence.gateway;
                    self.bad_message(&message.topic, &format!("it names another gateway, {claimed}"));
                }
                Err(error) => self.bad_message(&message.topic, &error.to_string()),
            },
            _ => self.bad_message(&message.topic, "nothing is expected there"),
        }
    }

    fn on_reply(&self, message: &Incoming) {
        self.metrics.received(message.payload.len());
        let reply = match Reply::decode_shared(&message.payload) {
            Ok(reply) => reply,
            Err(error) => return self.bad_message(&message.topic, &error.to_string()),
        };
        let id = reply.id();
        let row = self.table().rows.get(&id).cloned();
        if row.is_none_or(|row| row.try_send(CloudEvent::Reply(reply)).is_err()) {
            self.metrics.late_replies.inc();
            tracing::debug!(%id, "late reply dropped");
        }
    }

    fn on_class_state(&self, message: &Incoming) {
        let Some(ear) = self.class.as_ref().filter(|_| !message.payload.is_empty()) else { return };
        match ClassState::decode_signed(&message.payload, &self.tenant, &ear.key) {
            Ok(state) if state.topic().path(&self.tenant) == message.topic => {
                // A gateway that says more than can be heard at once is heard again when the session begins anew.
                if ear.words.try_send(state).is_err() {
                    self.bad_message(&message.topic, "too many class states at once");
                }
            }
            Ok(_) => self.bad_message(&message.topic, "it is about another subject"),
            Err(error) => {
                self.metrics.bad_messages.inc();
                tracing::warn!(topic = message.topic, %error, "a class state was refused; check link.class_key");
            }
        }
    }

    fn on_presence(&self, presence: &GatewayPresence) {
        if self.view_mut(|view| view.on_presence(presence)) {
            let state = if presence.online { "online" } else { "offline" };
            tracing::info!(gateway = %presence.gateway, state, models = presence.models.len(), "gateway presence");
            self.remember_digests();
        }
        self.show_gateways();
    }

    fn on_published(&self, id: PublishId, outcome: Outcome) {
        let row = {
            let mut table = self.table();
            table.publishes.remove(&id).and_then(|request| table.rows.get(&request).cloned())
        };
        let event = match outcome {
            Outcome::Delivered => return,
            Outcome::NoSubscribers => CloudEvent::NoSubscribers,
            Outcome::Rejected { code, reason } => {
                tracing::warn!(code, reason, "the broker refused a request to the cloud");
                CloudEvent::Rejected
            }
        };
        if let Some(row) = row {
            let _ = row.try_send(event);
        }
    }

    fn bad_message(&self, topic: &str, why: &str) {
        self.metrics.bad_messages.inc();
        tracing::debug!(topic, why, "message ignored");
    }

    fn show_gateways(&self) {
        self.metrics.gateways.set_count(self.view().gateways_online());
    }

    fn remember_digests(&self) {
        let Some(notes) = &self.notes else { return };
        let models = self.models.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for model in models {
            let digest = self.view().last_digest(&model);
            if let Some(digest) = digest {
                notes.set_note(&note_name(&model), digest.as_bytes());
            }
        }
    }

    fn view_mut<T>(&self, change: impl FnOnce(&mut CloudView) -> T) -> T {
        let changed = change(&mut self.view.write().unwrap_or_else(PoisonError::into_inner));
        self.news.iter().for_each(Notify::notify_one);
        changed
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// The next event; pending for ever when there is none.
    pub(crate) async fn next(&mut self) -> CloudEvent {
        match self.events.recv().await {
            Some(event) => event,
            // The table holds the sender for as long as this row is in it.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.cloud.table().rows.remove(&self.id);
    }
}

fn not_sent(error: PublishError) -> NotSent {
    match error {
        PublishError::TooLarge { .. } | PublishError::Invalid => NotSent::TooLarge,
        PublishError::QueueFull => NotSent::QueueFull,
        PublishError::Down => NotSent::Down,
    }
}

fn note_name(model: &ModelId) -> String {
    format!("cloud/{model}")
}

#[cfg(test)]
pub(crate) mod tests;
