//! How long an answer of the cloud takes: the 95th percentile of the last offloads.
//!
//! An offload that was given up counts with the time waited for it, which is less than it would have taken. What was learnt is
//! forgotten after [`FORGOTTEN_AFTER`] without news: otherwise one slow spell would end offloading, and with it all news.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How many offloads are remembered; 95 % of them is the 61st.
const REMEMBERED: usize = 64;
/// With fewer nothing is predicted.
const LEAST: usize = 8;
/// How long news stay news.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);

/// The round trips of the last offloads, a ring.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct RoundTrip {
    micros: Vec<u32>,
    next: usize,
    p95: Option<Duration>,
    heard: Duration,
}

impl RoundTrip {
    pub(crate) fn new() -> Self {
        Self { micros: Vec::with_capacity(REMEMBERED), next: 0, p95: None, heard: Duration::ZERO }
    }

    /// An offload took, or was waited for, this long.
    pub(crate) fn heard(&mut self, took: Duration, now: Duration) {
        if self.is_stale(now) {
            self.micros.clear();
            self.next = 0;
        }
        self.heard = now;
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        if self.micros.len() < REMEMBERED {
            self.micros.push(micros);
        } else {
            self.micros[self.next % REMEMBERED] = micros;
            self.next = (self.next + 1) % REMEMBERED;
        }
        let mut sorted = self.micros.clone();
        sorted.sort_unstable();
        // Nearest rank: the smallest value that 95 % do not exceed.
        let rank = (sorted.len() * 95).div_ceil(100);
        self.p95 = (sorted.len() >= LEAST).then(|| Duration::from_micros(u64::from(sorted[rank - 1])));
    }

    /// What 95 % of the offloads will not exceed, as far as anything is known.
    pub(crate) fn p95(&self, now: Duration) -> Option<Duration> {
        self.p95.filter(|_| !self.is_stale(now))
    }

    /// Also after the clock was set back, by which anything could have happened.
    fn is_stale(&self, now: Duration) -> bool {
        now < self.heard || now - self.heard > FORGOTTEN_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1000);

    #[test]
    fn the_95th_percentile_is_that_of_the_last_64() {
        let mut round_trip = RoundTrip::new();
        for ms in 1..LEAST as u64 {
            round_trip.heard(Duration::from_millis(ms), NOW);
        }
        assert_eq!(round_trip.p95(NOW), None, "too few to say");
        for ms in 1..=64 {
            round_trip.heard(Duration::from_millis(ms), NOW);
        }
        assert_eq!(round_trip.p95(NOW), Some(Duration::from_millis(61)));
        for _ in 0..61 {
            round_trip.heard(Duration::from_millis(5), NOW);
        }
        assert_eq!(round_trip.p95(NOW), Some(Duration::from_millis(5)));
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let mut round_trip = RoundTrip::new();
        for _ in 0..LEAST {
            round_trip.heard(Duration::from_secs(9), NOW);
        }
        let later = NOW + FORGOTTEN_AFTER;
        assert_eq!(round_trip.p95(later), Some(Duration::from_secs(9)));
        assert_eq!(round_trip.p95(later + Duration::from_secs(1)), None);
        assert_eq!(round_trip.p95(NOW - Duration::from_secs(1)), None, "the clock was set back");
        round_trip.heard(Duration::from_millis(1), later + Duration::from_secs(1));
        assert_eq!(round_trip.p95(later + Duration::from_secs(1)), None, "the old ones are gone");
    }
}
