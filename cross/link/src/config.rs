//! What a link is told, and the bounds that are not configuration.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use hedge_wire::limits::MAX_TOPIC_BYTES;
use thiserror::Error;

use crate::backoff::Backoff;
use crate::endpoint::Endpoint;
use crate::message::Qos;

/// Events that may wait for [`crate::LinkEvents::next`]; then the link stops reading from the broker.
pub const EVENT_CAPACITY: usize = 256;

/// From the first SYN to the CONNACK, in seconds (the unit that rumqttc takes).
pub const CONNECT_TIMEOUT_SECS: u64 = 5;

/// From the CONNACK to the last SUBACK.
pub const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(10);

/// What [`crate::LinkHandle::close`] takes at most.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// After DISCONNECT, how long the broker may take to close; an earlier close here could destroy the DISCONNECT under way.
pub const LINGER: Duration = Duration::from_millis(250);

/// A connection that was up for this long starts the backoff anew. A shorter one does not, so that two programs with one client
/// id, which throw each other out, slow down instead of spinning.
pub const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Filters in one SUBSCRIBE (AWS IoT Core takes no more).
pub const MAX_FILTERS_PER_SUBSCRIBE: usize = 8;

/// rumqttc 0.25 panics below this keepalive.
pub const MIN_KEEPALIVE: Duration = Duration::from_secs(5);

/// MQTT's keepalive is a 16-bit number of seconds.
const MAX_KEEPALIVE: Duration = Duration::from_secs(u16::MAX as u64);

/// What a fresh link is allowed, where the caller does not say otherwise: above the largest body (100 KiB) with its header.
const DEFAULT_MAX_PACKET_BYTES: u32 = 256 * 1024;

/// The smallest packet limit that leaves room for a header.
const MIN_PACKET_BYTES: u32 = 1024;

/// Everything a link needs to know. [`LinkConfig::new`] fills in what the protocol recommends.
#[derive(Clone)]
pub struct LinkConfig {
    /// `mqtt://host[:port]`.
    pub url: String,
    /// The MQTT client id: the device or gateway id.
    pub client_id: String,
    /// The user, where the broker asks for one.
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<String>,
    /// How often to ping; at least [`MIN_KEEPALIVE`]. A connection on which nothing came for twice this long is dropped.
    pub keepalive: Duration,
    /// Whether to continue the session that the broker may have.
    pub clean_start: CleanStart,
    /// How long the broker keeps the session after the connection ends; whole seconds.
    pub session_expiry: Duration,
    /// What to subscribe to on each connect.
    pub subscriptions: Vec<Subscription>,
    /// What the broker publishes when the connection ends without [`crate::LinkHandle::close`].
    pub will: Option<Will>,
    /// Published, retained, on each connect, before anything else.
    pub birth: Option<Birth>,
    /// Published, retained, by [`crate::LinkHandle::close`]: what the will would say.
    pub farewell: Option<Birth>,
    /// The largest packet, in either direction. The broker may set a lower limit for what is published.
    pub max_packet_bytes: u32,
    /// Publishes that may wait for the socket; more are refused.
    pub queue: usize,
    /// Publishes with QoS 1 that may wait for their PUBACK; the broker may set a lower limit.
    pub inflight: u16,
    /// Messages with QoS 1 that the broker may send before the first of them is acknowledged.
    pub receive_max: u16,
    /// How long to wait between attempts to connect.
    pub backoff: Backoff,
}

/// Whether a connection begins with a clean session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CleanStart {
    /// Every connection does.
    Always,
    /// The first one of this process does; later ones continue its session where the broker still has it.
    FirstConnect,
}

/// A filter to subscribe to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subscription {
    /// The filter, with `$share/{group}/` in front where it is shared.
    pub filter: String,
    /// The highest QoS to be delivered with.
    pub qos: Qos,
}

impl Subscription {
    /// A subscription with QoS 1.
    pub fn at_least_once(filter: impl Into<String>) -> Self {
        Subscription { filter: filter.into(), qos: Qos::AtLeastOnce }
    }
}

/// What the broker publishes (QoS 1) when a connection ends without a DISCONNECT.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Will {
    /// Where.
    pub topic: String,
    /// What.
    pub payload: Bytes,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
    /// How long after the connection ended; a reconnect within it cancels the will. The end of the session cuts it short.
    pub delay: Duration,
}

/// A retained message (QoS 1) about the connection itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Birth {
    /// Where.
    pub topic: String,
    /// What.
    pub payload: Bytes,
}

/// Why a link cannot start.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LinkError {
    /// Not a URL that this link can connect to.
    #[error("broker URL `{url}`: {reason}; expected mqtt://host or mqtt://host:port")]
    Url {
        /// The URL.
        url: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A TLS URL.
    #[error(
        "broker URL `{url}` asks for TLS, which this version does not do yet; use mqtt:// on a trusted network or through a TLS tunnel"
    )]
    TlsNotSupported {
        /// The URL.
        url: String,
    },
    /// A setting outside its range.
    #[error("{setting} is {value}, but must be {expected}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
}

