//! The queries of one model: answers in order of arrival, and behind all of them audits.

use std::collections::VecDeque;

use hedge_tensor::NamedTensor;
use hedge_wire::Purpose;

use crate::{admission::Key, limits::Limits};

/// Of the queries with an engine, one in so many may be an audit: an answer that arrives then waits for few of them.
const AUDIT_SLOTS_DIVISOR: usize = 4;

/// What waits for one model, and how much is with its engine.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    answers: VecDeque<Waiting>,
    audits: VecDeque<Waiting>,
    running: usize,
    running_audits: usize,
}

/// A query that is not yet with its engine.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) key: Key,
    pub(crate) inputs: Vec<NamedTensor>,
}

impl Lane {
    pub(crate) fn enqueue(&mut self, purpose: Purpose, waiting: Waiting) {
        match purpose {
            Purpose::Answer => self.answers.push_back(waiting),
            Purpose::Audit => self.audits.push_back(waiting),
        }
    }

    /// The next query for the engine, where it may have one; an audit only while no answer waits.
    pub(crate) fn next(&mut self, limits: &Limits) -> Option<Waiting> {
        if self.running >= limits.running_per_model {
            return None;
        }
        let slots = (limits.running_per_model / AUDIT_SLOTS_DIVISOR).max(1);
        let audits = &mut self.audits;
        let audit = || if self.running_audits < slots { audits.pop_front() } else { None };
        self.answers.pop_front().or_else(audit)
    }

    pub(crate) fn began(&mut self, purpose: Purpose) {
        self.running += 1;
        self.running_audits += usize::from(purpose == Purpose::Audit);
    }

    pub(crate) fn ended(&mut self, purpose: Purpose) {
        self.running -= 1;
        self.running_audits -= usize::from(purpose == Purpose::Audit);
    }

    /// Takes out what waits and is not `wanted`.
    pub(crate) fn remove_unless(&mut self, mut wanted: impl FnMut(&Key) -> bool) -> Vec<Key> {
        let mut removed = Vec::new();
        for queue in [&mut self.answers, &mut self.audits] {
            queue.retain(|waiting| {
                let wanted = wanted(&waiting.key);
                if !wanted {
                    removed.push(waiting.key.clone());
                }
                wanted
            });
        }
        removed
    }

    /// The audits that wait, the latest first.
    pub(crate) fn waiting_audits(&self) -> impl Iterator<Item = &Key> {
        self.audits.iter().rev().map(|waiting| &waiting.key)
    }
}
