//! The time by which certificates are in force: since 1970, and it never goes back.
//!
//! Devices boot in 1970 and clocks jump. It is the latest of what an earlier process saved, what the wall clock said, what
//! signatures bear witness of (signed_time.rs), and the time that has passed since. A clock that ran ahead lets certificates
//! expire too early, which costs offloads; one that is behind is caught up with as soon as it is set.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time that only moves forward.
pub(crate) struct Clock {
    start: Instant,
    /// Nanoseconds since 1970 at the start, as far as is known now.
    offset: AtomicU64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let clock = Self { start: Instant::now(), offset: AtomicU64::new(0) };
        clock.look();
        clock
    }

    /// The time since 1970.
    pub(crate) fn now(&self) -> Duration {
        Duration::from_nanos(self.offset.load(Ordering::Relaxed)).saturating_add(self.start.elapsed())
    }

    /// Looks at the wall clock, which may have been set.
    pub(crate) fn look(&self) {
        self.at_least(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    }

    /// It is at least this late.
    pub(crate) fn at_least(&self, time: Duration) {
        let offset = time.saturating_sub(self.start.elapsed()).as_nanos();
        self.offset.fetch_max(u64::try_from(offset).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_that_of_the_wall_clock_and_never_goes_back() {
        let clock = Clock::new();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        assert!(clock.now().abs_diff(wall) < Duration::from_secs(5));
        let ahead = wall + Duration::from_secs(86_400);
        clock.at_least(ahead);
        clock.look();
        assert!(clock.now() >= ahead);
        clock.at_least(Duration::MAX);
        assert!(clock.now() >= ahead, "and never overflows");
    }
}
