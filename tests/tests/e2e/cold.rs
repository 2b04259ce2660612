//! A device that is switched on where everything is wrong: no network, a clock in 1970, and nothing of its state readable. It
//! serves its bundled model all the same, and says what its answers are worth.
//!
//! `HEDGE_COLD_BOOTS=20 cargo test --workspace --test e2e cold` measures it, best with `HEDGE_BINARIES=target/release`;
//! `docs/reliability.md` has the figures.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hedge_tests::daemons::{Agent, AgentSetup};
use hedge_tests::digits;
use hedge_tests::needs::need;
use hedge_tests::{asked, say};
use serde_json::json;

/// How long a cold boot may take until the first answer.
const LIMIT: Duration = Duration::from_secs(2);

/// Nobody is there, and nobody says so (RFC 5737).
const NOWHERE: &str = "mqtt://192.0.2.1:1883";

#[test]
fn a_device_in_1970_without_network_and_state_serves_its_bundled_model() {
    let Some(faketime) = need("faketime", "apt-get install faketime", faketime()) else { return };
    let long = asked("HEDGE_COLD_BOOTS");
    let mut took: Vec<Duration> = (0..long.unwrap_or(1)).map(|_| cold_boot(&faketime)).collect();
    took.sort();
    let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
    if long.is_some() {
        say(&format!("{} cold boots: first answer after {median:?} (median), {worst:?} (worst)", took.len()));
        assert!(worst < LIMIT, "a cold boot took {worst:?}");
    }
}

/// From the start of the program to its first answer.
fn cold_boot(faketime: &Path) -> Duration {
    let setup = AgentSetup {
        broker: Some(NOWHERE.into()),
        threshold: Some(1.0),
        environment: vec![
            ("LD_PRELOAD", faketime.display().to_string()),
            ("FAKETIME", "1970-01-01 00:00:42".into()),
            // The monotonic clock of such a device is right.
            ("DONT_FAKE_MONOTONIC", "1".into()),
        ],
        ..AgentSetup::default()
    };
    let folder = setup.prepare();
    destroy(&folder.path().join("state"));
    let started = Instant::now();
    let agent = setup.launch(folder);
    let request = digits::request("1", &digits::images(5, 1));
    let response = agent.client().post_json("/v2/models/digits/infer", &request).expect("an answer");
    let took = started.elapsed();
    assert_eq!(response.status, 200, "{}", response.text());
    let parameters = &response.json()["parameters"];
    assert_eq!(parameters["hedge.source"], "edge", "{parameters}");
    assert_eq!(parameters["hedge.status"], "uncertified", "{parameters}");
    assert_eq!(parameters["hedge.reason"], "link-down", "{parameters}");
    takes_durable_requests(&agent);
    took
}

fn takes_durable_requests(agent: &Agent) {
    let mut request = digits::request("kept", &digits::images(6, 1));
    request["parameters"] = json!({ "hedge.durable": true, "hedge.deadline_ms": 50 });
    let response = agent.client().post_json("/v2/models/digits/infer", &request).expect("an answer");
    assert_eq!(response.status, 202, "it waits for the cloud: {}", response.text());
}

/// Garbage in the place of everything that the agent keeps.
fn destroy(state: &Path) {
    for database in ["cache", "state/audits", "outbox/database"] {
        let folder = state.join(database);
        std::fs::create_dir_all(&folder).expect("a folder for garbage");
        std::fs::write(folder.join("db"), [0xa5; 70_000]).expect("garbage");
        std::fs::write(folder.join("conf"), "garbage").expect("garbage");
    }
    for file in ["ledger", "journal-0", "journal-1"] {
        std::fs::write(state.join("outbox").join(file), [0x5a; 5_000]).expect("garbage");
    }
}

/// The library that the program of that name preloads. (The program itself would outlive a test as the agent's parent.)
fn faketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten();
    let mut libraries = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    libraries.find(|library| library.is_file())
}
