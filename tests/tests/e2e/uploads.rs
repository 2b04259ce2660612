//! Rows that are larger than a message: they reach the cloud in parts, also where a gateway dies or its link is cut in the
//! middle of them.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use hedge_broker::proxy::Mode;
use hedge_graph::build::GraphBuilder;
use hedge_graph::{Attribute, Dim};
use hedge_tensor::DType;
use hedge_tests::broker::{Embedded, Mosquitto};
use hedge_tests::daemons::{Agent, AgentSetup, Gateway};
use hedge_tests::http::Response;
use hedge_tests::proxy::LinkProxy;
use hedge_tests::wait_for;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::{Value, json};

/// Three channels of a megapixel: 3 MiB a row, in 49 parts.
const SIDE: usize = 1024;
const ROW_BYTES: usize = 3 * SIDE * SIDE;
const PARTS: f64 = 49.0;

/// Parts after which something happens to the upload.
const SOME_PARTS: f64 = 10.0;
/// Slow enough that something can happen to an upload, fast enough that it comes to an end.
const SLOW_BYTES_PER_SEC: u64 = 500_000;

const PATIENCE: Duration = Duration::from_secs(30);

/// A model that takes large images and is sure of nothing: the mean of each channel.
fn write_model(folder: &Path) -> PathBuf {
    let mut graph = GraphBuilder::new("means");
    let side = Dim::Known(SIDE);
    let image = graph.input("image", DType::U8, &[Dim::named("N"), 3.into(), side.clone(), side]);
    let cast = graph.op("Cast", &[&image], &[("to", Attribute::Int(1))]);
    let axes = [("axes", Attribute::from([2, 3])), ("keepdims", Attribute::Int(0))];
    graph.op_as("logits", "ReduceMean", &[&cast], &axes);
    graph.output("logits", DType::F32, &[Dim::named("N"), 3.into()]);
    let path = folder.join("means.onnx");
    std::fs::write(&path, graph.finish().expect("the graph is valid").write()).expect("a folder that can be written");
    path
}

/// Noise, which zstd cannot make smaller, and its channels' means.
fn row(seed: u64) -> (Vec<u8>, Vec<f64>) {
    let mut row = vec![0; ROW_BYTES];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut row);
    let mean = |channel: &[u8]| channel.iter().map(|&value| f64::from(value)).sum::<f64>() / channel.len() as f64;
    let means = row.chunks(SIDE * SIDE).map(mean).collect();
    (row, means)
}

/// A device with a model for large rows, over a link that may be slow.
struct Scene {
    agent: Agent,
    model: PathBuf,
    _folder: tempfile::TempDir,
}

fn scene(broker: &str) -> Scene {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = write_model(folder.path());
    let agent = AgentSetup {
        broker: Some(broker.to_owned()),
        offloaded: vec![("means".into(), model.clone())],
        more: "[offload]\ndeadline_ms = 30000\n".into(),
        ..AgentSetup::default()
    };
    Scene { agent: agent.start(), model, _folder: folder }
}

impl Scene {
    fn gateway(&self, id: &str, broker: &str) -> Gateway {
        Gateway::start_serving(id, broker, "means", &self.model)
    }

    /// Asks about a row, in the background.
    fn ask(&self, row: &[u8]) -> JoinHandle<Response> {
        self.ask_with(row, &json!({}))
    }

    /// Asks durably and waits no longer than for the promise of an answer.
    fn ask_durably(&self, row: &[u8]) {
        let parameters = json!({ "hedge.durable": true, "hedge.deadline_ms": 200 });
        let promise = self.ask_with(row, &parameters).join().expect("the client does not panic");
        assert_eq!(promise.status, 202, "{}", promise.text());
    }

    fn ask_with(&self, row: &[u8], parameters: &Value) -> JoinHandle<Response> {
        let head = json!({ "id": "large", "parameters": parameters, "inputs": [{
            "name": "image", "datatype": "UINT8", "shape": [1, 3, SIDE, SIDE],
            "parameters": { "binary_data_size": ROW_BYTES },
        }] });
        let head = head.to_string();
        let (length, body) = (head.len().to_string(), [head.as_bytes(), row].concat());
        let mut client = self.agent.client();
        std::thread::spawn(move || {
            let headers = [("Inference-Header-Content-Length", length.as_str())];
            client.post("/v2/models/means/infer", &headers, &body).expect("the agent answers")
        })
    }
}

fn assert_answered_by(answer: JoinHandle<Response>, gateway: &str, means: &[f64]) {
    assert_is_by(&answer.join().expect("the client does not panic"), gateway, means);
}

fn assert_is_by(answer: &Response, gateway: &str, means: &[f64]) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = answer.json();
    assert_eq!(answer["parameters"]["hedge.source"], "cloud", "{answer}");
    assert_eq!(answer["parameters"]["hedge.device"], format!("gateway {gateway}"), "{answer}");
    let logits = answer["outputs"][0]["data"].as_array().expect("numbers");
    for (logit, mean) in logits.iter().zip(means) {
        let logit = logit.as_f64().expect("a number");
        assert!((logit - mean).abs() < 0.1, "{logit} is not {mean}");
    }
}

