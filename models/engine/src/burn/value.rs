//! A value between two operators: a tensor on the host, where shapes and other small integers stay, or on the device; a
//! sequence of tensors; or an optional without an element (one with an element is that element).

use std::borrow::Cow;

use burn_backend::ops::{BoolTensorOps, FloatTensorOps, IntTensorOps};
use burn_backend::{
    AllocationProperty, BoolStore, Bytes, DType as BurnType, FloatDType, IntDType, TensorData, TensorMetadata,
    read_sync,
};
use burn_dispatch::{BackendTensor, DispatchTensorKind};
use hedge_tensor::{DType, Element, Tensor};

use super::ops::OpError;
use super::{B, Context, Primitive};

/// A tensor with its ONNX type, which a device may store in another (booleans as words, integers at 32 bits).
#[derive(Clone, Debug)]
pub(crate) struct Value {
    dtype: DType,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Host(Tensor),
    /// Boxed: burn's handle is over half a kilobyte, and values are moved at each step.
    Device(Box<Primitive>),
    Sequence(Vec<Value>),
    /// An optional that holds nothing.
    Nothing,
}

impl Value {
    pub(crate) fn host(tensor: Tensor) -> Self {
        Value { dtype: tensor.dtype(), place: Place::Host(tensor) }
    }

    /// A one-dimensional host value of 64-bit integers, as shapes and axes are.
    pub(crate) fn ints(values: &[i64]) -> Self {
        Value::host(Tensor::from_slice(&[values.len()], values).expect("the shape is the slice's own"))
    }

    pub(crate) fn float(tensor: Primitive) -> Self {
        let dtype = match tensor.dtype() {
            BurnType::F64 => DType::F64,
            BurnType::F16 => DType::F16,
            _ => DType::F32,
        };
        Value { dtype, place: Place::Device(Box::new(tensor)) }
    }

    /// A tensor that stands for integers of `dtype`, whatever the device computes them in; a float tensor of whole
    /// numbers is welcome, so that values which are quantized and dequantized again never leave the device's floats.
    pub(crate) fn int(tensor: Primitive, dtype: DType) -> Self {
        Value { dtype, place: Place::Device(Box::new(tensor)) }
    }

    pub(crate) fn bool(tensor: Primitive) -> Self {
        Value { dtype: DType::Bool, place: Place::Device(Box::new(tensor)) }
    }

    /// A sequence of tensors of one type, which is `dtype` where there are none.
    pub(crate) fn sequence(values: Vec<Value>, dtype: DType) -> Self {
        Value { dtype: values.first().map_or(dtype, Value::dtype), place: Place::Sequence(values) }
    }

    /// An optional without an element; it has no type of its own.
    pub(crate) fn nothing() -> Self {
        Value { dtype: DType::F32, place: Place::Nothing }
    }

    /// A tensor's type, or that of a sequence's tensors.
    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    pub(crate) fn is_float(&self) -> bool {
        self.dtype.is_float()
    }

    pub(crate) fn is_host(&self) -> bool {
        matches!(self.place, Place::Host(_))
    }

    pub(crate) fn is_sequence(&self) -> bool {
        matches!(self.place, Place::Sequence(_))
    }

    pub(crate) fn is_nothing(&self) -> bool {
        matches!(self.place, Place::Nothing)
    }

    /// The tensors of a sequence.
    pub(crate) fn into_sequence(self) -> Result<Vec<Value>, OpError> {
        match self.place {
            Place::Sequence(values) => Ok(values),
            _ => Err(OpError::new("a sequence is needed, but this is a single value")),
        }
    }

    /// Whether `context`'s device can neither hold nor compute it: a type that it lacks, or integers beyond its own.
    pub(crate) fn is_beyond(&self, context: &Context) -> bool {
        match &self.place {
            Place::Host(tensor) => !context.has(self.dtype) || tensor.is_empty() || !fits(tensor, context.int),
            Place::Device(_) | Place::Nothing => false,
            Place::Sequence(values) => values.iter().any(|value| value.is_beyond(context)),
        }
    }

