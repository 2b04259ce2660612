//! Products of labelled float tensors, summed over the labels that nobody needs any more, as matrix products on the
//! device, which gradients pass.

use std::collections::BTreeMap;

use burn_backend::ops::FloatTensorOps;
use hedge_tensor::element_count;

use super::einsum::Label;
use super::index::picked;
use super::layout::permuted;
use super::{OpError, reshaped};
use crate::burn::{B, Context, Value};

/// A tensor and the labels of its dimensions.
pub(super) struct Operand {
    pub(super) value: Value,
    pub(super) labels: Vec<Label>,
}

/// The product of all operands, summed over the labels that are not in `output`, whose order it has. `sizes` are those of
/// the labels after broadcasting. No dimension is empty.
pub(super) fn contract(
    operands: Vec<Operand>,
    output: &[Label],
    sizes: &BTreeMap<Label, usize>,
    context: &Context,
) -> Result<Value, OpError> {
    let prepared = operands.into_iter().map(|operand| operand.on_diagonal(context)?.without_broadcast(sizes, context));
    let mut operands = prepared.collect::<Result<Vec<_>, _>>()?;
    while operands.len() > 1 {
        let (left, right) = cheapest_pair(&operands, output, sizes);
        // `left < right`, so that the second removal does not shift the first.
        let b = operands.remove(right);
        let a = operands.remove(left);
        let needed = needed(&operands, output);
        operands.push(product(a, b, &needed, context)?);
    }
    let last = operands.pop().ok_or_else(|| OpError::new("it has no inputs"))?;
    let last = last.summed(|label| !output.contains(&label), context)?;
    last.ordered(output, context)
}

fn needed(others: &[Operand], output: &[Label]) -> Vec<Label> {
    others.iter().flat_map(|operand| &operand.labels).chain(output).copied().collect()
}

/// The two operands whose product is the smallest.
fn cheapest_pair(operands: &[Operand], output: &[Label], sizes: &BTreeMap<Label, usize>) -> (usize, usize) {
    let pairs = (0..operands.len()).flat_map(|left| (left + 1..operands.len()).map(move |right| (left, right)));
    let cost = |&(left, right): &(usize, usize)| {
        let others = operands.iter().enumerate().filter(|(index, _)| *index != left && *index != right);
        let kept =
            |label: &Label| output.contains(label) || others.clone().any(|(_, other)| other.labels.contains(label));
        let own = operands[left].labels.iter();
        let new = operands[right].labels.iter().filter(|label| !operands[left].labels.contains(label));
        let shape: Vec<usize> = own.chain(new).filter(|label| kept(label)).map(|label| sizes[label]).collect();
        element_count(&shape).unwrap_or(usize::MAX)
    };
    pairs.min_by_key(cost).unwrap_or((0, 1))
}

impl Operand {
    fn has(&self, label: Label) -> bool {
        self.labels.contains(&label)
    }

    fn size(&self, label: Label) -> usize {
        let axis = self.labels.iter().position(|own| *own == label);
        axis.map_or(1, |axis| self.value.shape()[axis])
    }

    fn sizes(&self, labels: &[Label]) -> Vec<usize> {
        labels.iter().map(|&label| self.size(label)).collect()
    }

    /// Each label once: of dimensions with the same one, only the elements whose indices are equal stay.
    fn on_diagonal(mut self, context: &Context) -> Result<Self, OpError> {
        while let Some(label) = repeated(&self.labels) {
            let shape = self.value.shape();
            let (own, mut order): (Vec<usize>, Vec<usize>) =
                (0..shape.len()).partition(|&axis| self.labels[axis] == label);
            let size = shape[own[0]];
            if own.iter().any(|&axis| shape[axis] != size) {
                return Err(OpError::new(format!("{label:?} is given to dimensions of {shape:?} that are not equal")));
            }
            let kept: Vec<Label> = order.iter().map(|&axis| self.labels[axis]).collect();
            let mut out: Vec<usize> = order.iter().map(|&axis| shape[axis]).collect();
            let rows: usize = out.iter().product();
            let step: usize = (0..own.len()).map(|power| size.pow(power as u32)).sum();
            order.extend(&own);
            let table = reshaped(permuted(self.value, &order, context)?, &[rows, size.pow(own.len() as u32)], context)?;
            let diagonal = picked(table, 1, (0..size).map(|index| index * step).collect(), context)?;
            out.push(size);
            self.value = reshaped(diagonal, &out, context)?;
            self.labels = kept;
            self.labels.push(label);
        }
        Ok(self)
    }

