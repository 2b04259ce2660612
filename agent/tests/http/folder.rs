//! Models from a folder: they come, change and go while requests are answered.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hedge_graph::Dim;
use hedge_graph::build::GraphBuilder;
use hedge_tensor::{DType, Tensor};
use serde_json::{Value, json};

use crate::client::{Connection, Response, get, post};
use crate::scene::{Scene, scene_with};

/// A test that waits longer than this for a change has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// `y = x * factor`.
fn times(factor: f32) -> Vec<u8> {
    let mut b = GraphBuilder::new("times");
    let x = b.input("x", DType::F32, &[Dim::named("N"), 2.into()]);
    let w = b.init("w", Tensor::from_slice(&[1], &[factor]).unwrap());
    b.op_as("y", "Mul", &[&x, &w], &[]);
    b.output("y", DType::F32, &[Dim::named("N"), 2.into()]);
    b.finish().unwrap().write()
}

/// Puts a file into place whole.
fn put(folder: &Path, name: &str, content: &[u8]) {
    let part = folder.join(format!(".{name}.part"));
    std::fs::write(&part, content).unwrap();
    std::fs::rename(part, folder.join(name)).unwrap();
}

async fn scene_of(files: &[(&str, Vec<u8>)]) -> (Scene, PathBuf) {
    let folder = tempfile::tempdir().unwrap().keep();
    for (name, content) in files {
        put(&folder, name, content);
    }
    let path = folder.clone();
    let scene = scene_with(|config| {
        config.models.clear();
        config.repository.path = Some(path);
        config.repository.scan_ms = 20;
    })
    .await;
    (scene, folder)
}

fn ask(address: SocketAddr, model: &str, x: f64) -> Response {
    let request = json!({ "inputs": [{ "name": "x", "shape": [1, 2], "datatype": "FP32", "data": [x, x] }] });
    post(address, &format!("/v2/models/{model}/infer"), &[], request.to_string().as_bytes())
}

fn answer(response: &Response) -> (f64, String) {
    assert_eq!(response.status, 200, "{response:?}");
    let body = response.json();
    let digest = body["parameters"]["hedge.model"].as_str().unwrap().to_owned();
    (body["outputs"][0]["data"][0].as_f64().unwrap(), digest)
}

fn index(address: SocketAddr) -> Vec<Value> {
    post(address, "/v2/repository/index", &[], b"").json().as_array().unwrap().clone()
}

fn states(address: SocketAddr) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    index(address).iter().map(|entry| (text(&entry["name"]), text(&entry["state"]))).collect()
}

