//! Evidence of many devices, pooled: a drift of the whole fleet is found by the whole fleet, and labels that no device has
//! enough of make a certificate for its class.
//!
//! ```text
//!            evidence ─┬ audits, scores ─> watch of the class's certificate ─┬ alarm ─> revoke, boost, gather again
//!                      │                                                     └ shift ─> boost
//!                      └ labels ─────────> campaign ── full ─> certificate m, by delta_m ─> class state
//!
//!            decision ─> Persist ─> Saved ─> Publish ─> Confirmed, or published again
//! ```
//!
//! # Invariants
//!
//! 1. Evidence counts once, and only for its own subject, contract and alpha, and for a cloud model that is served now.
//! 2. A campaign is tried once; the m-th spends the m-th share of delta, whatever became of those before. What a decision
//!    rests on is on disk before it is published: a state follows upon [`PoolEvent::Saved`], and where nothing could be
//!    saved it has no certificate. A class whose state is gone, forgotten or damaged, goes on after the last number that it
//!    may have spent ([`Pool::spent`]), never at the first.
//! 3. Labels that came about before a device heard of an alarm are not part of the campaign after it.
//! 4. The version of a class's states grows, also where the state of a run before is lost.
//! 5. Everything held is bounded by [`PoolSettings`]: classes, devices of a class, labels of a campaign, certificates.
//! 6. A state is published until the broker has confirmed it, and again whenever the link comes up.
//!
//! Devices are trusted to report what they saw: the broker says who they are, and a device that lies can raise an alarm or
//! spoil a certificate of its own class, not of another.

mod class;
mod devices;
mod note;
mod own;
mod settings;
mod standing;
mod subject;

use std::collections::BTreeMap;

use hedge_wire::{ClassState, DeviceId, Digest, Evidence, Hash16, ModelId, RouteSubject};

use self::class::Class;
pub use self::note::{Ignored, PoolNote};
pub use self::settings::{InvalidPool, PoolSettings};

/// The most classes whose spent numbers are remembered without their state; one more is kept with its state instead.
const MAX_PAST: usize = 65_536;

/// Classes that one device may fill alone: so that none takes the room of all others, whatever it says it runs.
const MAX_LONE_CLASSES: usize = 16;

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
    /// What [`PoolAction::Persist`] asked for was done, or could not be.
    Saved {
        /// Which class.
        class: Hash16,
        /// Whether it is on disk.
        durable: bool,
    },
    /// The broker can be reached from now on, or no longer.
    Link {
        /// Whether it can.
        up: bool,
    },
    /// The broker has a state.
    Confirmed {
        /// Of which class.
        class: Hash16,
        /// Its version.
        version: u64,
    },
    /// Time passes; wanted once a second.
    Tick,
    /// The gateway is about to stop: what is not on disk has to be written.
    Stop,
}

/// What the shell must do, in this order.
#[derive(Debug, PartialEq)]
pub enum PoolAction {
    /// Write [`Pool::save`] of this class to disk, durably, and answer with [`PoolEvent::Saved`].
    Persist(Hash16),
    /// Sign the state and publish it, retained.
    Publish(Box<ClassState>),
    /// Delete the class's state from disk and from the broker, but keep how much of its series is spent.
    Forget {
        /// Whose.
        subject: Box<RouteSubject>,
        /// Numbers of the series that it has spent; 0 is none.
        spent: u32,
    },
    /// Count and log it.
    Note(PoolNote),
}

/// A class's saved state that cannot be gone on with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Not what [`Pool::save`] wrote.
    #[error("the state of a class cannot be read: {0}")]
    Unreadable(String),
    /// The model is not, or no longer, pooled here.
    #[error("the model {model} is not pooled here")]
    NotPooled {
        /// Which.
        model: ModelId,
    },
    /// There is no room for it.
    #[error("there is no room for another class of the model {model}")]
    NoRoom {
        /// Which.
        model: ModelId,
    },
}

/// A class as it is to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The number in the series up to which it may have spent: what must be remembered even where `state` is lost.
    pub index: u32,
    /// Its state, for [`Pool::restore`].
    pub state: Vec<u8>,
}

/// How many there are of what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolCounts {
    /// Classes.
    pub classes: usize,
    /// Classes with a certificate.
    pub certified: usize,
    /// Classes whose last decision is not on disk.
    pub unsaved: usize,
    /// Classes whose state the broker has not confirmed.
    pub unconfirmed: usize,
}

/// A model whose devices are pooled.
#[derive(Debug)]
struct Pooled {
    /// Whose verdicts count.
    cloud: Digest,
    settings: PoolSettings,
}

/// The state of the classes; see the module's invariants.
#[derive(Debug)]
pub struct Pool {
    models: BTreeMap<ModelId, Pooled>,
    /// At most `max_classes` of each model; few, so they are searched.
    classes: Vec<Class>,
    /// Numbers of the series that were spent by classes without a state.
    past: BTreeMap<Hash16, u32>,
    link_up: bool,
}

impl Pool {
    /// A pool without classes, for a gateway that serves these cloud models.
    pub fn new(models: impl IntoIterator<Item = (ModelId, Digest, PoolSettings)>) -> Self {
        let pooled = |(model, cloud, settings)| (model, Pooled { cloud, settings });
        let models = models.into_iter().map(pooled).collect();
        Self { models, classes: Vec::new(), past: BTreeMap::new(), link_up: false }
    }

