//! Integer convolutions: by the kernel for floats where these hold all sums exactly; else the input is laid out with channels
//! last, the window's places become rows, and rows are multiplied with the weights' rows. Convolutions with one channel in
//! each group skip the rows.

use std::borrow::Cow;

use hedge_graph::Node;
use hedge_tensor::Tensor;
use rayon::prelude::*;

use super::super::direct::Packed;
use super::super::packed::{axes, planar};
use super::super::window::{Window, WindowSpec, spatial_of};
use super::super::{BoxOp, Builder, OpError, host, on_cpu, on_host, size_of};
use super::floats;
use super::linear::zeros;
use super::product::{Kept, Requantize, held, is_exact, multiply, single, whole_of, widened};
use crate::burn::Value;

/// Places of the window at a time.
const BAND: usize = 32;

/// Below so many outputs threads cost more than they give.
const PARALLEL: usize = 1 << 16;

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
        let sums = convolution
            .run(Input::of(&Value::host(x.clone()), host::optional(inputs, 2))?, (w, host::optional(inputs, 3)))?;
        let values = sums.by_channel(|_| |sum: f32| sum as i32, |_| |sum: i32| sum);
        Ok(vec![Tensor::from_slice(&sums.shape, &values)?])
    })
}

fn qlinear_conv(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let convolution = IntegerConvolution::read(node)?;
    on_cpu(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let inputs = (0..9).map(|index| inputs.optional(index).map(Value::into_host).transpose());
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let need = |index| host::need(&inputs, index);
        let w = need(3)?;
        let sums = convolution.run(Input::of(&x, host::optional(&inputs, 2))?, (w, host::optional(&inputs, 5)))?;
        let bias = match host::optional(&inputs, 8) {
            Some(bias) => bias.to_vec::<i32>()?,
            None => vec![0; sums.channels],
        };
        let output = Requantize::to(host::optional(&inputs, 7), x.dtype())?;
        let (low, high) = super::range_of(output.dtype)?;
        let factor = single(need(1)?, "x_scale")?;
        let divisor = single(need(6)?, "y_scale")?;
        let scales = floats(need(4)?)?;
        if scales.len() != 1 && scales.len() != sums.channels {
            return Err(OpError::new(format!("{} scales do not fit {} channels", scales.len(), sums.channels)));
        }
        let scales: Vec<f32> = scales.iter().map(|scale| factor * scale / divisor).collect();
        if bias.len() != sums.channels {
            return Err(OpError::new(format!("its bias has {} elements for {} channels", bias.len(), sums.channels)));
        }
        let scale = |channel: usize| scales[channel % scales.len()];
        let values = sums.by_channel(
            |channel| {
                let (bias, scale) = (bias[channel], scale(channel));
                move |sum: f32| {
                    let sum = (sum as i32).wrapping_add(bias) as f32;
                    super::quantized(sum * scale, output.zero, low, high)
                }
            },
            |channel| {
                let (bias, scale) = (bias[channel], scale(channel));
                move |sum: i32| super::quantized(sum.wrapping_add(bias) as f32 * scale, output.zero, low, high)
            },
        );
        held(values, sums.shape, output.dtype, context)
    })
}

/// The sums of a convolution.
struct Sums {
    values: Values,
    /// `[batch, channels, …]`.
    shape: Vec<usize>,
    channels: usize,
}

enum Values {
    /// Whole numbers, channels first.
    Exact(Vec<f32>),
    /// Channels last.
    Wide(Vec<i32>),
}

impl Sums {
    /// All sums, channels first, by the function that `exact` or `wide` gives for their channel.
    fn by_channel<T: Default + Clone + Send, E: Fn(f32) -> T, W: Fn(i32) -> T>(
        &self,
        exact: impl Fn(usize) -> E + Sync,
        wide: impl Fn(usize) -> W + Sync,
    ) -> Vec<T> {
        let mut out = vec![T::default(); self.shape.iter().product()];
        let places: usize = self.shape[2..].iter().product();
        if out.is_empty() {
            return out;
        }
        let fill = |(index, plane): (usize, &mut [T])| {
            let (sample, channel) = (index / self.channels, index % self.channels);
            match &self.values {
                Values::Exact(values) => {
                    let f = exact(channel);
                    plane.iter_mut().zip(&values[index * places..]).for_each(|(to, &sum)| *to = f(sum));
                }
                Values::Wide(values) => {
                    let f = wide(channel);
                    let sums = values[sample * places * self.channels + channel..].iter().step_by(self.channels);
                    plane.iter_mut().zip(sums).for_each(|(to, &sum)| *to = f(sum));
                }
            }
        };
        if out.len() >= PARALLEL {
            out.par_chunks_mut(places).enumerate().for_each(fill);
        } else {
            out.chunks_mut(places).enumerate().for_each(fill);
        }
        out
    }
}

/// Weights without their zero points, in the order of one of the kernels.
enum Weights {
    Floats(Packed),
    Rows(Vec<i16>),
}

struct IntegerConvolution {
    spec: WindowSpec,
    groups: usize,
    weights: Kept<Weights>,
}

impl IntegerConvolution {
    fn read(node: &Node) -> Result<Self, OpError> {
        let groups = size_of(node.int("group", 1))?;
        if groups == 0 {
            return Err(OpError::new("group must be at least 1"));
        }
        Ok(IntegerConvolution { spec: WindowSpec::read(node)?, groups, weights: Kept::new() })
    }

