//! What this process remembers of a row that the cloud is to answer: why, and what the answer is a label for.
//!
//! It is lost with the process, and with it the label: which of them are lost depends on nothing that they say.

use hedge_agent_core::route::Ticket;
use hedge_agent_core::{Left, LocalResult, Place, Reason};
use hedge_wire::Digest;

/// Local results that are kept to be compared: how many at most, and how large one may be.
const MOST_LABELS: usize = 4096;
const MOST_LABEL_BYTES: usize = 16 * 1024;

/// A row that has left for the cloud.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub(super) why: Reason,
    pub(super) label: Option<Label>,
    /// Whether the router has counted a message that was not sent yet.
    pub(super) charged: bool,
}

/// What a verdict is compared with.
#[derive(Clone, Debug)]
pub(super) struct Label {
    pub(super) ticket: Ticket,
    pub(super) local: LocalResult,
    /// The model that gave it.
    pub(super) edge: Digest,
}

impl Placed {
    /// A row that has just left, while `labels` others are kept.
    pub(super) fn new(left: Left, edge: Digest, charged: bool, labels: usize) -> Self {
        let label = left.label.map(|(ticket, local)| Label { ticket, local, edge });
        let kept = label.filter(|label| labels < MOST_LABELS && bytes(&label.local) <= MOST_LABEL_BYTES);
        Self { why: left.why, label: kept, charged }
    }

    /// One that an earlier process has placed.
    pub(super) fn earlier(place: Place) -> Self {
        let why = if place == Place::Cloud { Reason::Caller } else { Reason::BelowThreshold };
        Self { why, label: None, charged: false }
    }
}

fn bytes(local: &LocalResult) -> usize {
    local.outputs.iter().map(|output| output.tensor.bytes().len()).sum()
}
