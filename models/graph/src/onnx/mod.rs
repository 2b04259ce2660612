//! ONNX files: one protobuf message (`ModelProto`), read into a [`Graph`](crate::Graph) and written from it.
//!
//! ```text
//! ModelProto   ir_version, opset_import [(domain, version)], producer_name, doc_string, metadata_props
//!  └ graph     name, input [ValueInfo], output [ValueInfo], value_info [ValueInfo]
//!     ├ initializer [TensorProto: name, dims, data_type, raw_data | one typed list]
//!     └ node        [op_type, domain, input [name], output [name], attribute [name, type, value | GraphProto]]
//! ```
//!
//! The messages are ONNX's own (`proto/onnx.proto`). What a graph does not keep is dropped on reading: training
//! information, device placement, quantization annotations, doc strings of single nodes. What would change the
//! model's meaning if it were dropped is an error: sparse tensors, sequences and maps as inputs or outputs. Calls of
//! model-local functions are replaced by the functions' nodes.
//!
//! Nothing that a file merely declares is allocated: a tensor's dimensions are multiplied with overflow checks and must
//! fit the bytes that are there, and what messages become in memory is bounded before they are decoded (`split`).

mod budget;
mod external;
mod functions;
mod read;
mod split;
mod tensor;
mod write;

#[cfg(test)]
mod tests;

use bytes::Bytes;
use hedge_tensor::Tensor;
use prost::Message;

pub use external::{ExternalData, NoExternalData};
pub use read::{MAX_FILE_BYTES, MAX_NODES, MAX_RANK, ReadError};

/// Reads a file that holds one tensor (`TensorProto`), as ONNX's backend cases keep their inputs and outputs.
pub fn read_tensor_file(bytes: Bytes) -> Result<Tensor, ReadError> {
    let proto =
        proto::TensorProto::decode(bytes).map_err(|error| ReadError::Malformed { reason: error.to_string() })?;
    tensor::read_tensor(proto, "the tensor", &NoExternalData)
}

/// The messages as prost makes them.
#[allow(missing_docs, unreachable_pub, clippy::all)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}
