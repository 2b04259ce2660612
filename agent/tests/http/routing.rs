//! What the API tells of a model's routing.

use serde_json::Value;

use crate::client::{Response, get};
use crate::scene::{SURE, Scene, rows, scene, scene_with};

async fn route(scene: &Scene, model: &'static str) -> Response {
    scene.with(move |address| get(address, &format!("/hedge/v1/models/{model}/route"))).await
}

async fn with_contract() -> Scene {
    scene_with(|config| {
        let model = &mut config.models[0];
        (model.threshold, model.route.contract) = (None, Some("local".into()));
        model.budget.offload_share = Some(0.2);
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_a_contract_promises_nothing() {
    let scene = scene().await;
    scene.infer(rows(&[SURE])).await;
    let route = route(&scene, "tiny").await.json();
    assert_eq!((&route["phase"], &route["contract"]), (&Value::from("no-contract"), &Value::Null));
    assert_eq!((&route["requests"], &route["certificate"]), (&Value::from(1), &Value::Null));
    assert_eq!(route["subject"]["comparison"], "top class of \"logits\"");
    assert_eq!(route["subject"]["device_class"], hedge_agent::default_device_class(hedge_engine::DeviceKind::Cpu));
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_contract_and_no_cloud_every_answer_is_uncertified_whatever_its_score() {
    let scene = with_contract().await;
    let answer = scene.infer(rows(&[SURE])).await.json();
    assert_eq!(answer["parameters"]["hedge.status"], "uncertified");
    assert_eq!(answer["parameters"]["hedge.reason"], "no-gateway");
    let route = route(&scene, "tiny").await.json();
    assert_eq!(route["phase"], "gathering");
    assert_eq!(route["contract"]["alpha"], 0.01);
    assert_eq!(route["labels"]["calibration"]["wanted"], 5000);
    let metrics = scene.with(|address| String::from_utf8(get(address, "/metrics").body).unwrap()).await;
    for line in [
        "hedge_route_phase{model=\"tiny\",phase=\"gathering\"} 1",
        "hedge_route_phase{model=\"tiny\",phase=\"certified\"} 0",
        "hedge_route_phase{model=\"private\",phase=\"no-contract\"} 1",
        "hedge_route_requests{model=\"tiny\"} 1",
        "hedge_route_labels_wanted{model=\"tiny\"} 7000",
        "hedge_route_budget_backlog{model=\"tiny\",resource=\"offloads\"} 0",
        "hedge_audits_waiting 0",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_goes_on_after_a_restart() {
    let first = with_contract().await;
    first.infer(rows(&[SURE])).await;
    first.agent.shutdown().await;
    let mut config = crate::scene::config(&first.folder);
    (config.models[0].threshold, config.models[0].route.contract) = (None, Some("local".into()));
    let agent = hedge_agent::start(config).await.unwrap();
    let address = agent.http_addr().unwrap();
    let ask = move || get(address, "/hedge/v1/models/tiny/route").json()["requests"].clone();
    assert_eq!(tokio::task::spawn_blocking(ask).await.unwrap(), 1);
    agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_route_without_a_model() {
    let scene = scene().await;
    assert_eq!(route(&scene, "other").await.status, 404);
    scene.agent.shutdown().await;
}
