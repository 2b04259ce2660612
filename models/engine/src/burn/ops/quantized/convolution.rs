//! Integer convolutions: the input is laid out with channels last, the window's places become rows, and rows are
//! multiplied with the weights' rows. Convolutions with one channel in each group skip the rows.

use std::sync::Arc;

use hedge_graph::Node;
use hedge_tensor::Tensor;
use rayon::prelude::*;

use super::super::window::{Window, WindowSpec, spatial_of};
use super::super::{BoxOp, Builder, OpError, host, on_host, size_of};
use super::linear::zeros;
use super::product::{Kept, Requantize, multiply, single, widened};
use super::{floats, narrowed};

/// Places of the window at a time.
const BAND: usize = 32;

pub(super) fn builder(op: &str) -> Option<Builder> {
    match op {
        "ConvInteger" => Some(conv_integer),
        "QLinearConv" => Some(qlinear_conv),
        _ => None,
    }
}

fn conv_integer(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let convolution = IntegerConvolution::read(node)?;
    on_host(move |inputs| {
        let (x, w) = (host::need(inputs, 0)?, host::need(inputs, 1)?);
        let sums = convolution.run((x, host::optional(inputs, 2)), (w, host::optional(inputs, 3)))?;
        Ok(vec![Tensor::from_slice(&sums.shape, &sums.by_channel(|sum, _| sum))?])
    })
}

fn qlinear_conv(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let convolution = IntegerConvolution::read(node)?;
    on_host(move |inputs| {
        let need = |index| host::need(inputs, index);
        let (x, w) = (need(0)?, need(3)?);
        let sums = convolution.run((x, host::optional(inputs, 2)), (w, host::optional(inputs, 5)))?;
        let output = Requantize::to(host::optional(inputs, 7), x.dtype())?;
        let (low, high) = super::range_of(output.dtype)?;
        let factor = single(need(1)?, "x_scale")?;
        let divisor = single(need(6)?, "y_scale")?;
        let scales = floats(need(4)?)?;
        if scales.len() != 1 && scales.len() != sums.channels {
            return Err(OpError::new(format!("{} scales do not fit {} channels", scales.len(), sums.channels)));
        }
        let scales: Vec<f32> = scales.iter().map(|scale| factor * scale / divisor).collect();
        let bias = match host::optional(inputs, 8) {
            Some(bias) => bias.to_vec::<i32>()?,
            None => vec![0; sums.channels],
        };
        if bias.len() != sums.channels {
            return Err(OpError::new(format!("its bias has {} elements for {} channels", bias.len(), sums.channels)));
        }
        let values = sums.by_channel(|sum, channel| {
            let scale = scales[channel % scales.len()];
            super::quantized(sum.wrapping_add(bias[channel]) as f32 * scale, output.zero, low, high)
        });
        Ok(vec![narrowed(&values, &sums.shape, output.dtype)?])
    })
}

/// The sums of a convolution, channels last.
struct Sums {
    values: Vec<i32>,
    /// `[batch, channels, …]`.
    shape: Vec<usize>,
    channels: usize,
}

impl Sums {
    /// `f(sum, channel)` of all, channels first.
    fn by_channel<T: Default + Clone + Send>(&self, f: impl Fn(i32, usize) -> T + Sync) -> Vec<T> {
        let mut out = vec![T::default(); self.values.len()];
        let places: usize = self.shape[2..].iter().product();
        if out.is_empty() {
            return out;
        }
        out.par_chunks_mut(places).enumerate().for_each(|(index, plane)| {
            let (sample, channel) = (index / self.channels, index % self.channels);
            let sums = self.values[sample * places * self.channels + channel..].iter().step_by(self.channels);
            plane.iter_mut().zip(sums).for_each(|(to, &sum)| *to = f(sum, channel));
        });
        out
    }
}

struct IntegerConvolution {
    spec: WindowSpec,
    groups: usize,
    weights: Kept<Vec<i16>>,
}

impl IntegerConvolution {
    fn read(node: &Node) -> Result<Self, OpError> {
        let groups = size_of(node.int("group", 1))?;
        if groups == 0 {
            return Err(OpError::new("group must be at least 1"));
        }
        Ok(IntegerConvolution { spec: WindowSpec::read(node)?, groups, weights: Kept::new() })
    }

