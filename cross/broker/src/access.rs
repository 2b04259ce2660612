//! Who may connect, publish and subscribe.

use std::future::{Future, ready};
use std::net::SocketAddr;
use std::pin::Pin;

use mqtt5::broker::auth::{AuthProvider, AuthResult};
use mqtt5::packet::connect::ConnectPacket;
use mqtt5::protocol::v5::reason_codes::ReasonCode;

/// The topics of the protocol.
const TOPICS: &str = "hedge/1/";

/// The shared subscriptions of the protocol. mqtt5 0.49 hands the whole filter to the access hook, `$share/{group}/`
/// included (measured; the test `a_shared_filter_reaches_the_policy_with_its_prefix` holds it).
const SHARED_TOPICS: &str = "$share/gw/hedge/1/";

/// What clients may do. Everything else is denied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Access {
    /// Clients of this machine, with no name or password, may publish to `hedge/1/…` and subscribe to `hedge/1/…` and
    /// `$share/gw/hedge/1/…`. Clients of other machines are refused, whatever address the broker listens on.
    #[default]
    Loopback,
}

impl Access {
    fn admits(self, address: SocketAddr) -> bool {
        match self {
            Access::Loopback => address.ip().to_canonical().is_loopback(),
        }
    }

    fn allows_publish(self, topic: &str) -> bool {
        match self {
            Access::Loopback => topic.starts_with(TOPICS),
        }
    }

    fn allows_subscribe(self, filter: &str) -> bool {
        match self {
            Access::Loopback => filter.starts_with(TOPICS) || filter.starts_with(SHARED_TOPICS),
        }
    }
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl AuthProvider for Access {
    fn authenticate<'a>(
        &'a self,
        _connect: &'a ConnectPacket,
        client: SocketAddr,
    ) -> Answer<'a, mqtt5::error::Result<AuthResult>> {
        let result = match self.admits(client) {
            true => AuthResult::success(),
            false => AuthResult::fail(ReasonCode::NotAuthorized),
        };
        Box::pin(ready(Ok(result)))
    }

    fn authorize_publish<'a>(&'a self, _client: &str, _user: Option<&'a str>, topic: &'a str) -> Answer<'a, bool> {
        Box::pin(ready(self.allows_publish(topic)))
    }

    fn authorize_subscribe<'a>(&'a self, _client: &str, _user: Option<&'a str>, filter: &'a str) -> Answer<'a, bool> {
        Box::pin(ready(self.allows_subscribe(filter)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clients_of_this_machine_are_admitted() {
        for (address, admitted) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("10.0.0.1:1", false),
            ("[::ffff:10.0.0.1]:1", false),
            ("[fe80::1]:1", false),
        ] {
            assert_eq!(Access::Loopback.admits(address.parse().unwrap()), admitted, "{address}");
        }
    }

    #[test]
    fn only_topics_of_the_protocol_are_allowed() {
        for topic in ["hedge/1/acme/r/d", "hedge/1/acme/q/m/d"] {
            assert!(Access::Loopback.allows_publish(topic), "{topic}");
        }
        for topic in ["", "hedge", "hedge/1", "hedge/2/acme/r/d", "$SYS/broker", "$share/gw/hedge/1/x", "other"] {
            assert!(!Access::Loopback.allows_publish(topic), "{topic}");
        }
        for filter in ["hedge/1/#", "hedge/1/acme/g/+", "$share/gw/hedge/1/acme/q/m/+"] {
            assert!(Access::Loopback.allows_subscribe(filter), "{filter}");
        }
        for filter in
            ["#", "+/1/acme/r/d", "hedge/#", "hedge/+/acme/#", "$SYS/#", "$share/gw/#", "$share/other/hedge/1/#"]
        {
            assert!(!Access::Loopback.allows_subscribe(filter), "{filter}");
        }
    }
}
