//! Handwritten digits: a small model for the device, a larger one for the cloud, and requests without end.
//!
//! The base images are the UCI digits (E. Alpaydin, C. Kaynak; CC BY 4.0; `data/ATTRIBUTION.md`), divided once into
//! training and field images. [`FieldStream`] makes requests of them; [`train_digits`] makes the models, which are also
//! committed and compiled in ([`edge_onnx`], [`cloud_onnx`]) with what was measured of them ([`manifest`]).

mod conditions;
mod data;
mod manifest;
mod nets;
mod recipe;
mod stream;

pub use conditions::{Classes, ClassesError, Conditions, Drift, UnknownDrift};
pub use manifest::{Manifest, ModelRecord, SplitRecord, Splits, TestRecord};
pub use nets::{CLASSES, INPUT, NetError, OUTPUT};
pub use recipe::{
    Answers, DigitsModels, NAME, TARGET_DISAGREEMENT, TEST_SAMPLES, TOTAL_STEPS, TUNE_SAMPLES, TrainDigitsError,
    train_digits,
};
pub use stream::{CANVAS, FieldSample, FieldStream, Split};

/// The seed that the committed models were trained from.
pub const SEED: u64 = 1;

/// The small model's ONNX file.
pub fn edge_onnx() -> &'static [u8] {
    include_bytes!("../../digits/edge.onnx")
}

/// The large model's ONNX file.
pub fn cloud_onnx() -> &'static [u8] {
    include_bytes!("../../digits/cloud.onnx")
}

/// Where the images come from and under which licence.
pub fn attribution() -> &'static str {
    include_str!("../../data/ATTRIBUTION.md")
}

/// What is known of the two.
pub fn manifest() -> Manifest {
    serde_json::from_str(include_str!("../../digits/manifest.json")).expect("the committed manifest is whole")
}

#[cfg(test)]
mod tests;
