//! The router's rules, one by one and under any order of events.

use std::time::Duration;

use hedge_certify::{Certificate, CertificateError, Contract, Features, Fingerprint, Plan, Target, Void};

use super::coin::Coins;
use super::simulate::PoolRow;
use super::*;
use crate::answer::{Reason, Status};
use crate::row::{Offload, Place};

const CLOUD: Fingerprint = Fingerprint([9; 32]);
const NEW_CLOUD: Fingerprint = Fingerprint([8; 32]);
const START: Duration = Duration::from_secs(1_700_000_000);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn settings() -> RouteSettings {
    RouteSettings {
        contract: Some(Target::new(Contract::System, 0.05, 0.05).unwrap()),
        plan: Plan { fit: 0, tune: 100, calibration: 300 },
        shadow: 40,
        lifetime: DAY,
        audit_rate: 0.2,
        boost_rate: 0.5,
        ..RouteSettings::uncertified(0.5, Offload::Auto)
    }
}

fn side() -> EdgeSide {
    EdgeSide {
        edge: Fingerprint([1; 32]),
        device_class: "cpu".into(),
        transforms: Fingerprint([2; 32]),
        comparison: "top-class".into(),
    }
}

/// A row that agrees if it is sure, and never where `drifted`.
fn row(coins: &mut Coins, drifted: bool) -> PoolRow {
    let score = coins.throw();
    let unsure = score < 0.3 && coins.throw() < 0.5;
    PoolRow::of_score(score as f32, drifted || unsure)
}

fn ask(features: Features) -> Ask {
    let time_left = Some(Duration::from_secs(1));
    Ask { features: Some(features), place: Place::Auto, stand_in: false, may_offload: Ok(()), time_left }
}

fn labelled(ticket: Ticket, row: &PoolRow, cloud: Fingerprint) -> RouteEvent {
    RouteEvent::Labelled { ticket, features: row.features, differs: row.differs, cloud }
}

fn score(score: f32) -> Features {
    PoolRow::of_score(score, false).features
}

/// A router, its cloud, and a stream of rows.
struct Bench {
    router: Router,
    coins: Coins,
    now: Duration,
    notes: Vec<Transition>,
    drifted: bool,
}

impl Bench {
    fn new(settings: RouteSettings) -> Self {
        let router = Router::new(settings, side()).unwrap();
        let mut bench = Self { router, coins: Coins::new(5), now: START, notes: vec![], drifted: false };
        bench.tell(RouteEvent::CloudDigest(CLOUD));
        bench
    }

    fn certified() -> Self {
        let mut bench = Self::new(settings());
        bench.until(PhaseName::Certified);
        bench
    }

    /// Requests, each label coming back at once, until the router stands there.
    fn until(&mut self, phase: PhaseName) {
        for _ in 0..20_000 {
            if self.router.phase() == phase {
                return;
            }
            self.request();
        }
        panic!("still {:?} after {} requests: {:?}", self.router.phase(), self.router.requests(), self.notes);
    }

    fn request(&mut self) -> (PoolRow, Decision) {
        let row = row(&mut self.coins, self.drifted);
        let decision = self.decide(&ask(row.features));
        if let Some(ticket) = ticket_of(&decision) {
            self.tell(labelled(ticket, &row, CLOUD));
        }
        (row, decision)
    }

    fn decide(&mut self, ask: &Ask) -> Decision {
        self.now += Duration::from_millis(10);
        self.router.decide(ask, 100, self.now)
    }

    fn tell(&mut self, event: RouteEvent) -> Vec<RouteAction> {
        let actions = self.router.on(event, self.now);
        self.notes.extend(actions.iter().filter_map(|action| match action {
            RouteAction::Note(note) => Some(note.clone()),
            _ => None,
        }));
        actions
    }

    fn voided(&self) -> Option<&Void> {
        self.notes.iter().rev().find_map(|note| match note {
            Transition::Void { why, .. } => Some(why),
            _ => None,
        })
    }
}

fn ticket_of(decision: &Decision) -> Option<Ticket> {
    match decision {
        Decision::Local { audit, .. } => *audit,
        Decision::Offload { label, .. } => *label,
    }
}

fn local(status: Status, reason: Reason) -> Decision {
    Decision::Local { status, reason, audit: None }
}

