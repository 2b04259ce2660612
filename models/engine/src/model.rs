//! A model on the device that serves it best.

use std::time::{Duration, Instant};

use hedge_graph::Graph;
use hedge_tensor::{NamedTensor, Tensor};
use thiserror::Error;

use crate::burn::BurnExecutor;
use crate::golden::TOLERANCE;
use crate::{
    Agreement, Device, DeviceChoice, DeviceKind, Executor, Golden, GoldenError, PrepareError, RunError, Runnable,
    Signature,
};

/// How often a candidate is timed; the median counts. The first run, which compiles shaders, does not.
const TIMED_RUNS: usize = 9;

/// A candidate is not timed for longer than this.
const TIMED_FOR: Duration = Duration::from_millis(300);

/// A prepared model and what it takes and gives.
pub struct Model {
    runnable: Box<dyn Runnable>,
    signature: Signature,
    device: Device,
    executor: &'static str,
    candidates: Vec<Candidate>,
}

/// What the golden run said of one device.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The device's label.
    pub device: String,
    /// The median time of a run, `None` where the device was refused.
    pub time: Option<Duration>,
    /// Why the device was refused.
    pub refused: Option<String>,
}

/// Why a model serves on no device.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum LoadError {
    /// The graph cannot be prepared.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// There is no device of the kind asked for.
    #[error("there is no GPU here that Vulkan, Metal or Direct3D 12 can reach; use `--device cpu` or `--device auto`")]
    NoGpu,
    /// Golden inputs cannot be made.
    #[error(transparent)]
    Golden(#[from] GoldenError),
    /// The golden run failed on the CPU: the model does not work at all.
    #[error("the golden run failed: {0}")]
    Run(#[from] RunError),
    /// No device gave the golden outputs.
    #[error("no device may serve this model: {}", .refused.join("; "))]
    Refused {
        /// What was wrong with each.
        refused: Vec<String>,
    },
}

impl Model {
    /// Prepares `graph` on each device that `choice` allows, runs `golden` (or made-up inputs, with the CPU's outputs as the
    /// reference) on each and keeps the fastest that agrees.
    pub fn load(graph: &Graph, choice: DeviceChoice, golden: Option<&Golden>) -> Result<Model, LoadError> {
        let signature = Signature::of(graph);
        let made_up;
        let golden = match golden {
            Some(golden) => golden,
            None => {
                made_up = Golden::made_up(&signature)?;
                &made_up
            }
        };
        let devices = Device::candidates(choice);
        if devices.is_empty() {
            return Err(LoadError::NoGpu);
        }
        let mut trial = Trial { graph, signature: &signature, golden, reference: golden.outputs.clone() };
        if trial.reference.is_empty() && devices[0].kind() != DeviceKind::Cpu {
            trial.reference = Model::on(graph, &signature, Device::cpu())?.run(&golden.inputs)?;
        }
        let model = trial.fastest(devices)?;
        announce(&model, choice);
        Ok(model)
    }

    /// What it takes and gives.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// The device it runs on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The executor that runs it.
    pub fn executor(&self) -> &'static str {
        self.executor
    }

    /// What was found of each device that was tried.
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Runs the model on `inputs`, by name and in any order.
    pub fn run(&mut self, inputs: &[NamedTensor]) -> Result<Vec<NamedTensor>, RunError> {
        let arranged = self.signature.arrange(inputs.to_vec())?;
        let tensors: Vec<Tensor> = arranged.into_iter().map(|input| input.tensor).collect();
        self.run_arranged(&tensors)
    }

    /// Prepares `graph` on `device` without a golden run: to examine the executor itself, never to serve.
    pub fn unproven(graph: &Graph, device: Device) -> Result<Model, PrepareError> {
        Model::on(graph, &Signature::of(graph), device)
    }

    /// Runs the model on inputs in the order of the signature, without comparing them with it.
    pub fn run_arranged(&mut self, inputs: &[Tensor]) -> Result<Vec<NamedTensor>, RunError> {
        let outputs = self.runnable.run(inputs)?;
        let names = self.signature.outputs.iter().map(|port| port.name.clone());
        Ok(names.zip(outputs).map(|(name, tensor)| NamedTensor { name, tensor }).collect())
    }

    fn on(graph: &Graph, signature: &Signature, device: Device) -> Result<Model, PrepareError> {
        let executor = BurnExecutor;
        let runnable = executor.prepare(graph, &device)?;
        Ok(Model { runnable, signature: signature.clone(), device, executor: executor.name(), candidates: Vec::new() })
    }
}

