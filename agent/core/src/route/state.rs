//! A router's state on disk: one version byte, then the state as CBOR.
//!
//! Restoring it at any point changes nothing: the same events lead to the same decisions. What the settings or the device
//! have become in the meantime is compared afterwards; the number of attempts is kept in any case, since each one spends of the
//! probability to err.

use serde::{Deserialize, Serialize};

use super::event::RouteAction;
use super::phase::Phase;
use super::router::{EdgeSide, Router, State};
use super::settings::{InvalidRoute, RouteSettings};
use crate::row::Offload;

/// The first byte: 1.
const VERSION: u8 = 1;
/// The largest state that is read. Labels are 40 bytes each; a campaign of 200,000 fits.
pub const MAX_STATE_BYTES: usize = 16 << 20;

/// Why a state cannot be restored; the router starts anew, with nothing certified.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum RestoreError {
    /// Nothing was written.
    #[error("the routing state is empty; it starts anew")]
    Empty,
    /// It is of another version.
    #[error("the routing state has format {0}, this program reads {VERSION}; it starts anew")]
    Version(u8),
    /// It is larger than any that is written.
    #[error("the routing state has {0} bytes, more than {MAX_STATE_BYTES}; it starts anew")]
    TooLarge(usize),
    /// It is damaged.
    #[error("the routing state is damaged ({0}); it starts anew")]
    Damaged(String),
    /// The settings cannot work.
    #[error(transparent)]
    Settings(#[from] InvalidRoute),
}

#[derive(Serialize)]
struct Written<'a> {
    side: &'a EdgeSide,
    state: &'a State,
}

#[derive(Deserialize)]
struct Read {
    side: EdgeSide,
    state: State,
}

impl Router {
    /// The state to be written.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let written = Written { side: &self.side, state: &self.state };
        let mut bytes = vec![VERSION];
        bytes.extend(minicbor_serde::to_vec(written).expect("the state has nothing that CBOR cannot hold"));
        bytes
    }

    /// The router as it was when `bytes` were written, and what to do since settings or device have changed meanwhile.
    pub fn restore(
        settings: RouteSettings,
        side: EdgeSide,
        bytes: &[u8],
    ) -> Result<(Self, Vec<RouteAction>), RestoreError> {
        settings.check()?;
        if bytes.len() > MAX_STATE_BYTES {
            return Err(RestoreError::TooLarge(bytes.len()));
        }
        let (&version, body) = bytes.split_first().ok_or(RestoreError::Empty)?;
        if version != VERSION {
            return Err(RestoreError::Version(version));
        }
        let read: Read = minicbor_serde::from_slice(body).map_err(|error| RestoreError::Damaged(error.to_string()))?;
        let mut router = Self { settings, side, state: read.state };
        let actions = router.reconcile(&read.side);
        if !router.state.budget.is_of(&router.settings.budget) {
            router.start_budget();
        }
        Ok((router, actions))
    }

    /// Drops what belongs to another device, contract or policy than now.
    fn reconcile(&mut self, was: &EdgeSide) -> Vec<RouteAction> {
        let same_contract = self.state.target == self.settings.contract;
        self.state.target = self.settings.contract;
        let collects = self.settings.offload == Offload::Auto;
        let fits = match (&self.state.phase, self.settings.contract) {
            (Phase::NoContract, contract) => contract.is_none(),
            (_, None) => false,
            // Labels of rows that may not leave any more, or the other way round.
            (Phase::Gathering(gathering), Some(_)) => {
                same_contract && *was == self.side && gathering.campaign.is_some() == collects
            }
            (Phase::Shadow(_), Some(_)) => same_contract && *was == self.side && collects,
            (Phase::Certified(_), Some(_)) => same_contract && *was == self.side,
        };
        if fits {
            return Vec::new();
        }
        if self.settings.contract.is_none() {
            self.enter(Phase::NoContract);
            return vec![RouteAction::Persist];
        }
        let outdated = self
            .state
            .phase
            .used()
            .zip(self.subject())
            .and_then(|(used, subject)| used.certificate.check(&subject, used.certificate.issued_unix_secs).err());
        match outdated {
            Some(void) => self.void(void),
            None => self.gather(self.why()),
        }
    }
}
