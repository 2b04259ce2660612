//! The time that ages cache entries.
//!
//! Devices boot in 1970 and clocks jump. Trusted time is the largest of what was persisted, what the wall clock says, and
//! the start of this process plus monotonic time since; it never moves back. So a wrong clock can make entries live longer
//! by the time that the device was switched off (it cannot know), or expire too early (a clock that ran ahead), but a
//! running process always ages them, and nothing ever underflows.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where seconds come from: the machine, or a test.
pub(crate) trait TimeSource: Send + 'static {
    /// Seconds since 1970 as the wall clock has them, however wrong.
    fn wall_secs(&self) -> u64;
    /// Time since some fixed moment of this process.
    fn monotonic(&self) -> Duration;
}

/// The machine's clocks.
pub(crate) struct MachineTime(Instant);

impl MachineTime {
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }
}

impl TimeSource for MachineTime {
    fn wall_secs(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Seconds that only move forward.
pub(crate) struct TrustedClock {
    source: Box<dyn TimeSource>,
    start_secs: u64,
    start: Duration,
    highest: u64,
}

impl TrustedClock {
    /// `persisted` is the highest trusted second that an earlier process left behind, 0 if none did.
    pub(crate) fn new(source: Box<dyn TimeSource>, persisted: u64) -> Self {
        let start_secs = persisted.max(source.wall_secs());
        let start = source.monotonic();
        Self { source, start_secs, start, highest: start_secs }
    }

    /// The trusted second.
    pub(crate) fn now(&mut self) -> u64 {
        let elapsed = self.source.monotonic().saturating_sub(self.start);
        let running = self.start_secs.saturating_add(elapsed.as_secs());
        self.highest = self.highest.max(running).max(self.source.wall_secs());
        self.highest
    }
}

#[cfg(test)]
pub(crate) mod manual {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Clocks that a test turns by hand.
    #[derive(Clone, Default)]
    pub(crate) struct ManualTime {
        pub(crate) wall: Arc<AtomicU64>,
        pub(crate) running: Arc<AtomicU64>,
    }

    impl ManualTime {
        pub(crate) fn at(wall: u64) -> Self {
            let time = Self::default();
            time.wall.store(wall, Ordering::SeqCst);
            time
        }

        pub(crate) fn pass(&self, secs: u64) {
            self.wall.fetch_add(secs, Ordering::SeqCst);
            self.running.fetch_add(secs, Ordering::SeqCst);
        }
    }

    impl TimeSource for ManualTime {
        fn wall_secs(&self) -> u64 {
            self.wall.load(Ordering::SeqCst)
        }

        fn monotonic(&self) -> Duration {
            Duration::from_secs(self.running.load(Ordering::SeqCst))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::manual::ManualTime;
    use super::*;
    use std::sync::atomic::Ordering;

    const YEAR_2026: u64 = 1_780_000_000;

    #[test]
    fn a_device_that_boots_in_1970_goes_on_from_what_it_persisted() {
        let time = ManualTime::at(12);
        let mut clock = TrustedClock::new(Box::new(time.clone()), YEAR_2026);
        assert_eq!(clock.now(), YEAR_2026);
        time.pass(30);
        assert_eq!(clock.now(), YEAR_2026 + 30);
    }

    #[test]
    fn a_clock_that_is_set_forward_is_followed_and_one_set_back_is_not() {
        let time = ManualTime::at(12);
        let mut clock = TrustedClock::new(Box::new(time.clone()), 0);
        time.wall.store(YEAR_2026, Ordering::SeqCst);
        assert_eq!(clock.now(), YEAR_2026);
        time.wall.store(99, Ordering::SeqCst);
        assert_eq!(clock.now(), YEAR_2026);
    }

    #[test]
    fn time_never_overflows() {
        let time = ManualTime::at(u64::MAX);
        let mut clock = TrustedClock::new(Box::new(time.clone()), 0);
        time.running.store(1000, Ordering::SeqCst);
        assert_eq!(clock.now(), u64::MAX);
    }
}
