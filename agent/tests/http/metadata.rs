//! What the agent tells of itself and its models.

use serde_json::json;

use crate::client::{get, post};
use crate::scene::{SURE, UNSURE, rows, scene};

#[tokio::test(flavor = "multi_thread")]
async fn the_server_and_its_models_are_described() {
    let scene = scene().await;
    scene
        .with(|address| {
            let server = get(address, "/v2").json();
            assert_eq!(server["name"], "hedge-agent");
            assert!(server["extensions"].as_array().unwrap().contains(&json!("binary_tensor_data")));
            assert_eq!(get(address, "/v2/").json(), server);
            for path in ["/v2/models/tiny", "/v2/models/tiny/versions/1"] {
                let model = get(address, path).json();
                assert_eq!((&model["name"], &model["versions"]), (&json!("tiny"), &json!(["1"])));
                assert_eq!(model["inputs"], json!([{ "name": "x", "datatype": "FP32", "shape": [-1, 2] }]));
                assert_eq!(model["outputs"], json!([{ "name": "logits", "datatype": "FP32", "shape": [-1, 3] }]));
            }
        })
        .await;
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_readiness_and_the_index_answer() {
    let scene = scene().await;
    scene
        .with(|address| {
            for path in
                ["/v2/health/live", "/v2/health/ready", "/v2/models/tiny/ready", "/v2/models/private/versions/1/ready"]
            {
                assert_eq!(get(address, path).status, 200, "{path}");
            }
            let model = |name: &str| json!({ "name": name, "version": "1", "state": "READY", "reason": "" });
            let expected = json!([model("private"), model("tiny")]);
            assert_eq!(post(address, "/v2/repository/index", &[], b"").json(), expected);
            assert_eq!(post(address, "/v2/repository/index", &[], b"{\"ready\": true}").json(), expected);
        })
        .await;
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_models_configuration_is_given_as_triton_has_it() {
    let scene = scene().await;
    let config = scene.with(|address| get(address, "/v2/models/tiny/config").json()).await;
    assert_eq!(config["max_batch_size"], 32);
    assert_eq!(config["input"], json!([{ "name": "x", "data_type": "TYPE_FP32", "dims": [2] }]));
    assert_eq!(config["parameters"]["hedge.threshold"]["string_value"], "0.5");
    let versioned = scene.with(|address| get(address, "/v2/models/tiny/versions/1/config").json()).await;
    assert_eq!(versioned, config);
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_and_metrics_count_rows() {
    let scene = scene().await;
    scene.infer(rows(&[SURE, UNSURE])).await;
    scene.infer(rows(&[SURE])).await;
    scene.infer(json!({})).await;
    let stats = scene.with(|address| get(address, "/v2/models/tiny/stats").json()).await;
    let stats = &stats["model_stats"][0];
    assert_eq!((&stats["name"], &stats["inference_count"]), (&json!("tiny"), &json!(3)));
    assert_eq!(stats["inference_stats"]["cache_hit"]["count"], 1);
    assert_eq!(stats["inference_stats"]["cache_miss"]["count"], 2);
    assert_eq!(stats["inference_stats"]["compute_infer"]["count"], 2);
    let all = scene.with(|address| get(address, "/v2/models/stats").json()).await;
    assert_eq!(all["model_stats"].as_array().unwrap().len(), 2);

    let metrics = scene.with(|address| get(address, "/metrics")).await;
    let text = String::from_utf8(metrics.body).unwrap();
    for line in [
        "hedge_requests_total{source=\"edge\",status=\"uncertified\",reason=\"no-certificate\"} 1",
        "hedge_requests_total{source=\"edge\",status=\"uncertified\",reason=\"no-gateway\"} 1",
        "hedge_requests_total{source=\"cache\",status=\"uncertified\",reason=\"no-certificate\"} 1",
        "hedge_request_seconds_count{source=\"edge\"} 2",
        "hedge_http_errors_total{code=\"400\"} 1",
        "hedge_cache_lookups{result=\"hit\"} 1",
        "hedge_cache_entries 2",
        "hedge_queue_rows{model=\"tiny\"} 0",
        "hedge_link_up 0",
        "hedge_gateways_present 0",
        "hedge_late_replies_total 0",
        "hedge_retries_total 0",
    ] {
        assert!(text.lines().any(|found| found == line || found.starts_with(&format!("{line}."))), "{line}\n{text}");
    }
    scene.agent.shutdown().await;
}
