//! Tensors as `.npy` files (NumPy's format, NEP 1), as golden vectors are kept.
//!
//! ```text
//! 0    6  \x93NUMPY
//! 6    2  1 0 (header length in 2 bytes) or 2 0 (in 4)
//! 8       header length, little-endian
//!         {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }   padded with spaces, ended by \n
//!         elements, row-major, little-endian, to the end of the file
//! ```
//!
//! Only what `numpy.save` writes for plain numbers is read: no records, no objects, no column-major order.

use bytes::Bytes;
use hedge_tensor::{DType, Tensor, TensorError};
use thiserror::Error;

const MAGIC: &[u8] = b"\x93NUMPY";
/// The most bytes of a header: far more than the largest shape takes.
const MAX_HEADER_BYTES: usize = 4096;
/// The most dimensions.
const MAX_RANK: usize = hedge_graph::onnx::MAX_RANK;
/// What the header is padded to, so that elements begin aligned.
const ALIGNMENT: usize = 64;

/// (element type, NumPy's name of it)
const TYPES: [(DType, &str); 12] = [
    (DType::Bool, "|b1"),
    (DType::U8, "|u1"),
    (DType::I8, "|i1"),
    (DType::U16, "<u2"),
    (DType::I16, "<i2"),
    (DType::U32, "<u4"),
    (DType::I32, "<i4"),
    (DType::U64, "<u8"),
    (DType::I64, "<i8"),
    (DType::F16, "<f2"),
    (DType::F32, "<f4"),
    (DType::F64, "<f8"),
];

/// Why a file is no tensor.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NpyError {
    /// Not NumPy's format, or one of its forms that nobody writes for numbers.
    #[error("it is not a .npy file as numpy.save writes it: {0}")]
    Malformed(&'static str),
    /// Elements that no model takes.
    #[error("its elements are {0:?}; save numbers or booleans, little-endian")]
    Type(String),
    /// Column-major.
    #[error("its elements are in column-major order; save numpy.ascontiguousarray(a)")]
    ColumnMajor,
    /// A shape that does not fit the elements.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// Reads a tensor, whose elements stay slices of `file`.
pub fn decode(file: &Bytes) -> Result<Tensor, NpyError> {
    let malformed = NpyError::Malformed;
    let rest = file.strip_prefix(MAGIC).ok_or(malformed("its first bytes are others"))?;
    let (length, prefix) = match *rest {
        [1, 0, a, b, ..] => (usize::from(u16::from_le_bytes([a, b])), 10),
        [2, 0, a, b, c, d, ..] => (u32::from_le_bytes([a, b, c, d]) as usize, 12),
        _ => return Err(malformed("its version is not 1 or 2")),
    };
    if length > MAX_HEADER_BYTES {
        return Err(malformed("its header is longer than 4096 bytes"));
    }
    let header = file.get(prefix..prefix + length).ok_or(malformed("it ends within its header"))?;
    let header = std::str::from_utf8(header).map_err(|_| malformed("its header is no text"))?;
    let (dtype, shape) = read_header(header)?;
    let data = file.slice(prefix + length..);
    if dtype == DType::Bool && data.iter().any(|&byte| byte > 1) {
        return Err(malformed("a boolean is neither 0 nor 1"));
    }
    Ok(Tensor::new(dtype, shape, data)?)
}

/// The file of `tensor`; the same tensor always gives the same bytes, NumPy's own.
pub fn encode(tensor: &Tensor) -> Vec<u8> {
    let descr = TYPES.iter().find(|(dtype, _)| *dtype == tensor.dtype()).map_or("", |(_, descr)| descr);
    let dims: Vec<String> = tensor.shape().iter().map(usize::to_string).collect();
    let shape = if let [only] = dims.as_slice() { format!("({only},)") } else { format!("({})", dims.join(", ")) };
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    let unpadded = MAGIC.len() + 4 + header.len() + 1;
    header.extend(std::iter::repeat_n(' ', unpadded.next_multiple_of(ALIGNMENT) - unpadded));
    header.push('\n');
    let length = u16::try_from(header.len()).expect("a rank of 32 fits");
    [MAGIC, &[1, 0], &length.to_le_bytes(), header.as_bytes(), tensor.bytes()].concat()
}

fn read_header(header: &str) -> Result<(DType, Vec<usize>), NpyError> {
    let descr = after(header, "'descr':").and_then(quoted).ok_or(NpyError::Malformed("its header has no descr"))?;
    let order = after(header, "'fortran_order':").ok_or(NpyError::Malformed("its header has no fortran_order"))?;
    let dims = after(header, "'shape':").and_then(|text| text.strip_prefix('(')?.split_once(')'));
    let (dims, _) = dims.ok_or(NpyError::Malformed("its header has no shape"))?;
    let shape = read_shape(dims)?;
    // One dimension or none lies the same way in either order.
    if !order.starts_with("False") && shape.len() > 1 {
        return Err(NpyError::ColumnMajor);
    }
    let known = TYPES.iter().find(|(_, name)| *name == descr);
    let (dtype, _) = known.ok_or_else(|| NpyError::Type(descr.chars().take(32).collect()))?;
    Ok((*dtype, shape))
}

fn read_shape(dims: &str) -> Result<Vec<usize>, NpyError> {
    let dims = dims.trim();
    let dims = dims.strip_suffix(',').unwrap_or(dims);
    if dims.is_empty() {
        return Ok(Vec::new());
    }
    let dim = |text: &str| text.trim().parse().map_err(|_| NpyError::Malformed("a dimension is no number"));
    let shape = dims.split(',').map(dim).collect::<Result<Vec<usize>, _>>()?;
    if shape.len() > MAX_RANK { Err(NpyError::Malformed("it has more than 32 dimensions")) } else { Ok(shape) }
}

fn after<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    header.split_once(key).map(|(_, rest)| rest.trim_start())
}

