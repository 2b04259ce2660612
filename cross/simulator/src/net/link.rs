//! A client's end of the link: what `cross/link` does with rumqttc and real time.
//!
//! It connects, subscribes, reconnects with full jitter, and is no outbox: what is queued or in flight when a connection ends is void.
//! The shell that owns it gets what [`LinkEvent`] tells.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use super::packet::{Client, ConnectionId, End, Message, Outcome, Packet};
use crate::counts::Happening;
use crate::queue::Event;
use crate::shared::Shared;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that was up for this long starts the backoff anew.
const STABLE_AFTER: Duration = Duration::from_secs(10);
const BACKOFF_BASE: Duration = Duration::from_millis(200);

/// Whether a connection begins with a clean session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CleanStart {
    Always,
    FirstConnect,
}

/// What a link tells its owner.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    Up,
    /// Every publish without a word from the broker is void.
    Down,
    /// To be acknowledged by its number.
    Message {
        packet: u32,
        message: Rc<Message>,
        left: Option<Duration>,
    },
    Published {
        id: u32,
        outcome: Outcome,
    },
}

/// Why a message was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PublishError {
    Down,
    QueueFull,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Waiting,
    Connecting,
    Subscribing,
    Up { since: Duration },
}

#[derive(Debug)]
pub(crate) struct Link {
    client: Client,
    /// Tells this process's alarms from those of earlier ones.
    owner: u32,
    clean: CleanStart,
    will: Option<Rc<Message>>,
    queue: usize,
    stage: Stage,
    connection: Option<ConnectionId>,
    /// Counts stages: an alarm of an earlier one is void.
    turn: u32,
    accepted: bool,
    unstable: u32,
    next_id: u32,
    unacknowledged: BTreeSet<u32>,
}

impl Link {
    pub(crate) fn new(client: Client, owner: u32, clean: CleanStart, will: Option<Rc<Message>>, queue: usize) -> Self {
        Self {
            client,
            owner,
            clean,
            will,
            queue,
            stage: Stage::Waiting,
            connection: None,
            turn: 0,
            accepted: false,
            unstable: 0,
            next_id: 0,
            unacknowledged: BTreeSet::new(),
        }
    }

    /// Begins to connect.
    pub(crate) fn start(&mut self, shared: &mut Shared) {
        let connection = shared.connect(self.client);
        let clean = self.clean == CleanStart::Always || !self.accepted;
        shared.send(connection, End::Broker, Packet::Connect { clean, will: self.will.clone() });
        self.connection = Some(connection);
        self.enter(Stage::Connecting, Some(CONNECT_TIMEOUT), shared);
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(self.stage, Stage::Up { .. })
    }

    pub(crate) fn connection(&self) -> Option<ConnectionId> {
        self.connection
    }

    /// Messages that wait for the broker's word.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.unacknowledged.len()
    }

    pub(crate) fn publish(&mut self, message: Rc<Message>, shared: &mut Shared) -> Result<u32, PublishError> {
        let connection = self.connection.filter(|_| self.is_up()).ok_or(PublishError::Down)?;
        if self.unacknowledged.len() >= self.queue {
            shared.count(Happening::LinkQueueFull);
            return Err(PublishError::QueueFull);
        }
        let packet = self.next_id;
        self.next_id += 1;
        self.unacknowledged.insert(packet);
        shared.send(connection, End::Broker, Packet::Publish { packet, message, left: None });
        Ok(packet)
    }

    /// A message has been taken over.
    pub(crate) fn acknowledge(&self, packet: u32, shared: &mut Shared) {
        if let Some(connection) = self.connection {
            shared.send(connection, End::Broker, Packet::Acknowledged { packet, outcome: Outcome::Delivered });
        }
    }

    pub(crate) fn on_packet(&mut self, packet: Packet, shared: &mut Shared) -> Option<LinkEvent> {
        match packet {
            Packet::Accepted { session_present } => self.on_accepted(session_present, shared),
            Packet::Subscribed => self.on_subscribed(shared),
            Packet::Publish { packet, message, left } => Some(LinkEvent::Message { packet, message, left }),
            Packet::Acknowledged { packet, outcome } => {
                self.unacknowledged.remove(&packet).then_some(LinkEvent::Published { id: packet, outcome })
            }
            Packet::Closed => self.lost(shared),
            Packet::Connect { .. } | Packet::Subscribe | Packet::Disconnect => None,
        }
    }

    /// An alarm of this link rings.
    pub(crate) fn on_alarm(&mut self, turn: u32, shared: &mut Shared) -> Option<LinkEvent> {
        if turn != self.turn {
            return None;
        }
        match self.stage {
            Stage::Waiting => {
                self.start(shared);
                None
            }
            Stage::Connecting | Stage::Subscribing => {
                shared.count(Happening::ConnectTimeouts);
                self.lost(shared)
            }
            Stage::Up { .. } => None,
        }
    }

    /// The connection is over, by the path or by the watchdog; another one will be tried.
    pub(crate) fn lost(&mut self, shared: &mut Shared) -> Option<LinkEvent> {
        let connection = self.connection.take()?;
        shared.close(connection, End::Client);
        let up_since = if let Stage::Up { since } = self.stage { Some(since) } else { None };
        if up_since.is_some_and(|since| shared.now - since >= STABLE_AFTER) {
            self.unstable = 0;
        }
        let factor = 2_u32.checked_pow(self.unstable).unwrap_or(u32::MAX);
        let bound = BACKOFF_BASE.saturating_mul(factor).min(shared.weather.reconnect_cap);
        self.unstable += 1;
        let wait = bound.mul_f64(shared.net.path(self.client).dice.fraction());
        self.unacknowledged.clear();
        self.enter(Stage::Waiting, Some(wait), shared);
        up_since.map(|_| LinkEvent::Down)
    }

    /// The process dies, or its machine: sockets are closed by the kernel, or by nobody.
    pub(crate) fn end(&mut self, powered: bool, shared: &mut Shared) {
        if let Some(connection) = self.connection.take() {
            match powered {
                true => shared.close(connection, End::Client),
                false => shared.vanish(connection, End::Client),
            }
        }
    }

    /// Says farewell, so that there is no will, and ends.
    pub(crate) fn leave(&mut self, shared: &mut Shared) {
        if let Some(connection) = self.connection {
            shared.send(connection, End::Broker, Packet::Disconnect);
        }
        self.end(true, shared);
    }

    fn on_accepted(&mut self, session_present: bool, shared: &mut Shared) -> Option<LinkEvent> {
        shared.count(Happening::Connected);
        if self.clean == CleanStart::FirstConnect && self.accepted {
            let what = if session_present { Happening::SessionsResumed } else { Happening::SessionsLost };
            shared.count(what);
        }
        self.accepted = true;
        shared.send(self.connection?, End::Broker, Packet::Subscribe);
        self.enter(Stage::Subscribing, Some(SUBSCRIBE_TIMEOUT), shared);
        None
    }

    fn on_subscribed(&mut self, shared: &mut Shared) -> Option<LinkEvent> {
        self.enter(Stage::Up { since: shared.now }, None, shared);
        Some(LinkEvent::Up)
    }

    fn enter(&mut self, stage: Stage, alarm: Option<Duration>, shared: &mut Shared) {
        self.stage = stage;
        self.turn += 1;
        if let Some(after) = alarm {
            let event = Event::Link { client: self.client, owner: self.owner, turn: self.turn };
            shared.queue.push(shared.now + after, event);
        }
    }
}
