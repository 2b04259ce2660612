//! One decision: what the phase wants, then what caller, link, deadline, budget and breaker allow.
//!
//! Nothing here allocates, and nothing but [`certified`](Router::by_certificate) ever gives the status `certified`.

use std::time::Duration;

use hedge_certify::{Contract, Features};

use super::ask::{Ask, Decision, Purpose, Ticket};
use super::budget::Spent;
use super::phase::Phase;
use super::router::Router;
use crate::answer::{Reason, Status};
use crate::row::{Offload, Place};

/// What the phase wants of a request, before anything stands in the way.
#[derive(Clone, Copy, Debug)]
enum Want {
    Stay { status: Status, reason: Reason, audit: Option<Ticket> },
    Leave { reason: Reason, label: Option<Ticket>, worth: Worth },
}

/// What an offload is worth to a budget.
#[derive(Clone, Copy, Debug)]
enum Worth {
    /// The probability that it corrects the local answer.
    Disagreement(f64),
    /// It is a label, which must not be chosen by the request's score.
    Label,
}

impl Router {
    /// Decides about one row whose offload would have `bytes`; `now` is the time since the Unix epoch.
    ///
    /// Deterministic in the state and the arguments; allocates nothing.
    pub fn decide(&mut self, ask: &Ask, bytes: u64, now: Duration) -> Decision {
        self.state.requests += 1;
        let want = match ask.features {
            Some(features) => self.want(ask, &features, now),
            None => Want::Stay { status: Status::Uncertified, reason: Reason::NoCertificate, audit: None },
        };
        let decision = match want {
            Want::Stay { status, reason, audit } => Decision::Local { status, reason, audit },
            Want::Leave { reason, label, worth } => match self.allow(ask, worth, bytes, now) {
                Ok(()) => Decision::Offload { reason, label },
                Err(reason) => Decision::Local { status: Status::Uncertified, reason, audit: None },
            },
        };
        let spent = match decision {
            Decision::Offload { .. } => Spent::Offload,
            Decision::Local { audit: Some(_), .. } => Spent::Audit,
            Decision::Local { .. } => Spent::Nothing,
        };
        self.state.budget.book(&self.settings.budget, spent, bytes);
        decision
    }

    fn want(&mut self, ask: &Ask, features: &Features, now: Duration) -> Want {
        if matches!(self.state.phase, Phase::NoContract) {
            return self.by_threshold(ask, features);
        }
        if ask.stand_in {
            // Another device class: no certificate covers it, and its answers are no labels.
            return Want::Leave { reason: Reason::DeviceFault, label: None, worth: self.worth(features) };
        }
        match &self.state.phase {
            Phase::NoContract => self.by_threshold(ask, features),
            Phase::Gathering(gathering) => {
                let reason = gathering.why;
                self.for_a_campaign(ask, reason)
            }
            Phase::Shadow(shadow) => {
                let local = shadow.used.certificate.scoring.score(features) >= shadow.used.certificate.threshold;
                let label = self.ticket(ask, Purpose::Shadow { local }, 1.0);
                Want::Leave { reason: shadow.why, label, worth: Worth::Label }
            }
            Phase::Certified(certified) if certified.used.is_in_force(now) => self.by_certificate(ask, features),
            Phase::Certified(_) => {
                Want::Leave { reason: Reason::NoCertificate, label: None, worth: self.worth(features) }
            }
        }
    }

    /// Without a contract: the configured threshold, and no promise.
    fn by_threshold(&self, ask: &Ask, features: &Features) -> Want {
        let score = hedge_certify::Scoring::from(self.settings.score).score(features);
        if score >= self.settings.threshold {
            let reason = if ask.stand_in { Reason::DeviceFault } else { Reason::NoCertificate };
            return Want::Stay { status: Status::Uncertified, reason, audit: None };
        }
        Want::Leave { reason: Reason::BelowThreshold, label: None, worth: self.worth(features) }
    }

