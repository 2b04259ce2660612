//! How large and how many: every bound of a bundle in one place.
//!
//! Bundles come from strangers. A bound is checked before the memory that it bounds is taken.

/// The most bytes of `manifest.json`.
pub const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// How deep objects and arrays of the manifest may be nested.
pub const MAX_MANIFEST_DEPTH: usize = 16;
/// The most files beside the manifest.
pub const MAX_FILES: usize = 1024;
/// The most bytes of a bundle.
pub const MAX_BUNDLE_BYTES: u64 = 16 << 30;
/// The most bytes of `model.onnx`: protobuf's own bound on a message.
pub const MAX_MODEL_BYTES: u64 = hedge_graph::onnx::MAX_FILE_BYTES as u64;
/// The most bytes of all golden vectors together.
pub const MAX_GOLDEN_BYTES: u64 = 64 << 20;
/// The most golden cases.
pub const MAX_GOLDEN_CASES: usize = 64;
/// The most bytes of a file that a transform needs, such as a vocabulary.
pub const MAX_ASSET_BYTES: u64 = 64 << 20;
/// The most bytes of all such files together.
pub const MAX_ASSETS_BYTES: u64 = 128 << 20;
/// The most inputs, and the most outputs.
pub const MAX_PORTS: usize = 256;
/// The most labels of an output.
pub const MAX_LABELS: usize = 1 << 17;
/// The most bytes of a name of an input or output, a label, a unit or a meaning.
pub const MAX_WORD_BYTES: usize = 1024;
/// The most bytes of a description or licence.
pub const MAX_TEXT_BYTES: usize = 64 << 10;
/// The most bytes of a file's name.
pub const MAX_FILE_NAME_BYTES: usize = 200;
/// The most folders that a file of a bundle may lie in, one in the other.
pub const MAX_FOLDERS: usize = 4;
/// The most files with weights that a bare ONNX model may have.
pub const MAX_DATA_FILES: usize = 1024;
