//! The statistics of routing: how sure a model is of an answer, and from which score on its answers may stay local.
//!
//! Pure functions of numbers: no I/O, no clock, no randomness. A threshold chosen by [`plug_in_threshold`] is
//! *uncertified*: it is the best guess from one sample and states no bound (simulation: a plug-in breaks a 1 % target in
//! 13-47 % of calibrations). Answers routed by it are labelled so.

mod features;
mod head;
mod score;
mod threshold;

pub use features::{Features, TOP, TOP_FLOOR};
pub use head::{AgreementHead, HeadError, MAX_CLASSES, Scoring};
pub use score::{Score, UnknownScore, margin, max_probability, softmax, top_class};
pub use threshold::plug_in_threshold;
