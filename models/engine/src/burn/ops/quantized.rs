//! Quantization as ONNX writes it: numbers as integers times a scale, by tensor, axis or block.
//!
//! What runs on a device stays there: quantized values are whole numbers in the device's floats (exact to 2^24, and 16
//! bits are the most that is quantized to), so that a quantization followed by its inverse is a few float operations.
//! On a CPU without autodiff each of the two is one pass over memory. Division, rounding half to even and saturation are
//! those of onnxruntime, which divides halves as floats.
//!
//! The operators between quantized tensors round where onnxruntime rounds (its kernels for x86-64): a last bit of a float
//! decides ties, which are common where scales are alike, and each tie is a whole step of the output.

mod convolution;
pub(super) mod elementwise;
mod grid;
pub(super) mod linear;
pub(super) mod pool;
mod product;
pub(super) mod softmax;

use burn_backend::ops::FloatTensorOps;
use burn_backend::{FloatDType, Scalar, TensorData, TensorMetadata, read_sync};
use burn_dispatch::DispatchDevice;
use half::f16;
use hedge_graph::Node;
use hedge_tensor::{DType, Element, Tensor};

use self::grid::{Grid, Levels};
use super::{BoxOp, Builder, Inputs, OpError, host, on_host, one};
use crate::burn::{B, Context, Primitive, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "QuantizeLinear" => quantize,
        "DequantizeLinear" => dequantize,
        "DynamicQuantizeLinear" => |_, _| on_host(dynamic),
        _ => return linear::builder(op).or_else(|| convolution::builder(op)),
    })
}

/// Which parameters belong to which elements, as a node says it.
#[derive(Clone, Copy)]
struct Granularity {
    axis: i64,
    block: usize,
}

impl Granularity {
    fn read(node: &Node) -> Result<Self, OpError> {
        Ok(Granularity { axis: node.int("axis", 1), block: super::size_of(node.int("block_size", 0))? })
    }
}

/// The numbers that a quantized type holds.
pub(super) fn range_of(dtype: DType) -> Result<(f32, f32), OpError> {
    match dtype {
        DType::U8 => Ok((0.0, 255.0)),
        DType::I8 => Ok((-128.0, 127.0)),
        DType::U16 => Ok((0.0, 65_535.0)),
        DType::I16 => Ok((-32_768.0, 32_767.0)),
        other => Err(OpError::new(format!("it quantizes to 8 and 16 bits, not to {other}"))),
    }
}

fn type_attribute(node: &Node, name: &str) -> Result<Option<DType>, OpError> {
    match node.int(name, 0) {
        0 => Ok(None),
        code => match i32::try_from(code).ok().and_then(DType::from_onnx_code) {
            Some(dtype) => Ok(Some(dtype)),
            None => Err(OpError::new(format!("{name} {code} is an ONNX type that is not supported"))),
        },
    }
}

fn quantize(node: &Node, opset: i64) -> Result<BoxOp, OpError> {
    let granularity = Granularity::read(node)?;
    let output = type_attribute(node, "output_dtype")?;
    let precision = match type_attribute(node, "precision")? {
        given @ (None | Some(DType::F32 | DType::F16)) => given,
        Some(other) => return Err(OpError::new(format!("a precision of {other} is not supported"))),
    };
    one(move |context, mut inputs| {
        let (x, parameters, zero) = read(&mut inputs)?;
        let dtype = zero.as_ref().map(Value::dtype).or(output).unwrap_or(DType::U8);
        let (low, high) = range_of(dtype)?;
        // From opset 23 on, the division is by default in the type of the scale.
        let default = if opset < 23 { DType::F32 } else { parameters.dtype() };
        let halves = precision.unwrap_or(default) == DType::F16;
        let parameters = Parameters::new(&x, parameters, zero, granularity)?;
        let pass = Pass::Quantize { low, high, halves };
        if is_for_the_host(&x) {
            let tensor = x.into_host().map_err(OpError::new)?;
            let mut values = floats(&tensor)?;
            parameters.pass_over(&mut values, pass)?;
            return Ok(Value::host(narrowed(&values, tensor.shape(), dtype)?));
        }
        let x = if x.is_float() { x.into_float(context)? } else { x.into_whole_floats(context)? };
        Ok(Value::int(parameters.run(single(x), pass, context)?, dtype))
    })
}

