//! Every rule of a row, then random orders of events.

use std::time::Duration;

use hedge_certify::{Features, Fingerprint};
use hedge_tensor::{NamedTensor, Tensor};
use hedge_wire::{BootId, GatewayPresence, ModelId};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::route::{EdgeSide, Purpose, RouteSettings, Router};

const MS: Duration = Duration::from_millis(1);
const ALLOWED: Duration = Duration::from_millis(1000);
const RETRY_AFTER: Duration = Duration::from_millis(250);
const CLOUD: Digest = Digest([7; 32]);

fn ms(n: u32) -> Duration {
    MS * n
}

fn digits() -> ModelId {
    ModelId::from_name("digits")
}

fn online() -> CloudView {
    let mut view = CloudView::new(true);
    view.set_link(true);
    view.on_presence(&GatewayPresence {
        gateway: gateway(),
        boot: BootId(1),
        online: true,
        models: vec![(digits(), CLOUD)],
    });
    view
}

fn offline() -> CloudView {
    let mut view = online();
    view.set_link(false);
    view
}

fn gateway() -> GatewayId {
    GatewayId::parse("g1").unwrap()
}

fn outputs(n: f32) -> Outputs {
    vec![NamedTensor::new("logits", Tensor::from_slice(&[1, 1], &[n]).unwrap())]
}

fn sure() -> LocalResult {
    result(1.0, 0.9)
}

fn unsure() -> LocalResult {
    result(2.0, 0.1)
}

fn result(output: f32, score: f32) -> LocalResult {
    let features = Features { margin: score, msp: score, ..Features::of(&[1.0, 0.0]) };
    LocalResult { outputs: outputs(output), score: Some(score), features: Some(features), stand_in: false }
}

/// Without a contract: a score of 0.5 stays.
fn router(offload: Offload) -> Router {
    let side = EdgeSide {
        edge: Fingerprint([1; 32]),
        device_class: "cpu".into(),
        transforms: Fingerprint([2; 32]),
        comparison: "top-class".into(),
    };
    Router::new(RouteSettings::uncertified(0.5, offload), side).unwrap()
}

fn verdict() -> Event {
    Event::Verdict { outputs: outputs(3.0), score: Some(0.99), digest: CLOUD, gateway: gateway() }
}

fn miss() -> Event {
    Event::Looked { local: None, cloud: None }
}

/// A row, the world around it, and what it has done.
struct Bench {
    row: Row,
    router: Router,
    /// Decided in the router's place.
    forced: Option<Decision>,
    view: CloudView,
    now: Duration,
    done: Vec<Action>,
}

impl Bench {
    fn new(place: Place, offload: Offload, view: CloudView) -> Self {
        Self::asking(Asking::Now, place, offload, view)
    }

    fn asking(asking: Asking, place: Place, offload: Offload, view: CloudView) -> Self {
        let policy = RowPolicy { place, offload, cloud_model: digits(), asking };
        let timing = Timing { arrived: ms(500), allowed: ALLOWED, retry_after: RETRY_AFTER, jitter: 0.5 };
        let row = Row::new(policy, timing);
        Self { row, router: router(offload), forced: None, view, now: ms(500), done: Vec::new() }
    }

    fn auto(view: CloudView) -> Self {
        Self::new(Place::Auto, Offload::Auto, view)
    }

    fn give(mut self, event: Event) -> Self {
        let mut actions = self.row.on(event, &self.view, self.now);
        if let Some(Action::Decide(ask)) = actions.last() {
            let decision = self.forced.unwrap_or_else(|| self.router.decide(ask, 100, self.now));
            actions.extend(self.row.on(Event::Decided(decision), &self.view, self.now));
        }
        self.done.extend(actions);
        self
    }

    fn deciding(mut self, decision: Decision) -> Self {
        self.forced = Some(decision);
        self
    }

    fn after(mut self, time: Duration) -> Self {
        self.now += time;
        self
    }

    fn ran(self, result: LocalResult) -> Self {
        self.give(Event::Arrived).give(miss()).give(Event::Ran(Ok(result)))
    }

    /// Up to the first publish.
    fn asked(view: CloudView) -> Self {
        let bench = Self::auto(view).ran(unsure());
        assert_eq!(bench.publishes(), [(0, ALLOWED)]);
        bench
    }

