//! The subset of CBOR that messages use, over minicbor: definite lengths, maps with ascending unsigned keys, everything
//! capped. What a message consists of is said by the modules that use this.

use bytes::Bytes;
use minicbor::data::Type;
use minicbor::{Decoder, Encoder};

use crate::error::DecodeError;
use crate::limits::{MAX_DEPTH, MAX_FIELDS};

/// What a map's visitor did with a key.
pub(crate) enum Key {
    /// It has read the value.
    Known,
    /// It has not touched the value, which is then skipped.
    Unknown,
}

/// Writes into memory, which cannot fail.
pub(crate) type Writer = Encoder<Vec<u8>>;

/// `write` into a new buffer of about `capacity` bytes.
pub(crate) fn write(
    capacity: usize,
    write: impl FnOnce(&mut Writer) -> Result<(), minicbor::encode::Error<std::convert::Infallible>>,
) -> Vec<u8> {
    let mut writer = Encoder::new(Vec::with_capacity(capacity));
    write(&mut writer).expect("writing into memory does not fail");
    writer.into_writer()
}

/// Reads one message; byte strings are slices of `source`, not copies.
pub(crate) struct Reader<'a> {
    source: &'a Bytes,
    decoder: Decoder<'a>,
}

impl<'a> Reader<'a> {
    /// A reader over the whole of `source`, which may have at most `limit` bytes.
    pub(crate) fn new(message: &'static str, source: &'a Bytes, limit: usize) -> Result<Self, DecodeError> {
        if source.len() > limit {
            return Err(DecodeError::TooLarge { message, limit, size: source.len() });
        }
        Ok(Reader { source, decoder: Decoder::new(source) })
    }

    /// Refuses what follows the message.
    pub(crate) fn finish(self, message: &'static str) -> Result<(), DecodeError> {
        match self.source.len() - self.decoder.position() {
            0 => Ok(()),
            extra => Err(DecodeError::Trailing { message, extra }),
        }
    }

    /// Reads a map, calling `visit` with each key in order.
    pub(crate) fn map(
        &mut self,
        message: &'static str,
        mut visit: impl FnMut(&mut Self, u64) -> Result<Key, DecodeError>,
    ) -> Result<(), DecodeError> {
        let fields = self.map_header(message)?;
        let mut last = None;
        for _ in 0..fields {
            let key = self.u64(message)?;
            if last.is_some_and(|last| key <= last) {
                return Err(DecodeError::KeyOrder { message, key });
            }
            last = Some(key);
            if let Key::Unknown = visit(self, key)? {
                self.skip(message, MAX_DEPTH)?;
            }
        }
        Ok(())
    }

    /// Reads an array of at most `limit` items.
    pub(crate) fn array<T>(
        &mut self,
        field: &'static str,
        limit: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.array_header(field)?;
        let count = within(field, limit, count)?;
        // At least one byte an item: a short message that declares many items allocates no more than its own size.
        let left = self.source.len() - self.decoder.position();
        let mut items = Vec::with_capacity(count.min(left));
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        self.decoder.u64().map_err(|error| self.malformed(field, &error))
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.decoder.u32().map_err(|error| self.malformed(field, &error))
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.decoder.u8().map_err(|error| self.malformed(field, &error))
    }

    /// A single-precision number; NaN and infinities are numbers, too.
    pub(crate) fn f32(&mut self, field: &'static str) -> Result<f32, DecodeError> {
        self.decoder.f32().map_err(|error| self.malformed(field, &error))
    }

    /// A double-precision number.
    pub(crate) fn f64(&mut self, field: &'static str) -> Result<f64, DecodeError> {
        self.decoder.f64().map_err(|error| self.malformed(field, &error))
    }

    pub(crate) fn bool(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        self.decoder.bool().map_err(|error| self.malformed(field, &error))
    }

    /// A text of at most `limit` bytes.
    pub(crate) fn text(&mut self, field: &'static str, limit: usize) -> Result<&'a str, DecodeError> {
        let text = self.decoder.str().map_err(|error| self.malformed(field, &error))?;
        within(field, limit, text.len() as u64)?;
        Ok(text)
    }

    /// A byte string that shares the message's memory.
    pub(crate) fn bytes(&mut self, field: &'static str) -> Result<Bytes, DecodeError> {
        let bytes = self.decoder.bytes().map_err(|error| self.malformed(field, &error))?;
        Ok(self.source.slice_ref(bytes))
    }

    /// A byte string of exactly `N` bytes.
    pub(crate) fn fixed<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let bytes = self.decoder.bytes().map_err(|error| self.malformed(field, &error))?;
        bytes.try_into().map_err(|_| DecodeError::WrongLength { field, expected: N, actual: bytes.len() })
    }

    fn map_header(&mut self, message: &'static str) -> Result<usize, DecodeError> {
        let header = self.decoder.map().map_err(|error| self.malformed(message, &error))?;
        let fields = header.ok_or_else(|| self.indefinite(message))?;
        within("number of keys", MAX_FIELDS, fields)
    }

    fn array_header(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        let header = self.decoder.array().map_err(|error| self.malformed(field, &error))?;
        header.ok_or_else(|| self.indefinite(field))
    }

