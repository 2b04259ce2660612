//! Steps around models: features picked, scaled, replaced and encoded.

use std::collections::HashMap;

use hedge_graph::Node;
use hedge_tensor::{DType, Tensor};

use super::super::host::{elements, integers, need, room, tensor_of, with_elements};
use super::super::number::Number;
use super::super::{BoxOp, Builder, OpError, on_host};
use super::{Rows, numbers};

pub(super) fn builder(op: &str) -> Option<Builder> {
    match op {
        "ArrayFeatureExtractor" => Some(array_feature_extractor),
        "Binarizer" => Some(binarizer),
        "Imputer" => Some(imputer),
        "LabelEncoder" => Some(label_encoder),
        "Normalizer" => Some(normalizer),
        "OneHotEncoder" => Some(one_hot_encoder),
        "Scaler" => Some(scaler),
        _ => None,
    }
}

/// The last dimension's elements at the indices of the second input, any number of times; a vector becomes a row.
fn array_feature_extractor(_: &Node, _: i64) -> Result<BoxOp, OpError> {
    on_host(|inputs| {
        let (x, indices) = (need(inputs, 0)?, integers(need(inputs, 1)?)?);
        let Some((&columns, before)) = x.shape().split_last() else {
            return Err(OpError::new("a scalar has no features"));
        };
        let inside = |&index: &i64| usize::try_from(index).ok().filter(|&index| index < columns);
        let picked: Option<Vec<usize>> = indices.iter().map(inside).collect();
        let picked = picked.ok_or_else(|| OpError::new(format!("one of its indices is outside {columns} features")))?;
        let before = if before.is_empty() { &[1] } else { before };
        let shape = [before, &[picked.len()]].concat();
        room(x.dtype(), &shape)?;
        let size = x.dtype().size_bytes();
        let rows = x.bytes().chunks_exact((columns * size).max(1));
        let bytes: Vec<u8> =
            rows.flat_map(|row| picked.iter().flat_map(|&at| &row[at * size..][..size])).copied().collect();
        Ok(vec![Tensor::new(x.dtype(), shape, bytes.into())?])
    })
}

/// 1 above the threshold, else 0, in the input's type.
fn binarizer(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let threshold = f64::from(node.float("threshold", 0.0));
    on_host(move |inputs| {
        let x = need(inputs, 0)?;
        Ok(vec![with_elements!(x.dtype(), T => {
            let above = |value: T| if value.to_f64() > threshold { T::ONE } else { T::ZERO };
            tensor_of(x.dtype(), x.shape(), &elements::<T>(x)?.into_iter().map(above).collect::<Vec<T>>())?
        })])
    })
}

/// `(x - offset) * scale`, of each feature or alike for all.
fn scaler(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let floats = |name: &str| node.floats(name).unwrap_or_default().to_vec();
    let (offset, scale) = (floats("offset"), floats("scale"));
    on_host(move |inputs| {
        let x = need(inputs, 0)?;
        let columns = x.shape().last().copied().unwrap_or(1);
        check_features(offset.len(), columns, "offset")?;
        check_features(scale.len(), columns, "scale")?;
        let scaled = |(index, x): (usize, f64)| (x as f32 - offset[index % offset.len()]) * scale[index % scale.len()];
        let values: Vec<f32> = numbers(x)?.into_iter().enumerate().map(scaled).collect();
        Ok(vec![Tensor::from_vec(x.shape(), values)?])
    })
}

/// A list has one element for all features, or one for each.
fn check_features(have: usize, columns: usize, name: &str) -> Result<(), OpError> {
    match have == 1 || have == columns {
        true => Ok(()),
        false => Err(OpError::new(format!("{name} has {have} elements, but there are {columns} features"))),
    }
}

/// Each row divided by its largest element, or by its length in the first or second norm; what would be divided by 0 stays.
fn normalizer(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let norm: fn(&[f64]) -> f64 = match node.string("norm").unwrap_or("MAX") {
        "MAX" => |row| row.iter().copied().fold(f64::MIN, f64::max),
        "L1" => |row| row.iter().map(|x| x.abs()).sum(),
        "L2" => |row| row.iter().map(|x| x * x).sum::<f64>().sqrt(),
        other => return Err(OpError::new(format!("norm {other:?} is none of MAX, L1, L2"))),
    };
    on_host(move |inputs| {
        let x = need(inputs, 0)?;
        let rows = Rows::of(x)?;
        let mut values: Vec<f32> = Vec::with_capacity(rows.values.len());
        for row in rows.each() {
            let length = norm(row);
            values.extend(row.iter().map(|x| if length == 0.0 { *x as f32 } else { (x / length) as f32 }));
        }
        Ok(vec![Tensor::from_vec(x.shape(), values)?])
    })
}

