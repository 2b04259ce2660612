//! A model being served: its file, its place on a device, its score and its policy.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use hedge_agent_core::route::InvalidRoute;
use hedge_agent_spool::DeviceKey;
use hedge_bundle::{BundleError, Comparison};
use hedge_certify::Features;
use hedge_engine::transform::Pipeline;
use hedge_engine::worker::{BatchPolicy, Worker};
use hedge_engine::{DeviceKind, Engine, LoadError, Port, RanOn, Signature};
use hedge_graph::Dim;
use hedge_tensor::NamedTensor;
use hedge_wire::Digest;

use crate::budget::{Budget, OverBudget, Reservation};
use crate::config::{ModelSettings, Settings, SettingsError};
use crate::routing::{Route, Routes, Side};
use crate::score::{NoScore, Scorer};
use crate::source::{self, Source, SourceError};

/// Why a model cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Its file cannot be read.
    #[error("model {name:?}: {path} cannot be read: {why}")]
    File {
        /// The model.
        name: String,
        /// Its file.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// Its file is not a model that we read.
    #[error("model {name:?}: {path} is no usable model: {why}; `hedge model check` says more")]
    Graph {
        /// The model.
        name: String,
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// No device runs it.
    #[error("model {name:?}: {source}")]
    Load {
        /// The model.
        name: String,
        /// Why.
        #[source]
        source: LoadError,
    },
    /// The system gave no thread to run it.
    #[error("model {name:?}: no thread to run it: {source}")]
    NoThread {
        /// The model.
        name: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The system gave no thread to load models in.
    #[error("no thread to load models in: {0}; raise the limit of threads for this user or service")]
    NoLoader(#[source] std::io::Error),
    /// It does not fit into the memory for models.
    #[error("model {name:?}: {source}")]
    OverBudget {
        /// The model.
        name: String,
        /// How much too large it is.
        #[source]
        source: OverBudget,
    },
    /// What is configured for it cannot work.
    #[error("model {name:?}: {source}")]
    Settings {
        /// The model.
        name: String,
        /// Why.
        #[source]
        source: SettingsError,
    },
    /// There is no such model.
    #[error("there is no model {name:?}, neither configured nor in repository.path")]
    Unknown {
        /// Its name.
        name: String,
    },
    /// Loading it panicked, which is a fault in here.
    #[error("model {name:?}: loading it crashed: {why}; report this")]
    Crashed {
        /// The model.
        name: String,
        /// What is known of the crash.
        why: String,
    },
    /// Its routing cannot work.
    #[error("model {name:?}: {source}")]
    Route {
        /// The model.
        name: String,
        /// Why.
        #[source]
        source: InvalidRoute,
    },
    /// It has no score to decide by.
    #[error("model {name:?}: {source}")]
    Score {
        /// The model.
        name: String,
        /// Why.
        #[source]
        source: NoScore,
    },
}

/// One model, ready to answer.
pub(crate) struct ServedModel {
    pub(crate) settings: ModelSettings,
    pub(crate) version: String,
    pub(crate) labels: Vec<String>,
    pub(crate) digest: Digest,
    /// What the model itself takes and gives.
    pub(crate) signature: Signature,
    /// How what callers give becomes that; `None` where they give it themselves.
    pub(crate) pipeline: Option<Pipeline>,
    pub(crate) worker: Worker,
    pub(crate) scorer: Option<Scorer>,
    /// When a cloud model's answer differs from this one's; none where nothing is compared.
    pub(crate) comparison: Option<Comparison>,
    /// Who decides about its rows.
    pub(crate) route: Arc<Route>,
    /// Those of the name: a model that replaces another goes on counting.
    pub(crate) counts: Arc<Counts>,
    device_key: DeviceKey,
    _memory: Reservation,
}

/// What `…/stats` tells of a model; nanoseconds and rows.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) success: Tally,
    pub(crate) fail: Tally,
    pub(crate) queue: Tally,
    pub(crate) infer: Tally,
    pub(crate) cache_hit: Tally,
    pub(crate) cache_miss: Tally,
    pub(crate) last_unix_millis: AtomicU64,
}

/// A count and the time that it took together.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) count: AtomicU64,
    pub(crate) nanos: AtomicU64,
}

impl ServedModel {
    /// Reads, checks and loads one model. Blocks for as long as that takes.
    pub(crate) fn load(
        settings: &ModelSettings,
        path: &Path,
        engine: &Engine,
        (all, budget, routes): (&Settings, &Budget, &Routes),
        counts: Arc<Counts>,
    ) -> Result<Self, ModelError> {
        let name = || settings.name.clone();
        let over = |source| ModelError::OverBudget { name: name(), source };
        // Before it is read: what is too large on the disk is too large in memory.
        let memory = budget.reserve(source::size_on_disk(path)).map_err(over)?;
        let source = Source::open(path).map_err(|error| match error {
            SourceError::Bundle(BundleError::Io { source, .. }) => {
                ModelError::File { name: name(), path: path.to_owned(), why: source.to_string() }
            }
            error => ModelError::Graph { name: name(), path: path.to_owned(), why: error.to_string() },
        })?;
        let weights = source.weights();
        let memory = memory.resize(weights).map_err(over)?;
        let load_error = |source| ModelError::Load { name: name(), source };
        let model = engine.load(source.graph, all.device_choice, &source.golden).map_err(load_error)?;
        let kind = model.device().kind();
        let (device_key, copies) = match kind {
            DeviceKind::Cpu => (DeviceKey::Cpu, 1),
            // Its own, and the one that stands by.
            DeviceKind::Gpu => (DeviceKey::Gpu, 2),
        };
        let memory = memory.resize(weights.saturating_mul(copies)).map_err(over)?;
        let signature = model.signature().clone();
        let Source { digest, version, labels, score_output, comparison, transforms, pipeline, .. } = source;
        let mut settings = settings.clone();
        if settings.needs_score() {
            settings.score_output = settings.score_output.or(score_output);
        }
        let scorer = Scorer::choose(&settings, &signature);
        let scorer = scorer.map_err(|source| ModelError::Score { name: settings.name.clone(), source })?;
        let top_class = |scorer: &Scorer| Comparison::TopClass { output: scorer.output().to_owned() };
        let comparison = comparison.or_else(|| scorer.as_ref().map(top_class));
        let policy = BatchPolicy { max_batch: all.max_batch, max_wait: all.max_wait, queue_rows: all.queue_rows };
        let worker = Worker::spawn("engine", model, policy);
        let worker = worker.map_err(|source| ModelError::NoThread { name: settings.name.clone(), source })?;
        tracing::info!(model = settings.name, %digest, device = worker.device_label(), "model ready");
        let labels = if settings.labels.is_empty() { labels } else { settings.labels.clone() };
        let version = settings.version.clone().unwrap_or(version);
        // Last: from here on the model that served under the name so far promises nothing more.
        let side = Side {
            cloud_model: settings.cloud_model.clone(),
            edge: digest,
            class: all.device_class.clone().unwrap_or_else(|| Side::default_class(kind)),
            transforms,
            comparison: comparison.as_ref().map(ToString::to_string).unwrap_or_default(),
        };
        let route = routes.adopt(&settings, side);
        let route = route.map_err(|source| ModelError::Route { name: settings.name.clone(), source })?;
        Ok(Self {
            settings,
            version,
            labels,
            digest,
            signature,
            pipeline,
            worker,
            scorer,
            comparison,
            route,
            counts,
            device_key,
            _memory: memory,
        })
    }

    /// Under which device results are cached that are computed now.
    pub(crate) fn cached_under(&self, stand_in: bool) -> DeviceKey {
        if stand_in { DeviceKey::Cpu } else { self.device_key }
    }

    /// The label of the device that gave an answer.
    pub(crate) fn device_label(&self, stand_in: bool) -> &str {
        self.worker.label_of(if stand_in { RanOn::StandIn } else { RanOn::Device })
    }

    /// The score of one row of outputs.
    pub(crate) fn score(&self, outputs: &[NamedTensor]) -> Option<f32> {
        self.scorer.as_ref().and_then(|scorer| scorer.score(outputs))
    }

    /// What the router goes by of one row of outputs.
    pub(crate) fn features(&self, outputs: &[NamedTensor]) -> Option<Features> {
        self.scorer.as_ref().and_then(|scorer| scorer.features(outputs))
    }

    /// Whether the cloud's answer to a row differs from the local one. What cannot be compared counts as different: a
    /// certificate may be missed for that, but none is issued by it.
    pub(crate) fn differs(&self, local: &[NamedTensor], cloud: &[NamedTensor]) -> bool {
        let Some(comparison) = &self.comparison else { return true };
        let value = |outputs: &[NamedTensor]| {
            outputs.iter().find(|output| output.name == comparison.output()).map(|output| output.tensor.clone())
        };
        let (Some(local), Some(cloud)) = (value(local), value(cloud)) else { return true };
        comparison.differs(&local, &cloud).unwrap_or_else(|error| {
            tracing::debug!(model = self.settings.name, %error, "answers that cannot be compared count as different");
            true
        })
    }

    /// Puts a cloud model's outputs in the order of this model's, if they are what its signature says.
    pub(crate) fn accept(&self, outputs: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, BadOutputs> {
        accept(&self.signature, outputs)
    }
}

/// Outputs that do not fit the model's signature.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadOutputs {
    #[error("output {0:?} is missing")]
    Missing(String),
    #[error("output {0:?} is not one of the model's, or came twice")]
    Unknown(String),
    #[error("output {name:?} is {got}, not {expected}")]
    Different { name: String, got: String, expected: String },
}

fn accept(signature: &Signature, outputs: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, BadOutputs> {
    let mut left = outputs;
    let mut ordered = Vec::with_capacity(signature.outputs.len());
    for port in &signature.outputs {
        let at = left.iter().position(|output| output.name == port.name);
        let output = left.swap_remove(at.ok_or_else(|| BadOutputs::Missing(port.name.clone()))?);
        if !fits(port, &output, signature.batched) {
            let got = format!("{} {:?}", output.tensor.dtype(), output.tensor.shape());
            let expected = format!("one row of {} {}", port.dtype, port.shape_text());
            return Err(BadOutputs::Different { name: output.name, got, expected });
        }
        ordered.push(output);
    }
    match left.pop() {
        None => Ok(ordered),
        Some(extra) => Err(BadOutputs::Unknown(extra.name)),
    }
}

fn fits(port: &Port, output: &NamedTensor, batched: bool) -> bool {
    let shape = output.tensor.shape();
    let fits = |(axis, (dim, &size)): (usize, (&Dim, &usize))| match dim {
        Dim::Known(known) => *known == size,
        _ if batched && axis == 0 => size == 1,
        _ => true,
    };
    let of_shape = |dims: &Vec<Dim>| dims.len() == shape.len() && dims.iter().zip(shape).enumerate().all(fits);
    output.tensor.dtype() == port.dtype && port.shape.as_ref().is_none_or(of_shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hedge_tensor::{DType, Tensor};

    fn signature() -> Signature {
        let port = |name: &str, tail: usize| Port {
            name: name.into(),
            dtype: DType::F32,
            shape: Some(vec![Dim::Named("N".into()), Dim::Known(tail)]),
        };
        Signature { inputs: vec![], outputs: vec![port("a", 2), port("b", 1)], batched: true }
    }

    fn output(name: &str, shape: &[usize]) -> NamedTensor {
        NamedTensor::new(name, Tensor::zeros(DType::F32, shape.to_vec()).unwrap())
    }

    #[test]
    fn outputs_that_fit_are_put_in_the_models_order() {
        let accepted = accept(&signature(), vec![output("b", &[1, 1]), output("a", &[1, 2])]).unwrap();
        assert_eq!(accepted.iter().map(|o| o.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn outputs_that_do_not_fit_are_named() {
        let cases = [
            (vec![output("a", &[1, 2])], "output \"b\" is missing"),
            (
                vec![output("a", &[1, 3]), output("b", &[1, 1])],
                "output \"a\" is FP32 [1, 3], not one row of FP32 [N, 2]",
            ),
            (
                vec![output("a", &[2, 2]), output("b", &[1, 1])],
                "output \"a\" is FP32 [2, 2], not one row of FP32 [N, 2]",
            ),
            (
                vec![output("a", &[1, 2]), output("b", &[1, 1]), output("c", &[1, 1])],
                "output \"c\" is not one of the model's, or came twice",
            ),
        ];
        for (outputs, expected) in cases {
            assert_eq!(accept(&signature(), outputs).unwrap_err().to_string(), expected);
        }
        let bytes = NamedTensor::new("a", Tensor::zeros(DType::U8, vec![1, 2]).unwrap());
        assert!(matches!(accept(&signature(), vec![bytes]), Err(BadOutputs::Different { .. })));
    }
}
