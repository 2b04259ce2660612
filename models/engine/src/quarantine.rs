//! When a device that failed is used again: decisions without clocks, threads or randomness.
//!
//! ```text
//!              fault                    the time has come
//!   serving ----------> waiting(until) ------------------> probing
//!      ^                   ^   \                             |  |
//!      |                   |    +--> retired (no openings    |  |
//!      |                   |         are left)               |  |
//!      |                   +---------------- failed ---------+  |
//!      +------------------------------------ passed -----------+
//! ```
//!
//! Time is counted from any fixed moment; random numbers are given in. A late event (a second fault, the result of a probe
//! that was given up) changes nothing.

use std::time::Duration;

/// How a device that failed is tried again.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ProbePolicy {
    /// Before the first probe the device rests for up to this long; before each further one for up to twice as long.
    pub base: Duration,
    /// It never rests for longer.
    pub cap: Duration,
    /// A device that served for this long since its last fault starts anew with [`ProbePolicy::base`].
    pub settled: Duration,
    /// How often it is opened anew at most: what an opening took is not all given back.
    pub openings: u32,
}

impl Default for ProbePolicy {
    fn default() -> Self {
        ProbePolicy {
            base: Duration::from_secs(1),
            cap: Duration::from_secs(300),
            settled: Duration::from_secs(60),
            openings: 32,
        }
    }
}

/// Where a device stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    Serving,
    Waiting { until: Duration },
    Probing,
    Retired,
}

/// What happened; `jitter` is a random number in 0..1.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Event {
    /// The device failed while it served.
    Fault { jitter: f64 },
    /// Somebody is there who could probe.
    Tick,
    /// The probe passed.
    Passed,
    /// The probe failed.
    Failed { jitter: f64 },
}

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// The CPU answers from now on.
    StandIn,
    /// Tick again then.
    WakeAt(Duration),
    /// Open the device anew, run golden vectors and report.
    Probe,
    /// The device answers again.
    Resume,
    /// The device is not tried again in this process.
    Retire,
}

#[derive(Clone, Debug)]
pub(crate) struct Quarantine {
    policy: ProbePolicy,
    standing: Standing,
    /// Faults and failed probes in a row.
    streak: u32,
    recovered: Option<Duration>,
    openings: u32,
}

impl Quarantine {
    pub(crate) fn new(policy: ProbePolicy) -> Self {
        Quarantine { policy, standing: Standing::Serving, streak: 0, recovered: None, openings: 0 }
    }

    pub(crate) fn standing(&self) -> Standing {
        self.standing
    }

    pub(crate) fn on(&mut self, event: Event, now: Duration) -> Vec<Action> {
        match (self.standing, event) {
            (Standing::Serving, Event::Fault { jitter }) => {
                if self.recovered.is_none_or(|at| now.saturating_sub(at) >= self.policy.settled) {
                    self.streak = 0;
                }
                vec![Action::StandIn, self.rest(jitter, now)]
            }
            (Standing::Waiting { until }, Event::Tick) if now < until => vec![Action::WakeAt(until)],
            (Standing::Waiting { .. }, Event::Tick) if self.openings >= self.policy.openings => {
                self.standing = Standing::Retired;
                vec![Action::Retire]
            }
            (Standing::Waiting { .. }, Event::Tick) => {
                self.openings += 1;
                self.standing = Standing::Probing;
                vec![Action::Probe]
            }
            (Standing::Probing, Event::Passed) => {
                self.standing = Standing::Serving;
                self.recovered = Some(now);
                vec![Action::Resume]
            }
            (Standing::Probing, Event::Failed { jitter }) => vec![self.rest(jitter, now)],
            _ => Vec::new(),
        }
    }

