//! A gateway on a model of one operator: the service on a link that remembers (`service`, `uploads`), and the whole program on
//! the embedded broker (`whole`, and with pooling `pool`).

mod pool;
mod service;
mod uploads;
mod whole;

use std::path::Path;

use hedge_graph::{Dim, build::GraphBuilder};
use hedge_tensor::{DType, NamedTensor, Tensor};
use hedge_wire::{BootId, Digest, ModelId, Purpose, Query, RequestId};

/// Writes `y = relu(x)` over rows of two numbers.
fn write_model(path: &Path) {
    write_wide_model(path, 2);
}

/// Writes `y = relu(x)` over rows of so many numbers.
fn write_wide_model(path: &Path, width: usize) {
    let mut graph = GraphBuilder::new("relu");
    let shape = [Dim::Named("N".into()), Dim::Known(width)];
    graph.input("x", DType::F32, &shape);
    graph.op_as("y", "Relu", &["x"], &[]);
    graph.output("y", DType::F32, &shape);
    let graph = graph.finish().expect("the graph is valid");
    std::fs::write(path, graph.write()).expect("the temporary folder is writable");
}

fn tensor(name: &str, rows: usize, values: &[f32]) -> NamedTensor {
    let shape = [rows, values.len() / rows];
    NamedTensor::new(name, Tensor::from_slice(&shape, values).expect("as many values as the shape says"))
}

fn query(id: u8, input: NamedTensor) -> Query {
    Query {
        id: RequestId::from_bytes([id; 16]),
        model: ModelId::from_name("relu"),
        edge: Digest([0; 32]),
        attempt: 0,
        deadline_ms: 10_000,
        boot: BootId(1),
        inputs: vec![input],
        purpose: Purpose::Answer,
    }
}
