//! Softmax of 8-bit tensors between scales (`com.microsoft`), by a table of exponentials as onnxruntime's: in single floats,
//! scaled so that a row's largest is as large as its sum allows, and with the output's scale inverted and rounded down.

use hedge_graph::Node;
use hedge_tensor::Tensor;

use super::super::{BoxOp, OpError, axis_of, host, on_host};
use super::product::{Requantize, single};
use super::{byte_of, byte_values, quantized, range_of, single_level};

/// The sum of a row keeps below the largest float by this power of e.
const RESERVE: f64 = 5.0;

/// `QLinearSoftmax`. Before opset 13 everything behind the axis is one row.
pub(in super::super) fn softmax(node: &Node) -> Result<BoxOp, OpError> {
    let joined = node.int("opset", 13) < 13;
    let axis = node.int("axis", if joined { 1 } else { -1 });
    on_host(move |inputs| {
        let x = host::need(inputs, 0)?;
        let shape = x.shape();
        if x.is_empty() {
            return Ok(vec![x.clone()]);
        }
        let axis = axis_of(axis, shape.len())?;
        let behind: usize = shape[axis + 1..].iter().product();
        let (length, inner) = if joined { (shape[axis] * behind, 1) } else { (shape[axis], behind) };
        let (scale, _) = single_level(inputs, 1, x.dtype(), "X_scale")?;
        let output = Requantize::to(host::optional(inputs, 4), x.dtype())?;
        let (low, high) = range_of(output.dtype)?;
        let factor = (1.0 / single(host::need(inputs, 3)?, "Y_scale")?).floor();
        let table = exponentials(scale, length);
        // How far each byte's number lies above the smallest of its type.
        let lowest = range_of(x.dtype())?.0;
        let above = byte_values(x.dtype())?.map(|value| (value - lowest) as usize);
        let (bytes, mut out) = (x.bytes(), vec![0u8; x.len()]);
        for row in 0..x.len() / length {
            let start = row / inner * length * inner + row % inner;
            let places = || (0..length).map(|at| start + at * inner);
            let rank = |place: usize| above[usize::from(bytes[place])];
            let shift = 255 - places().map(rank).max().unwrap_or(0);
            let sum = places().fold(0.0, |sum: f32, place| sum + table[rank(place) + shift]);
            for place in places() {
                let share = table[rank(place) + shift] * factor / sum;
                out[place] = byte_of(quantized(share, output.zero, low, high));
            }
        }
        Ok(vec![Tensor::new(output.dtype, shape.to_vec(), out.into())?])
    })
}

/// The exponentials of 256 steps of `scale`, of which the last is the row's largest.
fn exponentials(scale: f32, length: usize) -> [f32; 256] {
    let room = (f64::from(f32::MAX / length as f32).ln() - RESERVE).max(0.0) / f64::from(scale);
    std::array::from_fn(|step| ((step as f64 - 255.0 + room) * f64::from(scale)).exp() as f32)
}
