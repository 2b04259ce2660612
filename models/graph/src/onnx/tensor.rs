//! `TensorProto`: a constant and its data, which ONNX allows in two forms.
//!
//! `raw_data` holds the elements little-endian and is kept as a slice of the file. Else one typed list holds them:
//!
//! ```text
//! float_data   FLOAT
//! int32_data   INT32, INT16, INT8, UINT16, UINT8, BOOL, FLOAT16 (as its 16 bits)
//! int64_data   INT64
//! double_data  DOUBLE
//! uint64_data  UINT64, UINT32
//! ```
//!
//! Elements have as many bytes as `dims` asks for, or the tensor is refused; so is an integer that its type cannot hold.

use bytes::Bytes;
use hedge_tensor::{DType, Tensor, element_count};

use super::external::{ExternalData, read_external};
use super::proto::{TensorProto, tensor_proto};
use super::read::{MAX_RANK, ReadError};

/// Reads a constant; `what` names it in errors, such as `initializer 'w'`.
pub(super) fn read_tensor(
    mut proto: TensorProto,
    what: &str,
    external: &dyn ExternalData,
) -> Result<Tensor, ReadError> {
    if proto.segment.is_some() {
        return Err(bad_data(what, "it is split into segments, which no reader supports".into()));
    }
    let dtype = read_dtype(proto.data_type.unwrap_or_default(), what)?;
    let shape = read_dims(&proto.dims, what)?;
    let data = match proto.raw_data.take() {
        _ if is_external(&proto) => {
            let count = element_count(&shape).and_then(|count| count.checked_mul(dtype.size_bytes()));
            let bytes = count.ok_or_else(|| bad_data(what, format!("shape {shape:?} has too many elements")))?;
            read_external(&proto, bytes, external, what)?
        }
        Some(raw) => raw,
        None => typed_data(dtype, &shape, &proto, what)?,
    };
    if dtype == DType::Bool && data.iter().any(|&byte| byte > 1) {
        return Err(bad_data(what, "a boolean is neither 0 nor 1".into()));
    }
    Tensor::new(dtype, shape, data).map_err(|error| bad_data(what, error.to_string()))
}

fn is_external(proto: &TensorProto) -> bool {
    proto.data_location() == tensor_proto::DataLocation::External || !proto.external_data.is_empty()
}

/// Writes a constant in its raw form, which shares the tensor's bytes.
pub(super) fn write_tensor(name: Option<&str>, tensor: &Tensor) -> TensorProto {
    TensorProto {
        name: name.map(str::to_owned),
        // A dimension is at most the length of a `Bytes`, which is at most `isize::MAX`.
        dims: tensor.shape().iter().map(|&dim| i64::try_from(dim).unwrap_or(i64::MAX)).collect(),
        data_type: Some(tensor.dtype().onnx_code()),
        raw_data: Some(tensor.bytes().clone()),
        ..TensorProto::default()
    }
}

/// The element type for ONNX's `code`.
pub(super) fn read_dtype(code: i32, what: &str) -> Result<DType, ReadError> {
    DType::from_onnx_code(code).ok_or_else(|| ReadError::ElementType { what: what.to_owned(), dtype: dtype_name(code) })
}

fn dtype_name(code: i32) -> String {
    tensor_proto::DataType::try_from(code).map_or(format!("{code}"), |dtype| dtype.as_str_name().to_owned())
}

fn read_dims(dims: &[i64], what: &str) -> Result<Vec<usize>, ReadError> {
    if dims.len() > MAX_RANK {
        return Err(bad_data(what, format!("it has {} dimensions; {MAX_RANK} are allowed", dims.len())));
    }
    let dim = |&dim: &i64| usize::try_from(dim).map_err(|_| bad_data(what, format!("its dimension {dim} is negative")));
    dims.iter().map(dim).collect()
}

/// The elements of a typed list as little-endian bytes. Lengths are compared first: what is not there costs nothing.
fn typed_data(dtype: DType, shape: &[usize], proto: &TensorProto, what: &str) -> Result<Bytes, ReadError> {
    let present = match dtype {
        DType::F32 => proto.float_data.len(),
        DType::F64 => proto.double_data.len(),
        DType::I64 => proto.int64_data.len(),
        DType::U32 | DType::U64 => proto.uint64_data.len(),
        _ => proto.int32_data.len(),
    };
    if element_count(shape) != Some(present) {
        return Err(bad_data(what, format!("shape {shape:?} does not fit its {present} elements")));
    }
    let ints = &proto.int32_data;
    match dtype {
        DType::F32 => Some(collect(&proto.float_data, |v| Some(v.to_le_bytes()))),
        DType::F64 => Some(collect(&proto.double_data, |v| Some(v.to_le_bytes()))),
        DType::I64 => Some(collect(&proto.int64_data, |v| Some(v.to_le_bytes()))),
        DType::U64 => Some(collect(&proto.uint64_data, |v| Some(v.to_le_bytes()))),
        DType::U32 => Some(collect(&proto.uint64_data, |v| Some(u32::try_from(v).ok()?.to_le_bytes()))),
        DType::I32 => Some(collect(ints, |v| Some(v.to_le_bytes()))),
        DType::I16 => Some(collect(ints, |v| Some(i16::try_from(v).ok()?.to_le_bytes()))),
        DType::I8 => Some(collect(ints, |v| Some(i8::try_from(v).ok()?.to_le_bytes()))),
        DType::U16 | DType::F16 => Some(collect(ints, |v| Some(u16::try_from(v).ok()?.to_le_bytes()))),
        DType::U8 | DType::Bool => Some(collect(ints, |v| Some(u8::try_from(v).ok()?.to_le_bytes()))),
    }
    .flatten()
    .ok_or_else(|| bad_data(what, format!("a number is out of the range of {dtype}")))
}

