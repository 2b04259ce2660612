//! Evidence of many devices, pooled: a drift of the whole fleet is found by the whole fleet, and labels that no device has
//! enough of make a certificate for its class.
//!
//! ```text
//!            evidence ─┬ audits, scores ─> watch of the class's certificate ─┬ alarm ─> revoke, boost, gather again
//!                      │                                                     └ shift ─> boost
//!                      └ labels ─────────> campaign ── full ─> certificate m, by delta_m ─> class state
//! ```
//!
//! # Invariants
//!
//! 1. Evidence counts once, and only for its own subject, contract and alpha, and for a cloud model that is served now.
//! 2. A campaign is tried once; the m-th spends the m-th share of delta, whatever became of those before. What a decision
//!    rests on is in the state before it is published ([`PoolAction::Persist`] comes before [`PoolAction::Publish`]).
//! 3. Labels that came about before a device heard of an alarm are not part of the campaign after it.
//! 4. The version of a class's states grows, also where the state of a run before is lost.
//! 5. Everything held is bounded by [`PoolSettings`]: classes, devices of a class, labels of a campaign, certificates.
//!
//! Devices are trusted to report what they saw: the broker says who they are, and a device that lies can raise an alarm or
//! spoil a certificate of its own class, not of another.

mod class;
mod devices;
mod settings;
mod subject;

use std::collections::BTreeMap;

use hedge_certify::Fingerprint;
use hedge_wire::{ClassState, DeviceId, Digest, Evidence, Hash16, ModelId, RouteSubject};

use self::class::Class;
pub use self::settings::{InvalidPool, PoolSettings};

/// What happens to a pool.
#[derive(Debug)]
pub enum PoolEvent {
    /// Evidence was delivered and decoded.
    Evidence {
        /// The device, from the topic, never from the body.
        device: DeviceId,
        /// The body.
        evidence: Box<Evidence>,
    },
    /// Time passes; wanted once a second.
    Tick,
}

/// What the shell must do, in this order.
#[derive(Debug, PartialEq)]
pub enum PoolAction {
    /// Write [`Pool::save`] of this class to disk, durably, before what follows.
    Persist(Hash16),
    /// Sign the state and publish it, retained. Where it could not be made durable, the certificate is left out.
    Publish(Box<ClassState>),
    /// Delete the class's state from disk and from the broker.
    Forget(Box<RouteSubject>),
    /// Count and log it.
    Note(PoolNote),
}

/// What came to pass, for people.
#[derive(Debug, Clone, PartialEq)]
pub enum PoolNote {
    /// Evidence was taken in.
    Counted {
        /// Audits that the alarm took, those of offloaded requests included.
        audits: u64,
        /// Labels that the campaign took.
        labels: usize,
    },
    /// Evidence was not taken in.
    Ignored(Ignored),
    /// Certificates of a class are revoked: its answers differ from the cloud's more often than alpha.
    Alarm {
        /// Whose.
        subject: Box<RouteSubject>,
        /// Audits up to the alarm.
        audits: u64,
        /// Of these, how many differed.
        differing: u64,
        /// How many certificates are revoked.
        revoked: usize,
    },
    /// The class is asked to audit more, or no longer to.
    Boost {
        /// Whose.
        subject: Box<RouteSubject>,
        /// Whether more.
        on: bool,
    },
    /// A certificate for the class.
    Issued {
        /// Whose.
        subject: Box<RouteSubject>,
        /// Its id.
        certificate: Fingerprint,
        /// Its number in the series, which says how much of delta it spends.
        index: u32,
        /// Calibration labels.
        labels: u64,
        /// Share of requests that it offloads, 0..1.
        offload: f64,
    },
    /// A campaign without a certificate; the next has begun.
    NotCertified {
        /// Whose.
        subject: Box<RouteSubject>,
        /// Its number in the series.
        index: u32,
        /// Calibration labels that the next campaign gathers.
        next_labels: usize,
        /// Why.
        why: String,
    },
    /// The class's certificate came to its end.
    Expired {
        /// Whose.
        subject: Box<RouteSubject>,
    },
    /// The class's certificate is void, because the target of this gateway is another than when it was issued.
    Retargeted {
        /// Whose.
        subject: Box<RouteSubject>,
    },
    /// Nothing was heard of the class for a long time.
    Forgotten {
        /// Whose.
        subject: Box<RouteSubject>,
    },
}

/// Why evidence was not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// The device's contract or alpha is not this gateway's.
    Target,
    /// The cloud model is not, or no longer, served here.
    CloudModel,
    /// There is no room for another class.
    Classes,
    /// There is no room for another device of the class.
    Devices,
    /// It was counted before.
    Repeated,
}

