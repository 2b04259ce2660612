//! The commands, one module a noun.

pub(crate) mod bundle;
pub(crate) mod devices;
pub(crate) mod model;
pub(crate) mod route;
pub(crate) mod simulate;
pub(crate) mod zoo;

use std::future::Future;

use anyhow::Result;
use hedge_telemetry::LogConfig;

/// Runs a command that needs no reactor, with the log at `info` unless `RUST_LOG` says otherwise.
pub(crate) fn quietly(command: impl FnOnce() -> Result<()>) -> Result<()> {
    hedge_telemetry::init(&LogConfig::default())?;
    command()
}

/// Runs a command on a reactor; it starts the log itself.
pub(crate) fn asynchronously<T>(command: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(command)
}
