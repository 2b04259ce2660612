//! What a pool does, one sentence a test.

use hedge_certify::{Certificate, Contract, Target};
use hedge_wire::{
    AuditLabel, BootId, ClassState, DeviceId, Digest, Evidence, GroupId, MAX_RETAINED_BYTES, RouteSubject, SigningKey,
    TenantId, limits::MAX_LABELS,
};

use super::fleet::{ALPHA, CALM, START, carry_out, evidence, label, pool, pool_with, settings, subject};
use crate::{Ignored, Pool, PoolAction, PoolCounts, PoolEvent, PoolNote, PoolSettings, RestoreError};

struct Bench {
    pool: Pool,
    now: u64,
    random: u64,
    seq: u64,
    /// Whether the disk takes anything.
    durable: bool,
}

impl Bench {
    fn new() -> Self {
        Self { pool: pool(Contract::Local), now: START, random: 1, seq: 0, durable: true }
    }

    fn with(settings: PoolSettings) -> Self {
        Self { pool: pool_with(settings), ..Self::new() }
    }

    fn hear(&mut self, device: &str, evidence: Evidence) -> Vec<PoolAction> {
        let device = DeviceId::parse(device).expect("a good id");
        self.handle(PoolEvent::Evidence { device, evidence: Box::new(evidence) })
    }

    /// All that comes of an event, and of what it led to.
    fn handle(&mut self, event: PoolEvent) -> Vec<PoolAction> {
        let actions = self.pool.handle(event, self.now);
        carry_out(&mut self.pool, actions, self.durable, self.now)
    }

    /// Evidence with the next sequence number.
    fn next(&mut self) -> Evidence {
        self.seq += 1;
        evidence(hedge_wire::Contract::Local, self.seq)
    }

    fn tick(&mut self, secs: u64) -> Vec<PoolAction> {
        self.now += secs;
        self.handle(PoolEvent::Tick)
    }

    /// Labels of devices that have the state `class_version`, until something is published.
    fn gather(&mut self, class_version: u64) -> ClassState {
        for _ in 0..100 {
            let labels = (0..MAX_LABELS).map(|_| label(CALM, &mut self.random)).collect();
            let evidence = Evidence { labels, class_version, ..self.next() };
            let state = published(&self.hear("d1", evidence));
            if let Some(state) = state.filter(|state| state.certificate.is_some()) {
                return state;
            }
        }
        panic!("no certificate");
    }

    /// Audits under a certificate.
    fn audit(&mut self, certificate: Digest, differing: usize) -> Vec<PoolAction> {
        let audits = vec![AuditLabel { score: 0.9, differs: true, propensity: 0.02 }; differing];
        let evidence = Evidence { audits, certificate: Some(certificate), ..self.next() };
        self.hear("d1", evidence)
    }
}

fn published(actions: &[PoolAction]) -> Option<ClassState> {
    let state = |action: &PoolAction| match action {
        PoolAction::Publish(state) => Some((**state).clone()),
        _ => None,
    };
    actions.iter().rev().find_map(state)
}

/// Classes, and of these those with a certificate.
fn counts(bench: &Bench) -> (usize, usize) {
    (bench.pool.counts().classes, bench.pool.counts().certified)
}

fn ignored(actions: &[PoolAction]) -> Option<Ignored> {
    let reason = |action: &PoolAction| match action {
        PoolAction::Note(PoolNote::Ignored(reason)) => Some(*reason),
        _ => None,
    };
    actions.iter().find_map(reason)
}

fn counted(actions: &[PoolAction]) -> (u64, usize) {
    let counted = |action: &PoolAction| match action {
        PoolAction::Note(PoolNote::Counted { audits, labels }) => Some((*audits, *labels)),
        _ => None,
    };
    actions.iter().find_map(counted).expect("the evidence is counted")
}

fn certificate(state: &ClassState) -> Certificate {
    Certificate::read(state.certificate.as_deref().expect("a certificate")).expect("a good certificate")
}

fn id(state: &ClassState) -> Digest {
    Digest(certificate(state).id().0)
}