    fn run(&self, x: Input<'_>, w: super::linear::Operand) -> Result<Sums, OpError> {
        let (input, kernel) = (x.shape.as_slice(), w.0.shape());
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
        let weights = self.weights.get(&operands, || self.prepared(w, depthwise))?;
        let shape = [&[input[0], kernel[0]], taps.outputs.as_slice()].concat();
        let size = hedge_tensor::element_count(&shape);
        let weights = match weights.as_ref() {
            Weights::Floats(packed) if !shape.contains(&0) && !input.contains(&0) => {
                let [rows, columns] = axes(input, &window);
                let plan = packed.plan(rows, columns);
                let plan = plan.ok_or_else(|| OpError::new(format!("an input of shape {input:?} is too large")))?;
                let mut values = vec![0.0; shape.iter().product()];
                packed.run(&x.centered(), &plan, &mut values);
                return Ok(Sums { values: Values::Exact(values), channels: kernel[0], shape });
            }
            Weights::Floats(_) => {
                let values = vec![0.0; size.ok_or_else(|| OpError::new(format!("{shape:?} is too large")))?];
                return Ok(Sums { values: Values::Exact(values), channels: kernel[0], shape });
            }
            Weights::Rows(rows) => rows,
        };
        let x = channels_last(&x);
        let mut values = vec![0i32; size.ok_or_else(|| OpError::new(format!("{shape:?} is too large")))?];
        let job = Job { taps, channels: input[1], outputs: kernel[0], groups: self.groups, depthwise };
        job.run(&x, weights, &mut values);
        Ok(Sums { values: Values::Wide(values), channels: kernel[0], shape })
    }
}

/// The input as floats, and its zero point.
struct Input<'a> {
    values: Cow<'a, [f32]>,
    shape: Vec<usize>,
    zero: i16,
}

impl<'a> Input<'a> {
    fn of(x: &'a Value, zero: Option<&Tensor>) -> Result<Self, OpError> {
        let zero = match zeros(zero, x.dtype())?.as_deref() {
            None => 0,
            Some([zero]) => *zero,
            Some(zeros) => {
                return Err(OpError::new(format!("its input has one zero point, but {} are given", zeros.len())));
            }
        };
        Ok(Input { values: whole_of(x)?, shape: x.shape(), zero })
    }

    /// Without the zero point.
    fn centered(self) -> Cow<'a, [f32]> {
        if self.zero == 0 {
            return self.values;
        }
        let zero = f32::from(self.zero);
        Cow::Owned(self.values.iter().map(|value| value - zero).collect())
    }
}

/// `[batch, channels, …]` to `[batch, …, channels]`, without the zero point.
fn channels_last(x: &Input<'_>) -> Vec<i16> {
    let (values, zero) = (&x.values, x.zero);
    let channels = x.shape[1];
    let places: usize = x.shape[2..].iter().product();
    let mut out = vec![0; values.len()];
    if !out.is_empty() {
        let samples = out.par_chunks_mut(channels * places).zip(values.par_chunks(channels * places));
        samples.for_each(|(out, values)| {
            for (channel, plane) in values.chunks_exact(places).enumerate() {
                out[channel..].iter_mut().step_by(channels).zip(plane).for_each(|(to, from)| *to = *from as i16 - zero);
            }
        });
    }
    out
}

impl IntegerConvolution {
    /// The weights as floats where sums stay exact in these and the kernel for floats takes them.
    fn prepared(&self, w: super::linear::Operand, depthwise: bool) -> Result<Weights, OpError> {
        let values = centered_weights(w)?;
        if let Some(shape) = planar(w.0.shape(), self.groups) {
            let floats: Vec<f32> = values.iter().map(|&value| f32::from(value)).collect();
            let taps = (values.len() / shape[0]).max(1);
            if floats.chunks(taps).all(|weights| is_exact(weights.iter().copied())) {
                return Ok(Weights::Floats(Packed::new(&floats, shape, self.groups, None)));
            }
        }
        Ok(Weights::Rows(weight_rows(w.0, &values, depthwise)))
    }
}

/// Weights without zero points, which are one or one for each output channel.
fn centered_weights((tensor, zero): super::linear::Operand) -> Result<Vec<i16>, OpError> {
    let mut values = widened(tensor)?;
    let outputs = tensor.shape()[0];
    if let Some(zeros) = zeros(zero, tensor.dtype())? {
        if zeros.len() != 1 && zeros.len() != outputs {
            return Err(OpError::new(format!("{} zero points do not fit {outputs} channels", zeros.len())));
        }
        let size = (values.len() / outputs.max(1)).max(1);
        for (output, values) in values.chunks_mut(size).enumerate() {
            let zero = zeros[output % zeros.len()];
            values.iter_mut().for_each(|value| *value -= zero);
        }
    }
    Ok(values)
}

/// Weights `[outputs, channels, taps]` as `[outputs, taps, channels]`; of a depthwise convolution as `[taps, outputs]`.
fn weight_rows(tensor: &Tensor, values: &[i16], depthwise: bool) -> Vec<i16> {
    let (outputs, channels) = (tensor.shape()[0], tensor.shape()[1]);
    let taps: usize = tensor.shape()[2..].iter().product();
    let at = |output: usize, channel: usize, tap: usize| values[(output * channels + channel) * taps + tap];
    if depthwise {
        return (0..taps)
            .flat_map(|tap| (0..outputs).map(move |output| (output, tap)))
            .map(|(o, t)| at(o, 0, t))
            .collect();
    }
    let mut rows = Vec::with_capacity(values.len());
    for output in 0..outputs {
        for tap in 0..taps {
            rows.extend((0..channels).map(|channel| at(output, channel, tap)));
        }
    }
    rows
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
    fn run(&self, x: &[i16], weights: &[i16], out: &mut [i32]) {
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
