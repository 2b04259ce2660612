//! The audit rate in force: raised by a shift of the scores, lowered again after a clean hold.

use serde::{Deserialize, Serialize};

use crate::MonitorConfig;

/// An audit rate and how long it stays raised.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Boost {
    rate: f64,
    /// Clean windows until the rate decays.
    hold_left: u32,
}

impl Boost {
    /// The calm rate.
    pub(crate) fn calm(config: &MonitorConfig) -> Self {
        Self { rate: config.audit_rate, hold_left: 0 }
    }

    /// Takes in the result of one window.
    pub(crate) fn window(&mut self, config: &MonitorConfig, shifted: bool) {
        if shifted {
            *self = Self { rate: config.boost_rate, hold_left: (self.hold_left + 1).min(config.hold) };
        } else if self.hold_left > 0 {
            self.hold_left -= 1;
        } else {
            self.rate = (self.rate / 2.0).max(config.audit_rate);
        }
    }

    /// The probability of an audit.
    pub(crate) fn rate(&self) -> f64 {
        self.rate
    }
}
