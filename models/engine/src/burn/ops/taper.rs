//! Window functions of audio: Hann, Hamming, Blackman.

use std::f64::consts::TAU;

use hedge_graph::Node;
use hedge_tensor::DType;

use super::host::need;
use super::signal::{from_doubles, scalar};
use super::{BoxOp, Builder, OpError, on_host, size_of};

/// The longest window.
const MAX_LENGTH: usize = 1 << 24;

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "HannWindow" => |node, _| cosines(node, [0.5, 0.5, 0.0]),
        // ONNX's Hamming coefficients are these fractions, not 0.54 and 0.46.
        "HammingWindow" => |node, _| cosines(node, [25.0 / 46.0, 21.0 / 46.0, 0.0]),
        "BlackmanWindow" => |node, _| cosines(node, [0.42, 0.5, 0.08]),
        _ => return None,
    })
}

/// `a - b cos(2 pi n / N) + c cos(4 pi n / N)`, where N is the length or, for symmetric windows, one less.
fn cosines(node: &Node, [a, b, c]: [f64; 3]) -> Result<BoxOp, OpError> {
    let periodic = node.int("periodic", 1) != 0;
    let code = node.int("output_datatype", i64::from(DType::F32.onnx_code()));
    let dtype = i32::try_from(code).ok().and_then(DType::from_onnx_code);
    let dtype = dtype.ok_or_else(|| OpError::new(format!("an output of ONNX type {code} is not supported")))?;
    on_host(move |inputs| {
        let length = size_of(scalar(need(inputs, 0)?)?)?;
        if length > MAX_LENGTH {
            return Err(OpError::new(format!("a window of {length} is longer than {MAX_LENGTH}")));
        }
        // A symmetric window of one sample would divide by zero.
        let period = if periodic { length } else { length.saturating_sub(1).max(1) } as f64;
        let value = |index: usize| {
            let turn = TAU * index as f64 / period;
            a - b * turn.cos() + c * (2.0 * turn).cos()
        };
        let values: Vec<f64> = (0..length).map(value).collect();
        Ok(vec![from_doubles(dtype, &[length], &values)?])
    })
}