    /// Exponential with full jitter, so that what failed together is not tried together.
    fn rest(&mut self, jitter: f64, now: Duration) -> Action {
        let doubled = 1u32.checked_shl(self.streak).unwrap_or(u32::MAX);
        self.streak = self.streak.saturating_add(1);
        let window = self.policy.base.saturating_mul(doubled).min(self.policy.cap);
        let until = now + window.mul_f64(jitter.clamp(0.0, 1.0));
        self.standing = Standing::Waiting { until };
        Action::WakeAt(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn fresh() -> Quarantine {
        Quarantine::new(ProbePolicy { base: SECOND, cap: 5 * SECOND, settled: 60 * SECOND, openings: 4 })
    }

    /// The longest rest after an event that ends in one.
    fn rest(quarantine: &mut Quarantine, event: Event, now: Duration) -> Duration {
        match quarantine.on(event, now)[..] {
            [Action::WakeAt(until)] | [Action::StandIn, Action::WakeAt(until)] => until - now,
            ref other => panic!("no rest but {other:?}"),
        }
    }

    #[test]
    fn a_device_that_failed_rests_is_probed_and_serves_again() {
        let mut quarantine = fresh();
        let actions = quarantine.on(Event::Fault { jitter: 0.5 }, 10 * SECOND);
        let due = 10 * SECOND + SECOND / 2;
        assert_eq!(actions, [Action::StandIn, Action::WakeAt(due)]);
        assert_eq!(quarantine.on(Event::Tick, 10 * SECOND), [Action::WakeAt(due)]);
        assert_eq!(quarantine.on(Event::Tick, due), [Action::Probe]);
        assert_eq!(quarantine.on(Event::Tick, due), [], "one probe at a time");
        assert_eq!(quarantine.on(Event::Passed, due), [Action::Resume]);
        assert_eq!(quarantine.standing(), Standing::Serving);
    }

    #[test]
    fn each_failed_probe_doubles_the_rest_up_to_the_cap() {
        let mut quarantine = fresh();
        let mut rests = vec![rest(&mut quarantine, Event::Fault { jitter: 1.0 }, SECOND)];
        for now in [10, 20, 30] {
            assert_eq!(quarantine.on(Event::Tick, now * SECOND), [Action::Probe]);
            rests.push(rest(&mut quarantine, Event::Failed { jitter: 1.0 }, now * SECOND));
        }
        assert_eq!(rests, [SECOND, 2 * SECOND, 4 * SECOND, 5 * SECOND]);
    }

    #[test]
    fn a_device_that_fails_again_soon_rests_longer_and_one_that_settled_does_not() {
        let mut quarantine = fresh();
        let recover = |quarantine: &mut Quarantine, now| {
            quarantine.on(Event::Tick, now);
            quarantine.on(Event::Passed, now);
        };
        let fault = Event::Fault { jitter: 1.0 };
        assert_eq!(rest(&mut quarantine, fault, SECOND), SECOND);
        recover(&mut quarantine, 5 * SECOND);
        assert_eq!(rest(&mut quarantine, fault, 6 * SECOND), 2 * SECOND);
        recover(&mut quarantine, 10 * SECOND);
        assert_eq!(rest(&mut quarantine, fault, 70 * SECOND), SECOND);
    }

    #[test]
    fn a_device_is_not_opened_without_end() {
        let mut quarantine = fresh();
        quarantine.on(Event::Fault { jitter: 0.0 }, SECOND);
        for _ in 0..4 {
            assert_eq!(quarantine.on(Event::Tick, SECOND), [Action::Probe]);
            quarantine.on(Event::Failed { jitter: 0.0 }, SECOND);
        }
        assert_eq!(quarantine.on(Event::Tick, SECOND), [Action::Retire]);
        for event in [Event::Tick, Event::Passed, Event::Fault { jitter: 0.5 }, Event::Failed { jitter: 0.5 }] {
            assert_eq!(quarantine.on(event, SECOND), [], "{event:?}");
        }
    }

    #[test]
    fn news_that_come_late_change_nothing() {
        let mut quarantine = fresh();
        for event in [Event::Tick, Event::Passed, Event::Failed { jitter: 0.5 }] {
            assert_eq!(quarantine.on(event, SECOND), [], "{event:?} while it serves");
        }
        quarantine.on(Event::Fault { jitter: 1.0 }, SECOND);
        for event in [Event::Fault { jitter: 0.1 }, Event::Passed, Event::Failed { jitter: 0.1 }] {
            assert_eq!(quarantine.on(event, SECOND), [], "{event:?} while it rests");
        }
    }
}
