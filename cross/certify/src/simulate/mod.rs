//! Simulations that show the statistics keep what they promise, on pools whose truth is known.

mod calibrations;

pub use calibrations::{
    CalibrationCell, CalibrationError, CalibrationSettings, CalibrationTally, simulate_calibrations,
};