    /// The same value with all its tensors on the host.
    pub(crate) fn on_host(self) -> Result<Value, OpError> {
        match self.place {
            Place::Host(_) | Place::Nothing => Ok(self),
            Place::Device(_) => self.into_host().map(Value::host),
            Place::Sequence(values) => {
                let values = values.into_iter().map(Value::on_host).collect::<Result<_, _>>()?;
                Ok(Value::sequence(values, self.dtype))
            }
        }
    }

    /// A tensor's dimensions; other values have none.
    pub(crate) fn shape(&self) -> Vec<usize> {
        match &self.place {
            Place::Host(tensor) => tensor.shape().to_vec(),
            Place::Device(tensor) => tensor.shape().to_vec(),
            Place::Sequence(_) | Place::Nothing => Vec::new(),
        }
    }

    pub(crate) fn rank(&self) -> usize {
        match &self.place {
            Place::Host(tensor) => tensor.shape().len(),
            Place::Device(tensor) => tensor.rank(),
            Place::Sequence(_) | Place::Nothing => 0,
        }
    }

    /// The device's float tensor of a float value.
    pub(crate) fn into_float(self, context: &Context) -> Result<Primitive, OpError> {
        if !self.dtype.is_float() {
            return Err(OpError::new(format!("a float tensor is needed, but this one is {}", self.dtype)));
        }
        match self.place {
            Place::Device(tensor) => Ok(*tensor),
            Place::Host(tensor) => Ok(B::float_from_data(float_data(&tensor)?, &context.device)),
            _ => Err(no_tensor()),
        }
    }

    /// The device's integer tensor of an integer value.
    pub(crate) fn into_int(self, context: &Context) -> Result<Primitive, OpError> {
        if self.dtype.is_float() || self.dtype == DType::Bool {
            return Err(OpError::new(format!("an integer tensor is needed, but this one is {}", self.dtype)));
        }
        match self.place {
            Place::Device(tensor) if tensor.dtype().is_float() => Ok(B::float_into_int(*tensor, context.int)),
            Place::Device(tensor) => Ok(*tensor),
            Place::Host(tensor) => Ok(B::int_from_data(int_data(&tensor, context)?, &context.device)),
            _ => Err(no_tensor()),
        }
    }

    /// The device's float tensor of an integer value: its own where it is held in floats.
    pub(crate) fn into_whole_floats(self, context: &Context) -> Result<Primitive, OpError> {
        match self.place {
            Place::Device(tensor) if tensor.dtype().is_float() => Ok(*tensor),
            _ => Ok(B::int_into_float(self.into_int(context)?, FloatDType::F32)),
        }
    }

    /// The device's boolean tensor of a boolean value.
    pub(crate) fn into_bool(self, context: &Context) -> Result<Primitive, OpError> {
        if self.dtype != DType::Bool {
            return Err(OpError::new(format!("a boolean tensor is needed, but this one is {}", self.dtype)));
        }
        match self.place {
            Place::Device(tensor) => Ok(*tensor),
            Place::Host(tensor) => {
                let data = TensorData::new(tensor.to_bools()?, tensor.shape().to_vec());
                Ok(B::bool_from_data(data.convert_dtype(context.bool.into()), &context.device))
            }
            _ => Err(no_tensor()),
        }
    }

    /// The value on the device; scalars (see [`Context::is_gpu`]) and what the device cannot hold stay on the host.
    pub(crate) fn into_device(self, context: &Context) -> Result<Value, OpError> {
        if self.rank() == 0 || self.is_beyond(context) {
            return Ok(self);
        }
        let dtype = self.dtype;
        let tensor = match dtype {
            DType::Bool => self.into_bool(context)?,
            _ if dtype.is_float() => self.into_float(context)?,
            _ => self.into_int(context)?,
        };
        Ok(Value { dtype, place: Place::Device(Box::new(tensor)) })
    }

