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
    Arrive {
        connection: ConnectionId,
        to: End,
        packet: Packet,
    },
    /// An end hears that the path was cut.
    Reset {
        connection: ConnectionId,
        to: End,
    },
    /// An end has heard nothing for too long, unless the hole has ended.
    Silence {
        connection: ConnectionId,
        end: End,
        hole: u32,
    },
    /// A client's link: time to connect, or to give up trying.
    Link {
        client: Client,
        owner: u32,
        turn: u32,
    },
    /// The broker forgets a session.
    SessionEnds {
        client: Client,
        absences: u32,
    },
    Device {
        device: u16,
        run: u32,
        event: DeviceEvent,
    },
    Gateway {
        gateway: u16,
        run: u32,
        event: GatewayEvent,
    },
    /// A caller on a device takes its next step.
    Call {
        device: u16,
        number: u16,
        step: Step,
    },
    /// A caller on a device asks a plain question.
    Plain {
        device: u16,
        number: u16,
    },
    /// A device's process begins.
    DeviceStart {
        device: u16,
    },
    /// A gateway's process begins.
    GatewayStart {
        gateway: u16,
    },
    /// Has a request been given up by when it had to be?
    LifeCheck {
        device: u16,
        number: u16,
    },
    Fault(Fault),
    /// No fault any more.
    Heal,
    /// Is everything answered, and idle?
    LookForRest,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum DeviceEvent {
    /// The process has opened its store and begins to serve.
    Opened,
    /// The process has ended in order.
    Stopped,
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

#[derive(Clone, Copy, Debug)]
pub(crate) enum GatewayEvent {
    /// A model run has ended.
    Ran {
        job: u64,
    },
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
    /// When, in nanoseconds; which of those foreseen, in their order; where it lies.
    heap: BinaryHeap<Reverse<(u64, u32, u32)>>,
    next: u32,
    /// The events themselves stay where they are: they are large, and a heap moves what it holds.
    events: Vec<Option<Event>>,
    free: Vec<u32>,
}

impl Queue {
    pub(crate) fn push(&mut self, at: Duration, event: Event) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            u32::try_from(self.events.len() - 1).expect("fewer events than steps")
        });
        self.events[slot as usize] = Some(event);
        self.heap.push(Reverse((u64::try_from(at.as_nanos()).unwrap_or(u64::MAX), self.next, slot)));
        self.next += 1;
    }

    pub(crate) fn pop(&mut self) -> Option<(Duration, Event)> {
        let Reverse((at, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        let event = self.events[slot as usize].take().expect("a slot in the heap holds an event");
        Some((Duration::from_nanos(at), event))
    }
}
