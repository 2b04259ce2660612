//! The operands of a group: values on integers with their scales and zero points.

use hedge_tensor::{DType, Tensor};

use super::super::scan::{Scan, input, is};
use super::{EXACT, Operand, REACH};
use crate::Node;

/// A bias counts as one of the product's scale within this part of it.
const BIAS_SCALE: f32 = 1e-4;

/// An integer value with a constant scale and zero point.
pub(super) struct Level {
    value: String,
    scale_name: String,
    zero_name: String,
    dtype: DType,
    axis: i64,
    scales: Vec<f32>,
    zeros: Vec<f32>,
}

impl Level {
    /// Of the dequantization that makes input `index` of `node`.
    pub(super) fn of_input(scan: &Scan<'_>, node: &Node, index: usize) -> Option<Self> {
        let (_, maker) = scan.maker(input(node, index)).filter(|(_, maker)| is(maker, "DequantizeLinear"))?;
        let dtype = scan.dtype(input(maker, 2)).or_else(|| scan.dtype(input(maker, 0)))?;
        Level::read(scan, maker, input(maker, 0), dtype)
    }

    /// Of the value that a quantization makes, which has one scale.
    pub(super) fn of_output(scan: &Scan<'_>, node: &Node) -> Option<Self> {
        let level = Level::read(scan, node, node.outputs.first()?, scan.constant(input(node, 2))?.dtype())?;
        (level.is_single() && level.is_byte()).then_some(level)
    }

    fn read(scan: &Scan<'_>, node: &Node, value: &str, dtype: DType) -> Option<Self> {
        let plain = |name: &str| node.int(name, 0) == 0;
        let scale =
            scan.constant(input(node, 1)).filter(|scale| scale.dtype() == DType::F32 && scale.shape().len() <= 1)?;
        if scale.is_empty() || !plain("block_size") || !plain("output_dtype") || !plain("precision") {
            return None;
        }
        let zeros = match input(node, 2) {
            "" => vec![0.0; scale.len()],
            name => numbers(scan.constant(name).filter(|zero| zero.len() == scale.len() && zero.dtype() == dtype)?)?,
        };
        Some(Level {
            value: value.to_owned(),
            scale_name: input(node, 1).to_owned(),
            zero_name: input(node, 2).to_owned(),
            dtype,
            axis: node.int("axis", 1),
            scales: scale.to_vec().ok()?,
            zeros,
        })
    }

    fn is_single(&self) -> bool {
        self.scales.len() == 1
    }

    fn is_byte(&self) -> bool {
        matches!(self.dtype, DType::U8 | DType::I8)
    }

    /// Whether a ReLU or a clip before the quantization changes nothing, because the type saturates there.
    pub(super) fn covers(&self, scan: &Scan<'_>, node: &Node) -> bool {
        let (low, high) = if self.dtype == DType::I8 { (-128.0, 127.0) } else { (0.0, 255.0) };
        let bound = |level: f32| self.scales[0] * (level - self.zeros[0]);
        if is(node, "Relu") {
            return self.zeros[0] == low;
        }
        let constant = |index: usize, name: &str, default: f32| match input(node, index) {
            "" => Some(node.float(name, default)),
            name => scan.scalar(name).map(|(value, _)| value as f32),
        };
        let (Some(least), Some(most)) = (constant(1, "min", f32::MIN), constant(2, "max", f32::MAX)) else {
            return false;
        };
        is(node, "Clip") && least - bound(low) <= f32::EPSILON && bound(high) - most <= f32::EPSILON
    }

    fn zero(&self) -> Operand {
        match self.zero_name.as_str() {
            "" => Operand::Zero(self.dtype),
            name => Operand::Value(name.to_owned()),
        }
    }

    fn parts(&self) -> [Operand; 3] {
        [Operand::Value(self.value.clone()), Operand::Value(self.scale_name.clone()), self.zero()]
    }

