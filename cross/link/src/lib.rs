//! The MQTT 5 link between an agent or a gateway and a broker; the only crate that names rumqttc and rustls.
//!
//! [`start`] spawns one polling task, which connects, subscribes, reconnects with full-jitter backoff and reports on a bounded
//! channel; [`LinkHandle`] publishes and acknowledges from anywhere without blocking. It is not an outbox: what is queued or
//! in flight when the connection ends is gone, and [`LinkEvent::Down`] says so. The caller holds what must not be lost and
//! sends it again, because a body carries how long its sender still waits and so cannot be replayed later as it is.
//!
//! Invariants:
//! - Nothing blocks the caller, and nothing grows: queue, in-flight window, event channel, packet sizes and waiting times are
//!   bounded by [`LinkConfig`] and the constants of [`config`].
//! - [`LinkEvent::Up`] comes after the broker acknowledged every subscription, so a reply to what is published then cannot be
//!   missed. From the end of a connection until the next `Up`, [`LinkHandle::publish`] returns [`PublishError::Down`].
//! - One rumqttc event loop serves one connection and is then dropped. rumqttc's own reconnecting loop replays stale
//!   publishes, loses others and spins on a packet that it cannot send or read; a fresh one has no such memory.
//! - The polling task only ever uses the non-blocking half of rumqttc's client, on a channel with room kept for it: rumqttc
//!   deadlocks when its polling task waits for its own channel.

mod backoff;
pub mod config;
mod connection;
mod endpoint;
mod handle;
mod message;
mod options;
mod task;

use tokio::sync::mpsc;

pub use backoff::Backoff;
pub use config::{Birth, CleanStart, LinkConfig, LinkError, Subscription, Will};
pub use handle::{Link, LinkHandle};
pub use message::{BrokerLimits, Incoming, LinkEvent, Outcome, Outgoing, PublishError, PublishId, Qos};

/// The receiving end of a link.
///
/// Dropping it ends the link.
#[derive(Debug)]
pub struct LinkEvents {
    receiver: mpsc::Receiver<LinkEvent>,
}

impl LinkEvents {
    /// The next event; `None` once the link has been closed.
    ///
    /// Whoever calls this must keep up: while [`config::EVENT_CAPACITY`] events wait, the link reads nothing from the broker.
    pub async fn next(&mut self) -> Option<LinkEvent> {
        self.receiver.recv().await
    }

    /// The next event if it is there already.
    pub fn try_next(&mut self) -> Option<LinkEvent> {
        self.receiver.try_recv().ok()
    }
}

/// Starts a link on the current tokio runtime. The broker need not be there.
///
/// # Errors
///
/// What is wrong with the configuration; the network is not tried here.
///
/// # Panics
///
/// Outside a tokio runtime.
pub fn start(config: LinkConfig) -> Result<(LinkHandle, LinkEvents), LinkError> {
    let endpoint = config.check()?;
    let (events, receiver) = mpsc::channel(config::EVENT_CAPACITY);
    let handle = task::spawn(config, endpoint, events);
    Ok((handle, LinkEvents { receiver }))
}
