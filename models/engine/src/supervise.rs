//! A model on a device that may fail, with the CPU standing by.
//!
//! The device's part runs on a thread of its own, the *lane*, because a driver may block for ever and nothing can take a
//! blocked thread back. The worker hands each batch to the lane and waits for a bounded time; whatever goes wrong (an error,
//! a panic, NaN where the CPU has numbers, no answer) the same batch is run on the CPU, and the device is put into
//! quarantine ([`crate::health`]). The lane then waits for its turn, opens the device anew and runs the golden vectors
//! before it takes batches again.
//!
//! The CPU's copy is kept prepared, not prepared when it is needed: the batch in flight has a deadline that preparing a
//! large model would miss, and memory may be what the device has just run out of.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::time::{Duration, Instant};

use hedge_graph::Graph;
use hedge_tensor::{NamedTensor, Tensor};

use crate::burn::panic_message;
use crate::golden::Refusal;
use crate::health::{FaultKind, Health, Next};
use crate::{Agreement, Device, Executor, ProbePolicy, RunError, Runnable};

/// Threads that a model may lose to a device that hangs; after that it stays on the CPU.
const MAX_STUCK: usize = 4;

/// What is expected of a device, and what happens when it fails.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct FaultPolicy {
    /// A batch that the device has not answered by then is run on the CPU as well.
    pub slow_after: Duration,
    /// A run that has not ended by then never will: the device is quarantined.
    pub hang_after: Duration,
    /// How long opening a device, preparing a model on it and its golden run may take together.
    pub prepare_limit: Duration,
    /// When it is tried again.
    pub probe: ProbePolicy,
}

impl Default for FaultPolicy {
    fn default() -> Self {
        FaultPolicy {
            slow_after: Duration::from_millis(500),
            hang_after: Duration::from_secs(30),
            prepare_limit: Duration::from_secs(120),
            probe: ProbePolicy::default(),
        }
    }
}

/// Who ran a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RanOn {
    /// The model's own device.
    Device,
    /// The CPU in its place.
    StandIn,
}

/// All that it takes to prepare a model on its device, again and again.
pub(crate) struct Recipe {
    pub(crate) executor: Arc<dyn Executor>,
    pub(crate) graph: Graph,
    pub(crate) device: Device,
    /// At least one.
    pub(crate) cases: Vec<Case>,
    pub(crate) output_names: Vec<String>,
    pub(crate) policy: FaultPolicy,
}

/// Golden inputs in the order of the graph, and what the model must make of them.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) inputs: Vec<Tensor>,
    pub(crate) reference: Vec<NamedTensor>,
}

impl Recipe {
    /// Opens the device as `generation`, prepares the model and runs its golden vectors.
    fn prepare(&self, generation: u64) -> Result<Box<dyn Runnable>, Refusal> {
        let device = self.device.at(generation);
        let mut runnable = guarded(|| Ok(self.executor.prepare(self.graph.clone(), &device)))??;
        for case in &self.cases {
            let outputs = guarded(|| runnable.run(&case.inputs))?;
            Agreement::check(&named(&self.output_names, outputs), &case.reference)?;
        }
        Ok(runnable)
    }

    /// Whether there is NaN in an output in which the golden runs had none.
    fn is_suspect(&self, outputs: &[Tensor]) -> bool {
        let dreams = |name: &String| {
            let golden = self.cases.iter().flat_map(|case| &case.reference);
            golden.filter(|golden| golden.name == *name).any(|golden| golden.tensor.has_nan())
        };
        self.output_names.iter().zip(outputs).any(|(name, output)| output.has_nan() && !dreams(name))
    }
}

/// Outputs with their names.
pub(crate) fn named(names: &[String], outputs: Vec<Tensor>) -> Vec<NamedTensor> {
    names.iter().zip(outputs).map(|(name, tensor)| NamedTensor { name: name.clone(), tensor }).collect()
}

