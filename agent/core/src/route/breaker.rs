//! The circuit breaker: after a run of failed offloads the cloud is left alone for a while.
//!
//! Closed, it lets every offload pass. [`FAILURES`] failures in a row open it for [`FIRST_PAUSE`], twice as long each time up to
//! [`LONGEST_PAUSE`]; then one request probes, and its success closes it. A lost link is not its business: that is seen at
//! once, without trying.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::answer::Reason;

/// Failures in a row that open it.
const FAILURES: u32 = 5;
/// How long it stays open first.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// How long at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The state of one breaker.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Breaker {
    failures: u32,
    open: Option<Open>,
}

#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
struct Open {
    since: Duration,
    pause: Duration,
    /// The last failure's reason, which every request meanwhile gets.
    why: Reason,
}

impl Breaker {
    pub(crate) fn new() -> Self {
        Self { failures: 0, open: None }
    }

    /// Lets an offload pass or says why not. Where it was due to probe, this offload is the probe.
    pub(crate) fn admit(&mut self, now: Duration) -> Result<(), Reason> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        // A clock set back must not keep it open for longer than it was meant to be.
        let waited = if now >= open.since { now - open.since } else { open.pause };
        if waited < open.pause {
            return Err(open.why);
        }
        // Until the probe is back, the next pause runs.
        open.since = now;
        Ok(())
    }

    /// An offload was answered.
    pub(crate) fn succeeded(&mut self) {
        *self = Self::new();
    }

    /// An offload failed.
    pub(crate) fn failed(&mut self, why: Reason, now: Duration) {
        if !matches!(why, Reason::Deadline | Reason::CloudBusy | Reason::CloudRefused | Reason::NoGateway) {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures < FAILURES {
            return;
        }
        let pause = match self.open {
            // Offloads that were under way when it opened say nothing new.
            Some(open) if !self.failures.is_multiple_of(FAILURES) => open.pause,
            Some(open) => (open.pause * 2).min(LONGEST_PAUSE),
            None => FIRST_PAUSE,
        };
        self.open = Some(Open { since: now, pause, why });
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }
}
