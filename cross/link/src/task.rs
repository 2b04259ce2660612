//! The polling task: one connection after another, with a wait between them, until it is closed.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::Instrument;

use crate::config::{LinkConfig, STABLE_AFTER};
use crate::connection::{self, End, Lost};
use crate::endpoint::Endpoint;
use crate::handle::{LinkHandle, Shared};
use crate::message::LinkEvent;

/// What every connection of a link is given.
pub(crate) struct Context {
    pub(crate) config: LinkConfig,
    pub(crate) endpoint: Endpoint,
    pub(crate) shared: Arc<Shared>,
    pub(crate) events: mpsc::Sender<LinkEvent>,
    pub(crate) close: mpsc::Receiver<()>,
}

/// What earlier attempts left behind.
#[derive(Default)]
struct History {
    /// Attempts so far, which numbers them.
    attempts: u64,
    /// Whether a broker has ever accepted this process.
    accepted: bool,
    /// Attempts since the last stable connection.
    unstable: u32,
    /// Why the last connection ended.
    reason: Option<String>,
}

/// Starts the task; it ends when it is closed, when every handle is dropped, or when nobody receives its events.
pub(crate) fn spawn(config: LinkConfig, endpoint: Endpoint, events: mpsc::Sender<LinkEvent>) -> LinkHandle {
    let shared = Arc::new(Shared::new(config.queue));
    let (close_sender, close) = mpsc::channel(1);
    let span = tracing::info_span!("link", client = %config.client_id);
    let context = Context { config, endpoint, shared: Arc::clone(&shared), events, close };
    let task = tokio::spawn(run(context).instrument(span));
    LinkHandle::new(shared, close_sender, task)
}

async fn run(mut context: Context) {
    // However this ends, a panic in rumqttc included, no handle may go on believing in a connection.
    let _guard = DownOnDrop(Arc::clone(&context.shared));
    let mut history = History::default();
    loop {
        history.attempts += 1;
        let lost = match connection::serve(&mut context, history.attempts, !history.accepted).await {
            End::Closed => return,
            End::Lost(lost) => lost,
        };
        context.shared.disconnected();
        history.log(&lost);
        let up_for = lost.up_since.map(|since| since.elapsed());
        let wait = context.config.backoff.wait(history.record(lost.accepted, up_for), random());
        if lost.up_since.is_some() || history.attempts == 1 {
            let down = LinkEvent::Down { reason: lost.reason };
            tokio::select! {
                _ = context.close.recv() => return,
                sent = context.events.send(down) => if sent.is_err() { return },
            }
        }
        tokio::select! {
            _ = context.close.recv() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

impl History {
    /// Counts the connection; returns how many before it were not stable in a row.
    fn record(&mut self, accepted: bool, up_for: Option<Duration>) -> u32 {
        self.accepted |= accepted;
        if up_for.is_some_and(|up_for| up_for >= STABLE_AFTER) {
            self.unstable = 0;
        }
        let before = self.unstable;
        self.unstable = self.unstable.saturating_add(1);
        before
    }

    /// A warning for each new reason; the thousandth refused connection is not news.
    fn log(&mut self, lost: &Lost) {
        let reason = lost.reason.as_str();
        if lost.up_since.is_some() || self.reason.as_deref() != Some(reason) {
            tracing::warn!(reason, "link down");
        } else {
            tracing::debug!(reason, "link still down");
        }
        self.reason = Some(lost.reason.clone());
    }
}

/// A number in 0..1 from the keys that the standard library draws from the operating system: enough for jitter.
fn random() -> f64 {
    let bits = RandomState::new().hash_one(0u8) >> 11;
    bits as f64 / (1u64 << 53) as f64
}

struct DownOnDrop(Arc<Shared>);

impl Drop for DownOnDrop {
    fn drop(&mut self) {
        self.0.disconnected();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_spread_over_its_range() {
        let draws: Vec<f64> = (0..1000).map(|_| random()).collect();
        assert!(draws.iter().all(|draw| (0.0..1.0).contains(draw)));
        let mean = draws.iter().sum::<f64>() / 1000.0;
        assert!((0.4..0.6).contains(&mean), "{mean}");
    }

    #[test]
    fn only_a_stable_connection_starts_the_backoff_anew() {
        let mut history = History::default();
        let short = Some(STABLE_AFTER / 2);
        let counts: Vec<u32> = [None, None, short, short, Some(STABLE_AFTER), None]
            .iter()
            .map(|&up_for| history.record(up_for.is_some(), up_for))
            .collect();
        assert_eq!(counts, [0, 1, 2, 3, 0, 1]);
        assert!(history.accepted);
    }
}
