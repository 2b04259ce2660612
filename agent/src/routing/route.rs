//! The route of one loaded model: its router behind a short lock, and what its decisions mean outside.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hedge_agent_core::route::{PhaseName, RouteAction, Transition};
use hedge_agent_core::{Ask, Decision, Offload, Place, Reason, RouteEvent, Router, Status};
use hedge_agent_spool::{RouteStore, Saving};
use hedge_certify::{Certificate, Void};
use hedge_wire::{ClassState, Digest, RouteSubject};

use super::clock::Clock;
use super::history::History;
use super::report::{Reports, Sender};
use super::saved::Saved;
use super::side::Side;
use crate::metrics::Metrics;

/// What every route needs.
pub(crate) struct Tools {
    pub(crate) store: RouteStore,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Clock,
    pub(crate) reports: Reports,
}

/// The route of one loaded model.
pub(crate) struct Route {
    pub(crate) name: String,
    pub(crate) side: Side,
    tools: Arc<Tools>,
    /// The configured certificate, offered whenever the cloud model becomes known.
    certificate: Option<Certificate>,
    /// What was last heard of the cloud model beside verdicts.
    heard: Mutex<Option<Digest>>,
    /// Held for the decision itself, never across I/O or an await.
    inner: Mutex<Inner>,
}

pub(super) struct Inner {
    pub(super) router: Router,
    pub(super) history: History,
    /// The subject whose class state was obeyed last, and its version.
    pub(super) obeyed: Option<([u8; 8], u64)>,
    /// Whether there is something to save.
    dirty: bool,
    /// Whether another model serves under the name, to which the state has gone.
    retired: bool,
    /// A save that has to be on disk before anything is certified.
    saving: Option<Saving>,
    /// A save that has to be on disk before evidence is sent: after a crash it would be gathered, and sent, once more.
    reporting: Option<Saving>,
}

impl Route {
    /// A route that goes on from `router`, which wants `actions`.
    pub(super) fn new(
        name: &str,
        side: Side,
        tools: Arc<Tools>,
        router: Router,
        (history, obeyed): (History, Option<([u8; 8], u64)>),
        certificate: Option<Certificate>,
        actions: Vec<RouteAction>,
    ) -> Self {
        let inner = Inner { router, history, obeyed, dirty: true, retired: false, saving: None, reporting: None };
        let (inner, heard) = (Mutex::new(inner), Mutex::default());
        let route = Self { name: name.to_owned(), side, tools, certificate, heard, inner };
        let mut inner = route.inner();
        let sender = route.sender(&inner);
        route.carry_out(&mut inner, actions, sender.as_ref(), route.tools.clock.now());
        drop(inner);
        route
    }

    /// Decides about a row whose offload would have `bytes`.
    pub(crate) fn decide(&self, ask: &Ask, bytes: u64) -> Decision {
        let now = self.tools.clock.now();
        let mut inner = self.inner();
        if inner.retired {
            return inner.without_promise(ask);
        }
        inner.dirty = true;
        // What led to a certificate must not be forgotten, or its part of delta would be spent twice: it is on disk first.
        if inner.router.phase() == PhaseName::Certified && inner.is_being_saved() {
            let decision = inner.without_promise(ask);
            inner.router.on(RouteEvent::Undecided, now);
            if matches!(decision, Decision::Offload { .. }) {
                let actions = inner.router.on(RouteEvent::Sent { bytes }, now);
                self.carry_out(&mut inner, actions, None, now);
            }
            return decision;
        }
        inner.router.decide(ask, bytes, now)
    }

    /// Tells the router what happened.
    pub(crate) fn tell(&self, event: RouteEvent) {
        let now = self.tools.clock.now();
        let mut inner = self.inner();
        if inner.retired {
            return;
        }
        // Evidence that the event makes the router report is about the subject before it.
        let sender = self.sender(&inner);
        let mut actions = inner.router.on(event, now);
        inner.dirty = true;
        // A certificate that broke its promise is not to be taken again, from a file or from the gateway.
        let broken = actions.iter().find_map(|action| match action {
            RouteAction::Note(Transition::Void { certificate, why: Void::Alarm { .. }, .. }) => Some(*certificate),
            _ => None,
        });
        if let Some(certificate) = broken {
            let reason = "its alarm rang on this device".to_owned();
            let revoke = RouteEvent::Revoke { certificates: vec![certificate], reason };
            actions.extend(inner.router.on(revoke, now));
        }
        self.carry_out(&mut inner, actions, sender.as_ref(), now);
    }

    /// Offers the router the configured certificate, once there is a cloud model to hold it against.
    pub(crate) fn take_file(&self) {
        if let Some(certificate) = self.certificate.as_ref().filter(|_| self.cloud().is_some()) {
            self.tell(RouteEvent::Install(Box::new(certificate.clone())));
        }
    }

    /// What presence says of the cloud model, where that is news.
    pub(crate) fn is_news(&self, digest: Option<Digest>) -> Option<Digest> {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        digest.filter(|digest| heard.replace(*digest) != Some(*digest))
    }