impl Ignored {
    /// All reasons.
    pub const ALL: [Self; 5] = [Self::Target, Self::CloudModel, Self::Classes, Self::Devices, Self::Repeated];

    /// The reason's name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Target => "target",
            Self::CloudModel => "cloud_model",
            Self::Classes => "classes",
            Self::Devices => "devices",
            Self::Repeated => "repeated",
        }
    }
}

/// A class's saved state that cannot be gone on with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Not what [`Pool::save`] wrote.
    #[error("the state of a class cannot be read: {0}")]
    Unreadable(String),
    /// There is no room for it.
    #[error("there is no room for the state of another class: raise pool.max_classes")]
    NoRoom,
}

/// The state of the classes; see the module's invariants.
#[derive(Debug)]
pub struct Pool {
    settings: PoolSettings,
    /// Which cloud model's verdicts count, by model.
    served: BTreeMap<ModelId, Digest>,
    /// At most `max_classes`; few, so they are searched.
    classes: Vec<Class>,
}

impl Pool {
    /// A pool without classes, for a gateway that serves these cloud models.
    pub fn new(settings: PoolSettings, served: impl IntoIterator<Item = (ModelId, Digest)>) -> Self {
        Self { settings, served: served.into_iter().collect(), classes: Vec::new() }
    }

    /// Takes back a class that [`Pool::save`] wrote, in this run or one before. A certificate for another target than the one
    /// of now is void.
    ///
    /// # Errors
    ///
    /// [`RestoreError`]; the pool is as before.
    pub fn restore(&mut self, saved: &[u8], now_unix_secs: u64) -> Result<Vec<PoolAction>, RestoreError> {
        let mut class = Class::read(saved)?;
        self.classes.retain(|other| other.subject() != class.subject());
        if self.classes.len() >= self.settings.max_classes {
            return Err(RestoreError::NoRoom);
        }
        let mut actions = Vec::new();
        class.retarget(&self.settings, now_unix_secs, &mut actions);
        self.classes.push(class);
        Ok(actions)
    }

    /// The bytes of a class's state, exact: restored, it goes on as if nothing had happened. `None` where there is no such
    /// class.
    #[must_use]
    pub fn save(&self, class: Hash16) -> Option<Vec<u8>> {
        self.classes.iter().find(|other| other.subject().hash() == class).map(Class::write)
    }

    /// Takes an event; `now_unix_secs` is the time in seconds since 1970.
    pub fn handle(&mut self, event: PoolEvent, now_unix_secs: u64) -> Vec<PoolAction> {
        let mut actions = Vec::new();
        match event {
            PoolEvent::Evidence { device, evidence } => {
                if let Err(ignored) = self.evidence(&device, &evidence, now_unix_secs, &mut actions) {
                    actions.push(PoolAction::Note(PoolNote::Ignored(ignored)));
                }
            }
            PoolEvent::Tick => self.tick(now_unix_secs, &mut actions),
        }
        actions
    }

    /// The states of all classes, for a broker that may have lost them.
    pub fn states(&self, now_unix_secs: u64) -> impl Iterator<Item = ClassState> {
        self.classes.iter().map(move |class| class.state(now_unix_secs))
    }

    /// Classes, and of these the ones with a certificate.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.classes.len(), self.classes.iter().filter(|class| class.is_certified()).count())
    }

    fn evidence(
        &mut self,
        device: &DeviceId,
        evidence: &Evidence,
        now: u64,
        actions: &mut Vec<PoolAction>,
    ) -> Result<(), Ignored> {
        let subject = &evidence.subject;
        if self.served.get(&subject.model) != Some(&subject.cloud) {
            return Err(Ignored::CloudModel);
        }
        if !self.settings.is_target_of(evidence) {
            return Err(Ignored::Target);
        }
        let known = self.classes.iter().position(|class| class.subject() == subject);
        let index = match known {
            Some(index) => index,
            None if self.classes.len() >= self.settings.max_classes => return Err(Ignored::Classes),
            None => {
                self.classes.push(Class::begin(subject.clone(), &self.settings, now, actions));
                self.classes.len() - 1
            }
        };
        self.classes[index].evidence(device, evidence, &self.settings, now, actions)
    }

    fn tick(&mut self, now: u64, actions: &mut Vec<PoolAction>) {
        for class in &mut self.classes {
            class.tick(&self.settings, now, actions);
        }
        let forgotten = |class: &Class| class.is_forgotten(&self.settings, now);
        for class in self.classes.iter().filter(|class| forgotten(class)) {
            let subject = Box::new(class.subject().clone());
            actions.push(PoolAction::Forget(subject.clone()));
            actions.push(PoolAction::Note(PoolNote::Forgotten { subject }));
        }
        self.classes.retain(|class| !forgotten(class));
    }
}
