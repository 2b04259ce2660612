//! Tensors within a value on disk.
//!
//! ```text
//! u16 length of name | name (UTF-8) | u8 wire code of dtype | u8 rank | rank x u64 dimension | u32 length | bytes
//! ```
//!
//! Integers are little-endian. Reading never believes a length: what does not fit the bytes that are left is damage.

use bytes::Bytes;
use hedge_tensor::{DType, NamedTensor, Tensor};

/// Appends a tensor; `None` if it cannot be represented, or `out` would exceed `limit` bytes.
pub(crate) fn put(out: &mut Vec<u8>, tensor: &NamedTensor, limit: usize) -> Option<()> {
    let (name, tensor) = (&tensor.name, &tensor.tensor);
    out.extend_from_slice(&u16::try_from(name.len()).ok()?.to_le_bytes());
    out.extend_from_slice(name.as_bytes());
    out.push(tensor.dtype().wire_code());
    out.push(u8::try_from(tensor.shape().len()).ok()?);
    for &dim in tensor.shape() {
        out.extend_from_slice(&(dim as u64).to_le_bytes());
    }
    out.extend_from_slice(&u32::try_from(tensor.bytes().len()).ok()?.to_le_bytes());
    if out.len() + tensor.bytes().len() > limit {
        return None;
    }
    out.extend_from_slice(tensor.bytes());
    Some(())
}

/// Takes a tensor, which shares the memory of `rest`; `None` if the bytes are none.
pub(crate) fn take(rest: &mut Bytes) -> Option<NamedTensor> {
    let length = u16::from_le_bytes(take_array(rest)?);
    let name = String::from_utf8(take_bytes(rest, usize::from(length))?.to_vec()).ok()?;
    let [code, rank] = take_array(rest)?;
    let mut shape = Vec::with_capacity(usize::from(rank));
    for _ in 0..rank {
        shape.push(usize::try_from(u64::from_le_bytes(take_array(rest)?)).ok()?);
    }
    let length = u32::from_le_bytes(take_array(rest)?);
    let data = take_bytes(rest, usize::try_from(length).ok()?)?;
    Some(NamedTensor::new(name, Tensor::new(DType::from_wire_code(code)?, shape, data).ok()?))
}

/// The next `count` bytes, if there are as many.
pub(crate) fn take_bytes(rest: &mut Bytes, count: usize) -> Option<Bytes> {
    (rest.len() >= count).then(|| rest.split_to(count))
}

fn take_array<const N: usize>(rest: &mut Bytes) -> Option<[u8; N]> {
    take_bytes(rest, N).map(|bytes| array(&bytes))
}

/// A slice that was cut to `N` bytes as an array.
pub(crate) fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the slice was cut to N bytes")
}
