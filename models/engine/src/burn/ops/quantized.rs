//! Quantization as ONNX writes it: linear, by tensor, axis or block.

use super::Builder;

pub(super) fn builder(_op: &str) -> Option<Builder> {
    None
}