    fn publishes(&self) -> Vec<(u8, Duration)> {
        let publish = |action: &Action| match action {
            Action::Publish { attempt, left } => Some((*attempt, *left)),
            _ => None,
        };
        self.done.iter().filter_map(publish).collect()
    }

    fn wake(&self) -> Duration {
        let wake = self.done.iter().rev().find_map(|action| match action {
            Action::WakeAt(at) => Some(*at),
            _ => None,
        });
        wake.expect("a row that waits wants to be woken")
    }

    fn ends(&self) -> Vec<&Result<Answer, Failure>> {
        self.done.iter().filter_map(|action| if let Action::Finish(end) = action { Some(end) } else { None }).collect()
    }

    #[track_caller]
    fn answer(&self) -> &Answer {
        match self.ends()[..] {
            [Ok(answer)] => answer,
            ref other => panic!("not one answer: {other:?}"),
        }
    }

    #[track_caller]
    fn failure(&self) -> &Failure {
        match self.ends()[..] {
            [Err(failure)] => failure,
            ref other => panic!("not one failure: {other:?}"),
        }
    }

    #[track_caller]
    fn answered(&self, source: Source, status: Status, reason: Reason) {
        let answer = self.answer();
        assert_eq!((answer.source, answer.status, answer.reason), (source, status, reason));
    }

    #[track_caller]
    fn answered_locally(&self, reason: Reason) {
        self.answered(Source::Edge, Status::Uncertified, reason);
        assert_eq!(self.answer().outputs, outputs(2.0), "the local outputs");
    }
}

#[test]
fn a_sure_local_answer_stays_local_and_says_that_nothing_certifies_it() {
    let bench = Bench::auto(online()).ran(sure());
    bench.answered(Source::Edge, Status::Uncertified, Reason::NoCertificate);
    assert_eq!(bench.answer().confidence, Some(0.9));
    assert_eq!(bench.answer().origin, Origin::Edge { stand_in: false });
    assert!(bench.done.contains(&Action::StoreLocal(sure())));
}

#[test]
fn a_score_exactly_at_the_threshold_stays_local() {
    let at = result(1.0, 0.5);
    Bench::auto(online()).ran(at).answered(Source::Edge, Status::Uncertified, Reason::NoCertificate);
}

#[test]
fn a_model_without_scores_is_never_offloaded() {
    let none = LocalResult { score: None, features: None, ..sure() };
    let bench = Bench::auto(online()).ran(none);
    bench.answered(Source::Edge, Status::Uncertified, Reason::NoCertificate);
    assert_eq!(bench.publishes(), []);
}

#[test]
fn an_unsure_row_is_answered_by_the_cloud() {
    let bench = Bench::asked(online()).after(ms(3)).give(verdict());
    bench.answered(Source::Cloud, Status::Cloud, Reason::BelowThreshold);
    let origin = Origin::Cloud { digest: CLOUD, gateway: Some(gateway()) };
    assert_eq!((&bench.answer().origin, bench.answer().confidence), (&origin, Some(0.99)));
    assert!(bench.done.contains(&Action::StoreVerdict { outputs: outputs(3.0), digest: CLOUD }));
}

#[test]
fn the_cache_is_asked_for_the_local_result_and_the_current_cloud_verdict() {
    let bench = Bench::auto(online()).give(Event::Arrived);
    assert!(bench.done.contains(&Action::LookUp { local: true, cloud: Some(CLOUD) }));
    let never = Bench::new(Place::Auto, Offload::Never, online()).give(Event::Arrived);
    assert!(never.done.contains(&Action::LookUp { local: true, cloud: None }));
}

#[test]
fn a_cached_verdict_answers_without_running_anything() {
    let cached = CachedVerdict { outputs: outputs(4.0), score: Some(0.8), digest: CLOUD };
    let bench =
        Bench::auto(offline()).give(Event::Arrived).give(Event::Looked { local: Some(sure()), cloud: Some(cached) });
    bench.answered(Source::Cache, Status::Cloud, Reason::BelowThreshold);
    assert_eq!(bench.answer().origin, Origin::Cloud { digest: CLOUD, gateway: None });
}