#[test]
fn labels_lead_through_the_shadow_to_certified_answers() {
    let mut bench = Bench::new(settings());
    let first = bench.decide(&ask(score(0.99)));
    assert!(matches!(first, Decision::Offload { reason: Reason::NoCertificate, label: Some(_) }), "{first:?}");
    bench.until(PhaseName::Shadow);
    let shadow = bench.decide(&ask(score(0.99)));
    assert!(matches!(shadow, Decision::Offload { reason: Reason::NoCertificate, label: Some(_) }), "{shadow:?}");
    bench.until(PhaseName::Certified);
    let threshold = bench.router.certificate().unwrap().threshold;
    let at = bench.decide(&ask(score(threshold)));
    assert!(matches!(at, Decision::Local { status: Status::Certified, reason: Reason::InsideCertificate, .. }));
    let below = bench.decide(&ask(score(threshold.next_down())));
    assert!(matches!(below, Decision::Offload { reason: Reason::BelowThreshold, .. }), "{below:?}");
    let names: Vec<bool> = bench.notes.iter().map(|note| matches!(note, Transition::Gathering { .. })).collect();
    assert!(!names[1..].contains(&true), "one campaign was enough: {:?}", bench.notes);
}

#[test]
fn after_an_alarm_everything_is_offloaded_until_the_next_certificate_with_less_of_delta() {
    let mut bench = Bench::certified();
    let before = bench.router.certificate().unwrap().clone();
    bench.drifted = true;
    bench.until(PhaseName::Gathering);
    assert!(matches!(bench.voided(), Some(Void::Alarm { .. })), "{:?}", bench.notes);
    let sure = ask(score(1.0));
    let online = bench.decide(&sure);
    assert!(matches!(online, Decision::Offload { reason: Reason::Alarm, label: Some(_) }), "{online:?}");
    let offline = bench.decide(&Ask { may_offload: Err(Reason::LinkDown), ..sure });
    assert_eq!(offline, local(Status::Uncertified, Reason::LinkDown));

    bench.drifted = false;
    bench.until(PhaseName::Shadow);
    let shadow = bench.decide(&sure);
    assert!(matches!(shadow, Decision::Offload { reason: Reason::Alarm, .. }), "not used yet: {shadow:?}");
    bench.until(PhaseName::Certified);
    let after = bench.router.certificate().unwrap();
    assert_eq!((before.index, after.index), (1, bench.router.attempts()));
    assert!(after.spent <= before.spent / 4.0 + 1e-12, "{} after {}", after.spent, before.spent);
}

#[test]
fn a_certificate_that_fails_in_the_shadow_is_never_used() {
    let mut bench = Bench::new(settings());
    bench.until(PhaseName::Shadow);
    bench.drifted = true;
    bench.until(PhaseName::Gathering);
    assert!(matches!(bench.voided(), Some(Void::Alarm { .. })));
    assert!(!bench.notes.iter().any(|note| matches!(note, Transition::ShadowDone { .. })));
}

#[test]
fn a_label_of_an_earlier_epoch_changes_nothing_whatever_it_says() {
    let mut bench = Bench::certified();
    let old = loop {
        if let Some(ticket) = ticket_of(&bench.decide(&ask(score(1.0)))) {
            break ticket;
        }
    };
    bench.drifted = true;
    bench.until(PhaseName::Gathering);
    let state = bench.router.clone();
    for cloud in [CLOUD, NEW_CLOUD] {
        assert_eq!(bench.tell(labelled(old, &PoolRow::of_score(1.0, true), cloud)), []);
    }
    assert_eq!(bench.router, state);
}

#[test]
fn the_same_label_counts_once() {
    let mut bench = Bench::new(settings());
    let ticket = ticket_of(&bench.decide(&ask(score(0.7)))).unwrap();
    bench.tell(labelled(ticket, &PoolRow::of_score(0.7, false), CLOUD));
    let state = bench.router.clone();
    bench.tell(labelled(ticket, &PoolRow::of_score(0.7, false), CLOUD));
    assert_eq!(bench.router, state);
}

