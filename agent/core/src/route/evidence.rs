//! What a device tells the gateway about its class: audits, labels and how its scores are distributed.
//!
//! Gathered between reports and bounded; when full it is reported at once.

use hedge_certify::{Features, Fingerprint, Role};
use serde::{Deserialize, Serialize};

/// Audits or labels that make a report due.
pub const MAX_EVIDENCE: usize = 64;

/// One report.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Evidence {
    /// The certificate that the audits and the histogram are about; none while labels gather.
    pub certificate: Option<Fingerprint>,
    /// Audits of local answers.
    pub audits: Vec<AuditLabel>,
    /// Offloaded requests that the audit coin chose, under the system contract: each counts as an audit that agrees.
    pub offloaded: u64,
    /// Scores per interval of the certificate's grid since the last report: at or above the first threshold, …, below the last.
    pub histogram: Vec<u32>,
    /// Labels for a certificate.
    pub labels: Vec<CampaignLabel>,
}

/// One audit.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct AuditLabel {
    /// The certificate's score.
    pub score: f32,
    /// Whether the local answer differs from the cloud's.
    pub differs: bool,
    /// With which probability it was chosen.
    pub propensity: f64,
}

/// One label for a certificate.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct CampaignLabel {
    /// Its part, drawn beforehand.
    pub role: Role,
    /// The local result's features.
    pub features: Features,
    /// Whether the local answer differs from the cloud's.
    pub differs: bool,
}

impl Evidence {
    /// Nothing yet, about a certificate with a grid of this many thresholds.
    pub(crate) fn new(certificate: Option<Fingerprint>, thresholds: usize) -> Self {
        let bins = if certificate.is_some() { thresholds + 1 } else { 0 };
        Self { certificate, histogram: vec![0; bins], ..Self::default() }
    }

    pub(crate) fn count(&mut self, bin: usize) {
        if let Some(count) = self.histogram.get_mut(bin) {
            *count = count.saturating_add(1);
        }
    }

    /// Whether there is anything to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.audits.is_empty()
            && self.offloaded == 0
            && self.labels.is_empty()
            && self.histogram.iter().all(|&count| count == 0)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.audits.len() >= MAX_EVIDENCE || self.labels.len() >= MAX_EVIDENCE
    }

    /// Takes the report out and starts the next.
    pub(crate) fn take(&mut self) -> Self {
        let next = Self { certificate: self.certificate, histogram: vec![0; self.histogram.len()], ..Self::default() };
        std::mem::replace(self, next)
    }
}
