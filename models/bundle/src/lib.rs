//! A model as it is shipped: ONNX with a manifest, golden vectors and input transforms as data.
//!
//! A bundle is a folder or one `.hedge` file; both hold the same files.
//!
//! ```text
//! manifest.json        what is known of the model, with size and SHA-256 of every other file   [manifest]
//! model.onnx           the graph; large tensors are external data in weights.bin
//! weights.bin          these tensors, each aligned to 64 bytes
//! golden/0/input-0.npy tensors with known outputs, as the manifest names them                  [npy]
//! tokenizer.json, …    what transforms need; anything else that belongs to the model
//! ```
//!
//! The single file is drawn in [`container`]. A folder opens in Netron and onnxruntime as it is.
//!
//! The bundle's digest is the SHA-256 of its manifest: whoever signs, caches or certifies a bundle names all of it by that.
//! Whatever is opened was compared with the manifest: a bundle that is cut off, damaged or put together by hand is an error that
//! says what is wrong and where. Bundles come from strangers, so [`limits`] bounds every count and size before memory is
//! taken, names cannot lead out of a folder, and links are refused.
//!
//! Transforms are data here ([`Transform`]); `hedge_engine::transform` executes them.

mod blob;
mod bundle;
mod comparison;
pub mod container;
mod data;
mod digest;
mod folder;
pub mod limits;
pub mod manifest;
mod name;
pub mod npy;
mod pack;
pub mod transform;

#[cfg(test)]
mod tests;

pub use bundle::{Bundle, BundleError, GoldenCase, open_graph, open_onnx};
pub use comparison::CompareError;
pub use container::ContainerError;
pub use digest::{Digest, NoDigest};
pub use manifest::{Comparison, FileRecord, GoldenFile, GoldenFiles, Input, Manifest, ManifestError, Output};
pub use name::{FileName, ModelName, ModelVersion, NameError};
pub use npy::NpyError;
pub use pack::{Draft, EXTENSION, Packed};
pub use transform::Transform;
