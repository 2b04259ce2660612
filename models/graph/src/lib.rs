//! Hedge's graph: a model as data, read from ONNX and written back to it.
//!
//! It knows names, constants and order. It does not know what an operator does: executors in `hedge-engine` do.
//! There is no I/O and no clock here; files come and go as bytes.
//!
//! Weights are slices of the file they were read from; nothing copies them until an executor packs them.

pub mod build;
pub mod cost;
pub mod infer;
mod model;
mod names;
pub mod onnx;
pub mod passes;
pub mod validate;

pub use build::GraphBuilder;
pub use model::{Attribute, Dim, Graph, Node, ValueInfo};
pub use onnx::{ExternalData, NoExternalData, ReadError, read_tensor_file};
pub use validate::ValidateError;

use sha2::Digest;

/// The SHA-256 of a model file: what a model's identity is, on the wire and in answers.
pub fn file_digest(file: &[u8]) -> [u8; 32] {
    sha2::Sha256::digest(file).into()
}
