//! One connection, from the first SYN to its end.
//!
//! ```text
//! Connecting --CONNACK--> Subscribing --last SUBACK--> Up --close()--> Closing --farewell's PUBACK--> Leaving
//! ```
//!
//! Whatever happens in between, an error, silence or a deadline ends it as [`End`].

use std::collections::{HashMap, VecDeque};
use std::pin::{Pin, pin};
use std::time::Duration;

use rumqttc::Outgoing as Sent;
use rumqttc::v5::mqttbytes::v5::{ConnAck, Packet, PubAck, PubAckReason, SubAck, SubscribeReasonCode};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, Request, StateError};
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Instant, Sleep};

use crate::config::{
    Birth, CLOSE_TIMEOUT, CONNECT_TIMEOUT_SECS, LINGER, MAX_FILTERS_PER_SUBSCRIBE, MIN_KEEPALIVE, SUBSCRIBE_TIMEOUT,
};
use crate::handle::Connection;
use crate::message::{BrokerLimits, LinkEvent, Outcome, Outgoing, PublishId, Qos, incoming};
use crate::options;
use crate::task::Context;

/// Silence for this many keepalives ends a connection. rumqttc's own ping timer does not run while a large write is stuck.
const SILENT_KEEPALIVES: u32 = 2;

/// How a connection ended.
pub(crate) enum End {
    /// As asked, or because nobody is left to ask.
    Closed,
    /// Against the link's will.
    Lost(Lost),
}

/// A connection that is to be replaced.
pub(crate) struct Lost {
    /// Why, in words.
    pub(crate) reason: String,
    /// Whether the broker accepted it.
    pub(crate) accepted: bool,
    /// Since when it was up, where it was.
    pub(crate) up_since: Option<Instant>,
}

/// Where a connection stands.
enum Stage {
    Connecting {
        until: Instant,
    },
    /// The filters of each SUBSCRIBE that is not acknowledged, in the order sent.
    Subscribing {
        until: Instant,
        pending: VecDeque<Vec<String>>,
    },
    Up {
        since: Instant,
    },
    /// Until the farewell is acknowledged.
    Closing {
        until: Instant,
    },
    /// DISCONNECT is queued or sent; until the broker closes.
    Leaving {
        until: Instant,
    },
}

struct Session<'a> {
    context: &'a mut Context,
    client: AsyncClient,
    number: u64,
    stage: Stage,
    accepted: bool,
    keepalive: Duration,
    last_incoming: Instant,
    /// Set to some moment not after the deadline; the deadline moves with each packet, this does not.
    watchdog: Pin<Box<Sleep>>,
    limits: Option<BrokerLimits>,
    /// Sent with QoS 1 and not acknowledged, by packet id.
    in_flight: HashMap<u16, PublishId>,
    /// Held back by rumqttc because its packet id is still in use; the next one sent.
    held_back: Option<PublishId>,
    birth: Option<PublishId>,
    farewell: Option<PublishId>,
}

/// Connects, serves until the end, and says how it came. `number` tells connections apart; `first` is whether no broker has
/// accepted this process before.
pub(crate) async fn serve(context: &mut Context, number: u64, first: bool) -> End {
    let (client, mut event_loop) = options::event_loop(&context.config, &context.endpoint, first);
    let mut session = Session::new(context, client, number);
    loop {
        let served = match session.next(&mut event_loop).await {
            Ok(event) => session.on_event(event, &mut event_loop).await,
            Err(end) => Err(end),
        };
        if let Err(end) = served {
            return session.wind_up(end, &mut event_loop).await;
        }
    }
}

impl<'a> Session<'a> {
    fn new(context: &'a mut Context, client: AsyncClient, number: u64) -> Self {
        let now = Instant::now();
        // rumqttc's own timeout comes first and has the better words.
        let until = now + Duration::from_secs(CONNECT_TIMEOUT_SECS + 1);
        let keepalive = context.config.keepalive;
        Session {
            context,
            client,
            number,
            stage: Stage::Connecting { until },
            accepted: false,
            keepalive,
            last_incoming: now,
            watchdog: Box::pin(tokio::time::sleep_until(until)),
            limits: None,
            in_flight: HashMap::new(),
            held_back: None,
            birth: None,
            farewell: None,
        }
    }