#[test]
fn a_verdict_of_another_cloud_model_is_no_label_and_voids_the_certificate() {
    let mut bench = Bench::certified();
    let epoch = bench.router.state.epoch;
    let ticket = ticket_of(&bench.decide(&ask(score(0.0)))).unwrap();
    let actions = bench.tell(labelled(ticket, &PoolRow::of_score(0.0, true), NEW_CLOUD));
    assert!(matches!(bench.voided(), Some(Void::CloudModel { now: NEW_CLOUD, .. })), "{:?}", bench.notes);
    assert!(actions.contains(&RouteAction::Persist));
    assert!(bench.router.state.epoch > epoch);
    assert_eq!(bench.router.progress().unwrap().total(), 0);

    let mut gathering = Bench::new(settings());
    for _ in 0..50 {
        gathering.request();
    }
    gathering.tell(RouteEvent::CloudDigest(NEW_CLOUD));
    assert_eq!(gathering.router.progress().unwrap().total(), 0, "labels of another model are worth nothing");
    assert!(gathering.notes.contains(&Transition::LabelsDropped { labels: 50 }));
    assert_eq!(gathering.router.attempts(), 0, "nothing was tried with them");
}

#[test]
fn a_certificate_ends_with_its_time_even_before_anybody_looks() {
    let mut bench = Bench::certified();
    bench.now += DAY;
    let late = bench.decide(&ask(score(1.0)));
    assert_eq!(late, Decision::Offload { reason: Reason::NoCertificate, label: None });
    bench.tell(RouteEvent::Tick);
    assert!(matches!(bench.voided(), Some(Void::Expired { .. })));
    let mut early = Bench::certified();
    early.now -= DAY;
    let decision = early.decide(&ask(score(1.0)));
    assert_eq!(decision, Decision::Offload { reason: Reason::NoCertificate, label: None }, "the clock is behind");
    early.tell(RouteEvent::Tick);
    assert_eq!(early.router.phase(), PhaseName::Certified, "it will come right");
}

#[test]
fn who_asks_for_the_edge_gets_it_certified_only_inside_and_is_never_audited() {
    let mut bench = Bench::certified();
    for _ in 0..500 {
        let edge = |features| Ask { place: Place::Edge, ..ask(features) };
        let inside = bench.decide(&edge(score(1.0)));
        assert_eq!(inside, local(Status::Certified, Reason::InsideCertificate));
        assert_eq!(bench.decide(&edge(score(0.0))), local(Status::Uncertified, Reason::Caller));
    }
    assert_eq!(bench.router.monitor().unwrap().counts().audits, bench.router.monitor().unwrap().counts().labels);
}

#[test]
fn the_label_of_the_last_audit_settles_those_that_a_crash_has_forgotten() {
    let mut bench = Bench::certified();
    let mut audited = || loop {
        if let Decision::Local { audit: Some(ticket), .. } = bench.decide(&ask(score(1.0))) {
            break ticket;
        }
    };
    let tickets = [audited(), audited(), audited()];
    let mut left = |ticket| {
        bench.tell(labelled(ticket, &PoolRow::of_score(1.0, false), CLOUD));
        bench.router.monitor().unwrap().under_way()
    };
    assert_eq!(left(tickets[1]), 2);
    assert_eq!(left(tickets[2]), 0, "the first was never heard of");
    assert_eq!(left(tickets[0]), 0);
}

#[test]
fn a_stand_in_and_a_model_without_scores_are_never_certified() {
    let mut bench = Bench::certified();
    let stand_in = Ask { stand_in: true, ..ask(score(1.0)) };
    assert_eq!(bench.decide(&stand_in), Decision::Offload { reason: Reason::DeviceFault, label: None });
    let edge = bench.decide(&Ask { place: Place::Edge, ..stand_in });
    assert_eq!(edge, local(Status::Uncertified, Reason::Caller));
    let scoreless = bench.decide(&Ask { features: None, ..ask(score(1.0)) });
    assert_eq!(scoreless, local(Status::Uncertified, Reason::NoCertificate));
    let silent = bench.decide(&ask(Features::of(&[f32::NAN, 1.0])));
    assert!(!matches!(silent, Decision::Local { status: Status::Certified, .. }), "{silent:?}");
}

