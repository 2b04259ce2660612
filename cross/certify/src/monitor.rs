//! What watches a certificate while it is used: the audit coin, the boost of its rate, and the alarm.
//!
//! Every request passes [`Monitor::observe`]: its score is counted into a window, and a coin decides whether the cloud is
//! asked as well, later and without hurry (an *audit*). The answer comes back through [`Monitor::label`], any time later
//! and in any order, or never. A window of scores unlike the grid's raises the audit rate: it finds out
//! sooner whether the shift does harm; the shift itself is no alarm.
//!
//! - *local* contract: the coin is thrown for local answers, labels are theirs.
//! - *system* contract: the coin is thrown for every request; a request that was offloaded got the cloud's own answer and
//!   enters as agreement at once, without traffic.
//!
//! Pure: the coin is a parameter, there is no clock. The state is what `serde` writes, and nothing else.

use serde::{Deserialize, Serialize};

use crate::alarm::{InvalidMonitor, strictly_inside};
use crate::watch::Watch;
use crate::{Contract, EProcess, Grid};

/// What a monitor watches and how closely.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct MonitorConfig {
    /// Whose disagreements count.
    pub contract: Contract,
    /// The certified fraction, 0..1.
    pub alpha: f64,
    /// Probability that a false alarm ever rings, 0..1.
    pub delta_a: f64,
    /// Probability of an audit while scores are as they were.
    pub audit_rate: f64,
    /// Audits per request after a shift of the scores, answered locally or not: under the local contract, a local answer is
    /// then audited with this probability divided by the share of local answers in the window before. It bounds what the boost
    /// costs, and labels come as fast however few answers a drift leaves local.
    pub boost_rate: f64,
    /// Scores in a window.
    pub window: u32,
    /// A window with a smaller p-value is a shift.
    pub p_value: f64,
    /// Each shifted window lets the rate stay boosted through one clean window more, up to this many; after them it is
    /// halved with each further clean window. A single false boost is short, a lasting shift holds.
    pub hold: u32,
    /// Boosted windows after which a shift that did no harm is taken for the new normal: enough labels came back, and they do
    /// not differ much more often than alpha.
    pub patience: u32,
}

impl MonitorConfig {
    /// The defaults for a contract and its alpha.
    #[must_use]
    pub fn new(contract: Contract, alpha: f64) -> Self {
        Self {
            contract,
            alpha,
            delta_a: 0.05,
            audit_rate: 0.02,
            boost_rate: 0.2,
            window: 500,
            p_value: 1e-3,
            hold: 4,
            patience: 20,
        }
    }

    pub(crate) fn check(&self) -> Result<(), InvalidMonitor> {
        strictly_inside("p_value", self.p_value)?;
        for (name, value) in [("audit_rate", self.audit_rate), ("boost_rate", self.boost_rate)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(InvalidMonitor::NotAShare { name, value });
            }
        }
        if self.boost_rate < self.audit_rate {
            return Err(InvalidMonitor::BoostBelowCalm { boosted: self.boost_rate, calm: self.audit_rate });
        }
        if self.window == 0 { Err(InvalidMonitor::EmptyWindow) } else { Ok(()) }
    }
}

/// The cloud is to be asked about a request that was answered locally.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Audit {
    /// The probability with which it was chosen; it is stored with the label.
    pub propensity: f64,
}

/// What a monitor has seen.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct MonitorCounts {
    /// Requests observed.
    pub requests: u64,
    /// Of these, answered locally.
    pub local: u64,
    /// Audits asked for.
    pub audits: u64,
    /// Labels of audits that came back.
    pub labels: u64,
    /// Audits that will have no label.
    pub lost: u64,
    /// Offloaded requests that entered the system contract's alarm as agreement.
    pub offloaded_labels: u64,
    /// Windows tested.
    pub windows: u64,
    /// Of these, shifted.
    pub shifted: u64,
}

/// Watches one certificate on one stream of requests.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Monitor {
    config: MonitorConfig,
    grid: Grid,
    watch: Watch,
    /// Local answers in the window so far.
    window_local: u32,
    /// Share of local answers in the last full window; 1 before there is one.
    local_share: f64,
    alarm: EProcess,
    /// Whether the class asks for more audits, whatever this stream's own scores say.
    class_boost: bool,
    /// After a shift: bets are renewed as soon as the labels of this many audits are in or lost.
    renew_at: Option<u64>,
    /// Audits whose labels are neither in nor lost.
    under_way: u64,
    counts: MonitorCounts,
}

