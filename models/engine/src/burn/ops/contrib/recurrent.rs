//! `DynamicQuantizeLSTM`: weights are 8-bit numbers, and what they are multiplied by is quantized as it comes.
//!
//! The products are of floats that hold those numbers: their sums differ from integers' by the last bits of a float.

use hedge_graph::Node;
use hedge_tensor::{DType, Tensor};

use super::super::quantized::floats;
use super::super::recurrent::lstm;
use super::super::{BoxOp, Builder, Inputs, OpError, many};
use crate::burn::Value;

pub(super) fn builder(op: &str) -> Option<Builder> {
    (op == "DynamicQuantizeLSTM").then_some(dynamic_lstm)
}

fn dynamic_lstm(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let layer = lstm(node)?.in_bytes();
    many(move |context, mut inputs| {
        let mut weights = |value: usize, scale: usize| -> Result<Option<Value>, OpError> {
            let (packed, scales) = (inputs.take(value)?.into_host()?, inputs.take(scale)?.into_host()?);
            let zeros = inputs.optional(scale + 1).map(Value::into_host).transpose()?;
            Ok(Some(Value::host(unpacked(&packed, &scales, zeros.as_ref())?)))
        };
        let (w, r) = (weights(1, 8)?, weights(2, 10)?);
        let mut operands = vec![Some(inputs.take(0)?), w, r];
        operands.extend((3..8).map(|index| inputs.optional(index)));
        layer.run(Inputs::new(operands), context)
    })
}

/// `[directions, input, gates]` as the floats `[directions, gates, input]` that an `LSTM` takes; scales and zero points are one
/// for each direction, or one for each of its gates' columns.
fn unpacked(packed: &Tensor, scales: &Tensor, zeros: Option<&Tensor>) -> Result<Tensor, OpError> {
    let wrong =
        |what: &Tensor| OpError::new(format!("{:?} does not fit weights of shape {:?}", what.shape(), packed.shape()));
    let &[directions, rows, columns] = packed.shape() else { return Err(wrong(packed)) };
    if !matches!(packed.dtype(), DType::I8 | DType::U8) {
        return Err(OpError::new(format!("its weights are {}, but must be of 8 bits", packed.dtype())));
    }
    let spread = |tensor: &Tensor| match floats(tensor)? {
        each if each.len() == directions * columns => Ok(each),
        each if each.len() == directions => Ok(each.iter().flat_map(|&one| vec![one; columns]).collect()),
        _ => Err(wrong(tensor)),
    };
    let scales: Vec<f32> = spread(scales)?;
    let zeros = zeros.map(spread).transpose()?;
    let values = floats(packed)?;
    let mut turned = Vec::with_capacity(values.len());
    for direction in 0..directions {
        for column in 0..columns {
            let level = direction * columns + column;
            let zero = zeros.as_ref().map_or(0.0, |zeros| zeros[level]);
            let at = |row: usize| values[(direction * rows + row) * columns + column];
            turned.extend((0..rows).map(|row| (at(row) - zero) * scales[level]));
        }
    }
    Ok(Tensor::from_vec(&[directions, columns, rows], turned)?)
}
