//! Durable requests: accepted, joined, kept, refused, and answered by whom they wait for.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hedge_agent::{Agent, Config};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{Response, get};
use crate::gateway::{Gateway, LOGITS, broker, connect};
use crate::scene::{SURE, Scene, UNSURE, config, infer, rows, scene_with};

/// Far beyond what anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// A deadline that an answer from the cloud that is not there misses.
const SOON_MS: u64 = 150;

/// A durable request of this id.
fn durable(id: &str, values: &[[f64; 2]]) -> Value {
    let mut request = rows(values);
    request["id"] = id.into();
    request["parameters"] = json!({ "hedge.durable": true, "hedge.deadline_ms": 20_000 });
    request
}

/// One that does not wait for long.
fn hasty(id: &str, values: &[[f64; 2]]) -> Value {
    let mut request = durable(id, values);
    request["parameters"]["hedge.deadline_ms"] = SOON_MS.into();
    request
}

fn result(address: SocketAddr, id: &str) -> Response {
    get(address, &format!("/hedge/v1/requests/{id}"))
}

impl Scene {
    async fn result(&self, id: &'static str) -> Response {
        self.with(move |address| result(address, id)).await
    }

    async fn metric(&self, line: &'static str) -> f64 {
        let text = self.with(|address| String::from_utf8(get(address, "/metrics").body).unwrap()).await;
        let found = text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok());
        found.unwrap_or_else(|| panic!("no {line} in\n{text}"))
    }

    /// Ends the agent and starts another one on its state.
    async fn restart(self, change: impl FnOnce(&mut Config)) -> Scene {
        self.agent.shutdown().await;
        start_on(self.folder, change).await
    }

    /// Waits for the end of a request.
    async fn end(&self, id: &'static str) -> Response {
        let until = Instant::now() + PATIENCE;
        loop {
            let found = self.result(id).await;
            if found.status != 202 {
                return found;
            }
            assert!(Instant::now() < until, "request {id} never ends");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn start_on(folder: TempDir, change: impl FnOnce(&mut Config)) -> Scene {
    let mut config = config(&folder);
    change(&mut config);
    let agent: Agent = hedge_agent::start(config).await.expect("the agent starts");
    let address = agent.http_addr().unwrap();
    Scene { folder, agent, address }
}

fn answer(response: &Response) -> [Value; 3] {
    assert_eq!(response.status, 200, "{response:?}");
    let body = response.json();
    ["hedge.source", "hedge.status", "hedge.reason"].map(|key| body["parameters"][key].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_answered_in_time_gets_its_answer_and_the_same_one_later() {
    let scene = scene_with(|_| {}).await;
    let first = scene.infer(durable("a", &[SURE])).await;
    assert_eq!(answer(&first), ["edge", "uncertified", "no-certificate"]);
    assert_eq!(first.json()["id"], "a");
    assert_eq!(first.json()["outputs"][0]["data"], json!([5.0, 0.0, -5.0]));
    let later = scene.result("a").await;
    assert_eq!((later.status, later.body), (200, first.body.clone()));
    // Its caller did not hear the answer, and asks again.
    let again = scene.infer(durable("a", &[SURE])).await;
    assert_eq!((again.status, again.body), (200, first.body.clone()));
    // Also where nobody remembers but the disk.
    let scene = scene.restart(|_| {}).await;
    assert_eq!(scene.result("a").await.body, first.body);
    assert_eq!(scene.infer(durable("a", &[SURE])).await.body, first.body);
    assert_eq!(scene.metric("hedge_outbox_results{state=\"fetched\"}").await, 1.0);
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_without_an_id_gets_one() {
    let scene = scene_with(|_| {}).await;
    let mut request = durable("", &[SURE]);
    request.as_object_mut().unwrap().remove("id");
    let first = scene.infer(request).await;
    assert_eq!(first.status, 200);
    let id = first.json()["id"].as_str().expect("an id").to_owned();
    let later = scene.with(move |address| result(address, &id)).await;
    assert_eq!(later.body, first.body);
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_result_has_the_form_that_was_asked_for() {
    let scene = scene_with(|_| {}).await;
    let mut request = durable("a", &[SURE, [6.0, 0.0]]);
    request["outputs"] =
        json!([{ "name": "logits", "parameters": { "binary_data": true } }, { "name": "hedge_source" }]);
    let first = scene.infer(request).await;
    assert_eq!(first.binary().len(), 2 * 3 * 4);
    assert_eq!(first.json()["outputs"][1]["data"], json!(["edge", "edge"]));
    let later = scene.result("a").await;
    assert_eq!((later.body, later.status), (first.body, 200));
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_waits_for_the_cloud_is_accepted_and_answered_when_the_cloud_is_there() {
    let broker = broker().await;
    let url = broker.url();
    let scene = scene_with(|config| connect(config, &url)).await;
    let accepted = scene.infer(hasty("order 7/8", &[UNSURE])).await;
    assert_eq!((accepted.status, accepted.json()), (202, json!({ "id": "order 7/8" })));
    assert_eq!(accepted.header("location"), Some("/hedge/v1/requests/order%207%2F8"));
    assert_eq!(scene.result("order%207%2F8").await.status, 202);
    assert_eq!(scene.metric("hedge_outbox_waiting").await, 1.0);

    let gateway = Gateway::start(&url, false);
    let end = scene.end("order%207%2F8").await;
    assert_eq!(answer(&end), ["cloud", "cloud", "below-threshold"]);
    assert_eq!(end.json()["outputs"][0]["data"], json!(LOGITS));
    assert_eq!(end.json()["parameters"]["hedge.device"], "gateway g1");
    assert_eq!(gateway.asked(), [1]);
    assert_eq!(scene.metric("hedge_outbox_waiting").await, 0.0);
    // The gateway's second, other verdict changes nothing, now or later.
    assert_eq!(scene.infer(durable("order 7/8", &[UNSURE])).await.body, end.body);
    let scene = scene.restart(|config| connect(config, &url)).await;
    assert_eq!(scene.result("order%207%2F8").await.body, end.body);
    assert_eq!(gateway.asked(), [1]);
    scene.agent.shutdown().await;
    gateway.stop().await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_outlives_the_agent_and_is_asked_under_the_same_id() {
    let broker = broker().await;
    let url = broker.url();
    let gateway = Gateway::start(&url, true);
    let scene = scene_with(|config| connect(config, &url)).await;
    assert_eq!(scene.infer(hasty("a", &[UNSURE])).await.status, 202);
    let asked = || async {
        while gateway.asked().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked()).await.expect("the cloud is asked");
    let scene = scene.restart(|config| connect(config, &url)).await;
    assert_eq!(scene.result("a").await.status, 202);
    gateway.speak();
    let end = scene.end("a").await;
    assert_eq!(answer(&end), ["cloud", "cloud", "below-threshold"]);
    assert_eq!(gateway.asked().len(), 1, "one request, asked more than once");
    scene.agent.shutdown().await;
    gateway.stop().await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_asks_again_while_it_waits_joins_and_one_with_other_inputs_is_refused() {
    let broker = broker().await;
    let url = broker.url();
    let scene = scene_with(|config| connect(config, &url)).await;
    assert_eq!(scene.infer(hasty("a", &[UNSURE, SURE])).await.status, 202);
    for other in [vec![UNSURE], vec![UNSURE, UNSURE], vec![UNSURE, SURE, SURE], vec![SURE, UNSURE]] {
        let refused = scene.infer(hasty("a", &other)).await;
        assert_eq!(refused.status, 409, "{other:?}: {refused:?}");
        assert!(refused.error().contains("use a new id"), "{}", refused.error());
    }
    assert_eq!(scene.metric("hedge_outbox_waiting").await, 1.0, "nothing of the others is kept");
    let waiting = scene.infer(durable("a", &[UNSURE, SURE]));
    let gateway = Gateway::start(&url, false);
    let joined = waiting.await;
    assert_eq!(answer(&joined), ["edge", "uncertified", "no-certificate"], "the weakest row's");
    let logits = [LOGITS, [5.0, 0.0, -5.0]].concat();
    assert_eq!(joined.json()["outputs"][0]["data"], json!(logits));
    assert_eq!(scene.result("a").await.body, joined.body);
    assert_eq!(gateway.asked(), [1]);
    scene.agent.shutdown().await;
    gateway.stop().await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_caller_wants_it_answered_holds_also_when_it_is_durable() {
    let broker = broker().await;
    let url = broker.url();
    let scene = scene_with(|config| connect(config, &url)).await;
    let placed = |id: &str, place: &str, row| {
        let mut request = hasty(id, &[row]);
        request["parameters"]["hedge.place"] = place.into();
        request
    };
    assert_eq!(answer(&scene.infer(placed("edge", "edge", UNSURE)).await), ["edge", "uncertified", "caller"]);
    assert_eq!(scene.infer(placed("cloud", "cloud", SURE)).await.status, 202);
    let private = hasty("private", &[[0.125, 0.125]]);
    let local = scene.with(move |address| {
        crate::client::post(address, "/v2/models/private/infer", &[], private.to_string().as_bytes())
    });
    assert_eq!(answer(&local.await), ["edge", "uncertified", "no-certificate"]);
    let gateway = Gateway::start(&url, false);
    assert_eq!(answer(&scene.end("cloud").await), ["cloud", "cloud", "caller"]);
    scene.agent.shutdown().await;
    gateway.stop().await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_life_is_over_is_answered_without_the_cloud_or_fails_if_it_insists() {
    let broker = broker().await;
    let url = broker.url();
    let scene = scene_with(|config| {
        connect(config, &url);
        config.outbox.life_secs = 1;
    })
    .await;
    let mut insists = hasty("cloud", &[UNSURE]);
    insists["parameters"]["hedge.place"] = "cloud".into();
    assert_eq!(scene.infer(insists).await.status, 202);
    assert_eq!(scene.infer(hasty("auto", &[UNSURE])).await.status, 202);
    assert_eq!(answer(&scene.end("auto").await), ["cache", "uncertified", "deadline"]);
    let failed = scene.end("cloud").await;
    assert_eq!((failed.status, failed.json()["id"].as_str()), (503, Some("cloud")));
    assert_eq!(failed.header("retry-after"), None, "it has ended");
    assert_eq!(scene.metric("hedge_outbox_without_cloud_total{reason=\"deadline\"}").await, 2.0);
    scene.agent.shutdown().await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_model_is_gone_ends_with_an_error() {
    let broker = broker().await;
    let url = broker.url();
    let scene = scene_with(|config| connect(config, &url)).await;
    assert_eq!(scene.infer(hasty("a", &[UNSURE])).await.status, 202);
    let scene = scene
        .restart(|config| {
            connect(config, &url);
            config.models.remove(0);
        })
        .await;
    let gateway = Gateway::start(&url, true);
    let failed = scene.end("a").await;
    assert_eq!(failed.status, 503);
    assert!(failed.error().contains("model \"tiny\" is not served"), "{}", failed.error());
    scene.agent.shutdown().await;
    gateway.stop().await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_handed_in_is_not_found_and_what_is_no_longer_kept_is_gone() {
    let scene = scene_with(|config| config.outbox.keep_secs = 1).await;
    assert_eq!(scene.result("nobody").await.status, 404);
    assert_eq!(scene.infer(durable("a", &[SURE])).await.status, 200);
    let until = Instant::now() + PATIENCE;
    while scene.result("a").await.status == 200 {
        assert!(Instant::now() < until, "the result is kept for ever");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let gone = scene.result("a").await;
    assert_eq!(gone.status, 410);
    assert!(gone.error().contains("no longer kept"), "{}", gone.error());
    assert_eq!(scene.infer(durable("a", &[SURE])).await.status, 410);
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_outbox_durable_requests_are_refused_and_others_answered() {
    let off = scene_with(|config| config.outbox.enabled = false).await;
    let nowhere = scene_with(|config| std::fs::write(&config.agent.state_dir, "a file").unwrap()).await;
    for (scene, why) in [(off, "outbox.enabled"), (nowhere, "can be kept at")] {
        let refused = scene.infer(durable("a", &[SURE])).await;
        assert_eq!(refused.status, 503, "{refused:?}");
        assert!(refused.error().contains(why), "{}", refused.error());
        assert_eq!(scene.result("a").await.status, 503);
        assert_eq!(scene.infer(rows(&[SURE])).await.status, 200);
        scene.agent.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_outbox_refuses_all_rows_of_a_request_or_none() {
    let broker = broker().await;
    let url = broker.url();
    let scene = scene_with(|config| {
        connect(config, &url);
        config.outbox.max_requests = 2;
    })
    .await;
    assert_eq!(scene.infer(hasty("a", &[UNSURE])).await.status, 202);
    let refused = scene.infer(hasty("b", &[UNSURE, SURE])).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert!(refused.error().contains("holds 1 of at most 2"), "{}", refused.error());
    assert_eq!(scene.metric("hedge_outbox_waiting").await, 1.0);
    assert_eq!(scene.infer(hasty("c", &[UNSURE])).await.status, 202);
    scene.agent.shutdown().await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_stops_lets_those_who_wait_go_with_a_promise() {
    let broker = broker().await;
    let url = broker.url();
    let scene = scene_with(|config| connect(config, &url)).await;
    let address = scene.address;
    let waiting = scene.with(move |_| infer(address, &durable("a", &[UNSURE])).status);
    let until = Instant::now() + PATIENCE;
    while scene.metric("hedge_outbox_waiting").await != 1.0 {
        assert!(Instant::now() < until, "the request is never accepted");
    }
    let started = Instant::now();
    let scene = scene.restart(|config| connect(config, &url)).await;
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(waiting.await, 202);
    assert_eq!(scene.result("a").await.status, 202);
    scene.agent.shutdown().await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_serves_with_a_destroyed_outbox_and_takes_durable_requests_again() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("state/outbox/database");
    std::fs::create_dir_all(&database).unwrap();
    std::fs::write(database.join("db"), [0xa5; 70_000]).unwrap();
    std::fs::write(database.join("conf"), "garbage").unwrap();
    let scene = start_on(folder, |_| {}).await;
    assert_eq!(answer(&scene.infer(durable("a", &[SURE])).await), ["edge", "uncertified", "no-certificate"]);
    scene.agent.shutdown().await;
}
