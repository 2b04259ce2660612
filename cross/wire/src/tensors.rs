//! Tensors in a message.
//!
//! ```text
//! {0: name (text), 1: dtype (uint, see DType::wire_code), 2: shape [uint, …], 3: data (bytes), ?4: encoding (uint)}
//!
//! encoding absent   data are the elements, row-major, little-endian
//! encoding 1        data are one zstd frame that decompresses into exactly as many bytes as dtype and shape ask for
//! ```
//!
//! Compression is used where it saves at least 10 % of a tensor of at least [`MIN_COMPRESSED_BYTES`]. Decompression writes
//! into a buffer of the declared size, which was checked against the message's budget first: a bomb fails, it does not grow.

use std::cell::RefCell;

use bytes::Bytes;
use hedge_tensor::{DType, NamedTensor, Tensor, TensorError, element_count};
use zstd::bulk::{Compressor, Decompressor};

use crate::cbor::{Key, Reader, Writer, required};
use crate::error::{DecodeError, EncodeError};
use crate::limits::{MAX_NAME_BYTES, MAX_RANK, MAX_TENSORS, MIN_COMPRESSED_BYTES};

type WriteResult = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

/// The code of zstd under key 4.
const ZSTD: u64 = 1;

/// The fastest level: bodies are small and the saving is decided by the data.
const ZSTD_LEVEL: i32 = 1;

/// Bytes of keys and headers around a tensor's name and data, for sizing buffers.
const OVERHEAD: usize = 64;

thread_local! {
    // A zstd context is hundreds of KiB to set up and reusable: one a thread.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = RefCell::new(Compressor::new(ZSTD_LEVEL).ok());
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = RefCell::new(Decompressor::new().ok());
}

/// An upper estimate of the bytes that `tensors` take in a message.
pub(crate) fn capacity(tensors: &[NamedTensor]) -> usize {
    tensors.iter().map(|named| OVERHEAD + named.name.len() + named.tensor.bytes().len()).sum()
}

/// Writes `tensors` as an array.
pub(crate) fn write(writer: &mut Writer, tensors: &[NamedTensor]) -> WriteResult {
    writer.array(tensors.len() as u64)?;
    tensors.iter().try_for_each(|named| write_one(writer, named))
}

/// Bytes that the tensors of a message may still have.
struct Budget {
    limit: usize,
    left: usize,
}

/// Reads an array of tensors, which may have `limit` bytes together once decompressed.
pub(crate) fn read(reader: &mut Reader<'_>, limit: usize) -> Result<Vec<NamedTensor>, DecodeError> {
    let mut budget = Budget { limit, left: limit };
    reader.array("tensors", MAX_TENSORS, |reader| read_one(reader, &mut budget))
}

/// Whether any receiver would take `tensors` in a message whose tensors may have `limit` bytes.
pub(crate) fn check(tensors: &[NamedTensor], limit: usize) -> Result<(), EncodeError> {
    let within = |what, limit, actual| match actual <= limit {
        true => Ok(()),
        false => Err(EncodeError::OverLimit { what, limit, actual }),
    };
    within("number of tensors", MAX_TENSORS, tensors.len())?;
    for NamedTensor { name, tensor } in tensors {
        within("length of a tensor's name", MAX_NAME_BYTES, name.len())?;
        within("rank of a tensor", MAX_RANK, tensor.shape().len())?;
    }
    let bytes = tensors.iter().map(|named| named.tensor.bytes().len()).sum();
    within("bytes of all tensors", limit, bytes)
}

fn write_one(writer: &mut Writer, NamedTensor { name, tensor }: &NamedTensor) -> WriteResult {
    let compressed = compress(tensor.bytes());
    writer.map(if compressed.is_some() { 5 } else { 4 })?;
    writer.u8(0)?.str(name)?;
    writer.u8(1)?.u8(tensor.dtype().wire_code())?;
    writer.u8(2)?.array(tensor.shape().len() as u64)?;
    for &dimension in tensor.shape() {
        writer.u64(dimension as u64)?;
    }
    match compressed {
        None => writer.u8(3)?.bytes(tensor.bytes())?.ok(),
        Some(data) => writer.u8(3)?.bytes(&data)?.u8(4)?.u64(ZSTD)?.ok(),
    }
}