fn quoted(text: &str) -> Option<&str> {
    text.strip_prefix('\'')?.split_once('\'').map(|(inside, _)| inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_type_comes_back_as_it_was_written() {
        for dtype in DType::all() {
            for shape in [vec![], vec![3], vec![2, 3], vec![0, 5], vec![1; MAX_RANK]] {
                let tensor = Tensor::zeros(dtype, shape).unwrap();
                let file = Bytes::from(encode(&tensor));
                assert_eq!((file.len() - tensor.bytes().len()) % ALIGNMENT, 0);
                assert_eq!(decode(&file).unwrap(), tensor);
            }
        }
    }

    #[test]
    fn the_bytes_are_those_of_numpy_save() {
        let tensor = Tensor::from_slice(&[2], &[1i16, -2]).unwrap();
        let file = encode(&tensor);
        let header = "{'descr': '<i2', 'fortran_order': False, 'shape': (2,), }";
        assert_eq!(&file[..10], b"\x93NUMPY\x01\x00v\x00");
        assert_eq!(std::str::from_utf8(&file[10..128]).unwrap(), format!("{header:<117}\n"));
        assert_eq!(&file[128..], [1, 0, 0xfe, 0xff]);
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        let file = Bytes::from(encode(&Tensor::zeros(DType::F32, vec![2, 2]).unwrap()));
        for length in 0..file.len() {
            assert!(decode(&file.slice(..length)).is_err(), "{length}");
        }
    }

    #[test]
    fn column_major_objects_and_long_headers_are_refused() {
        let with = |header: &str| {
            let length = u16::try_from(header.len()).unwrap().to_le_bytes();
            decode(&Bytes::from([MAGIC, &[1, 0], &length, header.as_bytes()].concat()))
        };
        let columns = with("{'descr': '<f4', 'fortran_order': True, 'shape': (0, 2), }\n");
        assert_eq!(columns, Err(NpyError::ColumnMajor));
        let objects = with("{'descr': '|O', 'fortran_order': False, 'shape': (0,), }\n");
        assert_eq!(objects, Err(NpyError::Type("|O".into())));
        let huge = with("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 99999999999), }\n");
        assert!(matches!(huge, Err(NpyError::Tensor(_))));
        assert!(with(&" ".repeat(5000)).is_err());
    }
}