#[test]
fn a_cached_local_result_is_judged_again_and_saves_the_run() {
    let look = |result| Event::Looked { local: Some(result), cloud: None };
    let above = Bench::auto(online()).give(Event::Arrived).give(look(sure()));
    above.answered(Source::Cache, Status::Uncertified, Reason::NoCertificate);

    let below = Bench::auto(online()).give(Event::Arrived).give(look(unsure()));
    assert_eq!(below.publishes(), [(0, ALLOWED)]);
    below.give(verdict()).answered(Source::Cloud, Status::Cloud, Reason::BelowThreshold);

    let cut = Bench::auto(offline()).give(Event::Arrived).give(look(unsure()));
    cut.answered(Source::Cache, Status::Uncertified, Reason::LinkDown);
}

#[test]
fn nothing_that_came_from_the_cache_is_stored_again() {
    let look = Event::Looked { local: Some(sure()), cloud: None };
    let bench = Bench::auto(online()).give(Event::Arrived).give(look);
    assert!(!bench.done.iter().any(|action| matches!(action, Action::StoreLocal(_))));
}

#[test]
fn place_edge_never_offloads_and_says_so() {
    let bench = Bench::new(Place::Edge, Offload::Auto, online()).ran(unsure());
    bench.answered(Source::Edge, Status::Uncertified, Reason::Caller);
    assert_eq!(bench.publishes(), []);
    assert!(bench.done.contains(&Action::LookUp { local: true, cloud: None }), "nor takes the cloud's cached verdict");
    let sure = Bench::new(Place::Edge, Offload::Auto, online()).ran(sure());
    sure.answered(Source::Edge, Status::Uncertified, Reason::NoCertificate);
}

#[test]
fn a_model_that_must_stay_is_never_offloaded() {
    let bench = Bench::new(Place::Auto, Offload::Never, online()).ran(unsure());
    bench.answered(Source::Edge, Status::Uncertified, Reason::NeverOffload);
    assert_eq!(bench.publishes(), []);
    let asked = Bench::new(Place::Cloud, Offload::Never, online()).give(Event::Arrived);
    assert_eq!(asked.failure(), &Failure::NeverOffload);
}

#[test]
fn place_cloud_asks_the_cloud_without_running_the_local_model() {
    let bench = Bench::new(Place::Cloud, Offload::Auto, online()).give(Event::Arrived).give(miss());
    assert!(!bench.done.contains(&Action::RunLocal));
    assert_eq!(bench.publishes(), [(0, ALLOWED)]);
    bench.give(verdict()).answered(Source::Cloud, Status::Cloud, Reason::Caller);
}

#[test]
fn place_cloud_without_a_cloud_fails_and_never_answers_locally() {
    let mut nobody = online();
    nobody.on_gone(&gateway());
    for (view, reason) in
        [(offline(), Reason::LinkDown), (CloudView::new(false), Reason::NoGateway), (nobody, Reason::NoGateway)]
    {
        let bench = Bench::new(Place::Cloud, Offload::Auto, view).give(Event::Arrived);
        assert_eq!(bench.failure(), &Failure::NoCloud(reason));
        assert!(!bench.done.iter().any(|action| matches!(action, Action::LookUp { .. })), "not even from the cache");
    }
    let asked = || Bench::new(Place::Cloud, Offload::Auto, online()).give(Event::Arrived).give(miss());
    for (event, reason) in [
        (Event::LinkDown, Reason::LinkDown),
        (Event::NoSubscribers, Reason::NoGateway),
        (Event::BadVerdict, Reason::BadVerdict),
        (Event::Refused(Refusal::Internal), Reason::CloudRefused),
    ] {
        assert_eq!(asked().give(event).failure(), &Failure::NoCloud(reason));
    }
    assert_eq!(asked().after(ALLOWED).give(Event::Timer).failure(), &Failure::Deadline(ALLOWED));
    assert_eq!(asked().give(Event::NotSent(NotSent::TooLarge)).failure(), &Failure::TooLarge);
}