/// The zstd frame of `data` where it is worth it.
fn compress(data: &[u8]) -> Option<Vec<u8>> {
    if data.len() < MIN_COMPRESSED_BYTES {
        return None;
    }
    COMPRESSOR.with_borrow_mut(|compressor| {
        // Room for 90 % only: a frame that saves less fails early instead of being made and thrown away.
        let mut frame = Vec::with_capacity(data.len() - data.len().div_ceil(10));
        compressor.as_mut()?.compress_to_buffer(data, &mut frame).ok()?;
        Some(frame)
    })
}

fn read_one(reader: &mut Reader<'_>, budget: &mut Budget) -> Result<NamedTensor, DecodeError> {
    let (mut name, mut dtype, mut shape, mut data, mut encoding) = (None, None, None, None, None);
    reader.map("tensor", |reader, key| {
        match key {
            0 => name = Some(reader.text("tensor name", MAX_NAME_BYTES)?),
            1 => dtype = Some(read_dtype(reader)?),
            2 => shape = Some(read_shape(reader, budget)?),
            3 => data = Some(reader.bytes("tensor data")?),
            4 => encoding = Some(reader.u64("tensor encoding")?),
            _ => return Ok(Key::Unknown),
        }
        Ok(Key::Known)
    })?;
    let name = required(name, "tensor", 0, "name")?;
    let dtype = required(dtype, "tensor", 1, "dtype")?;
    let shape = required(shape, "tensor", 2, "shape")?;
    let data = required(data, "tensor", 3, "data")?;

    let expected = budget.spend(dtype, &shape)?;
    let data = match encoding {
        None => data,
        Some(ZSTD) => decompress(name, &data, expected)?,
        Some(code) => return Err(DecodeError::Unknown { what: "tensor encoding", code }),
    };
    let actual = data.len();
    let tensor = Tensor::new(dtype, shape, data).map_err(|error| match error {
        TensorError::WrongLength { .. } => DecodeError::TensorLength { name: name.to_owned(), expected, actual },
        other => DecodeError::Malformed { field: "tensor shape", at: 0, reason: other.to_string() },
    })?;
    Ok(NamedTensor { name: name.to_owned(), tensor })
}

fn read_dtype(reader: &mut Reader<'_>) -> Result<DType, DecodeError> {
    let code = reader.u8("tensor dtype")?;
    DType::from_wire_code(code).ok_or(DecodeError::Unknown { what: "dtype", code: u64::from(code) })
}

fn read_shape(reader: &mut Reader<'_>, budget: &Budget) -> Result<Vec<usize>, DecodeError> {
    reader.array("rank of a tensor", MAX_RANK, |reader| {
        let dimension = reader.u64("tensor shape")?;
        usize::try_from(dimension).map_err(|_| budget.exceeded(dimension))
    })
}

impl Budget {
    /// The bytes that dtype and shape ask for, which must be left.
    fn spend(&mut self, dtype: DType, shape: &[usize]) -> Result<usize, DecodeError> {
        let bytes = element_count(shape).and_then(|count| count.checked_mul(dtype.size_bytes()));
        match bytes {
            Some(bytes) if bytes <= self.left => {
                self.left -= bytes;
                Ok(bytes)
            }
            Some(bytes) => Err(self.exceeded((self.limit - self.left).saturating_add(bytes) as u64)),
            None => Err(self.exceeded(u64::MAX)),
        }
    }

    fn exceeded(&self, actual: u64) -> DecodeError {
        DecodeError::OverLimit { what: "bytes of all tensors", limit: self.limit as u64, actual }
    }
}

