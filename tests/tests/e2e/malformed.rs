//! Requests that no client should send: each gets an error that says what is wrong with which part, and the agent serves on.

use std::path::Path;

use hedge_graph::Dim;
use hedge_graph::build::GraphBuilder;
use hedge_tensor::DType;
use hedge_tests::daemons::{Agent, AgentSetup};
use hedge_tests::digits::{self, PIXELS};
use hedge_tests::http::{Client, Response, head};
use serde_json::{Value, json};

const INFER: &str = "/v2/models/digits/infer";

/// A gibibyte, declared but never sent.
const GIB: usize = 1 << 30;

#[test]
fn malformed_requests_are_named_and_the_agent_serves_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let floats = folder.path().join("floats.onnx");
    write_float_model(&floats);
    let setup = AgentSetup { more_models: vec![("floats".into(), floats)], ..AgentSetup::default() };
    let agent = setup.start();
    for (case, response, status, words) in [
        ("wrong shape", json_case(&agent, "image", "UINT8", &[1, 1, 8, 8], 64), 400, vec!["image", "16", "8"]),
        ("wrong rank", json_case(&agent, "image", "UINT8", &[1, 256], 256), 400, vec!["image"]),
        (
            "wrong dtype",
            json_case(&agent, "image", "FP32", &[1, 1, 16, 16], PIXELS),
            400,
            vec!["image", "FP32", "UINT8"],
        ),
        ("no such dtype", json_case(&agent, "image", "UINT7", &[1, 1, 16, 16], PIXELS), 400, vec!["image", "UINT7"]),
        ("wrong name", json_case(&agent, "picture", "UINT8", &[1, 1, 16, 16], PIXELS), 400, vec!["picture", "image"]),
        (
            "fewer elements than the shape",
            json_case(&agent, "image", "UINT8", &[1, 1, 16, 16], 255),
            400,
            vec!["256", "255"],
        ),
        ("negative dimension", json_case(&agent, "image", "UINT8", &[-1, 1, 16, 16], PIXELS), 400, vec!["image", "-1"]),
        ("no rows", json_case(&agent, "image", "UINT8", &[0, 1, 16, 16], 0), 400, vec!["image"]),
        ("no inputs", post(&agent, INFER, &json!({ "inputs": [] })), 400, vec!["image"]),
        ("not JSON", raw(&agent, INFER, &[], b"{\"inputs\": ["), 400, vec!["JSON"]),
        ("NaN in JSON", raw(&agent, "/v2/models/floats/infer", &[], nan_json()), 400, vec!["NaN"]),
        ("NaN in binary", binary_floats(&agent, [0.0, f32::NAN, 0.0, 0.0]), 400, vec!["x", "1"]),
        ("infinity in binary", binary_floats(&agent, [0.0, 0.0, 0.0, f32::INFINITY]), 400, vec!["x", "3"]),
        ("truncated binary", truncated_binary(&agent), 400, vec!["image", "256"]),
        ("binary left over", left_over_binary(&agent), 400, vec!["1"]),
        (
            "header longer than the body",
            raw(&agent, INFER, &[HEADER_LENGTH_TOO_LONG], b"{}"),
            400,
            vec!["Inference-Header"],
        ),
        ("1 GB declared by shape", gib_by_shape(&agent), 413, vec!["image"]),
        ("1 GB declared by Content-Length", gib_by_length(&agent), 413, vec![]),
        (
            "element count overflows",
            json_case(&agent, "image", "UINT8", &[i64::MAX, i64::MAX, 16, 16], 1),
            400,
            vec!["image"],
        ),
        ("no such model", post(&agent, "/v2/models/none/infer", &json!({})), 404, vec!["none", "digits"]),
        ("no such path", post(&agent, "/v3", &json!({})), 404, vec!["/v2"]),
        (
            "no such parameter",
            parameter(&agent, "hedge.plase", &json!("edge")),
            400,
            vec!["hedge.plase", "hedge.place"],
        ),
        ("impossible deadline", parameter(&agent, "hedge.deadline_ms", &json!(0)), 400, vec!["hedge.deadline_ms"]),
        ("cloud without a cloud", parameter(&agent, "hedge.place", &json!("cloud")), 400, vec!["never"]),
    ] {
        let said = response.text();
        assert_eq!(response.status, status, "{case}: {said}");
        let error =
            response.json()["error"].as_str().unwrap_or_else(|| panic!("{case}: no OIP error: {said}")).to_owned();
        for word in words {
            assert!(error.contains(word), "{case}: {word:?} is not in {error:?}");
        }
        serves(&agent, case);
    }
}

