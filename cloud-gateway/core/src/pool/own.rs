//! Certificates that devices of a class made for themselves.

use hedge_certify::{EProcess, Fingerprint};
use hedge_wire::Evidence;
use serde::{Deserialize, Serialize};

use super::PoolSettings;
use super::settings::MAX_OWN_CERTIFICATES;

/// All of them, under one alarm: they share no grid, so their scores are not pooled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct OwnCertificates {
    pub(crate) ids: Vec<Fingerprint>,
    pub(crate) alarm: EProcess,
}

impl OwnCertificates {
    pub(crate) fn new(settings: &PoolSettings) -> Self {
        let alarm =
            EProcess::new(settings.monitor.alpha, settings.monitor.delta_a).expect("settings are checked when made");
        Self { ids: Vec::new(), alarm }
    }

    /// Whether the audits entered the alarm: only those of certificates that it could revoke.
    pub(crate) fn take(&mut self, id: Fingerprint, evidence: &Evidence) -> bool {
        if !self.ids.contains(&id) {
            if self.ids.len() == MAX_OWN_CERTIFICATES {
                return false;
            }
            self.ids.push(id);
        }
        evidence.audits.iter().for_each(|audit| self.alarm.label(audit.differs));
        self.alarm.agreeing(evidence.offloaded.into());
        true
    }
}