/// The device's thread, seen from the worker.
pub(crate) struct Lane {
    jobs: SyncSender<Job>,
    answers: Receiver<Result<Vec<Tensor>, RunError>>,
    started: Receiver<Result<(), Refusal>>,
    link: Arc<Link>,
    health: Arc<Health>,
    /// Since when a batch is out that the worker no longer waits for.
    late: Option<(Instant, u64)>,
}

enum Job {
    Run(Vec<Tensor>),
    /// What is prepared is void.
    Recover,
}

#[derive(Default)]
struct Link {
    /// The generation that batches are taken for, 0 while none are.
    ready: AtomicU64,
    closed: AtomicBool,
}

impl Lane {
    pub(crate) fn spawn(recipe: Arc<Recipe>, health: Arc<Health>) -> std::io::Result<Lane> {
        let (jobs, todo) = mpsc::sync_channel(1);
        let (done, answers) = mpsc::sync_channel(1);
        let (report, started) = mpsc::sync_channel(1);
        let link = Arc::<Link>::default();
        let thread = LaneThread {
            recipe,
            health: Arc::clone(&health),
            link: Arc::clone(&link),
            todo,
            done,
            report: Some(report),
            refused: None,
        };
        std::thread::Builder::new().name("device".to_owned()).spawn(move || thread.run())?;
        Ok(Lane { jobs, answers, started, link, health, late: None })
    }

    /// Waits for the first preparation.
    pub(crate) fn started(&self, limit: Duration) -> Result<(), Refusal> {
        self.started.recv_timeout(limit).unwrap_or(Err(Refusal::NotReady(limit)))
    }

    /// Runs one batch to its end, for timing.
    pub(crate) fn run(&mut self, inputs: &[Tensor], limit: Duration) -> Result<Vec<Tensor>, RunError> {
        let gone = || RunError::Device { why: "the device gave no answer".to_owned() };
        self.jobs.try_send(Job::Run(inputs.to_vec())).map_err(|_| gone())?;
        self.answers.recv_timeout(limit).unwrap_or_else(|_| Err(gone()))
    }

    /// The generation that can take a batch now.
    fn free(&mut self) -> Option<u64> {
        let ready = Some(self.link.ready.load(Ordering::Acquire)).filter(|&generation| generation != 0)?;
        if self.late.is_some() {
            return None;
        }
        if self.health.serving() == Some(ready) {
            return Some(ready);
        }
        // Another model saw the device fail.
        self.recover();
        None
    }

    fn recover(&mut self) {
        if self.link.ready.swap(0, Ordering::AcqRel) != 0 {
            // Nothing else is in the channel; a thread that has ended needs no telling.
            let _ = self.jobs.try_send(Job::Recover);
        }
    }
}

/// How long a lane that is given up waits for its thread: a process that ends while a driver is at work crashes in it (Mesa's
/// exit handlers free what its compiler still uses).
const END_LIMIT: Duration = Duration::from_secs(5);

impl Drop for Lane {
    fn drop(&mut self) {
        self.link.closed.store(true, Ordering::Release);
        // The thread's queue ends with its only sender, and the thread with its queue.
        self.jobs = mpsc::sync_channel(1).0;
        self.health.wake();
        if self.health.serving().is_none() {
            // What is in quarantine may never answer.
            return;
        }
        let begun = Instant::now();
        while let Some(left) = END_LIMIT.checked_sub(begun.elapsed()) {
            if matches!(self.answers.recv_timeout(left), Err(RecvTimeoutError::Disconnected)) {
                return;
            }
        }
    }
}

/// A batch on the device.
enum Attempt {
    Answered(Vec<Tensor>),
    /// With NaN, which may be the inputs' doing.
    Suspect(u64, Vec<Tensor>),
    Failed(u64, RunError),
    /// The device is in quarantine, or busy with an earlier batch, or slow.
    Unavailable,
}

/// A model with its lane and its stand-in.
pub(crate) struct Supervised {
    recipe: Arc<Recipe>,
    health: Arc<Health>,
    standby: Box<dyn Runnable>,
    lane: Option<Lane>,
    stuck: usize,
}

