//! Weights beside the model file: ONNX's external data.
//!
//! ```text
//! TensorProto { data_location: EXTERNAL, external_data: [location, offset?, length?, checksum?] }
//! ```
//!
//! `location` is a path relative to the model's folder. One that leaves it, or that another system would read otherwise, is
//! refused here, before anyone opens anything.

use bytes::Bytes;

use super::proto::TensorProto;
use super::read::ReadError;

/// Tensors smaller than this stay in the model file, where people and tools see them.
const MIN_BYTES: usize = 1024;
/// How tensors are aligned in the data file, in bytes: what vector instructions and caches like.
const ALIGNMENT: usize = 64;

/// Where a reader gets weights from that are not in the model file.
pub trait ExternalData {
    /// `length` bytes at `offset` of the file `location`, or all behind `offset` where no length is given. `location` is a
    /// relative path with `/` between names, without `..`. The error says what went wrong.
    fn read(&self, location: &str, offset: u64, length: Option<u64>) -> Result<Bytes, String>;
}

/// For models that must be whole by themselves.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoExternalData;

impl ExternalData for NoExternalData {
    fn read(&self, location: &str, _: u64, _: Option<u64>) -> Result<Bytes, String> {
        Err(format!(
            "it is in the file {location:?}, which was not given; load the model from its folder, or save it with its weights inside"
        ))
    }
}

/// Reads what a tensor says of another file; `bytes` is how many it needs.
pub(super) fn read_external(
    proto: &TensorProto,
    bytes: usize,
    external: &dyn ExternalData,
    what: &str,
) -> Result<Bytes, ReadError> {
    let fail = |reason: String| ReadError::ExternalData { tensor: what.to_owned(), reason };
    let entry = |key: &str| {
        let found = proto.external_data.iter().find(|entry| entry.key() == key);
        found.map(|entry| entry.value()).filter(|value| !value.is_empty())
    };
    let number = |key: &str| {
        let parsed =
            entry(key).map(|text| text.parse::<u64>().map_err(|_| fail(format!("its {key} {text:?} is no number"))));
        parsed.transpose()
    };
    let location = entry("location").ok_or_else(|| fail("it names no file".to_owned()))?;
    if !is_plain(location) {
        return Err(fail(format!("the path {location:?} may lead out of the model's folder")));
    }
    let length = number("length")?.unwrap_or(bytes as u64);
    if length != bytes as u64 {
        return Err(fail(format!("its shape needs {bytes} bytes, but {length} are declared")));
    }
    let data = external.read(location, number("offset")?.unwrap_or(0), Some(length)).map_err(fail)?;
    if data.len() != bytes {
        return Err(fail(format!("its shape needs {bytes} bytes, but the file {location:?} has {}", data.len())));
    }
    Ok(data)
}

/// Whether a path stays below the folder that it is relative to, on every system.
fn is_plain(location: &str) -> bool {
    let plain = |name: &str| !matches!(name, "" | "." | "..") && !name.contains(['\\', ':', '\0']);
    location.split('/').all(plain)
}

/// Collects weights for a data file.
pub(super) struct Placement<'a> {
    location: &'a str,
    data: Vec<u8>,
}

impl<'a> Placement<'a> {
    pub(super) fn new(location: &'a str) -> Self {
        Placement { location, data: Vec::new() }
    }

    pub(super) fn into_data(self) -> Vec<u8> {
        self.data
    }

    /// Moves a large tensor's data to the file.
    pub(super) fn place(&mut self, proto: &mut TensorProto) {
        use super::proto::{StringStringEntryProto, tensor_proto::DataLocation};
        let Some(raw) = proto.raw_data.take_if(|raw| raw.len() >= MIN_BYTES) else { return };
        self.data.resize(self.data.len().next_multiple_of(ALIGNMENT), 0);
        let pairs = [
            ("location", self.location.to_owned()),
            ("offset", self.data.len().to_string()),
            ("length", raw.len().to_string()),
        ];
        let entry =
            |(key, value): (&str, String)| StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) };
        proto.external_data = pairs.into_iter().map(entry).collect();
        proto.set_data_location(DataLocation::External);
        self.data.extend_from_slice(&raw);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_lead_out_of_the_folder_are_not_plain() {
        for plain in ["weights.bin", "model.onnx.data", "parts/0", "..data", "a..b"] {
            assert!(is_plain(plain), "{plain}");
        }
        for other in ["", "/etc/passwd", "../w", "a/../w", "a/..", "./w", "a//b", "a\\..\\w", "C:w", "w\0", "a/"] {
            assert!(!is_plain(other), "{other}");
        }
    }
}
