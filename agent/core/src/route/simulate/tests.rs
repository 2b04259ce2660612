//! What simulations must show, on a pool small enough for every test run.

use hedge_certify::{Contract, Plan, Target};

use super::*;
use crate::row::Offload;

/// Rows whose disagreement rises as the score falls: from nothing at 1 to a half at 0; `noise` times as much after a drift.
pub(crate) fn pool(seed: u64, rows: usize, noise: f64) -> Vec<PoolRow> {
    let mut coins = Coins::new(seed);
    (0..rows)
        .map(|_| {
            // Most requests are easy: the score's density rises towards 1.
            let score = 1.0 - coins.throw().powi(4);
            let differs = coins.throw() < (noise * 0.5 * (1.0 - score).powi(2)).min(0.9);
            PoolRow::of_score(score as f32, differs)
        })
        .collect()
}

pub(crate) fn settings(contract: Contract) -> RouteSettings {
    RouteSettings {
        contract: Some(Target::new(contract, 0.01, 0.05).unwrap()),
        plan: Plan { fit: 0, tune: 1000, calibration: 3000 },
        shadow: 500,
        ..RouteSettings::uncertified(0.5, Offload::Auto)
    }
}

#[test]
fn caps_are_kept_at_little_cost_and_nothing_is_called_better_than_it_is() {
    let pool = pool(1, 20_000, 1.0);
    let settings = settings(Contract::System);
    for cap in [0.05, 0.1, 0.2] {
        let figures = simulate_budget(&pool, &settings, cap, 20_000, 0..4).unwrap();
        assert_eq!((figures.runs, figures.uncertifiable, figures.unflagged), (4, 0, 0));
        assert!(figures.excess_max <= 0.005, "cap {cap}: ahead by {}", figures.excess_max);
        let ratio = figures.disagreement / figures.static_disagreement;
        assert!(ratio <= 1.15, "cap {cap}: {} is {ratio:.3} of the best", figures.disagreement);
    }
}

#[test]
fn after_a_drift_the_alarm_leads_to_a_certificate_for_the_drifted_requests() {
    let (calm, drifted) = (pool(2, 20_000, 1.0), pool(3, 20_000, 12.0));
    let settings = settings(Contract::Local);
    let recovery = Recovery { calm: 5_000, drifted: 200_000, seed: 4 };
    let figures = simulate_recovery(&calm, &drifted, &settings, recovery).unwrap();
    assert!(figures.certified_before && figures.false_alarms == 0 && figures.unflagged == 0, "{figures:?}");
    let (alarm, issued, used) = (figures.alarm.unwrap(), figures.issued.unwrap(), figures.used.unwrap());
    assert!(alarm < issued && issued < used, "{figures:?}");
    assert!(figures.true_risk_after.unwrap() <= 0.01, "{figures:?}");
    assert!(figures.offload_refitted > figures.offload_before, "{figures:?}");
    assert!(figures.attempts >= 2, "{figures:?}");
}
