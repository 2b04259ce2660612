//! Takes an ONNX file apart before anything is decoded, for two reasons.
//!
//! Weights: each initializer's `raw_data` becomes a buffer of its own (a slice, where the file is in memory already). A file
//! that is streamed is never in memory as a whole, its weights are aligned as the allocator aligns, and each is freed as
//! soon as an executor has packed it.
//!
//! Strangers: prost makes a struct of several hundred bytes out of a message of two. What a part would take once decoded is
//! estimated first, and refused beyond [`DECODED_BYTES`].
//!
//! ```text
//! ModelProto  = (tag, value)*     field 7 (graph) is taken apart; what a graph does not keep is skipped
//! GraphProto  = (tag, value)*     field 5 (initializer) is taken apart, the rest is decoded at once
//! TensorProto = (tag, value)*     field 9 (raw_data) is kept aside
//! tag         = varint(field << 3 | wire type); wire type 0 varint, 1 eight bytes, 2 varint length and bytes, 5 four bytes
//! ```

use std::hint::black_box;
use std::io::{BufReader, Read};

use bytes::{Buf, Bytes};
use prost::Message;

use super::budget::{self, Kind};
use super::proto::{GraphProto, ModelProto, TensorProto};
use super::read::{MAX_FILE_BYTES, ReadError};

/// What the decoded messages of a file may take besides its size twice over, in bytes. Models of twenty thousand nodes take a
/// tenth of it.
pub(super) const DECODED_BYTES: u64 = 96 << 20;

/// An ONNX file, apart.
pub(super) struct Parts {
    /// Without its graph.
    pub(super) model: ModelProto,
    /// Without its initializers; `None` where the file has none.
    pub(super) graph: Option<GraphProto>,
    /// The graph's initializers, in the file's order.
    pub(super) initializers: Vec<TensorProto>,
}

/// Takes apart a file that is in memory; weights are slices of it.
pub(super) fn split_bytes(file: Bytes) -> Result<Parts, ReadError> {
    let len = file.len() as u64;
    split(Source::Memory(file), len)
}

/// Blocks up to this size are kept by the allocator when they are freed. No more than weights of small models need: each of its arenas may
/// hold twice as much.
const KEPT_BYTES: usize = 256 << 10;

/// Takes apart a file of `len` bytes while reading it.
pub(super) fn split_stream(reader: &mut dyn Read, len: u64) -> Result<Parts, ReadError> {
    have_memory_kept();
    split(Source::Stream(BufReader::new(reader)), len)
}

/// glibc has each block above 128 KiB mapped on its own and unmapped when it is freed, until one of that size was freed. Weights
/// are packed one after the other, each into what the last one left: pages that are touched anew cost half of a load.
fn have_memory_kept() {
    drop(black_box(Vec::<u8>::with_capacity(KEPT_BYTES)));
}

fn split(source: Source<'_>, len: u64) -> Result<Parts, ReadError> {
    if len > MAX_FILE_BYTES as u64 {
        return Err(ReadError::TooLarge { bytes: len });
    }
    let mut reader = Reader { source, left: len, budget: DECODED_BYTES + 2 * len };
    reader.model(len)
}

enum Source<'a> {
    Memory(Bytes),
    Stream(BufReader<&'a mut dyn Read>),
}

impl Source<'_> {
    /// The next byte, which the caller knows to be there.
    fn byte(&mut self) -> Result<u8, ReadError> {
        match self {
            Source::Memory(bytes) => bytes.try_get_u8().map_err(|_| truncated()),
            Source::Stream(reader) => {
                let mut byte = [0];
                reader.read_exact(&mut byte).map_err(|error| ReadError::Io { reason: error.to_string() })?;
                Ok(byte[0])
            }
        }
    }

    /// The next `count` bytes, which the caller knows to be there.
    fn take(&mut self, count: usize) -> Result<Bytes, ReadError> {
        match self {
            Source::Memory(bytes) if bytes.len() >= count => Ok(bytes.split_to(count)),
            Source::Memory(_) => Err(truncated()),
            Source::Stream(reader) => {
                let mut buffer = vec![0; count];
                reader.read_exact(&mut buffer).map_err(|error| ReadError::Io { reason: error.to_string() })?;
                Ok(Bytes::from(buffer))
            }
        }
    }
}

struct Reader<'a> {
    source: Source<'a>,
    /// Bytes of the file that are still to come.
    left: u64,
    /// What decoded messages may still take.
    budget: u64,
}

/// A field of a message.
enum Field {
    /// One of fixed size, as it stands in the file, tag included.
    Scalar(Vec<u8>),
    /// The number of one that starts with a length, and how many bytes follow.
    Sized(u64, u64),
}

