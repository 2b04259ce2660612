//! The certificate to begin with: by the answers of both models to field requests that are not asked again later.
//!
//! The agent certifies by campaigns; this is the first of them, held before anything runs. It spends what the first of a
//! series may spend, so that the agent's own later ones keep the same promise together with it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use hedge_certify::{Campaign, Certificate, Contract, NotCertified, Plan, Role, Spending, Target};
use hedge_zoo::digits::{FieldStream, Split};

use super::asker::Asker;

/// The class of the demonstration's device.
pub(super) const DEVICE_CLASS: &str = "demo";

/// How many answers of both models the certificate rests on.
pub(super) const PLAN: Plan = Plan { fit: 2_000, tune: 5_000, calibration: 10_000 };

const ALPHA: f64 = 0.02;
const DELTA: f64 = 0.05;
/// Longer than any demonstration.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// What came of it.
pub(super) type Attempt = Result<Certificate, NotCertified>;

/// What is promised.
pub(super) fn target() -> Target {
    Target::new(Contract::System, ALPHA, DELTA).expect("alpha and delta lie between 0 and 1")
}

/// Asks both models the calibration's requests and certifies by the answers; `done` is told how many there are so far.
pub(super) async fn certify(asker: &Asker, seed: u64, done: impl Fn(usize)) -> Result<Attempt> {
    let mut campaign = Campaign::new(PLAN);
    for role in Role::ALL {
        // A split of the stream for each part: which requests are for what is settled before any answer.
        let images = FieldStream::new(split(role), seed).take(PLAN.size(role)).map(|sample| sample.image);
        let before = campaign.progress().total();
        let asked = asker.ask(images, |now| done(before + now)).await?;
        let now = unix_secs()?;
        for asked in asked {
            campaign.on_label(role, asked.features, asked.differs, now);
        }
    }
    let subject = asker.subject(DEVICE_CLASS);
    Ok(campaign.finish(&target(), Spending::Series(1), subject, unix_secs()?, LIFETIME.as_secs()))
}

fn split(role: Role) -> Split {
    match role {
        Role::Fit => Split::Audit,
        Role::Tune => Split::Tune,
        Role::Calibration => Split::Calibration,
    }
}

fn unix_secs() -> Result<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock of this machine is before 1970")?;
    Ok(since.as_secs())
}
