//! The burn executor: every operator over burn's dynamic-rank backend primitives, instantiated once at `Dispatch`, so
//! that CPU (flex), GPU (wgpu) and autodiff are one compiled copy.
//!
//! Preparing resolves each operator and its attributes, computes what depends on constants only, moves float weights to
//! the device and notes where each value is used last. A run then moves values from slot to slot and drops each at its
//! last use.
//!
//! Invariant: nothing here panics for what a model or an input says. Burn itself panics on what it does not like, so a
//! run is under `catch_unwind` and such a panic is a [`RunError`].

mod context;
mod ops;
mod program;
mod value;

pub(crate) use context::Context;
pub(crate) use program::Program;
pub(crate) use value::Value;

use std::panic::{AssertUnwindSafe, catch_unwind};

use hedge_graph::Graph;
use hedge_tensor::Tensor;

use crate::{Device, Executor, PrepareError, RunError, Runnable};

/// The backend of every tensor: it dispatches on the device that a tensor lives on.
pub(crate) type B = burn_dispatch::Dispatch;

/// Burn's float, integer and boolean tensors are all of this type.
pub(crate) type Primitive = burn_dispatch::DispatchTensor;

/// Whether there is an implementation of the operator, in any opset.
pub(crate) fn is_supported(domain: &str, op: &str) -> bool {
    ops::builder(domain, op).is_some()
}

/// The executor `burn`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BurnExecutor;

impl Executor for BurnExecutor {
    fn name(&self) -> &'static str {
        "burn"
    }

    fn prepare(&self, graph: &Graph, device: &Device) -> Result<Box<dyn Runnable>, PrepareError> {
        let opened = device.open().map_err(|why| PrepareError::Device { device: device.label(), why })?;
        let context = Context::new(opened);
        let prepared = catch_unwind(AssertUnwindSafe(|| Program::prepare(graph, &context)));
        let program = prepared.unwrap_or_else(|panic| {
            Err(PrepareError::Device { device: device.label(), why: panic_message(panic.as_ref()) })
        })?;
        Ok(Box::new(BurnRunnable { program, context }))
    }
}

struct BurnRunnable {
    program: Program,
    context: Context,
}

impl Runnable for BurnRunnable {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, RunError> {
        let run = || {
            let inputs = inputs.iter().cloned().map(Value::host).collect();
            let outputs = self.program.run(&self.context, inputs)?;
            outputs.into_iter().map(|value| value.into_host().map_err(|why| RunError::Device { why })).collect()
        };
        catch_unwind(AssertUnwindSafe(run))
            .unwrap_or_else(|panic| Err(RunError::Panic { why: panic_message(panic.as_ref()) }))
    }
}

pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked without a message").to_owned()
}