    /// The next event of rumqttc. Its future is not dropped before it is done unless the connection is: dropping it could lose
    /// a packet that it was writing.
    async fn next(&mut self, event_loop: &mut EventLoop) -> Result<Event, End> {
        let mut poll = pin!(event_loop.poll());
        loop {
            tokio::select! {
                biased;
                asked = self.context.close.recv(), if !self.is_ending() => {
                    asked.ok_or(End::Closed)?;
                    self.begin_close()?;
                }
                polled = &mut poll => return polled.map_err(|error| self.lost(describe(&error))),
                () = &mut self.watchdog => self.look_at_the_clock()?,
            }
        }
    }

    async fn on_event(&mut self, event: Event, event_loop: &mut EventLoop) -> Result<(), End> {
        let packet = match event {
            Event::Outgoing(sent) => {
                self.on_sent(&sent);
                return Ok(());
            }
            Event::Incoming(packet) => packet,
        };
        self.last_incoming = Instant::now();
        match packet {
            Packet::Publish(publish) => match incoming(publish, self.number) {
                Some(message) => self.emit(LinkEvent::Message(message)).await,
                None => Ok(()),
            },
            Packet::PubAck(ack) => self.on_publish_acknowledged(&ack, event_loop).await,
            Packet::ConnAck(ack) => self.on_accepted(&ack, event_loop).await,
            Packet::SubAck(ack) => self.on_subscribed(&ack).await,
            _ => Ok(()),
        }
    }

    /// rumqttc reports what it wrote in the order of its channel, which is the order of `Connection::queued`.
    fn on_sent(&mut self, sent: &Sent) {
        match *sent {
            Sent::Publish(packet) => {
                let id = self.held_back.take().or_else(|| self.context.shared.sent());
                if let Some(id) = id.filter(|_| packet != 0) {
                    self.in_flight.insert(packet, id);
                }
            }
            Sent::AwaitAck(_) => self.held_back = self.context.shared.sent(),
            _ => {}
        }
    }

    async fn on_accepted(&mut self, ack: &ConnAck, event_loop: &mut EventLoop) -> Result<(), End> {
        self.accepted = true;
        self.keepalive = event_loop.options.keep_alive();
        if self.keepalive < MIN_KEEPALIVE {
            // A broker may set the keepalive; of 0 ("none") rumqttc makes a busy loop of pings.
            self.keepalive = MIN_KEEPALIVE;
            event_loop.options.set_keep_alive(self.keepalive);
        }
        let limits = self.limits(ack);
        self.limits = Some(limits);
        let client = self.client.clone();
        let connection = Connection { number: self.number, client, limits, queued: VecDeque::new() };
        self.context.shared.connected(connection);
        self.subscribe(limits).await
    }

    /// Subscribes on every connect, also where the session continues: the broker then sends its retained messages again, so
    /// that nothing rests on what its offline queue may have dropped.
    async fn subscribe(&mut self, limits: BrokerLimits) -> Result<(), End> {
        let mut filters = options::filters(&self.context.config, limits.shared_subscriptions);
        let mut pending = VecDeque::new();
        while !filters.is_empty() {
            let rest = filters.split_off(filters.len().min(MAX_FILTERS_PER_SUBSCRIBE));
            pending.push_back(filters.iter().map(|filter| filter.path.clone()).collect());
            // The channel is fresh and has room for this; waiting for room in the task that empties it would be for ever.
            self.client.try_subscribe_many(filters).map_err(|_| self.lost("no room to subscribe".to_owned()))?;
            filters = rest;
        }
        if pending.is_empty() {
            return self.up(limits).await;
        }
        self.set_stage(Stage::Subscribing { until: Instant::now() + SUBSCRIBE_TIMEOUT, pending });
        Ok(())
    }

    async fn on_subscribed(&mut self, ack: &SubAck) -> Result<(), End> {
        let (Stage::Subscribing { pending, .. }, Some(limits)) = (&mut self.stage, self.limits) else {
            return Ok(());
        };
        let filters = pending.pop_front().unwrap_or_default();
        let done = pending.is_empty();
        for (index, code) in ack.return_codes.iter().enumerate() {
            if !matches!(code, SubscribeReasonCode::Success(_)) {
                let filter = filters.get(index).map_or("?", String::as_str);
                return Err(self.lost(format!("the broker refused the subscription to `{filter}`: {code:?}")));
            }
        }
        if done { self.up(limits).await } else { Ok(()) }
    }

