//! Regions of interest brought to one size (`RoiAlign`).

use hedge_graph::Node;
use hedge_tensor::Tensor;
use rayon::prelude::*;

use super::host::{need, with_elements};
use super::number::{Number, tensor};
use super::{BoxOp, OpError, on_host, size_of};
use crate::burn::Value;

struct Align {
    largest: bool,
    half_pixel: bool,
    height: usize,
    width: usize,
    /// Samples a bin in each direction; 0 lets a region's size say.
    samples: usize,
    scale: f64,
}

/// The mean of four input elements around a sample: their places and weights.
type Sample = [(usize, f64); 4];

pub(super) fn roi_align(node: &Node, opset: i64) -> Result<BoxOp, OpError> {
    let default = if opset < 16 { "output_half_pixel" } else { "half_pixel" };
    let align = Align {
        largest: match node.string("mode").unwrap_or("avg") {
            "avg" => false,
            "max" => true,
            other => return Err(OpError::new(format!("mode {other:?} is neither avg nor max"))),
        },
        half_pixel: match node.string("coordinate_transformation_mode").unwrap_or(default) {
            "half_pixel" => true,
            "output_half_pixel" => false,
            other => return Err(OpError::new(format!("coordinate_transformation_mode {other:?} is not known"))),
        },
        height: size_of(node.int("output_height", 1))?,
        width: size_of(node.int("output_width", 1))?,
        samples: size_of(node.int("sampling_ratio", 0))?,
        scale: f64::from(node.float("spatial_scale", 1.0)),
    };
    on_host(move |inputs| {
        let (x, regions, batches) = (need(inputs, 0)?, need(inputs, 1)?, need(inputs, 2)?);
        let shape = x.shape();
        let count = batches.shape().first().copied().unwrap_or(0);
        if shape.len() != 4 || regions.shape() != [count, 4] || !x.dtype().is_float() {
            return Err(OpError::new(format!(
                "an input {shape:?} of {} with regions {:?} and batch indices {:?} is none to align",
                x.dtype(),
                regions.shape(),
                batches.shape()
            )));
        }
        let corners = regions.to_doubles().ok_or_else(|| OpError::new("its regions must be of floats"))?;
        let batches = Value::host(batches.clone()).to_ints()?;
        let y = with_elements!(x.dtype(), T => align.aligned::<T>(x, &corners, &batches))?;
        Ok(vec![y])
    })
}

impl Align {
    fn aligned<T: Number + Send + Sync>(
        &self,
        x: &Tensor,
        corners: &[f64],
        batches: &[i64],
    ) -> Result<Tensor, OpError> {
        let [images, channels, height, width] = x.shape().try_into().unwrap_or([0; 4]);
        let values = x.to_vec::<T>()?;
        let plane = height * width;
        let mut y: Vec<T> = Vec::new();
        for (&batch, corners) in batches.iter().zip(corners.chunks(4)) {
            let image = usize::try_from(batch).ok().filter(|&image| image < images && plane > 0);
            let image = image.ok_or_else(|| OpError::new(format!("batch index {batch} is outside {:?}", x.shape())))?;
            let bins = self.bins(corners, height, width)?;
            let channel = |channel: usize| {
                let plane = &values[(image * channels + channel) * plane..][..plane];
                bins.iter().map(|bin| T::from_double(self.value(bin, plane))).collect::<Vec<T>>()
            };
            y.extend((0..channels).into_par_iter().map(channel).collect::<Vec<_>>().concat());
        }
        tensor(x.dtype(), &[batches.len(), channels, self.height, self.width], &y)
    }

    fn value<T: Number>(&self, bin: &[Sample], plane: &[T]) -> f64 {
        let parts = |sample: &Sample| sample.map(|(at, weight)| plane[at].to_f64() * weight);
        if self.largest {
            let largest = bin.iter().flat_map(parts).reduce(f64::max);
            return largest.unwrap_or(0.0);
        }
        let sum: f64 = bin.iter().map(|sample| parts(sample).iter().sum::<f64>()).sum();
        sum / bin.len().max(1) as f64
    }

    /// The samples of each bin of a region, which is (x, y) of its first corner and of its last.
    fn bins(&self, corners: &[f64], height: usize, width: usize) -> Result<Vec<Vec<Sample>>, OpError> {
        // No useful region needs more; a region's numbers come from a model or a caller.
        const SAMPLES: f64 = 1e8;
        let offset = if self.half_pixel { 0.5 } else { 0.0 };
        let corner = |index: usize| corners[index] * self.scale - offset;
        let extent = |from: usize| {
            let extent = corner(from + 2) - corner(from);
            // Older versions take regions smaller than an element for one element.
            if self.half_pixel { extent } else { extent.max(1.0) }
        };
        let bin = (extent(1) / self.height as f64, extent(0) / self.width as f64);
        let samples = |bin: f64| if self.samples > 0 { self.samples as f64 } else { bin.ceil().max(0.0) };
        let grid = (samples(bin.0), samples(bin.1));
        let all = grid.0 * grid.1 * self.height as f64 * self.width as f64;
        if !(all <= SAMPLES && grid.0 <= SAMPLES && grid.1 <= SAMPLES) {
            return Err(OpError::new(format!("a region {corners:?} is too large")));
        }
        let place = |start: f64, index: usize, bin: f64, sample: usize, samples: f64| {
            start + index as f64 * bin + (sample as f64 + 0.5) * bin / samples
        };
        let mut bins = Vec::with_capacity(self.height * self.width);
        for row in 0..self.height {
            for column in 0..self.width {
                let mut bin_samples = Vec::with_capacity((grid.0 * grid.1) as usize);
                for y in 0..grid.0 as usize {
                    let y = place(corner(1), row, bin.0, y, grid.0);
                    for x in 0..grid.1 as usize {
                        let x = place(corner(0), column, bin.1, x, grid.1);
                        bin_samples.push(sample(y, x, height, width));
                    }
                }
                bins.push(bin_samples);
            }
        }
        Ok(bins)
    }
}

/// Between the four elements around a point; points more than an element outside read nothing.
fn sample(y: f64, x: f64, height: usize, width: usize) -> Sample {
    let near = |at: f64, size: usize| (-1.0..=size as f64).contains(&at);
    if !near(y, height) || !near(x, width) {
        return [(0, 0.0); 4];
    }
    let along = |at: f64, size: usize| {
        let at = at.max(0.0);
        let low = at as usize;
        if low + 1 >= size { (size - 1, size - 1, 0.0) } else { (low, low + 1, at - low as f64) }
    };
    let (top, bottom, down) = along(y, height);
    let (left, right, across) = along(x, width);
    [
        (top * width + left, (1.0 - down) * (1.0 - across)),
        (top * width + right, (1.0 - down) * across),
        (bottom * width + left, down * (1.0 - across)),
        (bottom * width + right, down * across),
    ]
}