/// The golden run of one model over several devices.
struct Trial<'a> {
    graph: &'a Graph,
    signature: &'a Signature,
    golden: &'a Golden,
    reference: Vec<NamedTensor>,
}

impl Trial<'_> {
    fn fastest(&mut self, devices: Vec<Device>) -> Result<Model, LoadError> {
        let alone = devices.len() == 1;
        let mut best: Option<(Duration, Model)> = None;
        let mut candidates = Vec::new();
        for device in devices {
            let (label, kind) = (device.label(), device.kind());
            match self.attempt(device, alone) {
                Ok((time, model)) => {
                    candidates.push(Candidate { device: label, time: Some(time), refused: None });
                    if best.as_ref().is_none_or(|(fastest, _)| time < *fastest) {
                        best = Some((time, model));
                    }
                }
                // What the CPU cannot do is wrong with the model, not with a device.
                Err(Failure::Fatal(error)) if kind == DeviceKind::Cpu => return Err(error),
                Err(failure) => {
                    let why = failure.to_string();
                    tracing::warn!(device = label, why, "device refused for this model");
                    candidates.push(Candidate { device: label, time: None, refused: Some(why) });
                }
            }
        }
        match best {
            Some((_, mut model)) => {
                model.candidates = candidates;
                Ok(model)
            }
            None => Err(LoadError::Refused { refused: candidates.into_iter().map(refusal).collect() }),
        }
    }

    /// The model on `device` with its median time (0 where it is the only candidate), if it agrees.
    fn attempt(&mut self, device: Device, alone: bool) -> Result<(Duration, Model), Failure> {
        let mut model =
            Model::on(self.graph, self.signature, device).map_err(|error| Failure::Fatal(LoadError::Prepare(error)))?;
        let outputs = model.run(&self.golden.inputs).map_err(|error| Failure::Fatal(LoadError::Run(error)))?;
        if self.reference.is_empty() {
            self.reference = outputs;
        } else {
            match Agreement::of(&outputs, &self.reference) {
                Some(agreement) if agreement.is_close() => {}
                Some(agreement) => return Err(Failure::Disagrees(agreement.error)),
                None => return Err(Failure::Differs),
            }
        }
        let time = if alone { Duration::ZERO } else { self.median(&mut model)? };
        Ok((time, model))
    }

    fn median(&self, model: &mut Model) -> Result<Duration, Failure> {
        let started = Instant::now();
        let mut times = Vec::with_capacity(TIMED_RUNS);
        while times.len() < TIMED_RUNS && (times.is_empty() || started.elapsed() < TIMED_FOR) {
            let start = Instant::now();
            model.run(&self.golden.inputs).map_err(|error| Failure::Fatal(LoadError::Run(error)))?;
            times.push(start.elapsed());
        }
        times.sort_unstable();
        Ok(times[times.len() / 2])
    }
}

#[derive(Debug, Error)]
enum Failure {
    #[error(transparent)]
    Fatal(LoadError),
    #[error("its golden outputs differ by {0:.2e} where {TOLERANCE:.0e} is allowed")]
    Disagrees(f64),
    #[error("its golden outputs have other shapes, types or non-finite values")]
    Differs,
}

fn refusal(candidate: Candidate) -> String {
    format!("{}: {}", candidate.device, candidate.refused.unwrap_or_default())
}

fn announce(model: &Model, choice: DeviceChoice) {
    let device = model.device.label();
    if model.device.is_software() {
        tracing::warn!(device, "this GPU is emulated on the CPU: slower than --device cpu, good for checks only");
    } else if choice == DeviceChoice::Auto && model.candidates.len() == 1 {
        tracing::info!(device, "no hardware GPU found, running on the CPU");
    } else {
        tracing::info!(device, "model prepared");
    }
}
