//! Pooling between the real programs: two devices of a class get one certificate from the labels of both, a third has it from
//! the start, and all lose it by what only one of them sees. The gateway may be killed in between.

use std::time::{Duration, Instant};

use hedge_tests::broker::Embedded;
use hedge_tests::daemons::{Agent, AgentSetup, Gateway};
use hedge_tests::digits;
use hedge_tests::http::Client;
use hedge_tests::wait_for;
use serde_json::Value;

/// Few labels are enough for this; an alarm rings soon.
const CLASS: &str = "contract = \"system\"\nalpha = 0.1\ndelta = 0.1\ndelta_a = 0.2\nfit_labels = 0\ntune_labels = 100\n\
                     calibration_labels = 300\n";

/// Of its own a device would not certify in this test, nor ever alarm: whatever happens here is the gateway's doing.
const DEVICE: &str = "[models.route]\ncontract = \"system\"\nalpha = 0.1\ndelta = 0.1\ndelta_a = 1e-100\nfit_labels = 0\n\
                      tune_labels = 10000\ncalibration_labels = 30000\nshadow_requests = 0\naudit_rate = 1.0\nboost_rate = 1.0\n";

/// Requests of each device: more than half of the class's labels, as one part is full before the other.
const ENOUGH: usize = 300;

/// Requests between two looks at what the gateway says.
const ROUND: usize = 20;

/// Reports come every second; a busy machine may need longer, and then there is another round.
const ROUND_TRIP: Duration = Duration::from_secs(3);

/// Far beyond what a class state takes to reach a device.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_class_gets_its_certificate_from_the_labels_of_two_devices_and_loses_it_by_the_drift_of_one() {
    let broker = Embedded::start();
    let mut gateway = Gateway::start_pooling("gateway-1", broker.url(), CLASS);
    let mut devices = vec![start("device-1", &broker, &gateway), start("device-2", &broker, &gateway)];
    let mut clients: Vec<Client> = devices.iter().map(Agent::client).collect();

    for image in digits::images(21, ENOUGH) {
        clients.iter_mut().for_each(|client| ask(client, &image));
    }
    wait_for("the class is certified", PATIENCE, || all_in_phase(&mut clients, "certified").then_some(()));
    // One that was not asked anything yet.
    devices.push(start("device-3", &broker, &gateway));
    clients.push(devices[2].client());
    wait_for("a new device has the certificate", PATIENCE, || all_in_phase(&mut clients, "certified").then_some(()));
    let certificates: Vec<Value> = clients.iter_mut().map(|client| route(client)["certificate"].clone()).collect();
    assert!(certificates.iter().all(|certificate| *certificate == certificates[0]), "{certificates:?}");
    assert_eq!((&certificates[0]["n"], &certificates[0]["index"]), (&300.into(), &1.into()));
    assert_eq!(gateway.metric("hedge_pool_certified"), Some(1.0));

    gateway = gateway.restart();
    assert_eq!(gateway.metric("hedge_pool_certified"), Some(1.0));
    devices.iter().for_each(|device| device.wait_for_gateways(1));

    // Negatives, which the edge model is sure of and wrong about; the other devices see none of them.
    for image in digits::images(22, ENOUGH).chunks(ROUND) {
        for image in image {
            ask(&mut clients[0], &image.iter().map(|grey| 255 - grey).collect::<Vec<_>>());
        }
        let until = Instant::now() + ROUND_TRIP;
        while Instant::now() < until && !all_in_phase(&mut clients, "gathering") {
            std::thread::sleep(Duration::from_millis(50));
        }
        if all_in_phase(&mut clients, "gathering") {
            break;
        }
    }
    for client in &mut clients {
        let route = route(client);
        let revoked = route["transitions"].to_string().contains("by the gateway");
        assert!(route["phase"] == "gathering" && revoked, "{route}");
    }
    assert_eq!(gateway.metric("hedge_pool_certified"), Some(0.0));
}

fn start(device: &str, broker: &Embedded, gateway: &Gateway) -> Agent {
    let agent = AgentSetup {
        device: device.into(),
        broker: Some(broker.url().to_owned()),
        class_key: Some(gateway.class_key()),
        threshold: Some(1.0),
        cache: false,
        more: "[offload]\ndeadline_ms = 10000\n\n[audits]\nreport_secs = 1\n".into(),
        route: DEVICE.into(),
        ..AgentSetup::default()
    };
    let agent = agent.start();
    agent.wait_for_gateways(1);
    agent
}

fn all_in_phase(clients: &mut [Client], phase: &str) -> bool {
    clients.iter_mut().all(|client| route(client)["phase"] == phase)
}

fn route(client: &mut Client) -> Value {
    client.get("/hedge/v1/models/digits/route").expect("the agent answers").json()
}

fn ask(client: &mut Client, image: &[u8]) {
    let request = digits::request("1", &[image.to_vec()]);
    let response = client.post_json("/v2/models/digits/infer", &request).expect("the agent answers");
    assert_eq!(response.status, 200, "{}", response.text());
}