#[test]
fn the_first_evidence_of_a_class_takes_back_what_an_earlier_state_may_have_said() {
    let mut bench = Bench::new();
    let next = bench.next();
    let actions = bench.hear("d1", next);
    assert_eq!(actions[0], PoolAction::Persist(subject().hash()), "durable first");
    let state = published(&actions).expect("a state");
    assert_eq!((state.certificate, state.revoked, state.boost_until_unix_secs), (None, vec![], 0));
    assert_eq!(state.version, START * 1_000);
}

#[test]
fn labels_of_many_devices_make_a_certificate_that_fits_what_brokers_retain() {
    let mut bench = Bench::new();
    let state = bench.gather(0);
    let certificate = certificate(&state);
    assert_eq!((certificate.index, certificate.n), (1, 4_000));
    assert_eq!(certificate.target, Target::new(Contract::Local, ALPHA, 0.05).unwrap());
    assert_eq!(certificate.subject.device_class, "cam");
    assert!(certificate.expires_unix_secs == bench.now + 30 * 86_400);
    let full = ClassState { revoked: vec![Digest([0xa7; 32]); hedge_wire::limits::MAX_REVOKED], ..state };
    let body = full.encode_signed(&TenantId::parse("acme").unwrap(), &SigningKey::from_seed(&[1; 32])).unwrap();
    assert!(body.len() < MAX_RETAINED_BYTES, "{}", body.len());
}

#[test]
fn evidence_that_comes_twice_counts_once() {
    let mut bench = Bench::new();
    let mut evidence = bench.next();
    evidence.labels = vec![label(CALM, &mut bench.random)];
    assert_eq!(counted(&bench.hear("d1", evidence.clone())), (0, 1));
    assert_eq!(ignored(&bench.hear("d1", evidence.clone())), Some(Ignored::Repeated));
    assert_eq!(counted(&bench.hear("d2", evidence.clone())), (0, 1));
    assert_eq!(counted(&bench.hear("d1", Evidence { boot: BootId(2), ..evidence })), (0, 1));
}

#[test]
fn evidence_about_another_cloud_model_or_another_promise_is_ignored() {
    let mut bench = Bench::new();
    let base = bench.next();
    let cloud = RouteSubject { cloud: Digest([9; 32]), ..subject() };
    let foreign = Evidence { subject: cloud, ..base.clone() };
    assert_eq!(ignored(&bench.hear("d1", foreign)), Some(Ignored::CloudModel));
    let system = Evidence { contract: hedge_wire::Contract::System, ..base.clone() };
    assert_eq!(ignored(&bench.hear("d1", system)), Some(Ignored::Target));
    assert_eq!(ignored(&bench.hear("d1", Evidence { alpha: 0.02, ..base })), Some(Ignored::Target));
    assert_eq!(counts(&bench), (0, 0));
}

#[test]
fn another_edge_model_is_another_class() {
    let mut bench = Bench::new();
    bench.gather(0);
    let other = RouteSubject { edge: Digest([7; 32]), ..subject() };
    let next = Evidence { subject: other.clone(), ..bench.next() };
    let state = published(&bench.hear("d1", next)).expect("a state of its own");
    assert_eq!((state.subject, state.certificate), (other, None));
    assert_eq!(counts(&bench), (2, 1));
}

#[test]
fn classes_and_devices_are_bounded() {
    let mut bench = Bench::with(settings(Contract::Local).with_bounds(1, 2));
    let next = bench.next();
    bench.hear("d1", next.clone());
    bench.hear("d2", next.clone());
    assert_eq!(ignored(&bench.hear("d3", next.clone())), Some(Ignored::Devices));
    let class = RouteSubject { class: GroupId::parse("other").unwrap(), ..subject() };
    assert_eq!(ignored(&bench.hear("d1", Evidence { subject: class, ..next })), Some(Ignored::Classes));
}

