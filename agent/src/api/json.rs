//! Tensor data as JSON: nested or flat arrays of numbers or booleans, or of texts, row-major.
//!
//! Numbers are read straight into a flat list of 8 bytes each, so that the memory stays near the body's: a `[0,0,0]` of 16 MiB
//! would take 256 MiB as a tree of JSON values. Integers that an f64 cannot hold exactly are kept aside. How deep arrays
//! may nest is bounded by `serde_json` (128).

use std::fmt;

use bytes::Bytes;
use hedge_tensor::{DType, Tensor};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::Value;

/// Integers of up to 53 bits are exact in an f64.
const EXACT: u64 = 1 << 53;

/// The flattened elements of a tensor.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct JsonData {
    numbers: Vec<f64>,
    /// Integers beyond f64's exact range, by their place in `numbers`.
    large: Vec<(usize, i128)>,
    /// How many elements were booleans (which stand in `numbers` as 0 and 1).
    booleans: usize,
    /// Texts, one after the other.
    text: Vec<u8>,
    /// Where each text ends.
    ends: Vec<usize>,
}

/// Why JSON data is not the tensor that it says it is.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum JsonDataError {
    #[error("element {index} is {value}, which is no {dtype}")]
    Element { index: usize, value: String, dtype: DType },
    #[error("element {index} is a boolean, but the datatype is {dtype}")]
    Boolean { index: usize, dtype: DType },
    #[error("tensor data holds the text {shown:?}; {dtype} takes only numbers and booleans")]
    Text { shown: String, dtype: DType },
    #[error("the datatype is BYTES, but data holds numbers or booleans; send texts, or bytes as binary data")]
    NotText,
}

impl JsonData {
    pub(crate) fn len(&self) -> usize {
        self.numbers.len() + self.ends.len()
    }

    /// The elements as texts.
    pub(crate) fn texts(&self) -> Result<Vec<Bytes>, JsonDataError> {
        if !self.numbers.is_empty() {
            return Err(JsonDataError::NotText);
        }
        let text = Bytes::copy_from_slice(&self.text);
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        Ok(starts.zip(&self.ends).map(|(start, &end)| text.slice(start..end)).collect())
    }

    /// The elements as `dtype`, little-endian.
    pub(crate) fn bytes(&self, dtype: DType) -> Result<Bytes, JsonDataError> {
        if let Some(&end) = self.ends.first() {
            let shown = String::from_utf8_lossy(&self.text[..end]).chars().take(40).collect();
            return Err(JsonDataError::Text { shown, dtype });
        }
        if self.booleans > 0 && dtype != DType::Bool {
            return Err(JsonDataError::Boolean { index: 0, dtype });
        }
        let mut out = Vec::with_capacity(self.numbers.len() * dtype.size_bytes());
        let mut large = self.large.iter().peekable();
        for (index, &number) in self.numbers.iter().enumerate() {
            let exact = large.next_if(|(at, _)| *at == index).map(|&(_, integer)| integer);
            let element = |value: String| JsonDataError::Element { index, value, dtype };
            let written = match exact {
                Some(integer) => push_integer(&mut out, dtype, integer),
                None => push_number(&mut out, dtype, number),
            };
            if !written {
                return Err(element(exact.map_or_else(|| number.to_string(), |integer| integer.to_string())));
            }
        }
        Ok(Bytes::from(out))
    }

    fn push(&mut self, number: f64) {
        self.numbers.push(number);
    }

    fn push_integer(&mut self, integer: i128) {
        if integer.unsigned_abs() > u128::from(EXACT) {
            self.large.push((self.numbers.len(), integer));
        }
        self.numbers.push(integer as f64);
    }
}

fn push_number(out: &mut Vec<u8>, dtype: DType, number: f64) -> bool {
    if !dtype.is_float() {
        return number.fract() == 0.0 && number.abs() <= EXACT as f64 && push_integer(out, dtype, number as i128);
    }
    // A number that is too large for its type becomes an infinity, which the model's check refuses by place.
    match dtype {
        DType::F16 => out.extend_from_slice(&half::f16::from_f64(number).to_le_bytes()),
        DType::F32 => out.extend_from_slice(&(number as f32).to_le_bytes()),
        _ => out.extend_from_slice(&number.to_le_bytes()),
    }
    true
}

fn push_integer(out: &mut Vec<u8>, dtype: DType, integer: i128) -> bool {
    macro_rules! put {
        ($type:ty) => {
            <$type>::try_from(integer).map(|element| out.extend_from_slice(&element.to_le_bytes())).is_ok()
        };
    }
    match dtype {
        DType::Bool => integer <= 1 && put!(u8),
        DType::U8 => put!(u8),
        DType::I8 => put!(i8),
        DType::U16 => put!(u16),
        DType::I16 => put!(i16),
        DType::U32 => put!(u32),
        DType::I32 => put!(i32),
        DType::U64 => put!(u64),
        DType::I64 => put!(i64),
        DType::F16 | DType::F32 | DType::F64 => push_number(out, dtype, integer as f64),
    }
}

impl<'de> Deserialize<'de> for JsonData {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut data = Self::default();
        deserializer.deserialize_seq(Flatten(&mut data))?;
        Ok(data)
    }
}

/// Appends what it sees, arrays element by element.
struct Flatten<'a>(&'a mut JsonData);

impl<'de> DeserializeSeed<'de> for Flatten<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Flatten<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("numbers, booleans or texts, or arrays of them")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        while sequence.next_element_seed(Flatten(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        self.0.booleans += 1;
        self.0.push(f64::from(u8::from(value)));
        Ok(())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.0.push_integer(i128::from(value));
        Ok(())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.0.push_integer(i128::from(value));
        Ok(())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.0.push(value);
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        self.0.text.extend_from_slice(value.as_bytes());
        self.0.ends.push(self.0.text.len());
        Ok(())
    }
}

