//! The bounds of a gateway's memory and patience.

use std::time::Duration;

/// What a gateway holds at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Queries admitted and not yet answered, of all models and devices.
    pub queue: usize,
    /// Tensor bytes of these queries.
    pub queue_bytes: usize,
    /// Of these queries, how many may be of one device: so no device can take the whole queue.
    pub queue_per_device: usize,
    /// Queries of one model that are with its engine at a time; the others wait here, where they can still expire.
    pub running_per_model: usize,
    /// Of these queries, how many may be audits: nobody waits for them, and they wait for everybody.
    pub audits: usize,
    /// Of these audits, how many may be of one device.
    pub audits_per_device: usize,
    /// The longest time a query is kept, whatever deadline it asks for.
    pub max_deadline: Duration,
    /// What a device that finds no room is told to wait.
    pub busy_retry: Duration,
    /// Replies remembered for repeated queries.
    pub replies: usize,
    /// Encoded bytes of these replies.
    pub reply_bytes: usize,
    /// How long a reply is remembered.
    pub reply_age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue: 1024,
            queue_bytes: 64 * 1024 * 1024,
            queue_per_device: 128,
            running_per_model: 64,
            audits: 64,
            audits_per_device: 16,
            max_deadline: Duration::from_secs(60),
            busy_retry: Duration::from_millis(200),
            replies: 16 * 1024,
            reply_bytes: 16 * 1024 * 1024,
            reply_age: Duration::from_secs(120),
        }
    }
}
