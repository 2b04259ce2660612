//! Requests that cannot be answered, and an agent that keeps serving.

use std::io::Write;
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::client::{Connection, get, post, raw};
use crate::scene::{INFER, SURE, infer, rows, scene, scene_with};

fn with(key: &str, value: Value) -> Value {
    let mut request = rows(&[SURE]);
    request["inputs"][0][key] = value;
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn each_malformed_request_is_told_what_and_which_and_the_next_one_is_answered() {
    let scene = scene().await;
    scene
        .with(|address| {
            let cases = [
                (with("name", json!("y")), 400, "no input \"y\"; it takes \"x\" FP32 [N, 2]"),
                (with("datatype", json!("FP64")), 400, "input \"x\" is FP64, but the model takes FP32"),
                (with("datatype", json!("BYTES")), 400, "datatype \"BYTES\" is not supported"),
                (with("shape", json!([2, 1])), 400, "has shape [2, 1], but the model takes [N, 2]"),
                (with("shape", json!([2])), 400, "has shape [2], but the model takes [N, 2]"),
                (with("shape", json!([1, 3])), 400, "takes 3 elements, but data has 2"),
                (with("shape", json!([-1, 2])), 400, "none may be negative"),
                (with("shape", json!([0, 2])), 400, "takes 0 elements, but data has 2"),
                (with("shape", json!([268_435_456, 1])), 413, "http.max_body_bytes"),
                (with("shape", json!([i64::MAX, i64::MAX, 4])), 400, "too many elements"),
                (with("data", json!([1e39, 0])), 400, "NaN or an infinity at element 0"),
                (with("data", json!(["NaN", 0])), 400, "holds the text"),
                (json!({ "inputs": [] }), 400, "input \"x\" is missing"),
                (json!({}), 400, "missing field `inputs`"),
                (rows(&[SURE; 300]), 413, "300 rows, more than 256"),
                (json!({ "inputs": [rows(&[SURE])["inputs"][0], rows(&[SURE])["inputs"][0]] }), 400, "given twice"),
            ];
            for (request, status, says) in cases {
                let response = infer(address, &request);
                assert_eq!(response.status, status, "{response:?}");
                assert!(response.error().contains(says), "{}", response.error());
                assert_eq!(response.header("content-type"), Some("application/json"));
                assert_eq!(infer(address, &rows(&[SURE])).status, 200, "after {request}");
            }
        })
        .await;
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_that_cannot_be_met_is_refused() {
    let scene = scene().await;
    for (key, value, status, says) in [
        ("hedge.durable", json!("yes"), 400, "true or false"),
        ("hedge.deadline_ms", json!(0), 400, "from 1 to 60000"),
        ("hedge.place", json!("moon"), 400, "\"auto\", \"edge\" or \"cloud\""),
        ("hedge.plaice", json!("edge"), 400, "is unknown"),
    ] {
        let mut request = rows(&[SURE]);
        request["parameters"] = json!({ key: value });
        let response = scene.infer(request).await;
        assert_eq!(response.status, status);
        assert!(response.error().contains(says), "{}", response.error());
    }
    let mut request = rows(&[SURE]);
    request["outputs"] = json!([{ "name": "boxes" }]);
    let response = scene.infer(request).await;
    assert_eq!(response.status, 404);
    assert!(response.error().contains("no output \"boxes\"; it has logits"), "{}", response.error());
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_binary_bodies_are_refused() {
    let scene = scene().await;
    scene
        .with(|address| {
            let head = json!({
                "inputs": [{ "name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": { "binary_data_size": 8 } }],
            })
            .to_string();
            let ask = |length: &str, data: &[u8]| {
                let body = [head.as_bytes(), data].concat();
                post(address, INFER, &[("Inference-Header-Content-Length", length)], &body)
            };
            let length = head.len().to_string();
            let nan = [f32::NAN.to_le_bytes(), 0_f32.to_le_bytes()].concat();
            for (length, data, says) in [
                (length.as_str(), &[0; 5][..], "only 5 follow; the body is truncated"),
                (length.as_str(), &[0; 9], "1 bytes follow the last input"),
                (length.as_str(), &nan, "NaN or an infinity at element 0"),
                ("99999", &[0; 8], "but the body has"),
                ("-1", &[0; 8], "not a number"),
                ("99999999999999999999999", &[0; 8], "not a number"),
                ("3", &[0; 8], "not a valid JSON"),
            ] {
                let response = ask(length, data);
                assert_eq!(response.status, 400, "{response:?}");
                assert!(response.error().contains(says), "{}", response.error());
            }
            assert_eq!(ask(&length, &[0; 8]).status, 200);
        })
        .await;
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_no_requests_are_refused() {
    let scene = scene().await;
    scene
        .with(|address| {
            let deep = format!("{{\"inputs\":{}", "[".repeat(500_000));
            let nan = b"{\"inputs\":[{\"name\":\"x\",\"shape\":[1,2],\"datatype\":\"FP32\",\"data\":[NaN,0]}]}";
            for body in [&b""[..], b"{", b"\xff\xff", b"GET / HTTP/1.1", deep.as_bytes(), nan] {
                let response = post(address, INFER, &[], body);
                assert_eq!(response.status, 400, "{response:?}");
                assert!(response.error().contains("not a valid JSON inference request"), "{}", response.error());
            }
            assert_eq!(infer(address, &rows(&[SURE])).status, 200);
        })
        .await;
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gigabyte_that_is_only_declared_is_refused_without_waiting_for_it() {
    let scene = scene().await;
    scene
        .with(|address| {
            let head = format!("POST {INFER} HTTP/1.1\r\nHost: a\r\nContent-Length: 1073741824\r\n\r\n{{");
            let response = raw(address, head.as_bytes());
            assert_eq!(response.status, 413);
            assert!(response.error().contains("http.max_body_bytes"), "{}", response.error());
            let text = format!("POST {INFER} HTTP/1.1\r\nHost: a\r\nContent-Length: lots\r\n\r\n{{");
            assert_eq!(raw(address, text.as_bytes()).status, 400);
        })
        .await;
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_a_declared_length_is_bounded_too() {
    let scene = scene_with(|config| config.http.max_body_bytes = 4096).await;
    scene
        .with(|address| {
            let chunked = |chunk: &str, times: usize| {
                let mut request = format!(
                    "POST {INFER} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
                );
                for _ in 0..times {
                    request += &format!("{:x}\r\n{chunk}\r\n", chunk.len());
                }
                raw(address, (request + "0\r\n\r\n").as_bytes())
            };
            assert_eq!(chunked(&rows(&[SURE]).to_string(), 1).status, 200);
            assert_eq!(chunked(&" ".repeat(1000), 5).status, 413);
        })
        .await;
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_slow_to_come_cannot_take_all_the_memory() {
    let change = |config: &mut hedge_agent::Config| {
        config.http.max_body_bytes = 64 * 1024;
        config.http.max_inflight_body_bytes = 64 * 1024;
    };
    let scene = scene_with(change).await;
    scene
        .with(|address| {
            let head = format!("POST {INFER} HTTP/1.1\r\nHost: a\r\nContent-Length: 65536\r\n\r\n{{");
            let mut slow = TcpStream::connect(address).unwrap();
            slow.write_all(head.as_bytes()).unwrap();
            // Until the slow one has taken the room, others are still answered.
            let refused = (0..1000).map(|_| infer(address, &rows(&[SURE]))).find(|response| response.status != 200);
            let refused = refused.expect("the slow body fills the room");
            assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
            assert!(refused.error().contains("http.max_inflight_body_bytes"), "{}", refused.error());
            drop(slow);
            assert_eq!(infer(address, &rows(&[SURE])).status, 200, "the room is given back");
        })
        .await;
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_bodies_are_refused_with_the_next_step() {
    let scene = scene().await;
    for encoding in ["gzip", "deflate", "zstd"] {
        let response = scene.with(move |address| post(address, INFER, &[("Content-Encoding", encoding)], b"x")).await;
        assert_eq!(response.status, 415);
        assert!(response.error().contains("send the body uncompressed"), "{}", response.error());
    }
    let plain = rows(&[SURE]).to_string();
    let plain = scene.with(move |a| post(a, INFER, &[("Content-Encoding", "identity")], plain.as_bytes())).await;
    assert_eq!(plain.status, 200);
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_404_and_says_what_is() {
    let scene = scene().await;
    scene
        .with(|address| {
            let body = rows(&[SURE]).to_string();
            for path in ["/v2/models/huge/infer", "/v2/models/huge/versions/1/infer"] {
                let response = post(address, path, &[], body.as_bytes());
                assert_eq!(response.status, 404);
                assert_eq!(response.error(), "there is no model \"huge\"; there are private, tiny");
            }
            let response = post(address, "/v2/models/tiny/versions/9/infer", &[], body.as_bytes());
            assert_eq!(response.status, 404);
            assert!(response.error().contains("it is served as \"1\""), "{}", response.error());
            for path in ["/", "/v1", "/v2/models", "/v2/models/huge", "/v2/models/tiny/versions/2/ready", "/v2/%ff"] {
                let response = get(address, path);
                assert!(matches!(response.status, 404 | 400), "{path}: {response:?}");
            }
            let wrong = get(address, INFER);
            assert_eq!(wrong.status, 405);
            assert!(wrong.error().contains("GET is not possible"), "{}", wrong.error());
        })
        .await;
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_does_not_end_the_connection() {
    let scene = scene().await;
    scene
        .with(|address| {
            let mut connection = Connection::open(address);
            for _ in 0..3 {
                assert_eq!(connection.post(INFER, b"{}").status, 400);
                assert_eq!(connection.post(INFER, rows(&[SURE]).to_string().as_bytes()).status, 200);
            }
        })
        .await;
    scene.agent.shutdown().await;
}
