//! Where a router stands: no contract; labels being gathered; a new certificate watched; a certificate in use.
//!
//! ```text
//! NoContract
//! Gathering --labels suffice--> Shadow --watched long enough--> Certified
//!     ^ ^----------------------- alarm, void ---|                   |
//!     |----------------------------- alarm, void, revoked ----------|
//! ```

use std::time::Duration;

use hedge_certify::{CLOCK_SKEW_SECS, Campaign, Certificate, EProcess, Fingerprint, Monitor};
use serde::{Deserialize, Serialize};

use super::risk::Risk;
use crate::answer::Reason;

/// Where a router stands, by name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PhaseName {
    /// Nothing is promised; the configured threshold decides.
    NoContract,
    /// Everything is offloaded, and its answers are labels for the next certificate.
    Gathering,
    /// Everything is offloaded still, to watch a new certificate.
    Shadow,
    /// Local answers inside the certificate are certified.
    Certified,
}

impl PhaseName {
    /// The name in metrics and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoContract => "no-contract",
            Self::Gathering => "gathering",
            Self::Shadow => "shadow",
            Self::Certified => "certified",
        }
    }
}

/// The same with what belongs to each.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum Phase {
    NoContract,
    Gathering(Box<Gathering>),
    Shadow(Box<Shadow>),
    Certified(Box<Certified>),
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Gathering {
    /// None where rows never leave the device, so that no label can come.
    pub(crate) campaign: Option<Campaign>,
    /// Why nothing is certified: none was issued yet, or an alarm.
    pub(crate) why: Reason,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Shadow {
    pub(crate) used: Used,
    /// Bets that the certificate does not hold, on every request's label.
    pub(crate) watch: EProcess,
    pub(crate) seen: u64,
    pub(crate) why: Reason,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Certified {
    pub(crate) used: Used,
    pub(crate) monitor: Monitor,
    /// The request that was audited last.
    pub(crate) last_audit: u64,
}

/// A certificate with what its use needs.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Used {
    pub(crate) certificate: Certificate,
    pub(crate) id: Fingerprint,
    pub(crate) risk: Risk,
}

impl Used {
    pub(crate) fn new(certificate: Certificate, risk: Risk) -> Self {
        Self { id: certificate.id(), certificate, risk }
    }

    /// Whether the certificate is in force; all else that it depends on is checked when it changes.
    pub(crate) fn is_in_force(&self, now: Duration) -> bool {
        let certificate = &self.certificate;
        let begun = now.as_secs().saturating_add(CLOCK_SKEW_SECS) >= certificate.issued_unix_secs;
        begun && now.as_secs() < certificate.expires_unix_secs
    }
}

impl Phase {
    pub(crate) fn name(&self) -> PhaseName {
        match self {
            Self::NoContract => PhaseName::NoContract,
            Self::Gathering(_) => PhaseName::Gathering,
            Self::Shadow(_) => PhaseName::Shadow,
            Self::Certified(_) => PhaseName::Certified,
        }
    }

    pub(crate) fn used(&self) -> Option<&Used> {
        match self {
            Self::NoContract | Self::Gathering(_) => None,
            Self::Shadow(shadow) => Some(&shadow.used),
            Self::Certified(certified) => Some(&certified.used),
        }
    }
}