    /// Takes back a class that [`Pool::save`] wrote, in this run or one before. A certificate for another target than the one
    /// of now is void.
    ///
    /// # Errors
    ///
    /// [`RestoreError`]; the pool is as before.
    pub fn restore(&mut self, state: &[u8], now_unix_secs: u64) -> Result<Vec<PoolAction>, RestoreError> {
        let mut class = Class::read(state)?;
        let model = class.subject().model.clone();
        let Some(Pooled { settings, .. }) = self.models.get(&model) else {
            return Err(RestoreError::NotPooled { model });
        };
        self.classes.retain(|other| other.subject() != class.subject());
        if self.classes_of(&model) >= settings.max_classes {
            return Err(RestoreError::NoRoom { model });
        }
        let mut actions = Vec::new();
        class.retarget(settings, now_unix_secs, &mut actions);
        self.classes.push(class);
        Ok(actions)
    }

    /// A class whose state is gone may have spent the numbers up to `index` of its series: when it begins anew, it goes on
    /// behind them.
    pub fn spent(&mut self, class: Hash16, index: u32) {
        let spent = self.past.entry(class).or_default();
        *spent = index.max(*spent);
    }

    /// What is to be kept of a class: restored, it goes on as if nothing had happened. `None` where there is no such class.
    #[must_use]
    pub fn save(&self, class: Hash16) -> Option<Snapshot> {
        let class = self.classes.iter().find(|other| other.subject().hash() == class)?;
        Some(Snapshot { index: class.index(), state: class.write() })
    }

    /// Takes an event; `now_unix_secs` is the time in seconds since 1970, which does not go back.
    pub fn handle(&mut self, event: PoolEvent, now_unix_secs: u64) -> Vec<PoolAction> {
        let (now, mut actions) = (now_unix_secs, Vec::new());
        match event {
            PoolEvent::Evidence { device, evidence } => {
                if let Err(ignored) = self.evidence(&device, &evidence, now, &mut actions) {
                    actions.push(PoolAction::Note(PoolNote::Ignored(ignored)));
                }
            }
            PoolEvent::Saved { class, durable } => {
                if let Some(class) = self.class_mut(class) {
                    class.saved(durable, now, &mut actions);
                }
            }
            PoolEvent::Link { up } => {
                self.link_up = up;
                self.classes.iter_mut().for_each(|class| class.link(up, now, &mut actions));
            }
            PoolEvent::Confirmed { class, version } => {
                if let Some(class) = self.class_mut(class) {
                    class.confirmed(version);
                }
            }
            PoolEvent::Tick => self.tick(now, &mut actions),
            PoolEvent::Stop => self.classes.iter_mut().for_each(|class| class.stop(&mut actions)),
        }
        actions
    }

    /// How many there are of what.
    #[must_use]
    pub fn counts(&self) -> PoolCounts {
        let count = |is: fn(&Class) -> bool| self.classes.iter().filter(|class| is(class)).count();
        PoolCounts {
            classes: self.classes.len(),
            certified: count(Class::is_certified),
            unsaved: count(Class::is_unsaved),
            unconfirmed: count(Class::is_unconfirmed),
        }
    }

    fn evidence(
        &mut self,
        device: &DeviceId,
        evidence: &Evidence,
        now: u64,
        actions: &mut Vec<PoolAction>,
    ) -> Result<(), Ignored> {
        let subject = &evidence.subject;
        let Some(Pooled { settings, .. }) =
            self.models.get(&subject.model).filter(|model| model.cloud == subject.cloud)
        else {
            return Err(Ignored::CloudModel);
        };
        if !settings.is_target_of(evidence) {
            return Err(Ignored::Target);
        }
        let known = self.classes.iter().position(|class| class.subject() == subject);
        let index = match known {
            Some(index) => index,
            None if self.classes_of(&subject.model) >= settings.max_classes => return Err(Ignored::Classes),
            None if self.lone_classes_of(device) >= MAX_LONE_CLASSES => return Err(Ignored::Classes),
            None => {
                let spent = self.past.get(&subject.hash()).copied().unwrap_or(0);
                self.classes.push(Class::begin(subject.clone(), spent, settings, now, actions));
                self.classes.len() - 1
            }
        };
        self.classes[index].evidence(device, evidence, settings, now, actions)
    }

    fn tick(&mut self, now: u64, actions: &mut Vec<PoolAction>) {
        for class in &mut self.classes {
            if let Some(model) = self.models.get(&class.subject().model) {
                class.tick(&model.settings, self.link_up, now, actions);
            }
        }
        // The broker has to forget as well.
        if self.link_up {
            self.forget(now, actions);
        }
    }

    fn forget(&mut self, now: u64, actions: &mut Vec<PoolAction>) {
        let (models, past) = (&self.models, &mut self.past);
        self.classes.retain(|class| {
            let forgotten =
                models.get(&class.subject().model).is_some_and(|model| class.is_silent(&model.settings, now));
            let (hash, spent) = (class.subject().hash(), class.spent());
            let room = spent == 0 || past.contains_key(&hash) || past.len() < MAX_PAST;
            if !forgotten || !room {
                return true;
            }
            if spent > 0 {
                past.insert(hash, spent);
            }
            let subject = Box::new(class.subject().clone());
            actions.push(PoolAction::Forget { subject: subject.clone(), spent });
            actions.push(PoolAction::Note(PoolNote::Forgotten { subject }));
            false
        });
    }

    fn classes_of(&self, model: &ModelId) -> usize {
        self.classes.iter().filter(|class| class.subject().model == *model).count()
    }

    fn lone_classes_of(&self, device: &DeviceId) -> usize {
        self.classes.iter().filter(|class| class.is_only_of(device)).count()
    }

    fn class_mut(&mut self, class: Hash16) -> Option<&mut Class> {
        self.classes.iter_mut().find(|other| other.subject().hash() == class)
    }
}