fn serves(agent: &Agent, after: &str) {
    let request = digits::request("good", &digits::images(9, 2));
    let response = agent.client().post_json(INFER, &request).unwrap_or_else(|error| panic!("after {after}: {error}"));
    assert_eq!(response.status, 200, "after {after}: {}", response.text());
    assert_eq!(response.json()["outputs"][0]["shape"], json!([2, 10]), "after {after}");
}

const HEADER_LENGTH_TOO_LONG: (&str, &str) = ("Inference-Header-Content-Length", "1000");

fn json_case(agent: &Agent, name: &str, datatype: &str, shape: &[i64], elements: usize) -> Response {
    let data = vec![0; elements];
    post(agent, INFER, &json!({ "inputs": [{ "name": name, "datatype": datatype, "shape": shape, "data": data }] }))
}

fn parameter(agent: &Agent, name: &str, value: &Value) -> Response {
    let mut request = digits::request("parameter", &digits::images(9, 1));
    request["parameters"] = json!({ name: value });
    post(agent, INFER, &request)
}

fn post(agent: &Agent, path: &str, body: &Value) -> Response {
    agent.client().post_json(path, body).expect("an answer")
}

fn raw(agent: &Agent, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    agent.client().post(path, headers, body).expect("an answer")
}

fn binary(agent: &Agent, path: &str, input: &Value, data: &[u8]) -> Response {
    let json = json!({ "inputs": [input] }).to_string();
    let length = json.len().to_string();
    let body = [json.as_bytes(), data].concat();
    raw(agent, path, &[("Inference-Header-Content-Length", &length)], &body)
}

fn image(shape: &[usize], size: usize) -> Value {
    json!({ "name": "image", "datatype": "UINT8", "shape": shape, "parameters": { "binary_data_size": size } })
}

fn truncated_binary(agent: &Agent) -> Response {
    binary(agent, INFER, &image(&[1, 1, 16, 16], PIXELS), &[0; 100])
}

fn left_over_binary(agent: &Agent) -> Response {
    binary(agent, INFER, &image(&[1, 1, 16, 16], PIXELS), &[0; PIXELS + 1])
}

fn gib_by_shape(agent: &Agent) -> Response {
    binary(agent, INFER, &image(&[GIB / PIXELS, 1, 16, 16], GIB), &[0; 100])
}

fn gib_by_length(agent: &Agent) -> Response {
    Client::new(agent.address).send(&head("POST", INFER, &[], GIB), &[b' '; 100]).expect("an answer")
}

fn nan_json() -> &'static [u8] {
    br#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[0,NaN,0,0]}]}"#
}

fn binary_floats(agent: &Agent, values: [f32; 4]) -> Response {
    let input = json!({ "name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": { "binary_data_size": 16 } });
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    binary(agent, "/v2/models/floats/infer", &input, &data)
}

/// `y = Relu(x)` over rows of four floats: the bundled models take bytes, which are never NaN.
fn write_float_model(path: &Path) {
    let mut b = GraphBuilder::new("floats");
    let shape = [Dim::named("N"), Dim::Known(4)];
    let x = b.input("x", DType::F32, &shape);
    b.op_as("y", "Relu", &[&x], &[]);
    b.output("y", DType::F32, &shape);
    std::fs::write(path, b.finish().expect("a graph").write()).expect("a temporary folder can be written");
}
