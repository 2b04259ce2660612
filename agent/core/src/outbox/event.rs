//! What goes into an outbox and comes out of it: events, actions, and what it has the store write.

use std::time::Duration;

use hedge_wire::{BootId, Digest, Refusal, RequestId};

use crate::answer::Reason;
use crate::row::NotSent;

/// What an outbox hands on without looking into it, but for its size.
pub trait HasBytes: Clone {
    /// Bytes that it takes in the store.
    fn bytes(&self) -> u64;
}

impl<T: Clone + AsRef<[u8]>> HasBytes for T {
    fn bytes(&self) -> u64 {
        self.as_ref().len() as u64
    }
}

/// What happened. `A` is an answer, or the failure that a caller gets in its place.
#[derive(Clone, PartialEq, Debug)]
pub enum OutboxEvent<A> {
    /// A caller hands in a durable request.
    Accept {
        /// Names the request; a caller that repeats it joins the first.
        id: RequestId,
        /// Of the payload: the same id with another payload is refused.
        digest: Digest,
        /// The payload's size.
        bytes: u64,
        /// How long it may wait for the cloud, at most [`OutboxSettings::life`](super::OutboxSettings::life).
        life: Duration,
    },
    /// This write, and every one asked for before it, survives a power cut.
    Persisted(WriteId),
    /// Nothing of this write was kept, for want of space. (An fsync that fails is no event: the process ends.)
    NotPersisted(WriteId),
    /// The payload cannot be read back.
    Unreadable(RequestId),
    /// [`OutboxAction::Execute`] came to an end.
    Ran {
        /// Which request.
        id: RequestId,
        /// With what.
        ran: Ran<A>,
    },
    /// The broker has the message.
    Sent(RequestId),
    /// The message could not be sent.
    NotSent {
        /// Which request.
        id: RequestId,
        /// Why.
        why: NotSent,
    },
    /// The broker has the message and nobody to give it to.
    NoSubscribers(RequestId),
    /// The broker refused the message.
    Rejected(RequestId),
    /// The gateway's verdict, which fits the model.
    Verdict {
        /// Which request.
        id: RequestId,
        /// The answer.
        answer: A,
    },
    /// The gateway's verdict does not fit the model.
    BadVerdict(RequestId),
    /// The gateway has no room.
    Busy {
        /// Which request.
        id: RequestId,
        /// How long it asks to wait.
        retry: Duration,
    },
    /// The gateway refuses the request.
    Refused {
        /// Which request.
        id: RequestId,
        /// Why.
        refusal: Refusal,
    },
    /// The cloud may be asked: the link came up, or a gateway appeared.
    CloudUp,
    /// The cloud cannot be asked: the link is down, or no gateway is there.
    CloudDown,
    /// A caller has the result in its hands.
    Fetched(RequestId),
    /// The time asked for by [`OutboxAction::WakeAt`] has come.
    Timer,
    /// The process is about to end in order: nothing is begun any more; what comes to an end still counts.
    Stop,
}

/// What became of an execution.
#[derive(Clone, PartialEq, Debug)]
pub enum Ran<A> {
    /// The final answer, or the final failure.
    Final(A),
    /// The cloud is to answer. Not a reply to [`Mode::Local`].
    Offload,
    /// No room for it now: nothing was executed.
    Again,
}

/// How a request is executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// As the router decides, which is told that the cloud may be asked: here an offload can wait.
    Routed,
    /// Without the cloud, for this reason: the local answer `uncertified`, or where the caller insists on the cloud, its
    /// failure.
    Local(Reason),
}

/// What the caller of the outbox has to do, in this order.
#[derive(Clone, PartialEq, Debug)]
pub enum OutboxAction<A> {
    /// Write, wait for the barrier, report [`OutboxEvent::Persisted`] or [`OutboxEvent::NotPersisted`].
    Persist {
        /// Names the write.
        write: WriteId,
        /// What to write, all of it or nothing.
        change: Change<A>,
    },
    /// Write in the same order, report nothing. The next barrier takes it along, a second later at the latest.
    Note(Change<A>),
    /// The request is accepted: whoever handed it in may be told so (202), or goes on waiting for its answer.
    Accepted(RequestId),
    /// The request is not accepted. As an answer to an [`OutboxEvent::Accept`] it is for that caller alone, otherwise for
    /// everyone who waits for the id.
    Refuse {
        /// Which request.
        id: RequestId,
        /// Why.
        why: NotAccepted,
    },
    /// The result is in the store: give it to the caller that was just heard.
    Known(RequestId),
    /// Execute the request and report [`OutboxEvent::Ran`], whatever happens.
    Execute {
        /// Which request.
        id: RequestId,
        /// How.
        mode: Mode,
        /// Its unfinished attempts as the disk has them: for the mark of what is [`UnderWay`](super::UnderWay).
        attempts: u8,
    },
    /// Ask the cloud, then report [`OutboxEvent::Sent`], [`OutboxEvent::NotSent`] or what the broker said.
    Publish {
        /// Which request; every attempt has the same id.
        id: RequestId,
        /// 0 for the first try, more for retries.
        attempt: u8,
        /// How long this attempt waits for its reply: what the gateway is told.
        left: Duration,
        /// As for [`OutboxAction::Execute`], until the broker has the message; 0 where the process has survived that.
        attempts: u8,
    },
    /// The result is on disk: give it to those who wait for it, once and for all.
    Deliver {
        /// Which request.
        id: RequestId,
        /// How it ended.
        ending: Ending<A>,
    },
    /// Report [`OutboxEvent::Timer`] at this time, which is ahead; it replaces an earlier request.
    WakeAt(Duration),
}

