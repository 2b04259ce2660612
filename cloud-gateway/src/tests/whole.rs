//! The whole gateway, through its public interface, on the embedded broker. Ports are free ones; nothing is timed.

use std::{net::SocketAddr, path::Path, time::Duration};

use hedge_broker::{Broker, BrokerConfig};
use hedge_link::{Incoming, LinkEvent, LinkEvents, LinkHandle, Outgoing, Subscription};
use hedge_wire::{GatewayPresence, Reply};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{query, tensor, write_model};
use crate::{Config, ModelConfig, ModelError, ServiceError, StartError, start};

/// Far beyond what anything here takes: a test that reaches it has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn config(url: &str, model: &Path) -> Config {
    let mut config = Config::default();
    config.gateway.gateway_id = "gw-1".into();
    config.gateway.tenant = "acme".into();
    config.http.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.link.url = url.into();
    config.link.reconnect_max_secs = 1;
    config.engine.device = "cpu".into();
    config.engine.max_wait_micros = 0;
    config.models = vec![ModelConfig { name: "relu".into(), path: model.into(), route: None }];
    config
}

/// A device that hears its replies and the gateways' presence.
pub(super) async fn device(url: &str) -> (LinkHandle, LinkEvents) {
    let mut link = hedge_link::LinkConfig::new(url, "d1");
    link.subscriptions =
        ["hedge/1/acme/r/d1", "hedge/1/acme/g/+"].into_iter().map(Subscription::at_least_once).collect();
    let (handle, mut events) = hedge_link::start(link).expect("the link's settings are good");
    loop {
        match timeout(PATIENCE, events.next()).await.expect("the broker is there").expect("the link goes on") {
            LinkEvent::Up { .. } => return (handle, events),
            _ => continue,
        }
    }
}

pub(super) async fn message(handle: &LinkHandle, events: &mut LinkEvents) -> Incoming {
    loop {
        let event = timeout(PATIENCE, events.next()).await.expect("a message comes").expect("the link goes on");
        if let LinkEvent::Message(message) = event {
            handle.ack(&message);
            return message;
        }
    }
}

/// Waits for a presence that says `online`.
pub(super) async fn presence(handle: &LinkHandle, events: &mut LinkEvents, online: bool) -> GatewayPresence {
    loop {
        let message = message(handle, events).await;
        if message.topic == "hedge/1/acme/g/gw-1" {
            let presence = GatewayPresence::decode(&message.payload).expect("a presence");
            if presence.online == online {
                return presence;
            }
        }
    }
}

pub(super) async fn http(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("the server listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("the server reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("the server answers");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_announces_itself_answers_and_says_farewell() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("relu.onnx");
    write_model(&path);
    let broker = Broker::start(BrokerConfig::default()).await.expect("the broker starts");
    let gateway = start(config(&broker.url(), &path)).await.expect("the gateway starts");
    let (handle, mut events) = device(&broker.url()).await;

    let online = presence(&handle, &mut events, true).await;
    assert_eq!(online.models.len(), 1);
    assert_eq!(online.models[0].0.as_str(), "relu");

    let body = query(5, tensor("x", 1, &[3.0, -4.0])).encode();
    handle.publish(Outgoing::new("hedge/1/acme/q/relu/d1", body)).expect("the link is up");
    let reply = loop {
        let message = message(&handle, &mut events).await;
        if message.topic == "hedge/1/acme/r/d1" {
            break message;
        }
    };
    assert_eq!(reply.correlation.as_deref(), Some([5; 16].as_slice()));
    let Reply::Verdict(verdict) = Reply::decode(&reply.payload).expect("a reply") else { panic!("no verdict") };
    assert_eq!(verdict.outputs, [tensor("y", 1, &[3.0, 0.0])]);
    assert_eq!(verdict.cloud, online.models[0].1);

    let health = http(gateway.http_addr(), "/healthz").await;
    assert!(health.starts_with("HTTP/1.1 200") && health.ends_with("{\"status\":\"ok\"}"), "{health}");
    let metrics = http(gateway.http_addr(), "/metrics").await;
    assert!(metrics.contains("hedge_gateway_requests_total{outcome=\"verdict\"} 1\n"), "{metrics}");
    assert!(metrics.contains("hedge_link_up 1.0\n"), "{metrics}");
    assert!(metrics.contains("content-type: application/openmetrics-text"), "{metrics}");

    timeout(PATIENCE, gateway.shutdown()).await.expect("an idle gateway stops");
    let offline = presence(&handle, &mut events, false).await;
    assert_eq!(offline.boot, online.boot);
    handle.close().await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_broker_a_gateway_runs_and_says_that_it_is_unwell() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("relu.onnx");
    write_model(&path);
    // A port that was free a moment ago: nobody listens there.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let url = format!("mqtt://{}", nobody.expect("a free port"));
    let gateway = start(config(&url, &path)).await.expect("the gateway starts");
    let health = http(gateway.http_addr(), "/healthz").await;
    assert!(health.starts_with("HTTP/1.1 503"), "{health}");
    assert!(health.contains("\"reasons\":[\"the link is down: "), "{health}");
    timeout(PATIENCE, gateway.shutdown()).await.expect("an idle gateway stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_whose_link_ends_by_itself_ends_and_says_why() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("relu.onnx");
    write_model(&path);
    let broker = Broker::start(BrokerConfig::default()).await.expect("the broker starts");
    let mut gateway = start(config(&broker.url(), &path)).await.expect("the gateway starts");
    gateway.link.clone().close().await;
    let ended = timeout(PATIENCE, gateway.ended()).await.expect("the gateway ends");
    assert_eq!(ended, Err(ServiceError::LinkEnded));
    timeout(PATIENCE, gateway.shutdown()).await.expect("nothing is left to stop");
    broker.stop().await;
}

#[tokio::test]
async fn a_gateway_that_cannot_serve_its_model_does_not_start() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let absent = folder.path().join("absent.onnx");
    let error = start(config("mqtt://127.0.0.1:1", &absent)).await.err().expect("there is no model");
    assert!(matches!(&error, StartError::Model(ModelError::Unreadable { path, .. }) if *path == absent), "{error}");
    let noise = folder.path().join("noise.onnx");
    std::fs::write(&noise, b"this is no model").expect("the temporary folder is writable");
    let error = start(config("mqtt://127.0.0.1:1", &noise)).await.err().expect("the file is no model");
    assert!(matches!(error, StartError::Model(ModelError::NotUnderstood { .. })), "{error}");
    assert!(!error.is_configuration());
}
