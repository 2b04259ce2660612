//! From a drift to the next certificate, without a human.

use hedge_certify::{Certificate, Grid, Labelled, Role, Scoring, certify};
use serde::Serialize;

use super::{Device, PoolRow, SimulationError, patience};
use crate::answer::Status;
use crate::route::ask::{Decision, Purpose};
use crate::route::event::Transition;
use crate::route::phase::PhaseName;
use crate::route::settings::RouteSettings;

/// What is simulated.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Recovery {
    /// Certified requests before the drift.
    pub calm: u64,
    /// At most this many after it.
    pub drifted: u64,
    /// Where the draws and the coins start.
    pub seed: u64,
}

/// What came of one drift; requests are counted from its first one.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct RecoveryFigures {
    /// Whether there was a certificate before the drift; if not, nothing else is told.
    pub certified_before: bool,
    /// Alarms before the drift: false ones.
    pub false_alarms: u64,
    /// The request at which the alarm was raised.
    pub alarm: Option<u64>,
    /// The request at which the next certificate was issued.
    pub issued: Option<u64>,
    /// The request from which on it was used.
    pub used: Option<u64>,
    /// Attempts to certify in all, the first one included.
    pub attempts: u32,
    /// The score before the drift.
    pub score_before: Option<String>,
    /// The score after it.
    pub score_after: Option<String>,
    /// Offload before the drift, on the calm pool.
    pub offload_before: Option<f64>,
    /// Offload on the drifted pool with the same labels and the old score, only calibrated anew; 1 if that certifies nothing.
    pub offload_recalibrated: Option<f64>,
    /// Offload on the drifted pool with the score chosen and fitted anew.
    pub offload_refitted: Option<f64>,
    /// Certified answers that differed from the cloud's between drift and alarm, as a fraction of the requests between.
    pub certified_disagreement_until_alarm: Option<f64>,
    /// What the new certificate lets pass on the drifted pool: the true risk, of all requests or of the local ones.
    pub true_risk_after: Option<f64>,
    /// Answers that called themselves better than they are: must be 0.
    pub unflagged: u64,
}

/// Certifies on `calm`, serves it for a while, then draws from `drifted` until a new certificate is in use.
pub fn simulate_recovery(
    calm: &[PoolRow],
    drifted: &[PoolRow],
    settings: &RouteSettings,
    recovery: Recovery,
) -> Result<RecoveryFigures, SimulationError> {
    if calm.is_empty() || drifted.is_empty() {
        return Err(SimulationError::EmptyPool);
    }
    let mut device = Device::new(settings, recovery.seed)?;
    let mut figures = RecoveryFigures::default();
    if !device.certify(calm, patience(settings)) {
        return Ok(figures);
    }
    let first = device.notes.len();
    for _ in 0..recovery.calm {
        figures.unflagged += u64::from(device.request(calm).1.unflagged);
    }
    figures.false_alarms = device.notes[first..].iter().filter(|(_, note)| is_alarm(note)).count() as u64;
    let Some(old) = device.router.certificate().cloned() else {
        return Ok(figures);
    };
    figures.certified_before = true;
    figures.score_before = Some(old.scoring.name().to_owned());
    figures.offload_before = Some(offload(calm, &old.scoring, old.threshold));
    let labels = drift(&mut device, drifted, recovery.drifted, &mut figures);
    figures.attempts = device.router.attempts();
    if let Some(new) = device.router.certificate().filter(|_| figures.used.is_some()) {
        figures.after(new, &old, &labels, drifted);
    }
    Ok(figures)
}

/// Labels of the campaign under way, by their part.
#[derive(Default)]
struct Labels {
    epoch: u64,
    rows: Vec<(Role, PoolRow)>,
}

/// Draws from the drifted pool until another certificate is in use; gives the labels that it was made of.
fn drift(device: &mut Device, pool: &[PoolRow], most: u64, figures: &mut RecoveryFigures) -> Labels {
    let start = device.router.requests();
    let first = device.notes.len();
    let (mut labels, mut certified_wrong) = (Labels::default(), 0_u64);
    for _ in 0..most {
        let (row, outcome) = device.request(pool);
        figures.unflagged += u64::from(outcome.unflagged);
        match outcome.decision {
            Decision::Local { status: Status::Certified, .. } => certified_wrong += u64::from(outcome.wrong),
            Decision::Offload { label: Some(ticket), .. } => {
                if let Purpose::Campaign { role } = ticket.purpose {
                    if labels.epoch != ticket.epoch {
                        labels = Labels { epoch: ticket.epoch, rows: Vec::new() };
                    }
                    labels.rows.push((role, row));
                }
            }
            _ => {}
        }
        let since = |at: u64| at - start;
        for (at, note) in &device.notes[first..] {
            match note {
                Transition::Alarm { .. } if figures.alarm.is_none() => {
                    figures.alarm = Some(since(*at));
                    let requests = since(*at).max(1) as f64;
                    figures.certified_disagreement_until_alarm = Some(certified_wrong as f64 / requests);
                }
                Transition::Issued { .. } => figures.issued = Some(since(*at)),
                Transition::ShadowDone { .. } => figures.used = Some(since(*at)),
                _ => {}
            }
        }
        if figures.used.is_some() && device.router.phase() == PhaseName::Certified {
            break;
        }
    }
    labels
}

fn is_alarm(note: &Transition) -> bool {
    matches!(note, Transition::Alarm { .. })
}

impl RecoveryFigures {
    fn after(&mut self, new: &Certificate, old: &Certificate, labels: &Labels, pool: &[PoolRow]) {
        self.score_after = Some(new.scoring.name().to_owned());
        self.offload_refitted = Some(offload(pool, &new.scoring, new.threshold));
        let recalibrated = recalibrate(new, &old.scoring, labels);
        self.offload_recalibrated = Some(recalibrated.map_or(1.0, |threshold| offload(pool, &old.scoring, threshold)));
        let local = |row: &&PoolRow| new.scoring.score(&row.features) >= new.threshold;
        let accepted = pool.iter().filter(local).count() as u64;
        let differing = pool.iter().filter(local).filter(|row| row.differs).count() as u64;
        self.true_risk_after = Some(new.target.contract().risk(differing, accepted, pool.len() as u64));
    }
}

/// The threshold that the same labels and the same delta certify on another score.
fn recalibrate(new: &Certificate, scoring: &Scoring, labels: &Labels) -> Option<f32> {
    let of = |wanted: Role| labels.rows.iter().filter(move |(role, _)| *role == wanted).map(|(_, row)| row);
    let tune: Vec<f32> = of(Role::Tune).map(|row| scoring.score(&row.features)).collect();
    let calibration: Vec<Labelled> = of(Role::Calibration)
        .map(|row| Labelled { score: scoring.score(&row.features), differs: row.differs })
        .collect();
    let grid = Grid::from_scores(&tune).ok()?;
    certify(&new.target.with_delta(new.spent).ok()?, &grid, &calibration).threshold
}

/// The fraction of `pool` that the threshold sends to the cloud.
fn offload(pool: &[PoolRow], scoring: &Scoring, threshold: f32) -> f64 {
    let gone = pool.iter().filter(|row| scoring.score(&row.features) < threshold).count();
    gone as f64 / pool.len() as f64
}
