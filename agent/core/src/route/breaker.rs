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
    /// Whether a probe is under way.
    probing: bool,
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
        open.probing = true;
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
        self.open = Some(match self.open {
            // Offloads that were under way when it opened say nothing new.
            Some(open) if !open.probing => open,
            Some(open) => Open { since: now, pause: (open.pause * 2).min(LONGEST_PAUSE), why, probing: false },
            None => Open { since: now, pause: FIRST_PAUSE, why, probing: false },
        });
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1000);

    fn opened() -> Breaker {
        let mut breaker = Breaker::new();
        for failure in 1..=FAILURES {
            assert_eq!(breaker.admit(NOW), Ok(()), "after {} failures", failure - 1);
            breaker.failed(Reason::Deadline, NOW);
        }
        breaker
    }

    #[test]
    fn a_row_of_failures_opens_it_and_the_probes_success_closes_it() {
        let mut breaker = opened();
        assert_eq!(breaker.admit(NOW), Err(Reason::Deadline));
        assert_eq!(breaker.admit(NOW + FIRST_PAUSE), Ok(()), "the probe");
        assert_eq!(breaker.admit(NOW + FIRST_PAUSE), Err(Reason::Deadline), "only one");
        breaker.succeeded();
        assert_eq!(breaker.admit(NOW + FIRST_PAUSE), Ok(()));
        assert!(!breaker.is_open());
    }

    #[test]
    fn each_failed_probe_doubles_the_pause_up_to_a_minute() {
        let (mut breaker, mut now, mut pause) = (opened(), NOW, FIRST_PAUSE);
        for _ in 0..10 {
            now += pause;
            assert_eq!(breaker.admit(now - Duration::from_millis(1)), Err(Reason::Deadline));
            assert_eq!(breaker.admit(now), Ok(()));
            breaker.failed(Reason::Deadline, now);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        assert_eq!(pause, LONGEST_PAUSE);
        assert_eq!(breaker.admit(now - Duration::from_secs(9)), Ok(()), "a clock set back must not keep it open");
    }

    #[test]
    fn a_lost_link_and_a_success_between_failures_do_not_open_it() {
        let mut breaker = Breaker::new();
        for _ in 0..3 * FAILURES {
            breaker.failed(Reason::LinkDown, NOW);
            breaker.failed(Reason::CloudBusy, NOW);
            breaker.succeeded();
        }
        assert_eq!(breaker.admit(NOW), Ok(()));
    }
}
