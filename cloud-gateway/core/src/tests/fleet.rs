//! A fleet of simulated devices and the pool that hears them: from the first label to a certificate, through a drift, to the
//! next certificate. The devices are small: they obey the class state, and report every tenth request.

use std::collections::VecDeque;

use hedge_certify::{Certificate, Contract, Features, Plan, Target};
use hedge_wire::{
    AuditLabel, BootId, ClassState, DeviceId, Digest, Evidence, GroupId, LabelFeatures, ModelId, RouteLabel,
    RouteSubject, SplitRole,
};

use super::splitmix;
use crate::{Pool, PoolAction, PoolEvent, PoolNote, PoolSettings, Snapshot};

pub(super) const ALPHA: f64 = 0.01;
const DEVICES: usize = 100;
const AUDIT_RATE: f64 = 0.02;
const BOOST_RATE: f64 = 0.2;
const REPORT_EVERY: usize = 10;
pub(super) const START: u64 = 1_800_000_000;

/// What requests are like: a logit that leads by up to `lead`, and how often the edge is wrong about it.
#[derive(Clone, Copy)]
pub(super) struct World {
    pub(super) lead: f64,
    pub(super) wrong: fn(f64) -> f64,
}

/// Wrong more often the less sure it is.
pub(super) const CALM: World = World { lead: 12.0, wrong: |lead| 0.5 * (-lead).exp() };

/// Less sure, and wrong in three of a hundred however sure: three times alpha.
const DRIFTED: World = World { lead: 10.0, wrong: |lead| (0.5 * (-lead).exp()).max(0.03) };

/// Surer and never more wrong: a shift that does no harm.
const EASIER: World = World { lead: 16.0, wrong: |lead| 0.5 * (-lead).exp() };

struct Device {
    id: DeviceId,
    seq: u64,
    version: u64,
    certificate: Option<(Digest, Certificate)>,
    boosted: bool,
    report: Evidence,
}

pub(super) struct Fleet {
    pub(super) pool: Pool,
    devices: Vec<Device>,
    random: u64,
    now: u64,
    requests: usize,
    pub(super) notes: Vec<PoolNote>,
}

pub(super) fn subject() -> RouteSubject {
    RouteSubject {
        model: ModelId::from_name("digits"),
        edge: Digest([0xe1; 32]),
        cloud: Digest([0xc1; 32]),
        class: GroupId::parse("cam").expect("a good id"),
        transforms: Digest([0x71; 32]),
        comparison: "top-class".to_owned(),
    }
}

pub(super) fn settings(contract: Contract) -> PoolSettings {
    let target = Target::new(contract, ALPHA, 0.05).expect("a good target");
    let plan = Plan { fit: 500, tune: 1_000, calibration: 4_000 };
    PoolSettings::new(target, 0.05, plan, 30 * 86_400).expect("good settings")
}

pub(super) fn pool(contract: Contract) -> Pool {
    pool_with(settings(contract))
}

pub(super) fn pool_with(settings: PoolSettings) -> Pool {
    Pool::new([(subject().model, subject().cloud, settings)])
}

/// Carries out `actions` on a disk that takes everything, or nothing; all actions, with those that it led to.
pub(super) fn carry_out(pool: &mut Pool, actions: Vec<PoolAction>, durable: bool, now: u64) -> Vec<PoolAction> {
    let (mut done, mut waiting) = (Vec::new(), VecDeque::from(actions));
    while let Some(action) = waiting.pop_front() {
        if let PoolAction::Persist(class) = action {
            waiting.extend(pool.handle(PoolEvent::Saved { class, durable }, now));
        }
        done.push(action);
    }
    done
}

/// Evidence without anything in it.
pub(super) fn evidence(contract: hedge_wire::Contract, seq: u64) -> Evidence {
    Evidence {
        boot: BootId(1),
        seq,
        subject: subject(),
        contract,
        alpha: ALPHA,
        class_version: 0,
        certificate: None,
        audits: Vec::new(),
        histogram: Vec::new(),
        labels: Vec::new(),
        offloaded: 0,
    }
}

pub(super) fn uniform(random: &mut u64) -> f64 {
    (splitmix(random) >> 11) as f64 / (1_u64 << 53) as f64
}

pub(super) fn features(lead: f64) -> LabelFeatures {
    let Features { margin, msp, entropy, class, top } = Features::of(&[lead as f32, 0.0, -1.0, -2.0, -3.0, -4.0]);
    LabelFeatures { margin, msp, entropy, class, top }
}

