//! Routing with a contract: carries out what each model's router (`hedge_agent_core::Router`) decides.
//!
//! ```text
//! rows ---- decide, label, heard ----> Route <---- tick, cloud model, class state ---- keeper
//!                                      |   |
//!                       snapshots -----+   +----- evidence ---> gateway
//! rows ---- audits ---> queue ---> auditor ---> cloud ---> label ---> Route
//! ```
//!
//! A [`Route`] belongs to one loaded model. When another is loaded under the name, its state moves over to the new one's route
//! and the old one certifies nothing more: a certificate is about one edge model.

mod asking;
mod auditor;
mod class;
mod clock;
mod file;
mod history;
mod keeper;
mod report;
mod route;
mod routes;
mod saved;
mod side;
mod signed_time;
mod summary;
#[cfg(test)]
mod tests;

pub(crate) use auditor::Auditor;
pub(crate) use keeper::Keeper;
pub(crate) use route::Route;
pub(crate) use routes::Routes;
pub(crate) use side::Side;
pub use side::default_device_class;
pub(crate) use signed_time::SignedTime;
pub(crate) use summary::{CertificateGauges, MonitorGauges, RouteGauges};
