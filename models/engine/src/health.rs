//! How each device does in this process: shared by all models that run on it.
//!
//! A device is opened anew after a fault, and each opening has a number, its *generation*: what a model prepared on an
//! earlier one is void, and a fault of an earlier one is no news. The decisions are [`crate::quarantine`]'s; this adds the
//! clock, the lock, the dice, the log and the counts.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::quarantine::{Action, Event, Quarantine, Standing};
use crate::{Device, ProbePolicy, RunError};

/// How a device failed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FaultKind {
    /// The driver gave the device up: a reset, an unplugged card.
    Lost,
    /// It has no memory left.
    OutOfMemory,
    /// The driver or a kernel panicked.
    Panic,
    /// It gave NaN where the CPU gives numbers.
    NotANumber,
    /// A run did not end.
    Hang,
    /// Anything else that the CPU does not fail at.
    Error,
}

/// What a device does now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceStanding {
    /// It answers.
    Serving,
    /// It failed and rests; the CPU answers.
    Quarantined,
    /// It is being tried; the CPU answers.
    Probing,
    /// It failed too often and is not tried again before the process is restarted; the CPU answers.
    Retired,
}

/// One device as seen by this process since its start.
#[derive(Clone, PartialEq, Debug)]
pub struct DeviceState {
    /// The device's label.
    pub device: String,
    /// What it does now.
    pub standing: DeviceStanding,
    /// Faults so far, by kind.
    pub faults: BTreeMap<FaultKind, u64>,
    /// The last fault in words.
    pub last_fault: Option<String>,
    /// How long until the next probe, while it is quarantined.
    pub next_probe: Option<Duration>,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [FaultKind; 6] = [
        FaultKind::Lost,
        FaultKind::OutOfMemory,
        FaultKind::Panic,
        FaultKind::NotANumber,
        FaultKind::Hang,
        FaultKind::Error,
    ];

    /// Its name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            FaultKind::Lost => "lost",
            FaultKind::OutOfMemory => "out-of-memory",
            FaultKind::Panic => "panic",
            FaultKind::NotANumber => "nan",
            FaultKind::Hang => "hang",
            FaultKind::Error => "error",
        }
    }

    /// The kind of a failed run. Drivers and burn say it in words only.
    pub(crate) fn of(error: &RunError) -> FaultKind {
        let text = error.to_string().to_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        if says(&["out of memory", "outofmemory", "not enough memory", "buffer is too large", "buffertoobig"]) {
            FaultKind::OutOfMemory
        } else if says(&[
            "poisoned",
            "device lost",
            "device was lost",
            "devicelost",
            "parent device is lost",
            "async map a buffer",
        ]) {
            FaultKind::Lost
        } else if matches!(error, RunError::Panic { .. }) {
            FaultKind::Panic
        } else {
            FaultKind::Error
        }
    }
}

impl DeviceStanding {
    /// All of them.
    pub const ALL: [DeviceStanding; 4] =
        [DeviceStanding::Serving, DeviceStanding::Quarantined, DeviceStanding::Probing, DeviceStanding::Retired];

    /// Its name in metrics and tables.
    pub fn name(self) -> &'static str {
        match self {
            DeviceStanding::Serving => "serving",
            DeviceStanding::Quarantined => "quarantined",
            DeviceStanding::Probing => "probing",
            DeviceStanding::Retired => "retired",
        }
    }
}

/// Every device but the CPU that a model was loaded for in this process.
pub fn device_states() -> Vec<DeviceState> {
    let known: Vec<Arc<Health>> = registry().values().cloned().collect();
    known.iter().map(|health| health.state()).collect()
}

/// What somebody who waits for a device may do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It serves, as this generation.
    Use(u64),
    /// Nothing for so long.
    Wait(Duration),
    /// Open it as a new generation, try it, and report to [`Health::probed`].
    Probe(Ticket),
    /// It is not tried again.
    Never,
}

/// The right to probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) generation: u64,
}

/// One device's health.
pub(crate) struct Health {
    label: String,
    epoch: Instant,
    /// The generation that serves, 0 while none does: read before each run, without the lock.
    serving: AtomicU64,
    inner: Mutex<Inner>,
    changed: Condvar,
}

