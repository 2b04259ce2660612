//! The real programs, end to end. One module a promise.

mod bundles;
mod conformance;
#[cfg(unix)]
mod daemons;
mod demo;
mod devices;
mod fleet;
mod gateways;
mod malformed;
mod oip_client;
mod onnxruntime;
mod route;
mod routing;
#[cfg(target_os = "linux")]
mod swaps;