    /// Whether the gateway's word to this device's class is about this route, and newer than what was obeyed. It counts as
    /// obeyed then.
    pub(super) fn heeds(&self, state: &ClassState) -> bool {
        let mut inner = self.inner();
        let about = inner.router.subject().map(|subject| self.side.on_the_wire(&subject));
        if about.as_ref() != Some(&state.subject) {
            return false;
        }
        let subject = state.subject.hash().0;
        let newer = inner.obeyed.is_none_or(|(of, version)| of != subject || state.version > version);
        if newer {
            // What was found out until now is told as before this state.
            let (now, sender) = (self.tools.clock.now(), self.sender(&inner));
            let actions = inner.router.on(RouteEvent::Tick, now);
            self.carry_out(&mut inner, actions, sender.as_ref(), now);
            inner.obeyed = Some((subject, state.version));
            inner.dirty = true;
        }
        newer
    }

    /// Time has passed: what is due is done, and what changed is saved.
    pub(crate) fn save(&self) {
        let mut inner = self.inner();
        if !inner.dirty || inner.retired {
            return;
        }
        inner.dirty = false;
        self.tools.store.save_soon(&self.name, inner.saved(self.tools.clock.now()).encode());
    }

    /// Whether evidence that was reported may be sent.
    pub(super) fn may_send(&self) -> bool {
        let mut inner = self.inner();
        if inner.reporting.as_ref().is_some_and(Saving::is_over) {
            inner.reporting = None;
        }
        inner.reporting.is_none() && !inner.is_being_saved()
    }

    /// Takes the state out, for the model that serves under the name from now on.
    pub(super) fn retire(&self) -> Saved {
        let mut inner = self.inner();
        inner.retired = true;
        inner.saved(self.tools.clock.now())
    }

    /// The cloud model by which the router goes now.
    pub(crate) fn cloud(&self) -> Option<Digest> {
        self.inner().router.subject().map(|subject| Digest(subject.cloud.0))
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic while it was held leaves a router that was told a little less.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Duration {
        self.tools.clock.now()
    }

    /// Whose evidence it is; none where nothing may leave the device, or the cloud model is not known.
    fn sender(&self, inner: &Inner) -> Option<Sender> {
        let settings = inner.router.settings();
        let target = settings.contract.filter(|_| settings.offload == Offload::Auto)?;
        let subject = self.side.on_the_wire(&inner.router.subject()?);
        Some(Sender { target, class_version: inner.class_version(&subject), subject })
    }

    fn carry_out(&self, inner: &mut Inner, actions: Vec<RouteAction>, sender: Option<&Sender>, now: Duration) {
        let (mut persist, mut reported) = (false, false);
        for action in actions {
            match action {
                RouteAction::Persist => persist = true,
                RouteAction::Note(transition) => self.note(inner, &transition, now),
                RouteAction::Report(evidence) => {
                    if let Some(sender) = sender {
                        self.tools.reports.push(sender, *evidence);
                        reported = true;
                    }
                }
            }
        }
        if persist || reported {
            inner.dirty = false;
            let saving = self.tools.store.save_now(&self.name, inner.saved(now).encode());
            match persist {
                true => inner.saving = Some(saving),
                false => inner.reporting = Some(saving),
            }
        }
    }

    fn note(&self, inner: &mut Inner, transition: &Transition, now: Duration) {
        let request = inner.router.requests();
        let step = inner.history.add(transition, request, now);
        self.tools.metrics.route_step(&self.name, &step.kind);
        let (model, kind) = (self.name.as_str(), step.kind.as_str());
        let (certificate, why) = (step.certificate.unwrap_or_default(), step.why.unwrap_or_default());
        match kind {
            "alarm" | "refused" => tracing::warn!(model, kind, request, certificate, why, "route"),
            _ => tracing::info!(model, kind, request, certificate, why, "route"),
        }
    }
}

impl Inner {
    fn saved(&self, now: Duration) -> Saved {
        Saved {
            router: self.router.encode(),
            history: self.history.clone(),
            obeyed: self.obeyed,
            unix_secs: now.as_secs(),
        }
    }

    /// What is decided without the router: nothing is certified, and nothing is learnt.
    fn without_promise(&self, ask: &Ask) -> Decision {
        let reason = match (self.router.settings().offload, ask.place, ask.may_offload) {
            (Offload::Auto, Place::Auto, Ok(())) => {
                return Decision::Offload { reason: Reason::NoCertificate, label: None };
            }
            (Offload::Never, ..) => Reason::NeverOffload,
            (Offload::Auto, Place::Auto, Err(reason)) => reason,
            (Offload::Auto, ..) => Reason::Caller,
        };
        Decision::Local { status: Status::Uncertified, reason, audit: None }
    }

    fn class_version(&self, subject: &RouteSubject) -> u64 {
        self.obeyed.filter(|(of, _)| *of == subject.hash().0).map_or(0, |(_, version)| version)
    }

    pub(super) fn is_being_saved(&mut self) -> bool {
        let waiting = self.saving.as_ref().is_some_and(|saving| !saving.is_over());
        if !waiting {
            self.saving = None;
        }
        waiting
    }
}