    /// The value on the host; waits for the device.
    pub(crate) fn into_host(self) -> Result<Tensor, OpError> {
        let tensor = match self.place {
            Place::Host(tensor) => return Ok(tensor),
            Place::Device(tensor) => *tensor,
            Place::Sequence(_) | Place::Nothing => return Err(no_tensor()),
        };
        let data = match self.dtype {
            DType::Bool => read_sync(B::bool_into_data(tensor)),
            _ if tensor.dtype().is_float() => read_sync(B::float_into_data(tensor)),
            _ => read_sync(B::int_into_data(tensor)),
        };
        host_tensor(data.map_err(|error| OpError::Device(error.to_string()))?, self.dtype)
    }

    /// The elements of a float tensor in single precision on the CPU, where they lie if they lie there in order.
    pub(crate) fn singles(&self) -> Result<Cow<'_, [f32]>, OpError> {
        match &self.place {
            Place::Device(tensor) => singles(tensor),
            _ => Ok(Cow::Owned(self.clone().into_host()?.to_vec::<f32>()?)),
        }
    }

    /// The memory of a float tensor in single precision on the CPU that nothing else needs.
    pub(crate) fn into_buffer(self) -> Option<Vec<f32>> {
        let Place::Device(tensor) = self.place else { return None };
        match tensor.kind {
            DispatchTensorKind::Flex(BackendTensor::Float(floats))
                if floats.is_unique() && floats.is_contiguous() && floats.dtype() == BurnType::F32 =>
            {
                // The data's own conversion would copy what is shared with the model's input.
                floats.into_data().into_parts().0.try_into_vec::<f32>().ok()
            }
            _ => None,
        }
    }

    /// The elements of an integer value that is held in floats, where they lie; of another one nothing.
    pub(crate) fn held_singles(&self) -> Option<Result<Cow<'_, [f32]>, OpError>> {
        match &self.place {
            Place::Device(tensor) if tensor.dtype() == BurnType::F32 => Some(singles(tensor)),
            _ => None,
        }
    }

    /// The elements of an integer value, for operators that need them to know their output's shape.
    pub(crate) fn to_ints(&self) -> Result<Vec<i64>, OpError> {
        let tensor = self.clone().into_host()?;
        let ints = match tensor.dtype() {
            DType::I64 => tensor.to_vec::<i64>()?,
            DType::I32 => widen::<i32>(&tensor)?,
            DType::U8 => widen::<u8>(&tensor)?,
            DType::I8 => widen::<i8>(&tensor)?,
            DType::U16 => widen::<u16>(&tensor)?,
            DType::I16 => widen::<i16>(&tensor)?,
            DType::U32 => widen::<u32>(&tensor)?,
            other => return Err(OpError::new(format!("integers are needed, but this one is {other}"))),
        };
        Ok(ints)
    }
}

/// The elements of a tensor of single floats on the CPU in their order, where they lie if that is how they lie.
pub(crate) fn singles(tensor: &Primitive) -> Result<Cow<'_, [f32]>, OpError> {
    if let DispatchTensorKind::Flex(BackendTensor::Float(floats)) = &tensor.kind
        && let Some(values) = floats.as_slice::<f32>()
    {
        return Ok(Cow::Borrowed(values));
    }
    let data = read_sync(B::float_into_data(tensor.clone())).map_err(|error| OpError::Device(error.to_string()))?;
    data.try_into_vec::<f32>().map(Cow::Owned).map_err(|error| OpError::Device(format!("{error:?}")))
}

fn no_tensor() -> OpError {
    OpError::new("a tensor is needed, but this is a sequence or an empty optional")
}

/// Whether every element has the same value in the device's integers.
fn fits(tensor: &Tensor, int: IntDType) -> bool {
    if int == IntDType::I64 {
        return tensor.dtype() != DType::U64 || all::<u64>(tensor, |value| i64::try_from(value).is_ok());
    }
    match tensor.dtype() {
        DType::I64 => all::<i64>(tensor, |value| i32::try_from(value).is_ok()),
        DType::U64 => all::<u64>(tensor, |value| i32::try_from(value).is_ok()),
        DType::U32 => all::<u32>(tensor, |value| i32::try_from(value).is_ok()),
        _ => true,
    }
}