struct Inner {
    quarantine: Quarantine,
    generation: u64,
    faults: BTreeMap<FaultKind, u64>,
    last_fault: Option<String>,
    /// When the probe under way counts as hung.
    probe_until: Option<Instant>,
}

/// How long a waiting thread sleeps at most before it looks again whether it is still wanted.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

impl Health {
    /// The health of `device`, the same for every model; the first to ask sets the policy.
    pub(crate) fn of(device: &Device, policy: ProbePolicy) -> Arc<Health> {
        let fresh = || Arc::new(Health::new(device.label(), policy));
        Arc::clone(registry().entry(device.key()).or_insert_with(fresh))
    }

    fn new(label: String, policy: ProbePolicy) -> Health {
        let inner = Inner {
            quarantine: Quarantine::new(policy),
            generation: 1,
            faults: BTreeMap::new(),
            last_fault: None,
            probe_until: None,
        };
        Health {
            label,
            epoch: Instant::now(),
            serving: AtomicU64::new(1),
            inner: Mutex::new(inner),
            changed: Condvar::new(),
        }
    }

    /// The generation that serves, if one does.
    pub(crate) fn serving(&self) -> Option<u64> {
        Some(self.serving.load(Ordering::Acquire)).filter(|&generation| generation != 0)
    }

    /// The device failed as `generation`.
    pub(crate) fn fault(&self, generation: u64, kind: FaultKind, why: &str) {
        let mut inner = self.lock();
        *inner.faults.entry(kind).or_default() += 1;
        if generation != inner.generation {
            return;
        }
        inner.last_fault = Some(format!("{}: {why}", kind.name()));
        let actions = inner.quarantine.on(Event::Fault { jitter: fraction() }, self.epoch.elapsed());
        if actions.contains(&Action::StandIn) {
            self.serving.store(0, Ordering::Release);
            tracing::warn!(device = self.label, kind = kind.name(), why, "device quarantined, the CPU answers");
        }
        drop(inner);
        self.changed.notify_all();
    }

    /// What to do now; a probe that is given out must end within `limit`.
    pub(crate) fn next(&self, limit: Duration) -> Next {
        let mut inner = self.lock();
        self.give_up_hung_probe(&mut inner);
        match inner.quarantine.standing() {
            Standing::Serving => return Next::Use(inner.generation),
            Standing::Probing => return Next::Wait(LONGEST_WAIT),
            Standing::Retired => return Next::Never,
            Standing::Waiting { .. } => {}
        }
        let now = self.epoch.elapsed();
        match inner.quarantine.on(Event::Tick, now).first() {
            Some(Action::Probe) => {
                inner.generation += 1;
                inner.probe_until = Some(Instant::now() + limit);
                Next::Probe(Ticket { generation: inner.generation })
            }
            Some(Action::Retire) => {
                tracing::error!(
                    device = self.label,
                    "device failed too often, it is left alone until the process restarts"
                );
                Next::Never
            }
            Some(Action::WakeAt(at)) => Next::Wait(at.saturating_sub(now).min(LONGEST_WAIT)),
            _ => Next::Wait(LONGEST_WAIT),
        }
    }

    /// The outcome of a probe. Whether it counted: the device serves now, and the prober may go on with it.
    pub(crate) fn probed(&self, ticket: Ticket, failed: Option<&str>) -> bool {
        let mut inner = self.lock();
        if ticket.generation != inner.generation || inner.quarantine.standing() != Standing::Probing {
            return false;
        }
        inner.probe_until = None;
        let now = self.epoch.elapsed();
        match failed {
            None => {
                inner.quarantine.on(Event::Passed, now);
                self.serving.store(ticket.generation, Ordering::Release);
                tracing::info!(device = self.label, "device passed its probe and serves again");
            }
            Some(why) => {
                inner.quarantine.on(Event::Failed { jitter: fraction() }, now);
                tracing::debug!(device = self.label, why, "device failed its probe");
                inner.last_fault = Some(format!("probe: {why}"));
            }
        }
        drop(inner);
        self.changed.notify_all();
        failed.is_none()
    }

