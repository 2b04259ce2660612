//! The router of one served model: its settings, its state, and the way from phase to phase.

use std::collections::VecDeque;
use std::time::Duration;

use hedge_certify::{
    Campaign, Certificate, EProcess, Fingerprint, Monitor, MonitorConfig, Plan, Progress, Subject, Target, Void,
};
use serde::{Deserialize, Serialize};

use super::breaker::Breaker;
use super::budget::Budget;
use super::coin::Coins;
use super::event::{RouteAction, Transition};
use super::evidence::{Evidence, MAX_EVIDENCE};
use super::phase::{Certified, Gathering, Phase, PhaseName, Shadow, Used};
use super::risk::Risk;
use super::round_trip::RoundTrip;
use super::settings::{InvalidRoute, RouteSettings};
use crate::answer::Reason;
use crate::row::Offload;

/// How much of `delta_a` watches the shadow; the rest is the monitor's, so that both together keep to it.
const SHADOW_PART: f64 = 0.2;

/// What a certificate depends on of the device itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EdgeSide {
    /// The edge bundle.
    pub edge: Fingerprint,
    /// What kind of device computes it.
    pub device_class: String,
    /// How inputs are transformed.
    pub transforms: Fingerprint,
    /// What counts as a differing answer.
    pub comparison: String,
}

/// Decides about the rows of one model.
#[derive(Clone, PartialEq, Debug)]
pub struct Router {
    pub(crate) settings: RouteSettings,
    pub(crate) side: EdgeSide,
    pub(crate) state: State,
}

/// All that changes; what is restored after a restart.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    /// The contract that phase and labels are about.
    pub(crate) target: Option<Target>,
    pub(crate) cloud: Option<Fingerprint>,
    pub(crate) phase: Phase,
    /// Attempts to certify so far, failed ones too: m of the next is one more. Never falls.
    pub(crate) attempts: u32,
    /// Counts campaigns and certificates.
    pub(crate) epoch: u64,
    pub(crate) requests: u64,
    pub(crate) coins: Coins,
    pub(crate) budget: Budget,
    pub(crate) breaker: Breaker,
    pub(crate) round_trip: RoundTrip,
    pub(crate) evidence: Evidence,
    /// Tickets answered lately, since a queue that survives a crash may ask twice.
    pub(crate) answered: VecDeque<u64>,
    pub(crate) revoked: VecDeque<Fingerprint>,
    pub(crate) lost_audits: u64,
    /// Until when the class is under suspicion.
    pub(crate) boost_until: Duration,
}

impl Router {
    /// A router that has seen nothing yet.
    pub fn new(settings: RouteSettings, side: EdgeSide) -> Result<Self, InvalidRoute> {
        settings.check()?;
        let state = State {
            target: settings.contract,
            cloud: None,
            phase: Phase::NoContract,
            attempts: 0,
            epoch: 0,
            requests: 0,
            coins: Coins::new(settings.seed),
            budget: Budget::new(&settings.budget),
            breaker: Breaker::new(),
            round_trip: RoundTrip::new(),
            evidence: Evidence::default(),
            answered: VecDeque::new(),
            revoked: VecDeque::new(),
            lost_audits: 0,
            boost_until: Duration::ZERO,
        };
        let mut router = Self { settings, side, state };
        if router.settings.contract.is_some() {
            router.gather(Reason::NoCertificate);
        }
        Ok(router)
    }

    /// Where it stands.
    #[must_use]
    pub fn phase(&self) -> PhaseName {
        self.state.phase.name()
    }

    /// The certificate in use or watched.
    #[must_use]
    pub fn certificate(&self) -> Option<&Certificate> {
        self.state.phase.used().map(|used| &used.certificate)
    }

    /// Its id.
    #[must_use]
    pub fn certificate_id(&self) -> Option<Fingerprint> {
        self.state.phase.used().map(|used| used.id)
    }

    /// The alarm and audits of the certificate in use.
    #[must_use]
    pub fn monitor(&self) -> Option<&Monitor> {
        match &self.state.phase {
            Phase::Certified(certified) => Some(&certified.monitor),
            _ => None,
        }
    }

    /// How far the labels for the next certificate are, while they are gathered.
    #[must_use]
    pub fn progress(&self) -> Option<Progress> {
        match &self.state.phase {
            Phase::Gathering(gathering) => gathering.campaign.as_ref().map(Campaign::progress),
            _ => None,
        }
    }

