//! Simulations that show the statistics keep what they promise, on pools whose truth is known.

mod calibrations;
mod drift;
mod fleet;
mod stream;
mod study;

pub use calibrations::{
    CalibrationCell, CalibrationError, CalibrationSettings, CalibrationTally, simulate_calibrations,
};
pub use drift::{DriftReport, DriftSettings, Fleet, Quantiles, Scenario, Trace, simulate_drift};
pub use stream::{Pool, Stream, StreamError};
pub use study::{DriftStudy, StudyError};
