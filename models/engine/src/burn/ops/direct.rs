//! Convolutions of single floats on the CPU: weights are packed once, and the input is read where it lies or from one padded
//! copy. Burn's CPU backend lays out weights and input anew at each call and writes every window out.
//!
//! Each output is the bias plus the products, by channel, row and column of the kernel, one fused step each.
//!
//! There is no gradient here: under autodiff, on a GPU, for other widths and in three dimensions burn's own are used.

mod kernel;
mod planes;

use rayon::prelude::*;

pub(super) use kernel::Bounds;
use kernel::{Block, WIDTHS};
use planes::Layout;

use super::simd;
use super::window::Axis;

/// Below so many products threads cost more than they give.
const PARALLEL: usize = 1 << 20;

/// Weights and biases in the order that the kernel reads them.
#[derive(Debug)]
pub(super) struct Packed {
    groups: usize,
    /// Input and output channels of a group.
    channels: usize,
    outputs: usize,
    /// Rows and columns of the kernel.
    kernel: [usize; 2],
    weights: Vec<f32>,
    bias: Vec<f32>,
    bounds: Bounds,
}

/// A convolution over inputs of one size.
#[derive(Debug)]
pub(super) struct Plan {
    layout: Layout,
    rows: Axis,
    columns: Axis,
}

impl Packed {
    /// Packs `weights` of the shape `[outputs, channels of a group, rows, columns]`, where `groups` divides the outputs.
    pub(super) fn new(weights: &[f32], shape: [usize; 4], groups: usize, bias: Option<&[f32]>) -> Self {
        let [all, channels, rows, columns] = shape;
        let taps = channels * rows * columns;
        let bias = bias.map_or_else(|| vec![0.0; all], <[f32]>::to_vec);
        let outputs = all / groups;
        let mut packed = vec![0.0; weights.len()];
        let (mut from, mut to) = (weights, packed.as_mut_slice());
        for width in (0..groups).flat_map(|_| widths(outputs)) {
            let (block, rest) = from.split_at(width * taps);
            let (place, behind) = std::mem::take(&mut to).split_at_mut(width * taps);
            for (channel, weights) in block.chunks_exact(taps).enumerate() {
                place[channel..].iter_mut().step_by(width).zip(weights).for_each(|(to, from)| *to = *from);
            }
            (from, to) = (rest, behind);
        }
        let bounds = Bounds::default();
        Packed { groups, channels, outputs, kernel: [rows, columns], weights: packed, bias, bounds }
    }

    /// With bounds on what it gives.
    pub(super) fn within(self, bounds: Bounds) -> Self {
        Packed { bounds, ..self }
    }

    /// How to run over inputs of these sizes; `None` where padding makes that a waste of memory.
    pub(super) fn plan(&self, rows: Axis, columns: Axis) -> Option<Plan> {
        debug_assert_eq!([rows.kernel, columns.kernel], self.kernel);
        Some(Plan { layout: Layout::new(rows, columns, self.channels)?, rows, columns })
    }

    /// Whether so many outputs are spread over threads.
    pub(super) fn is_large(plan: &Plan, outputs: usize) -> bool {
        outputs.saturating_mul(plan.layout.taps.len()) >= PARALLEL && rayon::current_num_threads() > 1
    }

    /// The convolution of `x`, which is a batch of `groups * channels` planes of the plan's size, into `out`, which is as many
    /// of its outputs' size.
    pub(super) fn run(&self, x: &[f32], plan: &Plan, out: &mut [f32]) {
        let plane = plan.rows.outputs * plan.columns.outputs;
        let inputs = self.channels * plan.rows.input * plan.columns.input;
        let units = x.len() / inputs;
        let parallel = Self::is_large(plan, out.len());
        let unit = |index: usize, out: &mut [f32], parallel: bool| {
            plan.layout.with_planes(&x[index * inputs..][..inputs], |planes| {
                self.group(planes, index % self.groups, out, plan, parallel);
            });
        };
        if parallel && units >= rayon::current_num_threads() {
            out.par_chunks_exact_mut(self.outputs * plane).enumerate().for_each(|(index, out)| unit(index, out, false));
        } else {
            let each = out.chunks_exact_mut(self.outputs * plane).enumerate();
            each.for_each(|(index, out)| unit(index, out, parallel));
        }
    }