    /// Requests so far: decided about, or told of as [`RouteEvent::Undecided`](super::RouteEvent::Undecided).
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.state.requests
    }

    /// Attempts to certify so far.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.state.attempts
    }

    /// Audits that were never answered.
    #[must_use]
    pub fn lost_audits(&self) -> u64 {
        self.state.lost_audits
    }

    /// Whether offloads pause because too many failed.
    #[must_use]
    pub fn is_breaker_open(&self) -> bool {
        self.state.breaker.is_open()
    }

    /// How far each resource with a budget is ahead of it (the virtual queue), by name and in its own unit: offloads, bytes,
    /// cost, joules.
    #[must_use]
    pub fn budget_backlog(&self) -> Vec<(&'static str, f64)> {
        self.state.budget.backlog(&self.settings.budget)
    }

    /// What 95 % of the offloads take, as far as that is known.
    #[must_use]
    pub fn round_trip_p95(&self, now: Duration) -> Option<Duration> {
        self.state.round_trip.p95(now)
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &RouteSettings {
        &self.settings
    }

    /// What certificates must be about now; none while the cloud model is unknown.
    #[must_use]
    pub fn subject(&self) -> Option<Subject> {
        Some(Subject {
            edge: self.side.edge,
            cloud: self.state.cloud?,
            device_class: self.side.device_class.clone(),
            transforms: self.side.transforms,
            comparison: self.side.comparison.clone(),
        })
    }

    /// Starts to gather labels for the next certificate; labels under way belong to an earlier epoch from now on.
    pub(crate) fn gather(&mut self, why: Reason) -> Vec<RouteAction> {
        let plan = self.settings.plan;
        self.gather_by(plan, why)
    }

    pub(crate) fn gather_by(&mut self, plan: Plan, why: Reason) -> Vec<RouteAction> {
        let campaign = (self.settings.offload == Offload::Auto).then(|| Campaign::new(plan));
        self.enter(Phase::Gathering(Box::new(Gathering { campaign, why })));
        let index = self.state.attempts.saturating_add(1);
        vec![RouteAction::Note(Transition::Gathering { index }), RouteAction::Persist]
    }

    /// Watches a new certificate, or uses it at once where nothing could be seen of it.
    pub(crate) fn watch(&mut self, certificate: Certificate, risk: Risk, why: Reason) -> Vec<RouteAction> {
        let used = Used::new(certificate, risk);
        let watched = self.settings.shadow > 0 && self.settings.offload == Offload::Auto;
        let alpha = used.certificate.target.alpha();
        match EProcess::new(alpha, self.settings.delta_a * SHADOW_PART) {
            Ok(watch) if watched => {
                self.enter(Phase::Shadow(Box::new(Shadow { used, watch, seen: 0, why })));
                vec![RouteAction::Persist]
            }
            _ => self.put_to_use(used, why),
        }
    }

    /// From now on local answers inside the certificate are certified.
    pub(crate) fn put_to_use(&mut self, used: Used, why: Reason) -> Vec<RouteAction> {
        let target = used.certificate.target;
        let config = MonitorConfig {
            delta_a: self.settings.delta_a * (1.0 - SHADOW_PART),
            audit_rate: self.settings.audit_rate,
            boost_rate: self.settings.boost_rate,
            ..MonitorConfig::new(target.contract(), target.alpha())
        };
        match Monitor::new(config, &used.certificate.grid) {
            Ok(monitor) => {
                let (certificate, request) = (used.id, self.state.requests);
                self.enter(Phase::Certified(Box::new(Certified { used, monitor, last_audit: 0 })));
                self.start_budget();
                vec![RouteAction::Note(Transition::ShadowDone { certificate, request }), RouteAction::Persist]
            }
            // The settings were checked; what cannot be watched is not used all the same.
            Err(_) => self.gather(why),
        }
    }

    /// Starts the queues anew: at the price that the labels tell where there is a certificate, empty otherwise.
    pub(crate) fn start_budget(&mut self) {
        let used = match &self.state.phase {
            Phase::Certified(certified) => Some(&certified.used),
            _ => None,
        };
        let price = |share| used.map_or(0.0, |used| used.risk.price(&used.certificate, share));
        self.state.budget.start(&self.settings.budget, price);
    }

    /// The certificate is void: everything is offloaded until there is another.
    pub(crate) fn void(&mut self, why: Void) -> Vec<RouteAction> {
        let Some(certificate) = self.certificate_id() else {
            return Vec::new();
        };
        let request = self.state.requests;
        let reason = match &why {
            Void::Alarm { .. } | Void::Revoked { .. } => Reason::Alarm,
            _ => self.why(),
        };
        let mut actions = self.report();
        if matches!(why, Void::Alarm { .. }) {
            actions.push(RouteAction::Note(Transition::Alarm { certificate, request }));
        }
        actions.push(RouteAction::Note(Transition::Void { certificate, why, request }));
        actions.extend(self.gather(reason));
        actions
    }

    /// What the gateway does not know yet.
    pub(crate) fn report(&mut self) -> Vec<RouteAction> {
        if self.state.evidence.is_empty() {
            return Vec::new();
        }
        vec![RouteAction::Report(Box::new(self.state.evidence.take()))]
    }

    /// Why nothing is certified now.
    pub(crate) fn why(&self) -> Reason {
        match &self.state.phase {
            Phase::Gathering(gathering) => gathering.why,
            Phase::Shadow(shadow) => shadow.why,
            Phase::NoContract | Phase::Certified(_) => Reason::NoCertificate,
        }
    }

    /// Every change of phase is a new epoch.
    pub(crate) fn enter(&mut self, phase: Phase) {
        self.state.epoch += 1;
        self.state.evidence = match phase.used() {
            Some(used) => Evidence::new(Some(used.id), used.certificate.grid.len()),
            None => Evidence::new(None, 0),
        };
        self.state.evidence.audits.reserve(MAX_EVIDENCE);
        self.state.phase = phase;
    }
}
