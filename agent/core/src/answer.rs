//! What a row ends in: an answer that says where it came from and what it is worth, or a failure.

use std::time::Duration;

use hedge_wire::{Digest, GatewayId};
use serde::{Deserialize, Serialize};

use crate::row::Outputs;

/// Who computed an answer. From weak to strong: the order in which the weakest row of a batch is found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The local model, just now.
    Edge,
    /// An earlier result, local or the cloud's, for exactly this row.
    Cache,
    /// A gateway, just now.
    Cloud,
}

/// What an answer is worth, from weak to strong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Local, outside any valid certificate.
    Uncertified,
    /// Local, inside the certificate.
    Certified,
    /// The cloud model's own answer.
    Cloud,
}

/// Why an answer is what it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Local, inside the certificate.
    InsideCertificate,
    /// Nothing certifies local answers: this one is local although, or the cloud's because of it.
    NoCertificate,
    /// The local score was below the threshold, so the cloud answered.
    BelowThreshold,
    /// The question was asked to check a local answer given before.
    Audit,
    /// Local answers were found to differ too often: the certificate is void until there is another.
    Alarm,
    /// Worth an offload, but not within the budget.
    OverBudget,
    /// The caller asked for this place.
    Caller,
    /// The cloud did not answer in time.
    Deadline,
    /// The link to the broker is down.
    LinkDown,
    /// No gateway serves the model.
    NoGateway,
    /// The gateways are too busy, or too much waits for the link.
    CloudBusy,
    /// The gateway or the broker refused the request.
    CloudRefused,
    /// The gateway's verdict does not fit the model's outputs.
    BadVerdict,
    /// The row is larger than what a gateway takes.
    TooLarge,
    /// The model's data may not leave the device.
    NeverOffload,
    /// The local model's device failed: the CPU answered in its place, or where that failed too, the cloud.
    DeviceFault,
}

/// Which model produced an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The local model.
    Edge {
        /// Whether on the CPU because its own device failed.
        stand_in: bool,
    },
    /// The cloud model of this digest; the gateway is not known for a cached verdict.
    Cloud {
        /// Digest of the cloud model.
        digest: Digest,
        /// Who ran it.
        gateway: Option<GatewayId>,
    },
}

/// The answer to one row.
#[derive(Clone, PartialEq, Debug)]
pub struct Answer {
    /// The outputs, leading dimension 1.
    pub outputs: Outputs,
    /// Who computed them.
    pub source: Source,
    /// What they are worth.
    pub status: Status,
    /// Why.
    pub reason: Reason,
    /// The model's score of these outputs, where it has one.
    pub confidence: Option<f32>,
    /// Which model.
    pub origin: Origin,
}

/// Why a row has no answer.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum Failure {
    /// The caller asked for the cloud and there is none.
    #[error("the cloud was asked for and cannot answer ({}); retry later, or send hedge.place = \"auto\"", .0.name())]
    NoCloud(Reason),
    /// The caller asked for the cloud for a model that never leaves the device.
    #[error("the model is configured with offload = \"never\": send hedge.place = \"auto\" or \"edge\"")]
    NeverOffload,
    /// The row is larger than what a gateway takes.
    #[error("the row is larger than what a gateway takes (8 MiB); send hedge.place = \"edge\"")]
    TooLarge,
    /// Nobody answered by the deadline.
    #[error("no answer within {} ms; allow more with hedge.deadline_ms", .0.as_millis())]
    Deadline(Duration),
    /// Too much work is queued.
    #[error("the local model's queue is full; retry after a moment")]
    Overloaded,
    /// The local model failed, and the cloud could not help.
    #[error("the local model failed: {0}")]
    Engine(String),
}

impl Source {
    /// The name in `hedge.source`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Cache => "cache",
            Self::Cloud => "cloud",
        }
    }
}

impl Status {
    /// The name in `hedge.status`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Uncertified => "uncertified",
            Self::Certified => "certified",
            Self::Cloud => "cloud",
        }
    }
}

impl Reason {
    /// The name in `hedge.reason`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InsideCertificate => "inside-certificate",
            Self::NoCertificate => "no-certificate",
            Self::BelowThreshold => "below-threshold",
            Self::Audit => "audit",
            Self::Alarm => "alarm",
            Self::OverBudget => "over-budget",
            Self::Caller => "caller",
            Self::Deadline => "deadline",
            Self::LinkDown => "link-down",
            Self::NoGateway => "no-gateway",
            Self::CloudBusy => "cloud-busy",
            Self::CloudRefused => "cloud-refused",
            Self::BadVerdict => "bad-verdict",
            Self::TooLarge => "too-large",
            Self::NeverOffload => "never-offload",
            Self::DeviceFault => "device-fault",
        }
    }
}

/// The answer that a batch is judged by: the one of lowest status, then of weakest source (`edge` < `cache` < `cloud`),
/// then of least confidence, then the first; `rank` tells an answer's.
#[must_use]
pub fn weakest<T>(answers: &[T], rank: impl Fn(&T) -> (Status, Source, Option<f32>)) -> Option<&T> {
    let rank = |answer: &T| {
        let (status, source, confidence) = rank(answer);
        ((status, source), confidence.unwrap_or(f32::NEG_INFINITY))
    };
    answers.iter().min_by(|a, b| {
        let (a, b) = (rank(a), rank(b));
        a.0.cmp(&b.0).then_with(|| a.1.total_cmp(&b.1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(source: Source, status: Status, confidence: f32) -> Answer {
        Answer {
            outputs: vec![],
            source,
            status,
            reason: Reason::NoCertificate,
            confidence: Some(confidence),
            origin: Origin::Edge { stand_in: false },
        }
    }

    #[test]
    fn the_weakest_row_has_the_lowest_status_then_the_weakest_source_then_the_least_confidence() {
        let answers = [
            answer(Source::Cache, Status::Cloud, 0.1),
            answer(Source::Cache, Status::Uncertified, 0.2),
            answer(Source::Edge, Status::Uncertified, 0.9),
            answer(Source::Edge, Status::Uncertified, 0.8),
            answer(Source::Edge, Status::Certified, 0.1),
        ];
        let weakest =
            |answers| super::weakest(answers, |answer: &Answer| (answer.status, answer.source, answer.confidence));
        assert_eq!(weakest(&answers), Some(&answers[3]));
        assert_eq!(weakest(&answers[..2]), Some(&answers[1]));
        assert_eq!(weakest(&[]), None);
    }

    #[test]
    fn a_failure_says_what_to_do_next() {
        let failure = Failure::NoCloud(Reason::LinkDown);
        assert_eq!(
            failure.to_string(),
            "the cloud was asked for and cannot answer (link-down); retry later, or send hedge.place = \"auto\""
        );
        assert_eq!(
            Failure::Deadline(Duration::from_millis(50)).to_string(),
            "no answer within 50 ms; allow more with hedge.deadline_ms"
        );
    }
}