    /// The output channels of one group, over one row of the batch.
    fn group(&self, planes: &[f32], group: usize, out: &mut [f32], plan: &Plan, parallel: bool) {
        let taps = plan.layout.taps.len();
        let plane = plan.rows.outputs * plan.columns.outputs;
        let first = group * self.outputs;
        let (mut weights, mut bias) = (&self.weights[first * taps..], &self.bias[first..]);
        let mut out = out;
        let mut blocks = Vec::with_capacity(self.outputs / WIDTHS[0] + WIDTHS.len());
        for width in widths(self.outputs) {
            let (own, rest) = std::mem::take(&mut out).split_at_mut(width * plane);
            blocks.push(Block {
                taps: &plan.layout.taps,
                planes,
                weights: &weights[..width * taps],
                bias: &bias[..width],
                bounds: self.bounds,
                out: own,
                rows: plan.rows.outputs,
                columns: plan.columns.outputs,
                pitch: plan.layout.pitch,
            });
            (weights, bias, out) = (&weights[width * taps..], &bias[width..], rest);
        }
        if parallel {
            blocks.into_par_iter().for_each(simd::run);
        } else {
            blocks.into_iter().for_each(simd::run);
        }
    }
}

/// The widths of the blocks that make up so many channels.
fn widths(channels: usize) -> impl Iterator<Item = usize> {
    let mut left = channels;
    std::iter::from_fn(move || {
        let width = WIDTHS.into_iter().find(|&width| width <= left)?;
        left -= width;
        Some(width)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole numbers, whose sums are exact in any order.
    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|index| ((index * 7 + seed * 5 + index / 3) % 11) as f32 - 5.0).collect()
    }

    /// The sum as it is defined, with the factors that lie on the padding left out.
    fn defined(x: &[f32], weights: &[f32], bias: &[f32], packed: &Packed, [rows, columns]: [Axis; 2]) -> Vec<f32> {
        let position = |axis: Axis, place: usize, step: usize| {
            (place * axis.stride + step * axis.dilation).checked_sub(axis.pad).filter(|&at| at < axis.input)
        };
        let (plane, taps) = (rows.input * columns.input, packed.channels * rows.kernel * columns.kernel);
        let mut out = Vec::new();
        for batch in x.chunks_exact(packed.groups * packed.channels * plane) {
            for output in 0..packed.groups * packed.outputs {
                let own = &batch[output / packed.outputs * packed.channels * plane..];
                for (row, column) in (0..rows.outputs).flat_map(|y| (0..columns.outputs).map(move |x| (y, x))) {
                    let mut sum = bias[output];
                    for tap in 0..taps {
                        let (channel, y, x) = (
                            tap / (rows.kernel * columns.kernel),
                            tap / columns.kernel % rows.kernel,
                            tap % columns.kernel,
                        );
                        if let (Some(y), Some(x)) = (position(rows, row, y), position(columns, column, x)) {
                            sum += own[channel * plane + y * columns.input + x] * weights[output * taps + tap];
                        }
                    }
                    out.push(sum);
                }
            }
        }
        out
    }

    fn axis(input: usize, kernel: usize, stride: usize, dilation: usize, pads: [usize; 2]) -> Axis {
        let outputs = (input + pads[0] + pads[1] - (kernel - 1) * dilation - 1) / stride + 1;
        Axis { input, kernel, stride, dilation, pad: pads[0], outputs }
    }

    fn agrees(batch: usize, groups: usize, channels: usize, outputs: usize, rows: Axis, columns: Axis) {
        let shape = [groups * outputs, channels, rows.kernel, columns.kernel];
        let weights = numbers(shape.iter().product(), 1);
        let bias = numbers(groups * outputs, 2);
        let x = numbers(batch * groups * channels * rows.input * columns.input, 3);
        let packed = Packed::new(&weights, shape, groups, Some(&bias));
        let mut y = vec![f32::NAN; batch * groups * outputs * rows.outputs * columns.outputs];
        packed.run(&x, &packed.plan(rows, columns).unwrap(), &mut y);
        let expected = defined(&x, &weights, &bias, &packed, [rows, columns]);
        assert_eq!(y, expected, "{batch} x {groups} x {channels} to {outputs}, {rows:?}, {columns:?}");
    }

    #[test]
    fn every_window_gives_the_sum_that_it_is_defined_by() {
        for (kernel, stride, dilation, pads) in [
            (1, 1, 1, [0, 0]),
            (3, 1, 1, [1, 1]),
            (3, 1, 1, [0, 0]),
            (3, 2, 1, [1, 1]),
            (2, 3, 1, [0, 2]),
            (3, 2, 3, [2, 4]),
            (5, 4, 2, [3, 0]),
            (1, 2, 1, [0, 0]),
            (2, 1, 6, [5, 5]),
        ] {
            for (input, other) in [(7, 9), (16, 12), (9, 30)] {
                let rows = axis(input, kernel, stride, dilation, pads);
                agrees(1, 1, 3, 8, rows, axis(other, kernel, stride, dilation, pads));
                agrees(2, 1, 2, 11, rows, axis(other, 2, 1, 1, [1, 0]));
                agrees(2, 3, 2, 5, axis(1, 1, 1, 1, [0, 0]), rows);
            }
        }
    }

    #[test]
    fn planes_of_any_size_have_no_place_too_many_or_too_few() {
        for columns in 1..60 {
            agrees(1, 1, 2, 9, axis(1, 1, 1, 1, [0, 0]), axis(columns, 1, 1, 1, [0, 0]));
            agrees(1, 4, 1, 1, axis(3, 3, 1, 1, [1, 1]), axis(columns, 3, 1, 1, [1, 1]));
        }
    }

    #[test]
    fn padding_may_be_wider_than_the_input() {
        agrees(1, 1, 1, 2, axis(1, 3, 1, 1, [4, 4]), axis(2, 2, 3, 2, [7, 7]));
    }

    #[test]
    fn results_lie_within_bounds_and_what_is_no_number_stays() {
        let line = axis(60, 1, 1, 1, [0, 0]);
        let one = axis(1, 1, 1, 1, [0, 0]);
        let mut x: Vec<f32> = (0..60).map(|index| index as f32 - 30.0).collect();
        (x[3], x[4], x[5]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
        for bounds in [[Some(0.0), None], [Some(0.0), Some(6.0)], [None, Some(-2.0)], [Some(5.0), Some(1.0)], [None; 2]]
        {
            let packed = Packed::new(&[1.0], [1, 1, 1, 1], 1, None).within(Bounds::new(bounds));
            let mut y = vec![7.5; 60];
            packed.run(&x, &packed.plan(one, line).unwrap(), &mut y);
            for (x, y) in x.iter().zip(y) {
                let above = bounds[0].map_or(*x, |least| if *x < least { least } else { *x });
                let expected = bounds[1].map_or(above, |most| if above > most { most } else { above });
                assert_eq!(y.to_bits(), (expected + 0.0).to_bits(), "{x} within {bounds:?}");
            }
        }
    }

    #[test]
    fn a_large_convolution_gives_the_same_on_many_threads() {
        agrees(1, 1, 8, 20, axis(40, 3, 1, 1, [1, 1]), axis(40, 3, 1, 1, [1, 1]));
        agrees(9, 1, 8, 8, axis(20, 3, 1, 1, [1, 1]), axis(20, 3, 1, 1, [1, 1]));
    }
}
