//! A convolution's input as the kernel reads it: with its padding, and with the elements that a stride skips taken apart, so
//! that the factors of consecutive places are consecutive elements.

use std::cell::Cell;

use super::Axis;
use super::kernel::TILE;

/// Scratch memory that a thread keeps from one convolution to the next, in elements.
const KEPT: usize = 1 << 20;

/// A padded channel has at most so many times the elements of its input and output, or of this.
const PADDING: usize = 8;
const SMALL: usize = 1 << 12;

thread_local! {
    static SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

impl Axis {
    /// Which of the `stride` parts the factors of weight `step` are in, and by how many elements they are ahead.
    fn part(&self, step: usize) -> (usize, usize) {
        (step * self.dilation % self.stride, step * self.dilation / self.stride)
    }

    /// The parts that some weight needs.
    fn parts(&self) -> Vec<usize> {
        let mut parts: Vec<usize> = (0..self.kernel).map(|step| self.part(step).0).collect();
        parts.sort_unstable();
        parts.dedup();
        parts
    }

    /// The elements of a part that are read.
    fn length(&self) -> usize {
        self.outputs + (self.kernel - 1) * self.dilation / self.stride
    }

    /// Whether the input is its only part as it is.
    fn is_plain(&self) -> bool {
        self.stride == 1 && self.pad == 0 && self.length() == self.input
    }
}

/// Where the elements of one group's channels lie.
#[derive(Debug)]
pub(super) struct Layout {
    rows: Axis,
    columns: Axis,
    row_parts: Vec<usize>,
    column_parts: Vec<usize>,
    /// Where the factors of each weight begin, by channel, row and column of the kernel.
    pub(super) taps: Vec<usize>,
    /// The elements between two rows.
    pub(super) pitch: usize,
    /// The elements of one channel.
    size: usize,
    /// Whether the input needs no preparation.
    plain: bool,
}

impl Layout {
    /// `None` where the padded input would be out of proportion to what it is made of and for.
    pub(super) fn new(rows: Axis, columns: Axis, channels: usize) -> Option<Self> {
        let (row_parts, column_parts) = (rows.parts(), columns.parts());
        let pitch = columns.length();
        let part_size = rows.length().checked_mul(pitch)?;
        let size = part_size.checked_mul(row_parts.len() * column_parts.len())?;
        let proportion = (rows.input * columns.input).checked_add(rows.outputs.checked_mul(columns.outputs)?)?;
        if size / PADDING > proportion.max(SMALL) {
            return None;
        }
        let mut taps = Vec::with_capacity(channels * rows.kernel * columns.kernel);
        let index = |parts: &[usize], part: usize| parts.binary_search(&part).expect("parts holds every weight's");
        for channel in 0..channels {
            for (y, row_shift) in (0..rows.kernel).map(|step| rows.part(step)) {
                for (x, column_shift) in (0..columns.kernel).map(|step| columns.part(step)) {
                    let part = index(&row_parts, y) * column_parts.len() + index(&column_parts, x);
                    taps.push(channel * size + part * part_size + row_shift * pitch + column_shift);
                }
            }
        }
        let places = (rows.outputs - 1) * pitch + columns.outputs;
        // A tile that is wider than all places reads behind the planes.
        let plain = rows.is_plain() && columns.is_plain() && places >= TILE;
        Some(Layout { rows, columns, row_parts, column_parts, taps, pitch, size, plain })
    }

    /// Calls `f` with the planes of the channels in `x`.
    pub(super) fn with_planes<T>(&self, x: &[f32], f: impl FnOnce(&[f32]) -> T) -> T {
        if self.plain {
            return f(x);
        }
        // Taken, not borrowed: a thread that waits for others may begin another convolution.
        let mut scratch = SCRATCH.take();
        self.fill(x, &mut scratch);
        let result = f(&scratch);
        if scratch.capacity() <= KEPT {
            SCRATCH.set(scratch);
        }
        result
    }

    fn fill(&self, x: &[f32], planes: &mut Vec<f32>) {
        let plane = self.rows.input * self.columns.input;
        let channels = x.len() / plane;
        planes.clear();
        planes.resize(channels * self.size + TILE, 0.0);
        let part_size = self.rows.length() * self.pitch;
        for (x, planes) in x.chunks_exact(plane).zip(planes.chunks_exact_mut(self.size)) {
            let mut parts = planes.chunks_exact_mut(part_size);
            for &row_part in &self.row_parts {
                for &column_part in &self.column_parts {
                    let part = parts.next().expect("there are rows' times columns' parts");
                    self.fill_part(x, row_part, column_part, part);
                }
            }
        }
    }

    fn fill_part(&self, x: &[f32], row_part: usize, column_part: usize, part: &mut [f32]) {
        let columns = &self.columns;
        // The first element of the part that lies on the input, and where.
        let first = columns.pad.saturating_sub(column_part).div_ceil(columns.stride);
        let from = first * columns.stride + column_part - columns.pad;
        for (index, line) in part.chunks_exact_mut(self.pitch).enumerate() {
            let padded = index * self.rows.stride + row_part;
            let Some(row) = padded.checked_sub(self.rows.pad).filter(|&row| row < self.rows.input) else { continue };
            let row = &x[row * columns.input..][..columns.input];
            let (Some(line), Some(row)) = (line.get_mut(first..), row.get(from..)) else { continue };
            match columns.stride {
                1 => {
                    let count = line.len().min(row.len());
                    line[..count].copy_from_slice(&row[..count]);
                }
                2 => {
                    let (pairs, last) = row.as_chunks::<2>();
                    line.iter_mut()
                        .zip(pairs.iter().map(|pair| &pair[0]).chain(last))
                        .for_each(|(to, from)| *to = *from);
                }
                stride => line.iter_mut().zip(row.iter().step_by(stride)).for_each(|(to, from)| *to = *from),
            }
        }
    }
}