#[test]
fn a_model_that_must_stay_is_certified_from_outside_only_and_never_audited() {
    let certificate = Bench::certified().router.certificate().unwrap().clone();
    let mut bench = Bench::new(RouteSettings { offload: Offload::Never, ..settings() });
    assert_eq!(bench.router.progress(), None, "no label will come");
    assert_eq!(bench.decide(&ask(score(1.0))), local(Status::Uncertified, Reason::NeverOffload));
    bench.tell(RouteEvent::Install(Box::new(certificate)));
    for _ in 0..500 {
        assert_eq!(bench.decide(&ask(score(1.0))), local(Status::Certified, Reason::InsideCertificate));
    }
    assert_eq!(bench.decide(&ask(score(0.0))), local(Status::Uncertified, Reason::NeverOffload));
}

#[test]
fn a_corrupt_or_foreign_certificate_is_refused_by_name() {
    let mut bench = Bench::certified();
    let certificate = bench.router.certificate().unwrap().clone();
    let written = String::from_utf8(certificate.to_json()).unwrap();
    let forged = written.replacen("\"alpha\": 0.05", "\"alpha\": 0.04", 1);
    assert_ne!(forged, written);
    assert!(matches!(Certificate::read(forged.as_bytes()), Err(CertificateError::Digest { .. })));

    let now = bench.now;
    let refusal = |router: Router| {
        let mut other = Bench { router, coins: Coins::new(1), now, notes: vec![], drifted: false };
        other.tell(RouteEvent::Install(Box::new(certificate.clone())));
        match other.notes.pop() {
            Some(Transition::Refused(why)) => why,
            other => panic!("not refused: {other:?}"),
        }
    };
    let known = |settings, side| {
        let mut router = Router::new(settings, side).unwrap();
        router.on(RouteEvent::CloudDigest(CLOUD), START);
        router
    };
    let edge = known(settings(), EdgeSide { edge: Fingerprint([7; 32]), ..side() });
    assert!(matches!(refusal(edge), InstallError::Foreign(Void::EdgeBundle { .. })));
    let class = known(settings(), EdgeSide { device_class: "gpu".into(), ..side() });
    assert!(matches!(refusal(class), InstallError::Foreign(Void::DeviceClass { .. })));
    let mut cloud = known(settings(), side());
    cloud.on(RouteEvent::CloudDigest(NEW_CLOUD), START);
    assert!(matches!(refusal(cloud), InstallError::Foreign(Void::CloudModel { .. })));
    let stricter = Target::new(Contract::System, 0.01, 0.05).unwrap();
    let strict = known(RouteSettings { contract: Some(stricter), ..settings() }, side());
    assert!(matches!(refusal(strict), InstallError::OtherTarget { .. }));
    let none = known(RouteSettings { contract: None, ..settings() }, side());
    assert_eq!(refusal(none), InstallError::NoContract);
    assert_eq!(refusal(Router::new(settings(), side()).unwrap()), InstallError::CloudUnknown);
    let id = certificate.id();
    bench.tell(RouteEvent::Revoke { certificates: vec![id], reason: "the class drifted".into() });
    assert!(matches!(bench.voided(), Some(Void::Revoked { .. })));
    assert_eq!(refusal(bench.router.clone()), InstallError::Revoked(id));
}

#[test]
fn the_number_of_attempts_survives_restarts_contracts_and_devices() {
    let mut bench = Bench::certified();
    bench.drifted = true;
    bench.until(PhaseName::Gathering);
    bench.drifted = false;
    bench.until(PhaseName::Certified);
    let attempts = bench.router.attempts();
    assert!(attempts >= 2);
    let bytes = bench.router.encode();
    let other = RouteSettings { contract: Some(Target::new(Contract::Local, 0.1, 0.1).unwrap()), ..settings() };
    let none = RouteSettings { contract: None, ..settings() };
    let moved = EdgeSide { edge: Fingerprint([7; 32]), ..side() };
    for (settings, side, phase) in [
        (settings(), side(), PhaseName::Certified),
        (other, side(), PhaseName::Gathering),
        (none, side(), PhaseName::NoContract),
        (settings(), moved, PhaseName::Gathering),
    ] {
        let (router, actions) = Router::restore(settings, side, &bytes).unwrap();
        assert_eq!((router.phase(), router.attempts()), (phase, attempts));
        assert_eq!(actions.contains(&RouteAction::Persist), phase != PhaseName::Certified);
    }
}

