//! At most one log line per interval for an event that an outsider can repeat without end.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

/// Lets one event per interval through and counts the others.
#[derive(Debug)]
pub struct Throttle {
    interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    held_back: u64,
}

impl Throttle {
    /// A throttle that lets the first event through.
    pub fn new(interval: Duration) -> Self {
        Self { interval, state: Mutex::default() }
    }

    /// `Some(n)` where the event at `now` is to be logged, `n` being how many were held back since the last one.
    pub fn pass(&self, now: Instant) -> Option<u64> {
        // A panic elsewhere cannot leave this state half-written.
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.last.is_some_and(|last| now.saturating_duration_since(last) < self.interval) {
            state.held_back += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_an_interval_passes_and_says_how_many_did_not() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let throttle = Throttle::new(Duration::from_secs(10));
        assert_eq!(throttle.pass(at(0)), Some(0));
        assert_eq!(throttle.pass(at(1)), None);
        assert_eq!(throttle.pass(at(9)), None);
        assert_eq!(throttle.pass(at(10)), Some(2));
        assert_eq!(throttle.pass(at(19)), None);
        assert_eq!(throttle.pass(at(20)), Some(1));
    }
}