    async fn up(&mut self, limits: BrokerLimits) -> Result<(), End> {
        self.birth = self.context.config.birth.clone().and_then(|birth| self.publish_own(birth));
        self.set_stage(Stage::Up { since: Instant::now() });
        self.context.shared.set_up(true);
        tracing::info!(session_present = limits.session_present, "link up");
        self.emit(LinkEvent::Up { limits }).await
    }

    async fn on_publish_acknowledged(&mut self, ack: &PubAck, event_loop: &mut EventLoop) -> Result<(), End> {
        self.release_held_back(ack.pkid, event_loop);
        let Some(id) = self.in_flight.remove(&ack.pkid) else {
            return Ok(());
        };
        let outcome = outcome(ack);
        if self.birth != Some(id) && self.farewell != Some(id) {
            return self.emit(LinkEvent::Published { id, outcome }).await;
        }
        if let Outcome::Rejected { code, reason } = outcome {
            tracing::warn!(code, reason, "the broker rejected the status message");
        }
        if self.farewell == Some(id) {
            return self.leave();
        }
        Ok(())
    }

    /// rumqttc forgets a publish that it holds back for a packet id when that id's publish is rejected, and then sends nothing
    /// any more.
    fn release_held_back(&mut self, packet: u16, event_loop: &mut EventLoop) {
        if let Some(publish) = event_loop.state.collision.take_if(|publish| publish.pkid == packet) {
            event_loop.pending.push_back(Request::Publish(publish));
        }
    }

    /// Gives an event to the receiver. While it has no room, nothing is read from the broker, which is the only way to slow it
    /// down.
    async fn emit(&mut self, event: LinkEvent) -> Result<(), End> {
        if self.is_ending() {
            return Ok(());
        }
        let event = match self.context.events.try_send(event) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Closed(_)) => return Err(End::Closed),
            Err(TrySendError::Full(event)) => event,
        };
        let events = self.context.events.clone();
        tokio::select! {
            asked = self.context.close.recv() => {
                asked.ok_or(End::Closed)?;
                self.begin_close()
            }
            permit = events.reserve() => {
                permit.map_err(|_| End::Closed)?.send(event);
                // The silence was ours.
                self.last_incoming = Instant::now();
                Ok(())
            }
        }
    }

    fn begin_close(&mut self) -> Result<(), End> {
        let Some(limits) = self.limits else {
            return Err(End::Closed);
        };
        self.context.shared.set_up(false);
        self.farewell = self.context.config.farewell.clone().and_then(|farewell| self.publish_own(farewell));
        if self.farewell.is_none() || !limits.acknowledges() {
            return self.leave();
        }
        self.set_stage(Stage::Closing { until: Instant::now() + CLOSE_TIMEOUT });
        Ok(())
    }

    /// DISCONNECT, behind whatever is queued.
    fn leave(&mut self) -> Result<(), End> {
        self.client.try_disconnect().map_err(|_| End::Closed)?;
        let now = Instant::now();
        let until = match self.stage {
            Stage::Closing { until } => until.min(now + LINGER),
            _ => now + CLOSE_TIMEOUT,
        };
        self.set_stage(Stage::Leaving { until });
        Ok(())
    }

    fn publish_own(&self, message: Birth) -> Option<PublishId> {
        let message = Outgoing { retain: true, ..Outgoing::new(message.topic, message.payload) };
        self.context
            .shared
            .publish_own(message)
            .inspect_err(|error| tracing::warn!(%error, "the status message is not published"))
            .ok()
    }

    /// The watchdog rang: either the deadline has come, or packets have moved it since.
    fn look_at_the_clock(&mut self) -> Result<(), End> {
        let deadline = self.deadline();
        if Instant::now() < deadline {
            self.watchdog.as_mut().reset(deadline);
            return Ok(());
        }
        let silence = self.keepalive * SILENT_KEEPALIVES;
        match self.stage {
            Stage::Closing { .. } | Stage::Leaving { .. } => Err(End::Closed),
            Stage::Connecting { .. } => Err(self.lost(format!("no answer within {CONNECT_TIMEOUT_SECS} s"))),
            Stage::Subscribing { until, .. } if until <= deadline => {
                Err(self.lost(format!("no answer to the subscriptions within {SUBSCRIBE_TIMEOUT:?}")))
            }
            Stage::Subscribing { .. } | Stage::Up { .. } => {
                Err(self.lost(format!("nothing came from the broker for {silence:?}")))
            }
        }
    }

    fn deadline(&self) -> Instant {
        let silent = self.last_incoming + self.keepalive * SILENT_KEEPALIVES;
        match self.stage {
            Stage::Connecting { until } | Stage::Closing { until } | Stage::Leaving { until } => until,
            Stage::Subscribing { until, .. } => until.min(silent),
            Stage::Up { .. } => silent,
        }
    }

    fn set_stage(&mut self, stage: Stage) {
        self.stage = stage;
        let deadline = self.deadline();
        self.watchdog.as_mut().reset(deadline);
    }

    fn is_ending(&self) -> bool {
        matches!(self.stage, Stage::Closing { .. } | Stage::Leaving { .. })
    }

    /// What rumqttc had read before the connection broke is still told; then the connection is over.
    async fn wind_up(mut self, end: End, event_loop: &mut EventLoop) -> End {
        let End::Lost(lost) = end else {
            return End::Closed;
        };
        self.context.shared.set_up(false);
        while let Some(event) = event_loop.state.events.pop_front() {
            if matches!(event, Event::Incoming(Packet::ConnAck(_) | Packet::SubAck(_))) {
                continue;
            }
            if let Err(End::Closed) = self.on_event(event, event_loop).await {
                return End::Closed;
            }
        }
        if self.is_ending() { End::Closed } else { End::Lost(lost) }
    }

    fn lost(&self, reason: String) -> End {
        let up_since = match self.stage {
            Stage::Up { since } => Some(since),
            _ => None,
        };
        End::Lost(Lost { reason, accepted: self.accepted, up_since })
    }

    fn limits(&self, ack: &ConnAck) -> BrokerLimits {
        let config = &self.context.config;
        let properties = ack.properties.as_ref();
        let number = |value: Option<u8>| value != Some(0);
        let packet = properties.and_then(|properties| properties.max_packet_size).unwrap_or(u32::MAX);
        let inflight = properties.and_then(|properties| properties.receive_max).unwrap_or(u16::MAX);
        BrokerLimits {
            max_packet_bytes: packet.min(config.max_packet_bytes) as usize,
            inflight: inflight.min(config.inflight),
            max_qos: match number(properties.and_then(|properties| properties.max_qos)) {
                true => Qos::AtLeastOnce,
                false => Qos::AtMostOnce,
            },
            retain: number(properties.and_then(|properties| properties.retain_available)),
            shared_subscriptions: number(properties.and_then(|properties| properties.shared_subscription_available)),
            keepalive: self.keepalive,
            session_present: ack.session_present,
        }
    }
}

