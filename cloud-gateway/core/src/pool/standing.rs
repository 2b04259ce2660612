//! What disk and broker have of a class; not part of its state, and nothing is known of it after a restart.

/// How long a broker may take to confirm a state until it is published again, in seconds.
const SAY_AGAIN_SECS: u64 = 10;

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Standing {
    /// Since when the class has what is not on disk.
    pub(crate) dirty_since: Option<u64>,
    /// The version of the state that is on disk.
    pub(crate) saved: u64,
    /// Whether a version waits to be saved and published.
    pub(crate) due: bool,
    /// The version that the broker has confirmed on this connection.
    pub(crate) confirmed: u64,
    said_unix_secs: u64,
}

impl Standing {
    /// The state is published now.
    pub(crate) fn said(&mut self, now: u64) {
        self.due = false;
        self.said_unix_secs = now;
    }

    /// Whether a state that was not confirmed is to be published again.
    pub(crate) fn may_say_again(&self, now: u64) -> bool {
        !self.due && now.saturating_sub(self.said_unix_secs) >= SAY_AGAIN_SECS
    }
}
