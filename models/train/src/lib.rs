//! Training and judging models that are graphs.
//!
//! A model to train is a [`Graph`](hedge_graph::Graph) like any other: the engine runs it under autodiff with some of
//! its constants as parameters, and what comes back is the same graph with those constants replaced. So what is trained
//! is, operator by operator, what is deployed.
//!
//! This crate holds what surrounds a training step: initial weights ([`init`]), the schedule and the loop ([`fit`]),
//! distillation from a larger model, and evaluation ([`evaluate`]). The step itself is `hedge_engine::train`; data and
//! architectures belong to a task (`hedge-zoo`). Everything random comes from a seed.

pub mod evaluate;
mod fit;
pub mod init;

pub use evaluate::{EvaluateError, Predictions};
pub use fit::{Batch, Distillation, FitError, Progress, Recipe, Teacher, fit};
