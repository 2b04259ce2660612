//! Loading: which device a model runs on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hedge_graph::Graph;
use hedge_tensor::Tensor;

use crate::burn::BurnExecutor;
use crate::golden::Refusal;
use crate::health::Health;
use crate::model::Seat;
use crate::supervise::{Case, FaultPolicy, Lane, Recipe, Supervised, named};
use crate::{
    Agreement, Candidate, Device, DeviceChoice, DeviceKind, Executor, Golden, LoadError, Model, RunError, Runnable,
    Signature,
};

/// How often a candidate is timed; the median counts. The first run, which compiles shaders, does not.
const TIMED_RUNS: usize = 9;

/// A candidate is not timed for longer than this.
const TIMED_FOR: Duration = Duration::from_millis(300);

/// What models are loaded with: an executor, the devices it may use beside the CPU, and what is expected of those.
#[derive(Clone)]
pub struct Engine {
    executor: Arc<dyn Executor>,
    devices: Option<Vec<Device>>,
    policy: FaultPolicy,
}

impl Default for Engine {
    /// The burn executor on the devices that the probe finds.
    fn default() -> Self {
        Engine { executor: burn_executor(), devices: None, policy: FaultPolicy::default() }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("executor", &self.executor.name())
            .field("devices", &self.devices)
            .field("policy", &self.policy)
            .finish()
    }
}

/// The executor of [`Engine::default`], to build another one on.
pub fn burn_executor() -> Arc<dyn Executor> {
    Arc::new(BurnExecutor)
}

impl Engine {
    /// Another executor with devices of its own; it must run on [`Device::cpu`] as well.
    pub fn with_executor(executor: Arc<dyn Executor>, devices: Vec<Device>) -> Self {
        Engine { executor, devices: Some(devices), policy: FaultPolicy::default() }
    }

    /// What is expected of its devices.
    #[must_use]
    pub fn with_policy(self, policy: FaultPolicy) -> Self {
        Engine { policy, ..self }
    }

    /// What is expected of its devices.
    pub fn policy(&self) -> FaultPolicy {
        self.policy
    }

    /// Prepares `graph` on the CPU and on each device that `choice` allows, runs all of `golden` (none: made-up inputs, with
    /// the CPU's outputs as the reference) on each and keeps the fastest that agrees. On a device that may fail the CPU
    /// stands by.
    pub fn load(&self, graph: Graph, choice: DeviceChoice, golden: &[Golden]) -> Result<Model, LoadError> {
        let signature = Signature::of(&graph);
        let devices: Vec<_> = self.candidates(choice).into_iter().map(|device| (device, graph.clone())).collect();
        if choice == DeviceChoice::Gpu && devices.is_empty() {
            return Err(LoadError::NoGpu);
        }
        let mut cpu = self.executor.prepare(graph, &Device::cpu())?;
        let trial = if golden.is_empty() {
            let made_up = Golden::made_up(&signature, |inputs| cpu.run(inputs))?;
            Trial { engine: self, cases: vec![case(&signature, &made_up)?], signature }
        } else {
            let cases = golden.iter().map(|golden| case(&signature, golden)).collect::<Result<_, _>>()?;
            let mut trial = Trial { engine: self, signature, cases };
            trial.prove(cpu.as_mut())?;
            trial
        };
        let model = trial.choose(cpu, devices, choice)?;
        announce(&model, choice);
        Ok(model)
    }

    fn candidates(&self, choice: DeviceChoice) -> Vec<Device> {
        match (&self.devices, choice) {
            (_, DeviceChoice::Cpu) => Vec::new(),
            (Some(devices), _) => devices.clone(),
            (None, choice) => {
                let found = Device::candidates(choice);
                found.into_iter().filter(|device| device.kind() != DeviceKind::Cpu).collect()
            }
        }
    }
}

/// The golden vectors in the order of the signature.
fn case(signature: &Signature, golden: &Golden) -> Result<Case, RunError> {
    let inputs = signature.arrange(golden.inputs.clone())?;
    let inputs = inputs.into_iter().map(|input| input.tensor).collect();
    Ok(Case { inputs, reference: golden.outputs.clone() })
}

/// The golden run of one model over several devices.
struct Trial<'a> {
    engine: &'a Engine,
    signature: Signature,
    /// At least one.
    cases: Vec<Case>,
}

/// A device that agrees.
struct Agreed {
    recipe: Arc<Recipe>,
    health: Arc<Health>,
    lane: Lane,
}

