//! The local API: Open Inference Protocol v2 over HTTP, JSON and the binary tensor extension.
//!
//! `routes` maps paths to handlers, `infer` is the way of an inference request, `request` and `response` translate bodies,
//! `durable` is the way of a durable one and its result, `json` and `binary` their tensors, `raw` makes a model's inputs of raw ones, `json_body` wraps documents, `metadata` answers questions about models, `repository`
//! loads and unloads them, `devices` tells how devices do, `body` bounds what is read, `error` is the only shape that an error
//! takes.

mod binary;
mod body;
mod devices;
mod durable;
mod error;
mod infer;
mod json;
mod json_body;
mod metadata;
mod raw;
mod repository;
mod request;
mod response;
mod route;
mod routes;

pub(crate) use error::ApiError;
pub(crate) use request::OutputWish;
pub(crate) use routes::{ApiState, router};