/// A request of `world`, labelled for a part at random.
pub(super) fn label(world: World, random: &mut u64) -> RouteLabel {
    let lead = world.lead * uniform(random);
    let role = match uniform(random) * 5_500.0 {
        ..500.0 => SplitRole::Fit,
        ..1_500.0 => SplitRole::Tune,
        _ => SplitRole::Calibration,
    };
    RouteLabel { role, differs: uniform(random) < (world.wrong)(lead), features: features(lead) }
}

impl Fleet {
    pub(super) fn new(contract: Contract, seed: u64) -> Self {
        let report = evidence(wire(contract), 0);
        let devices = (0..DEVICES).map(|number| Device {
            id: DeviceId::parse(&format!("d{number}")).expect("a good id"),
            seq: 0,
            version: 0,
            certificate: None,
            boosted: false,
            report: report.clone(),
        });
        Self {
            pool: pool(contract),
            devices: devices.collect(),
            random: seed,
            now: START,
            requests: 0,
            notes: Vec::new(),
        }
    }

    /// Requests of all devices in turn, until `done` or `most` requests a device; returns how many a device had.
    pub(super) fn run(&mut self, world: World, most: usize, done: impl Fn(&PoolNote) -> bool) -> Option<f64> {
        let (begun, heard) = (self.requests, self.notes.len());
        while self.requests - begun < most * DEVICES {
            let number = self.requests % DEVICES;
            self.request(world, number);
            self.requests += 1;
            if self.notes[heard..].iter().any(&done) {
                return Some((self.requests - begun) as f64 / DEVICES as f64);
            }
        }
        None
    }

    fn request(&mut self, world: World, number: usize) {
        let labelled = label(world, &mut self.random);
        let coin = uniform(&mut self.random);
        let device = &mut self.devices[number];
        match &device.certificate {
            None => device.report.labels.push(labelled),
            Some((_, certificate)) => {
                let LabelFeatures { margin, msp, entropy, class, top } = labelled.features;
                let score = certificate.scoring.score(&Features { margin, msp, entropy, class, top });
                device.report.histogram[certificate.grid.bin(score)] += 1;
                let propensity = if device.boosted { BOOST_RATE } else { AUDIT_RATE };
                let local = score >= certificate.threshold;
                if coin < propensity && local {
                    let audit = AuditLabel { score, differs: labelled.differs, propensity: propensity as f32 };
                    device.report.audits.push(audit);
                } else if coin < propensity && device.report.contract == hedge_wire::Contract::System {
                    device.report.offloaded += 1;
                }
            }
        }
        // Devices report at different times.
        if (self.requests / DEVICES + number).is_multiple_of(REPORT_EVERY) {
            self.report(number);
        }
    }

    fn report(&mut self, number: usize) {
        self.now += u64::from(number == 0);
        let device = &mut self.devices[number];
        let evidence = Box::new(device.take_report());
        let actions = self.pool.handle(PoolEvent::Evidence { device: device.id.clone(), evidence }, self.now);
        for action in carry_out(&mut self.pool, actions, true, self.now) {
            match action {
                PoolAction::Publish(state) => {
                    for device in &mut self.devices {
                        device.obey(&state, self.now);
                    }
                }
                PoolAction::Note(note) => self.notes.push(note),
                PoolAction::Persist(_) | PoolAction::Forget { .. } => {}
            }
        }
    }
}

impl Device {
    /// What was found out under one certificate; what comes after is about the next.
    fn take_report(&mut self) -> Evidence {
        let bins = self.certificate.as_ref().map_or(0, |(_, certificate)| certificate.grid.len() + 1);
        let next = Evidence {
            seq: self.seq + 1,
            class_version: self.version,
            certificate: self.certificate.as_ref().map(|(id, _)| *id),
            audits: Vec::new(),
            histogram: vec![0; bins],
            labels: Vec::new(),
            offloaded: 0,
            ..self.report.clone()
        };
        self.seq += 1;
        std::mem::replace(&mut self.report, next)
    }

