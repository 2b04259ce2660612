//! Budgets as virtual queues: `Z <- max(0, Z + cost - budget)` for offloads, bytes, money and energy.
//!
//! A request that the certificate wants to offload is offloaded iff `V * p(disagree | x) > sum of Z * cost` over the
//! resources with a budget (drift plus penalty; Neely, *Stochastic Network Optimization*, 2010, chapter 4). Queue and cost are measured in
//! offloads, a resource's usual cost of one being its unit, so that `V` means the same for each: the number of offloads by
//! which the sum ever exceeds the budget is at most `V + 1`, however long it runs. Where labels tell the probability at which the
//! budget is just used up, the queue starts there ([`Budget::start`]) and the sum hardly exceeds the budget at all.
//!
//! Audits are charged to the same queues, and to queues of their own at a fixed part of each budget. Whether one is allowed
//! depends on requests before it alone, never on its own score or answer: the alarm stays valid.

use serde::{Deserialize, Serialize};

/// V: how many offloads the budgets may be ahead at most. Larger values lose less agreement to the queue's own noise,
/// smaller ones follow the budget more closely from the first request on: where nothing is known of what offloads are
/// worth, 200 times the probability in the balance (0.3, say) is 0.3 points of 20,000 requests.
const PATIENCE: f64 = 200.0;

/// What one request may cost on average; a resource without a limit is not watched.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct BudgetSettings {
    /// At most this fraction of the requests goes to the cloud (above 0, at most 1).
    pub offload_share: Option<f64>,
    /// Bytes sent, per request.
    pub bytes_per_request: Option<f64>,
    /// Money per request, in any currency.
    pub cost_per_request: Option<f64>,
    /// What one offload costs, in the same currency.
    pub price_per_offload: f64,
    /// Joules per request, for radio and waiting.
    pub joules_per_request: Option<f64>,
    /// Joules that one offload costs.
    pub joules_per_offload: f64,
    /// Which part of each budget audits may take (0..1).
    pub audit_part: f64,
}

impl Default for BudgetSettings {
    fn default() -> Self {
        Self {
            offload_share: None,
            bytes_per_request: None,
            cost_per_request: None,
            price_per_offload: 0.0,
            joules_per_request: None,
            joules_per_offload: 0.0,
            audit_part: 0.05,
        }
    }
}

/// Budgets that cannot be kept.
#[derive(Clone, Copy, PartialEq, Debug, thiserror::Error)]
pub enum InvalidBudget {
    /// A budget must be a positive number.
    #[error("the budget {name} is {value}: give a number above 0, or offload = \"never\" where nothing may be spent")]
    NotPositive {
        /// Which.
        name: &'static str,
        /// What was given.
        value: f64,
    },
    /// A share is above 1.
    #[error("the budget {name} is {value}: it is a fraction between 0 and 1")]
    NotAShare {
        /// Which.
        name: &'static str,
        /// What was given.
        value: f64,
    },
    /// A budget of something that costs nothing.
    #[error("{budget} is limited, but {cost} is {value}: say what an offload costs, as a number above 0")]
    NoCost {
        /// The budget.
        budget: &'static str,
        /// The cost that is missing.
        cost: &'static str,
        /// What was given.
        value: f64,
    },
}

impl BudgetSettings {
    /// Whether the budgets can be kept.
    pub fn check(&self) -> Result<(), InvalidBudget> {
        let limits = [
            ("offload_share", self.offload_share),
            ("bytes_per_request", self.bytes_per_request),
            ("cost_per_request", self.cost_per_request),
            ("joules_per_request", self.joules_per_request),
        ];
        for (name, value) in limits {
            if let Some(value) = value.filter(|value| !(value.is_finite() && *value > 0.0)) {
                return Err(InvalidBudget::NotPositive { name, value });
            }
        }
        let share = self.offload_share.unwrap_or(1.0);
        for (name, value) in [("offload_share", share), ("audit_part", self.audit_part)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(InvalidBudget::NotAShare { name, value });
            }
        }
        let priced = [
            ("cost_per_request", self.cost_per_request, "price_per_offload", self.price_per_offload),
            ("joules_per_request", self.joules_per_request, "joules_per_offload", self.joules_per_offload),
        ];
        for (budget, limit, cost, value) in priced {
            if limit.is_some() && !(value.is_finite() && value > 0.0) {
                return Err(InvalidBudget::NoCost { budget, cost, value });
            }
        }
        Ok(())
    }

    fn limits(&self) -> [Option<f64>; RESOURCES] {
        [self.offload_share, self.bytes_per_request, self.cost_per_request, self.joules_per_request]
    }

    fn costs(&self, bytes: u64) -> [f64; RESOURCES] {
        [1.0, bytes as f64, self.price_per_offload, self.joules_per_offload]
    }
}

