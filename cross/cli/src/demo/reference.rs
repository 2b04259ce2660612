//! The cloud model, run here, without agent, network or cache: what every answer is compared with.

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, Result};
use hedge_certify::top_class;
use hedge_engine::{DeviceChoice, Model};
use hedge_graph::Graph;
use hedge_tensor::{NamedTensor, Tensor};
use hedge_zoo::digits;
use tokio::task::spawn_blocking;

use super::script::Request;

/// Images run at once. Also how long an interruption waits.
const BATCH: usize = 64;

/// The cloud model's class of each request, in order; `done` is told how many there are so far.
pub(super) async fn classes(
    requests: &Arc<[Request]>,
    device: DeviceChoice,
    done: impl Fn(usize),
) -> Result<Vec<usize>> {
    let mut model = spawn_blocking(move || load(device)).await??;
    let mut classes = Vec::with_capacity(requests.len());
    while classes.len() < requests.len() {
        let batch = classes.len()..requests.len().min(classes.len() + BATCH);
        let requests = Arc::clone(requests);
        let ran = spawn_blocking(move || run(&mut model, &requests, batch).map(|classes| (model, classes)));
        let (same, more) = ran.await??;
        model = same;
        classes.extend(more);
        done(classes.len());
    }
    Ok(classes)
}

fn load(device: DeviceChoice) -> Result<Model> {
    let graph = Graph::read(digits::cloud_onnx().into()).context("the bundled cloud model")?;
    Model::load(&graph, device, None).context("the bundled cloud model")
}

fn run(model: &mut Model, requests: &[Request], batch: Range<usize>) -> Result<Vec<usize>> {
    let images: Vec<Tensor> = requests[batch].iter().map(|request| request.image.clone()).collect();
    let outputs = model.run(&[NamedTensor::new(digits::INPUT, Tensor::stack(&images)?)])?;
    let logits = outputs.into_iter().find(|output| output.name == digits::OUTPUT).context("no logits")?;
    let rows = logits.tensor.rows()?;
    rows.iter().map(|row| Ok(top_class(&row.to_vec::<f32>()?))).collect()
}