impl Trial<'_> {
    /// Runs the cases on the CPU, whose outputs are the reference where there is no other. What the CPU cannot do is wrong
    /// with the model, not with a device.
    fn prove(&mut self, cpu: &mut dyn Runnable) -> Result<(), LoadError> {
        let names = self.output_names();
        for case in &mut self.cases {
            let outputs = named(&names, cpu.run(&case.inputs)?);
            if case.reference.is_empty() {
                case.reference = outputs;
            } else if let Err(why) = Agreement::check(&outputs, &case.reference) {
                return Err(refused(vec![Candidate::refused(Device::cpu().label(), &why)]));
            }
        }
        Ok(())
    }

    fn choose(
        &self,
        mut cpu: Box<dyn Runnable>,
        devices: Vec<(Device, Graph)>,
        choice: DeviceChoice,
    ) -> Result<Model, LoadError> {
        let mut candidates = Vec::new();
        let mut fastest = None;
        if choice != DeviceChoice::Gpu {
            // Alone, it need not be timed.
            let time = if devices.is_empty() { Duration::ZERO } else { self.median(|inputs| cpu.run(inputs))? };
            candidates.push(Candidate::took(Device::cpu().label(), time));
            fastest = Some(time);
        }
        let alone = choice == DeviceChoice::Gpu && devices.len() == 1;
        let mut best = None;
        for (device, graph) in devices {
            let label = device.label();
            match self.attempt(device, graph, alone)? {
                Ok((time, agreed)) => {
                    candidates.push(Candidate::took(label, time));
                    if fastest.is_none_or(|fastest| time < fastest) {
                        fastest = Some(time);
                        best = Some(agreed);
                    }
                }
                Err(why) => {
                    tracing::warn!(device = label, %why, "device refused for this model");
                    candidates.push(Candidate::refused(label, &why));
                }
            }
        }
        match best {
            Some(Agreed { recipe, health, lane }) => {
                let device = recipe.device.clone();
                let supervised = Supervised::new(recipe, health, cpu, lane);
                Ok(self.model(Seat::Supervised(Box::new(supervised)), device, candidates))
            }
            None if fastest.is_some() => Ok(self.model(Seat::Alone(cpu), Device::cpu(), candidates)),
            None => Err(refused(candidates)),
        }
    }

    /// The model on `device` with its median time (0 where it is the only candidate), if it agrees.
    fn attempt(
        &self,
        device: Device,
        graph: Graph,
        alone: bool,
    ) -> Result<Result<(Duration, Agreed), Refusal>, LoadError> {
        let policy = self.engine.policy;
        let health = Health::of(&device, policy.probe);
        let quarantined = health.serving().is_none();
        if quarantined && !alone {
            return Ok(Err(Refusal::Quarantined));
        }
        let recipe = Arc::new(self.recipe(device, graph));
        let lane = Lane::spawn(Arc::clone(&recipe), Arc::clone(&health));
        let mut lane = lane.map_err(|error| LoadError::NoThread(error.to_string()))?;
        if quarantined {
            // The CPU stands in until the device has passed its probe.
            return Ok(Ok((Duration::ZERO, Agreed { recipe, health, lane })));
        }
        let timed = lane.started(policy.prepare_limit).and_then(|()| {
            let median = |lane: &mut Lane| self.median(|inputs| lane.run(inputs, policy.prepare_limit));
            if alone { Ok(Duration::ZERO) } else { median(&mut lane).map_err(Refusal::from) }
        });
        Ok(timed.map(|time| (time, Agreed { recipe, health, lane })))
    }

    fn recipe(&self, device: Device, graph: Graph) -> Recipe {
        Recipe {
            executor: Arc::clone(&self.engine.executor),
            graph,
            device,
            cases: self.cases.clone(),
            output_names: self.output_names(),
            policy: self.engine.policy,
        }
    }

    fn model(&self, seat: Seat, device: Device, candidates: Vec<Candidate>) -> Model {
        let executor = self.engine.executor.name();
        Model { seat, signature: self.signature.clone(), device, executor, candidates }
    }

    fn median(&self, mut run: impl FnMut(&[Tensor]) -> Result<Vec<Tensor>, RunError>) -> Result<Duration, RunError> {
        let inputs = self.cases.first().map_or(&[][..], |case| &case.inputs);
        let started = Instant::now();
        let mut times = Vec::with_capacity(TIMED_RUNS);
        while times.len() < TIMED_RUNS && (times.is_empty() || started.elapsed() < TIMED_FOR) {
            let start = Instant::now();
            run(inputs)?;
            times.push(start.elapsed());
        }
        times.sort_unstable();
        Ok(times[times.len() / 2])
    }

    fn output_names(&self) -> Vec<String> {
        self.signature.outputs.iter().map(|port| port.name.clone()).collect()
    }
}

fn refused(candidates: Vec<Candidate>) -> LoadError {
    let each = candidates.into_iter();
    let refused =
        each.map(|candidate| format!("{}: {}", candidate.device, candidate.refused.unwrap_or_default())).collect();
    LoadError::Refused { refused }
}

fn announce(model: &Model, choice: DeviceChoice) {
    let device = model.device().label();
    if model.device().is_software() {
        tracing::warn!(device, "this GPU is emulated on the CPU: slower than --device cpu, good for checks only");
    } else if choice == DeviceChoice::Auto && model.candidates().len() == 1 {
        tracing::info!(device, "no hardware GPU found, running on the CPU");
    } else {
        tracing::info!(device, "model prepared");
    }
}