    /// Without the dimensions of 1 that another operand has in full: a constant along them multiplies as well without.
    fn without_broadcast(mut self, sizes: &BTreeMap<Label, usize>, context: &Context) -> Result<Self, OpError> {
        let shape = self.value.shape();
        let own = self.labels.iter().zip(&shape).filter(|(label, size)| **size == sizes[*label]);
        let (labels, kept): (Vec<Label>, Vec<usize>) = own.map(|(label, size)| (*label, *size)).unzip();
        self.value = reshaped(self.value, &kept, context)?;
        self.labels = labels;
        Ok(self)
    }

    /// Summed over the labels that `gone` names.
    fn summed(self, gone: impl Fn(Label) -> bool, context: &Context) -> Result<Self, OpError> {
        let (gone, kept): (Vec<Label>, Vec<Label>) = self.labels.iter().copied().partition(|label| gone(*label));
        if gone.is_empty() {
            return Ok(self);
        }
        let shape = self.sizes(&kept);
        let matrix = self.grouped(&[&kept, &gone], context)?.into_float(context)?;
        let value = reshaped(Value::float(B::float_sum_dim(matrix, 1)), &shape, context)?;
        Ok(Operand { value, labels: kept })
    }

    /// The value with its dimensions in the order of `labels`, which are its own.
    fn ordered(self, labels: &[Label], context: &Context) -> Result<Value, OpError> {
        let axis = |label: &Label| self.labels.iter().position(|own| own == label);
        let axes = labels.iter().map(axis).collect::<Option<Vec<_>>>();
        let axes = axes.ok_or_else(|| OpError::new("its output has a dimension that no input has"))?;
        permuted(self.value, &axes, context)
    }

    /// The value with one dimension for each group of labels, which are its own.
    fn grouped(self, groups: &[&[Label]], context: &Context) -> Result<Value, OpError> {
        let shape: Vec<usize> = groups.iter().map(|group| self.sizes(group).into_iter().product()).collect();
        reshaped(self.ordered(&groups.concat(), context)?, &shape, context)
    }
}

/// A label that occurs more than once.
fn repeated(labels: &[Label]) -> Option<Label> {
    (1..labels.len()).find(|&index| labels[..index].contains(&labels[index])).map(|index| labels[index])
}

/// The product of two operands, summed over the labels that are not `needed`.
fn product(a: Operand, b: Operand, needed: &[Label], context: &Context) -> Result<Operand, OpError> {
    let own_sums =
        |one: Operand, other: &Operand| one.summed(|label| !other.has(label) && !needed.contains(&label), context);
    let a = own_sums(a, &b)?;
    let b = own_sums(b, &a)?;
    let (shared, left): (Vec<Label>, Vec<Label>) = a.labels.iter().copied().partition(|&label| b.has(label));
    let (batch, gone): (Vec<Label>, Vec<Label>) = shared.into_iter().partition(|label| needed.contains(label));
    let right: Vec<Label> = b.labels.iter().copied().filter(|&label| !a.has(label)).collect();
    let labels = [batch.as_slice(), &left, &right].concat();
    let shape = [a.sizes(&batch), a.sizes(&left), b.sizes(&right)].concat();
    let value = if gone.is_empty() {
        let a = a.grouped(&[&batch, &left, &[]], context)?.into_float(context)?;
        let b = b.grouped(&[&batch, &[], &right], context)?.into_float(context)?;
        B::float_mul(a, b)
    } else if left.is_empty() && right.is_empty() {
        // A matrix product of rows and columns would be one of 1x1 each.
        let a = a.grouped(&[&batch, &gone], context)?.into_float(context)?;
        let b = b.grouped(&[&batch, &gone], context)?.into_float(context)?;
        B::float_sum_dim(B::float_mul(a, b), 1)
    } else {
        let a = a.grouped(&[&batch, &left, &gone], context)?.into_float(context)?;
        let b = b.grouped(&[&batch, &gone, &right], context)?.into_float(context)?;
        B::float_matmul(a, b)
    };
    Ok(Operand { value: reshaped(Value::float(value), &shape, context)?, labels })
}
