//! Starting, restarting and stopping.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use hedge_agent::StartError;
use tempfile::TempDir;

use crate::client::{get, get_unix};
use crate::scene::{SURE, UNSURE, config, infer, rows, scene, scene_with};

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_serves_before_its_broker_is_reachable() {
    // A port that is bound and never accepts: the worst kind of absent broker.
    let broker = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("mqtt://{}", broker.local_addr().unwrap());
    let started = Instant::now();
    let scene = scene_with(|config| {
        config.agent.device_id = Some("d1".into());
        config.link.url = Some(url);
    })
    .await;
    let answer = scene.infer(rows(&[UNSURE])).await.json();
    assert_eq!(answer["parameters"]["hedge.reason"], "link-down");
    assert!(started.elapsed() < Duration::from_secs(10));
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn results_survive_a_restart() {
    let first = scene().await;
    first.infer(rows(&[SURE])).await;
    first.agent.shutdown().await;
    let again = hedge_agent::start(config(&first.folder)).await.expect("it starts again");
    let address = again.http_addr().unwrap();
    let answer = tokio::task::spawn_blocking(move || infer(address, &rows(&[SURE])).json()).await.unwrap();
    assert_eq!(answer["parameters"]["hedge.source"], "cache");
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_serves_with_a_destroyed_cache() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    std::fs::create_dir_all(state.join("cache")).unwrap();
    std::fs::write(state.join("cache/db"), [0xa5; 70_000]).unwrap();
    std::fs::write(state.join("cache/conf"), "garbage").unwrap();
    let agent = hedge_agent::start(config(&folder)).await.expect("a damaged cache keeps no agent from starting");
    let address = agent.http_addr().unwrap();
    let sources = tokio::task::spawn_blocking(move || {
        [0, 1].map(|_| infer(address, &rows(&[SURE])).json()["parameters"]["hedge.source"].clone())
    });
    assert_eq!(sources.await.unwrap(), ["edge", "cache"]);
    agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_serves_where_no_cache_can_be() {
    let scene = scene_with(|config| {
        std::fs::write(&config.agent.state_dir, "a file").unwrap();
    })
    .await;
    assert_eq!(scene.infer(rows(&[SURE])).await.status, 200);
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_do_not_share_one_state() {
    let first = scene().await;
    let second = hedge_agent::start(config(&first.folder)).await;
    let error = second.err().expect("the state is taken");
    assert!(matches!(error, StartError::Cache(_)), "{error}");
    assert!(error.to_string().contains("in use by another process"), "{error}");
    assert_eq!(first.infer(rows(&[SURE])).await.status, 200);
    first.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_unix_socket_serves_and_leaves_no_trace() {
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("agent.sock");
    // What a killed agent leaves behind.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let path = socket.clone();
    let scene = scene_with(move |config| config.http.unix_socket = Some(path)).await;
    let path = socket.clone();
    let ready = tokio::task::spawn_blocking(move || get_unix(&path, "/v2/health/ready").status).await.unwrap();
    assert_eq!(ready, 200);
    assert_eq!(scene.with(|address| get(address, "/v2/health/ready").status).await, 200, "TCP beside it");
    scene.agent.shutdown().await;
    assert!(!socket.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_an_agent_from_starting_is_named() {
    let folder = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let start = |change: &dyn Fn(&mut hedge_agent::Config)| {
        let mut config = config(&folder);
        change(&mut config);
        hedge_agent::start(config)
    };
    let address = taken.local_addr().unwrap().to_string();
    let error = start(&|c| c.http.listen = address.clone()).await.err().expect("the port is taken");
    assert!(error.to_string().contains("stop what uses it"), "{error}");
    let error = start(&|c| c.models[0].path = Some("/nowhere.onnx".into())).await.err().expect("there is no file");
    assert!(error.to_string().contains("model \"tiny\": /nowhere.onnx cannot be read"), "{error}");
    let garbage = folder.path().join("garbage.onnx");
    std::fs::write(&garbage, "garbage").unwrap();
    let error = start(&|c| c.models[0].path = Some(garbage.clone())).await.err().expect("it is no model");
    assert!(error.to_string().contains("no usable model"), "{error}");
    let error = start(&|c| c.models[0].score_output = Some("x".into())).await.err().expect("it is no output");
    assert!(error.to_string().contains("score_output \"x\" is no output"), "{error}");
    let error = start(&|c| c.link.url = Some("http://broker".into())).await.err().expect("there is no device id");
    assert!(error.to_string().contains("agent.device_id"), "{error}");
    let fine = start(&|_| {}).await.expect("nothing of the failed ones is left");
    fine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_does_not_hold_up_the_drain() {
    let scene = scene().await;
    let idle = std::net::TcpStream::connect(scene.address).unwrap();
    let address = scene.address;
    let started = Instant::now();
    scene.agent.shutdown().await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    drop(idle);
    assert!(std::net::TcpStream::connect(address).is_err(), "nobody listens any more");
}

/// A model that waits half a second for a second row before it runs the first.
fn slow(config: &mut hedge_agent::Config) {
    config.engine.max_batch = 2;
    config.engine.max_wait_micros = 500_000;
}

/// Sends a row and returns once it waits for the model; the answer comes from the handle.
async fn in_flight(address: std::net::SocketAddr) -> tokio::task::JoinHandle<Option<u16>> {
    let waiting = tokio::task::spawn_blocking(move || {
        std::panic::catch_unwind(move || infer(address, &rows(&[SURE])).status).ok()
    });
    let queued = move || {
        let metrics = String::from_utf8(get(address, "/metrics").body).unwrap();
        metrics.contains("hedge_queue_rows{model=\"tiny\"} 1")
    };
    while !tokio::task::spawn_blocking(queued).await.unwrap() {}
    waiting
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_flight_is_answered_before_the_agent_stops() {
    let scene = scene_with(slow).await;
    let waiting = in_flight(scene.address).await;
    scene.agent.shutdown().await;
    assert_eq!(waiting.await.unwrap(), Some(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_drain_ends_even_if_a_request_does_not() {
    let scene = scene_with(|config| {
        slow(config);
        config.engine.max_wait_micros = 1_000_000;
        config.agent.drain_secs = 0;
    })
    .await;
    let waiting = in_flight(scene.address).await;
    let started = Instant::now();
    scene.agent.shutdown().await;
    assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
    // Its connection is either cut or still answered; the drain did not wait to see which.
    waiting.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_the_model_cannot_meet_is_an_error_at_the_deadline() {
    let scene = scene_with(slow).await;
    let mut request = rows(&[SURE]);
    request["parameters"] = serde_json::json!({ "hedge.deadline_ms": 30 });
    let started = Instant::now();
    let response = scene.infer(request).await;
    assert_eq!(response.status, 504);
    assert!(response.error().contains("no answer within 30 ms"), "{}", response.error());
    assert!(started.elapsed() < Duration::from_millis(450), "{:?}", started.elapsed());
    scene.agent.shutdown().await;
}