    fn run(&self, x: super::linear::Operand, w: super::linear::Operand) -> Result<Sums, OpError> {
        let (input, kernel) = (x.0.shape(), w.0.shape());
        let spatial = spatial_of(input)?;
        let fits = kernel.len() == input.len() && input[1] == kernel[1] * self.groups;
        if !fits || kernel[0] % self.groups != 0 {
            return Err(OpError::new(format!(
                "an input of shape {input:?} does not fit weights {kernel:?} in {} groups",
                self.groups
            )));
        }
        let window = self.spec.resolve(spatial, Some(&kernel[2..]))?;
        if window.kernel != kernel[2..] {
            return Err(OpError::new(format!(
                "kernel_shape {:?} is not that of its weights {kernel:?}",
                window.kernel
            )));
        }
        let taps = Taps::new(&window, spatial);
        let depthwise = kernel[1] == 1 && kernel[0] == self.groups;
        let operands: Vec<&Tensor> = std::iter::once(w.0).chain(w.1).collect();
        let weights = self.weights.get(&operands, || weight_rows(w, depthwise))?;
        let x = channels_last(x)?;
        let shape = [&[input[0], kernel[0]], taps.outputs.as_slice()].concat();
        let size = hedge_tensor::element_count(&shape);
        let mut values = vec![0i32; size.ok_or_else(|| OpError::new(format!("{shape:?} is too large")))?];
        let job = Job { taps, channels: input[1], outputs: kernel[0], groups: self.groups, depthwise };
        job.run(&x, &weights, &mut values);
        Ok(Sums { values, channels: kernel[0], shape })
    }
}

/// `[batch, channels, …]` to `[batch, …, channels]`, without the zero point.
fn channels_last((tensor, zero): super::linear::Operand) -> Result<Vec<i16>, OpError> {
    let values = widened(tensor)?;
    let zero = match zeros(zero, tensor.dtype())?.as_deref() {
        None => 0,
        Some([zero]) => *zero,
        Some(zeros) => {
            return Err(OpError::new(format!("its input has one zero point, but {} are given", zeros.len())));
        }
    };
    let channels = tensor.shape()[1];
    let places: usize = tensor.shape()[2..].iter().product();
    let mut out = vec![0; values.len()];
    if !out.is_empty() {
        let samples = out.par_chunks_mut(channels * places).zip(values.par_chunks(channels * places));
        samples.for_each(|(out, values)| {
            for (channel, plane) in values.chunks_exact(places).enumerate() {
                out[channel..].iter_mut().step_by(channels).zip(plane).for_each(|(to, from)| *to = from - zero);
            }
        });
    }
    Ok(out)
}

/// Weights `[outputs, channels, taps]` as `[outputs, taps, channels]`; of a depthwise convolution as `[taps, outputs]`.
fn weight_rows((tensor, zero): super::linear::Operand, depthwise: bool) -> Result<Vec<i16>, OpError> {
    let mut values = widened(tensor)?;
    let (outputs, channels) = (tensor.shape()[0], tensor.shape()[1]);
    let taps: usize = tensor.shape()[2..].iter().product();
    if let Some(zeros) = zeros(zero, tensor.dtype())? {
        if zeros.len() != 1 && zeros.len() != outputs {
            return Err(OpError::new(format!("{} zero points do not fit {outputs} channels", zeros.len())));
        }
        for (output, values) in values.chunks_mut((channels * taps).max(1)).enumerate() {
            let zero = zeros[output % zeros.len()];
            values.iter_mut().for_each(|value| *value -= zero);
        }
    }
    let at = |output: usize, channel: usize, tap: usize| values[(output * channels + channel) * taps + tap];
    if depthwise {
        return Ok((0..taps)
            .flat_map(|tap| (0..outputs).map(move |output| (output, tap)))
            .map(|(o, t)| at(o, 0, t))
            .collect());
    }
    let mut rows = Vec::with_capacity(values.len());
    for output in 0..outputs {
        for tap in 0..taps {
            rows.extend((0..channels).map(|channel| at(output, channel, tap)));
        }
    }
    Ok(rows)
}