fn outcome(ack: &PubAck) -> Outcome {
    let code = match ack.reason {
        PubAckReason::Success => return Outcome::Delivered,
        PubAckReason::NoMatchingSubscribers => return Outcome::NoSubscribers,
        PubAckReason::UnspecifiedError => 0x80,
        PubAckReason::ImplementationSpecificError => 0x83,
        PubAckReason::NotAuthorized => 0x87,
        PubAckReason::TopicNameInvalid => 0x90,
        PubAckReason::PacketIdentifierInUse => 0x91,
        PubAckReason::QuotaExceeded => 0x97,
        PubAckReason::PayloadFormatInvalid => 0x99,
    };
    let said = ack.properties.as_ref().and_then(|properties| properties.reason_string.clone());
    Outcome::Rejected { code, reason: said.unwrap_or_else(|| format!("{:?}", ack.reason)) }
}

fn describe(error: &ConnectionError) -> String {
    match error {
        ConnectionError::Io(error) => error.to_string(),
        ConnectionError::Timeout(_) => format!("no answer within {CONNECT_TIMEOUT_SECS} s"),
        ConnectionError::ConnectionRefused(code) => format!("the broker refused the connection: {code:?}"),
        ConnectionError::MqttState(StateError::ConnectionAborted) => "the connection was closed".to_owned(),
        ConnectionError::MqttState(StateError::AwaitPingResp) => "the broker did not answer a ping".to_owned(),
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string }) => {
            let words = reason_string.as_deref().unwrap_or_default();
            format!("the broker disconnected: {reason_code:?} {words}").trim_end().to_owned()
        }
        other => other.to_string(),
    }
}
