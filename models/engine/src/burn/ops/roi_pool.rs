//! The largest elements of regions of interest, in bins of whole elements (`MaxRoiPool`: Girshick, "Fast R-CNN", 2015).

use hedge_graph::Node;
use hedge_tensor::Tensor;
use rayon::prelude::*;

use super::host::{need, room, with_elements};
use super::number::{Number, tensor};
use super::window::sizes_of;
use super::{BoxOp, OpError, on_host};

struct RoiPool {
    height: usize,
    width: usize,
    scale: f64,
}

/// The elements of a bin along one dimension.
type Span = std::ops::Range<usize>;

pub(super) fn max_roi_pool(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let sizes = sizes_of(node.ints("pooled_shape").unwrap_or_default(), 2, "pooled_shape")?;
    let pool = RoiPool { height: sizes[0], width: sizes[1], scale: f64::from(node.float("spatial_scale", 1.0)) };
    on_host(move |inputs| {
        let (x, regions) = (need(inputs, 0)?, need(inputs, 1)?);
        let (shape, count) = (x.shape(), regions.shape().first().copied().unwrap_or(0));
        if shape.len() != 4 || regions.shape() != [count, 5] || !x.dtype().is_float() {
            return Err(OpError::new(format!(
                "an input {shape:?} of {} with regions {:?} is none to pool",
                x.dtype(),
                regions.shape()
            )));
        }
        let regions = regions.to_doubles().ok_or_else(|| OpError::new("its regions must be of floats"))?;
        Ok(vec![with_elements!(x.dtype(), T => pool.pooled::<T>(x, &regions))?])
    })
}

impl RoiPool {
    /// A region is the number of an image, and (x, y) of its first element and of its last.
    fn pooled<T: Number + Send + Sync>(&self, x: &Tensor, regions: &[f64]) -> Result<Tensor, OpError> {
        let [images, channels, height, width] = x.shape().try_into().unwrap_or([0; 4]);
        let out = [regions.len() / 5, channels, self.height, self.width];
        room(x.dtype(), &out)?;
        let (values, plane) = (x.to_vec::<T>()?, height * width);
        let mut y: Vec<T> = Vec::new();
        for region in regions.chunks_exact(5) {
            let image = region[0] as usize;
            if region[0] < 0.0 || image >= images {
                return Err(OpError::new(format!("image {} is outside {:?}", region[0], x.shape())));
            }
            let rows = self.spans((region[2], region[4]), self.height, height);
            let columns = self.spans((region[1], region[3]), self.width, width);
            let of_channel = |channel: usize| {
                let plane = &values[(image * channels + channel) * plane..][..plane];
                let bins = rows.iter().flat_map(|rows| columns.iter().map(move |columns| (rows, columns)));
                bins.map(|(rows, columns)| largest(plane, width, rows, columns)).collect::<Vec<T>>()
            };
            y.extend((0..channels).into_par_iter().map(of_channel).collect::<Vec<_>>().concat());
        }
        tensor(x.dtype(), &out, &y)
    }

    /// The bins between two places of a region, cut to a dimension of `size`.
    fn spans(&self, (first, last): (f64, f64), bins: usize, size: usize) -> Vec<Span> {
        let (first, last) = ((first * self.scale).round(), (last * self.scale).round());
        let step = (last - first + 1.0).max(1.0) / bins as f64;
        let cut = |place: f64| (place + first).clamp(0.0, size as f64) as usize;
        (0..bins).map(|bin| cut((bin as f64 * step).floor())..cut(((bin + 1) as f64 * step).ceil())).collect()
    }
}

/// Zero where the bin has no elements.
fn largest<T: Number>(plane: &[T], width: usize, rows: &Span, columns: &Span) -> T {
    let elements = rows.clone().flat_map(|row| &plane[row * width..][columns.clone()]).copied();
    elements.reduce(|a, b| if b > a { b } else { a }).unwrap_or(T::ZERO)
}