impl Reader<'_> {
    fn model(&mut self, len: u64) -> Result<Parts, ReadError> {
        let mut rest = Vec::new();
        let mut graph = None;
        let mut initializers = Vec::new();
        self.fields(len, |reader, field| match field {
            Field::Sized(7, _) if graph.is_some() => Err(malformed("it holds two graphs")),
            Field::Sized(7, len) => {
                graph = Some(reader.graph(len, &mut initializers)?);
                Ok(())
            }
            // Producer, description, operator sets, metadata, functions.
            Field::Sized(number @ (2 | 6 | 8 | 14 | 25), len) => reader.keep(number, len, &mut rest),
            Field::Sized(_, len) => reader.skip(len),
            Field::Scalar(bytes) => {
                rest.extend_from_slice(&bytes);
                Ok(())
            }
        })?;
        Ok(Parts { model: self.decode(rest, Kind::Model)?, graph, initializers })
    }

    fn graph(&mut self, len: u64, initializers: &mut Vec<TensorProto>) -> Result<GraphProto, ReadError> {
        let mut rest = Vec::new();
        self.fields(len, |reader, field| match field {
            Field::Sized(5, len) => {
                initializers.push(reader.tensor(len)?);
                Ok(())
            }
            // Quantization annotations.
            Field::Sized(14, len) => reader.skip(len),
            Field::Sized(number, len) => reader.keep(number, len, &mut rest),
            Field::Scalar(bytes) => {
                rest.extend_from_slice(&bytes);
                Ok(())
            }
        })?;
        self.decode(rest, Kind::Graph)
    }

    fn tensor(&mut self, len: u64) -> Result<TensorProto, ReadError> {
        let mut rest = Vec::new();
        let mut raw = None;
        self.fields(len, |reader, field| match field {
            Field::Sized(9, len) => {
                raw = Some(reader.take(len)?);
                Ok(())
            }
            Field::Sized(number, len) => reader.keep(number, len, &mut rest),
            Field::Scalar(bytes) => {
                rest.extend_from_slice(&bytes);
                Ok(())
            }
        })?;
        let mut tensor: TensorProto = self.decode(rest, Kind::Tensor)?;
        tensor.raw_data = raw;
        Ok(tensor)
    }

    /// Calls `f` with each field of a message of `len` bytes; `f` takes what follows a sized one.
    fn fields(
        &mut self,
        len: u64,
        mut f: impl FnMut(&mut Self, Field) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        let end = self.left.checked_sub(len).ok_or_else(truncated)?;
        while self.left > end {
            let mut bytes = Vec::new();
            let tag = self.varint(&mut bytes)?;
            let number = tag >> 3;
            let field = match tag & 7 {
                0 => {
                    self.varint(&mut bytes)?;
                    Field::Scalar(bytes)
                }
                1 => self.fixed(8, bytes)?,
                5 => self.fixed(4, bytes)?,
                2 => {
                    let size = self.varint(&mut bytes)?;
                    if size > self.left.saturating_sub(end) {
                        return Err(malformed("a field is longer than the message that holds it"));
                    }
                    Field::Sized(number, size)
                }
                other => return Err(malformed(&format!("it has a field of wire type {other}"))),
            };
            f(self, field)?;
        }
        if self.left < end {
            return Err(malformed("a field is longer than the message that holds it"));
        }
        Ok(())
    }

    fn varint(&mut self, copy: &mut Vec<u8>) -> Result<u64, ReadError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            self.left = self.left.checked_sub(1).ok_or_else(truncated)?;
            let byte = self.source.byte()?;
            copy.push(byte);
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(malformed("a number has more than ten bytes"))
    }

    fn fixed(&mut self, size: u64, mut bytes: Vec<u8>) -> Result<Field, ReadError> {
        bytes.extend_from_slice(&self.take(size)?);
        Ok(Field::Scalar(bytes))
    }

    fn take(&mut self, count: u64) -> Result<Bytes, ReadError> {
        self.left = self.left.checked_sub(count).ok_or_else(truncated)?;
        self.source.take(usize::try_from(count).map_err(|_| truncated())?)
    }

    fn skip(&mut self, mut count: u64) -> Result<(), ReadError> {
        const CHUNK: u64 = 1 << 16;
        while count > 0 {
            let now = count.min(CHUNK);
            self.take(now)?;
            count -= now;
        }
        Ok(())
    }

    /// Copies a sized field to `rest`, tag and length included.
    fn keep(&mut self, number: u64, len: u64, rest: &mut Vec<u8>) -> Result<(), ReadError> {
        prost::encoding::encode_varint(number << 3 | 2, rest);
        prost::encoding::encode_varint(len, rest);
        rest.extend_from_slice(&self.take(len)?);
        Ok(())
    }

    fn decode<M: Message + Default>(&mut self, bytes: Vec<u8>, kind: Kind) -> Result<M, ReadError> {
        let cost = size_of::<M>() as u64 + budget::decoded_size(&bytes, kind, self.budget);
        self.budget = self.budget.checked_sub(cost).ok_or(ReadError::TooManyParts)?;
        M::decode(Bytes::from(bytes)).map_err(|error| malformed(&error.to_string()))
    }
}

pub(super) fn malformed(reason: &str) -> ReadError {
    ReadError::Malformed { reason: reason.to_owned() }
}

fn truncated() -> ReadError {
    malformed("it ends in the middle of a field")
}