fn collect<T: Copy, const N: usize>(values: &[T], bytes: impl Fn(T) -> Option<[u8; N]>) -> Option<Bytes> {
    let mut data = Vec::with_capacity(values.len() * N);
    for &value in values {
        data.extend_from_slice(&bytes(value)?);
    }
    Some(Bytes::from(data))
}

fn bad_data(what: &str, reason: String) -> ReadError {
    ReadError::TensorData { tensor: what.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::NoExternalData;

    fn read(proto: TensorProto) -> Result<Tensor, ReadError> {
        read_tensor(proto, "initializer 'w'", &NoExternalData)
    }

    fn typed(dtype: DType, dims: &[i64]) -> TensorProto {
        TensorProto { dims: dims.to_vec(), data_type: Some(dtype.onnx_code()), ..TensorProto::default() }
    }

    #[test]
    fn every_typed_list_reads_as_the_raw_form_does() {
        let ints = |dtype, values: &[i32]| TensorProto { int32_data: values.to_vec(), ..typed(dtype, &[2]) };
        let cases = [
            (
                TensorProto { float_data: vec![1.5, -2.], ..typed(DType::F32, &[2]) },
                Tensor::from_slice(&[2], &[1.5f32, -2.]),
            ),
            (
                TensorProto { double_data: vec![1.5, -2.], ..typed(DType::F64, &[2]) },
                Tensor::from_slice(&[2], &[1.5f64, -2.]),
            ),
            (
                TensorProto { int64_data: vec![i64::MIN, 3], ..typed(DType::I64, &[2]) },
                Tensor::from_slice(&[2], &[i64::MIN, 3]),
            ),
            (
                TensorProto { uint64_data: vec![u64::MAX, 3], ..typed(DType::U64, &[2]) },
                Tensor::from_slice(&[2], &[u64::MAX, 3]),
            ),
            (TensorProto { uint64_data: vec![7, 3], ..typed(DType::U32, &[2]) }, Tensor::from_slice(&[2], &[7u32, 3])),
            (ints(DType::I32, &[-7, 3]), Tensor::from_slice(&[2], &[-7i32, 3])),
            (ints(DType::I16, &[-7, 3]), Tensor::from_slice(&[2], &[-7i16, 3])),
            (ints(DType::I8, &[-7, 3]), Tensor::from_slice(&[2], &[-7i8, 3])),
            (ints(DType::U16, &[65535, 3]), Tensor::from_slice(&[2], &[65535u16, 3])),
            (ints(DType::U8, &[255, 3]), Tensor::from_slice(&[2], &[255u8, 3])),
            (ints(DType::Bool, &[1, 0]), Tensor::bools(&[2], &[true, false])),
            (
                ints(DType::F16, &[0x3c00, 0xc000]),
                Tensor::from_slice(&[2], &[half::f16::ONE, half::f16::from_f32(-2.)]),
            ),
        ];
        for (proto, expected) in cases {
            let expected = expected.unwrap();
            assert_eq!(read(proto).unwrap(), expected);
            assert_eq!(read(write_tensor(None, &expected)).unwrap(), expected);
        }
    }

    #[test]
    fn a_number_out_of_its_types_range_is_refused() {
        for (dtype, value) in
            [(DType::U8, 256), (DType::I8, -129), (DType::Bool, 2), (DType::F16, -1), (DType::I16, 40_000)]
        {
            let proto = TensorProto { int32_data: vec![value], ..typed(dtype, &[1]) };
            assert!(matches!(read(proto), Err(ReadError::TensorData { .. })), "{dtype} {value}");
        }
        let raw = TensorProto { raw_data: Some(Bytes::from_static(&[2])), ..typed(DType::Bool, &[1]) };
        assert!(matches!(read(raw), Err(ReadError::TensorData { .. })));
    }

    #[test]
    fn declared_elements_that_are_not_there_are_refused_without_allocating_them() {
        for dims in [&[i64::MAX][..], &[i64::MAX, i64::MAX], &[1 << 40], &[-1], &[1; MAX_RANK + 1]] {
            let raw = TensorProto { raw_data: Some(Bytes::from_static(&[0; 4])), ..typed(DType::F32, dims) };
            for proto in [raw, typed(DType::F32, dims)] {
                let message = read(proto).unwrap_err().to_string();
                assert!(message.contains("initializer 'w'"), "{message}");
            }
        }
    }

    #[test]
    fn a_tensor_without_elements_has_no_data() {
        assert_eq!(read(typed(DType::F32, &[0, 3])).unwrap().shape(), [0, 3]);
    }

    #[test]
    fn types_without_a_host_form_and_data_elsewhere_are_named() {
        let bf16 = TensorProto { data_type: Some(16), ..TensorProto::default() };
        assert!(read(bf16).unwrap_err().to_string().contains("BFLOAT16"));
        let unknown = TensorProto { data_type: Some(99), ..TensorProto::default() };
        assert!(matches!(read(unknown), Err(ReadError::ElementType { dtype, .. }) if dtype == "99"));
        let external = TensorProto { data_location: Some(1), ..typed(DType::F32, &[1]) };
        assert!(matches!(read(external), Err(ReadError::ExternalData { tensor, .. }) if tensor == "initializer 'w'"));
    }
}