/// Puts numbers in the place of those that mean that one is missing.
fn imputer(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let floats = node.floats("imputed_value_floats").filter(|values| !values.is_empty());
    let (values, missing) = match (floats, node.ints("imputed_value_int64s")) {
        (Some(floats), _) => {
            let missing = f64::from(node.float("replaced_value_float", 0.0));
            (floats.iter().copied().map(f64::from).collect::<Vec<f64>>(), missing)
        }
        (None, Some(ints)) if !ints.is_empty() => {
            (ints.iter().map(|&value| value as f64).collect(), node.int("replaced_value_int64", 0) as f64)
        }
        _ => return Err(OpError::new("it has neither imputed_value_floats nor imputed_value_int64s")),
    };
    on_host(move |inputs| {
        let x = need(inputs, 0)?;
        let columns = x.shape().last().copied().unwrap_or(1);
        check_features(values.len(), columns, "its list of values")?;
        let is_missing = |x: f64| x == missing || x.is_nan() && missing.is_nan();
        Ok(vec![with_elements!(x.dtype(), T => {
            let mut all = elements::<T>(x)?;
            for (index, x) in all.iter_mut().enumerate().filter(|(_, x)| is_missing(x.to_f64())) {
                *x = T::from_f64(values[index % values.len()]);
            }
            tensor_of(x.dtype(), x.shape(), &all)?
        })])
    })
}

/// A new last dimension with 1 at the category of each element; nowhere if it is of none and `zeros` allows that.
fn one_hot_encoder(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let categories = node.ints("cats_int64s").filter(|categories| !categories.is_empty());
    let categories = categories.ok_or_else(|| OpError::new("its categories are texts, which are not supported"))?;
    let (width, allows_none) = (categories.len(), node.int("zeros", 1) != 0);
    let places: HashMap<i64, usize> = categories.iter().copied().zip(0..).collect();
    on_host(move |inputs| {
        let x = need(inputs, 0)?;
        let shape = [x.shape(), &[width]].concat();
        let mut ones = vec![0f32; room(DType::F32, &shape)?];
        for (row, value) in ones.chunks_exact_mut(width).zip(integers(x)?) {
            match places.get(&value) {
                Some(&place) => row[place] = 1.0,
                None if allows_none => {}
                None => return Err(OpError::new(format!("{value} is none of its categories, and zeros is 0"))),
            }
        }
        Ok(vec![Tensor::from_vec(&shape, ones)?])
    })
}

/// Numbers in the place of others; `default` in that of all that are not listed.
struct LabelEncoder {
    /// Where the value of a key lies in the table.
    places: HashMap<u64, usize>,
    /// The values as they are listed, and behind them the default.
    table: Tensor,
}

fn label_encoder(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let encoder = LabelEncoder::read(node)?;
    on_host(move |inputs| {
        let x = need(inputs, 0)?;
        room(encoder.table.dtype(), x.shape())?;
        let size = encoder.table.dtype().size_bytes();
        let default = encoder.table.len() - 1;
        let place = |key: u64| encoder.places.get(&key).copied().unwrap_or(default);
        let values = keys(x)?.into_iter().flat_map(|key| &encoder.table.bytes()[place(key) * size..][..size]);
        let bytes: Vec<u8> = values.copied().collect();
        Ok(vec![Tensor::new(encoder.table.dtype(), x.shape().to_vec(), bytes.into())?])
    })
}

impl LabelEncoder {
    fn read(node: &Node) -> Result<Self, OpError> {
        let listed_keys =
            listed(node, "keys")?.ok_or_else(|| OpError::new("its keys are texts, which are not supported"))?;
        let values = listed(node, "values")?;
        let values = values.ok_or_else(|| OpError::new("its values are texts, which are not supported"))?;
        if listed_keys.len() != values.len() {
            return Err(OpError::new(format!("it has {} keys for {} values", listed_keys.len(), values.len())));
        }
        let default = match (values.dtype(), node.tensor("default_tensor")) {
            (dtype, Some(default)) if default.dtype() == dtype && default.len() == 1 => default.clone(),
            (DType::F32, None) => Tensor::scalar(node.float("default_float", -0.0)),
            (DType::I64, None) => Tensor::scalar(node.int("default_int64", -1)),
            (dtype, _) => return Err(OpError::new(format!("it has no default_tensor of one {dtype}"))),
        };
        let table = [&values.bytes()[..], &default.bytes()[..]].concat();
        let mut places = HashMap::with_capacity(values.len());
        for (place, key) in keys(&listed_keys)?.into_iter().enumerate() {
            // The first of those that are listed twice.
            places.entry(key).or_insert(place);
        }
        Ok(LabelEncoder { places, table: Tensor::new(values.dtype(), vec![values.len() + 1], table.into())? })
    }
}

/// `keys_…` or `values_…` of numbers, in whichever form they are given.
fn listed(node: &Node, name: &str) -> Result<Option<Tensor>, OpError> {
    let (ints, floats) = (format!("{name}_int64s"), format!("{name}_floats"));
    Ok(match (node.tensor(&format!("{name}_tensor")), node.ints(&ints), node.floats(&floats)) {
        (Some(tensor), _, _) => Some(tensor.clone()),
        (None, Some(ints), _) => Some(Tensor::from_slice(&[ints.len()], ints)?),
        (None, None, Some(floats)) => Some(Tensor::from_slice(&[floats.len()], floats)?),
        (None, None, None) => None,
    })
}

/// Numbers as keys. Of floats both zeros are one, and so is whatever is not a number.
fn keys(x: &Tensor) -> Result<Vec<u64>, OpError> {
    let Some(floats) = x.to_doubles() else {
        return Ok(integers(x)?.into_iter().map(i64::cast_unsigned).collect());
    };
    let key = |x: f64| if x.is_nan() { f64::NAN.to_bits() } else { (x + 0.0).to_bits() };
    Ok(floats.into_iter().map(key).collect())
}
