//! Whoever looks on, knows everything, and holds the parties to their promises.
//!
//! It is told what each shell does for its core, and by nobody how a core works: a rule is about what a caller, an operator or a
//! device's battery would notice.

mod gateway;
mod record;
mod violation;

use std::time::Duration;

use hedge_agent_core::Status;
use hedge_wire::RequestId;

pub(crate) use self::gateway::{Executions, Turn};
pub(crate) use self::record::Record;
pub use self::violation::{Rule, Violation};
use crate::payload::{Given, Payload, RunId};

/// All that is known.
#[derive(Debug)]
pub(crate) struct Judge {
    /// Durable requests by device and number.
    records: Vec<Vec<Record>>,
    /// How often each plain question was answered or failed, by device and number.
    ends: Vec<Vec<u8>>,
    /// Every model run anywhere.
    runs: Vec<Run>,
    pub(crate) executions: Executions,
    violation: Option<Violation>,
}

/// A model run.
#[derive(Clone, Copy, Debug)]
struct Run {
    id: Option<RequestId>,
    payload: Payload,
    site: Site,
}

/// Where a model runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Site {
    Edge,
    Cloud,
}

impl Judge {
    pub(crate) fn new(records: Vec<Vec<Record>>, plain: usize) -> Self {
        let ends = vec![vec![0; plain]; records.len()];
        Self { records, ends, runs: Vec::new(), executions: Executions::default(), violation: None }
    }

    /// Only the first is of interest: others follow from it.
    pub(crate) fn violated(&mut self, rule: Rule, at: Duration, text: String) {
        let at = at.saturating_sub(crate::clock::BEGINNING);
        self.violation.get_or_insert(Violation { rule, at, text });
    }

    pub(crate) fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// A model runs: on behalf of an id, where that is known.
    pub(crate) fn run(&mut self, id: Option<RequestId>, payload: Payload, site: Site) -> RunId {
        self.runs.push(Run { id, payload, site });
        RunId(self.runs.len() as u64 - 1)
    }

    /// An answer is about what was asked, and computed by whom it says.
    pub(crate) fn check_answer(&mut self, device: u16, asked: Payload, given: &Given, now: Duration) {
        let Given::Answer { payload, run, status, .. } = *given else { return };
        let ran = usize::try_from(run.0).ok().and_then(|run| self.runs.get(run)).copied();
        if payload != asked || ran.is_none_or(|ran| ran.payload != asked) {
            let text = format!("d{device} asked about {asked:x?} and was answered {given:x?}");
            return self.violated(Rule::RightAnswer, now, text);
        }
        let site = ran.map(|ran| ran.site);
        if (status == Status::Cloud) != (site == Some(Site::Cloud)) {
            self.violated(Rule::CloudSaidIt, now, format!("d{device} was answered {given:x?}, computed by {site:?}"));
        }
    }

    /// An answer that came for this id now (not from a cache) was computed for this id.
    pub(crate) fn check_id(&mut self, device: u16, id: RequestId, given: &Given, now: Duration) {
        let Given::Answer { run, status: Status::Cloud, .. } = *given else { return };
        let ran = usize::try_from(run.0).ok().and_then(|run| self.runs.get(run));
        if ran.and_then(|ran| ran.id) != Some(id) {
            let text = format!("d{device} asked under {id} and got {ran:x?}");
            self.violated(Rule::CloudSaidIt, now, text);
        }
    }

    /// A plain question is answered, or fails.
    pub(crate) fn row_ended(&mut self, device: u16, number: u16, now: Duration) {
        let ends = &mut self.ends[usize::from(device)][usize::from(number)];
        *ends = ends.saturating_add(1);
        if *ends > 1 {
            let text = format!("d{device} ended the plain row {number} {ends} times");
            self.violated(Rule::RowEndsOnce, now, text);
        }
    }

    /// How often each of a device's plain questions has ended.
    pub(crate) fn ends_of(&self, device: u16) -> &[u8] {
        &self.ends[usize::from(device)]
    }
}
