//! Operators that make tensors from a few numbers, and triangles.

use burn_backend::Scalar;
use burn_backend::ops::{BoolTensorOps, FloatTensorOps, IntTensorOps};
use hedge_graph::{Attribute, Node};
use hedge_tensor::{DType, Tensor};

use super::host::{buffer, elements, hosted, need, repeated, room, single, tensor_of, with_elements, zeros};
use super::movement::moves_on_host;
use super::number::Number;
use super::{BoxOp, Builder, OpError, by_kind, on_host, one, size_of};
use crate::burn::{B, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "Constant" => constant,
        "ConstantOfShape" => constant_of_shape,
        "Range" => |_, _| on_host(|inputs| Ok(vec![range(need(inputs, 0)?, need(inputs, 1)?, need(inputs, 2)?)?])),
        "EyeLike" => eye_like,
        "Trilu" => trilu,
        _ => return None,
    })
}

fn constant(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let values = || node.attributes.iter().find(|(name, _)| name.starts_with("value") || *name == "sparse_value");
    let (name, value) = values().ok_or_else(|| OpError::new("it has no value"))?;
    let tensor = match (name.as_str(), value) {
        ("value", Attribute::Tensor(tensor)) => tensor.clone(),
        ("value_int", Attribute::Int(value)) => Tensor::scalar(*value),
        ("value_float", Attribute::Float(value)) => Tensor::scalar(*value),
        ("value_ints", Attribute::Ints(values)) => Tensor::from_slice(&[values.len()], values)?,
        ("value_floats", Attribute::Floats(values)) => Tensor::from_slice(&[values.len()], values)?,
        _ => return Err(OpError::new(format!("a constant by {name:?} is not supported"))),
    };
    one(move |context, _| {
        let value = Value::host(tensor.clone());
        if value.is_float() { value.into_device(context) } else { Ok(value) }
    })
}

fn constant_of_shape(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let value = node.tensor("value").cloned().unwrap_or_else(|| Tensor::scalar(0f32));
    if value.len() != 1 {
        return Err(OpError::new("its value must have one element"));
    }
    one(move |_, mut inputs| {
        let shape = inputs.take(0)?.to_ints()?.into_iter().map(size_of).collect::<Result<Vec<_>, _>>()?;
        let dtype = value.dtype();
        let is_zero = value.bytes().iter().all(|&byte| byte == 0);
        Ok(Value::host(if is_zero { zeros(dtype, &shape)? } else { repeated(dtype, &shape, value.bytes())? }))
    })
}

fn range(start: &Tensor, limit: &Tensor, delta: &Tensor) -> Result<Tensor, OpError> {
    let dtype = start.dtype();
    if limit.dtype() != dtype || delta.dtype() != dtype || dtype == DType::Bool {
        return Err(OpError::new(format!("a range of {dtype} to {} by {}", limit.dtype(), delta.dtype())));
    }
    if [start, limit, delta].iter().any(|bound| bound.len() != 1) {
        return Err(OpError::new("its start, limit and delta must be scalars"));
    }
    with_elements!(dtype, T => {
        let bound = |tensor: &Tensor| elements::<T>(tensor).map(|values| values[0]);
        let values = if dtype.is_float() {
            float_range(bound(start)?, bound(limit)?, bound(delta)?)?
        } else {
            int_range(bound(start)?, bound(limit)?, bound(delta)?)?
        };
        tensor_of(dtype, &[values.len()], &values)
    })
}

fn float_range<T: Number>(start: T, limit: T, delta: T) -> Result<Vec<T>, OpError> {
    let step = delta.to_f64();
    // The difference is rounded to the type, as onnxruntime does, and so is each value; nothing accumulates.
    let count = (T::from_f64(limit.to_f64() - start.to_f64()).to_f64() / step).ceil().max(0.0);
    if step == 0.0 || !(limit.to_f64() - start.to_f64()).is_finite() || !step.is_finite() {
        return Err(OpError::new(format!("there is no range from {start:?} to {limit:?} by {delta:?}")));
    }
    let count = room(T::DTYPE, &[count as usize])?;
    let mut values = buffer(count)?;
    values.extend((0..count).map(|index| T::from_f64(start.to_f64() + index as f64 * step)));
    Ok(values)
}

fn int_range<T: Number>(start: T, limit: T, delta: T) -> Result<Vec<T>, OpError> {
    let (first, step) = (start.to_i128(), delta.to_i128());
    if step == 0 {
        return Err(OpError::new(format!("there is no range from {start:?} to {limit:?} by {delta:?}")));
    }
    let distance = (limit.to_i128() - first) * step.signum();
    let count = distance.max(0).unsigned_abs().div_ceil(step.unsigned_abs());
    let count = room(T::DTYPE, &[usize::try_from(count).unwrap_or(usize::MAX)])?;
    let mut values = buffer(count)?;
    values.extend((0..count).map(|index| T::from_i128(first + index as i128 * step)));
    Ok(values)
}

