//! Why a body could not be read or written.

use thiserror::Error;

use crate::ids::IdError;

/// Why bytes are no message. The sender is at fault (or a different major version); the receiver drops or refuses the message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The body is larger than its kind of message may be.
    #[error("the {message} has {size} bytes, the limit is {limit}")]
    TooLarge {
        /// Which message.
        message: &'static str,
        /// The cap.
        limit: usize,
        /// What came.
        size: usize,
    },
    /// The bytes are not the CBOR that was expected at this place.
    #[error("malformed CBOR in {field} at byte {at}: {reason}")]
    Malformed {
        /// Which field was being read.
        field: &'static str,
        /// Where in the body.
        at: usize,
        /// What is wrong.
        reason: String,
    },
    /// A whole message, and then more.
    #[error("{extra} bytes follow the {message}")]
    Trailing {
        /// Which message.
        message: &'static str,
        /// How many bytes are left over.
        extra: usize,
    },
    /// Keys that do not ascend, which includes a key given twice.
    #[error("key {key} of {message} is repeated or out of order (keys ascend)")]
    KeyOrder {
        /// Which map.
        message: &'static str,
        /// The offending key.
        key: u64,
    },
    /// A field without which the message has no meaning.
    #[error("{message} lacks key {key} ({field})")]
    Missing {
        /// Which map.
        message: &'static str,
        /// The key.
        key: u64,
        /// Its name in docs/protocol.md.
        field: &'static str,
    },
    /// A count, length or depth over its cap.
    #[error("{what} is {actual}, the limit is {limit}")]
    OverLimit {
        /// What is counted.
        what: &'static str,
        /// The cap.
        limit: u64,
        /// What was declared.
        actual: u64,
    },
    /// A byte string of a fixed length with another length.
    #[error("{field} has {actual} bytes instead of {expected}")]
    WrongLength {
        /// Which field.
        field: &'static str,
        /// What it must have.
        expected: usize,
        /// What it has.
        actual: usize,
    },
    /// A kind, dtype or encoding that this version does not know.
    #[error("unknown {what} {code}; the sender may be newer than this program")]
    Unknown {
        /// What is unknown.
        what: &'static str,
        /// Its code.
        code: u64,
    },
    /// The data of a tensor is not as long as its dtype and shape ask for.
    #[error("tensor `{name}`: dtype and shape ask for {expected} bytes, the data has {actual}")]
    TensorLength {
        /// The tensor.
        name: String,
        /// Bytes that dtype and shape ask for.
        expected: usize,
        /// Bytes that came (after decompression, where that worked).
        actual: usize,
    },
    /// The compressed data of a tensor does not decompress into its declared size.
    #[error("tensor `{name}` does not decompress into its {expected} bytes: {reason}")]
    Compression {
        /// The tensor.
        name: String,
        /// Bytes that dtype and shape ask for.
        expected: usize,
        /// What zstd says.
        reason: String,
    },
    /// The signature is not the expected key's over these bytes; nothing of them was parsed.
    #[error("the {message} is not signed by the configured key; check that the device has the gateway's public key")]
    Signature {
        /// Which message.
        message: &'static str,
    },
    /// A number outside what the field may be.
    #[error("{field} is {value}, which is not {expected}")]
    Range {
        /// Which field.
        field: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is, as text: NaN has no equal.
        value: String,
    },
    /// The compressed certificate does not decompress into its declared size.
    #[error("the certificate does not decompress into its {expected} bytes: {reason}")]
    Certificate {
        /// The size declared.
        expected: usize,
        /// What zstd says.
        reason: String,
    },
    /// The data are not those whose checksum was sent.
    #[error("the data of the {message} do not have its checksum; they were changed on the way")]
    Checksum {
        /// Which message.
        message: &'static str,
    },
    /// An id with a character or length that ids do not have.
    #[error(transparent)]
    Id(#[from] IdError),
}

/// Why a value cannot be sent: it would be refused by any receiver.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// The body would be larger than its kind of message may be.
    #[error("the {message} takes {size} bytes, the limit is {limit}")]
    TooLarge {
        /// Which message.
        message: &'static str,
        /// The cap.
        limit: usize,
        /// What it takes.
        size: usize,
    },
    /// A count or length over its cap.
    #[error("{what} is {actual}, the limit is {limit}")]
    OverLimit {
        /// What is counted.
        what: &'static str,
        /// The cap.
        limit: usize,
        /// What it is.
        actual: usize,
    },
}
