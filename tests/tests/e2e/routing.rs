//! Certified routing between the real programs: labels from the gateway become a certificate, which outlives the process
//! and the gateway.

use std::collections::BTreeMap;

use hedge_tests::broker::Embedded;
use hedge_tests::daemons::{AgentSetup, Gateway};
use hedge_tests::digits;
use hedge_tests::http::Client;
use serde_json::Value;

/// Few labels are enough for this; the bundled models differ on fewer rows.
const CONTRACT: &str = "[models.route]\ncontract = \"system\"\nalpha = 0.1\nfit_labels = 0\ntune_labels = 100\n\
                        calibration_labels = 300\nshadow_requests = 50\naudit_rate = 0.1\n";

/// Labels, the requests watched, and some to spare.
const ENOUGH: usize = 1_000;

#[test]
fn a_certificate_comes_of_the_gateways_answers_and_outlives_kill_9_and_the_gateway() {
    let broker = Embedded::start();
    let gateway = Gateway::start("gateway-1", broker.url());
    let agent = AgentSetup {
        broker: Some(broker.url().to_owned()),
        threshold: Some(1.0),
        cache: false,
        more: "[offload]\ndeadline_ms = 10000\n".into(),
        route: CONTRACT.into(),
        ..AgentSetup::default()
    };
    let agent = agent.start();
    agent.wait_for_gateways(1);

    let mut images = digits::images(11, ENOUGH).into_iter();
    let mut client = agent.client();
    let mut gathered = BTreeMap::new();
    while route(&mut client)["phase"] != "certified" {
        let image = images.next().expect("the labels suffice");
        *gathered.entry(ask(&mut client, &image)).or_insert(0) += 1;
    }
    // A busy machine may miss a deadline; nothing else is local before there is a certificate, and nothing is certified.
    let cloud = gathered.get("cloud no-certificate").copied().unwrap_or(0);
    assert!(cloud >= 450, "{gathered:?}");
    assert!(gathered.keys().all(|answer| !answer.starts_with("certified")), "{gathered:?}");
    let before = route(&mut client);
    assert_eq!((&before["certificate"]["n"], &before["certificate"]["index"]), (&300.into(), &1.into()), "{before}");

    // Nothing is certified before what led to it is on disk: from the first certified answer on it survives.
    while !ask(&mut client, &images.next().expect("images to spare")).starts_with("certified") {}
    let agent = agent.restart();
    let mut client = agent.client();
    let after = route(&mut client);
    assert_eq!((&after["phase"], &after["certificate"]), (&"certified".into(), &before["certificate"]));
    agent.wait_for_gateways(1);
    let mut answers = BTreeMap::new();
    for image in images.by_ref().take(100) {
        *answers.entry(ask(&mut client, &image)).or_insert(0) += 1;
    }
    assert!(answers.get("certified inside-certificate").is_some_and(|&count| count > 30), "{answers:?}");

    drop(gateway);
    agent.wait_for_gateways(0);
    let mut alone = BTreeMap::new();
    for image in images.by_ref().take(60) {
        *alone.entry(ask(&mut client, &image)).or_insert(0) += 1;
    }
    assert!(alone.contains_key("certified inside-certificate"), "{alone:?}");
    let known = ["certified inside-certificate", "uncertified no-gateway"];
    assert!(alone.keys().all(|answer| known.contains(&answer.as_str())), "{alone:?}");
}

fn route(client: &mut Client) -> Value {
    client.get("/hedge/v1/models/digits/route").expect("the agent answers").json()
}

/// Status and reason of the answer to one image.
fn ask(client: &mut Client, image: &[u8]) -> String {
    let request = digits::request("1", &[image.to_vec()]);
    let response = client.post_json("/v2/models/digits/infer", &request).expect("the agent answers");
    assert_eq!(response.status, 200, "{}", response.text());
    let parameters = response.json()["parameters"].clone();
    let text = |name: &str| parameters[name].as_str().unwrap_or("?").to_owned();
    format!("{} {}", text("hedge.status"), text("hedge.reason"))
}
