//! The statistics of routing: how sure a model is of an answer, and from which score on its answers may stay local.
//!
//! Pure functions of numbers: no I/O, no clock; randomness only where a caller passes a seed. [`certify`] states a bound;
//! a threshold chosen by [`plug_in_threshold`] is *uncertified*: it is the best guess from one sample and states none
//! (simulation: a plug-in breaks a 1 % target in 13-47 % of calibrations). Answers routed by it are labelled so.

mod alarm;
mod binomial;
mod boost;
mod campaign;
mod certificate;
mod contract;
mod decimal;
mod features;
mod fingerprint;
mod fit;
mod grid;
mod head;
mod monitor;
mod plan;
mod pooled;
mod score;
mod select;
mod sequence;
mod shift;
pub mod simulate;
mod spending;
mod threshold;
mod void;
mod watch;

pub use alarm::{BETS, EProcess, InvalidMonitor};
pub use binomial::{cdf, least_samples};
pub use campaign::{Campaign, NotCertified, WhyNot};
pub use certificate::{
    CERTIFICATE_FORMAT, CLOCK_SKEW_SECS, Certificate, Issue, MAX_CERTIFICATE_BYTES, MAX_SUBJECT_TEXT, Subject, Window,
};
pub use contract::{Contract, InvalidTarget, Target, UnknownContract};
pub use features::{Features, TOP, TOP_FLOOR};
pub use fingerprint::{Fingerprint, InvalidFingerprint};
pub use fit::{FEWEST_LABELS, FitError};
pub use grid::{GRID_THRESHOLDS, Grid, GridError};
pub use head::{AgreementHead, HeadError, MAX_CLASSES, Scoring};
pub use monitor::{Audit, Monitor, MonitorConfig, MonitorCounts};
pub use plan::{MOST_LABELS_OF_PART, Plan, PlanError, Progress, Role};
pub use pooled::PooledMonitor;
pub use score::{Score, UnknownScore, margin, max_probability, softmax, top_class};
pub use select::{Candidate, aurc, candidates, choose};
pub use sequence::{Labelled, Outcome, certify};
pub use shift::{ScoreWindow, Shift, shift, shift_of_scores};
pub use simulate::{CalibrationCell, CalibrationError, CalibrationSettings, CalibrationTally, simulate_calibrations};
pub use spending::{Spending, delta_of};
pub use threshold::{Oracle, oracle, plug_in_on_grid, plug_in_threshold};
pub use void::{CertificateError, Inconsistent, NotIssued, Void};
