//! The cloud model, run here, without agent, network or cache: what every answer is compared with.

use anyhow::{Context, Result};
use hedge_certify::top_class;
use hedge_engine::{DeviceChoice, Model};
use hedge_graph::Graph;
use hedge_tensor::{NamedTensor, Tensor};
use hedge_zoo::digits;

use super::script::Request;

/// Images run at once.
const BATCH: usize = 64;

/// The cloud model's class of each request, in order. Blocks.
pub(super) fn classes(requests: &[Request], device: DeviceChoice) -> Result<Vec<usize>> {
    let graph = Graph::read(digits::cloud_onnx().into()).context("the bundled cloud model")?;
    let mut model = Model::load(&graph, device, None).context("the bundled cloud model")?;
    let mut classes: Vec<usize> = Vec::with_capacity(requests.len());
    for batch in requests.chunks(BATCH) {
        let images: Vec<Tensor> = batch.iter().map(|request| request.image.clone()).collect();
        let outputs = model.run(&[NamedTensor::new(digits::INPUT, Tensor::stack(&images)?)])?;
        let logits = outputs.into_iter().find(|output| output.name == digits::OUTPUT).context("no logits")?;
        for row in logits.tensor.rows()? {
            classes.push(top_class(&row.to_vec::<f32>()?));
        }
    }
    Ok(classes)
}