#[test]
fn a_cloud_that_cannot_help_costs_the_status_not_the_answer() {
    for (event, reason) in [
        (Event::NotSent(NotSent::Down), Reason::LinkDown),
        (Event::NotSent(NotSent::QueueFull), Reason::CloudBusy),
        (Event::NotSent(NotSent::TooLarge), Reason::TooLarge),
        (Event::NoSubscribers, Reason::NoGateway),
        (Event::Rejected, Reason::CloudRefused),
        (Event::LinkDown, Reason::LinkDown),
        (Event::BadVerdict, Reason::BadVerdict),
        (Event::Refused(Refusal::UnknownModel), Reason::NoGateway),
        (Event::Refused(Refusal::BadInput), Reason::CloudRefused),
        (Event::Refused(Refusal::Internal), Reason::CloudRefused),
        (Event::Refused(Refusal::Expired), Reason::Deadline),
    ] {
        Bench::asked(online()).give(event).answered_locally(reason);
    }
}

#[test]
fn with_the_link_down_an_unsure_row_is_answered_at_once() {
    let bench = Bench::auto(offline()).ran(unsure());
    bench.answered_locally(Reason::LinkDown);
    assert_eq!(bench.publishes(), []);
}

#[test]
fn without_a_gateway_an_unsure_row_is_answered_at_once() {
    let mut view = online();
    view.on_gone(&gateway());
    Bench::auto(view).ran(unsure()).answered_locally(Reason::NoGateway);
    Bench::auto(CloudView::new(false)).ran(unsure()).answered_locally(Reason::NoGateway);
}

#[test]
fn a_cloud_that_stays_silent_is_asked_once_more_and_then_given_up() {
    let bench = Bench::asked(online());
    // Jitter 0.5 is no jitter: the middle of ± 25 %.
    assert_eq!(bench.wake(), ms(500) + RETRY_AFTER);
    let bench = bench.after(RETRY_AFTER).give(Event::Timer);
    assert_eq!(bench.publishes(), [(0, ALLOWED), (1, ALLOWED - RETRY_AFTER)]);
    assert_eq!(bench.wake(), ms(500) + ALLOWED);
    let bench = bench.after(ALLOWED - RETRY_AFTER).give(Event::Timer);
    bench.answered_locally(Reason::Deadline);
}

#[test]
fn retries_of_many_devices_are_spread() {
    for (jitter, factor) in [(0.0, 0.75), (1.0, 1.25), (9.0, 1.25)] {
        let mut bench = Bench::auto(online());
        bench.row.timing.jitter = jitter;
        assert_eq!(bench.ran(unsure()).wake(), ms(500) + RETRY_AFTER.mul_f64(factor));
    }
}

#[test]
fn a_reply_to_either_attempt_is_the_answer() {
    let bench = Bench::asked(online()).after(RETRY_AFTER).give(Event::Timer).after(ms(5)).give(verdict());
    bench.answered(Source::Cloud, Status::Cloud, Reason::BelowThreshold);
    assert_eq!(bench.give(verdict()).ends().len(), 1, "the second reply changes nothing");
}

#[test]
fn there_is_no_retry_when_the_deadline_comes_first() {
    let mut bench = Bench::auto(online());
    bench.row.timing.retry_after = ALLOWED;
    let bench = bench.ran(unsure());
    assert_eq!(bench.wake(), ms(500) + ALLOWED);
    let bench = bench.after(ALLOWED).give(Event::Timer);
    assert_eq!(bench.publishes().len(), 1);
    bench.answered_locally(Reason::Deadline);
}

#[test]
fn a_busy_cloud_is_asked_once_more_when_it_said() {
    let bench = Bench::asked(online()).give(Event::Busy { retry: ms(100) });
    assert_eq!(bench.wake(), ms(500) + ms(125), "a quarter later than asked, by jitter");
    assert_eq!(bench.publishes().len(), 1);
    let early = bench.after(ms(50)).give(Event::Timer);
    assert_eq!(early.publishes().len(), 1, "not before");
    let again = early.after(ms(75)).give(Event::Timer);
    assert_eq!(again.publishes().len(), 2);
    again.give(Event::Busy { retry: ms(100) }).answered_locally(Reason::CloudBusy);
}

#[test]
fn a_busy_cloud_that_asks_for_more_time_than_there_is_is_given_up_at_once() {
    Bench::asked(online()).give(Event::Busy { retry: ALLOWED }).answered_locally(Reason::CloudBusy);
    Bench::asked(online()).give(Event::Busy { retry: Duration::MAX / 2 }).answered_locally(Reason::CloudBusy);
}

