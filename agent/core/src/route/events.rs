//! What happens between decisions: labels, changes of what a certificate depends on, news of the cloud and of time.

use std::time::Duration;

use hedge_certify::{
    Certificate, Contract, EProcess, Features, Fingerprint, MOST_LABELS_OF_PART, Plan, Role, Spending, Void,
};

use super::ask::{Purpose, Ticket};
use super::budget::Spent;
use super::event::{InstallError, RouteAction, RouteEvent, Transition, text};
use super::evidence::{AuditLabel, CampaignLabel};
use super::phase::{Phase, Used};
use super::risk::Risk;
use super::router::Router;
use crate::answer::Reason;

/// How many answered tickets are remembered; more than that many are never answered between two snapshots.
const MAX_ANSWERED: usize = 256;
/// How many revoked certificates are remembered.
const MAX_REVOKED: usize = 64;

impl Router {
    /// Takes in an event; `now` is the time since the Unix epoch.
    pub fn on(&mut self, event: RouteEvent, now: Duration) -> Vec<RouteAction> {
        match event {
            RouteEvent::Labelled { ticket, features, differs, cloud } => {
                self.labelled(&ticket, &features, differs, cloud, now)
            }
            RouteEvent::AuditLost { ticket } => {
                if ticket.epoch == self.state.epoch {
                    self.state.lost_audits += 1;
                    if let (Purpose::Audit, Phase::Certified(certified)) = (ticket.purpose, &mut self.state.phase) {
                        certified.monitor.lost();
                    }
                }
                Vec::new()
            }
            RouteEvent::CloudDigest(digest) => self.cloud_is(digest),
            RouteEvent::Install(certificate) => self.install(*certificate, now),
            RouteEvent::Revoke { certificates, reason } => self.revoke(&certificates, reason),
            RouteEvent::Boost { until } => {
                self.state.boost_until = self.state.boost_until.max(until);
                self.boost(now);
                Vec::new()
            }
            RouteEvent::Heard { outcome, waited } => {
                self.heard(outcome, waited, now);
                Vec::new()
            }
            RouteEvent::Sent { bytes } => {
                self.state.budget.charge(&self.settings.budget, Spent::Offload, bytes);
                Vec::new()
            }
            RouteEvent::Undecided => {
                self.state.requests += 1;
                Vec::new()
            }
            RouteEvent::Tick => self.tick(now),
        }
    }

    fn labelled(
        &mut self,
        ticket: &Ticket,
        features: &Features,
        differs: bool,
        cloud: Fingerprint,
        now: Duration,
    ) -> Vec<RouteAction> {
        if ticket.epoch != self.state.epoch || self.state.answered.contains(&ticket.request) {
            return Vec::new();
        }
        if self.state.cloud != Some(cloud) {
            // An answer, but of another model: no label. It is the news that the model has changed.
            let known = self.state.cloud.is_some();
            let actions = self.cloud_is(cloud);
            if known {
                return actions;
            }
        }
        if self.state.answered.len() >= MAX_ANSWERED {
            self.state.answered.pop_front();
        }
        self.state.answered.push_back(ticket.request);
        let mut actions = match ticket.purpose {
            Purpose::Campaign { role } => self.campaign_label(role, features, differs, now),
            Purpose::Shadow { local } => self.shadow_label(local, features, differs),
            Purpose::Audit => self.audit_label(ticket, features, differs),
            Purpose::Free => self.free_label(features, differs),
        };
        if self.state.evidence.is_full() {
            actions.extend(self.report());
        }
        actions
    }

    fn campaign_label(&mut self, role: Role, features: &Features, differs: bool, now: Duration) -> Vec<RouteAction> {
        let Phase::Gathering(gathering) = &mut self.state.phase else {
            return Vec::new();
        };
        let Some(campaign) = &mut gathering.campaign else {
            return Vec::new();
        };
        if !campaign.on_label(role, *features, differs, now.as_secs()) {
            return Vec::new();
        }
        let full = campaign.is_full();
        self.state.evidence.labels.push(CampaignLabel { role, features: *features, differs });
        if full { self.certify(now) } else { Vec::new() }
    }

