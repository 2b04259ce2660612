//! Time that only moves forward, on devices that boot in 1970 and whose clocks jump.
//!
//! Trusted time is the largest of what was persisted and what it was told since, and goes on with the monotonic clock. Whether the
//! wall clock is one of those who tell depends on what the time is for:
//!
//! - What ages caches and audits follows it. A wrong clock can make entries live longer by the time that the device was switched
//!   off (it cannot know), or expire too early (a clock that ran ahead), but a running process always ages them.
//! - What signed things are judged by (slots.rs) does not: a clock that once was ahead by years would have it so for ever.
//!   It is told the time by signatures, and is never before the time of the program's build.
//!
//! Nothing ever underflows.

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

/// Whether the wall clock is believed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wall {
    Believed,
    Ignored,
}

/// Seconds that only move forward.
pub(crate) struct TrustedClock {
    source: Box<dyn TimeSource>,
    wall: Wall,
    /// What it was, and when on the monotonic clock.
    base: (u64, Duration),
}

impl TrustedClock {
    /// A clock that follows the wall clock. `persisted` is the highest trusted second that an earlier process left behind, 0
    /// if none did.
    pub(crate) fn new(source: Box<dyn TimeSource>, persisted: u64) -> Self {
        Self::with(source, persisted, Wall::Believed)
    }

    /// A clock that starts from `persisted`.
    pub(crate) fn with(source: Box<dyn TimeSource>, persisted: u64, wall: Wall) -> Self {
        let base = (persisted, source.monotonic());
        Self { source, wall, base }
    }

    /// The trusted second.
    pub(crate) fn now(&mut self) -> u64 {
        if self.wall == Wall::Believed {
            self.believe(self.source.wall_secs());
        }
        self.running()
    }

    /// It is at least this second.
    pub(crate) fn believe(&mut self, secs: u64) {
        if secs > self.running() {
            self.base = (secs, self.source.monotonic());
        }
    }

    fn running(&self) -> u64 {
        let (secs, since) = self.base;
        secs.saturating_add(self.source.monotonic().saturating_sub(since).as_secs())
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
    fn a_clock_that_ignores_the_wall_goes_by_what_it_is_told_and_by_the_time_that_passes() {
        let time = ManualTime::at(YEAR_2026 + 1_000_000_000);
        let mut clock = TrustedClock::with(Box::new(time.clone()), YEAR_2026, Wall::Ignored);
        time.pass(30);
        assert_eq!(clock.now(), YEAR_2026 + 30);
        clock.believe(YEAR_2026 + 100);
        clock.believe(YEAR_2026 + 50);
        time.pass(1);
        assert_eq!(clock.now(), YEAR_2026 + 101);
    }

    #[test]
    fn time_never_overflows() {
        let time = ManualTime::at(u64::MAX);
        let mut clock = TrustedClock::new(Box::new(time.clone()), 0);
        time.running.store(1000, Ordering::SeqCst);
        assert_eq!(clock.now(), u64::MAX);
    }
}
