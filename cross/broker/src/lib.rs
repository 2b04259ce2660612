//! An MQTT 5 broker inside the process: for a laptop, a site, a test. The only crate that names mqtt5.
//!
//! It is not for a fleet: it is one process on one machine, keeps everything in memory, and speaks no TLS; fleets run
//! Mosquitto, EMQX, HiveMQ or a cloud's broker. The device daemon does not link it.
//!
//! mqtt5's defaults (every interface, anonymous clients, packets of 256 MB, files in the working directory, unbounded
//! subscriptions and retained messages) are all replaced: see [`bounds`]. Who may do what is an [`Access`] policy, which denies
//! what it does not name.
//!
//! What mqtt5 0.49 does not do, and what therefore nothing here may rest on: it acknowledges a publish that nobody
//! subscribes to like any other (no 0x10, so watch presence), it sends no DISCONNECT when it stops, and it does not give a
//! dead shared subscriber's unacknowledged messages to another one.

mod access;
pub mod bounds;
mod broker;
pub mod proxy;

pub use access::Access;
pub use broker::{Broker, BrokerConfig, BrokerError};
