//! Ids: what may stand in a topic, and fixed-size ids in bodies.
//!
//! An id that stands in a topic matches `[a-z0-9-]{1,48}`: no wildcard, no slash, no case, no escape, so that it can be a
//! topic level, a file name, a certificate's CN and a metric's label as it is.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use uuid::Uuid;

/// The longest id of a topic level.
const MAX_ID_BYTES: usize = 48;

/// Hex digits of the checksum that [`ModelId::from_name`] appends.
const CHECKSUM_DIGITS: usize = 8;

/// Why a text is no id.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdError {
    /// Not `[a-z0-9-]{1,48}`.
    #[error("{kind} id `{text}` is not 1 to 48 of a-z, 0-9 and '-'")]
    Text {
        /// Which kind of id.
        kind: &'static str,
        /// What was given, cut to 64 characters.
        text: String,
    },
    /// Not a UUID.
    #[error("request id `{text}` is not a UUID")]
    Request {
        /// What was given, cut to 64 characters.
        text: String,
    },
    /// Not `sha256:` and 64 hex digits.
    #[error("digest `{text}` is not `sha256:` and 64 hex digits")]
    Digest {
        /// What was given, cut to 80 characters.
        text: String,
    },
    /// Not 16 hex digits.
    #[error("chunk hash `{text}` is not 16 lower-case hex digits")]
    Hash16 {
        /// What was given, cut to 64 characters.
        text: String,
    },
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks that `text` matches `[a-z0-9-]{1,48}`.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                if is_id(text) {
                    Ok($name(text.into()))
                } else {
                    Err(IdError::Text { kind: $kind, text: cut(text, 64) })
                }
            }

            /// The id as it stands in a topic.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                $name::parse(text)
            }
        }
    };
}

text_id!(
    /// Who owns devices and gateways; the third level of every topic.
    TenantId,
    "tenant"
);
text_id!(
    /// A device: MQTT client id, certificate CN and topic level at once.
    DeviceId,
    "device"
);
text_id!(
    /// A gateway process's stable name.
    GatewayId,
    "gateway"
);
text_id!(
    /// A model as it stands in a topic; [`ModelId::from_name`] makes one of any model name.
    ModelId,
    "model"
);
text_id!(
    /// A group of devices.
    GroupId,
    "group"
);

impl ModelId {
    /// The id of the model called `name`.
    ///
    /// A name that is an id is its own id. Of any other, upper-case ASCII becomes lower-case, every other byte outside
    /// `[a-z0-9-]` becomes `-`, the result is cut to 39 characters, and `-` and the 8 hex digits of the name's 32-bit FNV-1a
    /// follow, so that `Digits` and `digits` differ.
    ///
    /// ```
    /// # use hedge_wire::ModelId;
    /// assert_eq!(ModelId::from_name("digits").as_str(), "digits");
    /// assert_eq!(ModelId::from_name("ResNet 50/v1.5").as_str(), "resnet-50-v1-5-35c782ba");
    /// ```
    pub fn from_name(name: &str) -> Self {
        if is_id(name) {
            return ModelId(name.into());
        }
        let kept = MAX_ID_BYTES - CHECKSUM_DIGITS - 1;
        let mut id: String = name.bytes().take(kept).map(id_character).collect();
        id.push_str(&format!("-{:08x}", fnv1a(name.as_bytes())));
        ModelId(id.into())
    }
}

/// The id of one offloaded request: 16 bytes, a UUIDv7 by convention of its maker.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId([u8; 16]);

impl RequestId {
    /// An id from its bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        RequestId(bytes)
    }

    /// An id from a UUID.
    pub fn from_uuid(uuid: Uuid) -> Self {
        RequestId(uuid.into_bytes())
    }

    /// The bytes, which are also the MQTT Correlation Data.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Reads the hyphenated form (and the other forms that UUIDs have).
    pub fn parse(text: &str) -> Result<Self, IdError> {
        Uuid::try_parse(text).map(Self::from_uuid).map_err(|_| IdError::Request { text: cut(text, 64) })
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Uuid::from_bytes(self.0).hyphenated().fmt(f)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RequestId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        RequestId::parse(text)
    }
}