/// Offloads, bytes, money, joules.
const RESOURCES: usize = 4;
/// Their names, for people and metrics.
const NAMES: [&str; RESOURCES] = ["offloads", "bytes", "cost", "joules"];
/// Which of them bytes are.
const BYTES: usize = 1;

/// The virtual queues.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Budget {
    queues: [Queue; RESOURCES],
    /// The mean size of an offload so far: the unit of the bytes' queue.
    mean_bytes: f64,
    /// How many offloads that is the mean of, up to [`MEMORY`].
    sizes: f64,
    /// The limits that the queues are about.
    limits: [Option<f64>; RESOURCES],
}

/// Over how many offloads the mean size is taken.
const MEMORY: f64 = 1000.0;

#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
struct Queue {
    all: f64,
    audits: f64,
}

/// What a decision spends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Spent {
    Nothing,
    Offload,
    Audit,
}

impl Budget {
    pub(crate) fn new(settings: &BudgetSettings) -> Self {
        Self { queues: [Queue::default(); RESOURCES], mean_bytes: 0.0, sizes: 0.0, limits: settings.limits() }
    }

    /// Whether the queues are about these settings' limits.
    pub(crate) fn is_of(&self, settings: &BudgetSettings) -> bool {
        self.limits == settings.limits()
    }

    /// Empties the queues, and where labels tell, puts the one of the scarcest resource where it will settle: `price` is the
    /// probability of disagreement above which this share of the requests lies.
    pub(crate) fn start(&mut self, settings: &BudgetSettings, price: impl Fn(f64) -> f64) {
        self.limits = settings.limits();
        self.queues = [Queue::default(); RESOURCES];
        let units = self.units(settings, 0);
        // Before anything was sent nobody knows which share the bytes allow.
        let known = |resource: &usize| *resource != BYTES || self.mean_bytes > 0.0;
        let shares = (0..RESOURCES).filter(known).filter_map(|at| Some((at, self.limits[at]? / units[at])));
        if let Some((scarcest, share)) = shares.min_by(|a, b| a.1.total_cmp(&b.1)) {
            self.queues[scarcest].all = PATIENCE * price(share) * units[scarcest];
        }
    }

    /// Whether a request of this probability of disagreement is worth its offload now.
    pub(crate) fn admits(&self, settings: &BudgetSettings, disagrees: f64, bytes: u64) -> bool {
        let costs = settings.costs(bytes);
        let units = self.units(settings, bytes);
        let mut limited = false;
        let mut pressure = 0.0;
        for (resource, limit) in settings.limits().iter().enumerate() {
            if limit.is_some() {
                limited = true;
                let unit = units[resource];
                pressure += self.queues[resource].all / unit * (costs[resource] / unit);
            }
        }
        !limited || PATIENCE * disagrees > pressure
    }

    /// Whether the budgets allow an offload whoever asks: for labels, which must not be chosen by what is asked.
    pub(crate) fn admits_anyone(&self, settings: &BudgetSettings) -> bool {
        self.room(settings, |queue| queue.all)
    }

    /// Whether the audits' part of the budgets allows one now.
    pub(crate) fn admits_audit(&self, settings: &BudgetSettings) -> bool {
        self.room(settings, |queue| queue.audits)
    }

    /// Books one request and what it spent.
    pub(crate) fn book(&mut self, settings: &BudgetSettings, spent: Spent, bytes: u64) {
        self.charge(settings, spent, bytes);
        for (queue, limit) in self.queues.iter_mut().zip(settings.limits()) {
            let limit = limit.unwrap_or(f64::INFINITY);
            queue.all = (queue.all - limit).max(0.0);
            queue.audits = (queue.audits - limit * settings.audit_part).max(0.0);
        }
    }

    /// Books what was sent beside the decisions, without a request of its own.
    pub(crate) fn charge(&mut self, settings: &BudgetSettings, spent: Spent, bytes: u64) {
        if spent == Spent::Nothing {
            return;
        }
        self.sizes = (self.sizes + 1.0).min(MEMORY);
        self.mean_bytes += (bytes as f64 - self.mean_bytes) / self.sizes;
        for (queue, cost) in self.queues.iter_mut().zip(settings.costs(bytes)) {
            queue.all += cost;
            if spent == Spent::Audit {
                queue.audits += cost;
            }
        }
    }

    /// Less than one usual offload waits in every queue that is watched.
    fn room(&self, settings: &BudgetSettings, backlog: impl Fn(&Queue) -> f64) -> bool {
        let units = self.units(settings, 1);
        let limits = settings.limits();
        (0..RESOURCES).all(|resource| limits[resource].is_none() || backlog(&self.queues[resource]) < units[resource])
    }

