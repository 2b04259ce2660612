//! The way to the cloud: publishes what is asked of it, and hands replies, acks and the link's news to the questions that wait
//! for them.
//!
//! It decides nothing: what a row does about a reply is `hedge_agent_core`'s, what is known of the gateways its
//! [`CloudView`]. A reply to a question that no longer waits is late: counted and dropped. A question that does not fit one message is
//! sent in parts by [`Question`].

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use bytes::Bytes;
use hedge_agent_core::{CloudView, NotSent};
use hedge_agent_spool::Cache;
use hedge_link::{BrokerLimits, Incoming, Link, LinkEvent, Outcome, Outgoing, PublishError, PublishId, Qos};
use hedge_wire::limits::{MAX_PART_BYTES, MIN_PART_BYTES};
use hedge_wire::{
    BootId, ClassState, DeviceId, Digest, Evidence, GatewayId, GatewayPresence, Grant, ModelId, Offer, Part, PublicKey,
    Query, Reply, RequestId, TenantId, Topic,
};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use self::table::{Message, News, Table};
use crate::metrics::Metrics;

mod question;
mod table;

pub(crate) use question::{CloudEvent, Question};

/// From the link's coming up to when all retained presence must have arrived.
const SETTLE_AFTER: Duration = Duration::from_secs(2);
/// How long a part is worth delivering; no gateway holds an upload for longer.
const PART_EXPIRY: Duration = Duration::from_secs(60);
/// What a packet with a part has beside the part's data, at most: topic, properties and headers.
const PART_PACKET_OVERHEAD: usize = 512;

/// The device's side of the link.
pub(crate) struct Cloud {
    link: Option<Arc<dyn Link>>,
    tenant: TenantId,
    device: Option<DeviceId>,
    boot: BootId,
    view: RwLock<CloudView>,
    table: Arc<Table>,
    /// The bytes of a part that the broker's packets have room for.
    part_bytes: AtomicUsize,
    /// Whether the broker confirms what it gets.
    confirms: AtomicBool,
    metrics: Arc<Metrics>,
    /// Where the digests of cloud models are remembered for the next process.
    notes: Option<Cache>,
    models: Mutex<BTreeSet<ModelId>>,
    class: Option<ClassEar>,
    /// Say that the view may have changed, to the keeper of routes, to the auditor and to the outbox.
    news: [Notify; 3],
}

/// Where the gateway's word to the class of this device goes, once its signature was checked.
pub(crate) struct ClassEar {
    pub(crate) key: PublicKey,
    pub(crate) words: mpsc::Sender<ClassState>,
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
        let (table, models, news) = (Arc::default(), Mutex::default(), Default::default());
        let (part_bytes, confirms) = (AtomicUsize::new(MAX_PART_BYTES), AtomicBool::new(true));
        let cloud =
            Self { link, tenant, device, boot, view, table, part_bytes, confirms, metrics, notes, models, class, news };
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

    /// A question about a request, which is asked by [`Question::ask`].
    pub(crate) fn question(self: &Arc<Self>, id: RequestId) -> Question {
        Question::new(self, id)
    }

    /// Publishes a query that fits one message.
    fn send_query(&self, query: &Query, body: Bytes, left: Duration) -> Result<(), PublishError> {
        self.send_question(query.id, query.model.clone(), query.attempt, body, left)
    }

    /// Publishes the offer of one that does not.
    fn send_offer(&self, offer: &Offer, left: Duration) -> Result<(), NotSent> {
        let sent = self.send_question(offer.id, offer.model.clone(), offer.attempt, offer.encode().into(), left);
        sent.map_err(not_sent)?;
        self.metrics.upload("offered");
        Ok(())
    }

