//! The way to the cloud: questions out, replies in, and the link's news to whoever waits for them.

use std::rc::Rc;
use std::time::Duration;

use hedge_agent_core::{NotSent, OutboxEvent, Reason, RouteEvent, Status, Ticket, UploadEvent};
use hedge_certify::{Features, Fingerprint};
use hedge_wire::{GatewayPresence, Grant, Purpose, Query, Reply, RequestId, Topic};

use super::host::Host;
use super::process::{Process, run_id};
use super::upload::OFFERED_FROM;
use crate::counts::Happening;
use crate::id::{Kind, id, kind, number};
use crate::net::link::{LinkEvent, PublishError};
use crate::net::packet::{Message, Outcome, Route};
use crate::payload::{Given, Payload, read_outputs};
use crate::plant::Plant;
use crate::queue::DeviceEvent;
use crate::shared::{EDGE, Shared};

/// From the link's coming up to when all retained presence must have arrived.
const SETTLE_AFTER: Duration = Duration::from_secs(2);
/// How long the answer to an audit may take.
const AUDIT_PATIENCE: Duration = Duration::from_secs(30);

/// A message that the broker has not spoken about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Published {
    pub(super) id: RequestId,
    /// Which part of an upload, where it is one.
    pub(super) part: Option<u32>,
}

impl Process {
    /// Asks the cloud about an input.
    #[expect(clippy::too_many_arguments, reason = "a question has that many sides")]
    pub(super) fn ask(
        &mut self,
        id: RequestId,
        payload: Payload,
        attempt: u8,
        left: Duration,
        purpose: Purpose,
        host: &mut Host,
        shared: &mut Shared,
    ) -> Result<(), NotSent> {
        let query = Query {
            id,
            model: shared.model.clone(),
            edge: EDGE,
            attempt,
            deadline_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
            boot: run_id(host),
            inputs: payload.inputs(),
            purpose,
        };
        if payload.bytes() > OFFERED_FROM {
            return self.ask_in_parts(query, left, host, shared);
        }
        let body = query.encode_checked().map_err(|_| NotSent::TooLarge)?;
        self.publish_query(id, body, left, host, shared)
    }

    pub(super) fn publish_query(
        &mut self,
        id: RequestId,
        body: Vec<u8>,
        left: Duration,
        host: &Host,
        shared: &mut Shared,
    ) -> Result<(), NotSent> {
        let expiry = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        let published = self.publish(Route::Query, Rc::clone(&host.query_topic), body, Some(expiry), shared);
        match published {
            Ok(publish) => {
                self.publishes.insert(publish, Published { id, part: None });
                Ok(())
            }
            Err(PublishError::Down) => Err(NotSent::Down),
            Err(PublishError::QueueFull) => Err(NotSent::QueueFull),
        }
    }

    pub(super) fn publish(
        &mut self,
        route: Route,
        topic: Rc<str>,
        body: Vec<u8>,
        expiry: Option<u64>,
        shared: &mut Shared,
    ) -> Result<u32, PublishError> {
        self.link.publish(Rc::new(Message { route, topic, body: body.into(), expiry }), shared)
    }

    pub(crate) fn on_link(&mut self, event: LinkEvent, host: &mut Host, shared: &mut Shared) {
        let index = host.index;
        match event {
            LinkEvent::Up => {
                shared.say(|| format!("d{index} link up"));
                self.view.set_link(true);
                if let Some(connection) = self.link.connection() {
                    host.after(SETTLE_AFTER, DeviceEvent::Settle { connection }, shared);
                }
                self.view_changed(host, shared);
            }
            LinkEvent::Down => {
                shared.say(|| format!("d{index} link down"));
                self.on_down(host, shared);
            }
            LinkEvent::Message { packet, message, .. } => {
                self.on_message(&message, host, shared);
                self.link.acknowledge(packet, shared);
            }
            LinkEvent::Published { id, outcome } => self.on_published(id, outcome, host, shared),
        }
    }

    fn on_down(&mut self, host: &mut Host, shared: &mut Shared) {
        self.view.set_link(false);
        // Everything under way is void.
        self.publishes.clear();
        self.uploads_lost(None, host, shared);
        let audits: Vec<_> = self.audits.keys().copied().collect();
        audits.into_iter().for_each(|id| self.audit_lost(id, host, shared));
        self.rows_lose_their_link(host, shared);
        self.view_changed(host, shared);
    }

    /// The outbox is told where the cloud's being there has changed.
    pub(super) fn view_changed(&mut self, host: &mut Host, shared: &mut Shared) {
        self.tell_digest(host, shared);
        let up = self.view.may_offload(&shared.model).is_ok();
        if up != self.cloud_is_up {
            self.cloud_is_up = up;
            let event = if up { OutboxEvent::CloudUp } else { OutboxEvent::CloudDown };
            self.feed(event, host, shared);
        }
    }

    fn on_message(&mut self, message: &Message, host: &mut Host, shared: &mut Shared) {
        match Topic::parse(&shared.tenant, &message.topic) {
            Ok(Topic::Reply { .. }) => self.on_reply(message, host, shared),
            Ok(Topic::GatewayPresence { .. }) => self.on_presence(message, host, shared),
            topic => unreachable!("the broker delivers what was subscribed to, not {topic:?}"),
        }
    }

    fn on_presence(&mut self, message: &Message, host: &mut Host, shared: &mut Shared) {
        let presence = GatewayPresence::decode(&message.body).expect("gateways send well-formed presence");
        let news = self.view.on_presence(&presence);
        if !presence.online {
            if !news {
                shared.count(Happening::StaleWills);
            } else {
                self.uploads_lost(Some(&presence.gateway), host, shared);
            }
        }
        self.view_changed(host, shared);
    }

