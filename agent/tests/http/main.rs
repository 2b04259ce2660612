//! The agent's HTTP API, on an agent in this process with a tiny model and no broker.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod client;
mod faults;
mod folder;
mod inference;
mod lifecycle;
mod metadata;
mod refusals;
mod routing;
mod scene;
mod transforms;