fn dequantize(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let granularity = Granularity::read(node)?;
    let output = type_attribute(node, "output_dtype")?;
    one(move |context, mut inputs| {
        let (x, scale, zero) = read(&mut inputs)?;
        if x.is_float() {
            return Err(OpError::new(format!("integers are dequantized, but its input is {}", x.dtype())));
        }
        let dtype = output.unwrap_or(scale.dtype());
        let parameters = Parameters::new(&x, scale, zero, granularity)?;
        if is_for_the_host(&x) {
            let tensor = x.into_host().map_err(OpError::new)?;
            let mut values = floats(&tensor)?;
            parameters.pass_over(&mut values, Pass::Dequantize)?;
            return Ok(Value::host(float_tensor(values, tensor.shape(), dtype)?));
        }
        let y = parameters.run(x.into_whole_floats(context)?, Pass::Dequantize, context)?;
        Ok(Value::float(match dtype {
            DType::F16 => B::float_cast(y, FloatDType::F16),
            DType::F64 => B::float_cast(y, FloatDType::F64),
            _ => y,
        }))
    })
}

fn read(inputs: &mut Inputs) -> Result<(Value, Value, Option<Value>), OpError> {
    Ok((inputs.take(0)?, inputs.take(1)?, inputs.optional(2)))
}

/// What is on the host anyway, and what no device has a form for: scalars and tensors without elements.
fn is_for_the_host(x: &Value) -> bool {
    x.is_host() || x.rank() == 0 || x.shape().contains(&0)
}

fn single(x: Primitive) -> Primitive {
    if x.dtype() == burn_backend::DType::F32 { x } else { B::float_cast(x, FloatDType::F32) }
}

/// One of the two directions.
#[derive(Clone, Copy)]
enum Pass {
    /// To whole numbers from `low` to `high`; `halves` rounds the quotient to 16 bits first.
    Quantize {
        low: f32,
        high: f32,
        halves: bool,
    },
    Dequantize,
}

/// A scale and zero point of an operator, and how they lie on its input.
struct Parameters {
    scale: Value,
    zero: Option<Value>,
    grid: Grid,
}

impl Parameters {
    fn new(x: &Value, scale: Value, zero: Option<Value>, granularity: Granularity) -> Result<Self, OpError> {
        let grid = Grid::new(&x.shape(), &scale.shape(), granularity.axis, granularity.block)?;
        if let Some(shape) = zero.as_ref().map(Value::shape)
            && shape.iter().product::<usize>() != scale.shape().iter().product::<usize>()
        {
            return Err(OpError::new(format!("its scale has shape {:?}, but its zero point {shape:?}", scale.shape())));
        }
        Ok(Parameters { scale, zero, grid })
    }

    fn levels(&self) -> Result<Levels, OpError> {
        let read = |value: &Value| floats(&value.clone().into_host().map_err(OpError::new)?);
        let scales = read(&self.scale)?;
        let zeros = match &self.zero {
            Some(zero) => read(zero)?,
            None => vec![0.0; scales.len()],
        };
        Ok(Levels { scales, zeros })
    }

    fn pass_over(&self, values: &mut [f32], pass: Pass) -> Result<(), OpError> {
        let levels = self.levels()?;
        match pass {
            Pass::Quantize { low, high, halves: false } => {
                self.grid.apply(values, &levels, |x, scale, zero| quantized(x / scale, zero, low, high));
            }
            Pass::Quantize { low, high, halves: true } => self
                .grid
                .apply(values, &levels, |x, scale, zero| quantized(f16::from_f32(x / scale).to_f32(), zero, low, high)),
            Pass::Dequantize => self.grid.apply(values, &levels, |x, scale, zero| (x - zero) * scale),
        }
        Ok(())
    }