#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Ends the clients, also when a test fails.
struct Finally(&'static AtomicBool);

impl Drop for Finally {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn ready(name: &str) -> (String, String) {
    (name.to_owned(), "READY".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn models_of_the_folder_come_change_and_go() {
    let (scene, folder) = scene_of(&[("double.onnx", times(2.0))]).await;
    let files = folder.clone();
    scene
        .with(move |address| {
            assert_eq!(states(address), [ready("double")]);
            let (two, first) = answer(&ask(address, "double", 1.0));
            assert_eq!(two, 2.0);
            assert_eq!(get(address, "/v2/models/triple").status, 404);

            put(&files, "triple.onnx", &times(3.0));
            eventually("triple is served", || get(address, "/v2/models/triple/ready").status == 200);
            assert_eq!(answer(&ask(address, "triple", 1.0)).0, 3.0);
            assert_eq!(states(address), [ready("double"), ready("triple")]);

            put(&files, "double.onnx", &times(20.0));
            eventually("double is another model", || answer(&ask(address, "double", 1.0)).0 == 20.0);
            let (_, second) = answer(&ask(address, "double", 1.0));
            assert_ne!(first, second, "the answer carries the digest of the model that made it");
            let metadata = get(address, "/v2/models/double").json();
            assert_eq!(metadata["properties"]["hedge.model"], second.as_str());
            let stats = get(address, "/v2/models/double/stats").json();
            assert!(stats["model_stats"][0]["inference_count"].as_u64().unwrap() >= 3, "it goes on counting");

            std::fs::remove_file(files.join("triple.onnx")).unwrap();
            eventually("triple is gone", || get(address, "/v2/models/triple").status == 404);
            assert_eq!(states(address), [ready("double")]);
        })
        .await;
    scene.agent.shutdown().await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_answer_of_a_replaced_model_is_not_served() {
    let (scene, folder) = scene_of(&[("m.onnx", times(2.0))]).await;
    let files = folder.clone();
    scene
        .with(move |address| {
            assert_eq!(answer(&ask(address, "m", 4.0)).0, 8.0);
            assert_eq!(ask(address, "m", 4.0).json()["parameters"]["hedge.source"], "cache");
            put(&files, "m.onnx", &times(5.0));
            eventually("the new model answers", || answer(&ask(address, "m", 4.0)).0 == 20.0);
            assert_eq!(ask(address, "m", 4.0).json()["parameters"]["hedge.source"], "cache");
            assert_eq!(answer(&ask(address, "m", 4.0)).0, 20.0, "its own cached answer");
        })
        .await;
    scene.agent.shutdown().await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_leaves_the_old_model_serving_and_says_what_is_wrong() {
    let (scene, folder) = scene_of(&[("m.onnx", times(2.0)), ("bad.onnx", b"no model".to_vec())]).await;
    let files = folder.clone();
    scene
        .with(move |address| {
            let bad = index(address).into_iter().find(|entry| entry["name"] == "bad").unwrap();
            assert_eq!(bad["state"], "UNAVAILABLE");
            assert!(bad["reason"].as_str().unwrap().contains("no usable model"), "{bad}");
            let refused = ask(address, "bad", 1.0);
            assert_eq!(refused.status, 503);
            assert!(refused.error().contains("no usable model"), "{}", refused.error());

            let mut truncated = times(3.0);
            truncated.truncate(20);
            put(&files, "m.onnx", &truncated);
            eventually("the index tells of the failed file", || {
                index(address).iter().any(|entry| entry["name"] == "m" && entry["state"] == "UNAVAILABLE")
            });
            assert!(states(address).contains(&ready("m")), "the old one serves: {:?}", index(address));
            assert_eq!(answer(&ask(address, "m", 1.0)).0, 2.0);
            let metrics = String::from_utf8(get(address, "/metrics").body).unwrap();
            assert!(metrics.contains("hedge_model_loads_total{result=\"failed\"} 2"), "{metrics}");
            assert!(metrics.contains("hedge_model_up{model=\"m\"} 1"), "{metrics}");
            assert!(metrics.contains("hedge_model_up{model=\"bad\"} 0"), "{metrics}");

            put(&files, "m.onnx", &times(4.0));
            eventually("a good file mends it", || answer(&ask(address, "m", 1.0)).0 == 4.0);
            let ready_only = post(address, "/v2/repository/index", &[], b"{\"ready\": true}").json();
            assert_eq!(ready_only, json!([{ "name": "m", "version": "1", "state": "READY", "reason": "" }]));
        })
        .await;
    scene.agent.shutdown().await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_loaded_and_unloaded_by_name() {
    let (scene, folder) = scene_of(&[("m.onnx", times(2.0))]).await;
    let files = folder.clone();
    scene
        .with(move |address| {
            let manage = |name: &str, verb: &str, body: &[u8]| {
                post(address, &format!("/v2/repository/models/{name}/{verb}"), &[], body)
            };
            assert_eq!(manage("m", "unload", b"{\"parameters\": {\"unload_dependents\": false}}").status, 200);
            assert_eq!(ask(address, "m", 1.0).status, 503);
            assert_eq!(get(address, "/v2/models/m/ready").status, 503);
            assert_eq!(index(address)[0]["state"], "UNAVAILABLE");
            std::thread::sleep(Duration::from_millis(100));
            assert_eq!(ask(address, "m", 1.0).status, 503, "no scan brings it back");

            put(&files, "m.onnx", &times(7.0));
            assert_eq!(manage("m", "load", b"").status, 200);
            assert_eq!(answer(&ask(address, "m", 1.0)).0, 7.0, "loaded when the answer comes");
            put(&files, "m.onnx", &times(8.0));
            assert_eq!(manage("m", "load", b"{}").status, 200);
            assert_eq!(answer(&ask(address, "m", 1.0)).0, 8.0, "loaded again");

            put(&files, "m.onnx", b"garbage");
            let failed = manage("m", "load", b"");
            assert_eq!(failed.status, 400);
            assert!(failed.error().contains("no usable model"), "{}", failed.error());
            assert_eq!(answer(&ask(address, "m", 1.0)).0, 8.0);
            for (name, verb) in [("none", "load"), ("none", "unload")] {
                let refused = manage(name, verb, b"");
                assert_eq!(refused.status, 400);
                assert!(refused.error().contains("there is no model \"none\""), "{}", refused.error());
            }
            let config = manage("m", "load", b"{\"parameters\": {\"config\": \"{}\"}}");
            assert!(config.error().contains("\"config\" is not supported"), "{}", config.error());
            assert_eq!(manage("m", "load", b"[1").status, 400);
        })
        .await;
    scene.agent.shutdown().await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_beyond_the_memory_for_models_is_refused() {
    let scene = scene_with(|config| config.engine.max_models_bytes = 2000).await;
    let loaded = scene.with(|address| post(address, "/v2/repository/models/tiny/load", &[], b"")).await;
    assert_eq!(loaded.status, 200, "{loaded:?}");
    scene.agent.shutdown().await;

    let (scene, folder) = scene_of(&[]).await;
    scene.agent.shutdown().await;
    let mut big = GraphBuilder::new("big");
    let x = big.input("x", DType::F32, &[Dim::named("N"), 1024.into()]);
    let w = big.init("w", Tensor::zeros(DType::F32, vec![1024]).unwrap());
    big.op_as("y", "Mul", &[&x, &w], &[]);
    big.output("y", DType::F32, &[Dim::named("N"), 1024.into()]);
    put(&folder, "big.onnx", &big.finish().unwrap().write());
    let path = folder.clone();
    let scene = scene_with(|config| {
        config.engine.max_models_bytes = 2000;
        config.repository.path = Some(path);
    })
    .await;
    let reason = scene.with(|address| index(address)[0]["reason"].as_str().unwrap().to_owned()).await;
    assert!(reason.contains("engine.max_models_bytes is 2000"), "{reason}");
    scene.agent.shutdown().await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_what_is_there_at_once() {
    let (scene, folder) = scene_of(&[]).await;
    scene.agent.shutdown().await;
    let path = folder.clone();
    let scene = scene_with(|config| {
        config.models.clear();
        config.repository.path = Some(path);
        config.repository.scan_ms = 3_600_000;
    })
    .await;
    put(&folder, "m.onnx", &times(2.0));
    scene.agent.reload().await;
    assert_eq!(scene.with(|address| answer(&ask(address, "m", 1.0)).0).await, 2.0);
    scene.agent.shutdown().await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_models_are_swapped() {
    let (scene, folder) = scene_of(&[("m.onnx", times(2.0))]).await;
    let done: &'static AtomicBool = Box::leak(Box::default());
    let answered: &'static AtomicUsize = Box::leak(Box::default());
    let clients: Vec<_> = (0..4)
        .map(|_| {
            scene.with(move |address| {
                let mut connection = Connection::open(address);
                let request =
                    json!({ "inputs": [{ "name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 1, 2, 2] }] });
                while !done.load(Ordering::Relaxed) {
                    let response = connection.post("/v2/models/m/infer", request.to_string().as_bytes());
                    assert_eq!(response.status, 200, "{response:?}");
                    let data = response.json()["outputs"][0]["data"].clone();
                    let whole = data == json!([2.0, 2.0, 4.0, 4.0]) || data == json!([3.0, 3.0, 6.0, 6.0]);
                    assert!(whole, "the rows of one request are one model's: {data}");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let files = folder.clone();
    scene
        .with(move |address| {
            let _done = Finally(done);
            let mut swap = 0;
            while swap < 20 || answered.load(Ordering::Relaxed) < 200 {
                swap += 1;
                put(&files, "m.onnx", &times(if swap % 2 == 0 { 3.0 } else { 2.0 }));
                assert_eq!(post(address, "/v2/repository/models/m/load", &[], b"").status, 200);
            }
        })
        .await;
    for client in clients {
        client.await;
    }
    scene.agent.shutdown().await;
    std::fs::remove_dir_all(folder).unwrap();
}
