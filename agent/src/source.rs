//! From a path to what a model is made of.

use std::path::Path;

use hedge_bundle::{Bundle, BundleError, Comparison};
use hedge_certify::Fingerprint;
use hedge_engine::Golden;
use hedge_engine::transform::{Pipeline, TransformError};
use hedge_graph::Graph;
use hedge_wire::Digest;

/// The version of a model whose file does not say one.
const FIRST_VERSION: &str = "1";

/// A model as its file has it.
pub(crate) struct Source {
    pub(crate) graph: Graph,
    pub(crate) digest: Digest,
    pub(crate) version: String,
    pub(crate) labels: Vec<String>,
    /// The output that confidence is computed from, where the model says so itself.
    pub(crate) score_output: Option<String>,
    /// When another model's answer is another, where the model says so itself.
    pub(crate) comparison: Option<Comparison>,
    /// Names the transforms of its raw inputs.
    pub(crate) transforms: Fingerprint,
    pub(crate) golden: Vec<Golden>,
    /// How raw inputs become the model's, where the manifest transforms any.
    pub(crate) pipeline: Option<Pipeline>,
}

/// Why a model's file is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Transform(#[from] TransformError),
}

impl Source {
    /// Reads a bundle or a bare ONNX file.
    pub(crate) fn open(path: &Path) -> Result<Self, SourceError> {
        let bundle = Bundle::open(path)?;
        let bare = path.extension().is_some_and(|extension| extension == "onnx");
        let digest = Digest(bundle.digest());
        let pipeline = Some(Pipeline::new(&bundle)?).filter(|pipeline| !pipeline.is_identity());
        let Bundle { manifest, graph, golden, .. } = bundle;
        let transforms = Fingerprint(manifest.transforms_digest().0);
        let version = if bare { FIRST_VERSION.to_owned() } else { manifest.version.as_str().to_owned() };
        let labels = manifest.outputs.into_iter().map(|output| output.labels).find(|labels| !labels.is_empty());
        let golden = golden.into_iter().map(|case| Golden { inputs: case.inputs, outputs: case.outputs });
        Ok(Self {
            graph,
            digest,
            version,
            labels: labels.unwrap_or_default(),
            score_output: manifest.score,
            comparison: manifest.comparison,
            transforms,
            golden: golden.collect(),
            pipeline,
        })
    }

    /// Bytes of the weights.
    pub(crate) fn weights(&self) -> u64 {
        weights(&self.graph)
    }
}

/// Bytes of all that a model's path names; 0 where nothing is found.
pub(crate) fn size_on_disk(path: &Path) -> u64 {
    let length = |path: &Path| std::fs::metadata(path).map_or(0, |meta| if meta.is_file() { meta.len() } else { 0 });
    let Ok(entries) = std::fs::read_dir(path) else { return length(path) };
    entries.flatten().map(|entry| length(&entry.path())).sum()
}

fn weights(graph: &Graph) -> u64 {
    let own: usize = graph.initializers.values().map(|tensor| tensor.bytes().len()).sum();
    let nested = graph.nodes.iter().flat_map(|node| node.subgraphs()).map(weights).sum::<u64>();
    own as u64 + nested
}
