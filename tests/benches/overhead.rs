//! What the agent adds to a model: over HTTP, from the cache, and on the way to the cloud.
//!
//! Figures, not a test: `cargo build --release --workspace --bins`, then
//! `HEDGE_BINARIES=target/release cargo bench --workspace --bench overhead`. docs/performance.md keeps them.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::process::Command;
use std::time::{Duration, Instant};

use hedge_tests::binaries::binaries;
use hedge_tests::broker::{Embedded, Mosquitto};
use hedge_tests::daemons::{Agent, AgentSetup, Gateway};
use hedge_tests::digits;
use hedge_tests::http::Client;

/// Requests of each kind, after the ones that warm up.
const REQUESTS: usize = 4000;
const WARM_UP: usize = 400;

/// No margin reaches it: every answer is asked of the cloud.
const NEVER_SURE: f32 = 1.0;

fn main() {
    let edge = bare_model("edge.onnx");
    let cloud = bare_model("cloud.onnx");
    println!("{:34} {:>9} {:>9}", "", "p50 ms", "p99 ms");
    row("edge model alone", edge);
    row("cloud model alone", cloud);

    let agent = AgentSetup { cache: false, ..AgentSetup::default() }.start();
    let idle = resident_mb(&agent);
    let local = over_http(&agent, &images());
    row("local answer over HTTP", local);
    row("  minus the edge model", less(local, edge));

    let agent = AgentSetup::default().start();
    let again = vec![images().swap_remove(0); REQUESTS + WARM_UP];
    row("cache hit over HTTP", over_http(&agent, &again));

    if let Some(mosquitto) = Mosquitto::start() {
        offload("Mosquitto", &mosquitto.url(), cloud);
    }
    let embedded = Embedded::start();
    let loaded = offload("embedded broker", embedded.url(), cloud);
    println!("\nagent's resident set: {idle:.1} MB idle, {loaded:.1} MB after {REQUESTS} offloads");
}

/// Every request goes to the cloud and back; returns the agent's resident set afterwards.
fn offload(name: &str, broker: &str, cloud: [f64; 2]) -> f64 {
    let _gateway = Gateway::start_with("gateway-1", broker, "max_wait_micros = 0");
    let agent = AgentSetup {
        broker: Some(broker.to_owned()),
        threshold: Some(NEVER_SURE),
        cache: false,
        ..AgentSetup::default()
    }
    .start();
    agent.wait_for_gateways(1);
    let times = over_http(&agent, &images());
    row(&format!("cloud answer, {name}"), times);
    row("  minus the cloud model", less(times, cloud));
    resident_mb(&agent)
}

fn images() -> Vec<Vec<u8>> {
    digits::images(1, REQUESTS + WARM_UP)
}

/// One request after the other on one connection, as binary tensors.
fn over_http(agent: &Agent, images: &[Vec<u8>]) -> [f64; 2] {
    let mut client = agent.client();
    let mut times = Vec::with_capacity(images.len());
    for image in images {
        let started = Instant::now();
        infer(&mut client, image);
        times.push(started.elapsed());
    }
    percentiles(times.split_off(WARM_UP))
}

fn infer(client: &mut Client, image: &[u8]) {
    let side = digits::SIDE;
    let head = format!(
        r#"{{"inputs":[{{"name":"image","datatype":"UINT8","shape":[1,1,{side},{side}],"parameters":{{"binary_data_size":{}}}}}],"parameters":{{"binary_data_output":true}}}}"#,
        digits::PIXELS
    );
    let mut body = head.clone().into_bytes();
    body.extend_from_slice(image);
    let length = head.len().to_string();
    let headers = [("Content-Type", "application/octet-stream"), ("Inference-Header-Content-Length", length.as_str())];
    let response = client.post("/v2/models/digits/infer", &headers, &body).expect("the agent answers");
    assert_eq!(response.status, 200, "{}", response.text());
}

/// p50 and p99 of the engine call alone, in milliseconds.
fn bare_model(name: &str) -> [f64; 2] {
    let model = hedge_tests::root().join("models/zoo/digits").join(name);
    let mut bench = Command::new(&binaries().hedge);
    bench.args(["model", "bench", "--device", "cpu", "--threads", "2", "--seconds", "2", "--json", "-"]).arg(model);
    let output = bench.output().expect("hedge runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout).expect("hedge writes JSON");
    ["p50_ms", "p99_ms"].map(|key| figures[key].as_f64().expect("a number"))
}

fn percentiles(mut times: Vec<Duration>) -> [f64; 2] {
    times.sort_unstable();
    [0.5, 0.99].map(|share| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3)
}

fn less(a: [f64; 2], b: [f64; 2]) -> [f64; 2] {
    [a[0] - b[0], a[1] - b[1]]
}

fn row(name: &str, [p50, p99]: [f64; 2]) {
    println!("{name:34} {p50:9.3} {p99:9.3}");
}

/// Where there is no `/proc`, there is no figure.
fn resident_mb(agent: &Agent) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.program.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kilobytes.map_or(f64::NAN, |kilobytes| kilobytes / 1024.0)
}
