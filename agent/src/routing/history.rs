//! What happened to a route, for operators: the last transitions, each with the request at which it came.

use std::collections::VecDeque;
use std::time::Duration;

use hedge_agent_core::route::Transition;
use serde::{Deserialize, Serialize};

/// How many are kept.
const MAX_STEPS: usize = 128;
/// The longest explanation kept, in characters.
const MAX_WHY: usize = 500;

/// The last transitions, oldest first.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct History(VecDeque<Step>);

/// One transition.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Step {
    /// What happened: `gathering`, `issued`, `installed`, `refused`, `used`, `not-certified`, `alarm`, `void`, `labels-dropped`.
    pub(crate) kind: String,
    /// The request at which, counted from the route's first.
    pub(crate) request: u64,
    /// Seconds since 1970.
    pub(crate) unix_secs: u64,
    /// The certificate that it is about.
    pub(crate) certificate: Option<String>,
    /// Why, or what it means, in words.
    pub(crate) why: Option<String>,
}

impl History {
    /// Takes in a transition at the route's request number `request`.
    pub(crate) fn add(&mut self, transition: &Transition, request: u64, now: Duration) -> Step {
        let (kind, certificate, why) = words(transition);
        let why = why.map(|why| why.chars().take(MAX_WHY).collect());
        let step = Step { kind: kind.to_owned(), request, unix_secs: now.as_secs(), certificate, why };
        if self.0.len() >= MAX_STEPS {
            self.0.pop_front();
        }
        self.0.push_back(step.clone());
        step
    }

    pub(crate) fn steps(&self) -> impl Iterator<Item = &Step> {
        self.0.iter()
    }
}

type Words = (&'static str, Option<String>, Option<String>);

fn words(transition: &Transition) -> Words {
    match transition {
        Transition::Gathering { index } => ("gathering", None, Some(format!("labels for certificate number {index}"))),
        Transition::Issued { certificate, .. } => ("issued", Some(certificate.to_string()), None),
        Transition::Installed { certificate, .. } => ("installed", Some(certificate.to_string()), None),
        Transition::Refused(error) => ("refused", None, Some(error.to_string())),
        Transition::ShadowDone { certificate, .. } => ("used", Some(certificate.to_string()), None),
        Transition::NotCertified { index, why } => {
            ("not-certified", None, Some(format!("certificate number {index}: {why}")))
        }
        Transition::Alarm { certificate, .. } => ("alarm", Some(certificate.to_string()), None),
        Transition::Void { certificate, why, .. } => ("void", Some(certificate.to_string()), Some(why.to_string())),
        Transition::LabelsDropped { labels } => {
            ("labels-dropped", None, Some(format!("{labels} labels are about an earlier cloud model")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_steps_are_kept_each_with_its_request() {
        let mut history = History::default();
        for index in 0..MAX_STEPS as u32 + 3 {
            history.add(&Transition::Gathering { index }, u64::from(index) * 10, Duration::from_secs(7));
        }
        let requests: Vec<u64> = history.steps().map(|step| step.request).collect();
        assert_eq!((requests.len(), requests[0]), (MAX_STEPS, 30));
        let last = history.steps().last().unwrap();
        assert_eq!(last.why.as_deref(), Some("labels for certificate number 130"));
    }
}
