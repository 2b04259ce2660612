//! What the engine promises, on graphs built here: one module a promise.

mod bodies;
mod borrowed;
mod elementwise;
mod faults;
mod indexing;
mod limits;
mod ml;
mod operators;
mod passes;
mod quantized;
mod quantized_groups;
mod serving;
mod training;
mod transform;
mod vision;

use std::sync::{Mutex, MutexGuard, PoisonError};

use hedge_graph::{Attribute, Dim, Graph, GraphBuilder};
use hedge_tensor::{DType, NamedTensor, Tensor};

use crate::{Device, DeviceChoice, Model, RunError};

/// A graph with the float inputs `x0`, `x1`, … of any shape, one operator, and its output `y`.
fn one_operator(op: &str, inputs: usize, constants: &[Tensor], attributes: &[(&str, Attribute)]) -> Graph {
    let mut builder = GraphBuilder::new(op);
    let mut names: Vec<String> = (0..inputs).map(|index| format!("x{index}")).collect();
    for (index, constant) in constants.iter().enumerate() {
        names.push(builder.init(&format!("c{index}"), constant.clone()));
    }
    let arguments: Vec<&str> = names.iter().map(String::as_str).collect();
    builder.op_as("y", op, &arguments, attributes);
    for name in &names[..inputs] {
        builder.input(name, DType::F32, &[Dim::Unknown, Dim::Unknown]);
    }
    builder.output("y", DType::F32, &[Dim::Unknown, Dim::Unknown]);
    builder.finish().expect("the graph is well formed")
}

fn floats(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_slice(shape, values).unwrap()
}

/// This machine's graphics adapter, a software one if there is no other, for one test at a time: one of them takes it away.
fn real_device() -> Option<(Device, MutexGuard<'static, ()>)> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    Some((Device::candidates(DeviceChoice::Gpu).into_iter().next()?, turn))
}

/// Runs `graph` on the CPU, without the check of shapes against the signature: the operators must hold by themselves.
fn run(graph: &Graph, inputs: &[Tensor]) -> Result<Tensor, RunError> {
    use crate::{Executor, burn::BurnExecutor};
    let mut runnable = BurnExecutor.prepare(graph.clone(), &Device::cpu()).expect("the graph can be prepared");
    runnable.run(inputs).map(|mut outputs| outputs.remove(0))
}

/// `y = x * 2 + b` over rows of two numbers.
fn affine() -> Graph {
    let mut builder = GraphBuilder::new("affine");
    let rows = [Dim::named("N"), Dim::Known(2)];
    let x = builder.input("x", DType::F32, &rows);
    let two = builder.init("two", Tensor::scalar(2f32));
    let bias = builder.init("b", floats(&[2], &[10., 20.]));
    let product = builder.op("Mul", &[&x, &two], &[]);
    builder.op_as("y", "Add", &[&product, &bias], &[]);
    builder.output("y", DType::F32, &rows);
    builder.finish().expect("the graph is well formed")
}

fn model(graph: &Graph) -> Model {
    Model::load(graph.clone(), DeviceChoice::Cpu, None).expect("the model loads")
}

fn named(name: &str, tensor: Tensor) -> Vec<NamedTensor> {
    vec![NamedTensor::new(name, tensor)]
}
