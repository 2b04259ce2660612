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

use serde::{Deserialize, Serialize};

use crate::certificate::{Certificate, Issue, Subject, Window};
use crate::contract::Target;
use crate::features::Features;
use crate::grid::{Grid, GridError};
use crate::head::Scoring;
use crate::plan::{Plan, Progress, Role};
use crate::select::{choose, scored};
use crate::sequence::{Labelled, certify};
use crate::spending::Spending;
use crate::void::NotIssued;

/// Labels being gathered for one certificate.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Campaign {
    plan: Plan,
    fit: Vec<(Features, bool)>,
    tune: Vec<(Features, bool)>,
    calibration: Vec<(Features, bool)>,
    /// When the first and the last calibration label came.
    window: Option<Window>,
}

impl Campaign {
    /// An empty campaign. A part larger than [`MOST_LABELS_OF_PART`](crate::MOST_LABELS_OF_PART) is cut to it; tune and calibration have at least one
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
            Role::Calibration => {
                self.calibration.push((features, differs));
                // The clock may have been set back meanwhile.
                let window = self.window.get_or_insert(at(now_unix_secs));
                window.first_unix_secs = window.first_unix_secs.min(now_unix_secs);
                window.last_unix_secs = window.last_unix_secs.max(now_unix_secs);
            }
        }
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

    /// Tries the certificate: once, when the campaign is full. Since a full campaign takes no label, trying again comes to the
    /// same, as long as `spending` is the same; the next attempt is another campaign.
    pub fn finish(
        &self,
        target: &Target,
        spending: Spending,
        subject: Subject,
        now_unix_secs: u64,
        lifetime_secs: u64,
    ) -> Result<Certificate, NotCertified> {
        if !self.is_full() {
            let missing = self.plan.total() - self.progress().total();
            return Err(NotCertified { needs_labels: Some(0), why: WhyNot::NotFull { missing } });
        }
        let scoring = choose(&self.fit, &self.tune);
        let scores: Vec<f32> = self.tune.iter().map(|(features, _)| scoring.score(features)).collect();
        let grid =
            Grid::from_scores(&scores).map_err(|error| NotCertified { needs_labels: None, why: error.into() })?;
        let calibration = scored(&scoring, &self.calibration);
        let issue = Issue {
            subject,
            scoring,
            target: *target,
            spending,
            grid: grid.clone(),
            window: self.window.unwrap_or(at(now_unix_secs)),
            issued_unix_secs: now_unix_secs,
            lifetime_secs,
        };
        Certificate::issue(issue, &calibration).map_err(|why| NotCertified {
            needs_labels: match why {
                NotIssued::NotCertified(_) => wanted_next(target, spending, &grid, &calibration),
                NotIssued::Invalid(_) => Some(0),
            },
            why: why.into(),
        })
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

/// A campaign that came to no certificate.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[error("{why}")]
pub struct NotCertified {
    /// How many calibration labels more than this one's the next campaign wants, which spends less of delta: an estimate
    /// from the rates seen. 0: as many as now. `None`: no number would do.
    pub needs_labels: Option<u64>,
    /// What stood against it.
    pub why: WhyNot,
}

/// Why a campaign came to no certificate.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum WhyNot {
    /// It was tried too early.
    #[error("the campaign still wants {missing} labels: certify when it is full, never before")]
    NotFull {
        /// Labels missing.
        missing: usize,
    },
    /// No row of the tune split had a score.
    #[error(transparent)]
    Grid(#[from] GridError),
    /// The calibration does not show the promise, or the certificate would be none.
    #[error(transparent)]
    NotIssued(#[from] NotIssued),
}

/// The labels that the next attempt wants beyond those of this one.
fn wanted_next(target: &Target, spending: Spending, grid: &Grid, calibration: &[Labelled]) -> Option<u64> {
    let next = match spending {
        Spending::Whole => Spending::Whole,
        Spending::Series(m) => Spending::Series(m.saturating_add(1)),
    };
    let tested = target.with_delta(next.of(target.delta())).ok()?;
    certify(&tested, grid, calibration).needs_labels
}

fn at(unix_secs: u64) -> Window {
    Window { first_unix_secs: unix_secs, last_unix_secs: unix_secs }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::{Contract, delta_of, least_samples};

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

    fn subject() -> Subject {
        let digest = crate::Fingerprint::of(b"any");
        let (device_class, comparison) = ("camera".to_owned(), "top-class".to_owned());
        Subject { edge: digest, cloud: digest, device_class, transforms: digest, comparison }
    }

    fn try_it(campaign: &Campaign, target: &Target, m: u32) -> Result<Certificate, NotCertified> {
        campaign.finish(target, Spending::Series(m), subject(), 50_000, 3_600)
    }

    /// A full campaign whose edge never differs.
    fn faultless(plan: Plan) -> Campaign {
        let mut random = ChaCha8Rng::seed_from_u64(6);
        let mut campaign = Campaign::new(plan);
        while !campaign.is_full() {
            campaign.on_label(campaign.role_of(random.random()), draw(&mut random).0, false, 40_000);
        }
        campaign
    }

    #[test]
    fn a_campaign_that_is_not_full_is_not_tried() {
        let target = Target::new(Contract::System, 0.2, 0.05).unwrap();
        let refused = try_it(&run(PLAN, 7, 999).0, &target, 1).unwrap_err();
        assert_eq!(refused, NotCertified { needs_labels: Some(0), why: WhyNot::NotFull { missing: 1 } });
    }

    #[test]
    fn the_certificate_says_what_the_campaign_saw() {
        let target = Target::new(Contract::System, 0.2, 0.05).unwrap();
        let campaign = run(PLAN, 8, 1_000).0;
        let certificate = try_it(&campaign, &target, 2).unwrap();
        assert_eq!((certificate.n, certificate.grid.tune_size(), certificate.index), (500, 200, 2));
        assert_eq!(certificate.spent, target.with_delta(delta_of(0.05, 2)).unwrap().delta());
        assert_eq!((certificate.issued_unix_secs, certificate.expires_unix_secs), (50_000, 53_600));
        assert_eq!(try_it(&campaign, &target, 2).as_ref(), Ok(&certificate));
    }

    #[test]
    fn the_window_is_that_of_the_calibration_labels_even_when_the_clock_goes_back() {
        let mut campaign = Campaign::new(Plan { fit: 1, tune: 1, calibration: 400 });
        campaign.on_label(Role::Fit, Features::NO_ANSWER, false, 1);
        for now in (20_000..20_400).rev() {
            campaign.on_label(Role::Calibration, Features::of(&[1.0, 0.0]), false, now);
        }
        campaign.on_label(Role::Tune, Features::of(&[1.0, 0.0]), false, 30_000);
        let certificate = try_it(&campaign, &Target::new(Contract::System, 0.01, 0.05).unwrap(), 1).unwrap();
        assert_eq!(certificate.window, Window { first_unix_secs: 20_000, last_unix_secs: 20_399 });
    }

    #[test]
    fn too_few_labels_say_how_many_more_the_next_attempt_wants() {
        let target = Target::new(Contract::System, 0.01, 0.05).unwrap();
        // Without a difference, the first attempt wants 348 labels and the second, at a quarter of its delta, 486.
        let plan = Plan { fit: 0, tune: 100, calibration: 300 };
        let refused = try_it(&faultless(plan), &target, 1).unwrap_err();
        let wanted = least_samples(0.01, delta_of(0.05, 2));
        assert_eq!(refused.needs_labels, Some(wanted - 300), "{refused}");
        let next = Plan { calibration: wanted as usize, ..plan };
        assert!(try_it(&faultless(next), &target, 2).is_ok());
    }

    #[test]
    fn an_edge_that_differs_too_often_wants_no_number_of_labels() {
        let target = Target::new(Contract::Local, 0.001, 0.05).unwrap();
        let mut campaign = faultless(PLAN);
        campaign.calibration.iter_mut().for_each(|row| row.1 = true);
        assert_eq!(try_it(&campaign, &target, 1).unwrap_err().needs_labels, None);
    }

    #[test]
    fn rows_without_an_answer_make_no_certificate_and_no_panic() {
        let target = Target::new(Contract::System, 0.01, 0.05).unwrap();
        let mut campaign = faultless(PLAN);
        let nan = Features { margin: f32::NAN, msp: f32::NAN, ..Features::NO_ANSWER };
        campaign.tune.iter_mut().for_each(|row| row.0 = nan);
        assert!(matches!(try_it(&campaign, &target, 1).unwrap_err().why, WhyNot::Grid(_)));
    }

    /// The pool that campaigns draw from: the edge is far too sure of class 0.
    fn pool() -> Vec<(Features, bool)> {
        let mut random = ChaCha8Rng::seed_from_u64(9);
        (0..4_000)
            .map(|_| {
                let (features, _) = draw(&mut random);
                let rate = if features.class == 0 { 0.4 } else { 0.15 * (1.0 - features.margin) };
                (features, random.random::<f32>() < rate)
            })
            .collect()
    }

    /// The share of all requests that get a differing local answer under a certificate.
    fn true_risk(certificate: &Certificate, pool: &[(Features, bool)]) -> f64 {
        let local = |features: &Features| certificate.scoring.score(features) >= certificate.threshold;
        pool.iter().filter(|(features, differs)| *differs && local(features)).count() as f64 / pool.len() as f64
    }

    #[test]
    fn whole_campaigns_break_their_promise_no_more_often_than_they_may() {
        let (pool, target) = (pool(), Target::new(Contract::System, 0.05, 0.2).unwrap());
        let spent = delta_of(0.2, 1);
        let (mut broken, mut heads, mut certified) = (0_u32, 0_u32, 0_u32);
        for seed in 0..400 {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let mut campaign = Campaign::new(PLAN);
            while !campaign.is_full() {
                let role = campaign.role_of(random.random());
                let (features, differs) = pool[random.random_range(0..pool.len())];
                campaign.on_label(role, features, differs, 0);
            }
            if let Ok(certificate) = try_it(&campaign, &target, 1) {
                certified += 1;
                heads += u32::from(certificate.scoring.name() == "head");
                broken += u32::from(true_risk(&certificate, &pool) > 0.05);
            }
        }
        let rate = f64::from(broken) / 400.0;
        println!("broken {rate} of 400, allowed {spent:.3}; certified {certified}, with a head {heads}");
        assert!(rate <= spent + 3.0 * (spent * (1.0 - spent) / 400.0).sqrt(), "broke {rate}");
        assert!(certified > 360 && heads > 360, "certified {certified}, with a head {heads}");
    }
}