/// How a durable request ends.
#[derive(Clone, PartialEq, Debug)]
pub enum Ending<A> {
    /// Answered, by the device or by the cloud, or failed in the manner of a request that is not durable.
    Answered(A),
    /// It was being executed when the process died, too often; the store keeps its payload in quarantine.
    Poisoned {
        /// How often.
        attempts: u8,
    },
    /// Its payload was damaged on disk.
    Damaged,
}

impl<A: HasBytes> Ending<A> {
    /// Bytes of the answer, if it is one.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Ending::Answered(answer) => answer.bytes(),
            Ending::Poisoned { .. } | Ending::Damaged => 0,
        }
    }
}

/// Why a durable request is not accepted. Each is for the caller to act upon; nothing of it is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotAccepted {
    /// Too many requests wait, or results that nobody fetched.
    #[error("the outbox holds {held} of at most {limit} requests; retry later, or fetch the results that wait")]
    TooMany {
        /// Requests that wait, and results not fetched.
        held: usize,
        /// The most.
        limit: usize,
    },
    /// Their payloads are too large together.
    #[error("the outbox holds {held} bytes and takes new work up to {limit}; retry later, or raise the outbox's quota")]
    TooLarge {
        /// Bytes that wait.
        held: u64,
        /// From where on new work is refused: 80 % of the quota.
        limit: u64,
    },
    /// The answers that nobody fetched are too large together.
    #[error(
        "answers of {held} bytes, of at most {limit}, wait to be fetched; fetch some, or raise outbox.max_result_bytes"
    )]
    Unfetched {
        /// Bytes of answers that nobody fetched.
        held: u64,
        /// From where on new work is refused.
        limit: u64,
    },
    /// The disk is full.
    #[error("there is no space on the disk for a durable request; free some, or send it without hedge.durable")]
    DiskFull,
    /// The id names a request with another payload.
    #[error("the id names an earlier request with other inputs; use a new id for a new request")]
    OtherRequest,
    /// The id named a request whose result has been dropped since.
    #[error("the request was answered and its result is no longer kept; use a new id for a new request")]
    Gone,
}

/// Names a write that is reported upon.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WriteId(pub u64);

/// A write: all of it survives, or nothing.
#[derive(Clone, PartialEq, Debug)]
pub enum Change<A> {
    /// A new entry: this head, and the payload that came with the request.
    Insert(Head),
    /// Another head for the entry of this id; its payload stays.
    Update(Head),
    /// The entry goes (its payload to the quarantine if it is poisoned), its result comes, in one.
    Finish {
        /// The result's head.
        head: ResultHead,
        /// The result.
        ending: Ending<A>,
    },
    /// The result has been fetched.
    Fetched(RequestId),
    /// The result goes.
    Erase(RequestId),
}

/// What the store keeps of an entry beside its payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// Which request.
    pub id: RequestId,
    /// Of the payload.
    pub digest: Digest,
    /// The payload's size.
    pub bytes: u64,
    /// Executions, or first sends of a process, that were begun and did not end as far as is known.
    pub attempts: u8,
    /// Whether it was decided that the cloud is to answer.
    pub placed: bool,
    /// How long it waits for the cloud.
    pub expiry: Expiry,
}

/// What the store keeps of a result beside the result itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResultHead {
    /// Which request.
    pub id: RequestId,
    /// Of the payload that it had.
    pub digest: Digest,
    /// The answer's size; 0 where there is none.
    pub bytes: u64,
    /// Whether a caller has fetched it.
    pub fetched: bool,
    /// How long it is kept.
    pub expiry: Expiry,
}

/// A moment that survives a restart: exact while the machine's monotonic clock runs on, otherwise by what was left when this
/// was written. Wall clocks are not asked: devices boot in 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expiry {
    /// The boot of the machine whose monotonic clock `at` is on.
    pub boot: BootId,
    /// The moment on that clock.
    pub at: Duration,
    /// What was left of the time when this was written.
    pub left: Duration,
}

impl Expiry {
    /// `at`, written down at `now`.
    pub(super) fn new(boot: BootId, at: Duration, now: Duration) -> Self {
        Self { boot, at, left: at.saturating_sub(now) }
    }

    /// The moment on the clock of `boot`, where it is `now`.
    pub(super) fn resume(self, boot: BootId, now: Duration) -> Duration {
        if self.boot == boot { self.at } else { now.saturating_add(self.left) }
    }
}