#[test]
fn a_damaged_state_is_refused_and_never_certifies_by_accident() {
    let bytes = Bench::certified().router.encode();
    assert_eq!(Router::restore(settings(), side(), &[]), Err(RestoreError::Empty));
    assert_eq!(Router::restore(settings(), side(), &[9]), Err(RestoreError::Version(9)));
    for length in (1..bytes.len()).step_by(7) {
        assert!(Router::restore(settings(), side(), &bytes[..length]).is_err(), "cut at {length}");
    }
}

#[test]
fn under_a_budget_who_is_labelled_does_not_depend_on_the_score() {
    let budget = BudgetSettings { offload_share: Some(0.2), ..BudgetSettings::default() };
    let plan = Plan { fit: 0, tune: 100, calibration: 10_000 };
    let mut bench = Bench::new(RouteSettings { budget, plan, ..settings() });
    let (mut labels, mut sum) = (0.0, 0.0);
    for _ in 0..20_000 {
        let (row, decision) = bench.request();
        match decision {
            Decision::Offload { .. } => {
                labels += 1.0;
                sum += f64::from(row.features.margin);
            }
            Decision::Local { status, reason, .. } => {
                assert_eq!((status, reason), (Status::Uncertified, Reason::OverBudget));
            }
        }
    }
    assert!((3_990.0..=4_010.0).contains(&labels), "{labels}");
    // Scores are uniform: standard deviation 0.289.
    assert!((sum / labels - 0.5).abs() < 4.0 * 0.289 / labels.sqrt(), "mean score {}", sum / labels);
}

#[test]
fn a_deadline_that_the_cloud_would_miss_and_a_row_of_failures_cost_the_status() {
    let mut bench = Bench::certified();
    for _ in 0..64 {
        bench.tell(RouteEvent::Heard { outcome: Ok(()), waited: Duration::from_millis(200) });
    }
    let hurried = Ask { time_left: Some(Duration::from_millis(199)), ..ask(score(0.0)) };
    assert_eq!(bench.decide(&hurried), local(Status::Uncertified, Reason::Deadline));
    let patient = Ask { time_left: Some(Duration::from_millis(200)), ..hurried };
    assert!(matches!(bench.decide(&patient), Decision::Offload { .. }));
    for _ in 0..5 {
        bench.tell(RouteEvent::Heard { outcome: Err(Reason::CloudBusy), waited: Duration::from_millis(9) });
    }
    assert_eq!(bench.decide(&patient), local(Status::Uncertified, Reason::CloudBusy));
    let durable = Ask { time_left: None, ..patient };
    assert!(matches!(bench.decide(&durable), Decision::Offload { .. }), "it waits until the cloud is well again");
    bench.now += Duration::from_secs(1);
    assert!(matches!(bench.decide(&patient), Decision::Offload { .. }), "the probe");
    assert_eq!(bench.decide(&patient), local(Status::Uncertified, Reason::CloudBusy), "only one");
    bench.tell(RouteEvent::Heard { outcome: Ok(()), waited: Duration::from_millis(9) });
    assert!(matches!(bench.decide(&patient), Decision::Offload { .. }));
}

#[test]
fn deciding_allocates_nothing() {
    let mut bench = Bench::certified();
    bench.tell(RouteEvent::Tick);
    let rows: Vec<Ask> = (0..20_000).map(|_| ask(row(&mut bench.coins, false).features)).collect();
    let counted = allocation_counter::measure(|| {
        rows.iter().for_each(|row| {
            bench.decide(row);
        });
    });
    assert_eq!(counted.count_total, 0, "{counted:?}");
    assert!(allocation_counter::measure(|| drop(rows.clone())).count_total > 0, "it counts");
}