    fn on_published(&mut self, publish: u32, outcome: Outcome, host: &mut Host, shared: &mut Shared) {
        let Some(Published { id, part }) = self.publishes.remove(&publish) else { return };
        if outcome == Outcome::NoSubscribers {
            shared.count(Happening::NobodySubscribed);
        }
        if let Some(part) = part {
            let event = match outcome {
                Outcome::Delivered => UploadEvent::Delivered { part },
                Outcome::NoSubscribers | Outcome::Rejected => UploadEvent::GatewayGone,
            };
            return self.feed_upload(id, event, host, shared);
        }
        match kind(&id) {
            Kind::Durable => self.on_durable_published(id, outcome, host, shared),
            Kind::Plain => self.on_row_published(number(&id), outcome, host, shared),
            Kind::Audit if outcome != Outcome::Delivered => self.audit_lost(id, host, shared),
            Kind::Audit => {}
        }
    }

    fn on_durable_published(&mut self, id: RequestId, outcome: Outcome, host: &mut Host, shared: &mut Shared) {
        if shared.has(Plant::DropOnPuback) && outcome == Outcome::Delivered {
            host.store.drop_entry(&id);
        }
        let event = match outcome {
            Outcome::Delivered => OutboxEvent::Sent(id),
            Outcome::NoSubscribers => OutboxEvent::NoSubscribers(id),
            Outcome::Rejected => OutboxEvent::Rejected(id),
        };
        self.feed(event, host, shared);
    }

    fn on_reply(&mut self, message: &Message, host: &mut Host, shared: &mut Shared) {
        if let Some(grant) = Grant::decode(&message.body) {
            return self.granted(grant.expect("gateways send well-formed grants"), host, shared);
        }
        let reply = Reply::decode_shared(&message.body).expect("gateways send well-formed replies");
        let id = reply.id();
        match &reply {
            Reply::Busy { .. } => shared.count(Happening::Busy),
            Reply::Refused { .. } => shared.count(Happening::Refused),
            Reply::Verdict(_) => {}
        }
        // Whatever it says, the gateway holds nothing of an upload any more.
        self.feed_upload(id, UploadEvent::GatewayGone, host, shared);
        if !self.waits_for(&id) {
            shared.count(Happening::LateReplies);
        }
        match kind(&id) {
            Kind::Durable => self.on_durable_reply(id, reply, host, shared),
            Kind::Plain => self.on_row_reply(number(&id), reply, host, shared),
            Kind::Audit => self.on_audit_reply(id, &reply, host, shared),
        }
    }

    fn waits_for(&self, id: &RequestId) -> bool {
        match kind(id) {
            Kind::Durable => self.outbox.standing(id) == hedge_agent_core::outbox::Standing::Waiting,
            Kind::Plain => self.rows.contains_key(&number(id)),
            Kind::Audit => self.audits.contains_key(id),
        }
    }

    fn on_durable_reply(&mut self, id: RequestId, reply: Reply, host: &mut Host, shared: &mut Shared) {
        let event = match reply {
            Reply::Busy { retry_ms, .. } => OutboxEvent::Busy { id, retry: Duration::from_millis(retry_ms.into()) },
            Reply::Refused { kind, .. } => OutboxEvent::Refused { id, refusal: kind },
            Reply::Verdict(verdict) => match read_outputs(&verdict.outputs) {
                Some((payload, run)) => {
                    let (status, reason) = (Status::Cloud, Reason::BelowThreshold);
                    let given = Given::Answer { payload, run, status, reason };
                    return self.on_durable_verdict(id, given, host, shared);
                }
                None => {
                    shared.count(Happening::BadVerdicts);
                    OutboxEvent::BadVerdict(id)
                }
            },
        };
        self.feed(event, host, shared);
    }

    /// A local answer is to be compared with the cloud's, without hurry.
    pub(super) fn audit(
        &mut self,
        payload: Payload,
        ticket: Ticket,
        features: Features,
        host: &mut Host,
        shared: &mut Shared,
    ) {
        let id = id(Kind::Audit, host.index, self.audits_asked);
        self.audits_asked += 1;
        if self.ask(id, payload, 0, AUDIT_PATIENCE, Purpose::Audit, host, shared).is_err() {
            self.uploads.remove(&id);
            return self.tell_router(RouteEvent::AuditLost { ticket }, host, shared);
        }
        shared.count(Happening::Audits);
        self.audits.insert(id, (ticket, features));
        host.after(AUDIT_PATIENCE, DeviceEvent::AuditOver { id }, shared);
    }

    fn on_audit_reply(&mut self, id: RequestId, reply: &Reply, host: &mut Host, shared: &mut Shared) {
        let (Reply::Verdict(verdict), Some(&(ticket, features))) = (reply, self.audits.get(&id)) else {
            return self.audit_lost(id, host, shared);
        };
        shared.count(Happening::AuditsAnswered);
        let (differs, cloud) = (false, Fingerprint(verdict.cloud.0));
        self.tell_router(RouteEvent::Labelled { ticket, features, differs, cloud }, host, shared);
        self.forget_audit(&id);
    }

    pub(super) fn audit_lost(&mut self, id: RequestId, host: &Host, shared: &Shared) {
        if let Some((ticket, _)) = self.forget_audit(&id) {
            self.tell_router(RouteEvent::AuditLost { ticket }, host, shared);
        }
    }

    fn forget_audit(&mut self, id: &RequestId) -> Option<(Ticket, Features)> {
        self.uploads.remove(id);
        self.audits.remove(id)
    }
}