    /// Steps over one value. Not minicbor's `skip`, which takes any depth and indefinite lengths.
    fn skip(&mut self, message: &'static str, depth: usize) -> Result<(), DecodeError> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(DecodeError::OverLimit {
                what: "nesting",
                limit: MAX_DEPTH as u64,
                actual: MAX_DEPTH as u64 + 1,
            });
        };
        match self.decoder.datatype().map_err(|error| self.malformed(message, &error))? {
            Type::Array => {
                let items = self.array_header(message)?;
                (0..items).try_for_each(|_| self.skip(message, depth))
            }
            Type::Map => {
                let header = self.decoder.map().map_err(|error| self.malformed(message, &error))?;
                let fields = header.ok_or_else(|| self.indefinite(message))?;
                (0..fields).try_for_each(|_| {
                    self.skip(message, depth)?;
                    self.skip(message, depth)
                })
            }
            Type::Tag => {
                self.decoder.tag().map_err(|error| self.malformed(message, &error))?;
                self.skip(message, depth)
            }
            Type::BytesIndef | Type::StringIndef | Type::ArrayIndef | Type::MapIndef | Type::Break => {
                Err(self.indefinite(message))
            }
            _ => self.decoder.skip().map_err(|error| self.malformed(message, &error)),
        }
    }

    fn malformed(&self, field: &'static str, error: &minicbor::decode::Error) -> DecodeError {
        let at = error.position().unwrap_or(self.decoder.position());
        DecodeError::Malformed { field, at, reason: error.to_string() }
    }

    fn indefinite(&self, field: &'static str) -> DecodeError {
        DecodeError::Malformed { field, at: self.decoder.position(), reason: "indefinite length".to_owned() }
    }
}

/// `value` where it is present, otherwise the error that says which key is missing.
pub(crate) fn required<T>(
    value: Option<T>,
    message: &'static str,
    key: u64,
    field: &'static str,
) -> Result<T, DecodeError> {
    value.ok_or(DecodeError::Missing { message, key, field })
}

/// The longest start of `text` that has at most `limit` bytes.
pub(crate) fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

fn within(what: &'static str, limit: usize, actual: u64) -> Result<usize, DecodeError> {
    match usize::try_from(actual) {
        Ok(count) if count <= limit => Ok(count),
        _ => Err(DecodeError::OverLimit { what, limit: limit as u64, actual }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skip(hex: &str) -> Result<(), DecodeError> {
        let bytes = Bytes::from(crate::testing::from_hex(hex));
        let mut reader = Reader::new("test", &bytes, 1 << 20)?;
        reader.map("test", |_, _| Ok(Key::Unknown))?;
        reader.finish("test")
    }

    #[test]
    fn any_definite_value_under_an_unknown_key_is_skipped() {
        for value in [
            "00",
            "3903e7",
            "43010203",
            "63616263",
            "80",
            "82018101",
            "a0",
            "a2010203a10405",
            "c249010000000000000000",
            "f5",
            "f6",
            "f93c00",
            "fa47c35000",
            "fb3ff199999999999a",
        ] {
            assert_eq!(skip(&format!("a11863{value}")), Ok(()), "{value}");
        }
    }

    #[test]
    fn deep_indefinite_truncated_and_endless_values_are_refused() {
        let nested = |depth: usize| format!("a100{}00", "81".repeat(depth));
        assert_eq!(skip(&nested(MAX_DEPTH - 1)), Ok(()));
        assert!(matches!(skip(&nested(MAX_DEPTH)), Err(DecodeError::OverLimit { what: "nesting", .. })));
        assert!(matches!(skip(&nested(100_000)), Err(DecodeError::OverLimit { what: "nesting", .. })));
        let tags = format!("a100{}00", "c1".repeat(100_000));
        assert!(matches!(skip(&tags), Err(DecodeError::OverLimit { what: "nesting", .. })));
        for value in
            ["9f00ff", "bf0000ff", "5f4100ff", "7f6161ff", "ff", "9bffffffffffffffff", "bbffffffffffffffff", ""]
        {
            assert!(matches!(skip(&format!("a100{value}")), Err(DecodeError::Malformed { .. })), "{value}");
        }
    }

    #[test]
    fn keys_that_repeat_or_descend_and_maps_with_too_many_are_refused() {
        assert!(matches!(skip("a200000000"), Err(DecodeError::KeyOrder { key: 0, .. })));
        assert!(matches!(skip("a201000000"), Err(DecodeError::KeyOrder { key: 0, .. })));
        assert!(matches!(skip("b821"), Err(DecodeError::OverLimit { what: "number of keys", .. })));
        assert!(matches!(skip("bbffffffffffffffff"), Err(DecodeError::OverLimit { .. })));
        assert!(matches!(skip("a12000"), Err(DecodeError::Malformed { .. })), "negative key");
        assert!(matches!(skip("a1616100"), Err(DecodeError::Malformed { .. })), "text key");
        assert!(matches!(skip("bf0000ff"), Err(DecodeError::Malformed { .. })), "indefinite map");
    }

    #[test]
    fn text_is_cut_at_a_character() {
        assert_eq!(cut("abc", 8), "abc");
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("éé", 2), "é");
    }
}
