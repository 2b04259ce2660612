//! Fourier transforms and the filter banks of audio.
//!
//! A real signal's short-time transform is a product with the cosines and sines of its frame length, on the device and with
//! gradients; everything else is rustfft, on the host in 64 bits.

use std::sync::{Arc, Mutex, PoisonError};

use burn_backend::Shape;
use burn_backend::ops::FloatTensorOps;
use hedge_graph::Node;
use hedge_tensor::{DType, Element, Tensor, element_count};
use rustfft::FftPlanner;
use rustfft::num_complex::Complex;

use super::host::{need, optional};
use super::{BoxOp, Builder, Inputs, OpError, axis_of, on_host, one, reshaped, size_of};
use crate::burn::{B, Context, Primitive, Value};

/// Frames up to this length are transformed by a matrix product; the matrix of this length takes 64 MiB.
const MAX_BASIS_LENGTH: usize = 4096;

/// The longest transform, and the most rows or columns of a filter bank.
const MAX_LENGTH: usize = 1 << 24;

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "DFT" => dft,
        "STFT" => stft,
        "MelWeightMatrix" => mel_weights,
        _ => return None,
    })
}

/// A transform of one line.
#[derive(Clone, Copy)]
struct Transform {
    inverse: bool,
    onesided: bool,
}

/// The axis is an attribute before opset 20 and an input from then on.
fn dft(node: &Node, opset: i64) -> Result<BoxOp, OpError> {
    let attribute = (opset < 20).then(|| node.int("axis", 1));
    let transform = Transform { inverse: node.int("inverse", 0) != 0, onesided: node.int("onesided", 0) != 0 };
    on_host(move |inputs| {
        let x = need(inputs, 0)?;
        let length = optional(inputs, 1).map(scalar).transpose()?.map(size_of).transpose()?;
        let axis = match attribute {
            Some(axis) => axis,
            None => optional(inputs, 2).map(scalar).transpose()?.unwrap_or(-2),
        };
        let shape = x.shape();
        let axis = axis_of(axis, shape.len())?;
        if axis + 1 == shape.len() || !matches!(shape[shape.len() - 1], 1 | 2) {
            return Err(OpError::new(format!("{shape:?} has no axis {axis} before one of 1 or 2 numbers")));
        }
        Ok(vec![transform.along(x, axis, length)?])
    })
}

impl Transform {
    /// Transforms each line of `x` along `axis`; the last dimension holds real and, where there are two, imaginary parts.
    fn along(self, x: &Tensor, axis: usize, length: Option<usize>) -> Result<Tensor, OpError> {
        let shape = x.shape();
        let values =
            x.to_doubles().ok_or_else(|| OpError::new(format!("floats are needed, but it is {}", x.dtype())))?;
        let parts = shape[shape.len() - 1];
        let half = self.inverse && self.onesided;
        let whole = if half { 2 * shape[axis].saturating_sub(1) } else { shape[axis] };
        let length = length.unwrap_or(whole);
        if length == 0 || length > MAX_LENGTH {
            return Err(OpError::new(format!("a transform of length {length} is not supported")));
        }
        let kept = if self.onesided && !self.inverse { length / 2 + 1 } else { length };
        let out_parts = if half { 1 } else { 2 };
        let mut out_shape = shape.to_vec();
        out_shape[axis] = kept;
        out_shape[shape.len() - 1] = out_parts;
        let too_large = || OpError::new(format!("{out_shape:?} has too many elements"));
        let mut out =
            vec![0f64; element_count(&out_shape).filter(|&count| count <= MAX_GATHERED).ok_or_else(too_large)?];
        let inner: usize = shape[axis + 1..shape.len() - 1].iter().product();
        let outer: usize = shape[..axis].iter().product();
        let mut line = Line::new(self, length);
        for block in 0..outer {
            for column in 0..inner {
                let at = |index: usize| ((block * shape[axis] + index) * inner + column) * parts;
                line.read(shape[axis], |index| {
                    Complex::new(values[at(index)], if parts == 2 { values[at(index) + 1] } else { 0.0 })
                });
                line.transform();
                for index in 0..kept {
                    let to = ((block * kept + index) * inner + column) * out_parts;
                    let value = line.buffer[index];
                    out[to] = value.re;
                    if out_parts == 2 {
                        out[to + 1] = value.im;
                    }
                }
            }
        }
        from_doubles(x.dtype(), &out_shape, &out)
    }
}