    /// All labels are there: one attempt, whatever comes of it.
    fn certify(&mut self, now: Duration) -> Vec<RouteAction> {
        let (Some(target), Some(subject)) = (self.state.target, self.subject()) else {
            return Vec::new();
        };
        let Phase::Gathering(gathering) = &mut self.state.phase else {
            return Vec::new();
        };
        let why = gathering.why;
        let Some(campaign) = gathering.campaign.take() else {
            return Vec::new();
        };
        self.state.attempts = self.state.attempts.saturating_add(1);
        let index = self.state.attempts;
        let lifetime = self.settings.lifetime.as_secs();
        let mut actions = self.report();
        match campaign.finish(&target, Spending::Series(index), subject, now.as_secs(), lifetime) {
            Ok(certificate) => {
                let risk = Risk::of(&certificate, &campaign.labelled(&certificate.scoring));
                let (id, request) = (certificate.id(), self.state.requests);
                actions.push(RouteAction::Note(Transition::Issued { certificate: id, request }));
                actions.extend(self.watch(certificate, risk, why));
            }
            Err(failed) => {
                let more = usize::try_from(failed.needs_labels.unwrap_or(0)).unwrap_or(usize::MAX);
                actions.push(RouteAction::Note(Transition::NotCertified { index, why: failed }));
                // New labels, and how many is settled before the first of them.
                let last = campaign.plan();
                let calibration = last.calibration.saturating_add(more).min(MOST_LABELS_OF_PART);
                actions.extend(self.gather_by(Plan { calibration, ..last }, why));
            }
        }
        actions
    }

    fn shadow_label(&mut self, local: bool, features: &Features, differs: bool) -> Vec<RouteAction> {
        let wanted = self.settings.shadow;
        let Phase::Shadow(shadow) = &mut self.state.phase else {
            return Vec::new();
        };
        let certificate = &shadow.used.certificate;
        shadow.used.risk.learn(certificate.scoring.score(features), differs);
        match certificate.target.contract() {
            Contract::System => shadow.watch.label(local && differs),
            Contract::Local if local => shadow.watch.label(differs),
            Contract::Local => {}
        }
        shadow.seen += 1;
        if shadow.watch.alarmed() {
            let alarm = alarm(&shadow.watch, shadow.seen);
            return self.void(alarm);
        }
        if shadow.seen < wanted {
            return Vec::new();
        }
        let (used, why) = (shadow.used.clone(), shadow.why);
        self.put_to_use(used, why)
    }

    fn audit_label(&mut self, ticket: &Ticket, features: &Features, differs: bool) -> Vec<RouteAction> {
        let Phase::Certified(certified) = &mut self.state.phase else {
            return Vec::new();
        };
        let score = certified.used.certificate.scoring.score(features);
        certified.monitor.label(differs);
        // Audits are asked about in their order: what is older was answered, lost, or forgotten by a crash.
        if ticket.request == certified.last_audit {
            certified.monitor.all_settled();
        }
        let alarmed = certified.monitor.alarmed().then(|| {
            let monitor = &certified.monitor;
            alarm(monitor.alarm(), monitor.counts().requests)
        });
        self.state.evidence.audits.push(AuditLabel { score, differs, propensity: ticket.propensity });
        alarmed.map(|alarm| self.void(alarm)).unwrap_or_default()
    }

    fn free_label(&mut self, features: &Features, differs: bool) -> Vec<RouteAction> {
        if let Phase::Certified(certified) = &mut self.state.phase {
            let score = certified.used.certificate.scoring.score(features);
            certified.used.risk.learn(score, differs);
        }
        Vec::new()
    }

    /// The cloud runs this model now. A certificate of another is void, and labels of another are worth nothing.
    fn cloud_is(&mut self, digest: Fingerprint) -> Vec<RouteAction> {
        if self.state.cloud == Some(digest) {
            return Vec::new();
        }
        self.state.cloud = Some(digest);
        if let (Some(used), Some(subject)) = (self.state.phase.used(), self.subject()) {
            let cloud_differs = used.certificate.subject.cloud != subject.cloud;
            let change = Void::CloudModel { certified: used.certificate.subject.cloud, now: subject.cloud };
            return if cloud_differs { self.void(change) } else { vec![RouteAction::Persist] };
        }
        let Phase::Gathering(gathering) = &self.state.phase else {
            return vec![RouteAction::Persist];
        };
        let labels = gathering.campaign.as_ref().map_or(0, |campaign| campaign.progress().total());
        let mut actions = Vec::new();
        if labels > 0 {
            actions.push(RouteAction::Note(Transition::LabelsDropped { labels }));
        }
        let why = gathering.why;
        actions.extend(self.gather(why));
        actions
    }

