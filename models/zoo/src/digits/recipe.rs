//! How the bundled models are made: the cloud model from labels, the edge model from labels and the cloud model, the
//! threshold from the tune split, the figures from the test split. All of it follows from one seed.

use std::io;
use std::path::{Path, PathBuf};

use hedge_certify::{Score, plug_in_threshold};
use hedge_engine::{DeviceChoice, LoadError, Model};
use hedge_graph::{Graph, file_digest};
use hedge_tensor::{NamedTensor, Tensor, TensorError};
use hedge_train::{Batch, Distillation, EvaluateError, FitError, Predictions, Progress, Recipe, Teacher, fit};
use thiserror::Error;

use super::data;
use super::manifest::{Manifest, ModelRecord, SplitRecord, Splits, TestRecord};
use super::nets::{self, CLASSES, INPUT, NetError, OUTPUT};
use super::stream::{FieldStream, Split};

/// The models' name where requests are made.
pub const NAME: &str = "digits";
/// The share of wrong local answers that the threshold is chosen for.
pub const TARGET_DISAGREEMENT: f64 = 0.005;
/// Samples of the tune split.
pub const TUNE_SAMPLES: usize = 20_000;
/// Samples of the test split.
pub const TEST_SAMPLES: usize = 10_000;

const EDGE_FILE: &str = "edge.onnx";
const CLOUD_FILE: &str = "cloud.onnx";
const MANIFEST_FILE: &str = "manifest.json";

/// Samples a training step.
const BATCH: usize = 64;
/// Samples a run of an evaluation.
const EVALUATION_BATCH: usize = 100;
/// Steps over which the reported loss is averaged.
const LOSS_WINDOW: usize = 100;

/// The number of optimizer steps of both trainings together: what a progress bar counts.
pub const TOTAL_STEPS: usize = CLOUD_STEPS + EDGE_STEPS;
const CLOUD_STEPS: usize = 4000;
const EDGE_STEPS: usize = 5000;

/// The pair of models and what is known of them.
#[derive(Clone, PartialEq, Debug)]
pub struct DigitsModels {
    /// The small model's ONNX file.
    pub edge: Vec<u8>,
    /// The large model's ONNX file.
    pub cloud: Vec<u8>,
    /// What is known of them.
    pub manifest: Manifest,
}

