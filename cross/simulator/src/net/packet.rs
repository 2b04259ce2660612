//! What travels between a client and the broker: MQTT's packets, as far as Hedge's correctness rests on them.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

/// A client of the broker: the devices first, then the gateways.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Client(pub(crate) u16);

/// One TCP connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct ConnectionId(pub(crate) u32);

/// One end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Client = 0,
    Broker = 1,
}

impl End {
    pub(crate) fn other(self) -> Self {
        match self {
            End::Client => End::Broker,
            End::Broker => End::Client,
        }
    }
}

/// Where a message goes. Receivers read the topic; the broker, which is no party of Hedge's, goes by this.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Route {
    /// To one of the gateways.
    Query,
    /// To this device.
    Reply(u16),
    /// To this gateway.
    Part(u16),
    /// Of this gateway, to all devices, retained.
    Presence(u16),
}

/// A PUBLISH without what is peculiar to one connection.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) route: Route,
    pub(crate) topic: Rc<str>,
    pub(crate) body: Bytes,
    /// Message Expiry Interval, in seconds.
    pub(crate) expiry: Option<u64>,
}

/// What the broker says to a PUBLISH.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Delivered,
    NoSubscribers,
    Rejected,
}

/// A packet. There are no pings: what they would find out is reckoned.
#[derive(Clone, Debug)]
pub(crate) enum Packet {
    Connect {
        clean: bool,
        will: Option<Rc<Message>>,
    },
    Accepted {
        session_present: bool,
    },
    Subscribe,
    Subscribed,
    /// `left` is what the broker left of the expiry, in whole seconds, rounded down.
    Publish {
        packet: u32,
        message: Rc<Message>,
        left: Option<Duration>,
    },
    Acknowledged {
        packet: u32,
        outcome: Outcome,
    },
    /// A farewell: no will.
    Disconnect,
    /// The other end has closed, in whatever way.
    Closed,
}

impl Packet {
    /// Bytes on a slow line, about.
    pub(crate) fn size(&self) -> usize {
        match self {
            Packet::Publish { message, .. } => 100 + message.body.len(),
            _ => 40,
        }
    }

    /// MQTT keeps the order of messages of one topic only: presence may overtake, or be overtaken by, everything else.
    pub(crate) fn lane(&self) -> usize {
        match self {
            Packet::Publish { message, .. } => usize::from(matches!(message.route, Route::Presence(_))),
            _ => 0,
        }
    }

    /// What everything sent later comes after, and everything sent before comes before.
    pub(crate) fn is_control(&self) -> bool {
        !matches!(self, Packet::Publish { .. } | Packet::Acknowledged { .. })
    }
}
