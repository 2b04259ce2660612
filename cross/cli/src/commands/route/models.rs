//! An edge model, a cloud model and what a certificate says of them, as command-line arguments.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use hedge_bundle::{Bundle, Comparison, Manifest};
use hedge_certify::{Fingerprint, Subject};
use hedge_engine::DeviceChoice;
use hedge_graph::Graph;
use hedge_zoo::digits;

use super::duo::Duo;
use crate::failure::with_hint;

/// The bundled tasks.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Task {
    /// Handwritten digits, distorted as a camera in the field would see them.
    Digits,
}

/// Which models are asked.
#[derive(Args)]
pub(super) struct Models {
    /// The edge model, a bundle or an ONNX file; default: the task's own.
    #[arg(long, value_name = "B")]
    pub(super) bundle: Option<PathBuf>,
    /// The cloud model, a bundle or an ONNX file; default: the task's own.
    #[arg(long, value_name = "T.onnx")]
    pub(super) teacher: Option<PathBuf>,
    /// auto (the fastest that agrees with the CPU), gpu or cpu.
    #[arg(long, default_value_t = DeviceChoice::Auto)]
    pub(super) device: DeviceChoice,
}

/// The loaded models and what they are known by.
pub(super) struct Loaded {
    pub(super) duo: Duo,
    /// The edge model's name where requests are made.
    pub(super) name: String,
    pub(super) edge: Fingerprint,
    pub(super) cloud: Fingerprint,
    /// How raw bytes become the edge model's inputs.
    pub(super) transforms: Fingerprint,
    /// When answers differ.
    pub(super) comparison: Comparison,
}

impl Models {
    pub(super) fn load(&self) -> Result<Loaded> {
        let edge = match &self.bundle {
            Some(path) => Party::open(path)?,
            None => Party::bundled(digits::edge_onnx())?,
        };
        let cloud = match &self.teacher {
            Some(path) => Party::open(path)?,
            None => Party::bundled(digits::cloud_onnx())?,
        };
        let comparison = comparison(&edge.manifest)?;
        let logits = logits(&edge.manifest, &comparison)?;
        Ok(Loaded {
            duo: Duo::load(&edge.graph, &cloud.graph, self.device, comparison.clone(), logits)?,
            name: edge.manifest.name.to_string(),
            edge: Fingerprint(edge.digest),
            cloud: Fingerprint(cloud.digest),
            transforms: Fingerprint(edge.manifest.transforms_digest().0),
            comparison,
        })
    }
}

impl Loaded {
    /// What a certificate by their answers is about, on devices of `device_class`.
    pub(super) fn subject(&self, device_class: String) -> Subject {
        Subject {
            edge: self.edge,
            cloud: self.cloud,
            device_class,
            transforms: self.transforms,
            comparison: self.comparison.to_string(),
        }
    }
}

/// One of the models.
struct Party {
    graph: Graph,
    manifest: Manifest,
    digest: [u8; 32],
}

impl Party {
    fn open(path: &Path) -> Result<Self> {
        let bundle =
            Bundle::open(path).with_context(|| format!("{} is not a model that can be used", path.display()))?;
        let digest = bundle.digest();
        Ok(Party { graph: bundle.graph, manifest: bundle.manifest, digest })
    }

    fn bundled(file: &'static [u8]) -> Result<Self> {
        let graph = Graph::read(Bytes::from_static(file)).context("the bundled model")?;
        let manifest = crate::commands::zoo::digits_manifest()?;
        Ok(Party { graph, manifest, digest: Fingerprint::of(file).0 })
    }
}

fn comparison(manifest: &Manifest) -> Result<Comparison> {
    if let Some(comparison) = &manifest.comparison {
        return Ok(comparison.clone());
    }
    match &manifest.outputs[..] {
        [only] => Ok(Comparison::TopClass { output: only.name.clone() }),
        _ => Err(with_hint(
            format_args!("{} does not say when two answers differ, and it has several outputs", manifest.name),
            "state \"comparison\" in its manifest.json and pack it with `hedge bundle pack`",
        )),
    }
}

/// The output that confidence is computed from.
fn logits(manifest: &Manifest, comparison: &Comparison) -> Result<String> {
    match (&manifest.score, comparison) {
        (Some(score), _) => Ok(score.clone()),
        (None, Comparison::TopClass { output } | Comparison::TopK { output, .. }) => Ok(output.clone()),
        _ => Err(with_hint(
            format_args!("{} has no class scores, so nothing says how sure it is", manifest.name),
            "name the output with its confidence as \"score\" in its manifest.json",
        )),
    }
}
