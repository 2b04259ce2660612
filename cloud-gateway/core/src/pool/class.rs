//! One subject of one class: its certificate under watch, or the campaign for the next.

use hedge_certify::{Campaign, Certificate, EProcess, Fingerprint, PooledMonitor, Spending, Target};
use hedge_wire::{ClassState, DeviceId, Evidence, RouteSubject, limits::MAX_REVOKED};
use serde::{Deserialize, Serialize};

use super::devices::Devices;
use super::own::OwnCertificates;
use super::standing::Standing;
use super::{Ignored, PoolAction, PoolNote, PoolSettings, RestoreError, subject};

/// The format of a saved class.
const FORMAT: &str = "hedge-class/1";

/// Versions are milliseconds since 1970 where they can be, so that they grow although the last one may be forgotten.
const VERSIONS_PER_SEC: u64 = 1_000;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Class {
    #[serde(with = "subject")]
    subject: RouteSubject,
    /// What its certificates promise.
    target: Target,
    /// Of the state published last.
    version: u64,
    /// Labels of devices that had an older state are not part of the campaign.
    since_version: u64,
    /// Number of the certificate, or of the campaign, in the series.
    index: u32,
    phase: Phase,
    own: OwnCertificates,
    /// The latest last.
    revoked: Vec<Fingerprint>,
    shift_boost_until: u64,
    alarm_boost_until: u64,
    devices: Devices,
    heard_unix_secs: u64,
    /// What disk and broker have of it.
    #[serde(skip)]
    standing: Standing,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Phase {
    Gathering(Campaign),
    Certified { id: Fingerprint, certificate: Box<Certificate>, watch: Box<PooledMonitor> },
}

/// As saved.
#[derive(Serialize, Deserialize)]
struct Saved<C> {
    format: String,
    class: C,
}

impl Class {
    /// A class of which is known, at most, that it has `spent` so many numbers of its series. Its first state takes back what
    /// an earlier state may have said.
    pub(crate) fn begin(
        subject: RouteSubject,
        spent: u32,
        settings: &PoolSettings,
        now: u64,
        actions: &mut Vec<PoolAction>,
    ) -> Self {
        let mut class = Self {
            subject,
            target: settings.target,
            version: 0,
            since_version: 0,
            index: spent.saturating_add(1),
            phase: Phase::Gathering(Campaign::new(settings.plan)),
            own: OwnCertificates::new(settings),
            revoked: Vec::new(),
            shift_boost_until: 0,
            alarm_boost_until: 0,
            devices: Devices::default(),
            heard_unix_secs: now,
            standing: Standing::default(),
        };
        if spent > 0 {
            // What became of an alarm before is not known any more: only labels of devices that hear of this beginning count.
            class.since_version = class.next_version(now);
        }
        class.publish(now, actions);
        class
    }

    pub(crate) fn read(saved: &[u8]) -> Result<Self, RestoreError> {
        let unreadable = |error: String| RestoreError::Unreadable(error);
        let Saved { format, mut class } =
            minicbor_serde::from_slice::<Saved<Self>>(saved).map_err(|error| unreadable(error.to_string()))?;
        if format != FORMAT {
            return Err(unreadable(format!("it is {format:?}, not {FORMAT:?}")));
        }
        class.standing.saved = class.version;
        Ok(class)
    }

    pub(crate) fn write(&self) -> Vec<u8> {
        let saved = Saved { format: FORMAT.to_owned(), class: self };
        minicbor_serde::to_vec(&saved).expect("numbers, texts and lists have a CBOR form")
    }

    pub(crate) fn subject(&self) -> &RouteSubject {
        &self.subject
    }

    /// Whether nobody else was heard of it.
    pub(crate) fn is_only_of(&self, device: &DeviceId) -> bool {
        self.devices.is_only(device)
    }

    pub(crate) fn is_certified(&self) -> bool {
        matches!(self.phase, Phase::Certified { .. })
    }

    /// Whether the version of its state is not on disk.
    pub(crate) fn is_unsaved(&self) -> bool {
        self.standing.saved < self.version
    }

    pub(crate) fn is_unconfirmed(&self) -> bool {
        self.standing.confirmed < self.version
    }

    /// The number of its certificate or campaign.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Numbers of the series that were tried. A campaign that was not has spent nothing.
    pub(crate) fn spent(&self) -> u32 {
        if self.is_certified() { self.index } else { self.index.saturating_sub(1) }
    }

    /// What the devices of the class may rely on. A certificate that is not on disk may be forgotten, and its share of delta
    /// spent once more: nobody gets it.
    fn state(&self, now: u64) -> ClassState {
        let boost_until = self.shift_boost_until.max(self.alarm_boost_until);
        ClassState {
            subject: self.subject.clone(),
            version: self.version,
            revoked: self.revoked.iter().map(|id| subject::digest(*id)).collect(),
            boost_until_unix_secs: if boost_until > now { boost_until } else { 0 },
            certificate: match &self.phase {
                Phase::Certified { certificate, .. } if !self.is_unsaved() => Some(certificate.to_json()),
                Phase::Gathering(_) | Phase::Certified { .. } => None,
            },
        }
    }

    /// Nothing was heard for long, and no device can still rely on its certificate.
    pub(crate) fn is_silent(&self, settings: &PoolSettings, now: u64) -> bool {
        !self.is_certified() && now.saturating_sub(self.heard_unix_secs) > settings.forget_secs
    }

    /// Begins anew where the settings promise something else than when the state was saved.
    pub(crate) fn retarget(&mut self, settings: &PoolSettings, now: u64, actions: &mut Vec<PoolAction>) {
        if self.target == settings.target {
            return;
        }
        self.target = settings.target;
        self.own = OwnCertificates::new(settings);
        if let Phase::Certified { id, .. } = self.phase {
            self.revoke(id);
        }
        self.gather(settings, now);
        self.publish(now, actions);
        actions.push(self.note(|subject| PoolNote::Retargeted { subject }));
    }

    pub(crate) fn evidence(
        &mut self,
        device: &DeviceId,
        evidence: &Evidence,
        settings: &PoolSettings,
        now: u64,
        actions: &mut Vec<PoolAction>,
    ) -> Result<(), Ignored> {
        self.devices.count(device, evidence.boot, evidence.seq, now, settings.max_devices)?;
        self.heard_unix_secs = now;
        let before = actions.len();
        let audits = self.take_audits(evidence);
        let labels = self.take_labels(evidence, now);
        actions.push(PoolAction::Note(PoolNote::Counted { audits, labels }));
        self.decide_on_own(settings, now, actions);
        self.decide_on_alarm(settings, now, actions);
        self.decide_on_boost(settings, now, actions);
        self.decide_on_campaign(settings, now, actions);
        if !actions[before..].iter().any(|action| matches!(action, PoolAction::Persist(_))) {
            self.standing.dirty_since.get_or_insert(now);
        }
        Ok(())
    }

    /// What was to be saved is, or could not be; a state that waited for it is published.
    pub(crate) fn saved(&mut self, durable: bool, now: u64, actions: &mut Vec<PoolAction>) {
        let was_unsaved = self.is_unsaved();
        if durable {
            self.standing.saved = self.version;
        } else {
            self.standing.dirty_since = Some(now);
        }
        if self.standing.due {
            self.say(now, actions);
        } else if durable && was_unsaved && self.is_certified() {
            // Devices have obeyed this version, without the certificate.
            self.publish(now, actions);
        }
    }

    /// A broker that comes back may have lost the state.
    pub(crate) fn link(&mut self, up: bool, now: u64, actions: &mut Vec<PoolAction>) {
        self.standing.confirmed = 0;
        if up && !self.standing.due {
            self.say(now, actions);
        }
    }

    pub(crate) fn confirmed(&mut self, version: u64) {
        self.standing.confirmed = self.standing.confirmed.max(version);
    }

    pub(crate) fn tick(&mut self, settings: &PoolSettings, link_up: bool, now: u64, actions: &mut Vec<PoolAction>) {
        if matches!(&self.phase, Phase::Certified { certificate, .. } if now >= certificate.expires_unix_secs) {
            self.gather(settings, now);
            self.publish(now, actions);
            actions.push(self.note(|subject| PoolNote::Expired { subject }));
        }
        self.devices.forget(now.saturating_sub(settings.forget_secs));
        if self.standing.dirty_since.is_some_and(|since| now.saturating_sub(since) >= settings.persist_secs) {
            self.persist(actions);
        }
        if link_up && self.is_unconfirmed() && self.standing.may_say_again(now) {
            self.say(now, actions);
        }
    }

    pub(crate) fn stop(&mut self, actions: &mut Vec<PoolAction>) {
        if self.standing.dirty_since.is_some() {
            self.persist(actions);
        }
    }

    /// Returns how many audits entered an alarm.
    fn take_audits(&mut self, evidence: &Evidence) -> u64 {
        let Some(id) = evidence.certificate.map(subject::fingerprint) else { return 0 };
        if self.revoked.contains(&id) {
            return 0;
        }
        match &mut self.phase {
            Phase::Certified { id: of_class, watch, .. } if *of_class == id => {
                watch.scores(&evidence.histogram);
                evidence.audits.iter().for_each(|audit| watch.label(audit.differs));
                watch.offloaded(evidence.offloaded.into());
            }
            _ if !self.own.take(id, evidence) => return 0,
            _ => {}
        }
        evidence.audits.len() as u64 + u64::from(evidence.offloaded)
    }

    /// Returns how many labels the campaign took.
    fn take_labels(&mut self, evidence: &Evidence, now: u64) -> usize {
        let Phase::Gathering(campaign) = &mut self.phase else { return 0 };
        if evidence.class_version < self.since_version {
            return 0;
        }
        let taken = evidence.labels.iter().filter(|label| {
            campaign.on_label(subject::role(label.role), subject::features(&label.features), label.differs, now)
        });
        taken.count()
    }

    fn decide_on_own(&mut self, settings: &PoolSettings, now: u64, actions: &mut Vec<PoolAction>) {
        if !self.own.alarm.alarmed() {
            return;
        }
        let own = std::mem::replace(&mut self.own, OwnCertificates::new(settings));
        own.ids.iter().for_each(|id| self.revoke(*id));
        self.alarm_boost_until = now.saturating_add(settings.boost_secs);
        if let Phase::Gathering(_) = self.phase {
            // What was gathered may be from before the drift.
            self.gather(settings, now);
        }
        self.publish(now, actions);
        actions.push(self.alarm_note(&own.alarm, own.ids.len()));
    }

    fn decide_on_alarm(&mut self, settings: &PoolSettings, now: u64, actions: &mut Vec<PoolAction>) {
        let Phase::Certified { id, watch, .. } = &self.phase else { return };
        if !watch.alarmed() {
            return;
        }
        let (id, alarm) = (*id, watch.alarm().clone());
        self.revoke(id);
        self.alarm_boost_until = now.saturating_add(settings.boost_secs);
        self.gather(settings, now);
        self.publish(now, actions);
        actions.push(self.alarm_note(&alarm, 1));
    }

    fn decide_on_boost(&mut self, settings: &PoolSettings, now: u64, actions: &mut Vec<PoolAction>) {
        let wanted = matches!(&self.phase, Phase::Certified { watch, .. } if watch.boosted());
        let on = self.shift_boost_until > now;
        let fades = self.shift_boost_until <= now.saturating_add(settings.boost_secs / 2);
        self.shift_boost_until = match (wanted, on) {
            (true, _) if fades => now.saturating_add(settings.boost_secs),
            (false, true) => 0,
            _ => return,
        };
        self.publish(now, actions);
        if wanted != on {
            actions.push(self.note(|subject| PoolNote::Boost { subject, on: wanted }));
        }
    }

    fn decide_on_campaign(&mut self, settings: &PoolSettings, now: u64, actions: &mut Vec<PoolAction>) {
        let Phase::Gathering(campaign) = &self.phase else { return };
        if !campaign.is_full() {
            return;
        }
        let (about, spending) = (subject::certified(&self.subject), Spending::Series(self.index));
        let issued = campaign.finish(&self.target, spending, about, now, settings.lifetime_secs);
        let (plan, index) = (campaign.plan(), self.index);
        let note = match issued {
            Ok(certificate) => self.certify(certificate, settings),
            Err(error) => {
                // Labels are used for one certificate only; more of them where more would do.
                let more = usize::try_from(error.needs_labels.unwrap_or(0)).unwrap_or(usize::MAX);
                let calibration = plan.calibration.saturating_add(more);
                let next = Campaign::new(hedge_certify::Plan { calibration, ..plan });
                let next_labels = next.plan().calibration;
                self.phase = Phase::Gathering(next);
                self.index += 1;
                let why = error.to_string();
                self.note(|subject| PoolNote::NotCertified { subject, index, next_labels, why })
            }
        };
        self.publish(now, actions);
        actions.push(note);
    }

    fn certify(&mut self, certificate: Certificate, settings: &PoolSettings) -> PoolAction {
        let watch = PooledMonitor::new(settings.monitor, &certificate.grid).expect("settings are checked when made");
        let (id, index, labels, offload) = (certificate.id(), certificate.index, certificate.n, certificate.offload);
        self.phase = Phase::Certified { id, certificate: Box::new(certificate), watch: Box::new(watch) };
        self.note(|subject| PoolNote::Issued { subject, certificate: id, index, labels, offload })
    }

    /// Begins a campaign, of labels from devices that know the state which is published next. One that was not tried has
    /// spent nothing: its number is used again.
    fn gather(&mut self, settings: &PoolSettings, now: u64) {
        self.index += u32::from(self.is_certified());
        self.phase = Phase::Gathering(Campaign::new(settings.plan));
        self.since_version = self.next_version(now);
        self.shift_boost_until = 0;
    }

    fn revoke(&mut self, id: Fingerprint) {
        self.revoked.push(id);
        if self.revoked.len() > MAX_REVOKED {
            self.revoked.remove(0);
        }
    }

    /// Begins a version of the state; it is published once it is saved.
    fn publish(&mut self, now: u64, actions: &mut Vec<PoolAction>) {
        self.version = self.next_version(now);
        self.standing.due = true;
        self.persist(actions);
    }

    fn persist(&mut self, actions: &mut Vec<PoolAction>) {
        self.standing.dirty_since = None;
        actions.push(PoolAction::Persist(self.subject.hash()));
    }

    fn say(&mut self, now: u64, actions: &mut Vec<PoolAction>) {
        self.standing.said(now);
        actions.push(PoolAction::Publish(Box::new(self.state(now))));
    }

    fn next_version(&self, now: u64) -> u64 {
        now.saturating_mul(VERSIONS_PER_SEC).max(self.version.saturating_add(1))
    }

    fn alarm_note(&self, alarm: &EProcess, revoked: usize) -> PoolAction {
        let (audits, differing) = (alarm.labels(), alarm.differing());
        self.note(|subject| PoolNote::Alarm { subject, audits, differing, revoked })
    }

    fn note(&self, note: impl FnOnce(Box<RouteSubject>) -> PoolNote) -> PoolAction {
        PoolAction::Note(note(Box::new(self.subject.clone())))
    }
}
