//! Who answers a row, and what the answer may promise: the router of one model.
//!
//! A [`Router`] is asked about each row that has a local result ([`Router::decide`]) and told what happens in between
//! ([`Router::on`]). It gathers labels for a certificate, watches it, uses it, audits it, and gives it up on an alarm or as
//! soon as anything that it depends on has changed; then it starts again. The statistics are `hedge_certify`'s.
//!
//! Invariants:
//! - `certified` is answered only in the phase [`PhaseName::Certified`], in the certificate's time, for a score at or above its
//!   threshold, on the device that it is about. Budgets, deadlines, the breaker and a lost link make `uncertified` answers; they move no threshold.
//! - Who is labelled for a certificate does not depend on what is asked: neither a budget nor a coin looks at the score.
//! - Each attempt to certify spends its own delta_m. The number of attempts never falls, and is written down before the
//!   certificate is used.
//! - A label belongs to one epoch. A later one does not know it, whatever the label says.
//! - Everything is decided by state, event and settings: the coins are part of the state.

mod ask;
mod breaker;
mod budget;
pub(crate) mod coin;
mod decide;
mod event;
mod events;
mod evidence;
mod phase;
mod risk;
mod round_trip;
mod router;
mod settings;
pub mod simulate;
mod state;

pub use ask::{Ask, Decision, Purpose, Ticket};
pub use budget::{BudgetSettings, InvalidBudget};
pub use event::{InstallError, RouteAction, RouteEvent, Transition};
pub use evidence::{AuditLabel, CampaignLabel, Evidence, MAX_EVIDENCE};
pub use phase::PhaseName;
pub use router::{EdgeSide, Router};
pub use settings::{InvalidRoute, RouteSettings};
pub use state::{MAX_STATE_BYTES, RestoreError};

#[cfg(test)]
mod tests;
