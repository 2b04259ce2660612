//! A model on the device that serves it best.

use std::time::{Duration, Instant};

use hedge_graph::Graph;
use hedge_tensor::{NamedTensor, Tensor};
use thiserror::Error;

use crate::burn::BurnExecutor;
use crate::golden::Refusal;
use crate::supervise::{FaultPolicy, Supervised};
use crate::{
    Device, DeviceChoice, Engine, Executor, Golden, GoldenError, PrepareError, RanOn, RunError, Runnable, Signature,
    StepTime,
};

/// A prepared model and what it takes and gives.
pub struct Model {
    pub(crate) seat: Seat,
    pub(crate) signature: Signature,
    pub(crate) device: Device,
    pub(crate) executor: &'static str,
    pub(crate) candidates: Vec<Candidate>,
}

/// Where a model runs.
pub(crate) enum Seat {
    /// On the CPU, or wherever it was put without supervision.
    Alone(Box<dyn Runnable>),
    /// On a device that may fail.
    Supervised(Box<Supervised>),
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
    /// The system gave no thread for the device.
    #[error("no thread for the device: {0}")]
    NoThread(String),
}

impl Model {
    /// Prepares `graph` on each device that `choice` allows, runs `golden` (or made-up inputs, with the CPU's outputs as the
    /// reference) on each and keeps the fastest that agrees: [`Engine::load`] of the engine of this machine. A device that is
    /// slow at first, because it compiles for new shapes, is waited for: who has deadlines sets a policy of their own.
    pub fn load(graph: Graph, choice: DeviceChoice, golden: Option<&Golden>) -> Result<Model, LoadError> {
        let policy = FaultPolicy::default();
        let patient = FaultPolicy { slow_after: policy.hang_after, ..policy };
        Engine::default().with_policy(patient).load(graph, choice, golden.map(std::slice::from_ref).unwrap_or_default())
    }

    /// Prepares `graph` on `device` without a golden run: to examine the executor itself, never to serve.
    pub fn unproven(graph: Graph, device: Device) -> Result<Model, PrepareError> {
        let executor = BurnExecutor;
        let signature = Signature::of(&graph);
        let seat = Seat::Alone(executor.prepare(graph, &device)?);
        Ok(Model { seat, signature, device, executor: executor.name(), candidates: Vec::new() })
    }

    /// What it takes and gives.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// The device it runs on; while that is in quarantine, the CPU answers.
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

    /// Runs the model on inputs in the order of the signature, without comparing them with it.
    pub fn run_arranged(&mut self, inputs: &[Tensor]) -> Result<Vec<NamedTensor>, RunError> {
        self.run_supervised(inputs).map(|(outputs, _)| outputs)
    }

    /// As [`Model::run_arranged`], and says who ran it.
    pub fn run_supervised(&mut self, inputs: &[Tensor]) -> Result<(Vec<NamedTensor>, RanOn), RunError> {
        let (outputs, ran_on) = match &mut self.seat {
            Seat::Alone(runnable) => (runnable.run(inputs)?, RanOn::Device),
            Seat::Supervised(supervised) => supervised.run(inputs)?,
        };
        let names = self.signature.outputs.iter().map(|port| port.name.clone());
        Ok((names.zip(outputs).map(|(name, tensor)| NamedTensor { name, tensor }).collect(), ran_on))
    }

    /// The labels of the nodes that ran on the CPU so far although the model's device is a GPU ([`Runnable::on_cpu`]). A
    /// supervised model's runs are on another thread, which keeps them to itself.
    pub fn on_cpu(&self) -> Vec<String> {
        match &self.seat {
            Seat::Alone(runnable) => runnable.on_cpu(),
            Seat::Supervised(_) => Vec::new(),
        }
    }

    /// Runs the model once on inputs in the order of the signature and measures each step ([`Runnable::profile`]); of a
    /// supervised model, the whole run.
    pub fn profile(&mut self, inputs: &[Tensor]) -> Result<Vec<StepTime>, RunError> {
        match &mut self.seat {
            Seat::Alone(runnable) => runnable.profile(inputs),
            Seat::Supervised(supervised) => {
                let started = Instant::now();
                supervised.run(inputs)?;
                Ok(vec![StepTime::of_all(started.elapsed())])
            }
        }
    }
}

impl Candidate {
    pub(crate) fn took(device: String, time: Duration) -> Self {
        Candidate { device, time: Some(time), refused: None }
    }

    pub(crate) fn refused(device: String, why: &Refusal) -> Self {
        Candidate { device, time: None, refused: Some(why.to_string()) }
    }
}