#[test]
fn a_verdict_that_comes_while_waiting_to_retry_is_taken() {
    let bench = Bench::asked(online()).give(Event::Busy { retry: ms(100) }).give(verdict());
    bench.answered(Source::Cloud, Status::Cloud, Reason::BelowThreshold);
}

#[test]
fn a_retry_is_not_sent_when_the_last_gateway_left_meanwhile() {
    let mut bench = Bench::asked(online());
    bench.view.on_gone(&gateway());
    let bench = bench.after(RETRY_AFTER).give(Event::Timer);
    assert_eq!(bench.publishes().len(), 1);
    bench.answered_locally(Reason::NoGateway);
}

#[test]
fn a_full_local_queue_is_overload() {
    let bench = Bench::auto(online()).give(Event::Arrived).give(miss()).give(Event::Ran(Err(LocalFailure::QueueFull)));
    assert_eq!(bench.failure(), &Failure::Overloaded);
}

#[test]
fn when_the_local_model_fails_the_cloud_helps_if_it_may() {
    let fault = || Event::Ran(Err(LocalFailure::Fault("lost the device".into())));
    let failed = |bench: Bench| bench.give(Event::Arrived).give(miss()).give(fault());
    let helped = failed(Bench::auto(online())).give(verdict());
    helped.answered(Source::Cloud, Status::Cloud, Reason::DeviceFault);
    for bench in [
        failed(Bench::auto(offline())),
        failed(Bench::auto(online())).give(Event::NoSubscribers),
        failed(Bench::new(Place::Edge, Offload::Auto, online())),
        failed(Bench::new(Place::Auto, Offload::Never, online())),
    ] {
        assert_eq!(bench.failure(), &Failure::Engine("lost the device".into()));
    }
}

#[test]
fn a_local_model_that_is_late_is_a_missed_deadline() {
    let bench = Bench::auto(online()).give(Event::Arrived).give(miss());
    assert_eq!(bench.wake(), ms(500) + ALLOWED);
    assert_eq!(bench.after(ALLOWED).give(Event::Timer).failure(), &Failure::Deadline(ALLOWED));
}

#[test]
fn a_local_result_that_comes_at_the_deadline_is_still_an_answer() {
    let bench = Bench::auto(online()).give(Event::Arrived).give(miss()).after(ALLOWED);
    bench.give(Event::Ran(Ok(unsure()))).answered_locally(Reason::Deadline);
}

#[test]
fn events_that_do_not_fit_change_nothing() {
    let bench = Bench::auto(online());
    for event in [verdict(), Event::Timer, Event::NoSubscribers, Event::LinkDown, Event::Ran(Ok(sure()))] {
        let mut row = Row::new(bench.row.policy.clone(), bench.row.timing);
        assert_eq!(row.on(event, &bench.view, bench.now), []);
    }
}

/// Any event at any time: exactly one end, at the latest with the first event at the deadline, and no rule broken.
#[test]
fn whatever_happens_each_row_ends_once_and_in_time() {
    for seed in 0..20_000 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let place = [Place::Auto, Place::Edge, Place::Cloud][random.random_range(0..3)];
        let offload = [Offload::Auto, Offload::Never][random.random_range(0..2)];
        let mut bench = Bench::new(place, offload, if random.random_bool(0.8) { online() } else { offline() });
        bench.row.timing.jitter = random.random();
        bench.forced = any_decision(&mut random);
        bench = bench.give(Event::Arrived);
        let deadline = bench.row.deadline();
        while bench.now < deadline {
            let step = ms(random.random_range(0..200));
            bench = bench.after(step).give(any_event(&mut random));
            if random.random_bool(0.1) {
                bench.view.set_link(random.random_bool(0.5));
            }
            assert!(bench.ends().len() <= 1, "seed {seed}: more than one end");
        }
        bench = bench.give(Event::Timer);
        assert_eq!(bench.ends().len(), 1, "seed {seed}: no end at the deadline");
        assert!(bench.row.is_done());
        let events_after = bench.done.len();
        bench = bench.give(verdict()).give(Event::Timer).give(Event::Arrived);
        assert_eq!(bench.done.len(), events_after, "seed {seed}: it went on after its end");
        check_rules(&bench, place, offload, seed);
    }
}