impl Monitor {
    /// A calm monitor; `grid` is the certificate's.
    ///
    /// # Errors
    ///
    /// When a probability of `config` is none, the boosted rate is below the calm one, or the window is empty.
    pub fn new(config: MonitorConfig, grid: &Grid) -> Result<Self, InvalidMonitor> {
        config.check()?;
        Ok(Self {
            config,
            grid: grid.clone(),
            watch: Watch::new(&config, grid),
            window_local: 0,
            local_share: 1.0,
            alarm: EProcess::with_reserve(config.alpha, config.delta_a)?,
            class_boost: false,
            renew_at: None,
            under_way: 0,
            counts: MonitorCounts::default(),
        })
    }

    /// Takes in a request with its score and whether it is answered locally; `coin` is uniform on 0..1 and independent of
    /// all else. Says whether to audit it.
    pub fn observe(&mut self, score: f32, local: bool, coin: f64) -> Option<Audit> {
        self.observe_binned(self.grid.bin(score), local, coin)
    }

    /// [`Self::observe`] for a score whose bin ([`Grid::bin`]) is known.
    pub fn observe_binned(&mut self, bin: usize, local: bool, coin: f64) -> Option<Audit> {
        self.counts.requests += 1;
        self.counts.local += u64::from(local);
        // Before the window may close: this score must not choose the probability of its own audit.
        let audit = self.throw(local, coin);
        self.window_local += u32::from(local);
        if self.watch.add(&self.config, bin) {
            self.close_window();
        }
        audit
    }

    /// Takes in the label of an audit that this monitor asked for: whether the local answer differs from the cloud's.
    pub fn label(&mut self, differs: bool) {
        self.settle();
        self.counts.labels += 1;
        match self.config.contract {
            Contract::Local => self.alarm.label(differs),
            Contract::System => self.alarm.bet(differs),
        }
    }

    /// The label of an audit will never come: it was turned away, or given up.
    pub fn lost(&mut self) {
        self.settle();
        self.counts.lost += 1;
    }

    /// Audits whose labels are neither in nor lost.
    #[must_use]
    pub fn under_way(&self) -> u64 {
        self.under_way
    }

    /// The labels of all audits are in or lost: those still counted as under way were forgotten, by a crash for instance.
    pub fn all_settled(&mut self) {
        self.under_way = 0;
    }

    /// Raises the audit rate as long as the class asks for it, or no longer: the gateway has seen a shift in the scores of
    /// many devices ([`PooledMonitor::boosted`](crate::PooledMonitor::boosted)).
    pub fn boost_class(&mut self, on: bool) {
        self.class_boost = on;
    }

    /// Whether the certificate is to be revoked. An alarm stays.
    #[must_use]
    pub fn alarmed(&self) -> bool {
        self.alarm.alarmed()
    }

    /// Wealth of the bets against the contract; the alarm rings at [`EProcess::line`].
    #[must_use]
    pub fn wealth(&self) -> f64 {
        self.alarm.wealth()
    }

    /// The alarm itself.
    #[must_use]
    pub fn alarm(&self) -> &EProcess {
        &self.alarm
    }

    /// The probability with which the next request is audited, if it is answered locally.
    #[must_use]
    pub fn rate(&self) -> f64 {
        let rate = if self.class_boost { self.config.boost_rate } else { self.watch.rate() };
        match self.config.contract {
            Contract::Local if rate > self.config.audit_rate => (rate / self.local_share).min(1.0),
            _ => rate,
        }
    }

    /// Whether audits are more frequent than in calm times.
    #[must_use]
    pub fn boosted(&self) -> bool {
        self.rate() > self.config.audit_rate
    }

