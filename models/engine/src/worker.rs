//! A thread that owns a model and fills batches: inference off the reactor, for agent and gateway alike.
//!
//! Samples wait in a bounded queue. A batch starts with the first waiting sample and takes those behind it until it is
//! full, the maximum wait is over, or a sample of another shape comes, which starts the next batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::time::{Duration, Instant};

use hedge_tensor::{NamedTensor, Tensor};
use thiserror::Error;
use tokio::sync::oneshot;

use crate::{Device, Model, RanOn, RunError, Signature};

/// How batches are filled.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct BatchPolicy {
    /// Samples in one run at most.
    pub max_batch: usize,
    /// How long the first sample of a batch waits for others; zero takes what is already there.
    pub max_wait: Duration,
    /// Samples that may wait.
    pub queue_rows: usize,
}

/// One sample's outputs.
#[derive(Clone, PartialEq, Debug)]
pub struct RowOutput {
    /// The outputs, in the order of the model, each with a leading dimension of 1 where the model is batched.
    pub outputs: Vec<NamedTensor>,
    /// From submission to the start of the run.
    pub queue_time: Duration,
    /// The run of the whole batch.
    pub model_time: Duration,
    /// Samples in that batch.
    pub batch: usize,
    /// Whether the model's device ran it, or the CPU in its place.
    pub ran_on: RanOn,
}

/// Why a sample was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SubmitError {
    /// As many samples wait as may.
    #[error("{limit} samples are waiting already; try again later")]
    QueueFull {
        /// The bound.
        limit: usize,
    },
    /// The model is being unloaded.
    #[error("the model is no longer running")]
    Stopped,
}

/// A handle of the thread; cloning shares it. The thread ends when the last handle is dropped and its queue is empty.
#[derive(Clone)]
pub struct Worker {
    jobs: SyncSender<Job>,
    shared: Arc<Shared>,
}

struct Shared {
    signature: Signature,
    device: String,
    stand_in: String,
    executor: &'static str,
    queue_rows: usize,
    waiting: AtomicUsize,
    stands_in: AtomicBool,
}

struct Job {
    row: Vec<NamedTensor>,
    submitted: Instant,
    reply: oneshot::Sender<Result<RowOutput, RunError>>,
}

impl Worker {
    /// Gives `model` a thread of its own, named `name`.
    pub fn spawn(name: &str, model: Model, policy: BatchPolicy) -> std::io::Result<Worker> {
        let shared = Arc::new(Shared {
            signature: model.signature().clone(),
            device: model.device().label(),
            stand_in: Device::cpu().label(),
            executor: model.executor(),
            queue_rows: policy.queue_rows.max(1),
            waiting: AtomicUsize::new(0),
            stands_in: AtomicBool::new(false),
        });
        let (jobs, queue) = mpsc::sync_channel(shared.queue_rows);
        // A model whose leading dimension is fixed runs one sample at a time.
        let max_batch = if shared.signature.batched { policy.max_batch.max(1) } else { 1 };
        let run = Run { model, queue, max_batch, max_wait: policy.max_wait, shared: Arc::clone(&shared) };
        std::thread::Builder::new().name(name.to_owned()).spawn(move || run.until_closed())?;
        Ok(Worker { jobs, shared })
    }

    /// What the model takes and gives.
    pub fn signature(&self) -> &Signature {
        &self.shared.signature
    }

    /// The label of the device that the model runs on.
    pub fn device_label(&self) -> &str {
        &self.shared.device
    }

    /// The label of whoever ran a batch.
    pub fn label_of(&self, ran_on: RanOn) -> &str {
        match ran_on {
            RanOn::Device => &self.shared.device,
            RanOn::StandIn => &self.shared.stand_in,
        }
    }

    /// Whether the CPU ran the last batch in the place of the model's device.
    pub fn stands_in(&self) -> bool {
        self.shared.stands_in.load(Ordering::Relaxed)
    }

    /// The executor's name.
    pub fn executor(&self) -> &'static str {
        self.shared.executor
    }

    /// Samples that wait for a run.
    pub fn queue_depth(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed)
    }

    /// Queues one sample, which must fit the signature and be in its order ([`Signature::split`] gives such). Never blocks.
    pub fn submit(&self, row: Vec<NamedTensor>) -> Result<oneshot::Receiver<Result<RowOutput, RunError>>, SubmitError> {
        let (reply, answer) = oneshot::channel();
        self.shared.waiting.fetch_add(1, Ordering::Relaxed);
        let sent = self.jobs.try_send(Job { row, submitted: Instant::now(), reply });
        sent.map(|()| answer).map_err(|error| {
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
            match error {
                TrySendError::Full(_) => SubmitError::QueueFull { limit: self.shared.queue_rows },
                TrySendError::Disconnected(_) => SubmitError::Stopped,
            }
        })
    }
}

