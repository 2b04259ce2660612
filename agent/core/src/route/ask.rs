//! What is asked of a router about one row, and what it decides.

use std::time::Duration;

use hedge_certify::{Features, Role};
use serde::{Deserialize, Serialize};

use crate::answer::{Reason, Status};
use crate::row::Place;

/// One row with its local result, to be decided about.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Ask {
    /// What routing keeps of the local outputs; none for a model without class scores, whose answers always stay local.
    pub features: Option<Features>,
    /// Where the caller wants it answered: [`Place::Auto`] or [`Place::Edge`]; one that asked for the cloud is not decided about.
    pub place: Place,
    /// Whether the CPU computed the local result because the model's own device failed.
    pub stand_in: bool,
    /// Whether an offload could be sent now, or why not.
    pub may_offload: Result<(), Reason>,
    /// What is left until the deadline; none for who waits for as long as it takes, also for a cloud that fails at the moment.
    pub time_left: Option<Duration>,
}

/// What becomes of a row.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Decision {
    /// The local answer is given.
    Local {
        /// What it is worth: certified or uncertified.
        status: Status,
        /// Why.
        reason: Reason,
        /// To be asked of the cloud later, without hurry, and reported with this ticket.
        audit: Option<Ticket>,
    },
    /// The cloud is asked. Where it does not answer, the local answer is given, uncertified, for that reason.
    Offload {
        /// Why.
        reason: Reason,
        /// What the cloud's answer is reported with; none where it is no label.
        label: Option<Ticket>,
    },
}

/// What a label belongs to: made with the decision, kept with the question, given back with the answer. That of an earlier
/// epoch changes nothing.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Ticket {
    /// Counts certificates and campaigns.
    pub epoch: u64,
    /// Which of the router's requests it is about, from 1.
    pub request: u64,
    /// What the label is for.
    pub purpose: Purpose,
    /// With which probability a request such as this one is labelled (above 0, at most 1).
    pub propensity: f64,
}

/// What a label is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Purpose {
    /// A certificate to be; the part was drawn before the answer was known.
    Campaign {
        /// Which part.
        role: Role,
    },
    /// A new certificate that is watched before it is used.
    Shadow {
        /// Whether the certificate would have kept the request local.
        local: bool,
    },
    /// A certificate in use: whether a local answer agrees.
    Audit,
    /// An offload under a certificate; its label is free and tells budgets what offloads are worth.
    Free,
}
