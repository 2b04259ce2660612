//! `hedge zoo`: trains the bundled tasks' models, and exports them as bundles.

mod export;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use hedge_zoo::digits;
use indicatif::{ProgressBar, ProgressStyle};

use crate::output::say;

/// `hedge zoo …`.
#[derive(Subcommand)]
pub(crate) enum Zoo {
    /// Trains a bundled task's edge and cloud models and exports them as ONNX.
    Train(Train),
    /// Writes a bundled model as a bundle: labels, comparison, golden vectors and licence with it.
    Export(export::Export),
}

/// `hedge zoo train`.
#[derive(Args)]
pub(crate) struct Train {
    /// Which task.
    #[arg(value_enum)]
    task: Task,
    /// The seed of initial weights, batches and distortions.
    #[arg(long, default_value_t = digits::SEED)]
    seed: u64,
    /// The folder for the models and their manifest.
    #[arg(long, value_name = "DIR", default_value = "models/zoo/digits")]
    output: PathBuf,
}

/// The bundled tasks.
#[derive(Clone, Copy, ValueEnum)]
enum Task {
    /// Handwritten digits, distorted as a camera in the field would see them.
    Digits,
}

pub(crate) fn run(zoo: Zoo) -> Result<()> {
    match zoo {
        Zoo::Train(train) => match train.task {
            Task::Digits => train_digits(&train),
        },
        Zoo::Export(export) => export::run(&export),
    }
}

/// What the bundled edge model's bundle says of it.
pub(crate) fn digits_manifest() -> Result<hedge_bundle::Manifest> {
    export::manifest(export::Which::Edge)
}

fn train_digits(train: &Train) -> Result<()> {
    let mut bar = Bar::default();
    let models = digits::train_digits(train.seed, &mut |progress| bar.show(&progress))?;
    bar.finish();
    let written = models
        .write_to(&train.output)
        .with_context(|| format!("the models cannot be written to {}", train.output.display()))?;
    for path in written {
        say(None, format_args!("wrote {}", path.display()));
    }
    Ok(())
}

/// A bar a stage; indicatif draws it on a terminal only.
#[derive(Default)]
struct Bar {
    stage: String,
    bar: Option<ProgressBar>,
}

impl Bar {
    fn show(&mut self, progress: &hedge_train::Progress<'_>) {
        if self.bar.is_none() || self.stage != progress.stage {
            self.finish();
            self.stage = progress.stage.to_owned();
            let style = ProgressStyle::with_template("{prefix:12} {wide_bar} {pos}/{len} {msg} {eta}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(progress.steps as u64).with_style(style).with_prefix(self.stage.clone());
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(progress.step as u64);
            bar.set_message(format!("loss {:.3}", progress.loss));
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }
}