/// Elements of a transform's output.
const MAX_GATHERED: usize = 1 << 28;

/// The buffer of one line and its planned transform.
struct Line {
    transform: Transform,
    fft: Arc<dyn rustfft::Fft<f64>>,
    buffer: Vec<Complex<f64>>,
}

impl Line {
    fn new(transform: Transform, length: usize) -> Self {
        let mut planner = FftPlanner::new();
        let fft = if transform.inverse { planner.plan_fft_inverse(length) } else { planner.plan_fft_forward(length) };
        Line { transform, fft, buffer: vec![Complex::default(); length] }
    }

    /// Cuts the line or fills it with zeros. The half of a spectrum that real signals have is completed by its mirror image.
    fn read(&mut self, count: usize, value: impl Fn(usize) -> Complex<f64>) {
        let length = self.buffer.len();
        if !(self.transform.inverse && self.transform.onesided) {
            self.buffer.iter_mut().enumerate().for_each(|(index, slot)| {
                *slot = if index < count { value(index) } else { Complex::default() };
            });
            return;
        }
        for index in 0..=length / 2 {
            let given = if index < count { value(index) } else { Complex::default() };
            let mirror = (length - index) % length;
            // A real signal's first and middle frequency are real.
            self.buffer[index] = if mirror == index { Complex::new(given.re, 0.0) } else { given };
            self.buffer[mirror] = self.buffer[index].conj();
        }
    }

    fn transform(&mut self) {
        self.fft.process(&mut self.buffer);
        if self.transform.inverse {
            let scale = 1.0 / self.buffer.len() as f64;
            self.buffer.iter_mut().for_each(|value| *value *= scale);
        }
    }
}

/// Cosines and sines of one frame length and type, kept from run to run.
type Basis = Mutex<Option<(usize, usize, DType, Primitive)>>;

fn stft(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let onesided = node.int("onesided", 1) != 0;
    let basis = Basis::default();
    one(move |context, mut inputs| {
        let signal = inputs.take(0)?;
        let frames = Frames::read(&signal, &mut inputs, onesided)?;
        let window = inputs.optional(2);
        if frames.complex || frames.count == 0 || frames.length > MAX_BASIS_LENGTH {
            return frames.on_host(signal, window);
        }
        frames.by_product(signal, window, &basis, context)
    })
}

/// How a signal is cut.
#[derive(Clone, Copy)]
struct Frames {
    batch: usize,
    samples: usize,
    complex: bool,
    step: usize,
    length: usize,
    count: usize,
    bins: usize,
}

impl Frames {
    fn read(signal: &Value, inputs: &mut Inputs, onesided: bool) -> Result<Frames, OpError> {
        let shape = signal.shape();
        let (batch, samples, parts) = match shape[..] {
            [batch, samples] => (batch, samples, 1),
            [batch, samples, parts @ (1 | 2)] => (batch, samples, parts),
            _ => {
                return Err(OpError::new(format!(
                    "a signal of shape {shape:?} is none of [N, L], [N, L, 1], [N, L, 2]"
                )));
            }
        };
        let number =
            |value: Value| value.to_ints()?.first().copied().ok_or_else(|| OpError::new("a number is missing"));
        let step = size_of(number(inputs.take(1)?)?)?;
        let window = inputs.optional(2);
        let window_length = window.as_ref().and_then(|window| window.shape().first().copied());
        let length = match inputs.optional(3) {
            Some(length) => size_of(number(length)?)?,
            None => window_length.unwrap_or(samples),
        };
        if step == 0 || length == 0 || length > MAX_LENGTH || window_length.is_some_and(|window| window != length) {
            let window = window_length.unwrap_or(length);
            return Err(OpError::new(format!(
                "frames of {length} by a window of {window} every {step} are not possible"
            )));
        }
        inputs.put_back(2, window);
        let count = if samples < length { 0 } else { 1 + (samples - length) / step };
        let complex = parts == 2;
        let bins = if onesided { length / 2 + 1 } else { length };
        Ok(Frames { batch, samples, complex, step, length, count, bins })
    }

