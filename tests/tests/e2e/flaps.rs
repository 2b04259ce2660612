//! The way to the cloud breaks in every manner, over and over, while clients hand in durable requests: cut, black hole, slow and
//! half-open links, a broker that is restarted, a gateway that is killed. Nothing is lost or answered twice, and the agent is
//! neither busy nor growing meanwhile.
//!
//! `HEDGE_FLAPS=100 cargo test --workspace --test e2e flaps` is the long run, with 200 requests for each flap;
//! `docs/reliability.md` has its figures.

use std::time::{Duration, Instant};

use hedge_broker::proxy::Mode;
use hedge_tests::broker::AnyBroker;
use hedge_tests::daemons::{Agent, AgentSetup, Gateway};
use hedge_tests::digits;
use hedge_tests::durable::{Requests, StopOnPanic};
use hedge_tests::process::{Held, cpu_time};
use hedge_tests::proxy::LinkProxy;
use hedge_tests::{asked, say, wait_for};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::json;

/// How many flaps there are, requests for each, and the longest that one lasts beyond its least.
struct Scale {
    flaps: usize,
    requests: usize,
    hold: Duration,
}

/// Where `HEDGE_FLAPS` does not say: each kind once, and each for a short time.
const SHORT: Scale = Scale { flaps: 5, requests: 60, hold: Duration::from_millis(1_500) };
/// Flaps that a client of the link cannot notice by itself, and such that it must.
const LONG: Scale = Scale { flaps: 100, requests: 200, hold: Duration::from_secs(12) };

const SEED: u64 = 47;
const CLIENTS: usize = 8;

/// A gateway is killed at every flap of this number, the broker restarted at another's.
const GATEWAY_EVERY: usize = 5;
const BROKER_EVERY: usize = 10;

/// How long a caller waits for its answer, and before its next request: a flap's requests take about as long as it does.
const DEADLINE: Duration = Duration::from_millis(200);
const PAUSE: Duration = Duration::from_millis(150);

/// As in the harness's configurations; silence of twice this long ends a connection.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// How long after a link is well again the cloud must be answering.
const RECOVERY: Duration = Duration::from_secs(3 * KEEPALIVE.as_secs());
/// Slower than what is sent.
const SLOW_BYTES_PER_SEC: u64 = 3_000;

/// How long a connection that lost bytes stays cut.
const SWALLOWED: Duration = Duration::from_millis(50);

/// How long the agent is watched while its link is dead and nobody asks, and the part of a core that it may use then.
const WATCH: Duration = Duration::from_secs(5);
const MOST_CPU: f64 = 0.2;
/// What the agent may grow by between the first flaps and the last: the ends that it keeps, and pools that fill.
const MOST_GROWTH_KIB: u64 = 96 * 1024;

const PATIENCE: Duration = Duration::from_secs(180);

/// The way to the cloud.
struct World {
    broker: AnyBroker,
    proxy: LinkProxy,
    agent: Agent,
    gateways: Vec<Gateway>,
    /// Retries that gateways did not know, those of killed gateways included.
    rerun: f64,
    probes: usize,
}

#[test]
fn a_link_that_breaks_in_every_manner_loses_nothing_and_recovers() {
    let long = asked("HEDGE_FLAPS");
    let Scale { flaps, requests: each, hold } = long.map_or(SHORT, |flaps| Scale { flaps, ..LONG });
    let mut world = World::start();
    let requests = Requests::new(SEED, flaps * each, world.agent.address);
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let (started, mut recoveries, mut warm) = (Instant::now(), Vec::new(), None);
    std::thread::scope(|clients| {
        let _stop = StopOnPanic(&requests);
        for _ in 0..CLIENTS {
            clients.spawn(|| requests.hand_in_all(DEADLINE, PAUSE));
        }
        for flap in 1..=flaps {
            recoveries.push(world.flap(flap, hold, &mut random));
            if flap == flaps.div_ceil(10) {
                warm = Some(Held::by(world.agent.program.id()));
            }
        }
    });
    let outcome = requests.collect(PATIENCE);
    let (warm, end) = (warm.expect("there was a flap"), Held::by(world.agent.program.id()));
    let cpu = world.cpu_while_dead();
    recoveries.sort();
    let worst = *recoveries.last().expect("there was a flap");
    let rerun = world.rerun + world.reruns();
    if long.is_some() {
        say(&format!(
            "{flaps} flaps in {:.0} s on {}, seed {SEED}: {outcome}; gateways ran {rerun} rows as retries that they did not know\n\
             recovery after a heal: median {:.1} s, worst {:.1} s\n\
             after the first tenth: {warm}\nat the end: {end}\nprocessor time while the link is dead: {:.1} % of a core",
            started.elapsed().as_secs_f64(),
            world.broker.name(),
            recoveries[recoveries.len() / 2].as_secs_f64(),
            worst.as_secs_f64(),
            100.0 * cpu,
        ));
    }
    assert!(outcome.is_good(), "seed {SEED}: {outcome}");
    assert_eq!(outcome.accepted, flaps * each);
    assert!(worst < RECOVERY, "seed {SEED}: the cloud answers only {worst:?} after a heal");
    assert!(cpu < MOST_CPU, "a dead link takes {cpu} of a core");
    assert!(end.resident_kib < warm.resident_kib + MOST_GROWTH_KIB, "first {warm}, then {end}");
}

