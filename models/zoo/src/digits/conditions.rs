//! Under which conditions samples are taken: how far the camera is turned, how much noise there is, which digits come.
//!
//! The conditions that models are trained and certified under are [`Conditions::default`]. Other ones make drift: what a
//! certificate must survive (harmless) and what must void it (harmful).

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// What samples look like.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Conditions {
    /// The tangent of half the largest rotation, each way. A tangent, because the stream must be the same bytes on every
    /// platform, and sine and cosine follow from it exactly.
    pub half_angle: f32,
    /// The range of the noise's standard deviation, as a share of full brightness.
    pub noise: (f32, f32),
    /// The digits that occur.
    pub classes: Classes,
}

/// 14.8 degrees.
const HALF_ANGLE: f32 = 0.13;
const NOISE: (f32, f32) = (0.02, 0.13);

impl Default for Conditions {
    fn default() -> Self {
        Conditions { half_angle: HALF_ANGLE, noise: NOISE, classes: Classes::ALL }
    }
}

/// A set of digits that is not empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Classes(u16);

/// Digits that make no set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ClassesError {
    /// None at all.
    #[error("no digit is named; at least one must occur")]
    Empty,
    /// Not a digit.
    #[error("{0} is no digit; digits are 0 to 9")]
    NoDigit(u8),
}

impl Classes {
    /// All ten.
    pub const ALL: Classes = Classes((1 << 10) - 1);

    /// These digits; one that is named twice is there once.
    pub fn of(digits: &[u8]) -> Result<Self, ClassesError> {
        let mut set = 0u16;
        for &digit in digits {
            if digit > 9 {
                return Err(ClassesError::NoDigit(digit));
            }
            set |= 1 << digit;
        }
        if set == 0 { Err(ClassesError::Empty) } else { Ok(Classes(set)) }
    }

    /// Whether `digit` occurs.
    pub fn contains(self, digit: u8) -> bool {
        digit <= 9 && self.0 & (1 << digit) != 0
    }
}

/// Conditions that have a name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Drift {
    /// As in training.
    #[default]
    None,
    /// A better camera: the models agree more often.
    LessNoise,
    /// Only the digits on which the models agree most.
    Easier,
    /// A camera that was turned: up to 28 degrees each way.
    Rotation,
    /// A worse camera.
    Noise,
    /// Turned and worse: what the demonstration calls drift.
    Harmful,
}

impl Drift {
    /// All, in the order of the command line's help.
    pub const ALL: [Drift; 6] =
        [Drift::None, Drift::LessNoise, Drift::Easier, Drift::Rotation, Drift::Noise, Drift::Harmful];

    /// What samples look like under it.
    pub fn conditions(self) -> Conditions {
        const TURNED: f32 = 0.25;
        const WORSE: (f32, f32) = (0.08, 0.2);
        // 0, 2, 4 and 6 have the fewest disagreements of the bundled models on the tune split.
        const EASIER: Classes = Classes(1 << 0 | 1 << 2 | 1 << 4 | 1 << 6);
        let calm = Conditions::default();
        match self {
            Drift::None => calm,
            Drift::LessNoise => Conditions { noise: (0.0, 0.06), ..calm },
            Drift::Easier => Conditions { classes: EASIER, ..calm },
            Drift::Rotation => Conditions { half_angle: TURNED, ..calm },
            Drift::Noise => Conditions { noise: WORSE, ..calm },
            Drift::Harmful => Conditions { half_angle: TURNED, noise: WORSE, ..calm },
        }
    }

    /// The name on command lines and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Drift::None => "none",
            Drift::LessNoise => "less-noise",
            Drift::Easier => "easier",
            Drift::Rotation => "rotation",
            Drift::Noise => "noise",
            Drift::Harmful => "drift",
        }
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A drift that is not known.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("unknown drift {0:?}: use none, less-noise, easier, rotation, noise or drift")]
pub struct UnknownDrift(pub String);

impl FromStr for Drift {
    type Err = UnknownDrift;

    fn from_str(name: &str) -> Result<Self, UnknownDrift> {
        Drift::ALL.into_iter().find(|drift| drift.name() == name).ok_or_else(|| UnknownDrift(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drift_is_known_by_its_name() {
        for drift in Drift::ALL {
            assert_eq!(drift.to_string().parse(), Ok(drift));
        }
        let error = "fog".parse::<Drift>().expect_err("not a drift we have");
        assert!(error.to_string().contains("less-noise"), "{error}");
        assert_eq!(Drift::default().conditions(), Conditions::default());
    }

    #[test]
    fn a_set_of_digits_holds_what_it_was_made_of() {
        let classes = Classes::of(&[3, 7, 3]).unwrap();
        assert_eq!((0..=255).filter(|&digit| classes.contains(digit)).collect::<Vec<_>>(), [3, 7]);
        assert_eq!(Classes::of(&(0..10).collect::<Vec<_>>()), Ok(Classes::ALL));
        assert_eq!(Classes::of(&[]), Err(ClassesError::Empty));
        assert_eq!(Classes::of(&[1, 10]), Err(ClassesError::NoDigit(10)));
    }
}
