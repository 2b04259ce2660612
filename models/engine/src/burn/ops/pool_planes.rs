//! The largest elements of windows over planes of single floats on the CPU, row by row in vectors: burn's CPU backend goes
//! through each window by itself, and notes where its largest element is.
//!
//! A window with something that is no number gives that, one over nothing but padding gives minus infinity, as burn has it.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::simd;
use super::window::Axis;

/// Below so many elements threads cost more than they give.
const PARALLEL: usize = 1 << 17;

/// A padded row has at most so many times the elements of an input's and an output's row, or of this.
const PADDING: usize = 8;
const SMALL: usize = 1 << 12;

/// The largest elements of each window over the planes in `x`, in a buffer that `buffer` gives for their number; `None` where
/// padding makes that a waste of memory.
pub(super) fn largest(
    x: &[f32],
    rows: Axis,
    columns: Axis,
    buffer: impl FnOnce(usize) -> Vec<f32>,
) -> Option<Vec<f32>> {
    let width = (columns.outputs - 1) * columns.stride + (columns.kernel - 1) * columns.dilation + 1;
    if width / PADDING > (columns.input + columns.outputs).max(SMALL) {
        return None;
    }
    let (from, to) = (rows.input * columns.input, rows.outputs * columns.outputs);
    let mut out = buffer(x.len() / from * to);
    let pool = |(x, out): (&[f32], &mut [f32])| {
        // The elements before and behind the input's stay what they are.
        let line = vec![f32::NEG_INFINITY; width.max(columns.pad + columns.input)];
        simd::run(Planes { x, out, rows, columns, line });
    };
    if x.len() >= PARALLEL && rayon::current_num_threads() > 1 {
        x.par_chunks_exact(from).zip(out.par_chunks_exact_mut(to)).for_each(pool);
    } else {
        pool((x, &mut out));
    }
    Some(out)
}

struct Planes<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
    rows: Axis,
    columns: Axis,
    /// A padded row.
    line: Vec<f32>,
}

impl WithSimd for Planes<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) {
        let (from, to) = (self.rows.input * self.columns.input, self.rows.outputs * self.columns.outputs);
        let out = std::mem::take(&mut self.out);
        for (x, out) in self.x.chunks_exact(from).zip(out.chunks_exact_mut(to)) {
            for (row, out) in out.chunks_exact_mut(self.columns.outputs).enumerate() {
                self.row(x, row, out);
            }
        }
    }
}

impl Planes<'_> {
    #[inline(always)]
    fn row(&mut self, x: &[f32], row: usize, out: &mut [f32]) {
        let Planes { rows, columns, line, .. } = self;
        out.fill(f32::NEG_INFINITY);
        let place = |step: usize| (row * rows.stride + step * rows.dilation).checked_sub(rows.pad);
        let lines = (0..rows.kernel).filter_map(place).filter(|&at| at < rows.input);
        let inner = &mut line[columns.pad..columns.pad + columns.input];
        let mut first = true;
        for at in lines {
            let given = &x[at * columns.input..][..columns.input];
            if first {
                inner.copy_from_slice(given);
            } else {
                inner.iter_mut().zip(given).for_each(|(largest, &value)| *largest = larger(*largest, value));
            }
            first = false;
        }
        if first {
            return;
        }
        for step in 0..columns.kernel {
            let line = &line[step * columns.dilation..];
            let pick = |(largest, &value): (&mut f32, &f32)| *largest = larger(*largest, value);
            match columns.stride {
                1 => out.iter_mut().zip(line).for_each(pick),
                2 => {
                    // A last pair may have its first element alone.
                    let (pairs, last) = line.as_chunks::<2>();
                    let values = pairs.iter().map(|pair| &pair[0]).chain(last);
                    out.iter_mut().zip(values).for_each(pick);
                }
                stride => out.iter_mut().zip(line.iter().step_by(stride)).for_each(pick),
            }
        }
    }
}

/// The larger one, or the one that is no number.
#[inline(always)]
fn larger(largest: f32, value: f32) -> f32 {
    if value > largest || value.is_nan() { value } else { largest }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(input: usize, kernel: usize, stride: usize, dilation: usize, pads: [usize; 2]) -> Axis {
        let outputs = (input + pads[0] + pads[1] - (kernel - 1) * dilation - 1) / stride + 1;
        Axis { input, kernel, stride, dilation, pad: pads[0], outputs }
    }

    fn pooled(x: &[f32], rows: Axis, columns: Axis) -> Vec<f32> {
        largest(x, rows, columns, |count| vec![0.0; count]).unwrap()
    }

    fn defined(x: &[f32], rows: Axis, columns: Axis) -> Vec<f32> {
        let positions = |axis: Axis, place: usize| {
            let steps = (0..axis.kernel).map(move |step| place * axis.stride + step * axis.dilation);
            steps.filter_map(move |at| at.checked_sub(axis.pad)).filter(move |&at| at < axis.input)
        };
        let mut out = Vec::new();
        for plane in x.chunks_exact(rows.input * columns.input) {
            for (row, column) in (0..rows.outputs).flat_map(|y| (0..columns.outputs).map(move |x| (y, x))) {
                let window = positions(rows, row)
                    .flat_map(|y| positions(columns, column).map(move |x| plane[y * columns.input + x]));
                out.push(window.fold(f32::NEG_INFINITY, f32::max));
            }
        }
        out
    }

    #[test]
    fn every_window_gives_its_largest_element() {
        for (kernel, stride, dilation, pads) in
            [(2, 2, 1, [0, 0]), (3, 1, 1, [1, 1]), (3, 2, 1, [1, 0]), (2, 3, 2, [0, 2]), (3, 2, 2, [2, 4])]
        {
            for (height, width) in [(7, 9), (12, 8), (5, 40)] {
                let x: Vec<f32> = (0..3 * height * width).map(|index| ((index * 37) % 101) as f32 - 50.0).collect();
                let rows = axis(height, kernel, stride, dilation, pads);
                let columns = axis(width, kernel, stride, dilation, pads);
                assert_eq!(pooled(&x, rows, columns), defined(&x, rows, columns), "{rows:?} {columns:?}");
            }
        }
    }

    #[test]
    fn what_is_no_number_is_the_largest_and_padding_alone_the_smallest() {
        let x = [1.0, f32::NAN, 2.0, 3.0, 5.0, 4.0];
        let pooled = pooled(&x, axis(1, 1, 1, 1, [0, 0]), axis(6, 2, 2, 1, [2, 0]));
        assert_eq!(pooled[0], f32::NEG_INFINITY);
        assert!(pooled[1].is_nan());
        assert_eq!(pooled[2..], [3.0, 5.0]);
    }
}