#[test]
fn a_device_that_says_it_runs_ever_other_models_takes_no_room_from_others() {
    let mut bench = Bench::new();
    let mut hear = |device: &str, edge| {
        let subject = RouteSubject { edge: Digest([edge; 32]), ..subject() };
        let evidence = Evidence { subject, ..bench.next() };
        ignored(&bench.hear(device, evidence))
    };
    for edge in 0..20 {
        assert_eq!(hear("d1", edge), (edge >= 16).then_some(Ignored::Classes), "{edge}");
    }
    assert_eq!(hear("d2", 20), None);
    assert_eq!(hear("d2", 0), None);
    assert_eq!(hear("d1", 16), None, "the first class is not its own alone any more");
}

#[test]
fn an_alarm_revokes_the_certificate_asks_for_audits_and_begins_the_next_campaign() {
    let mut bench = Bench::new();
    let issued = bench.gather(0);
    let actions = bench.audit(id(&issued), 20);
    let state = published(&actions).expect("a state");
    assert_eq!(state.revoked, [id(&issued)]);
    assert_eq!(state.certificate, None);
    assert!(state.boost_until_unix_secs > bench.now && state.version > issued.version);
    let alarm = actions.iter().any(|action| matches!(action, PoolAction::Note(PoolNote::Alarm { revoked: 1, .. })));
    assert!(alarm, "{actions:?}");
    assert_eq!(counted(&bench.audit(id(&issued), 20)), (0, 0), "a revoked certificate is past");
    let next = bench.gather(state.version);
    assert_eq!(certificate(&next).index, 2);
    assert!(certificate(&next).spent < certificate(&issued).spent / 3.0);
    assert_eq!(next.revoked, [id(&issued)]);
}

#[test]
fn labels_from_before_the_alarm_are_not_part_of_the_campaign_after_it() {
    let mut bench = Bench::new();
    let issued = bench.gather(0);
    let state = published(&bench.audit(id(&issued), 20)).expect("a state");
    let labels = vec![label(CALM, &mut bench.random)];
    let before = Evidence { labels: labels.clone(), class_version: issued.version, ..bench.next() };
    assert_eq!(counted(&bench.hear("d1", before)), (0, 0));
    let after = Evidence { labels, class_version: state.version, ..bench.next() };
    assert_eq!(counted(&bench.hear("d1", after)), (0, 1));
}

#[test]
fn certificates_of_the_devices_own_are_pooled_and_revoked_together() {
    let mut bench = Bench::new();
    let own = [Digest([1; 32]), Digest([2; 32])];
    assert_eq!(counted(&bench.audit(own[0], 1)), (1, 0));
    let state = published(&bench.audit(own[1], 20)).expect("a state");
    assert_eq!(state.revoked, own);
    assert!(state.boost_until_unix_secs > bench.now);
    assert_eq!(counted(&bench.audit(own[0], 1)), (0, 0));
}

#[test]
fn a_shift_of_the_scores_asks_the_class_for_audits_and_ends_when_it_is_over() {
    let mut bench = Bench::new();
    let issued = bench.gather(0);
    let grid = certificate(&issued).grid;
    let scores = |calm: bool, bench: &mut Bench| {
        // As the grid has them, or all in the lowest bins.
        let mut histogram = vec![0; grid.len() + 1];
        for j in 0..500 {
            histogram[if calm { j % grid.len() } else { grid.len() - 1 }] += 1;
        }
        let evidence = Evidence { histogram, certificate: Some(id(&issued)), ..bench.next() };
        bench.hear("d1", evidence)
    };
    assert_eq!(published(&scores(true, &mut bench)), None);
    let boosted = published(&scores(false, &mut bench)).expect("a state");
    assert!(boosted.boost_until_unix_secs > bench.now && boosted.certificate == issued.certificate);
    let calmed = (0..20).find_map(|_| published(&scores(true, &mut bench))).expect("the boost ends");
    assert_eq!(calmed.boost_until_unix_secs, 0);
}

