//! How the promise fared: what the agent says has happened to its certificates, and at which of the demonstration's requests.
//!
//! The agent counts the requests that its router decided about. Those are all but the ones whose cloud answer was in the
//! cache, so that its count is turned into the number of a request here. Several requests are under way at once: the
//! number is right to within as many.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{Reply, Source, Status};
use super::phases::{Outcome, Ran};
use super::script::Phase;

/// What the agent says of the model's route.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Route {
    certificate: Option<Shown>,
    transitions: Vec<Step>,
    audit_queue: AuditQueue,
    saving: bool,
}

/// Rows that were answered and that the cloud is to be asked about.
#[derive(Clone, Copy, Debug, Deserialize)]
struct AuditQueue {
    waiting: u64,
}

/// What it says of a certificate.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub(super) struct Shown {
    id: String,
    /// Its number in the series, m.
    pub(super) index: u32,
    /// Scores at or above it are certified.
    pub(super) threshold: f32,
    /// Which score.
    pub(super) score: String,
    /// Calibration labels.
    pub(super) n: u64,
    /// Of those that stay local, the ones that differ.
    k: u64,
    /// The share of the calibration that goes to the cloud.
    offload: f64,
}

/// What it says of a change.
#[derive(Clone, Debug, Deserialize)]
struct Step {
    kind: String,
    /// How many requests had been decided about.
    request: u64,
    certificate: Option<String>,
    why: Option<String>,
}

/// All that was heard so far.
#[derive(Debug, Default)]
pub(super) struct Story {
    steps: Vec<Step>,
    certificates: HashMap<String, Shown>,
}

/// A change, in the demonstration's terms.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Transition {
    /// `installed`, `used`, `alarm`, `void`, `gathering`, `issued`, `not-certified`, `refused` or `labels-dropped`.
    pub(super) what: String,
    /// The request at which, from 0.
    pub(super) request: usize,
    /// Its phase.
    pub(super) phase: Phase,
    /// The certificate that it is about.
    pub(super) certificate: Option<Shown>,
    /// The agent's own words.
    pub(super) why: Option<String>,
}

impl Route {
    /// How many audits are not answered yet.
    pub(super) fn audits_waiting(&self) -> u64 {
        self.audit_queue.waiting
    }

    /// Whether the agent has its state on disk: before that it certifies nothing.
    pub(super) fn is_saved(&self) -> bool {
        !self.saving
    }
}

impl Story {
    /// Takes in what the agent says now. It names only the certificate that is in use or watched.
    pub(super) fn hear(&mut self, route: Route) {
        self.steps = route.transitions;
        self.certificates.extend(route.certificate.map(|shown| (shown.id.clone(), shown)));
    }

    /// What happened, in order.
    pub(super) fn transitions(&self, ran: &[Ran]) -> Vec<Transition> {
        let decided: Vec<(usize, Phase)> = ran
            .iter()
            .flat_map(|ran| ran.outcomes.iter().map(move |outcome| (outcome, ran.phase)))
            .filter(|(outcome, _)| was_decided(outcome))
            .map(|(outcome, phase)| (outcome.index, phase))
            .collect();
        let transition = |step: &Step| {
            let at = usize::try_from(step.request).unwrap_or(usize::MAX).max(1).min(decided.len());
            let (request, phase) = at.checked_sub(1).map_or((0, Phase::Normal), |last| decided[last]);
            Transition {
                what: step.kind.clone(),
                request,
                phase,
                certificate: step.certificate.as_ref().and_then(|id| self.certificates.get(id)).cloned(),
                why: step.why.clone(),
            }
        };
        self.steps.iter().map(transition).collect()
    }
}

impl Transition {
    /// As reports have it.
    pub(super) fn to_json(&self) -> Value {
        let certificate = self.certificate.as_ref();
        json!({
            "request": self.request,
            "phase": self.phase.name(),
            "what": self.what,
            "certificate": certificate.map(|shown| &shown.id),
            "index": certificate.map(|shown| shown.index),
            "score": certificate.map(|shown| &shown.score),
            "threshold": certificate.map(|shown| shown.threshold),
            "n": certificate.map(|shown| shown.n),
            "k": certificate.map(|shown| shown.k),
            "offload": certificate.map(|shown| shown.offload),
            "why": self.why,
        })
    }
}