impl Supervised {
    pub(crate) fn new(recipe: Arc<Recipe>, health: Arc<Health>, standby: Box<dyn Runnable>, lane: Lane) -> Self {
        Supervised { recipe, health, standby, lane: Some(lane), stuck: 0 }
    }

    /// Runs a batch on the device, or on the CPU where the device cannot.
    pub(crate) fn run(&mut self, inputs: &[Tensor]) -> Result<(Vec<Tensor>, RanOn), RunError> {
        match self.on_device(inputs) {
            Attempt::Answered(outputs) => Ok((outputs, RanOn::Device)),
            Attempt::Unavailable => self.stand_in(inputs),
            Attempt::Failed(generation, error) => {
                let kind = FaultKind::of(&error);
                let instead = self.stand_in(inputs);
                // What the CPU fails at as well is wrong with the batch, unless the device itself is gone.
                if instead.is_ok() || matches!(kind, FaultKind::Lost | FaultKind::OutOfMemory) {
                    self.fault(generation, kind, &error.to_string());
                }
                instead
            }
            Attempt::Suspect(generation, outputs) => {
                let (instead, ran_on) = self.stand_in(inputs)?;
                let worse = outputs.iter().zip(&instead).any(|(device, cpu)| device.has_nan() && !cpu.has_nan());
                if !worse {
                    return Ok((outputs, RanOn::Device));
                }
                self.fault(generation, FaultKind::NotANumber, "NaN where the CPU has numbers");
                Ok((instead, ran_on))
            }
        }
    }

    fn stand_in(&mut self, inputs: &[Tensor]) -> Result<(Vec<Tensor>, RanOn), RunError> {
        guarded(|| self.standby.run(inputs)).map(|outputs| (outputs, RanOn::StandIn))
    }

    fn on_device(&mut self, inputs: &[Tensor]) -> Attempt {
        self.settle();
        let Some(lane) = &mut self.lane else { return Attempt::Unavailable };
        let Some(generation) = lane.free() else { return Attempt::Unavailable };
        if lane.jobs.try_send(Job::Run(inputs.to_vec())).is_err() {
            return self.lost_thread(generation);
        }
        let started = Instant::now();
        match lane.answers.recv_timeout(self.recipe.policy.slow_after) {
            Ok(Ok(outputs)) if self.recipe.is_suspect(&outputs) => Attempt::Suspect(generation, outputs),
            Ok(Ok(outputs)) => Attempt::Answered(outputs),
            Ok(Err(error)) => Attempt::Failed(generation, error),
            Err(RecvTimeoutError::Timeout) => {
                lane.late = Some((started, generation));
                tracing::debug!(device = self.recipe.device.label(), "the device is slow, the CPU answers");
                Attempt::Unavailable
            }
            Err(RecvTimeoutError::Disconnected) => self.lost_thread(generation),
        }
    }

    /// Looks after a batch that the device was late with.
    fn settle(&mut self) {
        let Some(lane) = &mut self.lane else { return };
        let Some((since, generation)) = lane.late else { return };
        match lane.answers.try_recv() {
            Ok(Ok(_)) => lane.late = None,
            Ok(Err(error)) => {
                lane.late = None;
                self.fault(generation, FaultKind::of(&error), &error.to_string());
            }
            Err(TryRecvError::Disconnected) => {
                self.lost_thread(generation);
            }
            Err(TryRecvError::Empty) if since.elapsed() >= self.recipe.policy.hang_after => {
                let why = format!("a run did not end within {:?}", self.recipe.policy.hang_after);
                self.health.fault(generation, FaultKind::Hang, &why);
                self.replace_lane();
            }
            Err(TryRecvError::Empty) => {}
        }
    }

    fn fault(&mut self, generation: u64, kind: FaultKind, why: &str) {
        self.health.fault(generation, kind, why);
        if let Some(lane) = &mut self.lane {
            lane.recover();
        }
    }

