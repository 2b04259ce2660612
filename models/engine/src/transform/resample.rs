//! Resampling of 8-bit pixels. What each filter computes is documented at [`Filter`].

use hedge_bundle::transform::Filter;

/// Bits behind the point of a weight in PIL's arithmetic: 32 less 8 for the value and 2 for sums that pass 255.
const WEIGHT_BITS: u32 = 32 - 8 - 2;

/// Pixels, row by row, the channels of each together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pixels {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) channels: usize,
    pub(super) data: Vec<u8>,
}

impl Pixels {
    /// All pixels of one value.
    pub(super) fn filled(width: usize, height: usize, channels: usize, value: u8) -> Self {
        Pixels { width, height, channels, data: vec![value; width * height * channels] }
    }

    /// The same image at another size; neither size is 0.
    pub(super) fn resized(&self, width: usize, height: usize, filter: Filter) -> Pixels {
        if (width, height) == (self.width, self.height) {
            return self.clone();
        }
        match filter {
            Filter::Nearest => self.nearest(width, height),
            Filter::Bilinear => self.bilinear(width, height),
            Filter::BilinearAntialias => self.antialiased_rows(width).antialiased_columns(height),
        }
    }

    /// Puts `other` onto it with its corner at (`left`, `top`), either of which may be outside.
    pub(super) fn paste(&mut self, other: &Pixels, left: isize, top: isize) {
        let from = |offset: isize| usize::try_from(-offset).unwrap_or(0);
        let to = |offset: isize| usize::try_from(offset).unwrap_or(0);
        let columns = other.width.saturating_sub(from(left)).min(self.width.saturating_sub(to(left)));
        let rows = other.height.saturating_sub(from(top)).min(self.height.saturating_sub(to(top)));
        for row in 0..rows {
            let source = ((from(top) + row) * other.width + from(left)) * self.channels;
            let target = ((to(top) + row) * self.width + to(left)) * self.channels;
            let count = columns * self.channels;
            self.data[target..target + count].copy_from_slice(&other.data[source..source + count]);
        }
    }

    fn nearest(&self, width: usize, height: usize) -> Pixels {
        let columns = nearest_of(self.width, width);
        let rows = nearest_of(self.height, height);
        let mut data = Vec::with_capacity(width * height * self.channels);
        for &row in &rows {
            for &column in &columns {
                let at = (row * self.width + column) * self.channels;
                data.extend_from_slice(&self.data[at..at + self.channels]);
            }
        }
        Pixels { width, height, data, ..*self }
    }

    fn bilinear(&self, width: usize, height: usize) -> Pixels {
        let columns = neighbours(self.width, width);
        let rows = neighbours(self.height, height);
        let mut data = Vec::with_capacity(width * height * self.channels);
        for &(top, bottom, down) in &rows {
            for &(left, right, across) in &columns {
                for channel in 0..self.channels {
                    let value =
                        |row, column| f64::from(self.data[(row * self.width + column) * self.channels + channel]);
                    let between = |row| value(row, left) * (1.0 - across) + value(row, right) * across;
                    let exact = between(top) * (1.0 - down) + between(bottom) * down;
                    // 0..=255, as its parts are.
                    data.push((exact + 0.5).floor() as u8);
                }
            }
        }
        Pixels { width, height, data, ..*self }
    }

    fn antialiased_rows(&self, width: usize) -> Pixels {
        if width == self.width {
            return self.clone();
        }
        let weights = triangles(self.width, width);
        let mut data = Vec::with_capacity(width * self.height * self.channels);
        for row in self.data.chunks_exact(self.width * self.channels) {
            for (first, weights) in &weights {
                for channel in 0..self.channels {
                    let at = |index: usize| row[(first + index) * self.channels + channel];
                    data.push(weighted(weights, at));
                }
            }
        }
        Pixels { width, data, ..*self }
    }

    fn antialiased_columns(&self, height: usize) -> Pixels {
        if height == self.height {
            return self.clone();
        }
        let stride = self.width * self.channels;
        let mut data = Vec::with_capacity(stride * height);
        for (first, weights) in &triangles(self.height, height) {
            for column in 0..stride {
                data.push(weighted(weights, |index| self.data[(first + index) * stride + column]));
            }
        }
        Pixels { height, data, ..*self }
    }
}

/// For each new position the old one under its centre.
fn nearest_of(old: usize, new: usize) -> Vec<usize> {
    // Exactly floor((i + 0.5) * old / new), in integers.
    (0..new).map(|i| ((2 * i + 1) * old / (2 * new)).min(old - 1)).collect()
}

/// For each new position the two old ones around its centre and how far it is from the first.
fn neighbours(old: usize, new: usize) -> Vec<(usize, usize, f64)> {
    let scale = old as f64 / new as f64;
    let place = |i: usize| {
        let at = ((i as f64 + 0.5) * scale - 0.5).clamp(0.0, (old - 1) as f64);
        let first = at as usize;
        (first, (first + 1).min(old - 1), at - first as f64)
    };
    (0..new).map(place).collect()
}

/// For each new position the first old one that it covers, and the weights from there on: PIL's, in its arithmetic
/// (doubles, normalized, then rounded to integers).
fn triangles(old: usize, new: usize) -> Vec<(usize, Vec<i64>)> {
    let scale = old as f64 / new as f64;
    let width = scale.max(1.0);
    let weights = |i: usize| {
        let centre = (i as f64 + 0.5) * scale;
        let first = ((centre - width + 0.5) as isize).max(0) as usize;
        let end = ((centre + width + 0.5) as usize).min(old);
        let weight = |at: usize| (1.0 - ((at as f64 - centre + 0.5) / width).abs()).max(0.0);
        let weights: Vec<f64> = (first..end).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |weight: f64| (0.5 + weight / sum * f64::from(1u32 << WEIGHT_BITS)) as i64;
        (first, weights.into_iter().map(fixed).collect())
    };
    (0..new).map(weights).collect()
}

fn weighted(weights: &[i64], at: impl Fn(usize) -> u8) -> u8 {
    let half = 1i64 << (WEIGHT_BITS - 1);
    let sum = weights.iter().enumerate().fold(half, |sum, (index, weight)| sum + weight * i64::from(at(index)));
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}
