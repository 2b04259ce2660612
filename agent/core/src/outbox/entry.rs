//! One durable request without an answer: its stage, and what follows from it for load, turns and timers.

use std::time::Duration;

use hedge_wire::{BootId, Digest, RequestId};

use super::event::{Ending, Expiry, Head, Mode, WriteId};

/// The least time between two times that an entry's expiry is written down.
pub(super) const RESTAMP_AT_LEAST: Duration = Duration::from_secs(60);
/// How often in its life an entry's expiry is written down.
const RESTAMPS: u32 = 8;

/// The order of arrival.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Seq(pub(super) u64);

#[derive(Debug)]
pub(super) struct Entry<A> {
    pub(super) id: RequestId,
    pub(super) digest: Digest,
    pub(super) bytes: u64,
    /// Unfinished attempts, as on disk.
    pub(super) attempts: u8,
    /// Whether it was decided that the cloud is to answer.
    pub(super) placed: bool,
    pub(super) mode: Mode,
    pub(super) expires: Duration,
    /// When the expiry is written down next, and how often.
    pub(super) restamp_at: Duration,
    pub(super) restamp_every: Duration,
    /// Whether this process has survived an attempt, so that it may be sent again without writing another.
    pub(super) proved: bool,
    /// Whether an attempt was unfinished when the process began.
    pub(super) suspect: bool,
    /// Failed tries since the cloud came up: what the next waits are reckoned by.
    pub(super) tries: u32,
    /// Messages sent, as told to the gateway.
    pub(super) sends: u8,
    pub(super) stage: Stage<A>,
}

#[derive(Debug)]
pub(super) enum Stage<A> {
    /// Not accepted yet; with `start` the write counts as the first attempt, too.
    Accepting { write: WriteId, start: bool },
    /// Until then, or until the cloud comes up.
    Waiting { due: Option<Duration> },
    /// Its turn may come.
    Turn,
    /// The attempt is being persisted.
    Starting { write: WriteId },
    /// Being executed.
    Running,
    /// The cloud has been asked.
    Sent { until: Duration },
    /// The ending is being persisted; without a write, it is to be tried again then. `unnoted`: the disk still counts
    /// an attempt that the process has survived, and no note of that is on its way.
    Finishing { write: Option<WriteId>, retry_at: Duration, unnoted: bool, ending: Ending<A> },
}

/// What an entry waits its turn for. In the order in which turns are taken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Turn {
    SuspectExecution,
    SuspectSend,
    Execution,
    Send,
}

/// What entries take up.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Load {
    pub(super) running: usize,
    pub(super) in_flight: usize,
    /// Those of them that might kill the process.
    pub(super) unproved: usize,
    /// Those of them that are suspected to have done so.
    pub(super) suspects: usize,
}

impl Load {
    pub(super) fn replace(&mut self, before: Load, after: Load) {
        self.running = self.running + after.running - before.running;
        self.in_flight = self.in_flight + after.in_flight - before.in_flight;
        self.unproved = self.unproved + after.unproved - before.unproved;
        self.suspects = self.suspects + after.suspects - before.suspects;
    }
}

impl<A> Entry<A> {
    /// An entry as it is on disk; `expires` is on this process's clock.
    pub(super) fn new(head: &Head, expires: Duration, now: Duration, stage: Stage<A>) -> Self {
        let restamp_every = (expires.saturating_sub(now) / RESTAMPS).max(RESTAMP_AT_LEAST);
        Self {
            id: head.id,
            digest: head.digest,
            bytes: head.bytes,
            attempts: head.attempts,
            placed: head.placed,
            mode: Mode::Routed,
            expires,
            restamp_at: now + restamp_every,
            restamp_every,
            proved: false,
            suspect: false,
            tries: 0,
            sends: 0,
            stage,
        }
    }

    pub(super) fn head(&self, boot: BootId, now: Duration) -> Head {
        Head {
            id: self.id,
            digest: self.digest,
            bytes: self.bytes,
            attempts: self.attempts,
            placed: self.placed,
            expiry: Expiry::new(boot, self.expires, now),
        }
    }

    pub(super) fn is_accepted(&self) -> bool {
        !matches!(self.stage, Stage::Accepting { .. })
    }

    /// Whether nothing but its ending's write is left to be waited for.
    pub(super) fn is_finishing(&self) -> bool {
        matches!(self.stage, Stage::Finishing { .. })
    }

    /// Whether its next step is to ask the cloud, not to be executed.
    pub(super) fn is_for_the_cloud(&self) -> bool {
        self.placed && self.mode == Mode::Routed
    }

    pub(super) fn load(&self) -> Load {
        let (running, in_flight) = match self.stage {
            Stage::Accepting { start: true, .. } | Stage::Running => (1, 0),
            Stage::Starting { .. } => match self.is_for_the_cloud() {
                true => (0, 1),
                false => (1, 0),
            },
            Stage::Sent { .. } => (0, 1),
            Stage::Accepting { start: false, .. } | Stage::Waiting { .. } | Stage::Turn | Stage::Finishing { .. } => {
                (0, 0)
            }
        };
        let unproved = if self.proved { 0 } else { running + in_flight };
        Load { running, in_flight, unproved, suspects: if self.suspect { unproved } else { 0 } }
    }

    pub(super) fn turn(&self) -> Option<Turn> {
        let turn = match (self.suspect, self.is_for_the_cloud()) {
            (true, false) => Turn::SuspectExecution,
            (true, true) => Turn::SuspectSend,
            (false, false) => Turn::Execution,
            (false, true) => Turn::Send,
        };
        matches!(self.stage, Stage::Turn).then_some(turn)
    }

    /// When the next thing happens by itself.
    pub(super) fn wake(&self) -> Option<Duration> {
        let due = match self.stage {
            Stage::Waiting { due } => due,
            Stage::Turn => None,
            Stage::Sent { until } => Some(until),
            Stage::Finishing { write: None, retry_at, .. } => return Some(retry_at),
            Stage::Accepting { .. } | Stage::Starting { .. } | Stage::Running | Stage::Finishing { .. } => return None,
        };
        // Whoever does without the cloud has no life to count.
        let counts = self.mode == Mode::Routed;
        let expires = counts.then_some(self.expires);
        let restamp = (counts && self.restamp_at < self.expires).then_some(self.restamp_at);
        [due, expires, restamp].into_iter().flatten().min()
    }
}
