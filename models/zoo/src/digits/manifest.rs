//! What is known of the bundled models: `digits/manifest.json`, written with them.

use serde::{Deserialize, Serialize};

/// Everything needed to use the models and to check what is said of them.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The models' name where requests are made.
    pub name: String,
    /// The input of both models.
    pub input: String,
    /// The output of both models.
    pub output: String,
    /// What each class is called.
    pub labels: Vec<String>,
    /// The score by which requests are placed.
    pub score: String,
    /// Answers whose score is below go to the cloud. Chosen on the tune split; nothing is certified by it.
    pub threshold: f32,
    /// The share of wrong local answers (other than the cloud's) that the threshold was chosen for.
    pub target_disagreement: f64,
    /// The seed of weights, training data and splits.
    pub seed: u64,
    /// SHA-256 of `data/digits.bin`.
    pub data_sha256: String,
    /// The field requests that the figures rest on.
    pub splits: Splits,
    /// The small model.
    pub edge: ModelRecord,
    /// The large model.
    pub cloud: ModelRecord,
    /// Measured on the test split.
    pub test: TestRecord,
}

/// The streams that were used.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Splits {
    /// What the threshold was chosen on.
    pub tune: SplitRecord,
    /// What the figures were measured on.
    pub test: SplitRecord,
}

/// A stretch of a field stream.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitRecord {
    /// The stream's seed.
    pub seed: u64,
    /// How many samples, from the first.
    pub samples: usize,
    /// [`FieldStream::checksum`](super::FieldStream::checksum) of them.
    pub sha256: String,
}

/// One trained model.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRecord {
    /// The file next to the manifest.
    pub file: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// Elements of its weights.
    pub parameters: usize,
    /// Optimizer steps.
    pub steps: usize,
    /// Samples a step.
    pub batch: usize,
    /// The mean loss of the last hundred steps.
    pub final_loss: f32,
}

/// Shares of the test split's samples, 0..1.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestRecord {
    /// Edge answers that are right.
    pub edge_accuracy: f64,
    /// Cloud answers that are right.
    pub cloud_accuracy: f64,
    /// Samples on which both say the same.
    pub agreement: f64,
    /// Samples that go to the cloud at the threshold.
    pub offload: f64,
    /// Local answers at the threshold that differ from the cloud's, out of all samples.
    pub system_disagreement: f64,
    /// Answers of the whole system that are right.
    pub system_accuracy: f64,
}
