//! The binary tensor extension: tensors' bytes after the JSON header.
//!
//! ```text
//! Inference-Header-Content-Length: H
//!
//! body: H bytes of JSON | the bytes of each tensor with parameters.binary_data_size, in the JSON's order
//! ```
//!
//! Elements are row-major and little-endian. Of BYTES tensors each element is a u32 length and its bytes.

use axum::http::{HeaderMap, HeaderName};
use bytes::{Buf, Bytes};

use super::error::ApiError;

/// Where the JSON ends.
pub(crate) const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// A body in its two parts; the binary part is `None` where no header says that there is one.
pub(crate) fn split(headers: &HeaderMap, body: &Bytes) -> Result<(Bytes, Option<Bytes>), ApiError> {
    let Some(length) = headers.get(HEADER_LENGTH) else {
        return Ok((body.clone(), None));
    };
    let length = length.to_str().ok().and_then(|text| text.trim().parse::<usize>().ok()).ok_or_else(|| {
        ApiError::bad("Inference-Header-Content-Length is not a number; send the JSON's length in bytes")
    })?;
    if length > body.len() {
        let whole = body.len();
        return Err(ApiError::bad(format!(
            "Inference-Header-Content-Length is {length}, but the body has {whole} bytes; send the JSON's length"
        )));
    }
    Ok((body.slice(..length), Some(body.slice(length..))))
}

/// Takes the tensors' bytes one after the other.
pub(crate) struct BinaryPart {
    rest: Option<Bytes>,
}

impl BinaryPart {
    pub(crate) fn new(rest: Option<Bytes>) -> Self {
        Self { rest }
    }

    /// The next `size` bytes, for the input called `name`.
    pub(crate) fn take(&mut self, name: &str, size: usize) -> Result<Bytes, ApiError> {
        let Some(rest) = &mut self.rest else {
            return Err(ApiError::bad(format!(
                "input {name:?} has binary_data_size, but the request has no Inference-Header-Content-Length; send it"
            )));
        };
        if size > rest.len() {
            let left = rest.len();
            return Err(ApiError::bad(format!(
                "input {name:?} declares {size} bytes of binary data, but only {left} follow; the body is truncated"
            )));
        }
        Ok(rest.split_to(size))
    }

    /// Refuses bytes that belong to no tensor.
    pub(crate) fn finish(self) -> Result<(), ApiError> {
        match self.rest {
            Some(rest) if !rest.is_empty() => {
                let left = rest.len();
                Err(ApiError::bad(format!("{left} bytes follow the last input; declare them with binary_data_size")))
            }
            _ => Ok(()),
        }
    }
}

/// Takes a BYTES tensor apart into its `count` elements.
pub(crate) fn decode_elements(data: &Bytes, count: usize) -> Result<Vec<Bytes>, String> {
    let mut rest = data.clone();
    let mut elements = Vec::new();
    for index in 0..count {
        let Some(&length) = rest.first_chunk::<4>() else {
            return Err(format!("element {index} of {count} has no length; 4 bytes with it come before each element"));
        };
        let length = u32::from_le_bytes(length) as usize;
        rest.advance(4);
        let left = rest.len();
        if length > left {
            return Err(format!("element {index} declares {length} bytes, but only {left} follow"));
        }
        elements.push(rest.split_to(length));
    }
    match rest.len() {
        0 => Ok(elements),
        left => Err(format!("{left} bytes follow the last of {count} elements")),
    }
}

/// The elements of a BYTES tensor.
pub(crate) fn encode_strings(strings: &[&'static str]) -> Vec<u8> {
    let mut out = Vec::with_capacity(strings.iter().map(|text| 4 + text.len()).sum());
    for text in strings {
        out.extend_from_slice(&(text.len() as u32).to_le_bytes());
        out.extend_from_slice(text.as_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(length: &str) -> HeaderMap {
        HeaderMap::from_iter([(HEADER_LENGTH, length.parse().unwrap())])
    }

    #[test]
    fn a_body_is_split_where_the_header_says() {
        let body = Bytes::from_static(b"{}abc");
        assert_eq!(split(&headers("2"), &body).unwrap(), (body.slice(..2), Some(body.slice(2..))));
        assert_eq!(split(&HeaderMap::new(), &body).unwrap(), (body.clone(), None));
        for lie in ["6", "-1", "x", "99999999999999999999999999"] {
            assert!(split(&headers(lie), &body).is_err(), "{lie}");
        }
    }

    #[test]
    fn tensors_take_exactly_what_they_declare() {
        let mut part = BinaryPart::new(Some(Bytes::from_static(b"abcdef")));
        assert_eq!(part.take("a", 2).unwrap(), "ab");
        assert_eq!(part.take("b", 0).unwrap(), "");
        assert!(part.take("c", 5).unwrap_err().message.contains("only 4 follow"));
        assert!(part.finish().unwrap_err().message.contains("4 bytes follow"));
        assert!(BinaryPart::new(None).take("a", 1).unwrap_err().message.contains("Inference-Header-Content-Length"));
        assert!(BinaryPart::new(None).finish().is_ok());
    }

    #[test]
    fn strings_are_preceded_by_their_length() {
        assert_eq!(encode_strings(&["edge", ""]), b"\x04\0\0\0edge\0\0\0\0");
    }

    #[test]
    fn elements_are_taken_apart_and_lies_about_lengths_are_errors() {
        let data = Bytes::from_static(b"\x04\0\0\0edge\0\0\0\0");
        assert_eq!(decode_elements(&data, 2).unwrap(), [Bytes::from_static(b"edge"), Bytes::new()]);
        let refused = |data: Bytes, count, says: &str| {
            let why = decode_elements(&data, count).unwrap_err();
            assert!(why.contains(says), "{why}");
        };
        refused(data.clone(), 1, "4 bytes follow the last of 1");
        refused(data.clone(), 3, "element 2 of 3 has no length");
        refused(data.slice(..7), 1, "element 0 declares 4 bytes, but only 3 follow");
        refused(Bytes::from_static(b"\xff\xff\xff\xff"), usize::MAX, "declares 4294967295 bytes");
    }
}
