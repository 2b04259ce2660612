//! The real programs, end to end. One module a promise.

mod bundles;
#[cfg(target_os = "linux")]
mod cold;
mod conformance;
#[cfg(unix)]
mod daemons;
mod demo;
mod devices;
#[cfg(target_os = "linux")]
mod flaps;
mod fleet;
mod gateways;
mod kills;
mod malformed;
mod oip_client;
mod onnxruntime;
mod route;
mod routing;
#[cfg(target_os = "linux")]
mod swaps;
mod uploads;
