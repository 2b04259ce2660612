//! Agent and gateways as processes of their own, sharing the load over a broker; one gateway dies without warning.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use hedge_tests::broker::{Embedded, Mosquitto};
use hedge_tests::daemons::{Agent, AgentSetup, Gateway};
use hedge_tests::digits;
use hedge_tests::http::Client;
use serde_json::Value;

/// Requests in flight at a time.
const CLIENTS: usize = 4;

/// Enough for two attempts on a busy machine; what takes longer is answered locally.
const DEADLINE_MS: u32 = 5_000;

#[test]
fn two_gateways_on_mosquitto_lose_nothing_when_one_is_killed() {
    let Some(broker) = Mosquitto::start() else { return };
    kill_one_of_two(&broker.url(), 2_000);
}

#[test]
fn two_gateways_on_the_embedded_broker_lose_nothing_when_one_is_killed() {
    let broker = Embedded::start();
    kill_one_of_two(broker.url(), 400);
}

fn kill_one_of_two(broker: &str, requests: usize) {
    let mut victim = Gateway::start("gateway-1", broker);
    let survivor = Gateway::start("gateway-2", broker);
    let agent = AgentSetup {
        broker: Some(broker.to_owned()),
        // So that nearly every row goes to the cloud.
        threshold: Some(1.0),
        more: format!("[offload]\ndeadline_ms = {DEADLINE_MS}\n"),
        ..AgentSetup::default()
    };
    let agent = agent.start();
    agent.wait_for_gateways(2);

    let answers = ask_all(&agent, requests, requests * 2 / 5, || victim.program.kill());

    // Not lost: one answer for each request, and it is that request's. Not failed: all of them are 200.
    assert_eq!(answers.len(), requests);
    for (index, answer) in answers.iter().enumerate() {
        assert_eq!(answer["id"], index.to_string(), "{answer}");
        assert_eq!(answer["outputs"][0]["shape"], serde_json::json!([1, 10]), "{answer}");
    }
    let by_device = count(&answers, "hedge.device");
    let served = |device: &str| by_device.get(device).copied().unwrap_or(0);
    // Shared while both lived, all the survivor's afterwards.
    assert!(served("gateway gateway-1") > requests / 10, "the load was not shared: {by_device:?}");
    assert!(served("gateway gateway-2") > requests / 2, "the survivor did not take over: {by_device:?}");
    // What was with the dead gateway is asked again, with the same id, and the survivor answers; so all that the edge model
    // was not sure of was answered by the cloud, but for what a busy machine may delay past the deadline.
    let reasons = count(&answers, "hedge.reason");
    let sure = reasons.get("no-certificate").copied().unwrap_or(0);
    let cloud = reasons.get("below-threshold").copied().unwrap_or(0);
    assert!(sure < requests / 10, "too few were offloaded to show anything: {reasons:?}");
    assert!(cloud + sure >= requests * 99 / 100, "the cloud was there, but did not answer: {reasons:?}");
    agent.wait_for_gateways(1);
    drop(survivor);
}

/// How many answers say what in a parameter.
fn count(answers: &[Value], parameter: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer["parameters"][parameter].as_str().unwrap_or("?").to_owned()).or_default() += 1;
    }
    counts
}

/// Asks `count` times from several clients; once `act_after` requests have been answered, `act` happens, while the others
/// go on. The answers stand in the order of the requests.
fn ask_all(agent: &Agent, count: usize, act_after: usize, act: impl FnOnce() + Send) -> Vec<Value> {
    let images = digits::images(4, count);
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let answers = Mutex::new(vec![Value::Null; count]);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = agent.client();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(image) = images.get(index) else { return };
                    let answer = ask(&mut client, index, image);
                    answers.lock().expect("no client panicked")[index] = answer;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| {
            while done.load(Ordering::Relaxed) < act_after {
                std::thread::yield_now();
            }
            act();
        });
    });
    answers.into_inner().expect("no client panicked")
}

fn ask(client: &mut Client, index: usize, image: &[u8]) -> Value {
    let request = digits::request(&index.to_string(), &[image.to_vec()]);
    let response = client.post_json("/v2/models/digits/infer", &request);
    let response = response.unwrap_or_else(|error| panic!("request {index} was lost: {error}"));
    assert_eq!(response.status, 200, "request {index} failed: {}", response.text());
    response.json()
}
