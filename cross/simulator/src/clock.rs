//! The clocks of one machine: a monotonic one that begins at a boot and drifts, and a wall clock that may be wrong by decades.
//!
//! The world's own time is a [`Duration`] since before everything; no party sees it.

use std::time::Duration;

use hedge_wire::BootId;

/// Where the world's time starts: machines may have been up for long by then.
pub(crate) const BEGINNING: Duration = Duration::from_secs(10_000);

const MILLION: i128 = 1_000_000;

/// A machine's clocks from one boot to the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub(crate) boot: BootId,
    /// When the machine booted, in the world's time.
    pub(crate) began: Duration,
    /// How many millionths too fast the machine counts.
    pub(crate) drift: i32,
    /// What the wall clock said at the boot, since 1970.
    pub(crate) wall: Duration,
}

impl Clock {
    /// What the monotonic clock says at `now` of the world.
    pub(crate) fn local(&self, now: Duration) -> Duration {
        let elapsed = nanos(now.saturating_sub(self.began));
        from_nanos(elapsed + elapsed * i128::from(self.drift) / MILLION)
    }

    /// The first moment of the world at which the monotonic clock says `local` or more.
    pub(crate) fn world(&self, local: Duration) -> Duration {
        let rate = MILLION + i128::from(self.drift);
        let mut elapsed = nanos(local) * MILLION / rate;
        while elapsed + elapsed * i128::from(self.drift) / MILLION < nanos(local) {
            elapsed += 1;
        }
        self.began.saturating_add(from_nanos(elapsed))
    }

    pub(crate) fn wall(&self, now: Duration) -> Duration {
        self.wall + self.local(now)
    }
}

fn nanos(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).expect("a duration has less than 2^94 nanoseconds")
}

fn from_nanos(nanos: i128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_set_by_a_drifting_clock_never_rings_before_that_clock_says_so() {
        for drift in [-200, -1, 0, 3, 200] {
            let clock = Clock { boot: BootId(1), began: Duration::from_secs(7), drift, wall: Duration::ZERO };
            for nanos in (0..2_000_000_000).step_by(7_777_777) {
                let local = Duration::from_nanos(nanos);
                let world = clock.world(local);
                assert!(clock.local(world) >= local, "{drift} {local:?}");
                assert!(clock.local(world) < local + Duration::from_nanos(3), "{drift} {local:?}");
            }
        }
    }
}
