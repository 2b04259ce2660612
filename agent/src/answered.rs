//! A row's answer with all that a response says of it, so that it outlives the model that gave it.

use hedge_agent_core::{Answer, Origin, Outputs, Reason, Source, Status, weakest};
use serde::{Deserialize, Serialize};

use crate::model::ServedModel;

/// An answer and its label.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Answered {
    /// The outputs, leading dimension 1.
    pub(crate) outputs: Outputs,
    pub(crate) label: Label,
}

/// What a response says of an answer beside its outputs.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Label {
    pub(crate) source: Source,
    pub(crate) status: Status,
    pub(crate) reason: Reason,
    pub(crate) confidence: Option<f32>,
    /// The digest of the model that answered, in words.
    pub(crate) model: String,
    /// What it ran on.
    pub(crate) device: String,
    /// The version of the model that was asked.
    pub(crate) version: String,
}

impl Answered {
    pub(crate) fn new(answer: Answer, model: &ServedModel) -> Self {
        let (digest, device) = match &answer.origin {
            Origin::Edge { stand_in } => (model.digest, model.device_label(*stand_in).to_owned()),
            Origin::Cloud { digest, gateway: Some(gateway) } => (*digest, format!("gateway {gateway}")),
            Origin::Cloud { digest, gateway: None } => (*digest, "gateway".to_owned()),
        };
        let label = Label {
            source: answer.source,
            status: answer.status,
            reason: answer.reason,
            confidence: answer.confidence,
            model: digest.to_string(),
            device,
            version: model.version.clone(),
        };
        Self { outputs: answer.outputs, label }
    }
}

/// The label that describes a batch: its weakest row's.
pub(crate) fn weakest_label(answers: &[Answered]) -> Option<&Label> {
    let rank = |answered: &Answered| (answered.label.status, answered.label.source, answered.label.confidence);
    weakest(answers, rank).map(|answered| &answered.label)
}
