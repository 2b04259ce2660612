//! What goes in and out of a link.

use std::time::Duration;

use bytes::Bytes;
use hedge_wire::CONTENT_TYPE;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Publish, PublishProperties};
use thiserror::Error;

/// The user property that carries a W3C trace context.
const TRACEPARENT: &str = "traceparent";

/// How hard the broker tries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Qos {
    /// QoS 0.
    AtMostOnce,
    /// QoS 1.
    AtLeastOnce,
}

/// A message to publish.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outgoing {
    /// Where.
    pub topic: String,
    /// What.
    pub payload: Bytes,
    /// How hard.
    pub qos: Qos,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
    /// When nobody wants it any more; rounded up to whole seconds.
    pub expiry: Option<Duration>,
    /// Where the receiver shall reply.
    pub response_topic: Option<String>,
    /// What the reply shall carry.
    pub correlation: Option<Bytes>,
    /// The W3C trace context.
    pub traceparent: Option<String>,
}

impl Outgoing {
    /// A message with QoS 1, not retained, without properties.
    pub fn new(topic: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Outgoing {
            topic: topic.into(),
            payload: payload.into(),
            qos: Qos::AtLeastOnce,
            retain: false,
            expiry: None,
            response_topic: None,
            correlation: None,
            traceparent: None,
        }
    }
}

/// A message that arrived. With QoS 1 it must be given to [`crate::LinkHandle::ack`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Incoming {
    /// Where it was published.
    pub topic: String,
    /// What; shares the memory that it was read into.
    pub payload: Bytes,
    /// Whether the broker had kept it from before the subscription.
    pub retain: bool,
    /// Where the sender waits for a reply.
    pub response_topic: Option<String>,
    /// What the reply shall carry.
    pub correlation: Option<Bytes>,
    /// What is left of its expiry.
    pub expiry: Option<Duration>,
    /// The W3C trace context.
    pub traceparent: Option<String>,
    pub(crate) receipt: Receipt,
}

/// What an acknowledgement needs: the packet and the connection it came on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Receipt {
    pub(crate) connection: u64,
    /// 0: QoS 0, nothing to acknowledge.
    pub(crate) packet: u16,
}

impl Incoming {
    /// A message that no broker sent: for fakes of [`crate::Link`]. Acknowledging it does nothing.
    pub fn new(topic: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Incoming {
            topic: topic.into(),
            payload: payload.into(),
            retain: false,
            response_topic: None,
            correlation: None,
            expiry: None,
            traceparent: None,
            receipt: Receipt::default(),
        }
    }
}

/// Names a publish until its [`LinkEvent::Published`]. Unique within a link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PublishId(pub u64);

/// Why a message was not taken. It is not queued anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PublishError {
    /// The packet would exceed what the broker (or the configuration) accepts.
    #[error("the message takes {size} bytes, but the broker accepts {limit}")]
    TooLarge {
        /// The limit.
        limit: usize,
        /// The packet's size.
        size: usize,
    },
    /// As many messages as configured wait for the socket already.
    #[error("the link's queue is full")]
    QueueFull,
    /// There is no connection, or its subscriptions are not acknowledged yet.
    #[error("the link is down")]
    Down,
    /// Not a topic to publish to, or a property longer than MQTT can carry.
    #[error("the topic or a property of the message is not valid in MQTT")]
    Invalid,
}

/// What the broker said to a publish with QoS 1.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It has it. Not that anybody received it.
    Delivered,
    /// Nobody subscribes to the topic. Brokers need not say this; the embedded one does not.
    NoSubscribers,
    /// It refused it.
    Rejected {
        /// The MQTT 5 reason code.
        code: u8,
        /// The reason in words.
        reason: String,
    },
}

/// What the broker allows, from its CONNACK.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BrokerLimits {
    /// The largest packet that may be published, the link's own limit included.
    pub max_packet_bytes: usize,
    /// Publishes with QoS 1 that may wait for their PUBACK, the link's own limit included.
    pub inflight: u16,
    /// The highest QoS; higher ones are lowered to it.
    pub max_qos: Qos,
    /// Whether it keeps retained messages; where it does not, they are sent without the flag.
    pub retain: bool,
    /// Whether it has shared subscriptions; where it does not, a shared filter is subscribed to without its group.
    pub shared_subscriptions: bool,
    /// The keepalive in force, which the broker may set.
    pub keepalive: Duration,
    /// Whether an earlier session continues.
    pub session_present: bool,
}

/// What happens on a link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkEvent {
    /// Connected, and every subscription is acknowledged.
    Up {
        /// What the broker allows.
        limits: BrokerLimits,
    },
    /// The connection ended, or the first attempt to connect failed. Every publish without a `Published` is void: whether
    /// the broker has it is unknown. The link goes on trying by itself.
    Down {
        /// Why, in words.
        reason: String,
    },
    /// A message for one of the subscriptions. In a continued session, messages may come before `Up`.
    Message(Incoming),
    /// The broker's word on a publish with QoS 1. (There is none with QoS 0.)
    Published {
        /// Which.
        id: PublishId,
        /// What it said.
        outcome: Outcome,
    },
}

impl Qos {
    pub(crate) fn to_mqtt(self) -> QoS {
        match self {
            Qos::AtMostOnce => QoS::AtMostOnce,
            Qos::AtLeastOnce => QoS::AtLeastOnce,
        }
    }
}