    /// Sleeps until something changed, at most `limit`.
    pub(crate) fn wait(&self, limit: Duration) {
        let inner = self.lock();
        drop(self.changed.wait_timeout(inner, limit.min(LONGEST_WAIT)).unwrap_or_else(PoisonError::into_inner));
    }

    /// Wakes whoever waits, so that it looks whether it is still wanted.
    pub(crate) fn wake(&self) {
        // Under the lock, so that nobody is between looking and sleeping.
        drop(self.lock());
        self.changed.notify_all();
    }

    fn state(&self) -> DeviceState {
        let mut inner = self.lock();
        self.give_up_hung_probe(&mut inner);
        let (standing, next_probe) = match inner.quarantine.standing() {
            Standing::Serving => (DeviceStanding::Serving, None),
            Standing::Waiting { until } => {
                (DeviceStanding::Quarantined, Some(until.saturating_sub(self.epoch.elapsed())))
            }
            Standing::Probing => (DeviceStanding::Probing, None),
            Standing::Retired => (DeviceStanding::Retired, None),
        };
        let (faults, last_fault) = (inner.faults.clone(), inner.last_fault.clone());
        DeviceState { device: self.label.clone(), standing, faults, last_fault, next_probe }
    }

    fn give_up_hung_probe(&self, inner: &mut Inner) {
        if inner.probe_until.is_some_and(|until| Instant::now() >= until) {
            inner.probe_until = None;
            inner.last_fault = Some("probe: it did not end".to_owned());
            inner.quarantine.on(Event::Failed { jitter: fraction() }, self.epoch.elapsed());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn registry() -> MutexGuard<'static, BTreeMap<String, Arc<Health>>> {
    static KNOWN: OnceLock<Mutex<BTreeMap<String, Arc<Health>>>> = OnceLock::new();
    KNOWN.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// A random number in 0..1 from the keys that the standard library draws from the operating system.
fn fraction() -> f64 {
    (RandomState::new().hash_one(0u8) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> Health {
        let policy = ProbePolicy { base: Duration::ZERO, ..ProbePolicy::default() };
        Health::new("gpu".to_owned(), policy)
    }

    #[test]
    fn a_fault_of_an_earlier_generation_is_counted_and_changes_nothing() {
        let health = health();
        health.fault(1, FaultKind::Lost, "reset");
        assert_eq!(health.serving(), None);
        let Next::Probe(ticket) = health.next(LONGEST_WAIT) else { panic!("no probe is due") };
        assert!(health.probed(ticket, None));
        assert_eq!(health.serving(), Some(2));
        health.fault(1, FaultKind::Lost, "reset");
        assert_eq!(health.serving(), Some(2));
        assert_eq!(health.state().faults[&FaultKind::Lost], 2);
    }

    #[test]
    fn a_probe_that_does_not_end_is_given_up_and_its_result_ignored() {
        let health = health();
        health.fault(1, FaultKind::Hang, "stuck");
        let Next::Probe(stuck) = health.next(Duration::ZERO) else { panic!("no probe is due") };
        let Next::Probe(second) = health.next(LONGEST_WAIT) else { panic!("the stuck probe blocks the next") };
        assert!(!health.probed(stuck, None));
        assert_eq!(health.state().standing, DeviceStanding::Probing);
        assert!(!health.probed(second, Some("it differs")));
        assert_eq!(health.state().standing, DeviceStanding::Quarantined);
    }

    #[test]
    fn faults_are_told_apart_by_their_words() {
        let kind = |why: &str| FaultKind::of(&RunError::Device { why: why.to_owned() });
        assert_eq!(kind("DevicePoisoned { reason: \"Unknown\" }"), FaultKind::Lost);
        assert_eq!(kind("wgpu error: Out of Memory"), FaultKind::OutOfMemory);
        assert_eq!(kind("Validation Error"), FaultKind::Error);
        assert_eq!(FaultKind::of(&RunError::Panic { why: "index".to_owned() }), FaultKind::Panic);
    }
}
