//! `hedge zoo export`: a bundled model with all that is known of it.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use hedge_bundle::{Comparison, Draft, FileName, GoldenCase, Input, Manifest, ModelName, ModelVersion, Output};
use hedge_engine::{Device, Model};
use hedge_graph::Graph;
use hedge_tensor::{NamedTensor, Tensor};
use hedge_zoo::digits::{self, FieldStream, Split};

use super::Task;
use crate::output::say;

/// Requests in the golden case: enough to reach every class.
const GOLDEN_ROWS: usize = 16;

/// `hedge zoo export`.
#[derive(Args)]
pub(crate) struct Export {
    /// Which task.
    #[arg(value_enum)]
    task: Task,
    /// Which of its models.
    #[arg(long, value_enum, default_value = "edge")]
    model: Which,
    /// The bundle: one file where the name ends in `.hedge`, else a new folder.
    #[arg(short, long, value_name = "B.hedge")]
    output: PathBuf,
}

/// The models of a task.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Which {
    /// The small one.
    Edge,
    /// The large one.
    Cloud,
}

pub(super) fn run(args: &Export) -> Result<()> {
    let Task::Digits = args.task;
    let file = match args.model {
        Which::Edge => digits::edge_onnx(),
        Which::Cloud => digits::cloud_onnx(),
    };
    let graph = Graph::read(bytes::Bytes::from_static(file))?;
    let golden = golden(&graph)?;
    let mut draft = Draft::new(manifest(args.model)?, graph);
    draft.add_golden(&golden);
    draft.add_file(FileName::parse("ATTRIBUTION.md")?, bytes::Bytes::from_static(digits::attribution().as_bytes()));
    let packed = draft.write(&args.output)?;
    say(None, format_args!("wrote {}, sha256:{}", args.output.display(), hedge_bundle::Digest(packed.digest)));
    Ok(())
}

pub(super) fn manifest(model: Which) -> Result<Manifest> {
    let known = digits::manifest();
    let mut manifest = Manifest::named(ModelName::parse(&known.name)?, ModelVersion::parse("1")?);
    let (what, accuracy) = match model {
        Which::Edge => ("The small", known.test.edge_accuracy),
        Which::Cloud => ("The large", known.test.cloud_accuracy),
    };
    manifest.description = format!(
        "{what} model of handwritten digits as a cheap camera sees them; right on {accuracy:.4} of field samples."
    );
    manifest.licence = "(Apache-2.0 OR MIT) AND CC-BY-4.0".to_owned();
    manifest.inputs = vec![Input {
        name: known.input,
        meaning: "grey values, row by row; ink is bright".to_owned(),
        unit: "1/255".to_owned(),
        transform: None,
    }];
    manifest.outputs = vec![Output {
        name: known.output.clone(),
        meaning: "one number a digit, the largest is the answer; softmax makes probabilities of them".to_owned(),
        unit: String::new(),
        labels: known.labels,
    }];
    manifest.comparison = Some(Comparison::TopClass { output: known.output.clone() });
    manifest.score = Some(known.output);
    Ok(manifest)
}

/// Field samples, and what the CPU makes of them.
fn golden(graph: &Graph) -> Result<GoldenCase> {
    let samples = FieldStream::new(Split::Test, digits::SEED).take(GOLDEN_ROWS);
    let images: Vec<Tensor> = samples.map(|sample| sample.image).collect();
    let inputs = vec![NamedTensor::new(digits::INPUT, Tensor::stack(&images)?)];
    let outputs = Model::unproven(graph.clone(), Device::cpu())?.run(&inputs)?;
    Ok(GoldenCase { inputs, outputs })
}
