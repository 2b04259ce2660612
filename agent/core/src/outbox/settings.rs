//! The bounds of an outbox's memory, disk and patience.

use std::time::Duration;

/// What an outbox holds and waits for at most.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutboxSettings {
    /// Requests without an answer, and results that nobody has fetched, together.
    pub entries: usize,
    /// Bytes of the payloads that wait; new work is refused from 80 % of it, so that accepted work can always end.
    pub quota: u64,
    /// Requests executed at a time.
    pub running: usize,
    /// Requests asked of the cloud at a time. Below a broker's receive maximum and a gateway's share of one device.
    pub in_flight: usize,
    /// The longest that a request waits for the cloud; then it is executed without.
    pub life: Duration,
    /// How long the first attempt waits for its reply; later ones twice as long each, up to `reply_cap`.
    pub reply_within: Duration,
    /// The most that an attempt waits. Gateways keep a query for a minute.
    pub reply_cap: Duration,
    /// The bound of the first wait before a retry, which is drawn from zero to it (full jitter); each further bound is twice
    /// the one before, up to `backoff_cap`.
    pub backoff_base: Duration,
    /// The bound of every such wait.
    pub backoff_cap: Duration,
    /// Unfinished executions after which a request is answered with an error instead of executed once more.
    pub poison_after: u8,
    /// After how long a write that found no space is tried again.
    pub store_retry: Duration,
    /// How long a result is kept.
    pub keep: Duration,
    /// Results kept although they were fetched; the earliest fetched go first.
    pub results: usize,
    /// Bytes of the answers that are kept: beyond it those that were fetched go, and new work is refused while so many bytes
    /// were not.
    pub result_bytes: u64,
}

impl OutboxSettings {
    /// From how many bytes on new work is refused.
    #[must_use]
    pub fn refuse_from(&self) -> u64 {
        self.quota / 5 * 4
    }
}

impl Default for OutboxSettings {
    fn default() -> Self {
        Self {
            entries: 10_000,
            quota: 256 * 1024 * 1024,
            running: 16,
            in_flight: 32,
            life: Duration::from_secs(24 * 3600),
            reply_within: Duration::from_secs(5),
            reply_cap: Duration::from_secs(60),
            backoff_base: Duration::from_millis(200),
            backoff_cap: Duration::from_secs(30),
            poison_after: 2,
            store_retry: Duration::from_secs(1),
            keep: Duration::from_secs(24 * 3600),
            results: 10_000,
            result_bytes: 256 * 1024 * 1024,
        }
    }
}
