//! How long to wait before the next attempt to connect.

use std::time::Duration;

/// Full jitter: a wait drawn evenly from zero to `base * 2^attempt`, at most `cap`.
///
/// A fleet whose broker restarts comes back spread over `cap`; set it to at least twice the number of devices divided by the
/// connections that the broker accepts in a second. ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015.)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    /// The bound of the first wait.
    pub base: Duration,
    /// The bound of every wait.
    pub cap: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { base: Duration::from_millis(200), cap: Duration::from_secs(30) }
    }
}

impl Backoff {
    /// The wait before attempt number `attempt` (0 is the first), given a `random` number in 0..1.
    pub(crate) fn wait(&self, attempt: u32, random: f64) -> Duration {
        let factor = 2u32.checked_pow(attempt).unwrap_or(u32::MAX);
        let bound = self.base.checked_mul(factor).unwrap_or(self.cap).min(self.cap);
        bound.mul_f64(random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_are_drawn_from_zero() {
        let backoff = Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(1) };
        let bounds: Vec<u128> = (0..6).map(|attempt| backoff.wait(attempt, 1.0).as_millis()).collect();
        assert_eq!(bounds, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.wait(3, 0.0), Duration::ZERO);
        assert_eq!(backoff.wait(3, 0.5), Duration::from_millis(400));
    }

    #[test]
    fn no_number_of_attempts_overflows() {
        let backoff = Backoff { base: Duration::from_secs(u64::MAX / 2), cap: Duration::from_secs(9) };
        assert_eq!(backoff.wait(u32::MAX, 1.0), Duration::from_secs(9));
        assert_eq!(Backoff::default().wait(31, 1.0), Backoff::default().cap);
    }
}
