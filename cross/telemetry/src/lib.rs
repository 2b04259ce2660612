//! What a program tells about itself: log lines on standard error and metrics in Prometheus' text format.
//!
//! A program defines one type whose methods are the things that happen to it; each method writes the log line and
//! moves the metric, so neither is forgotten and a message stands in one place. This crate gives the parts:
//! [`init`] for the log, [`metrics`] for the numbers, [`Throttle`] for what an outsider could repeat without end.
//!
//! It opens no port: who serves `/metrics` calls [`metrics::render`].

mod log;
pub mod metrics;
mod throttle;

pub use self::{
    log::{LogConfig, LogFormat, TelemetryError, init},
    throttle::Throttle,
};