    fn obey(&mut self, state: &ClassState, now: u64) {
        assert!(state.version > self.version, "a state that is not newer");
        self.version = state.version;
        self.boosted = state.boost_until_unix_secs > now;
        let certificate = state.certificate.as_ref().map(|json| {
            let certificate = Certificate::read(json).expect("a good certificate");
            (Digest(certificate.id().0), certificate)
        });
        if certificate.as_ref().map(|(id, _)| id) != self.certificate.as_ref().map(|(id, _)| id) {
            self.certificate = certificate;
            self.take_report();
        }
    }
}

fn wire(contract: Contract) -> hedge_wire::Contract {
    match contract {
        Contract::System => hedge_wire::Contract::System,
        Contract::Local => hedge_wire::Contract::Local,
    }
}

fn is_issued(note: &PoolNote) -> bool {
    matches!(note, PoolNote::Issued { .. })
}

fn is_alarm(note: &PoolNote) -> bool {
    matches!(note, PoolNote::Alarm { .. })
}

fn never(_: &PoolNote) -> bool {
    false
}

#[test]
fn a_drift_of_the_fleet_is_found_within_a_hundred_requests_a_device_and_mended() {
    let (mut alarms, mut mended) = (Vec::new(), 0);
    for seed in 0..20 {
        let mut fleet = Fleet::new(Contract::Local, seed);
        assert!(fleet.run(CALM, 200, is_issued).is_some(), "seed {seed}: {:?}", fleet.notes.last());
        fleet.run(CALM, 20, never);
        let alarm = fleet.run(DRIFTED, 1_000, is_alarm);
        alarms.push(alarm.unwrap_or(f64::INFINITY));
        assert!(fleet.devices.iter().all(|device| device.certificate.is_none()), "seed {seed}");
        // The drifted world keeps no alpha of 1 % anywhere; back in the calm one the next certificate comes by itself.
        mended += u32::from(fleet.run(CALM, 400, |note| matches!(note, PoolNote::Issued { index: 2.., .. })).is_some());
    }
    alarms.sort_by(f64::total_cmp);
    println!("requests a device until the alarm: median {}, worst {}", alarms[10], alarms[19]);
    assert!(alarms[10] <= 100.0, "{alarms:?}");
    assert_eq!(mended, 20);
}

#[test]
fn a_healthy_fleet_is_left_alone_under_both_contracts() {
    let mut alarms = 0;
    for (seed, contract, world) in [
        (1, Contract::Local, CALM),
        (2, Contract::System, CALM),
        (3, Contract::Local, EASIER),
        (4, Contract::System, EASIER),
        (5, Contract::Local, CALM),
        (6, Contract::System, CALM),
    ] {
        let mut fleet = Fleet::new(contract, seed);
        assert!(fleet.run(CALM, 200, is_issued).is_some(), "seed {seed}: {:?}", fleet.notes.last());
        alarms += u32::from(fleet.run(world, 2_000, is_alarm).is_some());
    }
    assert_eq!(alarms, 0);
}

#[test]
fn a_restart_at_any_point_changes_nothing() {
    let mut fleet = Fleet::new(Contract::Local, 7);
    let (mut compared, class) = (0, subject().hash());
    for step in 0..30 {
        let world = if step < 20 { CALM } else { DRIFTED };
        fleet.run(world, 10, never);
        let Snapshot { index, state } = fleet.pool.save(class).expect("the class is there");
        let mut restored = pool(Contract::Local);
        assert_eq!(restored.restore(&state, fleet.now), Ok(vec![]));
        assert_eq!(restored.save(class), Some(Snapshot { index, state }));
        // The one goes on where the other would have.
        let next = Evidence { seq: u64::MAX, ..evidence(hedge_wire::Contract::Local, 0) };
        let event = || PoolEvent::Evidence { device: fleet.devices[0].id.clone(), evidence: Box::new(next.clone()) };
        assert_eq!(restored.handle(event(), fleet.now + 9), {
            let mut twin = pool(Contract::Local);
            let saved = fleet.pool.save(class).expect("the class is there");
            twin.restore(&saved.state, fleet.now).expect("a good state");
            twin.handle(event(), fleet.now + 9)
        });
        let saved = fleet.pool.save(class).expect("the class is there");
        let mut continued = pool(Contract::Local);
        continued.restore(&saved.state, fleet.now).expect("a good state");
        fleet.pool = continued;
        compared += 1;
    }
    assert_eq!(compared, 30);
    assert!(fleet.notes.iter().any(is_issued) && fleet.notes.iter().any(is_alarm), "{:?}", fleet.notes.last());
}
