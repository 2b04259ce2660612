//! What a router is told between decisions, and what it wants done.

use std::time::Duration;

use hedge_certify::{Certificate, Features, Fingerprint, NotCertified, Target, Void};

use super::ask::Ticket;
use super::evidence::Evidence;
use crate::answer::Reason;

/// What happened.
#[derive(Clone, PartialEq, Debug)]
pub enum RouteEvent {
    /// The cloud's answer to a row with a ticket is there and was compared with the local one.
    Labelled {
        /// The decision's ticket.
        ticket: Ticket,
        /// The local result's features.
        features: Features,
        /// Whether the local answer differs from the cloud's.
        differs: bool,
        /// The cloud model that answered.
        cloud: Fingerprint,
    },
    /// An audit will not be answered: it was too old, or there were too many.
    AuditLost {
        /// The decision's ticket.
        ticket: Ticket,
    },
    /// This is the cloud model now, by the gateways' presence or a verdict without a ticket.
    CloudDigest(Fingerprint),
    /// A certificate from outside: the gateway's for the class, or one made by hand.
    Install(Box<Certificate>),
    /// These certificates are not to be used, now or later.
    Revoke {
        /// Their ids.
        certificates: Vec<Fingerprint>,
        /// Why, as told by who revokes.
        reason: String,
    },
    /// The class of this device is under suspicion: audit more.
    Boost {
        /// Until when, as time since the Unix epoch.
        until: Duration,
    },
    /// How an offload went: answered or why not, and how long it took.
    Heard {
        /// Whether an answer came.
        outcome: Result<(), Reason>,
        /// From the first publish until now.
        waited: Duration,
    },
    /// Something was sent that no decision counted: a second attempt, or a row whose caller asked for the cloud.
    Sent {
        /// Its size.
        bytes: u64,
    },
    /// A row was routed without a decision, by nothing that a certificate promises: it is counted like the others.
    Undecided,
    /// Time has passed; about once a second.
    Tick,
}

/// What to do.
#[derive(Clone, PartialEq, Debug)]
pub enum RouteAction {
    /// Write the state to disk before anything else is decided: it must not be forgotten by a restart.
    Persist,
    /// Tell the operator.
    Note(Transition),
    /// Tell the gateway, where there is one for the class.
    Report(Box<Evidence>),
}

/// A change that an operator wants to know of.
#[derive(Clone, PartialEq, Debug)]
pub enum Transition {
    /// Labels are gathered for a certificate.
    Gathering {
        /// The attempt's number, from 1.
        index: u32,
    },
    /// A certificate was issued from the device's own labels.
    Issued {
        /// Its id.
        certificate: Fingerprint,
        /// The request at which.
        request: u64,
    },
    /// A certificate from outside was taken.
    Installed {
        /// Its id.
        certificate: Fingerprint,
        /// The request at which.
        request: u64,
    },
    /// A certificate from outside was refused.
    Refused(InstallError),
    /// The certificate was watched for long enough and is used from now on.
    ShadowDone {
        /// Its id.
        certificate: Fingerprint,
        /// The request at which.
        request: u64,
    },
    /// The labels do not allow a certificate.
    NotCertified {
        /// The attempt's number.
        index: u32,
        /// Why, and how many more labels the next attempt gathers.
        why: NotCertified,
    },
    /// The alarm: local answers differ more often than certified.
    Alarm {
        /// The certificate's id.
        certificate: Fingerprint,
        /// The request at which.
        request: u64,
    },
    /// The certificate is void, by an alarm or because what it depends on has changed.
    Void {
        /// The certificate's id.
        certificate: Fingerprint,
        /// Why.
        why: Void,
        /// The request at which.
        request: u64,
    },
    /// Labels being gathered were dropped because the cloud model changed.
    LabelsDropped {
        /// How many.
        labels: usize,
    },
}

/// Why a certificate from outside is not used.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum InstallError {
    /// It is about something else.
    #[error("the certificate is not for this device: {0}")]
    Foreign(Void),
    /// It promises less than the settings ask for, or another thing.
    #[error("the certificate is for {given}; this model's contract is {wanted}")]
    OtherTarget {
        /// What it is for.
        given: String,
        /// What is configured.
        wanted: String,
    },
    /// The model has no contract.
    #[error("the model has no contract to certify; configure one")]
    NoContract,
    /// It was revoked.
    #[error("the certificate {0} was revoked")]
    Revoked(Fingerprint),
    /// Nobody has said yet which model the cloud runs, so that nothing can be compared.
    #[error("the cloud model is not known yet; the certificate is taken once a gateway has been heard of")]
    CloudUnknown,
}

/// A target in words.
pub(crate) fn text(target: &Target) -> String {
    format!("contract = {}, alpha = {}, delta = {}", target.contract(), target.alpha(), target.delta())
}
