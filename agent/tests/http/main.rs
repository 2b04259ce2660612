//! The agent's HTTP API, on an agent in this process with a tiny model; with a broker where requests wait for the cloud.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod client;
mod durable;
mod faults;
mod folder;
mod gateway;
mod inference;
mod lifecycle;
mod metadata;
mod refusals;
mod routing;
mod scene;
mod transforms;
