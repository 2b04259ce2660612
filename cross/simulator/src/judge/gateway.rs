//! Which gateway process has run what.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use hedge_wire::RequestId;

/// Clocks drift, and ticks come a little late: a reply may be forgotten by so much earlier than the judge reckons.
const SLACK: f64 = 0.99;

/// Executions of questions, by gateway process and id.
#[derive(Debug, Default)]
pub(crate) struct Executions {
    by_process: HashMap<(u32, RequestId), Execution>,
    ids: HashSet<RequestId>,
}

#[derive(Clone, Copy, Debug)]
enum Execution {
    Running,
    Done { at: Duration },
}

/// Whether an execution is the first one of its id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    First,
    /// On another process, or after this one has forgotten its reply.
    Again,
    /// On the very process that runs it or remembers it.
    Wrong,
}

impl Executions {
    /// Process `process` begins to run `id`; it remembers replies for `memory`, or cannot be held to that.
    pub(crate) fn begins(&mut self, process: u32, id: RequestId, now: Duration, memory: Option<Duration>) -> Turn {
        let first = self.ids.insert(id);
        let earlier = self.by_process.insert((process, id), Execution::Running);
        match earlier {
            Some(Execution::Running) => Turn::Wrong,
            Some(Execution::Done { at }) if memory.is_some_and(|memory| at + memory.mul_f64(SLACK) > now) => {
                Turn::Wrong
            }
            _ if first => Turn::First,
            _ => Turn::Again,
        }
    }

    pub(crate) fn ends(&mut self, process: u32, id: RequestId, at: Duration) {
        self.by_process.insert((process, id), Execution::Done { at });
    }
}
