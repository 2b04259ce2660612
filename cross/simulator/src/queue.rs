//! What is going to happen, in order of time; what happens at the same time happens in the order in which it was foreseen.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use hedge_wire::RequestId;

use crate::faults::Fault;
use crate::net::packet::{Client, ConnectionId, End, Packet};

/// One thing that happens. What belongs to a process names it by its run, and is void once that process is gone.
#[derive(Debug)]
pub(crate) enum Event {
    /// A packet comes to an end of a connection.
    Arrive { connection: ConnectionId, to: End, packet: Packet },
    /// An end hears that the path was cut.
    Reset { connection: ConnectionId, to: End },
    /// An end has heard nothing for too long, unless the hole has ended.
    Silence { connection: ConnectionId, end: End, hole: u32 },
    /// A client's link: time to connect, or to give up trying.
    Link { client: Client, owner: u32, turn: u32 },
    /// The broker forgets a session.
    SessionEnds { client: Client, absences: u32 },
    Device { device: u16, run: u32, event: DeviceEvent },
    Gateway { gateway: u16, run: u32, event: GatewayEvent },
    /// A caller on a device takes its next step.
    Call { device: u16, number: u16, step: Step },
    /// A caller on a device asks a plain question.
    Plain { device: u16, number: u16 },
    /// A device's process begins.
    DeviceStart { device: u16 },
    /// A gateway's process begins.
    GatewayStart { gateway: u16 },
    /// Has a request been given up by when it had to be?
    LifeCheck { device: u16, number: u16 },
    Fault(Fault),
    /// No fault any more.
    Heal,
    /// Is everything answered, and idle?
    LookForRest,
}

#[derive(Debug)]
pub(crate) enum DeviceEvent {
    /// The process has opened its store and begins to serve.
    Opened,
    /// All retained presence must have arrived.
    Settle { connection: ConnectionId },
    /// The store applies what was handed in.
    Commit,
    /// The barrier is through.
    Synced,
    /// The outbox's timer.
    Wake { asked: u32 },
    /// A durable request has been executed.
    Executed { id: RequestId },
    /// A plain row has been executed.
    RowRan { row: u32 },
    /// A plain row's timer.
    RowWake { row: u32, asked: u32 },
    /// Parts that the link had no room for are tried again.
    Upload { id: RequestId },
    /// An audit has waited for long enough.
    AuditOver { id: RequestId },
}

#[derive(Debug)]
pub(crate) enum GatewayEvent {
    /// A model run has ended.
    Ran { job: u64 },
    Tick,
    /// A draining gateway has waited for long enough.
    DrainOver,
}

/// What a caller of a durable request does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Hands the request in, for the first time or again.
    Post,
    /// Hands it in once more, although it is waiting or answered.
    PostAgain,
    /// Hands other inputs in under its id.
    PostOther,
    /// Has waited for an answer for as long as it wanted; counts posts.
    Patience { post: u32 },
    /// Asks for the result.
    Poll,
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    heap: BinaryHeap<Reverse<Foreseen>>,
    next: u64,
}

#[derive(Debug)]
struct Foreseen {
    at: Duration,
    number: u64,
    event: Event,
}

impl Queue {
    pub(crate) fn push(&mut self, at: Duration, event: Event) {
        self.heap.push(Reverse(Foreseen { at, number: self.next, event }));
        self.next += 1;
    }

    pub(crate) fn pop(&mut self) -> Option<(Duration, Event)> {
        self.heap.pop().map(|Reverse(foreseen)| (foreseen.at, foreseen.event))
    }
}

impl PartialEq for Foreseen {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Foreseen {}

impl PartialOrd for Foreseen {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Foreseen {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}
