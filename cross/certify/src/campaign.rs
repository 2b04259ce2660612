//! A campaign: the gathering of labels for one certificate.
//!
//! What a certificate promises stands on three rules, which this type keeps:
//!
//! - the sizes of the three parts are fixed before the first label, and the certificate is tried once, when all are full:
//!   nobody stops early because the labels look good;
//! - a request's part is drawn by a coin before its answer is known, so that what the answer is cannot decide what it is
//!   used for;
//! - the score is chosen and fitted on `fit` and `tune`, the thresholds come from the scores of `tune`, and the calibration is looked at
//!   by the fixed sequence alone.
//!
//! The caller's part: requests are offered as they come or by a coin, never by their score (a campaign that sees only
//! offloaded requests certifies nothing about local ones), the m-th campaign spends [`delta_of`](crate::delta_of)(delta, m),
//! and labels of another edge bundle or cloud model are not offered.
//!
//! Serialized and read back, a campaign goes on as if nothing had happened. A label takes about 50 bytes in CBOR.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::features::Features;
use crate::head::Scoring;
use crate::select::scored;
use crate::sequence::Labelled;

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
    fn bounded(self) -> Self {
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

/// Labels being gathered for one certificate.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Campaign {
    plan: Plan,
    fit: Vec<(Features, bool)>,
    tune: Vec<(Features, bool)>,
    calibration: Vec<(Features, bool)>,
    /// When the first and the last label came, in seconds since 1970.
    window: Option<(u64, u64)>,
}