impl LinkConfig {
    /// A link to `url` as `client_id`: clean session, no subscriptions, the bounds that every broker meets.
    pub fn new(url: impl Into<String>, client_id: impl Into<String>) -> Self {
        LinkConfig {
            url: url.into(),
            client_id: client_id.into(),
            username: None,
            password: None,
            keepalive: Duration::from_secs(30),
            clean_start: CleanStart::Always,
            session_expiry: Duration::ZERO,
            subscriptions: Vec::new(),
            will: None,
            birth: None,
            farewell: None,
            max_packet_bytes: DEFAULT_MAX_PACKET_BYTES,
            queue: 256,
            inflight: 50,
            receive_max: 100,
            backoff: Backoff::default(),
        }
    }

    /// Checks every setting and reads the URL.
    pub(crate) fn check(&self) -> Result<Endpoint, LinkError> {
        let endpoint = Endpoint::parse(&self.url)?;
        let keepalive = (MIN_KEEPALIVE..=MAX_KEEPALIVE).contains(&self.keepalive);
        require(keepalive, "keepalive", format_args!("{:?}", self.keepalive), "5 s to 65535 s")?;
        require(!self.client_id.is_empty(), "client id", format_args!("empty"), "a device or gateway id")?;
        require(self.queue > 0, "queue", format_args!("0"), "at least 1")?;
        require(self.inflight > 0, "inflight", format_args!("0"), "at least 1")?;
        require(self.receive_max > 0, "receive_max", format_args!("0"), "at least 1")?;
        let packet = self.max_packet_bytes >= MIN_PACKET_BYTES;
        require(packet, "max_packet_bytes", format_args!("{}", self.max_packet_bytes), "at least 1024")?;
        for subscription in &self.subscriptions {
            let filter = &subscription.filter;
            require(
                is_filter(filter),
                "subscription",
                format_args!("`{filter}`"),
                "an MQTT topic filter of 1 to 200 bytes",
            )?;
        }
        let births = [&self.birth, &self.farewell].into_iter().flatten().map(|birth| &birth.topic);
        for topic in births.chain(self.will.iter().map(|will| &will.topic)) {
            require(is_topic(topic), "topic", format_args!("`{topic}`"), "1 to 200 bytes without wildcards")?;
        }
        Ok(endpoint)
    }
}

impl fmt::Debug for LinkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the password, nor whole payloads.
        f.debug_struct("LinkConfig")
            .field("url", &self.url)
            .field("client_id", &self.client_id)
            .field("username", &self.username)
            .field("keepalive", &self.keepalive)
            .field("clean_start", &self.clean_start)
            .field("subscriptions", &self.subscriptions)
            .finish_non_exhaustive()
    }
}

/// Whether `topic` may be published to.
pub(crate) fn is_topic(topic: &str) -> bool {
    (1..=MAX_TOPIC_BYTES).contains(&topic.len()) && !topic.contains(['+', '#', '\0'])
}

fn is_filter(filter: &str) -> bool {
    (1..=MAX_TOPIC_BYTES).contains(&filter.len()) && !filter.contains('\0') && rumqttc::valid_filter(filter)
}

fn require(
    holds: bool,
    setting: &'static str,
    value: fmt::Arguments<'_>,
    expected: &'static str,
) -> Result<(), LinkError> {
    match holds {
        true => Ok(()),
        false => Err(LinkError::Setting { setting, value: value.to_string(), expected }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> LinkConfig {
        LinkConfig::new("mqtt://localhost", "device")
    }

    #[test]
    fn the_recommended_settings_are_valid() {
        assert!(config().check().is_ok());
    }

    #[test]
    fn settings_on_which_rumqttc_panics_or_brokers_disconnect_are_refused_by_name() {
        let birth = |topic: &str| Some(Birth { topic: topic.to_owned(), payload: Bytes::new() });
        let filter = |filter: &str| vec![Subscription::at_least_once(filter)];
        let bad = [
            ("keepalive", LinkConfig { keepalive: Duration::from_millis(4999), ..config() }),
            ("keepalive", LinkConfig { keepalive: Duration::from_secs(65_536), ..config() }),
            ("client id", LinkConfig { client_id: String::new(), ..config() }),
            ("queue", LinkConfig { queue: 0, ..config() }),
            ("inflight", LinkConfig { inflight: 0, ..config() }),
            ("receive_max", LinkConfig { receive_max: 0, ..config() }),
            ("max_packet_bytes", LinkConfig { max_packet_bytes: 1023, ..config() }),
            ("subscription", LinkConfig { subscriptions: filter("a/#/b"), ..config() }),
            ("subscription", LinkConfig { subscriptions: filter(""), ..config() }),
            ("topic", LinkConfig { birth: birth("a/+"), ..config() }),
            ("topic", LinkConfig { farewell: birth(""), ..config() }),
        ];
        for (expected, config) in bad {
            assert!(
                matches!(config.check(), Err(LinkError::Setting { setting, .. }) if setting == expected),
                "{expected}"
            );
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let config = LinkConfig { password: Some("hunter2".to_owned()), ..config() };
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
