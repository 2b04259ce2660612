//! `hedge model`: what a model needs, what it gives and how long it takes.

mod bench;
mod check;
mod conform;
mod inspect;
mod run;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Subcommand;
use hedge_engine::{Device, DeviceChoice};
use hedge_graph::Graph;

/// `hedge model …`.
#[derive(Subcommand)]
pub(crate) enum Model {
    /// Lists a model's inputs, outputs and operators, and every operator that is missing.
    Check(check::Check),
    /// Shows a model's graph: shapes, parameters, multiply-accumulates, memory, and the time of each step.
    Inspect(inspect::Inspect),
    /// Runs ONNX's own backend cases.
    Conform(conform::Conform),
    /// Runs a model once on `.npy` files.
    Run(run::Run),
    /// Times a model.
    Bench(bench::Bench),
}

pub(crate) fn run(model: Model) -> Result<()> {
    match model {
        Model::Check(check) => check::run(&check),
        Model::Inspect(inspect) => inspect::run(&inspect),
        Model::Conform(conform) => conform::run(&conform),
        Model::Run(run) => run::run(&run),
        Model::Bench(bench) => bench::run(&bench),
    }
}

fn read_graph(path: &Path) -> Result<Graph> {
    hedge_bundle::open_graph(path).with_context(|| format!("{} is not a model that can be loaded", path.display()))
}

/// The executors that `--executor` names.
#[derive(Clone, Copy, clap::ValueEnum, PartialEq, Eq)]
enum ExecutorName {
    /// Every operator on burn: flex on the CPU, wgpu on a GPU.
    Burn,
}

/// Where a model runs.
#[derive(clap::Args)]
struct Placement {
    /// auto (the fastest that agrees with the CPU), gpu or cpu.
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// The executor.
    #[arg(long, value_enum, default_value = "burn")]
    executor: ExecutorName,
}

impl Placement {
    fn load(&self, path: &Path) -> Result<hedge_engine::Model> {
        self.load_for(path, None)
    }

    /// Loads the model; devices are compared on `golden`, or on made-up inputs.
    fn load_for(&self, path: &Path, golden: Option<&hedge_engine::Golden>) -> Result<hedge_engine::Model> {
        self.made(path, |graph| Ok(hedge_engine::Model::load(graph, self.device, golden)?))
    }

    /// Loads the model for its first run. On the CPU, where there is nothing to compare it with, it is only prepared, as
    /// onnxruntime's session is when it is made; a GPU has to give what the CPU gives first.
    fn prepare(&self, path: &Path) -> Result<hedge_engine::Model> {
        match self.device {
            DeviceChoice::Cpu => self.made(path, |graph| Ok(hedge_engine::Model::unproven(graph, Device::cpu())?)),
            DeviceChoice::Auto | DeviceChoice::Gpu => self.load(path),
        }
    }

    fn made(
        &self,
        path: &Path,
        make: impl FnOnce(Graph) -> Result<hedge_engine::Model>,
    ) -> Result<hedge_engine::Model> {
        let graph = read_graph(path)?;
        let ExecutorName::Burn = self.executor;
        make(graph).with_context(|| format!("{} cannot be run", path.display()))
    }
}

/// The model that a command is about.
#[derive(clap::Args)]
struct ModelPath {
    /// The ONNX file, or a bundle: a `.hedge` file or a folder.
    #[arg(value_name = "M.onnx|BUNDLE")]
    path: PathBuf,
}