impl World {
    fn start() -> Self {
        let broker = AnyBroker::start();
        let proxy = LinkProxy::start(&broker.url());
        let gateways = ["gateway-1", "gateway-2"].map(|id| Gateway::start(id, &broker.url()));
        let setup = AgentSetup {
            broker: Some(proxy.url()),
            threshold: Some(0.9),
            cache: false,
            more: "[outbox]\nmax_requests = 200000\nmax_results = 200000\n".into(),
            ..AgentSetup::default()
        };
        let agent = setup.start();
        agent.wait_for_gateways(2);
        Self { broker, proxy, agent, gateways: gateways.into(), rerun: 0.0, probes: 0 }
    }

    /// Breaks the link in one manner, and now and then more than that; how long it took to recover.
    fn flap(&mut self, flap: usize, hold: Duration, random: &mut ChaCha8Rng) -> Duration {
        let (mode, least_ms) = match flap % 5 {
            0 => (Mode::Cut, 200),
            1 => (Mode::BlackHole, 500),
            2 => (Mode::Slow { bytes_per_sec: SLOW_BYTES_PER_SEC }, 2_000),
            3 => (Mode::DropUp, 500),
            _ => (Mode::DropDown, 500),
        };
        self.proxy.set(mode);
        if flap.is_multiple_of(GATEWAY_EVERY) {
            self.kill_a_gateway(flap);
        }
        if flap.is_multiple_of(BROKER_EVERY) {
            self.broker.restart();
        }
        let more = u64::from(random.next_u32()) % hold.as_millis() as u64;
        std::thread::sleep(Duration::from_millis(least_ms + more));
        if matches!(mode, Mode::DropUp | Mode::DropDown) {
            // A network that swallowed bytes never gives the connection back.
            self.proxy.set(Mode::Cut);
            std::thread::sleep(SWALLOWED);
        }
        self.proxy.set(Mode::Pass);
        self.recovery()
    }

    fn kill_a_gateway(&mut self, flap: usize) {
        let victim = flap / GATEWAY_EVERY % self.gateways.len();
        self.rerun += reruns(&self.gateways[victim]);
        let gateway = self.gateways.remove(victim).restart();
        self.gateways.insert(victim, gateway);
    }

    /// How long it takes from now until a request that insists on the cloud has been answered by it.
    fn recovery(&mut self) -> Duration {
        self.probes += 1;
        let image = digits::images(1_000_000 + self.probes as u64, 1);
        let mut request = digits::request(&format!("probe-{}", self.probes), &image);
        request["parameters"] = json!({ "hedge.durable": true, "hedge.place": "cloud", "hedge.deadline_ms": 100 });
        let (healed, mut client) = (Instant::now(), self.agent.client());
        wait_for("the cloud answers again", PATIENCE, || {
            let response = client.post_json("/v2/models/digits/infer", &request).expect("the agent answers");
            (response.status == 200).then_some(())
        });
        healed.elapsed()
    }

    /// The part of a core that the agent uses while its link is dead and nobody asks.
    fn cpu_while_dead(&self) -> f64 {
        self.proxy.set(Mode::Cut);
        wait_for("the agent notices", PATIENCE, || (self.agent.metric("hedge_link_up") == Some(0.0)).then_some(()));
        let (begun, before) = (Instant::now(), cpu_time(self.agent.program.id()));
        std::thread::sleep(WATCH);
        let used = cpu_time(self.agent.program.id()) - before;
        used.as_secs_f64() / begun.elapsed().as_secs_f64()
    }

    fn reruns(&self) -> f64 {
        self.gateways.iter().map(reruns).sum()
    }
}

fn reruns(gateway: &Gateway) -> f64 {
    gateway.metric("hedge_gateway_repeats_total{kind=\"rerun\"}").unwrap_or_default()
}
