//! The plan of a campaign: what labels are used for, and how many of each use, fixed before the first.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The most labels of one part: all three together take about 8 MiB of memory.
pub const MOST_LABELS_OF_PART: usize = 1 << 16;

/// What a label is used for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// To fit the agreement head.
    Fit,
    /// To choose the score, and for its scores: the thresholds to try.
    Tune,
    /// To certify.
    Calibration,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 3] = [Self::Fit, Self::Tune, Self::Calibration];
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fit => "fit",
            Self::Tune => "tune",
            Self::Calibration => "calibration",
        })
    }
}

/// How many labels each part takes, fixed beforehand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// To fit the agreement head; 0: there is none.
    pub fit: usize,
    /// To choose the score, and for the thresholds to try.
    pub tune: usize,
    /// To certify.
    pub calibration: usize,
}

impl Default for Plan {
    /// Enough to certify a healthy pair at 1 %.
    fn default() -> Self {
        Self { fit: 1_000, tune: 1_000, calibration: 5_000 }
    }
}

impl Plan {
    /// Whether a campaign can follow the plan.
    pub fn check(&self) -> Result<(), PlanError> {
        for role in Role::ALL {
            let labels = self.size(role);
            if labels == 0 && role != Role::Fit {
                return Err(PlanError::EmptyPart { role });
            }
            if labels > MOST_LABELS_OF_PART {
                return Err(PlanError::TooManyLabels { role, labels });
            }
        }
        Ok(())
    }

    /// The labels wanted for a role.
    #[must_use]
    pub fn size(&self, role: Role) -> usize {
        match role {
            Role::Fit => self.fit,
            Role::Tune => self.tune,
            Role::Calibration => self.calibration,
        }
    }

    /// The labels wanted altogether.
    #[must_use]
    pub fn total(&self) -> usize {
        Role::ALL.iter().fold(0, |sum: usize, &role| sum.saturating_add(self.size(role)))
    }

    /// The nearest plan that passes its [`check`](Self::check).
    pub(crate) fn bounded(self) -> Self {
        Self {
            fit: self.fit.min(MOST_LABELS_OF_PART),
            tune: self.tune.clamp(1, MOST_LABELS_OF_PART),
            calibration: self.calibration.clamp(1, MOST_LABELS_OF_PART),
        }
    }
}

/// A plan that no campaign can follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A part that a certificate needs has no labels.
    #[error("the plan has no {role} labels: a certificate needs tune and calibration labels")]
    EmptyPart {
        /// Tune or calibration.
        role: Role,
    },
    /// More labels than memory is given to.
    #[error("the plan has {labels} {role} labels, but a campaign keeps at most {MOST_LABELS_OF_PART} of them")]
    TooManyLabels {
        /// The part that is too large.
        role: Role,
        /// Its labels.
        labels: usize,
    },
}

/// How far a campaign is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// The labels it has.
    pub gathered: Plan,
    /// The labels it wants.
    pub wanted: Plan,
}

impl Progress {
    /// The labels gathered, all parts together.
    #[must_use]
    pub fn total(&self) -> usize {
        self.gathered.total()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_that_cannot_be_followed_is_refused_by_name() {
        let plan = Plan::default();
        assert_eq!(plan.check(), Ok(()));
        assert_eq!(Plan { tune: 0, ..plan }.check(), Err(PlanError::EmptyPart { role: Role::Tune }));
        assert_eq!(Plan { calibration: 0, ..plan }.check(), Err(PlanError::EmptyPart { role: Role::Calibration }));
        let error = Plan { fit: 65_537, ..plan }.check().unwrap_err();
        assert!(error.to_string().contains("65537 fit labels"), "{error}");
    }

    #[test]
    fn whatever_is_asked_for_becomes_a_plan_that_can_be_followed() {
        let (none, most) = (Plan { fit: 0, tune: 0, calibration: 0 }, Plan { fit: 9 << 20, tune: 200, calibration: 7 });
        assert_eq!(none.bounded(), Plan { fit: 0, tune: 1, calibration: 1 });
        assert_eq!(most.bounded(), Plan { fit: MOST_LABELS_OF_PART, ..most });
        assert_eq!(Plan { fit: usize::MAX, ..most }.total(), usize::MAX);
    }
}
