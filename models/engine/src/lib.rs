//! Running a graph: executors behind one trait, the device probe, the golden check and dynamic batching.
//!
//! This is the only crate that names burn and wgpu; none of their types stands in a public signature, so that an
//! executor can be replaced without its users noticing. It reads no files: graphs come in as [`hedge_graph::Graph`].
//!
//! The road of a model: [`check`] says whether every operator is known, [`Model::load`] probes the devices, runs the
//! golden vectors on each candidate and keeps the fastest that agrees, and a [`worker::Worker`] gives the model a
//! thread of its own and fills batches. A device that fails while it serves is put into quarantine and the CPU answers in its
//! place ([`device_states`]).

mod burn;
mod check;
mod device;
mod executor;
mod golden;
mod health;
mod load;
mod model;
mod quarantine;
mod signature;
mod supervise;
#[cfg(test)]
mod tests;
pub mod train;
pub mod transform;
pub mod worker;

pub use burn::{optimized, panic_message};
pub use check::{CheckReport, OperatorUse, check};
pub use device::{Device, DeviceChoice, DeviceInfo, DeviceKind, ProbeReport, UnknownDevice, probe, set_threads};
pub use executor::{Executor, PrepareError, RunError, Runnable, StepTime};
pub use golden::{Agreement, Golden, GoldenError};
pub use health::{DeviceStanding, DeviceState, FaultKind, device_states};
pub use load::{Engine, burn_executor};
pub use model::{Candidate, LoadError, Model};
pub use quarantine::ProbePolicy;
pub use signature::{InputError, Port, Signature};
pub use supervise::{FaultPolicy, RanOn};
