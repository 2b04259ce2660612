//! What is known of a value, and of a node's inputs.

use hedge_tensor::{DType, Tensor};

use super::number::Number;
use super::{MAX_RANK, MAX_VALUES};
use crate::{Dim, Node};

/// What is known of one value.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Fact {
    pub(super) dtype: Option<DType>,
    pub(super) shape: Option<Vec<Dim>>,
    /// The elements of a small integer value of at most one dimension.
    pub(super) value: Option<Vec<Number>>,
    /// The elements of a small constant of floats, as scales are.
    pub(super) floats: Option<Vec<f32>>,
}

impl Fact {
    pub(super) fn new(dtype: Option<DType>, shape: Option<Vec<Dim>>) -> Self {
        Fact { dtype, shape, ..Fact::default() }
    }

    /// All is known of a constant.
    pub(super) fn of(tensor: &Tensor) -> Self {
        let shape = tensor.shape().iter().map(|&size| Dim::Known(size)).collect();
        let small = tensor.len() <= MAX_VALUES && tensor.shape().len() <= 1;
        let value = match tensor.dtype() {
            DType::I64 if small => tensor.to_vec::<i64>().ok(),
            DType::I32 if small => {
                tensor.to_vec::<i32>().ok().map(|values| values.into_iter().map(i64::from).collect())
            }
            _ => None,
        };
        let value = value.map(|values: Vec<i64>| values.into_iter().map(Number::Known).collect());
        let floats = if small { tensor.to_vec::<f32>().ok() } else { None };
        Fact { dtype: Some(tensor.dtype()), shape: Some(shape), value, floats }
    }

    /// Integers of one dimension.
    pub(super) fn ints(value: Vec<Number>) -> Self {
        Fact { dtype: Some(DType::I64), shape: Some(vec![Dim::Known(value.len())]), value: Some(value), floats: None }
    }

    /// What is known from here, and from `other` where nothing is known here.
    pub(super) fn or(self, other: &Fact) -> Self {
        Fact {
            dtype: self.dtype.or(other.dtype),
            shape: self.shape.or_else(|| other.shape.clone()),
            value: self.value.or_else(|| other.value.clone()),
            floats: self.floats.or_else(|| other.floats.clone()),
        }
    }

    /// What holds for both.
    pub(super) fn and(self, other: &Fact) -> Self {
        let same_rank = |a: &Vec<Dim>, b: &Vec<Dim>| a.len() == b.len();
        let shape = match (self.shape, &other.shape) {
            (Some(a), Some(b)) if same_rank(&a, b) => {
                Some(a.into_iter().zip(b).map(|(a, b)| if a == *b { a } else { Dim::Unknown }).collect())
            }
            _ => None,
        };
        Fact { dtype: self.dtype.filter(|dtype| other.dtype == Some(*dtype)), shape, ..Fact::default() }
    }

    pub(super) fn bounded(mut self) -> Self {
        self.shape = self.shape.filter(|shape| shape.len() <= MAX_RANK);
        self.value = self.value.filter(|value| value.len() <= MAX_VALUES);
        self
    }
}

/// A rule of an operator: what is known of its outputs, `None` where nothing is.
pub(super) type Rule = fn(&Call<'_>) -> Option<Vec<Fact>>;

/// A node with what is known of its inputs.
pub(super) struct Call<'a> {
    pub(super) node: &'a Node,
    pub(super) opset: i64,
    pub(super) inputs: &'a [Fact],
}

impl<'a> Call<'a> {
    pub(super) fn dtype(&self, index: usize) -> Option<DType> {
        self.inputs.get(index)?.dtype
    }

    pub(super) fn shape(&self, index: usize) -> Option<&'a [Dim]> {
        self.inputs.get(index)?.shape.as_deref()
    }

    pub(super) fn rank(&self, index: usize) -> Option<usize> {
        self.shape(index).map(<[Dim]>::len)
    }

    pub(super) fn value(&self, index: usize) -> Option<&'a [Number]> {
        self.inputs.get(index)?.value.as_deref()
    }

    pub(super) fn has(&self, index: usize) -> bool {
        self.node.inputs.get(index).is_some_and(|name| !name.is_empty())
    }

    /// The elements of an input, all of them known.
    pub(super) fn ints(&self, index: usize) -> Option<Vec<i64>> {
        self.value(index)?.iter().map(Number::known).collect()
    }

    /// Integers that are an attribute in older operator sets and an input in newer ones.
    pub(super) fn ints_at(&self, attribute: &str, index: usize) -> Option<Vec<i64>> {
        self.node.ints(attribute).map(<[i64]>::to_vec).or_else(|| self.ints(index))
    }

    /// An axis counted from the front.
    pub(super) fn axis(&self, default: i64, rank: usize) -> Option<usize> {
        axis_of(self.node.int("axis", default), rank)
    }

    /// One output of the type of input 0.
    pub(super) fn like(&self, shape: Vec<Dim>) -> Option<Vec<Fact>> {
        Some(vec![Fact::new(self.dtype(0), Some(shape))])
    }

    /// As [`Call::like`], where the shape may be unknown.
    pub(super) fn maybe(&self, dtype: Option<DType>, shape: Option<Vec<Dim>>) -> Option<Vec<Fact>> {
        Some(vec![Fact::new(dtype, shape)])
    }

    /// The type that an attribute names.
    pub(super) fn type_attribute(&self, name: &str) -> Option<DType> {
        i32::try_from(self.node.int(name, 0)).ok().and_then(DType::from_onnx_code)
    }
}

/// `axis` counted from the front, for a tensor of `rank` dimensions.
pub(super) fn axis_of(axis: i64, rank: usize) -> Option<usize> {
    let counted = if axis < 0 { axis.checked_add(rank as i64)? } else { axis };
    usize::try_from(counted).ok().filter(|&axis| axis < rank)
}

/// The product of dimensions: a number, or the one name among ones.
pub(super) fn product(dims: &[Dim]) -> Dim {
    dims.iter().fold(Dim::Known(1), |all, dim| match (all, dim) {
        (Dim::Known(0), _) | (_, Dim::Known(0)) => Dim::Known(0),
        (Dim::Known(a), Dim::Known(b)) => a.checked_mul(*b).map_or(Dim::Unknown, Dim::Known),
        (Dim::Known(1), other) => other.clone(),
        (other, Dim::Known(1)) => other,
        _ => Dim::Unknown,
    })
}

/// numpy's rule. An unknown dimension beside 1 stays unknown, beside a larger number it is that number.
pub(super) fn broadcast(a: &[Dim], b: &[Dim]) -> Option<Vec<Dim>> {
    let rank = a.len().max(b.len());
    let one = Dim::Known(1);
    let at =
        |shape: &[Dim], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(one.clone(), |at| shape[at].clone());
    (0..rank)
        .map(|axis| match (at(a, axis), at(b, axis)) {
            (x, y) if x == y => Some(x),
            (Dim::Known(1), other) | (other, Dim::Known(1)) => Some(other),
            (Dim::Known(_), Dim::Known(_)) => None,
            (Dim::Known(size), _) | (_, Dim::Known(size)) => Some(Dim::Known(size)),
            _ => Some(Dim::Unknown),
        })
        .collect()
}