#[test]
fn a_certificate_that_expires_is_taken_back_and_labels_are_gathered_again() {
    let mut bench = Bench::new();
    let issued = bench.gather(0);
    assert_eq!(published(&bench.tick(30 * 86_400 - 1)), None);
    let state = published(&bench.tick(1)).expect("a state");
    assert_eq!((state.certificate, state.revoked), (None, vec![]));
    assert!(state.version > issued.version);
    assert_eq!(certificate(&bench.gather(state.version)).index, 2);
}

#[test]
fn a_campaign_without_a_certificate_is_followed_by_a_larger_one_with_less_of_delta() {
    let mut bench = Bench::new();
    let mut not_certified = None;
    for _ in 0..40 {
        let mut labels: Vec<_> = (0..MAX_LABELS).map(|_| label(CALM, &mut bench.random)).collect();
        labels.iter_mut().for_each(|label| label.differs = true);
        let evidence = Evidence { labels, ..bench.next() };
        let actions = bench.hear("d1", evidence);
        not_certified = not_certified.or_else(|| {
            actions.iter().find_map(|action| match action {
                PoolAction::Note(PoolNote::NotCertified { index, next_labels, .. }) => Some((*index, *next_labels)),
                _ => None,
            })
        });
    }
    assert!(matches!(not_certified, Some((1, 4_000..))), "{not_certified:?}");
    assert_eq!(counts(&bench), (1, 0));
}

#[test]
fn what_was_only_counted_is_made_durable_after_a_while() {
    let mut bench = Bench::new();
    let first = bench.next();
    bench.hear("d1", first);
    assert_eq!(bench.tick(4), []);
    assert_eq!(bench.tick(1), [PoolAction::Persist(subject().hash())]);
    assert_eq!(bench.tick(100), []);
    let second = bench.next();
    bench.hear("d1", second);
    assert_eq!(bench.handle(PoolEvent::Stop), [PoolAction::Persist(subject().hash())]);
    assert_eq!(bench.handle(PoolEvent::Stop), []);
}

#[test]
fn a_class_that_is_silent_for_long_is_forgotten_on_disk_and_at_the_broker() {
    let mut bench = Bench::new();
    let next = bench.next();
    bench.hear("d1", next);
    bench.tick(60 * 86_400 + 1);
    assert_eq!(counts(&bench), (1, 0), "not while the broker would keep it");
    bench.handle(PoolEvent::Link { up: true });
    let actions = bench.tick(0);
    let forgotten = PoolAction::Forget { subject: Box::new(subject()), spent: 0 };
    assert!(actions.contains(&forgotten), "{actions:?}");
    assert_eq!(counts(&bench), (0, 0));
}

#[test]
fn a_class_that_comes_back_goes_on_behind_the_numbers_that_it_has_spent() {
    let mut bench = Bench::new();
    let issued = bench.gather(0);
    bench.handle(PoolEvent::Link { up: true });
    let actions = bench.tick(60 * 86_400 + 1);
    let forgotten = PoolAction::Forget { subject: Box::new(subject()), spent: 1 };
    assert!(actions.contains(&forgotten), "{actions:?}");
    let again = bench.gather(bench.now * 1_000);
    assert_eq!((certificate(&issued).index, certificate(&again).index), (1, 2));
}

#[test]
fn a_class_whose_state_is_gone_spends_no_number_twice_and_takes_no_label_from_before() {
    let mut bench = Bench::new();
    bench.pool.spent(subject().hash(), 3);
    bench.pool.spent(subject().hash(), 2);
    let labels = vec![label(CALM, &mut bench.random)];
    let before = Evidence { labels: labels.clone(), class_version: 7, ..bench.next() };
    let actions = bench.hear("d1", before);
    assert_eq!(counted(&actions), (0, 0));
    let begun = published(&actions).expect("a state");
    assert_eq!(bench.pool.save(subject().hash()).map(|saved| saved.index), Some(4));
    assert_eq!(certificate(&bench.gather(begun.version)).index, 4);
}