fn check_rules(bench: &Bench, place: Place, offload: Offload, seed: u64) {
    let attempts: Vec<u8> = bench.publishes().iter().map(|(attempt, _)| *attempt).collect();
    assert!(attempts.is_empty() || attempts == [0] || attempts == [0, 1], "seed {seed}: attempts {attempts:?}");
    assert!(bench.publishes().iter().all(|(_, left)| *left >= LEAST_USEFUL), "seed {seed}");
    if place == Place::Edge || offload == Offload::Never {
        assert!(attempts.is_empty(), "seed {seed}: it left the device");
        let audits = bench.done.iter().any(|action| matches!(action, Action::Audit { .. }));
        assert!(!audits, "seed {seed}: it would leave the device later");
    }
    let heard = bench.done.iter().filter(|action| matches!(action, Action::Heard { .. })).count();
    assert_eq!(heard, usize::from(!attempts.is_empty()), "seed {seed}: the router hears of each offload once");
    let runs = bench.done.iter().filter(|action| **action == Action::RunLocal).count();
    assert!(runs <= 1, "seed {seed}: ran {runs} times");
    if let [Ok(answer)] = bench.ends()[..] {
        let from_the_cloud = matches!(answer.origin, Origin::Cloud { .. });
        assert_eq!(from_the_cloud, answer.status == Status::Cloud, "seed {seed}: {answer:?}");
        assert!(place != Place::Cloud || from_the_cloud, "seed {seed}: a local answer for place = cloud");
        assert!(place != Place::Edge || !from_the_cloud, "seed {seed}: a cloud answer for place = edge");
        let decided = matches!(bench.forced, Some(Decision::Local { status: Status::Certified, .. }));
        assert!(answer.status != Status::Certified || decided, "seed {seed}: nothing certifies {answer:?}");
    }
}

/// Also what no router would say.
fn any_decision(random: &mut impl Rng) -> Option<Decision> {
    let status = [Status::Uncertified, Status::Certified, Status::Cloud][random.random_range(0..3)];
    let ticket = random.random_bool(0.5).then(ticket);
    match random.random_range(0..3) {
        0 => None,
        1 => Some(Decision::Local { status, reason: Reason::InsideCertificate, audit: ticket }),
        _ => Some(Decision::Offload { reason: Reason::BelowThreshold, label: ticket }),
    }
}

fn ticket() -> Ticket {
    Ticket { epoch: 1, request: 7, purpose: Purpose::Audit, propensity: 0.02 }
}

fn any_event(random: &mut impl Rng) -> Event {
    let result = |random: &mut _| if RngExt::random_bool(random, 0.5) { sure() } else { unsure() };
    match random.random_range(0..16) {
        0..4 => Event::Looked {
            local: random.random_bool(0.2).then(sure),
            cloud: random.random_bool(0.1).then(|| CachedVerdict { outputs: outputs(4.0), score: None, digest: CLOUD }),
        },
        4..8 => Event::Ran(Ok(result(random))),
        8 => Event::Ran(Err(LocalFailure::Fault("broken".into()))),
        9 => Event::NoSubscribers,
        10 => Event::LinkDown,
        11 => verdict(),
        12 => Event::Busy { retry: ms(random.random_range(0..500)) },
        13 => Event::Refused(Refusal::Internal),
        14 => Event::Arrived,
        _ => Event::Timer,
    }
}

#[test]
fn an_answer_of_the_stand_in_says_that_the_device_failed() {
    let stand_in = LocalResult { stand_in: true, ..sure() };
    let bench = Bench::auto(online()).ran(stand_in);
    bench.answered(Source::Edge, Status::Uncertified, Reason::DeviceFault);
    assert_eq!(bench.answer().origin, Origin::Edge { stand_in: true });
    let unsure = LocalResult { stand_in: true, ..unsure() };
    Bench::auto(offline()).ran(unsure).answered(Source::Edge, Status::Uncertified, Reason::DeviceFault);
}