    /// What was seen so far.
    #[must_use]
    pub fn counts(&self) -> MonitorCounts {
        self.counts
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &MonitorConfig {
        &self.config
    }

    /// The grid that scores are compared with.
    #[must_use]
    pub fn grid(&self) -> &Grid {
        &self.grid
    }

    fn throw(&mut self, local: bool, coin: f64) -> Option<Audit> {
        let propensity = self.rate();
        if coin >= propensity {
            return None;
        }
        if self.config.contract == Contract::System && self.under_way == 0 {
            self.renew();
            self.alarm.advance();
        }
        if local {
            self.counts.audits += 1;
            self.under_way += 1;
            return Some(Audit { propensity });
        }
        if self.config.contract == Contract::System {
            self.counts.offloaded_labels += 1;
            self.alarm.bet(false);
        }
        None
    }

    /// Before a label, or instead of one. Under the local contract it renews the bets if a shift asked for it and all audits
    /// from before it are settled; labels come back in the order in which they were asked for, or nearly so.
    fn settle(&mut self) {
        let settled = self.counts.labels + self.counts.lost;
        if self.config.contract == Contract::Local && self.renew_at.is_some_and(|audits| settled >= audits) {
            self.renew();
        }
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// Renews the bets if a shift asked for it; not before the audits from before the shift are settled: their scores are
    /// what found it, and may have been chosen by it to differ more than the contract's fraction.
    fn renew(&mut self) {
        if self.renew_at.take().is_some() {
            self.alarm.renew();
        }
    }

    fn close_window(&mut self) {
        self.local_share = f64::from(self.window_local) / f64::from(self.watch.scores());
        self.window_local = 0;
        let calm = !self.boosted();
        let shifted = self.watch.close(&self.config, &self.alarm);
        if shifted && calm && self.renew_at.is_none() {
            self.renew_at = Some(self.counts.audits);
        }
        self.counts.windows = self.watch.windows;
        self.counts.shifted = self.watch.shifted;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Grid {
        let scores: Vec<f32> = (0..5_000_u16).map(|i| f32::from(i) / 5_000.0).collect();
        Grid::from_scores(&scores).unwrap()
    }

    fn monitor(contract: Contract) -> Monitor {
        Monitor::new(MonitorConfig::new(contract, 0.01), &grid()).unwrap()
    }

    /// Scores spread evenly over 0..1 in an order that fills each window alike.
    fn even(i: u32) -> f32 {
        (f64::from(i) * 0.618_033_988_749_895).fract() as f32
    }

    #[test]
    fn the_local_contract_audits_local_answers_only() {
        let mut monitor = monitor(Contract::Local);
        assert_eq!(monitor.observe(0.9, true, 0.019), Some(Audit { propensity: 0.02 }));
        assert_eq!(monitor.observe(0.9, true, 0.02), None);
        assert_eq!(monitor.observe(0.1, false, 0.0), None);
        assert_eq!(monitor.alarm().labels(), 0);
        monitor.label(true);
        assert_eq!((monitor.alarm().labels(), monitor.alarm().differing()), (1, 1));
    }

    #[test]
    fn the_system_contract_counts_an_offloaded_request_as_agreement() {
        let mut monitor = monitor(Contract::System);
        assert_eq!(monitor.observe(0.1, false, 0.0), None);
        assert_eq!((monitor.alarm().labels(), monitor.alarm().differing()), (1, 0));
        assert_eq!(monitor.observe(0.1, false, 0.02), None);
        assert_eq!(monitor.alarm().labels(), 1);
        assert_eq!(monitor.observe(0.9, true, 0.0), Some(Audit { propensity: 0.02 }));
    }

    #[test]
    fn a_boost_audits_as_many_requests_however_few_are_local() {
        for (contract, rate) in [(Contract::Local, 0.8), (Contract::System, 0.2)] {
            let mut monitor = monitor(contract);
            for i in 0..500 {
                monitor.observe(0.05, i % 4 == 0, 1.0);
            }
            assert_eq!(monitor.rate(), rate);
            monitor.boost_class(true);
            assert_eq!(monitor.rate(), rate);
        }
    }

    #[test]
    fn a_shifted_window_boosts_and_a_clean_hold_lets_the_rate_decay() {
        let mut monitor = monitor(Contract::Local);
        for _ in 0..499 {
            monitor.observe(0.05, true, 1.0);
            assert!(!monitor.boosted());
        }
        monitor.observe(0.05, true, 1.0);
        assert_eq!(monitor.rate(), 0.2);

        let mut rates = Vec::new();
        for i in 0..500 * 9 {
            monitor.observe(even(i), true, 1.0);
            if i % 500 == 499 {
                rates.push(monitor.rate());
            }
        }
        assert_eq!(rates, [0.2, 0.1, 0.05, 0.025, 0.02, 0.02, 0.02, 0.02, 0.02]);
        assert_eq!((monitor.counts().windows, monitor.counts().shifted), (10, 1));
    }
}
