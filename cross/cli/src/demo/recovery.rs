//! How far the drift was overcome: alarm, new certificate, and how often certified answers differed before the one and since
//! the other.

use std::ops::Range;

use serde_json::{Value, json};

use super::phases::{Outcome, Ran};
use super::script::Phase;
use super::story::Transition;
use super::tally::{breaks_promise, share};

/// The course of the drift. Requests are counted from 0 over all phases.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Recovery {
    /// The first request of the drift.
    pub(super) drift: usize,
    /// Whether a certificate was in use then.
    pub(super) in_use: bool,
    /// The request at which the alarm about it rang.
    pub(super) alarm: Option<usize>,
    /// The request from which on a new certificate was in use.
    pub(super) renewed: Option<usize>,
    /// The share of requests that got a certified answer unlike the cloud's, from the drift's beginning to the alarm.
    pub(super) disagreement_until_alarm: Option<f64>,
    /// The same since the new certificate is in use, as long as it is.
    pub(super) disagreement_since_renewal: Option<f64>,
}

impl Recovery {
    /// What transitions and answers come to; `classes` are the cloud model's of all requests.
    pub(super) fn of(transitions: &[Transition], ran: &[Ran], classes: &[usize]) -> Self {
        let outcomes: Vec<&Outcome> = ran.iter().flat_map(|ran| &ran.outcomes).collect();
        let drift = Phase::Drift.requests(outcomes.len()).start;
        let (before, during): (Vec<_>, Vec<_>) = transitions.iter().partition(|step| step.phase != Phase::Drift);
        let last_use = before.iter().rev().find(|step| matches!(step.what.as_str(), "used" | "void"));

        let in_use = last_use.is_some_and(|step| step.what == "used");

        let mut during = during.into_iter();
        let mut next = |what: &str| during.find(|step| step.what == what).map(|step| step.request);
        let alarm = in_use.then(|| next("alarm")).flatten();
        let renewed = alarm.and_then(|_| next("used"));
        let end = renewed.and_then(|_| next("void")).unwrap_or(outcomes.len());

        let disagreement = |requests: Range<usize>| {
            let outcomes = outcomes.get(requests).unwrap_or_default();
            share(outcomes.iter().filter(|outcome| breaks_promise(outcome, classes)).count(), outcomes.len())
        };
        Self {
            drift,
            in_use,
            alarm,
            renewed,
            disagreement_until_alarm: alarm.and_then(|alarm| disagreement(drift..alarm)),
            disagreement_since_renewal: renewed.and_then(|renewed| disagreement(renewed..end)),
        }
    }

    /// As reports have it.
    pub(super) fn to_json(self) -> Value {
        json!({
            "drift": self.drift,
            "in_use": self.in_use,
            "alarm": self.alarm,
            "renewed": self.renewed,
            "disagreement_until_alarm": self.disagreement_until_alarm,
            "disagreement_since_renewal": self.disagreement_since_renewal,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::client::{self, Answer, Reply, Source, Status};
    use super::*;

    const TOTAL: usize = 40;

    /// Certified answers of class 0 to each request.
    fn ran() -> [Ran; 4] {
        let outcome = |index| {
            let mut logits = vec![0.0; 10];
            logits[0] = 1.0;
            let reply = Reply::Answer(Answer {
                id: client::id(index),
                source: Source::Edge,
                status: Status::Certified,
                reason: String::new(),
                confidence: None,
                model: String::new(),
                logits,
            });
            Outcome { index, took: Duration::ZERO, reply }
        };
        Phase::ALL.map(|phase| {
            let outcomes = phase.requests(TOTAL).map(outcome).collect();
            Ran { phase, outcomes, bytes_up: 0, took: Duration::ZERO }
        })
    }

    fn step(what: &str, request: usize) -> Transition {
        let phase = if request < 20 { Phase::Healed } else { Phase::Drift };
        Transition { what: what.to_owned(), request, phase, certificate: None, why: None }
    }

    /// The cloud model gives another class for these requests.
    fn of(steps: &[Transition], differing: &[usize]) -> Recovery {
        let classes: Vec<usize> = (0..TOTAL).map(|index| usize::from(differing.contains(&index))).collect();
        Recovery::of(steps, &ran(), &classes)
    }

    #[test]
    fn the_promise_is_looked_at_until_the_alarm_and_under_the_new_certificate() {
        let steps = [step("used", 3), step("alarm", 24), step("void", 24), step("used", 30)];
        let recovery = of(&steps, &[1, 19, 20, 25, 31, 32]);
        assert_eq!((recovery.drift, recovery.in_use), (20, true));
        assert_eq!((recovery.alarm, recovery.renewed), (Some(24), Some(30)));
        assert_eq!(recovery.disagreement_until_alarm, Some(0.25));
        assert_eq!(recovery.disagreement_since_renewal, Some(0.2));
    }

    #[test]
    fn a_new_certificate_is_judged_as_long_as_it_is_in_use() {
        let steps = [step("used", 3), step("alarm", 24), step("void", 24), step("used", 30), step("void", 32)];
        assert_eq!(of(&steps, &[31, 35]).disagreement_since_renewal, Some(0.5));
    }

    #[test]
    fn an_alarm_of_before_is_none_of_the_drifts() {
        let early = [step("used", 3), step("alarm", 4), step("void", 4), step("used", 30)];
        let recovery = of(&early, &[]);
        assert_eq!((recovery.in_use, recovery.alarm, recovery.renewed), (false, None, None));
        assert_eq!((recovery.disagreement_until_alarm, recovery.disagreement_since_renewal), (None, None));
        assert!(!of(&[], &[]).in_use);
    }
}