/// Why the models could not be made.
#[derive(Debug, Error)]
pub enum TrainDigitsError {
    /// An architecture could not be built.
    #[error(transparent)]
    Net(#[from] NetError),
    /// Training stopped.
    #[error(transparent)]
    Fit(#[from] FitError),
    /// A trained model does not load.
    #[error("the trained model does not load")]
    Load(#[from] LoadError),
    /// A trained model could not be measured.
    #[error("the trained model cannot be measured")]
    Evaluate(#[from] EvaluateError),
    /// Samples do not stack.
    #[error("samples cannot be put into a batch")]
    Samples(#[from] TensorError),
}

/// Trains both models from `seed`; calls `progress` after every step, [`TOTAL_STEPS`] times.
pub fn train_digits(seed: u64, progress: &mut dyn FnMut(Progress<'_>)) -> Result<DigitsModels, TrainDigitsError> {
    let (cloud, cloud_record) = train_cloud(seed, progress)?;
    let mut cloud_model = Model::load(cloud.clone(), DeviceChoice::Cpu, None)?;
    let (edge, edge_record) = train_edge(seed, &mut cloud_model, progress)?;
    let mut edge_model = Model::load(edge.clone(), DeviceChoice::Cpu, None)?;
    let (edge, cloud) = (edge.write(), cloud.write());
    let manifest = measure(seed, &mut edge_model, &mut cloud_model, edge_record.of(&edge), cloud_record.of(&cloud))?;
    Ok(DigitsModels { edge, cloud, manifest })
}

impl DigitsModels {
    /// Writes the three files into `folder`, which is made where it is missing; returns their paths.
    pub fn write_to(&self, folder: &Path) -> io::Result<[PathBuf; 3]> {
        std::fs::create_dir_all(folder)?;
        let [edge, cloud, manifest] = [EDGE_FILE, CLOUD_FILE, MANIFEST_FILE].map(|name| folder.join(name));
        let mut json = serde_json::to_string_pretty(&self.manifest)?;
        json.push('\n');
        std::fs::write(&edge, &self.edge)?;
        std::fs::write(&cloud, &self.cloud)?;
        std::fs::write(&manifest, json)?;
        Ok([edge, cloud, manifest])
    }
}

fn train_cloud(seed: u64, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(Graph, Training), TrainDigitsError> {
    let recipe = Recipe { steps: CLOUD_STEPS, peak_rate: 3e-3, warm_up: 100, weight_decay: 1e-4, distillation: None };
    let untrained = nets::cloud(sub_seed(seed, Use::CloudWeights))?;
    let batches = Batches { stream: FieldStream::new(Split::Train, sub_seed(seed, Use::CloudData)) };
    run("cloud", CLOUD_FILE, &untrained, &recipe, batches, None, progress)
}

fn train_edge(
    seed: u64,
    cloud: &mut Model,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(Graph, Training), TrainDigitsError> {
    let distillation = Some(Distillation { temperature: 2.0, soft_weight: 0.7 });
    let recipe = Recipe { steps: EDGE_STEPS, peak_rate: 3e-3, warm_up: 100, weight_decay: 1e-4, distillation };
    let untrained = nets::edge(sub_seed(seed, Use::EdgeWeights))?;
    let batches = Batches { stream: FieldStream::new(Split::Train, sub_seed(seed, Use::EdgeData)) };
    let teacher = Some(Teacher { model: cloud, output: OUTPUT });
    run("edge", EDGE_FILE, &untrained, &recipe, batches, teacher, progress)
}

fn run(
    stage: &str,
    file: &'static str,
    untrained: &Graph,
    recipe: &Recipe,
    batches: Batches,
    teacher: Option<Teacher<'_>>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(Graph, Training), TrainDigitsError> {
    let trainable = nets::trainable(untrained);
    let mut losses = Vec::with_capacity(recipe.steps);
    let mut watch = |now: Progress<'_>| {
        losses.push(now.loss);
        progress(now);
    };
    let graph = fit(stage, untrained, &trainable, recipe, batches, teacher, &mut watch)?;
    let last = &losses[losses.len().saturating_sub(LOSS_WINDOW)..];
    let final_loss = last.iter().sum::<f32>() / last.len().max(1) as f32;
    let training = Training { file, parameters: graph.parameters(), steps: recipe.steps, final_loss };
    Ok((graph, training))
}

/// What is known of a training before the file is written.
struct Training {
    file: &'static str,
    parameters: usize,
    steps: usize,
    final_loss: f32,
}

impl Training {
    fn of(self, file: &[u8]) -> ModelRecord {
        ModelRecord {
            file: self.file.to_owned(),
            sha256: hex(&file_digest(file)),
            parameters: self.parameters,
            steps: self.steps,
            batch: BATCH,
            final_loss: self.final_loss,
        }
    }
}

/// Training samples, a batch at a time, never the same twice.
struct Batches {
    stream: FieldStream,
}

impl Iterator for Batches {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        let (images, labels): (Vec<Tensor>, Vec<u8>) =
            self.stream.by_ref().take(BATCH).map(|sample| (sample.image, sample.label)).unzip();
        let images = Tensor::stack(&images).expect("samples of one stream have one shape");
        Some(Batch { inputs: vec![NamedTensor::new(INPUT, images)], labels })
    }
}

/// Both models' answers to a stretch of the field stream.
#[derive(Clone, PartialEq, Debug)]
pub struct Answers {
    /// The small model's.
    pub edge: Predictions,
    /// The large model's.
    pub cloud: Predictions,
    /// The truth.
    pub labels: Vec<u8>,
}

impl Answers {
    /// Asks both models.
    pub fn to(samples: FieldStream, count: usize, edge: &mut Model, cloud: &mut Model) -> Result<Self, EvaluateError> {
        let (images, labels): (Vec<Tensor>, Vec<u8>) =
            samples.take(count).map(|sample| (sample.image, sample.label)).unzip();
        let ask = |model: &mut Model| Predictions::of(model, INPUT, &images, OUTPUT, EVALUATION_BATCH);
        Ok(Answers { edge: ask(edge)?, cloud: ask(cloud)?, labels })
    }

    /// The smallest threshold that meets [`TARGET_DISAGREEMENT`] on these samples.
    pub fn threshold(&self) -> f32 {
        plug_in_threshold(&self.edge.pairs(Score::Margin, &self.cloud), TARGET_DISAGREEMENT)
    }

    /// What the pair of models is worth at `threshold`; `None` without samples.
    pub fn measure(&self, threshold: f32) -> Option<TestRecord> {
        let total = self.labels.len();
        let (mut offloaded, mut disagreed, mut right) = (0usize, 0usize, 0usize);
        let pairs = self.edge.pairs(Score::Margin, &self.cloud);
        let classes = self.edge.classes().zip(self.cloud.classes()).zip(&self.labels);
        for (&(score, agree), ((edge, cloud), &label)) in pairs.iter().zip(classes) {
            let local = score >= threshold;
            offloaded += usize::from(!local);
            disagreed += usize::from(local && !agree);
            right += usize::from(if local { edge } else { cloud } == usize::from(label));
        }
        Some(TestRecord {
            edge_accuracy: self.edge.accuracy(&self.labels)?,
            cloud_accuracy: self.cloud.accuracy(&self.labels)?,
            agreement: self.edge.agreement(&self.cloud)?,
            offload: offloaded as f64 / total as f64,
            system_disagreement: disagreed as f64 / total as f64,
            system_accuracy: right as f64 / total as f64,
        })
    }
}

fn measure(
    seed: u64,
    edge_model: &mut Model,
    cloud_model: &mut Model,
    edge: ModelRecord,
    cloud: ModelRecord,
) -> Result<Manifest, TrainDigitsError> {
    let tune = Answers::to(FieldStream::new(Split::Tune, seed), TUNE_SAMPLES, edge_model, cloud_model)?;
    let test = Answers::to(FieldStream::new(Split::Test, seed), TEST_SAMPLES, edge_model, cloud_model)?;
    let threshold = tune.threshold();
    Ok(Manifest {
        name: NAME.to_owned(),
        input: INPUT.to_owned(),
        output: OUTPUT.to_owned(),
        labels: (0..CLASSES).map(|class| class.to_string()).collect(),
        score: Score::Margin.name().to_owned(),
        threshold,
        target_disagreement: TARGET_DISAGREEMENT,
        seed,
        data_sha256: hex(&file_digest(data::file())),
        splits: Splits { tune: record(Split::Tune, seed, TUNE_SAMPLES), test: record(Split::Test, seed, TEST_SAMPLES) },
        edge,
        cloud,
        test: test.measure(threshold).expect("the test split has samples"),
    })
}

pub(super) fn record(split: Split, seed: u64, samples: usize) -> SplitRecord {
    SplitRecord { seed, samples, sha256: hex(&FieldStream::new(split, seed).checksum(samples)) }
}

/// What a seed is split into.
#[derive(Clone, Copy)]
enum Use {
    CloudWeights,
    EdgeWeights,
    CloudData,
    EdgeData,
}

/// A seed of its own for each use, so that no two of them draw the same numbers.
fn sub_seed(seed: u64, usage: Use) -> u64 {
    let mut bytes = seed.to_le_bytes().to_vec();
    bytes.push(usage as u8);
    let digest = file_digest(&bytes);
    u64::from_le_bytes(*digest.first_chunk().expect("a digest has 32 bytes"))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