/// Whether the agent's router was asked: an answer of the cloud that was in the cache is given without.
fn was_decided(outcome: &Outcome) -> bool {
    match &outcome.reply {
        Reply::Answer(answer) => (answer.source, answer.status) != (Source::Cache, Status::Cloud),
        Reply::Failed(_) | Reply::Nothing(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::client::{self, Answer};
    use super::*;

    fn outcome(index: usize, source: Source, status: Status) -> Outcome {
        let reply = Reply::Answer(Answer {
            id: client::id(index),
            source,
            status,
            reason: String::new(),
            confidence: None,
            model: String::new(),
            logits: vec![0.0; 10],
        });
        Outcome { index, took: Duration::ZERO, reply }
    }

    /// Requests 0 to 3 in phase normal, of which the router sees 0 and 2, then 4 and 5 in phase drift.
    fn ran() -> [Ran; 2] {
        let normal = vec![
            outcome(0, Source::Edge, Status::Certified),
            outcome(1, Source::Cache, Status::Cloud),
            outcome(2, Source::Cache, Status::Certified),
            outcome(3, Source::Cache, Status::Cloud),
        ];
        let drift = vec![outcome(4, Source::Cloud, Status::Cloud), outcome(5, Source::Edge, Status::Uncertified)];
        let ran = |phase, outcomes| Ran { phase, outcomes, bytes_up: 0, took: Duration::ZERO };
        [ran(Phase::Normal, normal), ran(Phase::Drift, drift)]
    }

    fn route(certificate: &Value, transitions: &Value) -> Route {
        let audit_queue = json!({ "waiting": 0, "bytes": 0 });
        let route = json!({ "phase": "shadow", "certificate": certificate, "transitions": transitions, "audit_queue": audit_queue,
            "saving": false });
        serde_json::from_value(route).unwrap()
    }

    fn heard(transitions: &Value) -> Story {
        let certificate = json!({ "id": "c1", "index": 2, "threshold": 0.5, "score": "head", "n": 800, "k": 3, "offload": 0.6,
            "expires_unix_secs": 1 });
        let mut story = Story::default();
        story.hear(route(&certificate, transitions));
        story
    }

    #[test]
    fn the_agents_count_becomes_the_request_at_which_it_was_reached() {
        let step =
            |request: u64| json!({ "kind": "gathering", "request": request, "certificate": null, "why": "because" });
        let story = heard(&(0..=5).map(step).collect());
        let found = story.transitions(&ran());
        assert_eq!(found.iter().map(|step| step.request).collect::<Vec<_>>(), [0, 0, 2, 4, 5, 5]);
        assert_eq!((found[2].phase, found[3].phase), (Phase::Normal, Phase::Drift));
        assert_eq!((found[0].what.as_str(), found[0].why.as_deref()), ("gathering", Some("because")));
        assert_eq!(heard(&json!([step(3)])).transitions(&[])[0].request, 0);
    }

    #[test]
    fn a_transition_names_the_certificate_that_it_is_about_if_it_was_ever_seen() {
        let step = |id: &str| json!({ "kind": "issued", "request": 1, "certificate": id, "why": null });
        let mut story = heard(&json!([]));
        story.hear(route(&Value::Null, &json!([step("c1"), step("c2")])));
        let found = story.transitions(&ran());
        assert_eq!(found[0].certificate.as_ref().map(|shown| (shown.index, shown.n)), Some((2, 800)));
        assert_eq!((&found[0].to_json()["threshold"], &found[0].to_json()["index"]), (&json!(0.5), &json!(2)));
        assert!(found[1].certificate.is_none() && found[1].to_json()["threshold"].is_null());
    }
}