    /// The pass over a device's tensor of 32-bit floats.
    fn run(&self, x: Primitive, pass: Pass, context: &Context) -> Result<Primitive, OpError> {
        if matches!(context.device, DispatchDevice::Flex(_)) {
            let data = read_sync(B::float_into_data(x)).map_err(|error| OpError::new(error.to_string()))?;
            let shape = data.shape().to_vec();
            let mut values = data.try_into_vec::<f32>().map_err(|error| OpError::new(format!("{error:?}")))?;
            self.pass_over(&mut values, pass)?;
            return Ok(B::float_from_data(TensorData::new(values, shape), &context.device));
        }
        let scale = Operand::new(&self.scale, &self.grid, context)?;
        let zero = self.zero.as_ref().map(|zero| Operand::new(zero, &self.grid, context)).transpose()?;
        let zero = zero.filter(|zero| !matches!(zero, Operand::Scalar(0.0)));
        Ok(match pass {
            Pass::Quantize { low, high, halves } => {
                let quotient = scale.divide(x);
                let quotient = if halves {
                    B::float_cast(B::float_cast(quotient, FloatDType::F16), FloatDType::F32)
                } else {
                    quotient
                };
                let rounded = B::float_round(quotient);
                let moved = zero.map_or(rounded.clone(), |zero| zero.add(rounded));
                B::float_clamp(moved, Scalar::Float(f64::from(low)), Scalar::Float(f64::from(high)))
            }
            Pass::Dequantize => scale.multiply(zero.map_or(x.clone(), |zero| zero.subtract(x))),
        })
    }
}

/// Parameters as burn takes them.
enum Operand {
    Scalar(f64),
    /// Boxed: burn's handle is over half a kilobyte.
    Tensor(Box<Primitive>),
}

impl Operand {
    fn new(value: &Value, grid: &Grid, context: &Context) -> Result<Self, OpError> {
        if value.is_host() || grid.is_blocked() {
            let values = floats(&value.clone().into_host().map_err(OpError::new)?)?;
            if values.len() == 1 || values.iter().all(|&value| value == 0.0) {
                return Ok(Operand::Scalar(f64::from(values[0])));
            }
            let spread = grid.spread(values);
            let data = TensorData::new(spread.0, spread.1);
            return Ok(Operand::Tensor(Box::new(B::float_from_data(data, &context.device))));
        }
        let tensor = value.clone();
        let tensor =
            if tensor.is_float() { single(tensor.into_float(context)?) } else { tensor.into_whole_floats(context)? };
        Ok(Operand::Tensor(Box::new(B::float_reshape(tensor, grid.aligned_shape().into()))))
    }

    fn divide(self, x: Primitive) -> Primitive {
        match self {
            Operand::Scalar(value) => B::float_div_scalar(x, Scalar::Float(value)),
            Operand::Tensor(tensor) => B::float_div(x, *tensor),
        }
    }

    fn multiply(self, x: Primitive) -> Primitive {
        match self {
            Operand::Scalar(value) => B::float_mul_scalar(x, Scalar::Float(value)),
            Operand::Tensor(tensor) => B::float_mul(x, *tensor),
        }
    }

    fn add(self, x: Primitive) -> Primitive {
        match self {
            Operand::Scalar(value) => B::float_add_scalar(x, Scalar::Float(value)),
            Operand::Tensor(tensor) => B::float_add(x, *tensor),
        }
    }

    fn subtract(self, x: Primitive) -> Primitive {
        match self {
            Operand::Scalar(value) => B::float_sub_scalar(x, Scalar::Float(value)),
            Operand::Tensor(tensor) => B::float_sub(x, *tensor),
        }
    }
}

/// `quotient` rounded half to even and moved by `zero`, saturated to `low..=high`; NaN becomes `low`.
pub(super) fn quantized(quotient: f32, zero: f32, low: f32, high: f32) -> f32 {
    // Saturated first, which whole bounds allow: then adding and taking away 1.5 * 2^23 rounds, for the sum's unit is 1.
    const UNIT: f32 = 12_582_912.0;
    let (low, high) = (low - zero, high - zero);
    let bounded = if quotient > low { quotient } else { low };
    let bounded = if bounded < high { bounded } else { high };
    (bounded + UNIT) - UNIT + zero
}

/// The elements of a number tensor as 32-bit floats.
pub(super) fn floats(tensor: &Tensor) -> Result<Vec<f32>, OpError> {
    fn of<T: Element>(tensor: &Tensor, f: fn(T) -> f32) -> Result<Vec<f32>, OpError> {
        Ok(tensor.to_vec::<T>()?.into_iter().map(f).collect())
    }
    match tensor.dtype() {
        DType::F32 => Ok(tensor.to_vec::<f32>()?),
        DType::F16 => of(tensor, f16::to_f32),
        DType::F64 => of(tensor, |value: f64| value as f32),
        DType::U8 => of::<u8>(tensor, f32::from),
        DType::I8 => of::<i8>(tensor, f32::from),
        DType::U16 => of::<u16>(tensor, f32::from),
        DType::I16 => of::<i16>(tensor, f32::from),
        DType::U32 => of(tensor, |value: u32| value as f32),
        DType::I32 => of(tensor, |value: i32| value as f32),
        DType::U64 => of(tensor, |value: u64| value as f32),
        DType::I64 => of(tensor, |value: i64| value as f32),
        DType::Bool => Err(OpError::new("numbers are needed, but this one is BOOL")),
    }
}

