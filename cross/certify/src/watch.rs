//! Watches the scores of a stream in disjoint windows and says how often to audit.
//!
//! A shifted window raises the rate, clean ones lower it again. A shift that stays but does no harm must not cost audits
//! for ever: after [`MonitorConfig::patience`] boosted windows whose labels speak for the contract, their scores become the
//! reference, and the next shift is one from there; the alarm goes on as before.

use serde::{Deserialize, Serialize};

use crate::boost::Boost;
use crate::shift::{ScoreWindow, compare};
use crate::{EProcess, Grid, MonitorConfig};

/// A shift is judged by as many labels as would differ this often at alpha.
const LEAST_ALLOWED: f64 = 10.0;

/// A window that fills, what it is compared with, and the rate that came of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Watch {
    window: ScoreWindow,
    /// Reference scores in each bin or one before it; the last bin's are all of them.
    reference: Vec<u64>,
    boost: Boost,
    boosted: Boosted,
    /// Clean windows at the calm rate since the last boost.
    calm: u32,
    /// Windows tested.
    pub(crate) windows: u64,
    /// Of these, shifted.
    pub(crate) shifted: u64,
}

/// What came in while the rate was raised.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
struct Boosted {
    windows: u32,
    /// Scores per bin; empty before the first window.
    scores: Vec<u64>,
    /// Labels that had come in before.
    labels_before: u64,
    /// Of these, differing.
    differing_before: u64,
}

impl Watch {
    pub(crate) fn new(config: &MonitorConfig, grid: &Grid) -> Self {
        let mut reference = grid.accepted().to_vec();
        reference.push(grid.tune_size());
        Self {
            window: ScoreWindow::new(grid),
            reference,
            boost: Boost::calm(config),
            boosted: Boosted::default(),
            calm: 0,
            windows: 0,
            shifted: 0,
        }
    }

    /// Counts one score; whether the window is full.
    pub(crate) fn add(&mut self, config: &MonitorConfig, bin: usize) -> bool {
        self.window.add(bin);
        self.window.scores() >= config.window
    }

    /// Counts many scores; whether the window is full.
    pub(crate) fn add_counts(&mut self, config: &MonitorConfig, counts: &[u32]) -> bool {
        self.window.add_counts(counts);
        self.window.scores() >= config.window
    }

    /// Tests the window and begins the next; whether it was shifted.
    pub(crate) fn close(&mut self, config: &MonitorConfig, alarm: &EProcess) -> bool {
        let (size, accepted) = self.reference.split_last().map_or((0, &[][..]), |(&size, accepted)| (size, accepted));
        let shifted = compare(accepted, size, self.window.counts()).p_value < config.p_value;
        self.windows += 1;
        self.shifted += u64::from(shifted);
        if shifted || self.rate() > config.audit_rate {
            self.boosted.add(self.window.counts(), alarm);
            self.calm = 0;
        } else {
            self.calm = self.calm.saturating_add(1);
            if self.calm >= config.patience {
                self.boosted = Boosted::default();
            }
        }
        self.boost.window(config, shifted);
        if self.boosted.harmless(config, alarm) {
            self.reference = std::mem::take(&mut self.boosted).cumulated();
            self.boost = Boost::calm(config);
        }
        self.window.clear();
        shifted
    }

    /// The audit rate in force.
    pub(crate) fn rate(&self) -> f64 {
        self.boost.rate()
    }

    /// Scores in the window so far.
    pub(crate) fn scores(&self) -> u32 {
        self.window.scores()
    }
}

impl Boosted {
    fn add(&mut self, counts: &[u32], alarm: &EProcess) {
        if self.windows == 0 {
            self.scores = vec![0; counts.len()];
            (self.labels_before, self.differing_before) = (alarm.labels(), alarm.differing());
        }
        self.windows = self.windows.saturating_add(1);
        for (sum, &count) in self.scores.iter_mut().zip(counts) {
            *sum += u64::from(count);
        }
    }

    /// Whether the shift lasted long enough, enough labels came in, and they differed at most half as often again as alpha
    /// allows. At three times alpha, that many do so in 2 of 1,000 cases, and then the alarm is only slower.
    fn harmless(&self, config: &MonitorConfig, alarm: &EProcess) -> bool {
        let allowed = alarm.labels().saturating_sub(self.labels_before) as f64 * config.alpha;
        let differing = alarm.differing().saturating_sub(self.differing_before) as f64;
        self.windows >= config.patience.max(1) && allowed >= LEAST_ALLOWED && differing <= 1.5 * allowed
    }

    fn cumulated(mut self) -> Vec<u64> {
        let mut sum = 0;
        for count in &mut self.scores {
            sum += *count;
            *count = sum;
        }
        self.scores
    }
}