/// Whether the gateway is in the middle of an upload.
fn has_some_parts(gateway: &Gateway) -> bool {
    let parts = gateway.metric("hedge_gateway_parts_total").unwrap_or_default();
    parts >= SOME_PARTS && gateway.metric("hedge_gateway_uploads_open") == Some(1.0)
}

#[test]
fn a_row_of_three_megabytes_is_answered_by_the_cloud() {
    let broker = Embedded::start();
    let scene = scene(broker.url());
    let gateway = scene.gateway("gateway-1", broker.url());
    scene.agent.wait_for_gateways(1);
    let (row, means) = row(1);
    assert_answered_by(scene.ask(&row), "gateway-1", &means);
    assert_eq!(gateway.metric("hedge_gateway_parts_total"), Some(PARTS));
    assert_eq!(gateway.metric("hedge_gateway_upload_bytes"), Some(0.0));
    assert_eq!(scene.agent.metric("hedge_upload_parts_total"), Some(PARTS));
}

#[test]
fn a_row_of_three_megabytes_is_answered_over_mosquitto() {
    let Some(broker) = Mosquitto::start() else { return };
    let scene = scene(&broker.url());
    let _gateway = scene.gateway("gateway-1", &broker.url());
    scene.agent.wait_for_gateways(1);
    let (row, means) = row(2);
    assert_answered_by(scene.ask(&row), "gateway-1", &means);
}

#[test]
fn a_gateway_killed_in_the_middle_of_an_upload_is_replaced_by_another() {
    let broker = Embedded::start();
    let proxy = LinkProxy::start(broker.url());
    proxy.set(Mode::Slow { bytes_per_sec: SLOW_BYTES_PER_SEC });
    let scene = scene(&proxy.url());
    let mut gateways = ["gateway-1", "gateway-2"].map(|id| scene.gateway(id, broker.url()));
    scene.agent.wait_for_gateways(2);
    let (row, means) = row(3);
    let answer = scene.ask(&row);
    let victim = wait_for("a gateway gets parts", PATIENCE, || gateways.iter().position(has_some_parts));
    gateways[victim].program.kill();
    proxy.set(Mode::Pass);
    assert_answered_by(answer, ["gateway-2", "gateway-1"][victim], &means);
}

#[test]
fn a_gateway_whose_link_is_cut_in_the_middle_of_an_upload_goes_on_where_it_was() {
    let broker = Embedded::start();
    let [slow, proxy] = [(); 2].map(|()| LinkProxy::start(broker.url()));
    slow.set(Mode::Slow { bytes_per_sec: SLOW_BYTES_PER_SEC });
    let scene = scene(&slow.url());
    let gateway = scene.gateway("gateway-1", &proxy.url());
    scene.agent.wait_for_gateways(1);
    let (row, means) = row(4);
    let answer = scene.ask(&row);
    wait_for("the gateway gets parts", PATIENCE, || has_some_parts(&gateway).then_some(()));
    proxy.set(Mode::Cut);
    wait_for("the gateway notices", PATIENCE, || (gateway.metric("hedge_link_up") == Some(0.0)).then_some(()));
    proxy.set(Mode::Pass);
    slow.set(Mode::Pass);
    assert_answered_by(answer, "gateway-1", &means);
    // Parts that were on their way came twice at the most.
    let parts = gateway.metric("hedge_gateway_parts_total").expect("a number");
    assert!((PARTS..PARTS + SOME_PARTS).contains(&parts), "{parts}");
}

#[test]
fn a_durable_row_whose_link_is_cut_in_the_middle_of_its_upload_goes_on_when_it_is_healed() {
    let broker = Embedded::start();
    let proxy = LinkProxy::start(broker.url());
    proxy.set(Mode::Slow { bytes_per_sec: SLOW_BYTES_PER_SEC });
    let scene = scene(&proxy.url());
    let gateway = scene.gateway("gateway-1", broker.url());
    scene.agent.wait_for_gateways(1);
    let (row, means) = row(5);
    scene.ask_durably(&row);
    wait_for("the gateway gets parts", PATIENCE, || has_some_parts(&gateway).then_some(()));
    proxy.set(Mode::Cut);
    wait_for("the agent notices", PATIENCE, || (scene.agent.metric("hedge_link_up") == Some(0.0)).then_some(()));
    proxy.set(Mode::Pass);
    let mut client = scene.agent.client();
    let answer = wait_for("the cloud answers", PATIENCE, || {
        let result = client.get("/hedge/v1/requests/large").expect("the agent answers");
        (result.status != 202).then_some(result)
    });
    assert_is_by(&answer, "gateway-1", &means);
    // The gateway kept what it had, and said so.
    let parts = gateway.metric("hedge_gateway_parts_total").expect("a number");
    assert!((PARTS..PARTS + SOME_PARTS).contains(&parts), "{parts}");
}
