//! Requests that are answered.

use serde_json::{Value, json};

use crate::client::{Connection, post};
use crate::scene::{INFER, SURE, UNSURE, rows, scene, scene_with};

fn with(mut request: Value, key: &str, value: Value) -> Value {
    request[key] = value;
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn a_json_request_gets_the_models_outputs_and_what_they_are_worth() {
    let scene = scene().await;
    let response = scene.infer(with(rows(&[SURE]), "id", json!("42"))).await;
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("application/json"));
    let body = response.json();
    assert_eq!((&body["id"], &body["model_name"], &body["model_version"]), (&json!("42"), &json!("tiny"), &json!("1")));
    let output = json!({ "name": "logits", "datatype": "FP32", "shape": [1, 3], "data": [5.0, 0.0, -5.0] });
    assert_eq!(body["outputs"], json!([output]));
    let parameters = &body["parameters"];
    assert_eq!(parameters["hedge.source"], "edge");
    assert_eq!(parameters["hedge.status"], "uncertified");
    assert_eq!(parameters["hedge.reason"], "no-certificate");
    assert!((parameters["hedge.confidence"].as_f64().unwrap() - 0.9866).abs() < 1e-3);
    assert!(parameters["hedge.model"].as_str().unwrap().starts_with("sha256:"));
    assert_eq!(parameters["hedge.device"], "cpu (flex)");
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_tensors_go_in_and_out() {
    let scene = scene().await;
    let response = scene
        .with(|address| {
            let head = json!({
                "parameters": { "binary_data_output": true },
                "inputs": [{
                    "name": "x", "shape": [2, 2], "datatype": "FP32", "parameters": { "binary_data_size": 16 },
                }],
            });
            let head = head.to_string();
            let data: Vec<u8> = [5.0_f32, 0.0, 0.0, 7.0].iter().flat_map(|x| x.to_le_bytes()).collect();
            let length = head.len().to_string();
            post(address, INFER, &[("Inference-Header-Content-Length", &length)], &[head.as_bytes(), &data].concat())
        })
        .await;
    assert_eq!(response.status, 200, "{response:?}");
    let output = &response.json()["outputs"][0];
    assert_eq!((&output["shape"], &output["parameters"]["binary_data_size"]), (&json!([2, 3]), &json!(24)));
    assert!(output.get("data").is_none());
    let logits: Vec<f32> =
        response.binary().chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
    assert_eq!(logits, [5.0, 0.0, -5.0, 0.0, 7.0, -7.0]);
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_row_is_placed_by_itself_and_the_response_tells_the_weakest() {
    let scene = scene().await;
    scene.infer(rows(&[SURE])).await;
    let outputs = json!([{ "name": "hedge_source" }, { "name": "hedge_status" }, { "name": "logits" }]);
    let body = scene.infer(with(rows(&[SURE, UNSURE, [0.0, 9.0]]), "outputs", outputs)).await.json();
    assert_eq!(body["outputs"][0]["data"], json!(["cache", "edge", "edge"]));
    assert_eq!(body["outputs"][0]["datatype"], "BYTES");
    assert_eq!(body["outputs"][1]["data"], json!(["uncertified", "uncertified", "uncertified"]));
    assert_eq!(body["outputs"][2]["data"], json!([5.0, 0.0, -5.0, 0.25, 0.25, -0.5, 0.0, 9.0, -9.0]));
    assert_eq!(body["parameters"]["hedge.source"], "edge");
    assert_eq!(body["parameters"]["hedge.reason"], "no-gateway", "the least confident row's");
    assert_eq!(body["parameters"]["hedge.confidence"], 0.0);
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_tensors_come_as_binary_too() {
    let scene = scene().await;
    let outputs = json!([{ "name": "hedge_source", "parameters": { "binary_data": true } }]);
    let response = scene.infer(with(rows(&[SURE, UNSURE]), "outputs", outputs)).await;
    assert_eq!(response.binary(), b"\x04\0\0\0edge\x04\0\0\0edge");
    assert_eq!(response.json()["outputs"][0]["shape"], json!([2]));
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_row_again_comes_from_the_cache_until_it_is_turned_off() {
    let scene = scene().await;
    for expected in ["edge", "cache", "cache"] {
        assert_eq!(scene.infer(rows(&[SURE])).await.json()["parameters"]["hedge.source"], expected);
    }
    let unsure = scene.infer(rows(&[UNSURE])).await.json();
    assert_eq!(unsure["parameters"]["hedge.source"], "edge");
    let unsure = scene.infer(rows(&[UNSURE])).await.json();
    assert_eq!(unsure["parameters"]["hedge.source"], "cache");
    assert_eq!(unsure["parameters"]["hedge.reason"], "no-gateway", "a cached result is judged again");
    scene.agent.shutdown().await;

    let uncached = scene_with(|config| config.cache.enabled = false).await;
    for _ in 0..2 {
        assert_eq!(uncached.infer(rows(&[SURE])).await.json()["parameters"]["hedge.source"], "edge");
    }
    uncached.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_place_is_the_callers_to_choose() {
    let scene = scene().await;
    let place = |row, place: &str| with(rows(&[row]), "parameters", json!({ "hedge.place": place }));
    let edge = scene.infer(place(UNSURE, "edge")).await.json();
    assert_eq!(edge["parameters"]["hedge.reason"], "caller");
    let cloud = scene.infer(place(UNSURE, "cloud")).await;
    assert_eq!((cloud.status, cloud.header("retry-after")), (503, Some("1")));
    assert!(cloud.error().contains("no-gateway"), "{}", cloud.error());
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_never_offloaded_says_so() {
    let scene = scene().await;
    let ask = |request: Value| {
        scene.with(move |address| post(address, "/v2/models/private/infer", &[], request.to_string().as_bytes()))
    };
    assert_eq!(ask(rows(&[UNSURE])).await.json()["parameters"]["hedge.reason"], "no-certificate");
    let cloud = ask(with(rows(&[UNSURE]), "parameters", json!({ "hedge.place": "cloud" }))).await;
    assert_eq!(cloud.status, 400);
    assert!(cloud.error().contains("offload = \"never\""), "{}", cloud.error());
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_may_be_named() {
    let scene = scene().await;
    let response = scene
        .with(|address| post(address, "/v2/models/tiny/versions/1/infer", &[], rows(&[SURE]).to_string().as_bytes()))
        .await;
    assert_eq!(response.status, 200);
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_at_once_each_get_their_own_answer() {
    let scene = scene().await;
    let callers: Vec<_> = (0..8)
        .map(|caller| {
            scene.with(move |address| {
                let mut connection = Connection::open(address);
                for n in 0..25 {
                    let batch: Vec<[f64; 2]> =
                        (0..32).map(|row| [f64::from(caller * 1000 + n), f64::from(row)]).collect();
                    let body = connection.post(INFER, rows(&batch).to_string().as_bytes()).json();
                    let data = body["outputs"][0]["data"].as_array().unwrap();
                    for (row, logits) in data.chunks(3).enumerate() {
                        let [a, b] = batch[row];
                        assert_eq!(logits, [json!(a), json!(b), json!(-a - b)]);
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await;
    }
    scene.agent.shutdown().await;
}
