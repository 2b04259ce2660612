//! Many seeds, on all cores.

use std::ops::Range;
use std::time::Duration;

use rayon::prelude::*;

use crate::counts::Counts;
use crate::world::{Outcome, Setup, simulate};

/// Broken histories that are kept; more are counted.
const MOST_KEPT: usize = 10;

/// What came of many histories.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Campaign {
    /// How many histories there were.
    pub seeds: u64,
    /// What happened in all of them.
    pub counts: Counts,
    /// How many steps there were.
    pub steps: u64,
    /// How much time passed in them.
    pub simulated: Duration,
    /// The longest that any of them took to come to rest after its last fault.
    pub longest_rest: Duration,
    /// How many broke a rule.
    pub broken: u64,
    /// Those of the lowest seeds.
    pub violations: Vec<Outcome>,
}

/// Runs the histories of `seeds`; `done` is told of each, from any thread.
pub fn campaign(seeds: Range<u64>, setup: &Setup, done: impl Fn(&Outcome) + Sync) -> Campaign {
    let one = |seed| {
        let outcome = simulate(seed, setup);
        done(&outcome);
        Campaign::of(outcome)
    };
    seeds.into_par_iter().map(one).reduce(Campaign::default, Campaign::and)
}

/// The same broken rule with as few devices as a simple search finds.
#[must_use]
pub fn shrink(outcome: &Outcome, setup: &Setup) -> Setup {
    let Some(violation) = &outcome.violation else { return *setup };
    let breaks = |setup: &Setup| {
        let again = simulate(outcome.seed, setup).violation;
        again.is_some_and(|again| again.rule == violation.rule)
    };
    let alone = (0..setup.devices).map(|only| Setup { only: Some(only), ..*setup });
    let fewer =
        std::iter::successors(Some(1), |devices| Some(devices * 2)).take_while(|&devices| devices < setup.devices);
    let fewer = fewer.map(|devices| Setup { devices, ..*setup });
    alone.chain(fewer).find(breaks).unwrap_or(*setup)
}

impl Campaign {
    fn of(outcome: Outcome) -> Self {
        Self {
            seeds: 1,
            counts: outcome.counts.clone(),
            steps: outcome.steps,
            simulated: outcome.simulated,
            longest_rest: outcome.rested_after.unwrap_or_default(),
            broken: u64::from(outcome.violation.is_some()),
            violations: if outcome.violation.is_some() { vec![outcome] } else { Vec::new() },
        }
    }

    fn and(mut self, other: Self) -> Self {
        self.seeds += other.seeds;
        self.counts += &other.counts;
        self.steps += other.steps;
        self.simulated += other.simulated;
        self.longest_rest = self.longest_rest.max(other.longest_rest);
        self.broken += other.broken;
        self.violations.extend(other.violations);
        self.violations.sort_by_key(|outcome| outcome.seed);
        self.violations.truncate(MOST_KEPT);
        self
    }
}
