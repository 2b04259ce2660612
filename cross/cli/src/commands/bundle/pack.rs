//! `hedge bundle pack`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use hedge_bundle::{Draft, GoldenCase};
use hedge_engine::{Device, Golden, Model};
use hedge_tensor::Tensor;

use super::hex;
use crate::failure::hinted;
use crate::output::say;

#[derive(Args)]
pub(crate) struct Pack {
    /// A folder with `model.onnx` and what belongs to it, an ONNX file, or a bundle.
    #[arg(value_name = "DIR|M.onnx|BUNDLE")]
    source: PathBuf,
    /// What is known of the model; files that it speaks of lie beside it. Default: the source's own, or one made of the
    /// model's name, inputs and outputs.
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// The bundle: one file where the name ends in `.hedge`, else a new folder.
    #[arg(short, long, value_name = "B.hedge")]
    output: PathBuf,
    /// Adds no golden vectors where there are none. Otherwise made-up inputs are run on the CPU, and what comes out is what
    /// every device must give.
    #[arg(long)]
    without_golden: bool,
}

pub(crate) fn run(args: &Pack) -> Result<()> {
    let source = args.source.display();
    let mut draft = Draft::read(&args.source, args.manifest.as_deref())
        .with_context(|| format!("{source} cannot be made a bundle"))?;
    if draft.manifest.golden.is_empty() && !args.without_golden {
        let case = golden(draft.graph()).map_err(|error| {
            let why = error.context(format!("no golden vectors can be made for {source}"));
            hinted(&why, "--without-golden packs the model as it is; `hedge model check` says what it needs")
        })?;
        draft.add_golden(&case);
    }
    let packed = draft.write(&args.output)?;
    let bytes: u64 = packed.manifest.files.iter().map(|file| file.bytes).sum();
    say(
        None,
        format_args!(
            "wrote {}: {} {}, {} files, {bytes} bytes, {}",
            args.output.display(),
            packed.manifest.name,
            packed.manifest.version,
            packed.manifest.files.len(),
            hex(&packed.digest),
        ),
    );
    Ok(())
}

/// Made-up inputs, and what the CPU makes of them.
fn golden(graph: &hedge_graph::Graph) -> Result<GoldenCase> {
    let mut model = Model::unproven(graph.clone(), Device::cpu())?;
    let signature = model.signature().clone();
    let run = |inputs: &[Tensor]| Ok(model.run_arranged(inputs)?.into_iter().map(|output| output.tensor).collect());
    let Golden { inputs, outputs } = Golden::made_up(&signature, run)?;
    Ok(GoldenCase { inputs, outputs })
}
