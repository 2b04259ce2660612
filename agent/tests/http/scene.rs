//! An agent with two copies of a tiny model: `tiny`, which may be offloaded, and `private`, which may not.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

use hedge_agent::{Agent, Config, ModelSection};
use hedge_graph::Dim;
use hedge_graph::build::GraphBuilder;
use hedge_tensor::{DType, Tensor};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{self, Response};

pub(crate) const INFER: &str = "/v2/models/tiny/infer";

pub(crate) struct Scene {
    pub(crate) folder: TempDir,
    pub(crate) agent: Agent,
    pub(crate) address: SocketAddr,
}

/// Starts an agent after `change` has had its say about the configuration.
pub(crate) async fn scene_with(change: impl FnOnce(&mut Config)) -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&folder);
    change(&mut config);
    let agent = hedge_agent::start(config).await.expect("the agent starts");
    let address = agent.http_addr().expect("it listens on TCP");
    Scene { folder, agent, address }
}

pub(crate) async fn scene() -> Scene {
    scene_with(|_| {}).await
}

pub(crate) fn config(folder: &TempDir) -> Config {
    let path = folder.path().join("tiny.onnx");
    std::fs::write(&path, tiny()).unwrap();
    let models = vec![ModelSection::offloading("tiny", &path, 0.5), ModelSection::local("private", &path)];
    let mut config = Config { models, ..Config::default() };
    config.agent.state_dir = folder.path().join("state");
    config.http.listen = "127.0.0.1:0".into();
    config.engine.device = "cpu".into();
    config
}

/// logits = x W with x FP32 [N, 2]: [a, b] -> [a, b, -a-b].
fn tiny() -> Vec<u8> {
    let mut b = GraphBuilder::new("tiny");
    let x = b.input("x", DType::F32, &[Dim::named("N"), 2.into()]);
    let w = b.init("w", Tensor::from_slice(&[2, 3], &[1_f32, 0., -1., 0., 1., -1.]).unwrap());
    b.op_as("logits", "MatMul", &[&x, &w], &[]);
    b.output("logits", DType::F32, &[Dim::named("N"), 3.into()]);
    b.finish().unwrap().write()
}

impl Scene {
    /// Runs a blocking piece of test beside the agent: it has begun when this returns, and is waited for by awaiting.
    pub(crate) fn with<T: Send + 'static>(
        &self,
        test: impl FnOnce(SocketAddr) -> T + Send + 'static,
    ) -> Pin<Box<dyn Future<Output = T> + Send>> {
        let address = self.address;
        let running = tokio::task::spawn_blocking(move || test(address));
        Box::pin(async move { running.await.expect("the test's own thread does not panic") })
    }

    pub(crate) async fn infer(&self, request: Value) -> Response {
        self.with(move |address| infer(address, &request)).await
    }
}

pub(crate) fn infer(address: SocketAddr, request: &Value) -> Response {
    client::post(address, INFER, &[], request.to_string().as_bytes())
}

/// A request with these rows of two numbers.
pub(crate) fn rows(rows: &[[f64; 2]]) -> Value {
    json!({ "inputs": [{ "name": "x", "shape": [rows.len(), 2], "datatype": "FP32", "data": rows }] })
}

/// A row of which the model is sure, and one of which it is not.
pub(crate) const SURE: [f64; 2] = [5.0, 0.0];
pub(crate) const UNSURE: [f64; 2] = [0.25, 0.25];