/// The MQTT properties of `message`; `None` where its topic or a property cannot be sent.
pub(crate) fn properties(message: &Outgoing) -> Option<PublishProperties> {
    let reply_fits = message.response_topic.as_deref().is_none_or(crate::config::is_topic);
    let correlation_fits = message.correlation.as_ref().is_none_or(|data| fits_u16(data.len()));
    let trace_fits = message.traceparent.as_ref().is_none_or(|trace| fits_u16(trace.len()) && !trace.contains('\0'));
    if !(crate::config::is_topic(&message.topic) && reply_fits && correlation_fits && trace_fits) {
        return None;
    }
    let traceparent = message.traceparent.iter();
    Some(PublishProperties {
        message_expiry_interval: message.expiry.map(whole_seconds),
        response_topic: message.response_topic.clone(),
        correlation_data: message.correlation.clone(),
        user_properties: traceparent.map(|trace| (TRACEPARENT.to_owned(), trace.clone())).collect(),
        content_type: Some(CONTENT_TYPE.to_owned()),
        ..PublishProperties::default()
    })
}

/// The size of the PUBLISH packet, which rumqttc knows only after it has been queued.
pub(crate) fn packet_bytes(message: &Outgoing, qos: Qos) -> usize {
    let properties = message.expiry.map_or(0, |_| 5)
        + message.response_topic.as_ref().map_or(0, |topic| 3 + topic.len())
        + message.correlation.as_ref().map_or(0, |data| 3 + data.len())
        + message.traceparent.as_ref().map_or(0, |trace| 5 + TRACEPARENT.len() + trace.len())
        + 3
        + CONTENT_TYPE.len();
    let packet_id = if qos == Qos::AtMostOnce { 0 } else { 2 };
    let remaining = 2 + message.topic.len() + packet_id + varint_bytes(properties) + properties + message.payload.len();
    1 + varint_bytes(remaining) + remaining
}

/// A message as rumqttc read it; `None` where its topic is not UTF-8, which a broker does not let through.
pub(crate) fn incoming(publish: Publish, connection: u64) -> Option<Incoming> {
    let receipt = Receipt { connection, packet: publish.pkid };
    let properties = publish.properties.unwrap_or_default();
    let traceparent = properties.user_properties.into_iter().find(|(key, _)| key == TRACEPARENT);
    Some(Incoming {
        topic: std::str::from_utf8(&publish.topic).ok()?.to_owned(),
        payload: publish.payload,
        retain: publish.retain,
        response_topic: properties.response_topic,
        correlation: properties.correlation_data,
        expiry: properties.message_expiry_interval.map(|seconds| Duration::from_secs(seconds.into())),
        traceparent: traceparent.map(|(_, value)| value),
        receipt,
    })
}

/// MQTT counts in whole seconds, and 0 would mean "expired": so up, never down.
pub(crate) fn whole_seconds(duration: Duration) -> u32 {
    let rounded = duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0));
    u32::try_from(rounded).unwrap_or(u32::MAX)
}

fn fits_u16(length: usize) -> bool {
    length <= usize::from(u16::MAX)
}

fn varint_bytes(value: usize) -> usize {
    match value {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x1f_ffff => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(payload: usize) -> Outgoing {
        Outgoing {
            expiry: Some(Duration::from_millis(1)),
            response_topic: Some("hedge/1/acme/r/d".to_owned()),
            correlation: Some(Bytes::from_static(&[1; 16])),
            traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
            ..Outgoing::new("hedge/1/acme/q/digits/d", vec![0; payload])
        }
    }

    #[test]
    fn the_size_is_the_one_that_rumqttc_will_write() {
        for payload in [0, 1, 90, 127, 128, 16_000, 16_384, 100_000, 2_097_152] {
            for message in [full(payload), Outgoing::new("t", vec![0; payload])] {
                for qos in [Qos::AtMostOnce, Qos::AtLeastOnce] {
                    let properties = properties(&message);
                    let mut publish = Publish::new(&message.topic, qos.to_mqtt(), message.payload.clone(), properties);
                    publish.pkid = 1;
                    assert_eq!(packet_bytes(&message, qos), publish.size(), "{payload} {qos:?}");
                }
            }
        }
    }

    #[test]
    fn what_mqtt_cannot_carry_is_refused() {
        let bad = [
            Outgoing::new("", ""),
            Outgoing::new("a/+", ""),
            Outgoing::new("#", ""),
            Outgoing::new("x".repeat(201), ""),
            Outgoing { response_topic: Some("a/#".to_owned()), ..full(0) },
            Outgoing { correlation: Some(Bytes::from(vec![0; 65_536])), ..full(0) },
            Outgoing { traceparent: Some("x".repeat(65_536)), ..full(0) },
        ];
        assert!(properties(&full(0)).is_some());
        for message in bad {
            assert!(properties(&message).is_none(), "{}", message.topic);
        }
    }

    #[test]
    fn an_expiry_is_rounded_up_so_that_it_never_becomes_zero() {
        assert_eq!(whole_seconds(Duration::from_nanos(1)), 1);
        assert_eq!(whole_seconds(Duration::from_secs(2)), 2);
        assert_eq!(whole_seconds(Duration::from_millis(2001)), 3);
        assert_eq!(whole_seconds(Duration::MAX), u32::MAX);
    }
}