/// Any events in any order: the same from the same state, through any number of restarts, and nothing certified that no
/// certificate in force covers.
#[test]
fn decisions_follow_from_state_and_events_and_restarts_change_nothing() {
    let mut phases = std::collections::BTreeMap::new();
    for seed in 0..12 {
        let mut random = Coins::new(1000 + seed);
        let settings = RouteSettings { seed, budget: any_budget(&mut random), ..settings() };
        let (mut steady, mut restarted) = {
            let router = Router::new(settings.clone(), side()).unwrap();
            (router.clone(), router)
        };
        let (mut tickets, mut now) = (Vec::new(), START);
        for step in 0..3_000 {
            now += Duration::from_millis((random.throw() * 200.0) as u64);
            if random.throw() < 0.05 {
                let (router, actions) = Router::restore(settings.clone(), side(), &restarted.encode()).unwrap();
                assert_eq!(actions, [], "seed {seed}, step {step}");
                restarted = router;
            }
            *phases.entry(steady.phase().name()).or_insert(0) += 1;
            if random.throw() < 0.6 {
                let row = row(&mut random, false);
                let ask = any_ask(&mut random, row.features);
                let decision = steady.decide(&ask, 100, now);
                assert_eq!(decision, restarted.decide(&ask, 100, now), "seed {seed}, step {step}");
                check(&steady, &ask, decision, now);
                tickets.extend(ticket_of(&decision).map(|ticket| (ticket, row)));
            } else {
                let event = any_event(&mut random, &mut tickets, steady.certificate());
                assert_eq!(steady.on(event.clone(), now), restarted.on(event, now), "seed {seed}, step {step}");
            }
        }
        assert_eq!(steady, restarted, "seed {seed}");
    }
    assert!(phases.len() == 3 && phases.values().all(|&steps| steps > 500), "all phases were seen: {phases:?}");
}

fn any_budget(random: &mut Coins) -> BudgetSettings {
    let share = (random.throw() < 0.3).then_some(0.5);
    BudgetSettings { offload_share: share, ..BudgetSettings::default() }
}

fn any_ask(random: &mut Coins, features: Features) -> Ask {
    Ask {
        features: (random.throw() < 0.99).then_some(features),
        place: if random.throw() < 0.05 { Place::Edge } else { Place::Auto },
        stand_in: random.throw() < 0.03,
        may_offload: if random.throw() < 0.05 { Err(Reason::LinkDown) } else { Ok(()) },
        time_left: Some(Duration::from_millis((random.throw() * 2000.0) as u64)),
    }
}

fn any_event(random: &mut Coins, tickets: &mut Vec<(Ticket, PoolRow)>, used: Option<&Certificate>) -> RouteEvent {
    let kind = random.throw();
    // Mostly labels: the last asked for, or any earlier one, some of them once more.
    if kind < 0.95
        && let Some(&(ticket, row)) = tickets.last()
    {
        if random.throw() < 0.05 {
            let (ticket, row) = tickets[(random.throw() * tickets.len() as f64) as usize];
            return labelled(ticket, &row, CLOUD);
        }
        tickets.pop();
        return labelled(ticket, &row, CLOUD);
    }
    match (random.throw() * 300.0) as u32 {
        0 => RouteEvent::CloudDigest(NEW_CLOUD),
        1..20 => RouteEvent::CloudDigest(CLOUD),
        20..60 => RouteEvent::Heard { outcome: Err(Reason::CloudBusy), waited: Duration::from_millis(50) },
        60..150 => RouteEvent::Heard { outcome: Ok(()), waited: Duration::from_millis((random.throw() * 90.0) as u64) },
        150..160 => RouteEvent::Boost { until: START + Duration::from_secs(60) },
        160..170 => RouteEvent::Sent { bytes: 70 },
        170 => RouteEvent::Revoke {
            certificates: used.map(|certificate| vec![certificate.id()]).unwrap_or_default(),
            reason: "a test".into(),
        },
        171..180 => RouteEvent::Undecided,
        _ => RouteEvent::Tick,
    }
}

fn check(router: &Router, ask: &Ask, decision: Decision, now: Duration) {
    let Decision::Local { status, audit, .. } = decision else {
        assert_eq!(ask.place, Place::Auto, "{decision:?}");
        return;
    };
    assert!(audit.is_none() || (ask.place == Place::Auto && status == Status::Certified), "{decision:?}");
    if status == Status::Uncertified {
        return;
    }
    let certificate = router.certificate().expect("certified without a certificate");
    let subject = router.subject().expect("certified without a cloud model");
    assert_eq!((status, router.phase()), (Status::Certified, PhaseName::Certified));
    assert_eq!(certificate.check(&subject, now.as_secs()), Ok(()));
    let features = ask.features.expect("certified without features");
    assert!(certificate.scoring.score(&features) >= certificate.threshold && !ask.stand_in, "{decision:?}");
}
