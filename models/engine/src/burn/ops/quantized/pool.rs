//! Means of 8-bit tensors between scales (`com.microsoft`).

use hedge_graph::Node;
use hedge_tensor::Tensor;

use super::super::window::{Window, WindowSpec};
use super::super::{BoxOp, OpError, host, on_host};
use super::product::{Requantize, single};
use super::{byte_of, byte_values, quantized, range_of, single_level};

/// `QLinearGlobalAveragePool`: exact sums, times one factor.
pub(in super::super) fn global_average(node: &Node) -> Result<BoxOp, OpError> {
    let last = node.int("channels_last", 0) != 0;
    on_host(move |inputs| {
        let x = host::need(inputs, 0)?;
        let (scale, zero) = single_level(inputs, 1, x.dtype(), "x_scale")?;
        let output = Requantize::to(host::optional(inputs, 4), x.dtype())?;
        let layout = Layout::of(x, last)?;
        let factor = scale / (single(host::need(inputs, 3)?, "y_scale")? * layout.size() as f32);
        Ok(vec![layout.global_average(x, (factor, zero), &output)?])
    })
}

/// `QLinearAveragePool`: floats are added in the order of the window, divided by their number, by the scale, and rounded
/// with the zero point added. Where padding counts, all of the window counts. A window over all of the input is a global
/// average.
pub(in super::super) fn average(node: &Node) -> Result<BoxOp, OpError> {
    let (spec, last) = (WindowSpec::of_pool(node)?, node.int("channels_last", 0) != 0);
    let count_pads = node.int("count_include_pad", 0) != 0;
    on_host(move |inputs| {
        let x = host::need(inputs, 0)?;
        let (scale, zero) = single_level(inputs, 1, x.dtype(), "x_scale")?;
        let output = Requantize::to(host::optional(inputs, 4), x.dtype())?;
        let (low, high) = range_of(output.dtype)?;
        let divisor = single(host::need(inputs, 3)?, "y_scale")?;
        let layout = Layout::of(x, last)?;
        let window = spec.resolve(&layout.spatial, None)?;
        if window.kernel == layout.spatial && window.pads.iter().all(|&pads| pads == (0, 0)) {
            let factor = scale / (divisor * layout.size() as f32);
            return Ok(vec![layout.global_average(x, (factor, zero), &output)?]);
        }
        let places = places(&window, &layout.spatial);
        let whole: usize = window.kernel.iter().product();
        let values = byte_values(x.dtype())?.map(|value| scale * (value - zero));
        let bytes = layout.planes(x.bytes(), places.len(), |plane, out| {
            for (to, place) in out.iter_mut().zip(&places) {
                let sum = place.iter().fold(0.0, |sum: f32, &at| sum + values[usize::from(plane(at))]);
                let mean = sum / if count_pads { whole } else { place.len() } as f32;
                *to = byte_of(quantized(mean / divisor + output.zero, 0.0, low, high));
            }
        });
        Ok(vec![Tensor::new(output.dtype, layout.shape(&window.outputs), bytes.into())?])
    })
}

/// The input's places under each of the window's, row by row.
fn places(window: &Window, spatial: &[usize]) -> Vec<Vec<usize>> {
    let mut all = vec![vec![0]];
    for (axis, &size) in spatial.iter().enumerate() {
        let under = |place: usize| (0..window.kernel[axis]).filter_map(move |s| window.position(axis, place, s, size));
        let along: Vec<Vec<usize>> = (0..window.outputs[axis]).map(|place| under(place).collect()).collect();
        let joined = |outer: &Vec<usize>, inner: &Vec<usize>| -> Vec<usize> {
            outer.iter().flat_map(|&outer| inner.iter().map(move |&inner| outer * size + inner)).collect()
        };
        all = all.iter().flat_map(|outer| along.iter().map(move |inner| joined(outer, inner))).collect();
    }
    all
}

/// Where a batch's planes lie: channel by channel, or with channels last.
struct Layout {
    batch: usize,
    channels: usize,
    spatial: Vec<usize>,
    last: bool,
}

impl Layout {
    fn of(x: &Tensor, last: bool) -> Result<Self, OpError> {
        let shape = x.shape();
        if shape.len() < 3 {
            return Err(OpError::new(format!("its input has a batch, channels and spatial dimensions, not {shape:?}")));
        }
        let (channels, spatial) = match last {
            true => (shape[shape.len() - 1], &shape[1..shape.len() - 1]),
            false => (shape[1], &shape[2..]),
        };
        Ok(Layout { batch: shape[0], channels, spatial: spatial.to_vec(), last })
    }

    fn shape(&self, spatial: &[usize]) -> Vec<usize> {
        match self.last {
            true => [&[self.batch], spatial, &[self.channels]].concat(),
            false => [&[self.batch, self.channels], spatial].concat(),
        }
    }

    /// The places of a plane.
    fn size(&self) -> usize {
        self.spatial.iter().product()
    }

    /// The sums of the planes of `x`, less its zero point, times a factor.
    fn global_average(&self, x: &Tensor, (factor, zero): (f32, f32), output: &Requantize) -> Result<Tensor, OpError> {
        let (low, high) = range_of(output.dtype)?;
        let (size, values) = (self.size(), byte_values(x.dtype())?);
        let bytes = self.planes(x.bytes(), 1, |plane, out| {
            let sum: i64 = (0..size).map(|place| values[usize::from(plane(place))] as i64).sum();
            let sum = sum - size as i64 * zero as i64;
            out[0] = byte_of(quantized(sum as f32 * factor, output.zero, low, high));
        });
        Ok(Tensor::new(output.dtype, self.shape(&vec![1; self.spatial.len()]), bytes.into())?)
    }

    /// What `f` makes of each plane, `count` bytes, in the same layout. A plane is given as its bytes by place.
    fn planes(&self, bytes: &[u8], count: usize, f: impl Fn(&dyn Fn(usize) -> u8, &mut [u8])) -> Vec<u8> {
        let size = self.size();
        let mut out = vec![0; self.batch * self.channels * count];
        let mut own = vec![0; count];
        if out.is_empty() {
            return out;
        }
        for plane in 0..self.batch * self.channels {
            let (batch, channel) = (plane / self.channels, plane % self.channels);
            let (start, step) =
                if self.last { (batch * size * self.channels + channel, self.channels) } else { (plane * size, 1) };
            f(&|place| bytes[start + place * step], &mut own);
            let start = if self.last { batch * count * self.channels + channel } else { plane * count };
            out[start..].iter_mut().step_by(step).zip(&own).for_each(|(to, from)| *to = *from);
        }
        out
    }
}