fn decompress(name: &str, frame: &[u8], expected: usize) -> Result<Bytes, DecodeError> {
    let failed = |reason: String| DecodeError::Compression { name: name.to_owned(), expected, reason };
    let mut data = Vec::with_capacity(expected);
    DECOMPRESSOR.with_borrow_mut(|decompressor| {
        let decompressor = decompressor.as_mut().ok_or_else(|| failed("no memory for zstd".to_owned()))?;
        decompressor.decompress_to_buffer(frame, &mut data).map_err(|error| failed(error.to_string()))
    })?;
    Ok(Bytes::from(data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MAX_TENSOR_BYTES;
    use crate::testing::from_hex;

    fn encoded(tensors: &[NamedTensor]) -> Bytes {
        Bytes::from(crate::cbor::write(0, |writer| write(writer, tensors)))
    }

    fn decoded(bytes: &Bytes) -> Result<Vec<NamedTensor>, DecodeError> {
        let mut reader = Reader::new("test", bytes, 1 << 20)?;
        let tensors = read(&mut reader, MAX_TENSOR_BYTES)?;
        reader.finish("test")?;
        Ok(tensors)
    }

    fn bytes_tensor(data: Vec<u8>) -> NamedTensor {
        NamedTensor::new("x", Tensor::new(DType::U8, vec![data.len()], Bytes::from(data)).unwrap())
    }

    /// One tensor of the U8 `shape` over `data` that claims to be a zstd frame.
    fn frame_tensor(shape: &[u64], data: &[u8]) -> Bytes {
        Bytes::from(crate::cbor::write(0, |writer| {
            writer.array(1)?.map(5)?.u8(0)?.str("x")?.u8(1)?.u8(1)?.u8(2)?.array(shape.len() as u64)?;
            shape.iter().try_for_each(|&dimension| writer.u64(dimension)?.ok())?;
            writer.u8(3)?.bytes(data)?.u8(4)?.u8(1)?.ok()
        }))
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 0x2545_f491_4f6c_dd1du64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn every_dtype_scalars_and_empty_tensors_round_trip() {
        let mut tensors: Vec<NamedTensor> = DType::all()
            .map(|dtype| NamedTensor::new(dtype.oip_name(), Tensor::zeros(dtype, vec![1, 2, 3]).unwrap()))
            .collect();
        tensors.push(NamedTensor::new("scalar", Tensor::scalar(1.5f32)));
        tensors.push(NamedTensor::new("empty", Tensor::zeros(DType::F64, vec![1, 0]).unwrap()));
        assert_eq!(decoded(&encoded(&tensors)).unwrap(), tensors);
    }

    #[test]
    fn decoded_elements_share_the_message_s_memory() {
        let body = encoded(&[bytes_tensor(noise(512))]);
        let tensors = decoded(&body).unwrap();
        let range = body.as_ptr_range();
        assert!(range.contains(&tensors[0].tensor.bytes().as_ptr()));
    }

    #[test]
    fn zstd_is_used_only_where_it_saves_a_tenth() {
        let repetitive = bytes_tensor(vec![7; 4096]);
        let body = encoded(std::slice::from_ref(&repetitive));
        assert!(body.len() < 100, "{} bytes", body.len());
        assert_eq!(decoded(&body).unwrap(), [repetitive]);

        for incompressible in [bytes_tensor(noise(4096)), bytes_tensor(vec![7; MIN_COMPRESSED_BYTES - 1])] {
            let body = encoded(std::slice::from_ref(&incompressible));
            assert!(body.len() > incompressible.tensor.bytes().len(), "raw");
            assert_eq!(decoded(&body).unwrap(), [incompressible]);
        }

        // 5 % of zeros in noise: zstd would save less than a tenth.
        let mut slight = noise(8192);
        slight[..400].fill(0);
        assert!(encoded(&[bytes_tensor(slight)]).len() > 8192);
    }

    #[test]
    fn a_decompression_bomb_is_refused_without_being_inflated() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).unwrap();
        assert!(bomb.len() < 10_000);
        // Declared as large as it is: over the budget.
        let declared = frame_tensor(&[64 << 20], &bomb);
        assert!(matches!(decoded(&declared), Err(DecodeError::OverLimit { what: "bytes of all tensors", .. })));
        // Declared small: it does not fit the buffer of that size.
        let hidden = frame_tensor(&[64], &bomb);
        assert!(matches!(decoded(&hidden), Err(DecodeError::Compression { expected: 64, .. })));
        // Many within the budget each, but not together.
        let half = MAX_TENSOR_BYTES / 2 + 1;
        let two = [bytes_tensor(vec![0; half]), bytes_tensor(vec![0; half])];
        assert!(matches!(decoded(&encoded(&two)), Err(DecodeError::OverLimit { what: "bytes of all tensors", .. })));
    }

    #[test]
    fn a_frame_that_is_short_broken_or_empty_is_refused() {
        let frame = zstd::bulk::compress(&[1; 100], 1).unwrap();
        assert_eq!(decoded(&frame_tensor(&[100], &frame)).unwrap()[0].tensor.bytes().as_ref(), [1; 100]);
        assert!(matches!(decoded(&frame_tensor(&[101], &frame)), Err(DecodeError::TensorLength { actual: 100, .. })));
        assert!(matches!(decoded(&frame_tensor(&[99], &frame)), Err(DecodeError::Compression { .. })));
        assert!(matches!(decoded(&frame_tensor(&[100], &frame[..5])), Err(DecodeError::Compression { .. })));
        assert!(matches!(decoded(&frame_tensor(&[100], b"not zstd")), Err(DecodeError::Compression { .. })));
    }

    #[test]
    fn shapes_that_lie_about_their_data_are_refused_before_allocation() {
        let tensor =
            |shape: &str, data: &str| decoded(&Bytes::from(from_hex(&format!("81a4 006178 010a 02{shape} 03{data}"))));
        assert!(tensor("8101", "4400000000").is_ok());
        assert!(matches!(tensor("8102", "4400000000"), Err(DecodeError::TensorLength { expected: 8, actual: 4, .. })));
        assert!(matches!(tensor("8100", "4400000000"), Err(DecodeError::TensorLength { expected: 0, actual: 4, .. })));
        assert!(matches!(tensor("811b7fffffffffffffff", "40"), Err(DecodeError::OverLimit { .. })));
        assert!(matches!(tensor("811bffffffffffffffff", "40"), Err(DecodeError::OverLimit { .. })));
        assert!(matches!(tensor("821b00000001000000001b0000000100000000", "40"), Err(DecodeError::OverLimit { .. })));
        assert!(matches!(
            tensor("89010101010101010101", "4400000000"),
            Err(DecodeError::OverLimit { what: "rank of a tensor", .. })
        ));
    }

    #[test]
    fn unknown_types_encodings_and_missing_fields_are_named() {
        let tensor = |hex: &str| decoded(&Bytes::from(from_hex(&format!("81{hex}")))).unwrap_err();
        assert!(matches!(tensor("a4 006178 010c 028101 034100"), DecodeError::Unknown { what: "dtype", code: 12 }));
        assert!(matches!(
            tensor("a5 006178 0101 028101 034100 0402"),
            DecodeError::Unknown { what: "tensor encoding", code: 2 }
        ));
        assert!(matches!(tensor("a3 0101 028101 034100"), DecodeError::Missing { key: 0, field: "name", .. }));
        assert!(matches!(tensor("a3 006178 028101 034100"), DecodeError::Missing { key: 1, .. }));
        assert!(matches!(tensor("a3 006178 0101 034100"), DecodeError::Missing { key: 2, .. }));
        assert!(matches!(tensor("a3 006178 0101 028101"), DecodeError::Missing { key: 3, .. }));
    }

    #[test]
    fn what_a_receiver_would_refuse_is_refused_before_sending() {
        let tensor = Tensor::scalar(0u8);
        let many = vec![NamedTensor::new("x", tensor.clone()); MAX_TENSORS + 1];
        assert!(matches!(
            check(&many, MAX_TENSOR_BYTES),
            Err(EncodeError::OverLimit { what: "number of tensors", .. })
        ));
        let named = [NamedTensor::new("x".repeat(MAX_NAME_BYTES + 1), tensor)];
        assert!(matches!(
            check(&named, MAX_TENSOR_BYTES),
            Err(EncodeError::OverLimit { what: "length of a tensor's name", .. })
        ));
        let deep = [NamedTensor::new("x", Tensor::zeros(DType::U8, vec![1; MAX_RANK + 1]).unwrap())];
        assert!(matches!(check(&deep, MAX_TENSOR_BYTES), Err(EncodeError::OverLimit { what: "rank of a tensor", .. })));
        assert!(matches!(
            check(&[bytes_tensor(vec![0; MAX_TENSOR_BYTES + 1])], MAX_TENSOR_BYTES),
            Err(EncodeError::OverLimit { what: "bytes of all tensors", .. })
        ));
    }
}
