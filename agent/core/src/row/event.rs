//! What goes into a row and comes out of it: policy, events and actions.

use std::time::Duration;

use hedge_certify::Features;
use hedge_tensor::NamedTensor;
use hedge_wire::{Digest, GatewayId, ModelId, Refusal};

use crate::answer::{Answer, Failure, Reason};
use crate::route::{Ask, Decision, Ticket};

/// The outputs of one row.
pub type Outputs = Vec<NamedTensor>;

/// Where the caller wants the row answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Place {
    /// Locally if the router allows, otherwise by the cloud if it can.
    #[default]
    Auto,
    /// By the local model, whatever its score.
    Edge,
    /// By the cloud, or not at all.
    Cloud,
}

/// Whether a model's rows may leave the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offload {
    /// When the router wants the cloud to answer.
    Auto,
    /// Never.
    Never,
}

/// Who asks the cloud about a row, where it is to answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Asking {
    /// The row itself, at once; without a reply by its deadline it goes without.
    #[default]
    Now,
    /// The outbox, when it can: the row leaves ([`Action::Leave`]), whatever link and gateways do at the moment.
    Later,
    /// Nobody: the outbox has, and for this reason there is no answer.
    Never(Reason),
}

/// What is decided about a row before it starts.
#[derive(Clone, Debug)]
pub struct RowPolicy {
    /// Where the caller wants it answered.
    pub place: Place,
    /// Whether it may leave the device.
    pub offload: Offload,
    /// The cloud model to ask.
    pub cloud_model: ModelId,
    /// Who asks it.
    pub asking: Asking,
}

/// The row's times; all are counted from the same fixed moment.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// When it arrived.
    pub arrived: Duration,
    /// How long it may take.
    pub allowed: Duration,
    /// How long to wait for a reply before asking once more.
    pub retry_after: Duration,
    /// A random number in 0..1, which spreads the retries of many devices.
    pub jitter: f64,
}

/// What the local model said.
#[derive(Clone, PartialEq, Debug)]
pub struct LocalResult {
    /// Its outputs.
    pub outputs: Outputs,
    /// Their score; none for a model without scores.
    pub score: Option<f32>,
    /// What the router goes by; none for a model without class scores, whose answers always stay local.
    pub features: Option<Features>,
    /// Whether the CPU computed them because the model's own device failed.
    pub stand_in: bool,
}

/// An earlier verdict of the cloud for exactly this row.
#[derive(Clone, PartialEq, Debug)]
pub struct CachedVerdict {
    /// The cloud model's outputs.
    pub outputs: Outputs,
    /// Their score.
    pub score: Option<f32>,
    /// The cloud model.
    pub digest: Digest,
}

/// Why the local model gave nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LocalFailure {
    /// Its queue is full.
    QueueFull,
    /// It failed.
    Fault(String),
}

/// Why a message was not taken for sending.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotSent {
    /// The link is down.
    Down,
    /// Too many messages wait.
    QueueFull,
    /// It is larger than what may be sent, also in parts.
    TooLarge,
}

/// What happened.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// The row is there.
    Arrived,
    /// What the cache held.
    Looked {
        /// A local result.
        local: Option<LocalResult>,
        /// A verdict of the cloud model asked for.
        cloud: Option<CachedVerdict>,
    },
    /// The local model is done.
    Ran(Result<LocalResult, LocalFailure>),
    /// What the router decided.
    Decided(Decision),
    /// The publish asked for was not possible.
    NotSent(NotSent),
    /// The broker took the message but nobody is subscribed to it.
    NoSubscribers,
    /// The broker refused the message.
    Rejected,
    /// The link went down.
    LinkDown,
    /// A verdict that fits the model's outputs.
    Verdict {
        /// The cloud model's outputs.
        outputs: Outputs,
        /// Their score.
        score: Option<f32>,
        /// The cloud model.
        digest: Digest,
        /// Who ran it.
        gateway: GatewayId,
    },
    /// A verdict that does not fit.
    BadVerdict,
    /// The gateway's queue is full.
    Busy {
        /// How long it asks to wait.
        retry: Duration,
    },
    /// The gateway refuses the request.
    Refused(Refusal),
    /// The time asked for by [`Action::WakeAt`] has come, or a deadline may have.
    Timer,
}

/// What has to be known when the cloud's answer to a row comes that has left.
#[derive(Clone, PartialEq, Debug)]
pub struct Left {
    /// Why the cloud answers.
    pub why: Reason,
    /// The local result that the answer is a label for, where it is one.
    pub label: Option<(Ticket, LocalResult)>,
}

/// What the caller has to do.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Look into the cache and report [`Event::Looked`].
    LookUp {
        /// For a local result.
        local: bool,
        /// For a verdict of the cloud model of this digest.
        cloud: Option<Digest>,
    },
    /// Run the local model and report [`Event::Ran`].
    RunLocal,
    /// Keep the local result just computed in the cache.
    StoreLocal(LocalResult),
    /// Keep the verdict just received in the cache.
    StoreVerdict {
        /// The cloud model's outputs.
        outputs: Outputs,
        /// The cloud model.
        digest: Digest,
    },
    /// Ask the model's router and report [`Event::Decided`].
    Decide(Ask),
    /// Keep the row, to be asked of the cloud later: the audit of this local result.
    Audit {
        /// What its answer is reported with.
        ticket: Ticket,
        /// The result that the answer is compared with.
        local: LocalResult,
    },
    /// Tell the router whether the verdict just received differs from the local result.
    Label {
        /// What it is reported with.
        ticket: Ticket,
        /// The local result.
        local: LocalResult,
        /// The cloud model's outputs.
        verdict: Outputs,
        /// The cloud model.
        cloud: Digest,
    },
    /// Tell the router how the offload went.
    Heard {
        /// Answered, or why not.
        outcome: Result<(), Reason>,
        /// From the first publish until now.
        waited: Duration,
    },
    /// Publish the row under its id.
    Publish {
        /// 0, then 1 for the retry.
        attempt: u8,
        /// What is left until the deadline.
        left: Duration,
    },
    /// Report [`Event::Timer`] at this time; it replaces an earlier request.
    WakeAt(Duration),
    /// The end.
    Finish(Result<Answer, Failure>),
    /// The end here: the cloud is to answer, and the outbox asks it.
    Leave(Left),
}