    /// The lane's thread is gone: what ran there catches panics, so this is a fault in here or an abort of the driver's.
    fn lost_thread(&mut self, generation: u64) -> Attempt {
        self.replace_lane();
        Attempt::Failed(generation, RunError::Panic { why: "the device's thread ended".to_owned() })
    }

    /// The blocked thread ends when its driver lets it go, if ever.
    fn replace_lane(&mut self) {
        self.stuck += 1;
        self.lane = if self.stuck < MAX_STUCK {
            Lane::spawn(Arc::clone(&self.recipe), Arc::clone(&self.health)).ok()
        } else {
            tracing::error!(
                device = self.recipe.device.label(),
                "the device hung too often, the model stays on the CPU"
            );
            None
        };
    }
}

/// The lane's own side.
struct LaneThread {
    recipe: Arc<Recipe>,
    health: Arc<Health>,
    link: Arc<Link>,
    todo: Receiver<Job>,
    done: SyncSender<Result<Vec<Tensor>, RunError>>,
    report: Option<SyncSender<Result<(), Refusal>>>,
    /// The generation that does not agree for this model.
    refused: Option<u64>,
}

impl LaneThread {
    fn run(mut self) {
        while let Some((generation, runnable)) = self.obtain() {
            self.link.ready.store(generation, Ordering::Release);
            self.say(Ok(()));
            if !self.serve(runnable) {
                return;
            }
        }
    }

    /// The model on the device, when the device serves and agrees; `None` once nobody wants it any more.
    fn obtain(&mut self) -> Option<(u64, Box<dyn Runnable>)> {
        let limit = self.recipe.policy.prepare_limit;
        while !self.link.closed.load(Ordering::Acquire) {
            match self.health.next(limit) {
                Next::Use(generation) if self.refused != Some(generation) => match self.recipe.prepare(generation) {
                    Ok(runnable) => return Some((generation, runnable)),
                    Err(refusal) => self.refuse(generation, refusal),
                },
                Next::Use(_) => self.health.wait(limit),
                Next::Wait(pause) => self.health.wait(pause),
                Next::Probe(ticket) => {
                    let tried = self.recipe.prepare(ticket.generation);
                    let failed = tried.as_ref().err().map(ToString::to_string);
                    if self.health.probed(ticket, failed.as_deref()) {
                        return tried.ok().map(|runnable| (ticket.generation, runnable));
                    }
                }
                Next::Never => return None,
            }
        }
        None
    }

    fn refuse(&mut self, generation: u64, refusal: Refusal) {
        self.refused = Some(generation);
        if let Refusal::Run(error) = &refusal
            && FaultKind::of(error) == FaultKind::Lost
        {
            self.health.fault(generation, FaultKind::Lost, &error.to_string());
        }
        if self.report.is_none() {
            let (device, why) = (self.recipe.device.label(), refusal.to_string());
            tracing::warn!(device, why, "device refused for this model, the CPU answers");
        }
        self.say(Err(refusal));
    }

    /// Tells whoever loads the model of the first preparation.
    fn say(&mut self, outcome: Result<(), Refusal>) {
        if let Some(report) = self.report.take() {
            let _ = report.try_send(outcome);
        }
    }

    /// Runs batches; whether to go on with a fresh preparation afterwards.
    fn serve(&self, mut runnable: Box<dyn Runnable>) -> bool {
        let again = loop {
            match self.todo.recv() {
                Ok(Job::Run(inputs)) => {
                    if self.done.send(guarded(|| runnable.run(&inputs))).is_err() {
                        break false;
                    }
                }
                Ok(Job::Recover) => break true,
                Err(_) => break false,
            }
        };
        // Freeing on a lost device may panic as well.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(runnable)));
        again
    }
}

fn guarded<T>(run: impl FnOnce() -> Result<T, RunError>) -> Result<T, RunError> {
    catch_unwind(AssertUnwindSafe(run))
        .unwrap_or_else(|panic| Err(RunError::Panic { why: panic_message(panic.as_ref()) }))
}
