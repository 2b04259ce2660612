//! The one host tensor of Hedge: what an HTTP body, an MQTT envelope, an ONNX initializer, a `.npy` file and an engine's
//! input have in common.
//!
//! It is not a compute type: no arithmetic, no strides. Elements are row-major and little-endian in shared, immutable
//! bytes, so that slicing a batch into rows and handing weights from a file to an executor copy nothing.
//!
//! Invariant: `data.len() == shape.product() * dtype.size_bytes()`, checked on construction without overflow.

mod dtype;
mod element;
mod tensor;

pub use dtype::DType;
pub use element::Element;
pub use tensor::{NamedTensor, Tensor, TensorError, element_count};
