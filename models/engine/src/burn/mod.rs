//! The burn executor: every operator over burn's dynamic-rank backend primitives, instantiated once at `Dispatch`, so
//! that CPU (flex), GPU (wgpu) and autodiff are one compiled copy.
//!
//! Bodies of control-flow operators are programs of their own, whose captured values are further inputs.
//!
//! Preparing resolves each operator and its attributes, computes what depends on constants only, moves float weights to
//! the device and notes where each value is used last. A run then moves values from slot to slot and drops each at its
//! last use.
//!
//! Invariant: nothing here panics for what a model or an input says. Burn itself panics on what it does not like, so a
//! run is under `catch_unwind` and such a panic is a [`RunError`].

mod buffers;
mod context;
mod gpu;
mod ops;
mod optimized;
mod prepare;
mod program;
mod value;

pub(crate) use context::Context;
pub use optimized::optimized;
pub(crate) use program::Program;
pub(crate) use value::Value;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::time::Instant;

use burn_backend::ops::FloatTensorOps;
use burn_backend::{Backend, TensorData};
use hedge_graph::Graph;
use hedge_tensor::Tensor;

use crate::{Device, Executor, PrepareError, RunError, Runnable, StepTime};

/// The backend of every tensor: it dispatches on the device that a tensor lives on.
pub(crate) type B = burn_dispatch::Dispatch;

/// Burn's float, integer and boolean tensors are all of this type.
pub(crate) type Primitive = burn_dispatch::DispatchTensor;

/// Whether there is an implementation of the operator, in any opset.
pub(crate) fn is_supported(domain: &str, op: &str) -> bool {
    ops::is_known(domain, op)
}

/// Lets burn's matrix product look at the processor's caches, which it does at the first one in the life of a process (some
/// two milliseconds on Linux), while something else is done. Only the first call does anything.
fn look_at_caches() {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| {
        let product = || {
            let context = Context::host();
            let ones = || B::float_from_data(TensorData::new(vec![1f32; 64 * 64], [64, 64]), &context.device);
            B::float_matmul(ones(), ones());
        };
        // Without a thread for it, the first product does it.
        _ = std::thread::Builder::new().name("caches".to_owned()).spawn(product);
    });
}

/// The executor `burn`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BurnExecutor;

impl Executor for BurnExecutor {
    fn name(&self) -> &'static str {
        "burn"
    }

    fn prepare(&self, graph: Graph, device: &Device) -> Result<Box<dyn Runnable>, PrepareError> {
        let opened = device.open().map_err(|why| PrepareError::Device { device: device.label(), why })?;
        let context = Context::new(opened);
        look_at_caches();
        let prepared = catch_unwind(AssertUnwindSafe(|| optimized::prepare(graph, &context)));
        let program = prepared.unwrap_or_else(|panic| {
            Err(PrepareError::Device { device: device.label(), why: panic_message(panic.as_ref()) })
        })?;
        let visits_the_pool = !context.is_gpu() && program.steps_on_threads() > 1;
        Ok(Box::new(BurnRunnable { program, context, visits_the_pool }))
    }
}

struct BurnRunnable {
    program: Program,
    context: Context,
    /// Whether a run is handed to burn's thread pool as a whole, however small it is. Some of burn's kernels hand their work
    /// over, however little, and wait: two changes of thread, which are half of a small network's time. From within the pool
    /// they cost nothing.
    visits_the_pool: bool,
}

impl Runnable for BurnRunnable {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, RunError> {
        let run = || guarded(|| self.program.run(&self.context, host_values(inputs)).and_then(host_tensors));
        if self.visits_the_pool || self.context.needs_threads() { rayon::scope(|_| run()) } else { run() }
    }

    fn on_cpu(&self) -> Vec<String> {
        self.context.on_cpu()
    }

    fn profile(&mut self, inputs: &[Tensor]) -> Result<Vec<StepTime>, RunError> {
        guarded(|| {
            let mut times = Vec::new();
            let mut started = Instant::now();
            self.program.run_observed(&self.context, host_values(inputs), |node, op| {
                B::sync(&self.context.device).map_err(|error| RunError::Device { why: error.to_string() })?;
                times.push(StepTime { node: node.to_owned(), op: op.to_owned(), time: started.elapsed() });
                started = Instant::now();
                Ok(())
            })?;
            Ok(times)
        })
    }
}

fn host_values(inputs: &[Tensor]) -> Vec<Value> {
    inputs.iter().cloned().map(Value::host).collect()
}

fn host_tensors(outputs: Vec<Value>) -> Result<Vec<Tensor>, RunError> {
    outputs.into_iter().map(|value| value.into_host().map_err(|error| error.of("", "output"))).collect()
}

/// Runs `f`; a panic in it is an error.
fn guarded<T>(f: impl FnOnce() -> Result<T, RunError>) -> Result<T, RunError> {
    catch_unwind(AssertUnwindSafe(f))
        .unwrap_or_else(|panic| Err(RunError::Panic { why: panic_message(panic.as_ref()) }))
}

/// What a panic said.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked without a message").to_owned()
}