    fn by_product(
        self,
        signal: Value,
        window: Option<Value>,
        basis: &Basis,
        context: &Context,
    ) -> Result<Value, OpError> {
        let dtype = signal.dtype();
        let rows = element_count(&[self.batch, self.count, self.length]);
        let rows = rows.filter(|&count| count <= MAX_GATHERED).ok_or_else(|| OpError::new("it has too many frames"))?;
        let starts = (0..self.count).map(|frame| frame * self.step);
        let indices: Vec<i64> = starts.flat_map(|start| (start..start + self.length).map(|at| at as i64)).collect();
        let indices = Value::ints(&indices).into_int(context)?;
        let signal = reshaped(signal, &[self.batch, self.samples], context)?.into_float(context)?;
        let frames = B::float_select(signal, 1, indices);
        let mut frames = B::float_reshape(frames, Shape::from(vec![rows / self.length, self.length]));
        if let Some(window) = window {
            let window = reshaped(window, &[1, self.length], context)?.into_float(context)?;
            frames = B::float_mul(frames, window);
        }
        let spectrum = B::float_matmul(frames, self.basis(dtype, basis, context)?);
        reshaped(Value::float(spectrum), &[self.batch, self.count, self.bins, 2], context)
    }

    /// `[length, 2 * bins]`: for each bin a column of cosines and one of negative sines.
    fn basis(self, dtype: DType, kept: &Basis, context: &Context) -> Result<Primitive, OpError> {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((length, bins, of, basis)) = kept.as_ref()
            && (*length, *bins, *of) == (self.length, self.bins, dtype)
        {
            return Ok(basis.clone());
        }
        let turn = std::f64::consts::TAU / self.length as f64;
        let mut values = Vec::with_capacity(self.length * self.bins * 2);
        for sample in 0..self.length {
            for bin in 0..self.bins {
                // Reduced first: the product itself loses digits.
                let (sine, cosine) = ((sample * bin % self.length) as f64 * turn).sin_cos();
                values.extend([cosine, -sine]);
            }
        }
        let tensor = from_doubles(dtype, &[self.length, 2 * self.bins], &values)?;
        let basis = Value::host(tensor).into_float(context)?;
        *kept = Some((self.length, self.bins, dtype, basis.clone()));
        Ok(basis)
    }

    fn on_host(self, signal: Value, window: Option<Value>) -> Result<Value, OpError> {
        let signal = signal.into_host()?;
        let dtype = signal.dtype();
        let floats = || OpError::new("the signal and its window must be floats");
        let values = signal.to_doubles().ok_or_else(floats)?;
        let window = match window {
            Some(window) => window.into_host()?.to_doubles().ok_or_else(floats)?,
            None => vec![1.0; self.length],
        };
        let parts = if self.complex { 2 } else { 1 };
        let shape = [self.batch, self.count, self.bins, 2];
        let size = element_count(&shape).filter(|&count| count <= MAX_GATHERED);
        let mut out = Vec::with_capacity(size.ok_or_else(|| OpError::new("it has too many frames"))?);
        let mut line = Line::new(Transform { inverse: false, onesided: false }, self.length);
        for sample in 0..self.batch {
            for frame in 0..self.count {
                let start = sample * self.samples + frame * self.step;
                line.read(self.length, |index| {
                    let at = (start + index) * parts;
                    let imaginary = if self.complex { values[at + 1] } else { 0.0 };
                    Complex::new(values[at], imaginary) * window[index]
                });
                line.transform();
                out.extend(line.buffer[..self.bins].iter().flat_map(|value| [value.re, value.im]));
            }
        }
        Ok(Value::host(from_doubles(dtype, &shape, &out)?))
    }
}