/// The window's elements and places, over an input of known size.
struct Taps {
    window: Window,
    spatial: Vec<usize>,
    outputs: Vec<usize>,
    count: usize,
}

impl Taps {
    fn new(window: &Window, spatial: &[usize]) -> Self {
        let outputs = (0..spatial.len())
            .map(|axis| {
                let extent = (window.kernel[axis] - 1) * window.dilations[axis] + 1;
                let (begin, end) = window.pads[axis];
                (spatial[axis] + begin + end - extent) / window.strides[axis] + 1
            })
            .collect();
        let count = window.kernel.iter().product();
        Taps { window: window.clone(), spatial: spatial.to_vec(), outputs, count }
    }

    /// Where the elements of the window at `place` lie in the input, `None` on the padding.
    fn positions(&self, mut place: usize, out: &mut Vec<Option<usize>>) {
        let rank = self.spatial.len();
        let mut corner = vec![0; rank];
        for axis in (0..rank).rev() {
            corner[axis] = place % self.outputs[axis] * self.window.strides[axis];
            place /= self.outputs[axis];
        }
        out.clear();
        for tap in 0..self.count {
            let (mut rest, mut position, mut step) = (tap, Some(0), 1);
            for axis in (0..rank).rev() {
                let offset = rest % self.window.kernel[axis] * self.window.dilations[axis];
                rest /= self.window.kernel[axis];
                let at = (corner[axis] + offset).checked_sub(self.window.pads[axis].0);
                let at = at.filter(|&at| at < self.spatial[axis]);
                position = position.zip(at).map(|(position, at)| position + at * step);
                step *= self.spatial[axis];
            }
            out.push(position);
        }
    }
}

struct Job {
    taps: Taps,
    channels: usize,
    outputs: usize,
    groups: usize,
    depthwise: bool,
}

impl Job {
    /// Samples and bands of places are shared among threads.
    fn run(&self, x: &[i16], weights: &Arc<Vec<i16>>, out: &mut [i32]) {
        let places: usize = self.taps.outputs.iter().product();
        let size: usize = self.channels * self.taps.spatial.iter().product::<usize>();
        if out.is_empty() || size == 0 {
            return;
        }
        out.par_chunks_mut(places * self.outputs).zip(x.par_chunks(size)).for_each(|(out, x)| {
            out.par_chunks_mut(BAND * self.outputs).enumerate().for_each(|(band, out)| {
                if self.depthwise {
                    self.depthwise_band(x, weights, band * BAND, out);
                } else {
                    self.band(x, weights, band * BAND, out);
                }
            });
        });
    }

    fn band(&self, x: &[i16], weights: &[i16], first: usize, out: &mut [i32]) {
        let (channels, outputs) = (self.channels / self.groups, self.outputs / self.groups);
        let depth = channels * self.taps.count;
        let mut positions = Vec::with_capacity(self.taps.count);
        let mut rows = vec![0; out.len() / self.outputs * depth];
        for group in 0..self.groups {
            for (index, row) in rows.chunks_mut(depth).enumerate() {
                self.taps.positions(first + index, &mut positions);
                for (to, position) in row.chunks_mut(channels).zip(&positions) {
                    match position {
                        Some(position) => {
                            let start = position * self.channels + group * channels;
                            to.copy_from_slice(&x[start..start + channels]);
                        }
                        None => to.fill(0),
                    }
                }
            }
            let weights = &weights[group * outputs * depth..(group + 1) * outputs * depth];
            multiply(&rows, weights, depth, &mut out[group * outputs..], self.outputs);
        }
    }

    fn depthwise_band(&self, x: &[i16], weights: &[i16], first: usize, out: &mut [i32]) {
        let mut positions = Vec::with_capacity(self.taps.count);
        for (index, sums) in out.chunks_mut(self.outputs).enumerate() {
            self.taps.positions(first + index, &mut positions);
            for (position, weights) in positions.iter().zip(weights.chunks_exact(self.outputs)) {
                let Some(position) = position else { continue };
                let row = &x[position * self.channels..][..self.channels];
                for ((sum, &x), &w) in sums.iter_mut().zip(row).zip(weights) {
                    *sum = sum.wrapping_add(i32::from(x) * i32::from(w));
                }
            }
        }
    }
}