    fn for_a_campaign(&mut self, ask: &Ask, reason: Reason) -> Want {
        // The coin is thrown for every request, so that who else asks changes nobody's part.
        let coin = self.state.coins.throw();
        let Phase::Gathering(gathering) = &self.state.phase else {
            return Want::Leave { reason, label: None, worth: Worth::Label };
        };
        let role = gathering.campaign.as_ref().map(|campaign| campaign.role_of(coin));
        let label = role.and_then(|role| self.ticket(ask, Purpose::Campaign { role }, 1.0));
        Want::Leave { reason, label, worth: Worth::Label }
    }

    /// Under a certificate in force.
    fn by_certificate(&mut self, ask: &Ask, features: &Features) -> Want {
        let coin = self.state.coins.throw();
        let may_audit = self.state.budget.admits_audit(&self.settings.budget);
        let watched = ask.place == Place::Auto && self.settings.offload == Offload::Auto;
        let Phase::Certified(certified) = &mut self.state.phase else {
            return Want::Leave { reason: Reason::NoCertificate, label: None, worth: Worth::Label };
        };
        let certificate = &certified.used.certificate;
        let score = certificate.scoring.score(features);
        let local = score >= certificate.threshold;
        let mut audited = None;
        if watched {
            // Out of its budget nobody is audited, whatever the score: 1 is no coin's value.
            let coin = if may_audit { coin } else { 1.0 };
            let propensity = certified.monitor.rate();
            let bin = certificate.grid.bin(score);
            audited = certified.monitor.observe_binned(bin, local, coin);
            if audited.is_some() {
                certified.last_audit = self.state.requests;
            }
            self.state.evidence.count(bin);
            if !local && coin < propensity && certificate.target.contract() == Contract::System {
                self.state.evidence.offloaded += 1;
            }
        }
        if local {
            let audit = audited.and_then(|audit| self.ticket(ask, Purpose::Audit, audit.propensity));
            return Want::Stay { status: Status::Certified, reason: Reason::InsideCertificate, audit };
        }
        let worth = Worth::Disagreement(certified.used.risk.of_score(score));
        Want::Leave { reason: Reason::BelowThreshold, label: self.ticket(ask, Purpose::Free, 1.0), worth }
    }

    /// What stands in the way of an offload; `Ok` spends the breaker's probe.
    fn allow(&mut self, ask: &Ask, worth: Worth, bytes: u64, now: Duration) -> Result<(), Reason> {
        if ask.place == Place::Edge {
            return Err(Reason::Caller);
        }
        if self.settings.offload == Offload::Never {
            return Err(Reason::NeverOffload);
        }
        ask.may_offload?;
        let p95 = self.state.round_trip.p95(now);
        if ask.time_left.is_some_and(|left| left.is_zero() || p95.is_some_and(|p95| p95 > left)) {
            return Err(Reason::Deadline);
        }
        let budget = &self.state.budget;
        let affordable = match worth {
            Worth::Disagreement(p) => budget.admits(&self.settings.budget, p, bytes),
            Worth::Label => budget.admits_anyone(&self.settings.budget),
        };
        if !affordable {
            return Err(Reason::OverBudget);
        }
        match ask.time_left {
            Some(_) => self.state.breaker.admit(now),
            None => Ok(()),
        }
    }

    /// Without labels to go by, half of what the score leaves open.
    fn worth(&self, features: &Features) -> Worth {
        Worth::Disagreement(0.5 * f64::from(1.0 - features.margin.clamp(0.0, 1.0)))
    }

    /// None for who stays because its caller wants so: it is no request like the others.
    fn ticket(&self, ask: &Ask, purpose: Purpose, propensity: f64) -> Option<Ticket> {
        let state = &self.state;
        (ask.place == Place::Auto).then_some(Ticket {
            epoch: state.epoch,
            request: state.requests,
            purpose,
            propensity,
        })
    }
}