/// A tensor's elements as one flat JSON array. JSON has no NaN and no infinity: they become `null`, which the stock client
/// reads as NaN.
pub(crate) fn elements(tensor: &Tensor) -> Value {
    macro_rules! list {
        ($type:ty) => {
            tensor.to_vec::<$type>().map(|elements| elements.into_iter().map(Value::from).collect::<Vec<_>>())
        };
    }
    let list = match tensor.dtype() {
        DType::Bool => tensor.to_bools().map(|elements| elements.into_iter().map(Value::from).collect()),
        DType::U8 => list!(u8),
        DType::I8 => list!(i8),
        DType::U16 => list!(u16),
        DType::I16 => list!(i16),
        DType::U32 => list!(u32),
        DType::I32 => list!(i32),
        DType::U64 => list!(u64),
        DType::I64 => list!(i64),
        DType::F16 => tensor.to_vec::<half::f16>().map(|v| v.into_iter().map(|e| short(f32::from(e))).collect()),
        DType::F32 => tensor.to_vec::<f32>().map(|elements| elements.into_iter().map(short).collect()),
        DType::F64 => list!(f64),
    };
    Value::Array(list.expect("each arm reads the tensor's own type"))
}

/// The shortest decimal that reads back as the same f32; `Value` holds an f64, whose digits would be its own.
fn short(element: f32) -> Value {
    element.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> JsonData {
        serde_json::from_str(json).unwrap()
    }

    fn refused(json: &str) -> String {
        serde_json::from_str::<JsonData>(json).unwrap_err().to_string()
    }

    fn tensor(json: &str, dtype: DType) -> Tensor {
        let data = read(json);
        Tensor::new(dtype, vec![data.len()], data.bytes(dtype).unwrap()).unwrap()
    }

    #[test]
    fn nested_and_flat_arrays_are_the_same_tensor() {
        assert_eq!(read("[[1, 2], [3, 4.5]]"), read("[1, 2, 3, 4.5]"));
        assert_eq!(read("[[], [[]]]").len(), 0);
    }

    #[test]
    fn every_type_is_read_and_written_back() {
        let cases = [
            (DType::Bool, "[true,false]"),
            (DType::U8, "[0,255]"),
            (DType::I8, "[-128,127]"),
            (DType::U16, "[65535]"),
            (DType::I16, "[-32768]"),
            (DType::U32, "[4294967295]"),
            (DType::I32, "[-2147483648]"),
            (DType::U64, "[18446744073709551615,9007199254740993]"),
            (DType::I64, "[-9223372036854775808,9007199254740993]"),
            (DType::F16, "[0.5,-2.0]"),
            (DType::F32, "[0.1,-3.4028235e+38]"),
            (DType::F64, "[0.1,1e+300]"),
        ];
        for (dtype, json) in cases {
            assert_eq!(elements(&tensor(json, dtype)).to_string(), json, "{dtype}");
        }
    }

    #[test]
    fn an_element_that_its_type_cannot_hold_is_named() {
        for (json, dtype, expected) in [
            ("[1, 256]", DType::U8, "element 1 is 256, which is no UINT8"),
            ("[-1]", DType::U32, "element 0 is -1, which is no UINT32"),
            ("[1, 2.5]", DType::I32, "element 1 is 2.5, which is no INT32"),
            ("[18446744073709551615]", DType::I64, "element 0 is 18446744073709551615, which is no INT64"),
            ("[2]", DType::Bool, "element 0 is 2, which is no BOOL"),
            ("[1e300]", DType::I64, "which is no INT64"),
            ("[true]", DType::F32, "element 0 is a boolean, but the datatype is FP32"),
        ] {
            let error = read(json).bytes(dtype).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        let text = read("[\"a\"]").bytes(DType::F32).unwrap_err().to_string();
        assert!(text.contains("holds the text \"a\""), "{text}");
        for json in ["[null]", "[{}]", "1", "{}", "[1,]", "[NaN]", "[Infinity]", "[1e999]", "[1"] {
            assert!(!refused(json).is_empty(), "{json}");
        }
    }

    #[test]
    fn texts_are_kept_apart_and_not_mixed_with_numbers() {
        let data = read("[[\"hedge\"], [\"\", \"\\u00e9\"]]");
        assert_eq!((data.len(), data.texts().unwrap()), (3, ["hedge", "", "é"].map(Bytes::from).to_vec()));
        assert_eq!(read("[\"a\", 1]").texts(), Err(JsonDataError::NotText));
        assert!(read("[\"a\", 1]").bytes(DType::U8).is_err());
    }

    #[test]
    fn deep_nesting_is_an_error_and_no_overflow() {
        let deep = "[".repeat(100_000);
        assert!(refused(&deep).contains("recursion limit"));
    }

    #[test]
    fn a_number_too_large_for_its_float_is_found_as_an_infinity() {
        assert_eq!(tensor("[1, 1e300]", DType::F32).first_non_finite(), Some(1));
        assert_eq!(tensor("[70000]", DType::F16).first_non_finite(), Some(0));
    }

    #[test]
    fn a_result_that_is_no_number_becomes_null() {
        let tensor = Tensor::from_slice(&[3], &[f32::NAN, f32::INFINITY, 0.25]).unwrap();
        assert_eq!(elements(&tensor).to_string(), "[null,null,0.25]");
    }
}
