//! What one decision costs, phase by phase, with and without budgets: `cargo bench -p hedge-agent-core --bench decide`.
//!
//! Fails where the median is at or above 2 microseconds. That nothing is allocated is a test.

use std::hint::black_box;
use std::time::{Duration, Instant};

use hedge_agent_core::route::simulate::PoolRow;
use hedge_agent_core::route::{BudgetSettings, EdgeSide, PhaseName};
use hedge_agent_core::{Ask, Decision, Offload, Place, RouteEvent, RouteSettings, Router};
use hedge_certify::{Contract, Features, Fingerprint, Plan, Target};

const LIMIT: Duration = Duration::from_micros(2);
const BATCH: u32 = 1_000;
const BATCHES: usize = 500;
const NOW: Duration = Duration::from_secs(1_700_000_000);
const CLOUD: Fingerprint = Fingerprint([9; 32]);

fn main() {
    let mut slow = Vec::new();
    for (name, mut router) in routers() {
        let median = measure(&mut router);
        report(name, median);
        if median >= LIMIT {
            slow.push(name);
        }
    }
    assert!(slow.is_empty(), "2 microseconds or more: {slow:?}");
}

#[expect(clippy::print_stdout, reason = "a benchmark reports")]
fn report(name: &str, median: Duration) {
    println!("{name:<32} {:>6} ns a decision", median.as_nanos());
}

fn routers() -> Vec<(&'static str, Router)> {
    let budget = BudgetSettings {
        offload_share: Some(0.1),
        bytes_per_request: Some(100.0),
        cost_per_request: Some(0.001),
        price_per_offload: 0.01,
        joules_per_request: Some(0.1),
        joules_per_offload: 1.0,
        ..BudgetSettings::default()
    };
    let free = BudgetSettings::default();
    vec![
        ("no contract", router(None, 0, free, PhaseName::NoContract)),
        ("gathering", router(contract(), 0, free, PhaseName::Gathering)),
        ("shadow", router(contract(), 0, free, PhaseName::Shadow)),
        ("certified, softmax score", router(contract(), 0, free, PhaseName::Certified)),
        ("certified, agreement head", router(contract(), 2_000, free, PhaseName::Certified)),
        ("certified, head, four budgets", router(contract(), 2_000, budget, PhaseName::Certified)),
    ]
}

fn contract() -> Option<Target> {
    Some(Target::new(Contract::System, 0.01, 0.05).expect("a target"))
}

/// A router that has come as far as `phase`.
fn router(contract: Option<Target>, fit: usize, budget: BudgetSettings, phase: PhaseName) -> Router {
    let settings = RouteSettings {
        contract,
        plan: Plan { fit, tune: 1_000, calibration: 3_000 },
        ..RouteSettings::uncertified(0.5, Offload::Auto)
    };
    let mut router = Router::new(settings.clone(), side()).expect("settings that work");
    router.on(RouteEvent::CloudDigest(CLOUD), NOW);
    for number in 0..100_000 {
        if router.phase() == phase {
            break;
        }
        let row = row(number);
        if let Decision::Offload { label: Some(ticket), .. } = router.decide(&ask(row.features), 800, NOW) {
            let labelled = RouteEvent::Labelled { ticket, features: row.features, differs: row.differs, cloud: CLOUD };
            router.on(labelled, NOW);
        }
    }
    assert_eq!(router.phase(), phase);
    let (router, _) = Router::restore(RouteSettings { budget, ..settings }, side(), &router.encode()).expect("a state");
    router
}

/// The median of many batches, per decision.
fn measure(router: &mut Router) -> Duration {
    let asks: Vec<Ask> = (0..BATCH).map(|number| ask(row(number).features)).collect();
    let mut batches: Vec<Duration> = (0..BATCHES)
        .map(|_| {
            let started = Instant::now();
            for ask in &asks {
                black_box(router.decide(black_box(ask), 800, NOW));
            }
            started.elapsed() / BATCH
        })
        .collect();
    batches.sort_unstable();
    batches[BATCHES / 2]
}

fn ask(features: Features) -> Ask {
    let time_left = Some(Duration::from_secs(1));
    Ask { features: Some(features), place: Place::Auto, stand_in: false, may_offload: Ok(()), time_left }
}

/// Ten classes; the surer, the likelier it agrees.
fn row(number: u32) -> PoolRow {
    let noise = |salt: u32| (number.wrapping_mul(2_654_435_761) ^ salt).wrapping_mul(0x045d_9f3b) >> 8;
    let uniform = |salt: u32| noise(salt) as f32 / (1 << 24) as f32;
    let sure = 1.0 + 9.0 * uniform(1);
    let logits: [f32; 10] =
        std::array::from_fn(|class| uniform(2 + class as u32) + if class == number as usize % 10 { sure } else { 0.0 });
    let features = Features::of(&logits);
    PoolRow { features, differs: uniform(20) < 0.4 * (1.0 - features.margin) }
}

fn side() -> EdgeSide {
    EdgeSide {
        edge: Fingerprint([1; 32]),
        device_class: "bench".to_owned(),
        transforms: Fingerprint([2; 32]),
        comparison: "top-class".to_owned(),
    }
}