fn all<T: Element>(tensor: &Tensor, test: impl Fn(T) -> bool) -> bool {
    tensor.to_vec::<T>().is_ok_and(|values| values.into_iter().all(test))
}

fn widen<T: Element + Into<i64>>(tensor: &Tensor) -> Result<Vec<i64>, OpError> {
    Ok(tensor.to_vec::<T>()?.into_iter().map(Into::into).collect())
}

/// The tensor's own bytes where they are aligned for its type, so that weights are in memory once.
fn shared_data(tensor: &Tensor) -> Option<TensorData> {
    let bytes = tensor.bytes();
    let aligned = bytes.as_ptr().addr().is_multiple_of(tensor.dtype().size_bytes());
    let shared = || Bytes::from_shared(bytes.clone(), AllocationProperty::Native);
    aligned.then(|| TensorData::from_bytes(shared(), tensor.shape().to_vec(), burn_type(tensor.dtype())))
}

fn float_data(tensor: &Tensor) -> Result<TensorData, OpError> {
    if let Some(data) = shared_data(tensor) {
        return Ok(data);
    }
    let shape = tensor.shape().to_vec();
    Ok(match tensor.dtype() {
        DType::F16 => TensorData::new(tensor.to_vec::<half::f16>()?, shape),
        DType::F64 => TensorData::new(tensor.to_vec::<f64>()?, shape),
        _ => TensorData::new(tensor.to_vec::<f32>()?, shape),
    })
}

fn int_data(tensor: &Tensor, context: &Context) -> Result<TensorData, OpError> {
    let shape = tensor.shape().to_vec();
    let data = match tensor.dtype() {
        DType::U8 => TensorData::new(tensor.to_vec::<u8>()?, shape),
        DType::I8 => TensorData::new(tensor.to_vec::<i8>()?, shape),
        DType::U16 => TensorData::new(tensor.to_vec::<u16>()?, shape),
        DType::I16 => TensorData::new(tensor.to_vec::<i16>()?, shape),
        DType::U32 => TensorData::new(tensor.to_vec::<u32>()?, shape),
        DType::I32 => TensorData::new(tensor.to_vec::<i32>()?, shape),
        DType::U64 => TensorData::new(tensor.to_vec::<u64>()?, shape),
        _ => TensorData::new(tensor.to_vec::<i64>()?, shape),
    };
    data.try_cast(context.int.into()).map_err(|_| {
        OpError::new(format!("a {} tensor holds integers that do not fit this device's integers", tensor.dtype()))
    })
}

/// Burn's data as the ONNX type that it stands for.
fn host_tensor(data: TensorData, dtype: DType) -> Result<Tensor, OpError> {
    let shape = data.shape().to_vec();
    let data = data.convert_dtype(burn_type(dtype));
    let bytes = match dtype {
        DType::Bool => {
            let values = data.try_to_vec::<bool>().map_err(|error| OpError::Device(format!("{error:?}")))?;
            return Ok(Tensor::bools(&shape, &values)?);
        }
        _ => bytes::Bytes::copy_from_slice(data.as_bytes()),
    };
    Ok(Tensor::new(dtype, shape, bytes)?)
}

fn burn_type(dtype: DType) -> BurnType {
    match dtype {
        DType::Bool => BurnType::Bool(BoolStore::Native),
        DType::U8 => BurnType::U8,
        DType::I8 => BurnType::I8,
        DType::U16 => BurnType::U16,
        DType::I16 => BurnType::I16,
        DType::U32 => BurnType::U32,
        DType::I32 => BurnType::I32,
        DType::U64 => BurnType::U64,
        DType::I64 => BurnType::I64,
        DType::F16 => BurnType::F16,
        DType::F32 => BurnType::F32,
        DType::F64 => BurnType::F64,
    }
}
