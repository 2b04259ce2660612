//! The inner loop of a convolution: sums of a few output channels at consecutive places, held in registers.
//!
//! Every lane does what a scalar would do, in the same order, so results do not depend on how wide the registers are.

use pulp::{Simd, WithSimd};

/// Vectors of one channel that are summed at a time: with 8 channels, 24 of 32 registers.
const VECTORS: usize = 3;

/// The most places that are summed at a time, with registers of 16 lanes. Where there are fewer in all, elements behind the
/// last one's factors are read, fewer than these.
pub(super) const TILE: usize = VECTORS * 16;

/// The widths of blocks, widest first.
pub(super) const WIDTHS: [usize; 4] = [8, 4, 2, 1];

/// Between what a result lies: `min(max(x, least), most)`.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Bounds {
    least: f32,
    most: f32,
}

impl Bounds {
    /// From the least and the most, where there are any.
    pub(in super::super) fn new([least, most]: [Option<f32>; 2]) -> Self {
        Bounds { least: least.unwrap_or(f32::NEG_INFINITY), most: most.unwrap_or(f32::INFINITY) }
    }

    /// What is not a number stays so: x86's instructions give their second operand then, others any that is none.
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
        simd.min_f32s(simd.splat_f32s(self.most), simd.max_f32s(simd.splat_f32s(self.least), x))
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds::new([None; 2])
    }
}

/// A few output channels over one plane of places.
pub(super) struct Block<'a> {
    /// Where each weight's factor of the first place lies in `planes`; that of place `n` lies `n` behind it.
    pub(super) taps: &'a [usize],
    pub(super) planes: &'a [f32],
    /// By tap, then by channel.
    pub(super) weights: &'a [f32],
    /// One of each channel; as many as one of [`WIDTHS`].
    pub(super) bias: &'a [f32],
    pub(super) bounds: Bounds,
    /// The channels' planes of `rows` times `columns`.
    pub(super) out: &'a mut [f32],
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Places from one row to the next; those behind `columns` are computed for nothing.
    pub(super) pitch: usize,
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        match self.bias.len() {
            8 if S::REGISTER_COUNT >= 32 => self.channels::<S, 8>(simd, 0),
            // Sums, factors and a weight fill 16 registers.
            8 => {
                self.channels::<S, 4>(simd, 0);
                self.channels::<S, 4>(simd, 4);
            }
            4 => self.channels::<S, 4>(simd, 0),
            2 => self.channels::<S, 2>(simd, 0),
            _ => self.channels::<S, 1>(simd, 0),
        }
    }
}

impl Block<'_> {
    /// `C` channels from `first` on, at all places.
    #[inline(always)]
    fn channels<S: Simd, const C: usize>(&mut self, simd: S, first: usize) {
        let count = (self.rows - 1) * self.pitch + self.columns;
        let mut place = 0;
        while place < count {
            place = match (count - place).div_ceil(S::F32_LANES) {
                1 => self.tile::<S, C, 1>(simd, first, place, count),
                2 => self.tile::<S, C, 2>(simd, first, place, count),
                _ => self.tile::<S, C, VECTORS>(simd, first, place, count),
            };
        }
    }

    /// `C` channels at the next `V` vectors of places; returns the place behind them. The last tile begins earlier where it
    /// can, so that nothing behind the planes is read.
    #[inline(always)]
    fn tile<S: Simd, const C: usize, const V: usize>(
        &mut self,
        simd: S,
        first: usize,
        place: usize,
        count: usize,
    ) -> usize {
        let size = V * S::F32_LANES;
        let place = if count >= size { place.min(count - size) } else { place };
        let mut sums = [[simd.splat_f32s(0.0); V]; C];
        for (sums, &bias) in sums.iter_mut().zip(&self.bias[first..]) {
            *sums = [simd.splat_f32s(bias); V];
        }
        let planes = &self.planes[place..];
        for (&tap, weights) in self.taps.iter().zip(self.weights.chunks_exact(self.bias.len())) {
            let (factors, _) = S::as_simd_f32s(&planes[tap..tap + size]);
            let factors = factors.first_chunk::<V>().expect("as many were sliced");
            let weights = weights[first..].first_chunk::<C>().expect("a block has as many channels");
            for c in 0..C {
                let weight = simd.splat_f32s(weights[c]);
                for v in 0..V {
                    sums[c][v] = simd.mul_add_e_f32s(weight, factors[v], sums[c][v]);
                }
            }
        }
        let plane = self.rows * self.columns;
        let mut line = [0f32; TILE];
        for (c, sums) in sums.into_iter().enumerate() {
            let (vectors, _) = S::as_mut_simd_f32s(&mut line[..size]);
            vectors.iter_mut().zip(sums).for_each(|(to, sum)| *to = self.bounds.apply(simd, sum));
            let out = &mut self.out[(first + c) * plane..][..plane];
            store(&line[..size], out, place, self.columns, self.pitch);
        }
        place + size
    }
}

/// Puts results from `place` on into the rows that they belong to, without those between the rows.
#[inline(always)]
fn store(line: &[f32], out: &mut [f32], place: usize, columns: usize, pitch: usize) {
    if pitch == columns {
        let count = line.len().min(out.len() - place);
        out[place..place + count].copy_from_slice(&line[..count]);
        return;
    }
    let (mut row, mut column) = (place / pitch, place % pitch);
    let mut from = 0;
    while from < line.len() && row * columns < out.len() {
        let count = (pitch - column).min(line.len() - from);
        let kept = count.min(columns.saturating_sub(column));
        let to = row * columns + column.min(columns);
        out[to..to + kept].copy_from_slice(&line[from..from + kept]);
        from += count;
        row += 1;
        column = 0;
    }
}