fn eye_like(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let diagonal = i128::from(node.int("k", 0));
    let asked = match node.attributes.get("dtype") {
        Some(_) => Some(element_type(node.int("dtype", 0))?),
        None => None,
    };
    one(move |_, mut inputs| {
        let x = inputs.take(0)?;
        let [rows, columns] = x.shape()[..] else {
            return Err(OpError::new(format!("a matrix is needed, but it has {:?}", x.shape())));
        };
        let dtype = asked.unwrap_or(x.dtype());
        let one = with_elements!(dtype, T => Tensor::scalar(T::ONE).into_bytes());
        let mut bytes = zeros(dtype, &[rows, columns])?.into_bytes().to_vec();
        for row in 0..if bytes.is_empty() { 0 } else { rows } {
            let column = usize::try_from(row as i128 + diagonal).ok().filter(|&column| column < columns);
            if let Some(column) = column {
                let at = (row * columns + column) * one.len();
                bytes[at..at + one.len()].copy_from_slice(&one);
            }
        }
        Ok(Value::host(Tensor::new(dtype, vec![rows, columns], bytes.into())?))
    })
}

fn element_type(code: i64) -> Result<DType, OpError> {
    let dtype = i32::try_from(code).ok().and_then(DType::from_onnx_code);
    dtype.ok_or_else(|| OpError::new(format!("ONNX type {code} is not supported")))
}

/// The upper or lower triangle of matrices, zeros elsewhere.
fn trilu(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let upper = node.int("upper", 1) != 0;
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let diagonal = match inputs.optional(1) {
            Some(k) => single(&k.to_ints()?, "k")?,
            None => 0,
        };
        let shape = x.shape();
        let [.., rows, columns] = shape[..] else {
            return Err(OpError::new(format!("matrices are needed, but it has {shape:?}")));
        };
        if shape.contains(&0) {
            return Ok(x);
        }
        let dropped = dropped(rows, columns, i128::from(diagonal), upper);
        if x.is_host() || moves_on_host(&x, context) {
            return cleared(&hosted(x)?, &dropped);
        }
        let mask = Value::host(Tensor::bools(&[rows, columns], &dropped)?);
        let mask = super::layout::expanded(mask.into_device(context)?, &shape, context)?.into_bool(context)?;
        by_kind!(
            x,
            context,
            |tensor| B::float_mask_fill(tensor, mask, Scalar::Float(0.0)),
            B::int_mask_fill(tensor, mask, Scalar::Int(0)),
            B::bool_mask_fill(tensor, mask, Scalar::Bool(false))
        )
    })
}

/// Which elements of a matrix become zero.
fn dropped(rows: usize, columns: usize, diagonal: i128, upper: bool) -> Vec<bool> {
    let beyond = |row: usize, column: usize| column as i128 - row as i128 - diagonal;
    let drops = |row: usize, column: usize| if upper { beyond(row, column) < 0 } else { beyond(row, column) > 0 };
    (0..rows).flat_map(|row| (0..columns).map(move |column| drops(row, column))).collect()
}

/// Zero is all bits zero in every type.
fn cleared(x: &Tensor, dropped: &[bool]) -> Result<Value, OpError> {
    let mut bytes = x.bytes().to_vec();
    let elements = bytes.chunks_exact_mut(x.dtype().size_bytes());
    elements.zip(dropped.iter().cycle()).filter(|(_, drop)| **drop).for_each(|(element, _)| element.fill(0));
    Ok(Value::host(Tensor::new(x.dtype(), x.shape().to_vec(), bytes.into())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_integers_reaches_the_ends_of_its_type() {
        assert_eq!(int_range(i64::MIN, i64::MAX, i64::MAX).unwrap(), [i64::MIN, -1, i64::MAX - 1]);
        assert_eq!(int_range(250u8, 255, 2).unwrap(), [250, 252, 254]);
        assert_eq!(int_range(3i16, -4, -3).unwrap(), [3, 0, -3]);
        assert!(int_range(3i32, 4, -1).unwrap().is_empty());
        assert!(int_range(0i64, i64::MAX, 1).is_err());
        assert!(int_range(0i32, 1, 0).is_err());
    }

    #[test]
    fn a_range_of_floats_does_not_drift_and_refuses_what_is_no_number() {
        assert_eq!(float_range(0f32, 1.0, 0.1).unwrap().len(), 10);
        assert_eq!(float_range(1f64, 5.0, 2.0).unwrap(), [1., 3.]);
        assert!(float_range(2f32, 1.0, 1.0).unwrap().is_empty());
        assert!(float_range(0f32, f32::INFINITY, 1.0).is_err());
        assert!(float_range(f32::NAN, 1.0, 1.0).is_err());
        assert!(float_range(0f32, 1.0, 0.0).is_err());
    }

    #[test]
    fn a_triangle_far_off_the_diagonal_is_all_or_nothing() {
        for extreme in [i64::MIN, i64::MAX].map(i128::from) {
            let all = dropped(2, 2, extreme, true);
            assert_eq!(all, vec![extreme > 0; 4]);
            assert_eq!(dropped(2, 2, extreme, false), vec![extreme < 0; 4]);
        }
    }
}
