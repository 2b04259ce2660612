//! The agent's HTTP API, on an agent in this process with a tiny model and no broker.

mod client;
mod inference;
mod lifecycle;
mod metadata;
mod refusals;
mod scene;
