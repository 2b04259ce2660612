//! The caps of the protocol. They hold on both sides: what exceeds one is refused before anything is allocated for it.
//!
//! The message sizes are the tightest of the brokers that Hedge runs on (AWS IoT Core: 128 KiB a message, 8 KiB retained by
//! habit of several hosted brokers), with room for the MQTT header.

/// The largest body on `q/`. A larger request is not offloaded in one message.
pub const MAX_QUERY_BYTES: usize = 100 * 1024;

/// The largest body on `r/`.
pub const MAX_REPLY_BYTES: usize = 100 * 1024;

/// The largest body of a retained message (presence, status, class state).
pub const MAX_RETAINED_BYTES: usize = 8 * 1024;

/// The largest body on `f/`.
pub const MAX_EVIDENCE_BYTES: usize = 32 * 1024;

/// The most audits that one message of evidence carries.
pub const MAX_AUDITS: usize = 512;

/// The most labels that one message of evidence carries.
pub const MAX_LABELS: usize = 256;

/// The most bins of a histogram of scores: the thresholds of a certificate's grid and one more.
pub const MAX_BINS: usize = 128;

/// The most certificates that a class state revokes.
pub const MAX_REVOKED: usize = 64;

/// The longest comparison of a subject, in bytes.
pub const MAX_SUBJECT_TEXT_BYTES: usize = 256;

/// The largest certificate, decompressed.
pub const MAX_CERTIFICATE_BYTES: usize = 64 * 1024;

/// The smallest parts that a large body is cut into, but for its last.
pub const MIN_PART_BYTES: usize = 4 * 1024;

/// The largest parts of a large body.
pub const MAX_PART_BYTES: usize = 64 * 1024;

/// The largest body that comes in parts: its tensors, and room for what is around them.
pub const MAX_UPLOAD_BYTES: usize = MAX_UPLOAD_TENSOR_BYTES + 4 * 1024;

/// The most bytes that the tensors of such a body may have together once decompressed.
pub const MAX_UPLOAD_TENSOR_BYTES: usize = 8 * 1024 * 1024;

/// The most tensors in one message.
pub const MAX_TENSORS: usize = 16;

/// The most dimensions of a tensor.
pub const MAX_RANK: usize = 8;

/// The longest name of a tensor, in bytes.
pub const MAX_NAME_BYTES: usize = 128;

/// The most bytes that the tensors of one message may have together once decompressed.
pub const MAX_TENSOR_BYTES: usize = 1024 * 1024;

/// The most models that a presence or status message lists.
pub const MAX_MODELS: usize = 64;

/// The longest free text (a refusal's message, a version), in bytes; an encoder cuts longer text.
pub const MAX_TEXT_BYTES: usize = 512;

/// The longest MQTT topic, in bytes.
pub const MAX_TOPIC_BYTES: usize = 200;

/// The most keys in one map.
pub const MAX_FIELDS: usize = 32;

/// How deep an unknown value may nest and still be skipped.
pub const MAX_DEPTH: usize = 8;

/// A tensor is compressed only from this size: below it zstd's fixed costs exceed what it saves.
pub const MIN_COMPRESSED_BYTES: usize = 1024;