/// A SHA-256: that names a model, computed by whoever holds its bytes, or that a body is checked with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
        Digest(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads `sha256:` and 64 hex digits.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let error = || IdError::Digest { text: cut(text, 80) };
        let digits = text.strip_prefix("sha256:").ok_or_else(error)?;
        from_hex(digits).map(Digest).ok_or_else(error)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Digest::parse(text)
    }
}

/// The first 8 bytes of an artifact's digest: enough to name a chunk stream in a topic, not to verify it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Hash16(pub [u8; 8]);

impl Hash16 {
    /// Reads 16 lower-case hex digits.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let lower = text.bytes().all(|byte| !byte.is_ascii_uppercase());
        from_hex(text).filter(|_| lower).map(Hash16).ok_or_else(|| IdError::Hash16 { text: cut(text, 64) })
    }
}

impl fmt::Display for Hash16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// One run of a program. A will left by an earlier run carries that run's id and so cannot mark a later one offline.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BootId(pub u64);

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

fn is_id(text: &str) -> bool {
    (1..=MAX_ID_BYTES).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

fn id_character(byte: u8) -> char {
    match byte.to_ascii_lowercase() {
        kept @ (b'a'..=b'z' | b'0'..=b'9') => char::from(kept),
        _ => '-',
    }
}

/// 32-bit FNV-1a (Fowler, Noll, Vo): the whole rule fits in a sentence of the protocol, unlike a table-driven CRC.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

pub(crate) fn from_hex<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let digits = digits.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(16 * high + low).ok()?;
    }
    Some(bytes)
}

fn cut(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_lower_case_digits_and_hyphens_up_to_48() {
        for good in ["a", "camera-7", "0", "-", &"x".repeat(48)] {
            assert_eq!(DeviceId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "Camera", "a_b", "a/b", "a+", "#", "é", "a b", &"x".repeat(49)] {
            assert!(matches!(DeviceId::parse(bad), Err(IdError::Text { kind: "device", .. })), "{bad}");
        }
    }

    #[test]
    fn every_model_name_has_an_id_and_changed_names_do_not_collide() {
        let long = "x".repeat(300);
        let names = ["digits", "Digits", "DIGITS", "di gits", "di/gits", "", "éé", long.as_str(), &long[1..]];
        let ids: std::collections::BTreeSet<_> = names.iter().map(|name| ModelId::from_name(name)).collect();
        assert_eq!(ids.len(), names.len());
        for id in ids {
            assert_eq!(ModelId::parse(id.as_str()).unwrap(), id);
        }
        assert_eq!(ModelId::from_name("Digits").as_str(), "digits-eac22f5f");
    }

    #[test]
    fn the_checksum_is_fnv1a_with_its_published_vectors() {
        assert_eq!(fnv1a(b""), 0x811c_9dc5);
        assert_eq!(fnv1a(b"a"), 0xe40c_292c);
        assert_eq!(fnv1a(b"foobar"), 0xbf9c_f968);
    }

    #[test]
    fn request_ids_and_digests_read_back_what_they_write() {
        let id = RequestId::from_bytes(*b"0123456789abcdef");
        assert_eq!(id.to_string(), "30313233-3435-3637-3839-616263646566");
        assert_eq!(RequestId::parse(&id.to_string()).unwrap(), id);
        assert!(RequestId::parse("30313233").is_err());

        let digest = Digest([0xab; 32]);
        assert_eq!(digest.to_string(), format!("sha256:{}", "ab".repeat(32)));
        assert_eq!(Digest::parse(&digest.to_string()).unwrap(), digest);
        for bad in ["", "sha256:", "sha256:zz", &format!("sha512:{}", "ab".repeat(32)), &"ab".repeat(32)] {
            assert!(Digest::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_chunk_hash_is_16_lower_case_digits() {
        assert_eq!(Hash16::parse("00112233aabbccdd").unwrap().to_string(), "00112233aabbccdd");
        for bad in ["", "00112233AABBCCDD", "00112233aabbccd", "00112233aabbccddee", "0011223+aabbccdd"] {
            assert!(Hash16::parse(bad).is_err(), "{bad}");
        }
    }
}