struct Run {
    model: Model,
    queue: Receiver<Job>,
    max_batch: usize,
    max_wait: Duration,
    shared: Arc<Shared>,
}

impl Run {
    fn until_closed(mut self) {
        let mut next = None;
        while let Some(first) = next.take().or_else(|| self.queue.recv().ok()) {
            if self.is_abandoned(&first) {
                continue;
            }
            let (batch, other) = self.fill(first);
            next = other;
            self.shared.waiting.fetch_sub(batch.len(), Ordering::Relaxed);
            self.run(batch);
        }
    }

    /// Whether nobody waits for the sample any more; then it leaves the queue unrun.
    fn is_abandoned(&self, job: &Job) -> bool {
        let abandoned = job.reply.is_closed();
        if abandoned {
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        abandoned
    }

    /// The batch that begins with `first`, and the sample that did not fit in, if one ended it.
    fn fill(&self, first: Job) -> (Vec<Job>, Option<Job>) {
        let deadline = Instant::now() + self.max_wait;
        let mut batch = vec![first];
        while batch.len() < self.max_batch {
            match self.queue.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(job) if self.is_abandoned(&job) => {}
                Ok(job) if same_shapes(&job.row, &batch[0].row) => batch.push(job),
                Ok(job) => return (batch, Some(job)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        (batch, None)
    }

    fn run(&mut self, batch: Vec<Job>) {
        let started = Instant::now();
        let result = self.stacked(&batch).and_then(|inputs| self.model.run_supervised(&inputs));
        let model_time = started.elapsed();
        let size = batch.len();
        match result.and_then(|(outputs, ran_on)| Ok((rows(outputs, size)?, ran_on))) {
            Ok((rows, ran_on)) => {
                self.shared.stands_in.store(ran_on == RanOn::StandIn, Ordering::Relaxed);
                for (job, outputs) in batch.into_iter().zip(rows) {
                    let queue_time = started.saturating_duration_since(job.submitted);
                    // The caller may have given up: then nobody is there to be told.
                    let _ = job.reply.send(Ok(RowOutput { outputs, queue_time, model_time, batch: size, ran_on }));
                }
            }
            Err(error) => {
                for job in batch {
                    let _ = job.reply.send(Err(error.clone()));
                }
            }
        }
    }

    fn stacked(&self, batch: &[Job]) -> Result<Vec<Tensor>, RunError> {
        let inputs = &self.shared.signature.inputs;
        (0..inputs.len())
            .map(|column| {
                let parts: Vec<Tensor> =
                    batch.iter().filter_map(|job| job.row.get(column)).map(|input| input.tensor.clone()).collect();
                if parts.len() != batch.len() {
                    let takes = inputs[column].shape_text();
                    return Err(RunError::Input(crate::InputError::Missing {
                        name: inputs[column].name.clone(),
                        takes,
                    }));
                }
                if let [only] = parts.as_slice() {
                    return Ok(only.clone());
                }
                Tensor::stack(&parts).map_err(|error| RunError::Input(error.into()))
            })
            .collect()
    }
}

fn same_shapes(a: &[NamedTensor], b: &[NamedTensor]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.tensor.shape() == b.tensor.shape())
}

/// The outputs of a batch, sample by sample.
fn rows(outputs: Vec<NamedTensor>, size: usize) -> Result<Vec<Vec<NamedTensor>>, RunError> {
    if size == 1 {
        return Ok(vec![outputs]);
    }
    let mut rows: Vec<Vec<NamedTensor>> = (0..size).map(|_| Vec::with_capacity(outputs.len())).collect();
    for output in outputs {
        let parts = output.tensor.rows().map_err(|error| RunError::Device { why: error.to_string() })?;
        if parts.len() != size {
            let why = format!("output {:?} has {} rows for a batch of {size}", output.name, parts.len());
            return Err(RunError::Device { why });
        }
        for (row, tensor) in rows.iter_mut().zip(parts) {
            row.push(NamedTensor { name: output.name.clone(), tensor });
        }
    }
    Ok(rows)
}
