//! What is kept with a row that the cloud is asked about later.

use hedge_agent_core::{LocalResult, RouteEvent, Ticket};
use hedge_agent_spool::Audit;
use hedge_certify::Features;
use hedge_tensor::NamedTensor;
use hedge_wire::Digest;
use serde::{Deserialize, Serialize};

use super::routes::Routes;
use crate::model::ServedModel;

/// What has to be known, beside ticket and outputs, when the verdict comes.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Notes {
    /// The edge model that answered: a verdict is compared with its answers only.
    edge: [u8; 32],
    pub(super) features: Features,
}

impl Notes {
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        minicbor_serde::from_slice(bytes).ok()
    }

    pub(super) fn is_of(&self, edge: Digest) -> bool {
        self.edge == edge.0
    }
}

/// A ticket as it was kept.
pub(super) fn ticket(bytes: &[u8]) -> Option<Ticket> {
    minicbor_serde::from_slice(bytes).ok()
}

impl Routes {
    /// Keeps a row that was answered locally until the cloud has been asked about it.
    pub(crate) fn audit(&self, model: &ServedModel, ticket: Ticket, local: &LocalResult, inputs: &[NamedTensor]) {
        let audit = audit(model, &ticket, local, inputs);
        // Too large to be kept is too large to be sent.
        if audit.is_some_and(|audit| self.audits.push(&audit).is_ok()) {
            self.audit_news.notify_one();
        } else {
            self.tools.metrics.audits_lost(&model.settings.name, 1);
            model.route.tell(RouteEvent::AuditLost { ticket });
        }
    }
}

fn audit(model: &ServedModel, ticket: &Ticket, local: &LocalResult, inputs: &[NamedTensor]) -> Option<Audit> {
    let compared = model.comparison.as_ref()?.output();
    let output = local.outputs.iter().find(|output| output.name == compared)?;
    let notes = Notes { edge: model.digest.0, features: local.features? };
    Some(Audit {
        model: model.settings.name.clone(),
        ticket: minicbor_serde::to_vec(ticket).ok()?,
        notes: minicbor_serde::to_vec(notes).ok()?,
        inputs: inputs.to_vec(),
        outputs: vec![output.clone()],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_survive_the_queue_and_fit_it() {
        let notes = Notes { edge: [0xff; 32], features: Features::of(&[1.0, 2.0, 3.0]) };
        let bytes = minicbor_serde::to_vec(notes).unwrap();
        assert!(bytes.len() < 200, "{}", bytes.len());
        assert_eq!(Notes::read(&bytes), Some(notes));
        assert!(notes.is_of(Digest([0xff; 32])) && !notes.is_of(Digest([0; 32])));
        assert_eq!(Notes::read(&bytes[1..]), None);
    }
}
