//! Tensors as `.npy` files (NumPy's format, NEP 1).

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use hedge_tensor::{DType, Tensor};
use npyz::{Endianness, NpyHeader, Order, TypeChar, WriteOptions, WriterBuilder};

/// Reads a tensor; elements must be little-endian, as NumPy writes them on every machine that Hedge runs on.
pub(crate) fn read(path: &Path) -> Result<Tensor> {
    let file = File::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
    decode(BufReader::new(file)).with_context(|| format!("{} is not a .npy file that can be read", path.display()))
}

/// Writes a tensor.
pub(crate) fn write(path: &Path, tensor: &Tensor) -> Result<()> {
    let file = File::create(path).with_context(|| format!("{} cannot be created", path.display()))?;
    encode(BufWriter::new(file), tensor).with_context(|| format!("{} cannot be written", path.display()))
}

fn decode(mut reader: impl Read) -> Result<Tensor> {
    let header = NpyHeader::from_reader(&mut reader)?;
    let npyz::DType::Plain(kind) = header.dtype() else { bail!("it holds records, not numbers") };
    let Some(dtype) = element_type(kind.type_char(), kind.size_field()) else {
        bail!("it holds elements of type {kind}, which no model takes");
    };
    if kind.endianness() == Endianness::Big {
        bail!("its elements are big-endian; save it with a.astype(a.dtype.newbyteorder('<'))");
    }
    let shape = header.shape().iter().map(|&size| usize::try_from(size)).collect::<Result<Vec<_>, _>>()?;
    let mut bytes = Vec::new();
    // The file decides how much is read; the header's claim is checked against it.
    reader.read_to_end(&mut bytes)?;
    match header.order() {
        Order::C => Ok(Tensor::new(dtype, shape, bytes.into())?),
        Order::Fortran => {
            let reversed: Vec<usize> = shape.iter().rev().copied().collect();
            let columns = Tensor::new(dtype, reversed, bytes.into())?;
            Ok(Tensor::new(dtype, shape.clone(), row_major(&columns, &shape).into())?)
        }
    }
}

/// The bytes of a column-major tensor (given with its dimensions reversed) in row-major order.
fn row_major(columns: &Tensor, shape: &[usize]) -> Vec<u8> {
    let size = columns.dtype().size_bytes();
    let mut bytes = Vec::with_capacity(columns.bytes().len());
    let mut index = vec![0usize; shape.len()];
    for _ in 0..columns.len() {
        let offset = index.iter().zip(shape).rev().fold(0, |offset, (&at, &dim)| offset * dim + at);
        bytes.extend_from_slice(&columns.bytes()[offset * size..(offset + 1) * size]);
        for (at, &dim) in index.iter_mut().zip(shape).rev() {
            *at += 1;
            if *at < dim {
                break;
            }
            *at = 0;
        }
    }
    bytes
}

fn encode(writer: impl Write, tensor: &Tensor) -> Result<()> {
    let shape: Vec<u64> = tensor.shape().iter().map(|&size| size as u64).collect();
    let kind = npyz::DType::Plain(type_string(tensor.dtype()).parse()?);
    let mut writer = WriteOptions::new_header_only().dtype(kind).shape(&shape).writer(writer).write_header_only()?;
    writer.write_all(tensor.bytes())?;
    Ok(writer.flush()?)
}

fn element_type(kind: TypeChar, size: u64) -> Option<DType> {
    Some(match (kind, size) {
        (TypeChar::Bool, 1) => DType::Bool,
        (TypeChar::Uint, 1) => DType::U8,
        (TypeChar::Uint, 2) => DType::U16,
        (TypeChar::Uint, 4) => DType::U32,
        (TypeChar::Uint, 8) => DType::U64,
        (TypeChar::Int, 1) => DType::I8,
        (TypeChar::Int, 2) => DType::I16,
        (TypeChar::Int, 4) => DType::I32,
        (TypeChar::Int, 8) => DType::I64,
        (TypeChar::Float, 2) => DType::F16,
        (TypeChar::Float, 4) => DType::F32,
        (TypeChar::Float, 8) => DType::F64,
        _ => return None,
    })
}

fn type_string(dtype: DType) -> &'static str {
    match dtype {
        DType::Bool => "|b1",
        DType::U8 => "|u1",
        DType::U16 => "<u2",
        DType::U32 => "<u4",
        DType::U64 => "<u8",
        DType::I8 => "|i1",
        DType::I16 => "<i2",
        DType::I32 => "<i4",
        DType::I64 => "<i8",
        DType::F16 => "<f2",
        DType::F32 => "<f4",
        DType::F64 => "<f8",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_type_comes_back_as_it_was_written() {
        for dtype in DType::all() {
            let tensor = Tensor::zeros(dtype, vec![2, 3]).unwrap();
            let mut file = Vec::new();
            encode(&mut file, &tensor).unwrap();
            assert_eq!(decode(file.as_slice()).unwrap(), tensor);
        }
    }

    #[test]
    fn a_column_major_file_is_read_in_row_major_order() {
        let mut file = Vec::new();
        let writer = WriteOptions::new_header_only()
            .dtype(npyz::DType::Plain("<i4".parse().unwrap()))
            .shape(&[2, 3])
            .order(Order::Fortran)
            .writer(&mut file)
            .write_header_only()
            .unwrap();
        for value in [1i32, 4, 2, 5, 3, 6] {
            writer.write_all(&value.to_le_bytes()).unwrap();
        }
        assert_eq!(decode(file.as_slice()).unwrap().to_vec::<i32>().unwrap(), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_file_that_is_shorter_than_its_header_says_is_refused() {
        let mut file = Vec::new();
        encode(&mut file, &Tensor::zeros(DType::F32, vec![4]).unwrap()).unwrap();
        file.truncate(file.len() - 1);
        assert!(decode(file.as_slice()).is_err());
        assert!(decode(&b"not numpy"[..]).is_err());
    }
}