/// Whole numbers in the range of `dtype` as that type.
pub(super) fn narrowed(values: &[f32], shape: &[usize], dtype: DType) -> Result<Tensor, OpError> {
    fn typed<T: Element>(values: &[f32], shape: &[usize], f: fn(f32) -> T) -> Result<Tensor, OpError> {
        Ok(Tensor::from_slice(shape, &values.iter().map(|&value| f(value)).collect::<Vec<T>>())?)
    }
    match dtype {
        DType::U8 => typed(values, shape, |value| value as u8),
        DType::I8 => typed(values, shape, |value| value as i8),
        DType::U16 => typed(values, shape, |value| value as u16),
        DType::I16 => typed(values, shape, |value| value as i16),
        other => Err(OpError::new(format!("{other} is no quantized type"))),
    }
}

/// The numbers that the 256 bytes of an 8-bit type stand for.
fn byte_values(dtype: DType) -> Result<[f32; 256], OpError> {
    let value = |byte: u8| match dtype {
        DType::U8 => Ok(f32::from(byte)),
        DType::I8 => Ok(f32::from(byte.cast_signed())),
        other => Err(OpError::new(format!("8-bit integers are needed, but this is {other}"))),
    };
    let mut values = [0.0; 256];
    for (byte, to) in (0..=u8::MAX).zip(&mut values) {
        *to = value(byte)?;
    }
    Ok(values)
}

/// The byte of a whole number in the range of an 8-bit type, signed or not.
fn byte_of(value: f32) -> u8 {
    (value as i32) as u8
}

/// The scale and the zero point of a whole 8-bit tensor of type `dtype`, at `index` and behind it; without a zero point it
/// is 0.
fn single_level(inputs: &[Option<Tensor>], index: usize, dtype: DType, what: &str) -> Result<(f32, f32), OpError> {
    let scale = product::single(host::need(inputs, index)?, what)?;
    let Some(zero) = host::optional(inputs, index + 1) else { return Ok((scale, 0.0)) };
    if zero.dtype() != dtype {
        return Err(OpError::new(format!("{what} belongs to {dtype}, but its zero point is {}", zero.dtype())));
    }
    Ok((scale, product::single(zero, "its zero point")?))
}

/// Floats as the float type `dtype`.
pub(super) fn float_tensor(values: Vec<f32>, shape: &[usize], dtype: DType) -> Result<Tensor, OpError> {
    Ok(match dtype {
        DType::F32 => Tensor::from_slice(shape, &values)?,
        DType::F16 => Tensor::from_slice(shape, &values.into_iter().map(f16::from_f32).collect::<Vec<_>>())?,
        DType::F64 => Tensor::from_slice(shape, &values.into_iter().map(f64::from).collect::<Vec<_>>())?,
        other => return Err(OpError::new(format!("{other} is no float type"))),
    })
}

/// To 8 bits by the range of the values, which always has 0 in it.
fn dynamic(inputs: &[Option<Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let x = host::need(inputs, 0)?;
    let mut values = floats(x)?;
    let (scale, zero) = dynamic_range(&values);
    for value in &mut values {
        *value = quantized(*value / scale, zero, 0.0, 255.0);
    }
    let y = narrowed(&values, x.shape(), DType::U8)?;
    Ok(vec![y, Tensor::scalar(scale), Tensor::scalar(zero as u8)])
}

/// The scale and zero point of unsigned 8 bits that hold all of `values`.
pub(super) fn dynamic_range(values: &[f32]) -> (f32, f32) {
    let (low, high) = values.iter().fold((0f32, 0f32), |(low, high), &value| (low.min(value), high.max(value)));
    let scale = if low == high { 1.0 } else { (high - low) / 255.0 };
    (scale, (-low / scale).clamp(0.0, 255.0).round_ties_even())
}
