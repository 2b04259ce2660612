//! The agent is killed without warning, over and over, while clients hand in durable requests: all that it accepted is answered,
//! each request once.
//!
//! `HEDGE_KILLS=300 cargo test --workspace --test e2e kills` is the long run; `docs/reliability.md` has its figures.

use std::time::{Duration, Instant};

use hedge_tests::broker::AnyBroker;
use hedge_tests::daemons::{AgentSetup, Gateway};
use hedge_tests::durable::{Requests, StopOnPanic};
use hedge_tests::{asked, say};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// How many kills, where `HEDGE_KILLS` does not say.
const KILLS: usize = 4;
const SEED: u64 = 31;
const CLIENTS: usize = 4;
/// Requests for each kill, at most; a run ends with its kills.
const REQUESTS_PER_KILL: usize = 400;

/// How long the agent lives, at least and at random beyond it.
const LEAST_LIFE: Duration = Duration::from_millis(100);
const MORE_LIFE_MS: u32 = 1_500;

/// How long a caller waits for its answer, and before its next request.
const DEADLINE: Duration = Duration::from_millis(250);
const PAUSE: Duration = Duration::from_millis(5);

/// Far beyond what it takes to answer what is left.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn an_agent_that_is_killed_over_and_over_loses_nothing_and_answers_once() {
    let long = asked("HEDGE_KILLS");
    let kills = long.unwrap_or(KILLS);
    let broker = AnyBroker::start();
    let gateway = Gateway::start("gateway-1", &broker.url());
    let setup = AgentSetup {
        broker: Some(broker.url()),
        // Some rows are answered here, most by the cloud.
        threshold: Some(0.6),
        cache: false,
        more: "[outbox]\nmax_requests = 200000\nmax_results = 200000\n".into(),
        ..AgentSetup::default()
    };
    let mut agent = setup.start();
    let requests = Requests::new(SEED, kills * REQUESTS_PER_KILL, agent.address);
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let started = Instant::now();
    let agent = std::thread::scope(|clients| {
        let _stop = StopOnPanic(&requests);
        for _ in 0..CLIENTS {
            clients.spawn(|| requests.hand_in_all(DEADLINE, PAUSE));
        }
        for _ in 0..kills {
            let life = u64::from(random.next_u32() % MORE_LIFE_MS);
            std::thread::sleep(LEAST_LIFE + Duration::from_millis(life));
            agent = agent.restart();
            requests.moved_to(agent.address);
        }
        requests.stop();
        agent
    });
    let outcome = requests.collect(PATIENCE);
    drop(agent);
    let rerun = gateway.metric("hedge_gateway_repeats_total{kind=\"rerun\"}").unwrap_or_default();
    let runs = gateway.metric("hedge_gateway_batch_rows_count{model=\"digits\"}").unwrap_or_default();
    if long.is_some() {
        say(&format!(
            "{kills} kills in {:.0} s on {}, seed {SEED}: {outcome}; the gateway ran {runs} rows, {rerun} of them as retries that \
             it did not know",
            started.elapsed().as_secs_f64(),
            broker.name(),
        ));
    }
    assert!(outcome.is_good(), "seed {SEED}: {outcome}");
    assert!(outcome.accepted > kills * CLIENTS && outcome.by_cloud > 0, "{outcome}");
}
