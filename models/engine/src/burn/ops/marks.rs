//! Operators between indices and masks: OneHot and NonZero.

use hedge_graph::Node;
use hedge_tensor::Tensor;

use super::host::{buffer, elements, integers, need, room, single, strides, with_elements};
use super::number::Number;
use super::{BoxOp, Builder, OpError, axis_of, on_host, size_of};

pub(super) fn builder(op: &str) -> Option<Builder> {
    match op {
        "OneHot" => Some(one_hot),
        "NonZero" => Some(|_, _| on_host(|inputs| Ok(vec![non_zero(need(inputs, 0)?)?]))),
        _ => None,
    }
}

fn one_hot(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let axis = node.int("axis", -1);
    on_host(move |inputs| {
        let (indices, values) = (need(inputs, 0)?, need(inputs, 2)?);
        let depth = size_of(single(&integers(need(inputs, 1)?)?, "depth")?)?;
        Ok(vec![marked(indices, depth, values, axis)?])
    })
}

/// `values` are what stands elsewhere and what stands at an index; indices outside `depth` mark nothing.
fn marked(indices: &Tensor, depth: usize, values: &Tensor, axis: i64) -> Result<Tensor, OpError> {
    if values.len() != 2 {
        return Err(OpError::new(format!("its values have {} elements, but must have two", values.len())));
    }
    let axis = axis_of(axis, indices.shape().len() + 1)?;
    let mut shape = indices.shape().to_vec();
    shape.insert(axis, depth);
    let count = room(values.dtype(), &shape)?;
    let (off, on) = values.bytes().split_at(values.dtype().size_bytes());
    let mut bytes: Vec<u8> = buffer(count * off.len())?;
    (0..count).for_each(|_| bytes.extend_from_slice(off));
    let inner: usize = shape[axis + 1..].iter().product();
    for (position, index) in integers(indices)?.into_iter().enumerate() {
        let counted = if index < 0 { index.saturating_add_unsigned(depth as u64) } else { index };
        if let Some(hot) = usize::try_from(counted).ok().filter(|&hot| hot < depth) {
            let (outer, inside) = (position / inner, position % inner);
            let at = ((outer * depth + hot) * inner + inside) * on.len();
            bytes[at..at + on.len()].copy_from_slice(on);
        }
    }
    Ok(Tensor::new(values.dtype(), shape, bytes.into())?)
}

/// The indices of all elements that are not zero, a column each; a scalar has one element and no dimension to index.
fn non_zero(x: &Tensor) -> Result<Tensor, OpError> {
    let found: Vec<usize> = with_elements!(x.dtype(), T => {
        let values = elements::<T>(x)?;
        (0..).zip(values).filter(|(_, value)| *value != T::ZERO).map(|(index, _)| index).collect()
    });
    let mut indices: Vec<i64> = buffer(found.len() * x.shape().len())?;
    for (&size, stride) in x.shape().iter().zip(strides(x.shape())) {
        indices.extend(found.iter().map(|index| (index / stride % size) as i64));
    }
    Ok(Tensor::from_slice(&[x.shape().len(), found.len()], &indices)?)
}