    fn install(&mut self, certificate: Certificate, now: Duration) -> Vec<RouteAction> {
        let id = certificate.id();
        if let Some(used) = self.state.phase.used() {
            // One that works is kept until a newer one comes.
            let newer = certificate.issued_unix_secs > used.certificate.issued_unix_secs;
            if used.id == id || !newer && used.is_in_force(now) {
                return Vec::new();
            }
        }
        if let Err(why) = self.check(&certificate, id, now) {
            return vec![RouteAction::Note(Transition::Refused(why))];
        }
        // Whoever issued it has spent so many attempts on this subject.
        self.state.attempts = self.state.attempts.max(certificate.index);
        let why = self.why();
        let request = self.state.requests;
        let risk = Risk::new(&certificate);
        let mut actions = vec![RouteAction::Note(Transition::Installed { certificate: id, request })];
        actions.extend(self.watch(certificate, risk, why));
        actions
    }

    fn check(&self, certificate: &Certificate, id: Fingerprint, now: Duration) -> Result<(), InstallError> {
        let wanted = self.state.target.ok_or(InstallError::NoContract)?;
        let given = certificate.target;
        let kept =
            given.contract() == wanted.contract() && given.alpha() <= wanted.alpha() && given.delta() <= wanted.delta();
        if !kept {
            return Err(InstallError::OtherTarget { given: text(&given), wanted: text(&wanted) });
        }
        if self.state.revoked.contains(&id) {
            return Err(InstallError::Revoked(id));
        }
        let subject = self.subject().ok_or(InstallError::CloudUnknown)?;
        match certificate.check(&subject, now.as_secs()) {
            // A clock that is behind comes right by itself; until then the certificate is not in force.
            Ok(()) | Err(Void::NotYetValid { .. }) => Ok(()),
            Err(void) => Err(InstallError::Foreign(void)),
        }
    }

    fn revoke(&mut self, ids: &[Fingerprint], reason: String) -> Vec<RouteAction> {
        let current = self.certificate_id();
        let mut news = false;
        for &id in ids {
            if self.state.revoked.contains(&id) {
                continue;
            }
            if self.state.revoked.len() >= MAX_REVOKED {
                self.state.revoked.pop_front();
            }
            self.state.revoked.push_back(id);
            news = true;
        }
        match current.filter(|id| ids.contains(id)) {
            Some(_) => self.void(Void::Revoked { reason }),
            None if news => vec![RouteAction::Persist],
            None => Vec::new(),
        }
    }

    fn heard(&mut self, outcome: Result<(), Reason>, waited: Duration, now: Duration) {
        match outcome {
            Ok(()) => {
                self.state.breaker.succeeded();
                self.state.round_trip.heard(waited, now);
            }
            Err(why) => {
                self.state.breaker.failed(why, now);
                if why == Reason::Deadline {
                    self.state.round_trip.heard(waited, now);
                }
            }
        }
    }

    /// The class's boost ends by the clock, whatever certificate is in use then.
    pub(crate) fn boost(&mut self, now: Duration) {
        let on = now < self.state.boost_until;
        if let Phase::Certified(certified) = &mut self.state.phase {
            certified.monitor.boost_class(on);
        }
    }

    fn tick(&mut self, now: Duration) -> Vec<RouteAction> {
        self.boost(now);
        let expired = |used: &Used| now.as_secs() >= used.certificate.expires_unix_secs;
        if let Some(used) = self.state.phase.used().filter(|used| expired(used)) {
            let expires_unix_secs = used.certificate.expires_unix_secs;
            return self.void(Void::Expired { expires_unix_secs, now_unix_secs: now.as_secs() });
        }
        self.report()
    }
}

fn alarm(process: &EProcess, request: u64) -> Void {
    Void::Alarm { request, wealth: process.wealth(), line: process.line() }
}
