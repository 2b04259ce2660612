//! Simulations of whole routers over a pool of labelled rows: budgets kept, and the way from an alarm to the next
//! certificate.
//!
//! Nothing of the router is replaced: it gathers, certifies, watches and decides as on a device. Only the cloud is
//! simulated: it answers each offload at once and each audit some requests later, always with the pool's label. The pool is
//! the ground truth that statuses are held against. Deterministic in the seed.

mod budget;
mod recovery;

use std::collections::VecDeque;
use std::time::Duration;

use hedge_certify::{Features, Fingerprint, TOP, TOP_FLOOR};

pub use budget::{BudgetFigures, simulate_budget};
pub use recovery::{Recovery, RecoveryFigures, simulate_recovery};

use super::ask::{Ask, Decision, Ticket};
use super::coin::Coins;
use super::event::{RouteAction, RouteEvent, Transition};
use super::phase::PhaseName;
use super::router::{EdgeSide, Router};
use super::settings::{InvalidRoute, RouteSettings};
use super::state::RestoreError;
use crate::answer::Status;
use crate::row::Place;

/// How many requests an audit takes to come back.
const AUDIT_DELAY: u64 = 20;
/// What lies between two requests.
const STEP: Duration = Duration::from_millis(10);
/// When a simulation starts, in seconds since 1970.
const START: Duration = Duration::from_secs(1_700_000_000);
/// The size of each offload.
const BYTES: u64 = 1000;
/// The cloud model of every simulation.
const CLOUD: Fingerprint = Fingerprint([9; 32]);

/// One row of a pool: what the edge made of it, and the truth.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct PoolRow {
    /// The edge's features.
    pub features: Features,
    /// Whether its answer differs from the cloud's.
    pub differs: bool,
}

impl PoolRow {
    /// A row of which only a score is known; it stands for margin and maximum probability.
    #[must_use]
    pub fn of_score(score: f32, differs: bool) -> Self {
        let top = [TOP_FLOOR; TOP];
        Self { features: Features { margin: score, msp: score, entropy: 0.0, class: 0, top }, differs }
    }
}

/// A simulation that cannot be run.
#[derive(Clone, Copy, PartialEq, Debug, thiserror::Error)]
pub enum SimulationError {
    /// There is nothing to draw from.
    #[error("the pool has no rows")]
    EmptyPool,
    /// Without a contract there is nothing to simulate.
    #[error("the settings have no contract; give alpha, delta and the kind of contract")]
    NoContract,
    /// The settings cannot work.
    #[error(transparent)]
    Settings(#[from] InvalidRoute),
}

/// What became of one request, held against the truth.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    decision: Decision,
    /// The answer given was local and differs from the cloud's.
    wrong: bool,
    /// It called itself certified without being inside the certificate.
    unflagged: bool,
}

/// A device with its router, and a cloud that answers.
struct Device {
    router: Router,
    draws: Coins,
    now: Duration,
    /// Audits under way: when they come back, and what they say.
    audits: VecDeque<(u64, RouteEvent)>,
    notes: Vec<(u64, Transition)>,
}

impl Device {
    fn new(settings: &RouteSettings, seed: u64) -> Result<Self, SimulationError> {
        if settings.contract.is_none() {
            return Err(SimulationError::NoContract);
        }
        let router = Router::new(RouteSettings { seed, ..settings.clone() }, side())?;
        let mut device =
            Self { router, draws: Coins::new(!seed), now: START, audits: VecDeque::new(), notes: Vec::new() };
        device.tell(RouteEvent::CloudDigest(CLOUD));
        Ok(device)
    }

    /// Goes on with other settings, as after a restart.
    fn restart(&mut self, settings: RouteSettings) -> Result<(), SimulationError> {
        let restored = Router::restore(settings, side(), &self.router.encode());
        let (router, _) = restored.map_err(|error| match error {
            RestoreError::Settings(invalid) => SimulationError::Settings(invalid),
            other => unreachable!("a state just written is read: {other}"),
        })?;
        self.router = router;
        Ok(())
    }

    /// Requests drawn from `pool` until the router uses a certificate; false after `most` of them.
    fn certify(&mut self, pool: &[PoolRow], most: u64) -> bool {
        for _ in 0..most {
            if self.router.phase() == PhaseName::Certified {
                return true;
            }
            self.request(pool);
        }
        self.router.phase() == PhaseName::Certified
    }

    /// One request, drawn from `pool` with replacement.
    fn request(&mut self, pool: &[PoolRow]) -> (PoolRow, Outcome) {
        let row = pool[((self.draws.throw() * pool.len() as f64) as usize).min(pool.len() - 1)];
        self.now += STEP;
        let ask = Ask {
            features: Some(row.features),
            place: Place::Auto,
            stand_in: false,
            may_offload: Ok(()),
            time_left: Some(Duration::from_secs(1)),
        };
        let decision = self.router.decide(&ask, BYTES, self.now);
        let outcome = self.judge(decision, &row);
        match decision {
            Decision::Offload { label: Some(ticket), .. } => self.tell(labelled(ticket, &row)),
            Decision::Local { audit: Some(ticket), .. } => {
                self.audits.push_back((self.router.requests() + AUDIT_DELAY, labelled(ticket, &row)));
            }
            _ => {}
        }
        while self.audits.front().is_some_and(|(due, _)| *due <= self.router.requests()) {
            if let Some((_, answer)) = self.audits.pop_front() {
                self.tell(answer);
            }
        }
        (row, outcome)
    }

    /// Whether the status is what the certificate and the row's score say, worked out apart from the router's decision.
    fn judge(&self, decision: Decision, row: &PoolRow) -> Outcome {
        let Decision::Local { status, .. } = decision else {
            return Outcome { decision, wrong: false, unflagged: false };
        };
        let in_use = self.router.certificate().filter(|_| self.router.phase() == PhaseName::Certified);
        let inside =
            in_use.is_some_and(|certificate| certificate.scoring.score(&row.features) >= certificate.threshold);
        let unflagged = status != Status::Uncertified && !inside;
        Outcome { decision, wrong: row.differs, unflagged }
    }

    fn tell(&mut self, event: RouteEvent) {
        let request = self.router.requests();
        for action in self.router.on(event, self.now) {
            if let RouteAction::Note(transition) = action {
                self.notes.push((request, transition));
            }
        }
    }
}

fn labelled(ticket: Ticket, row: &PoolRow) -> RouteEvent {
    RouteEvent::Labelled { ticket, features: row.features, differs: row.differs, cloud: CLOUD }
}

fn side() -> EdgeSide {
    EdgeSide {
        edge: Fingerprint([1; 32]),
        device_class: "simulated".to_owned(),
        transforms: Fingerprint([2; 32]),
        comparison: "top-class".to_owned(),
    }
}

/// Requests within which a certificate should have come: a few campaigns and their shadows.
fn patience(settings: &RouteSettings) -> u64 {
    4 * (settings.plan.total() as u64 + settings.shadow + 1)
}

#[cfg(test)]
mod tests;