    /// Of each resource with a budget, how far it is ahead of that: the length of its queue, in the resource's unit.
    pub(crate) fn backlog(&self, settings: &BudgetSettings) -> Vec<(&'static str, f64)> {
        let limited = settings.limits().into_iter().zip(NAMES).zip(&self.queues);
        limited.filter_map(|((limit, name), queue)| limit.map(|_| (name, queue.all))).collect()
    }

    /// What an offload usually costs of each resource; `bytes` where none was sent yet.
    fn units(&self, settings: &BudgetSettings, bytes: u64) -> [f64; RESOURCES] {
        let mut units = settings.costs(bytes.max(1));
        if self.mean_bytes > 0.0 {
            units[BYTES] = self.mean_bytes;
        }
        units
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spends on every request that is worth it; gives the mean of offloads and of what was spent of the last resource.
    fn spend(settings: &BudgetSettings, bytes: impl Fn(u32) -> u64, audits: bool) -> (f64, f64) {
        let mut budget = Budget::new(settings);
        let (mut offloads, mut sent) = (0.0, 0.0);
        for request in 0..20_000_u32 {
            let size = bytes(request);
            let audit = audits && budget.admits_audit(settings);
            let spent = match audit {
                true => Spent::Audit,
                // Half of the requests are worth nothing, the others a coin's toss.
                false if request.is_multiple_of(2) && budget.admits(settings, 0.5, size) => Spent::Offload,
                false => Spent::Nothing,
            };
            if spent != Spent::Nothing {
                offloads += 1.0 / 20_000.0;
                sent += size as f64 / 20_000.0;
            }
            budget.book(settings, spent, size);
        }
        (offloads, sent)
    }

    #[test]
    fn each_budget_is_used_up_and_hardly_exceeded() {
        let none = BudgetSettings::default();
        let (free, _) = spend(&none, |_| 100, false);
        assert!((free - 0.5).abs() < 1e-9, "without a budget all that is worth something goes: {free}");
        let share = BudgetSettings { offload_share: Some(0.1), ..none };
        let money = BudgetSettings { cost_per_request: Some(0.02), price_per_offload: 0.2, ..none };
        let energy = BudgetSettings { joules_per_request: Some(3.0), joules_per_offload: 30.0, ..none };
        for settings in [share, money, energy] {
            let (offloads, _) = spend(&settings, |_| 100, false);
            assert!((0.1..=0.1 + (0.5 * PATIENCE + 1.0) / 20_000.0).contains(&offloads), "{offloads} {settings:?}");
        }
        let bytes = BudgetSettings { bytes_per_request: Some(150.0), ..none };
        let (_, sent) = spend(&bytes, |request| 500 + 1000 * u64::from(request.is_multiple_of(4)), false);
        assert!((150.0..=156.0).contains(&sent), "{sent} bytes a request");
    }

    #[test]
    fn the_scarcest_budget_decides() {
        let settings = BudgetSettings {
            offload_share: Some(0.3),
            cost_per_request: Some(0.01),
            price_per_offload: 0.2,
            ..BudgetSettings::default()
        };
        let (offloads, _) = spend(&settings, |_| 100, false);
        assert!((0.05..0.056).contains(&offloads), "{offloads}");
    }

    #[test]
    fn audits_take_their_part_and_no_more() {
        let settings = BudgetSettings { offload_share: Some(0.1), ..BudgetSettings::default() };
        let mut budget = Budget::new(&settings);
        let mut audits = 0;
        for _ in 0..20_000 {
            let spent = if budget.admits_audit(&settings) { Spent::Audit } else { Spent::Nothing };
            audits += u32::from(spent == Spent::Audit);
            budget.book(&settings, spent, 100);
        }
        assert!((99..=102).contains(&audits), "{audits} audits for 20,000 * 0.1 * 0.05 offloads");
        let (both, _) = spend(&settings, |_| 100, true);
        assert!(both <= 0.1 + (0.5 * PATIENCE + 2.0) / 20_000.0, "{both}");
    }

    #[test]
    fn a_budget_that_cannot_be_kept_is_refused_by_name() {
        let none = BudgetSettings::default();
        let cases = [
            (BudgetSettings { offload_share: Some(0.0), ..none }, "offload_share is 0"),
            (BudgetSettings { offload_share: Some(1.5), ..none }, "offload_share is 1.5"),
            (BudgetSettings { bytes_per_request: Some(f64::NAN), ..none }, "bytes_per_request is NaN"),
            (BudgetSettings { cost_per_request: Some(1.0), ..none }, "price_per_offload is 0"),
            (BudgetSettings { joules_per_request: Some(1.0), ..none }, "joules_per_offload is 0"),
            (BudgetSettings { audit_part: -0.1, ..none }, "audit_part is -0.1"),
        ];
        for (settings, says) in cases {
            let error = settings.check().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        assert_eq!(none.check(), Ok(()));
    }
}