    fn send_question(
        &self,
        id: RequestId,
        model: ModelId,
        attempt: u8,
        body: Bytes,
        left: Duration,
    ) -> Result<(), PublishError> {
        let device = self.device.clone().ok_or(PublishError::Down)?;
        let message = Outgoing {
            expiry: Some(left),
            response_topic: Some(Topic::Reply { device: device.clone() }.path(&self.tenant)),
            correlation: Some(Bytes::copy_from_slice(id.as_bytes())),
            ..Outgoing::new(Topic::Query { model, device }.path(&self.tenant), body)
        };
        self.send(id, Message::Question, message)?;
        if attempt > 0 {
            self.metrics.retries.inc();
        }
        Ok(())
    }

    fn send_part(&self, gateway: GatewayId, part: &Part) -> Result<(), PublishError> {
        let device = self.device.clone().ok_or(PublishError::Down)?;
        let topic = Topic::Part { gateway, device }.path(&self.tenant);
        let message = Outgoing { expiry: Some(PART_EXPIRY), ..Outgoing::new(topic, part.encode()) };
        self.send(part.id, Message::Part(part.index), message)?;
        self.metrics.upload_parts.inc();
        Ok(())
    }

    fn send(&self, id: RequestId, kind: Message, message: Outgoing) -> Result<(), PublishError> {
        let link = self.link.as_ref().ok_or(PublishError::Down)?;
        let size = message.payload.len();
        if self.confirms.load(Ordering::Relaxed) {
            self.table.send(id, kind, || link.publish(message))?;
        } else {
            link.publish(message)?;
            self.table.tell(&id, News::Published(kind, Outcome::Delivered));
        }
        self.metrics.sent(size);
        Ok(())
    }

    fn is_up(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.is_up())
    }

    fn part_bytes(&self) -> usize {
        self.part_bytes.load(Ordering::Relaxed)
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

    /// As [`Cloud::news`], for the outbox.
    pub(crate) async fn outbox_news(&self) {
        self.news[2].notified().await;
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
                self.on_up(limits);
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

    fn on_up(&self, limits: BrokerLimits) {
        let room = limits.max_packet_bytes.saturating_sub(PART_PACKET_OVERHEAD);
        self.part_bytes.store(room.clamp(MIN_PART_BYTES, MAX_PART_BYTES), Ordering::Relaxed);
        self.confirms.store(limits.max_qos == Qos::AtLeastOnce, Ordering::Relaxed);
        self.view_mut(|view| view.set_link(true));
        self.metrics.link_up.set_flag(true);
    }

    fn on_down(&self, reason: &str) {
        tracing::debug!(reason, "answering locally until the link is back");
        self.view_mut(|view| view.set_link(false));
        self.metrics.link_up.set_flag(false);
        self.table.forget_publishes();
        self.table.tell_all(&News::LinkDown);
    }

    fn on_message(&self, message: &Incoming) {
        match Topic::parse(&self.tenant, &message.topic) {
            Ok(Topic::Reply { device }) if Some(&device) == self.device.as_ref() => self.on_reply(message),
            Ok(Topic::ClassState { .. }) => self.on_class_state(message),
            Ok(Topic::GatewayPresence { gateway }) if message.payload.is_empty() => {
                if self.view_mut(|view| view.on_gone(&gateway)) {
                    tracing::info!(%gateway, "gateway gone");
                    self.table.tell_all(&News::GatewayGone(gateway));
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
        let news = match Grant::decode(&message.payload) {
            Some(grant) => grant.map(|grant| (grant.id, News::Granted(grant))),
            None => Reply::decode_shared(&message.payload).map(|reply| (reply.id(), News::Reply(reply))),
        };
        match news {
            Ok((id, news)) => {
                if !self.table.tell(&id, news) {
                    self.metrics.late_replies.inc();
                    tracing::debug!(%id, "late reply dropped");
                }
            }
            Err(error) => self.bad_message(&message.topic, &error.to_string()),
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
            if !presence.online {
                self.table.tell_all(&News::GatewayGone(presence.gateway.clone()));
            }
        }
        self.show_gateways();
    }

    fn on_published(&self, id: PublishId, outcome: Outcome) {
        if let Outcome::Rejected { code, reason } = &outcome {
            tracing::warn!(code, reason, "the broker refused a request to the cloud");
        }
        self.table.published(id, outcome);
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