#[test]
fn a_certified_answer_is_what_the_router_says_and_may_be_audited() {
    let inside =
        Decision::Local { status: Status::Certified, reason: Reason::InsideCertificate, audit: Some(ticket()) };
    let bench = Bench::auto(online()).deciding(inside).ran(sure());
    bench.answered(Source::Edge, Status::Certified, Reason::InsideCertificate);
    assert!(bench.done.contains(&Action::Audit { ticket: ticket(), local: sure() }));
    let stand_in = LocalResult { stand_in: true, ..sure() };
    let other = Bench::auto(online()).deciding(inside).ran(stand_in);
    other.answered(Source::Edge, Status::Uncertified, Reason::DeviceFault);
}

#[test]
fn a_verdict_asked_for_as_a_label_is_one_and_the_router_hears_how_long_it_took() {
    let alarm = Decision::Offload { reason: Reason::Alarm, label: Some(ticket()) };
    let asked = || Bench::auto(online()).deciding(alarm).ran(sure());
    let bench = asked().after(ms(30)).give(verdict());
    bench.answered(Source::Cloud, Status::Cloud, Reason::Alarm);
    let label = Action::Label { ticket: ticket(), local: sure(), verdict: outputs(3.0), cloud: CLOUD };
    assert!(bench.done.contains(&label));
    assert!(bench.done.contains(&Action::Heard { outcome: Ok(()), waited: ms(30) }));
    let cut = asked().after(ms(9)).give(Event::LinkDown);
    cut.answered(Source::Edge, Status::Uncertified, Reason::LinkDown);
    assert!(cut.done.contains(&Action::Heard { outcome: Err(Reason::LinkDown), waited: ms(9) }));
    assert!(!cut.done.iter().any(|action| matches!(action, Action::Label { .. })));
}

#[test]
fn a_row_of_the_outbox_leaves_where_the_cloud_is_to_answer_whatever_the_link_does() {
    let later = |place, view| Bench::asking(Asking::Later, place, Offload::Auto, view);
    let left = |bench: Bench| match bench.done.last() {
        Some(Action::Leave(left)) => {
            assert!(bench.row.is_done() && bench.ends().is_empty() && bench.publishes().is_empty());
            left.clone()
        }
        other => panic!("it did not leave: {other:?}"),
    };
    let unlabelled = |why| Left { why, label: None };
    assert_eq!(left(later(Place::Auto, offline()).ran(unsure())), unlabelled(Reason::BelowThreshold));
    let asked = later(Place::Cloud, offline()).give(Event::Arrived).give(miss());
    assert_eq!(left(asked), unlabelled(Reason::Caller));
    let alarm = Decision::Offload { reason: Reason::Alarm, label: Some(ticket()) };
    let labelled = later(Place::Auto, offline()).deciding(alarm).ran(sure());
    assert_eq!(left(labelled), Left { why: Reason::Alarm, label: Some((ticket(), sure())) });
    let fault = Event::Ran(Err(LocalFailure::Fault("lost the device".into())));
    let helped = later(Place::Auto, offline()).give(Event::Arrived).give(miss()).give(fault);
    assert_eq!(left(helped), unlabelled(Reason::DeviceFault));

    later(Place::Auto, offline()).ran(sure()).answered(Source::Edge, Status::Uncertified, Reason::NoCertificate);
    later(Place::Auto, CloudView::new(false)).ran(unsure()).answered_locally(Reason::NoGateway);
    let nobody = later(Place::Cloud, CloudView::new(false)).give(Event::Arrived);
    assert_eq!(nobody.failure(), &Failure::NoCloud(Reason::NoGateway));
}

#[test]
fn a_row_that_the_cloud_will_not_answer_is_answered_locally_and_says_why() {
    let never = |place| Bench::asking(Asking::Never(Reason::CloudRefused), place, Offload::Auto, online());
    never(Place::Auto).ran(unsure()).answered_locally(Reason::CloudRefused);
    let asked = never(Place::Cloud).give(Event::Arrived);
    assert_eq!(asked.failure(), &Failure::NoCloud(Reason::CloudRefused));
    let large = Bench::asking(Asking::Never(Reason::TooLarge), Place::Cloud, Offload::Auto, online());
    assert_eq!(large.give(Event::Arrived).failure(), &Failure::TooLarge);
}