#[test]
fn a_certificate_that_is_not_on_disk_is_given_to_nobody_and_a_revocation_is() {
    let mut bench = Bench::new();
    let next = bench.next();
    bench.hear("d1", next);
    bench.durable = false;
    for _ in 0..30 {
        let labels = (0..MAX_LABELS).map(|_| label(CALM, &mut bench.random)).collect();
        let evidence = Evidence { labels, ..bench.next() };
        let said = published(&bench.hear("d1", evidence));
        assert!(said.is_none_or(|state| state.certificate.is_none()));
    }
    assert_eq!((counts(&bench), bench.pool.counts().unsaved), ((1, 1), 1));
    assert_eq!(published(&bench.handle(PoolEvent::Link { up: true })).and_then(|state| state.certificate), None);
    let withheld = published(&bench.tick(60)).map_or(0, |state| state.version);
    bench.durable = true;
    let issued = published(&bench.tick(60)).expect("a state, now that the disk takes it");
    assert!(issued.version > withheld, "a new one, for those who obeyed the one without");
    bench.durable = false;
    let revoked = published(&bench.audit(id(&issued), 20)).expect("a state");
    assert_eq!(revoked.revoked, [id(&issued)]);
}

#[test]
fn a_state_is_published_until_the_broker_has_it_and_again_after_each_link_up() {
    let mut bench = Bench::new();
    bench.handle(PoolEvent::Link { up: true });
    let next = bench.next();
    let state = published(&bench.hear("d1", next)).expect("a state");
    assert_eq!(bench.pool.counts().unconfirmed, 1);
    assert_eq!(published(&bench.tick(9)), None);
    assert_eq!(published(&bench.tick(1)), Some(state.clone()));
    let confirm = |version| PoolEvent::Confirmed { class: subject().hash(), version };
    bench.handle(confirm(state.version - 1));
    assert_eq!(published(&bench.tick(10)), Some(state.clone()), "the broker's word on an older one");
    bench.handle(confirm(state.version));
    assert_eq!((published(&bench.tick(10)), bench.pool.counts().unconfirmed), (None, 0));
    bench.handle(PoolEvent::Link { up: false });
    assert_eq!(published(&bench.tick(10)), None);
    assert_eq!(published(&bench.handle(PoolEvent::Link { up: true })), Some(state));
}

#[test]
fn a_state_that_was_lost_is_followed_by_one_with_a_higher_version() {
    let mut bench = Bench::new();
    let issued = bench.gather(0);
    let mut after = Bench { now: bench.now + 1, ..Bench::new() };
    let next = after.next();
    let state = published(&after.hear("d1", next)).expect("a state");
    assert!(state.version > issued.version && state.certificate.is_none());
}

#[test]
fn another_target_than_when_it_was_issued_voids_a_certificate() {
    let mut bench = Bench::new();
    let issued = bench.gather(0);
    let saved = bench.pool.save(subject().hash()).expect("the class is there");
    let mut other = Bench::with(settings(Contract::System));
    let actions = other.pool.restore(&saved.state, bench.now).expect("a good state");
    let actions = carry_out(&mut other.pool, actions, true, bench.now);
    let state = published(&actions).expect("a state");
    assert_eq!((state.certificate, state.revoked), (None, vec![id(&issued)]));
    assert!(state.version > issued.version);
}

#[test]
fn a_damaged_state_is_refused_and_changes_nothing() {
    let mut bench = Bench::new();
    bench.gather(0);
    let saved = bench.pool.save(subject().hash()).expect("the class is there").state;
    let mut fresh = pool(Contract::Local);
    for cut in [0, 1, saved.len() / 2, saved.len() - 1] {
        let error = fresh.restore(&saved[..cut], START).unwrap_err();
        assert!(matches!(error, RestoreError::Unreadable(_)), "{error}");
    }
    assert_eq!(fresh.counts(), PoolCounts::default());
    let model = subject().model;
    let mut full = pool_with(settings(Contract::Local).with_bounds(0, 1));
    assert_eq!(full.restore(&saved, START), Err(RestoreError::NoRoom { model: model.clone() }));
    assert_eq!(Pool::new([]).restore(&saved, START), Err(RestoreError::NotPooled { model }));
}