    /// Whether the constant has one level for all or one for each place along `axis`.
    fn is_along(&self, tensor: &Tensor, axis: usize) -> bool {
        let own = if self.axis < 0 { self.axis + tensor.shape().len() as i64 } else { self.axis };
        self.is_single() || own == axis as i64 && tensor.shape().get(axis) == Some(&self.scales.len())
    }
}

/// The levels of a node's operands and, where it is quantized, of its output.
pub(super) struct Levels<'a> {
    pub(super) levels: Vec<Level>,
    pub(super) out: Option<&'a Level>,
}

impl Levels<'_> {
    /// Whether these are `count` operands of one 8-bit type, which is the output's, with one scale each.
    pub(super) fn are_alike(&self, count: usize) -> bool {
        let dtype = self.out.map(|out| out.dtype);
        let alike = |level: &Level| level.is_single() && level.is_byte() && Some(level.dtype) == dtype;
        self.levels.len() == count && self.levels.iter().all(alike)
    }

    pub(super) fn convolve(&self, scan: &Scan<'_>, node: &Node) -> bool {
        let [x, w, bias @ ..] = self.levels.as_slice() else { return false };
        let Some(weights) = scan.constant(&w.value).filter(|weights| matches!(weights.shape().len(), 3 | 4)) else {
            return false;
        };
        let size: usize = weights.shape()[1..].iter().product();
        let given = node.inputs.iter().filter(|name| !name.is_empty()).count() == self.levels.len();
        given
            && self.are_unsigned(x, w)
            && self.is_exact(scan, (weights, w), 0, bias, |channel| (channel * size, size, 1))
    }

    pub(super) fn multiply(&self, scan: &Scan<'_>) -> bool {
        let [a, b] = self.levels.as_slice() else { return false };
        let Some(weights) = scan.constant(&b.value) else { return b.is_single() && self.are_unsigned(a, b) };
        let &[depth, columns] = weights.shape() else { return false };
        self.are_unsigned(a, b) && self.is_exact(scan, (weights, b), 1, &[], |column| (column, depth, columns))
    }

    /// For `Gemm`, of which signed operands are taken, too.
    pub(super) fn add_product(&self, scan: &Scan<'_>, node: &Node) -> bool {
        let [a, b, bias @ ..] = self.levels.as_slice() else { return false };
        let Some(weights) = scan.constant(&b.value) else { return false };
        let &[first, second] = weights.shape() else { return false };
        let turned = node.int("transB", 0) != 0;
        let types = a.is_byte() && b.is_byte() && (a.dtype == DType::U8 || b.dtype == DType::I8);
        let factors = bias.is_empty() || node.float("alpha", 1.0) == 1.0 && node.float("beta", 1.0) == 1.0;
        let column = |column: usize| if turned { (column * second, second, 1) } else { (column, first, second) };
        types
            && factors
            && a.is_single()
            && self.out.is_none_or(|out| out.dtype == a.dtype)
            && self.is_exact(scan, (weights, b), usize::from(!turned), bias, column)
    }

    /// Whether both are bytes and the left one, which is of the output's type, is unsigned.
    fn are_unsigned(&self, left: &Level, right: &Level) -> bool {
        let out = self.out.is_none_or(|out| out.dtype == left.dtype);
        left.is_single() && left.dtype == DType::U8 && right.is_byte() && out
    }

    /// Whether all sums of products with the weights, whose places along `axis` are the outputs, fit, and the bias is one of
    /// 32-bit integers on the product's scale. `row` gives first element, count and step of an output's weights.
    fn is_exact(
        &self,
        scan: &Scan<'_>,
        (weights, level): (&Tensor, &Level),
        axis: usize,
        bias: &[Level],
        row: impl Fn(usize) -> (usize, usize, usize),
    ) -> bool {
        let (Some(values), Some(&outputs)) = (numbers(weights), weights.shape().get(axis)) else { return false };
        if !level.is_along(weights, axis) || weights.is_empty() {
            return false;
        }
        let on_scale = match bias {
            [] => true,
            [bias] => self.is_addend(scan, bias, level, outputs),
            _ => false,
        };
        let fits = |output: usize| {
            let zero = level.zeros[output % level.zeros.len()];
            let (first, count, step) = row(output);
            let weights = values[first..].iter().step_by(step).take(count);
            weights.map(|weight| f64::from((weight - zero).abs())).sum::<f64>() * REACH <= EXACT
        };
        on_scale && (0..outputs).all(fits)
    }

    /// Whether this is a bias for so many outputs, on the scale of the product with these weights.
    fn is_addend(&self, scan: &Scan<'_>, bias: &Level, weights: &Level, outputs: usize) -> bool {
        let Some(left) = self.levels.first().map(|level| level.scales[0]) else { return false };
        let at = |scales: &[f32], output: usize| scales[output % scales.len()];
        let on_scale = |output: usize| {
            let (own, product) = (at(&bias.scales, output), left * at(&weights.scales, output));
            (own - product).abs() <= BIAS_SCALE * product.abs()
        };
        let fits = |constant: &Tensor| constant.shape() == [outputs] && constant.dtype() == DType::I32;
        scan.constant(&bias.value).is_some_and(fits)
            && bias.zeros.iter().all(|&zero| zero == 0.0)
            && (0..outputs).all(on_scale)
    }

    /// Operands, output level, and the bias behind it.
    pub(super) fn in_order(&self) -> Vec<Operand> {
        let (operands, bias) = self.levels.split_at(self.levels.len().min(2));
        let scale = self.out.map(|out| Operand::Value(out.scale_name.clone()));
        let bias = bias.iter().map(|bias| Operand::Value(bias.value.clone()));
        operands.iter().flat_map(Level::parts).chain(scale).chain(self.out.map(Level::zero)).chain(bias).collect()
    }

    /// Both values, both scales, both zero points.
    pub(super) fn by_kind(&self) -> Vec<Operand> {
        let values = self.levels.iter().map(|level| Operand::Value(level.value.clone()));
        let scales = self.levels.iter().map(|level| Operand::Value(level.scale_name.clone()));
        values.chain(scales).chain(self.levels.iter().map(Level::zero)).collect()
    }

    /// Operands, bias, output level.
    pub(super) fn of_gemm(&self) -> Vec<Operand> {
        let (operands, bias) = self.levels.split_at(2);
        let bias = bias.first().map_or_else(Operand::none, |bias| Operand::Value(bias.value.clone()));
        let scale = self.out.map(|out| Operand::Value(out.scale_name.clone()));
        operands.iter().flat_map(Level::parts).chain([bias]).chain(scale).chain(self.out.map(Level::zero)).collect()
    }

    /// Output level, operands.
    pub(super) fn of_concat(&self) -> Vec<Operand> {
        let scale = self.out.map(|out| Operand::Value(out.scale_name.clone()));
        scale.into_iter().chain(self.out.map(Level::zero)).chain(self.levels.iter().flat_map(Level::parts)).collect()
    }

    /// The integers in the place of the floats, for an operator that only moves elements, between equal levels.
    pub(super) fn moved(&self, node: &Node) -> Option<Vec<Operand>> {
        let (level, out) = (self.levels.first()?, self.out?);
        let same = level.dtype == out.dtype && level.scales == out.scales && level.zeros == out.zeros;
        let rest = node.inputs.iter().skip(1).map(|name| Operand::Value(name.clone()));
        same.then(|| std::iter::once(Operand::Value(level.value.clone())).chain(rest).collect())
    }
}

/// The elements of an integer constant of at most 32 bits.
fn numbers(tensor: &Tensor) -> Option<Vec<f32>> {
    match tensor.dtype() {
        DType::U8 => Some(tensor.bytes().iter().map(|&byte| f32::from(byte)).collect()),
        DType::I8 => Some(tensor.bytes().iter().map(|&byte| f32::from(byte.cast_signed())).collect()),
        DType::I32 => Some(tensor.to_vec::<i32>().ok()?.into_iter().map(|value| value as f32).collect()),
        _ => None,
    }
}