/// ONNX's triangular filters, evenly spaced in mel (O'Shaughnessy's formula).
fn mel_weights(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let dtype = output_type(node)?;
    on_host(move |inputs| {
        let size = |index: usize| size_of(scalar(need(inputs, index)?)?);
        let number = |index: usize| {
            let values = need(inputs, index)?.to_doubles();
            values
                .and_then(|values| values.first().copied())
                .ok_or_else(|| OpError::new(format!("input {index} is no float")))
        };
        let (bins, length, rate) = (size(0)?, size(1)?, size(2)?);
        let (low, high) = (number(3)?, number(4)?);
        let spectrum = length / 2 + 1;
        if bins > MAX_LENGTH || length > MAX_LENGTH || bins.saturating_mul(spectrum) > MAX_LENGTH || rate == 0 {
            return Err(OpError::new(format!("{bins} filters over {length} at {rate} Hz are not supported")));
        }
        let edges = mel_edges(bins, length, rate, low, high);
        let weights = triangles(&edges, bins, spectrum)?;
        Ok(vec![from_doubles(dtype, &[spectrum, bins], &weights)?])
    })
}

/// The frequency bins at which the filters begin, peak and end.
fn mel_edges(bins: usize, length: usize, rate: usize, low: f64, high: f64) -> Vec<usize> {
    let mel = |hertz: f64| 2595.0 * (1.0 + hertz / 700.0).log10();
    let (low, high) = (mel(low), mel(high));
    let step = (high - low) / (bins + 2) as f64;
    let hertz = |index: usize| 700.0 * (10f64.powf((low + step * index as f64) / 2595.0) - 1.0);
    (0..bins + 2).map(|index| ((length + 1) as f64 * hertz(index) / rate as f64).floor().max(0.0) as usize).collect()
}

fn triangles(edges: &[usize], bins: usize, spectrum: usize) -> Result<Vec<f64>, OpError> {
    if edges.iter().any(|&edge| edge >= spectrum) {
        return Err(OpError::new("its upper edge is above half the sample rate"));
    }
    let mut weights = vec![0f64; bins * spectrum];
    for bin in 0..bins {
        let (left, peak, right) = (edges[bin], edges[bin + 1], edges[bin + 2]);
        if left == peak {
            weights[peak * bins + bin] = 1.0;
        } else {
            for at in left..=peak {
                weights[at * bins + bin] = (at - left) as f64 / (peak - left) as f64;
            }
        }
        for at in peak..right {
            weights[at * bins + bin] = (right - at) as f64 / (right - peak) as f64;
        }
    }
    Ok(weights)
}

fn output_type(node: &Node) -> Result<DType, OpError> {
    let code = node.int("output_datatype", i64::from(DType::F32.onnx_code()));
    let dtype = i32::try_from(code).ok().and_then(DType::from_onnx_code);
    dtype.ok_or_else(|| OpError::new(format!("an output of ONNX type {code} is not supported")))
}

/// The one number that a host tensor of integers holds.
pub(super) fn scalar(tensor: &Tensor) -> Result<i64, OpError> {
    let values = Value::host(tensor.clone()).to_ints()?;
    values.first().copied().ok_or_else(|| OpError::new("a number is missing"))
}

/// The numbers in the type asked for; fractions are cut off for integers.
pub(super) fn from_doubles(dtype: DType, shape: &[usize], values: &[f64]) -> Result<Tensor, OpError> {
    fn made<T: Element>(shape: &[usize], values: &[f64], to: impl Fn(f64) -> T) -> Result<Tensor, OpError> {
        Ok(Tensor::from_slice(shape, &values.iter().map(|&value| to(value)).collect::<Vec<_>>())?)
    }
    match dtype {
        DType::F16 => made(shape, values, half::f16::from_f64),
        DType::F32 => made(shape, values, |value| value as f32),
        DType::F64 => made(shape, values, |value| value),
        DType::I8 => made(shape, values, |value| value as i8),
        DType::I16 => made(shape, values, |value| value as i16),
        DType::I32 => made(shape, values, |value| value as i32),
        DType::I64 => made(shape, values, |value| value as i64),
        DType::U8 => made(shape, values, |value| value as u8),
        DType::U16 => made(shape, values, |value| value as u16),
        DType::U32 => made(shape, values, |value| value as u32),
        DType::U64 => made(shape, values, |value| value as u64),
        DType::Bool => Ok(Tensor::bools(shape, &values.iter().map(|&value| value != 0.0).collect::<Vec<_>>())?),
    }
}