impl Campaign {
    /// An empty campaign. A part larger than [`MOST_LABELS_OF_PART`] is cut to it; tune and calibration have at least one
    /// label.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        let plan = plan.bounded();
        Self { plan, fit: Vec::new(), tune: Vec::new(), calibration: Vec::new(), window: None }
    }

    /// The sizes it was begun with.
    #[must_use]
    pub fn plan(&self) -> Plan {
        self.plan
    }

    /// The role of the next request, by a `coin` uniform in 0..1, to be drawn before its answer is known.
    ///
    /// A role is as likely as its part of the labels that are missing: all parts fill over the same time. Once the
    /// campaign is full it is `Calibration`, and the label will not be taken.
    #[must_use]
    pub fn role_of(&self, coin: f64) -> Role {
        let missing: usize = Role::ALL.iter().map(|&role| self.room(role)).sum();
        let seat = (coin * missing as f64) as usize;
        let fit = self.room(Role::Fit);
        if seat < fit {
            Role::Fit
        } else if seat < fit + self.room(Role::Tune) {
            Role::Tune
        } else {
            Role::Calibration
        }
    }

    /// Takes the label of a request that was given `role`; false if that part was full (labels on their way when the last
    /// seat was taken).
    pub fn on_label(&mut self, role: Role, features: Features, differs: bool, now_unix_secs: u64) -> bool {
        if self.room(role) == 0 {
            return false;
        }
        match role {
            Role::Fit => self.fit.push((features, differs)),
            Role::Tune => self.tune.push((features, differs)),
            Role::Calibration => self.calibration.push((features, differs)),
        }
        let (first, last) = self.window.unwrap_or((now_unix_secs, now_unix_secs));
        self.window = Some((first.min(now_unix_secs), last.max(now_unix_secs)));
        true
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let gathered = Plan { fit: self.fit.len(), tune: self.tune.len(), calibration: self.calibration.len() };
        Progress { gathered, wanted: self.plan }
    }

    /// Whether every part has its labels.
    #[must_use]
    pub fn is_full(&self) -> bool {
        Role::ALL.iter().all(|&role| self.room(role) == 0)
    }

    /// The labels under a score, for what learns how often answers differ: those of fit and tune, and once the campaign is
    /// full those of the calibration as well. Never for a certificate.
    #[must_use]
    pub fn labelled(&self, scoring: &Scoring) -> Vec<Labelled> {
        let mut labelled = scored(scoring, &self.fit);
        labelled.extend(scored(scoring, &self.tune));
        if self.is_full() {
            labelled.extend(scored(scoring, &self.calibration));
        }
        labelled
    }

    fn room(&self, role: Role) -> usize {
        self.plan.size(role).saturating_sub(self.progress().gathered.size(role))
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const PLAN: Plan = Plan { fit: 300, tune: 200, calibration: 500 };

    fn draw(random: &mut ChaCha8Rng) -> (Features, bool) {
        let logits: [f32; 4] = std::array::from_fn(|_| random.random_range(-4.0..4.0));
        let features = Features::of(&logits);
        (features, random.random::<f32>() < 0.3 * (1.0 - features.margin))
    }

    /// A campaign offered `requests`, and how many labels it took.
    fn run(plan: Plan, seed: u64, requests: usize) -> (Campaign, usize) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut campaign = Campaign::new(plan);
        let mut taken = 0;
        for now in 0..requests {
            let role = campaign.role_of(random.random());
            let (features, differs) = draw(&mut random);
            taken += usize::from(campaign.on_label(role, features, differs, 1_000 + now as u64));
        }
        (campaign, taken)
    }

    #[test]
    fn every_part_gets_exactly_its_labels_and_none_is_wasted() {
        let (campaign, taken) = run(PLAN, 1, 999);
        assert_eq!((taken, campaign.is_full()), (999, false));
        let (mut campaign, taken) = run(PLAN, 1, 1_000);
        assert_eq!((taken, campaign.is_full()), (1_000, true));
        assert_eq!(campaign.progress(), Progress { gathered: PLAN, wanted: PLAN });
        let before = campaign.clone();
        for role in Role::ALL {
            assert!(!campaign.on_label(role, Features::NO_ANSWER, true, 9_999));
        }
        assert_eq!(campaign, before);
    }

    #[test]
    fn roles_come_in_the_proportion_of_the_plan_all_the_time() {
        let (campaign, _) = run(PLAN, 2, 500);
        let Plan { fit, tune, calibration } = campaign.progress().gathered;
        // Four standard errors of drawing 500 of 1,000 without replacement.
        for (gathered, expected) in [(fit, 150.0), (tune, 100.0), (calibration, 250.0)] {
            assert!((gathered as f64 - expected).abs() < 32.0, "{gathered} of {expected}");
        }
    }

    #[test]
    fn every_coin_gives_a_role_with_room() {
        let mut campaign = Campaign::new(Plan { fit: 0, tune: 1, calibration: 1 });
        assert_eq!(campaign.role_of(0.0), Role::Tune);
        assert_eq!(campaign.role_of(1.0_f64.next_down()), Role::Calibration);
        assert!(campaign.on_label(Role::Calibration, Features::NO_ANSWER, false, 0));
        assert_eq!(campaign.role_of(1.0_f64.next_down()), Role::Tune);
    }

    #[test]
    fn the_calibration_is_not_seen_before_the_campaign_is_full() {
        let (campaign, _) = run(PLAN, 3, 999);
        let Plan { fit, tune, .. } = campaign.progress().gathered;
        assert_eq!(campaign.labelled(&Scoring::Margin).len(), fit + tune);
        assert_eq!(run(PLAN, 3, 1_000).0.labelled(&Scoring::Margin).len(), 1_000);
    }

    #[test]
    fn a_plan_that_cannot_be_followed_is_refused_and_never_followed() {
        assert_eq!(Plan { tune: 0, ..PLAN }.check(), Err(PlanError::EmptyPart { role: Role::Tune }));
        assert_eq!(Plan { calibration: 0, ..PLAN }.check(), Err(PlanError::EmptyPart { role: Role::Calibration }));
        let large = Plan { fit: 65_537, ..PLAN };
        let error = large.check().unwrap_err();
        assert!(error.to_string().contains("65537 fit labels"), "{error}");
        assert_eq!(Campaign::new(large).plan().check(), Ok(()));
        assert_eq!(Campaign::new(Plan { fit: 0, tune: 0, calibration: 0 }).plan().check(), Ok(()));
        assert_eq!(Plan::default().check(), Ok(()));
    }

    #[test]
    fn a_restart_at_any_point_changes_nothing() {
        let mut random = ChaCha8Rng::seed_from_u64(4);
        let mut kept = Campaign::new(Plan { fit: 10, tune: 10, calibration: 20 });
        let mut restarted = kept.clone();
        for now in 0..40 {
            let (coin, (features, differs)) = (random.random(), draw(&mut random));
            let role = kept.role_of(coin);
            assert_eq!(restarted.role_of(coin), role);
            kept.on_label(role, features, differs, now);
            restarted.on_label(role, features, differs, now);
            let bytes = minicbor_serde::to_vec(&restarted).unwrap();
            restarted = minicbor_serde::from_slice(&bytes).unwrap();
            assert_eq!(restarted, kept, "after label {now}");
        }
        assert!(kept.is_full());
    }

    #[test]
    fn a_label_takes_about_fifty_bytes() {
        let (campaign, _) = run(PLAN, 5, 1_000);
        let bytes = minicbor_serde::to_vec(&campaign).unwrap().len();
        assert!(bytes < 52 * 1_000, "{bytes} bytes for 1,000 labels");
    }
}
