//! The plots of routing, from what was simulated.

use hedge_certify::Contract;
use hedge_certify::simulate::{CalibrationCell, DriftReport};

use super::certify::Tested;
use super::curve::Point;
use super::study::{Effort, Study};
use crate::output::{count, percent};
use crate::plot::{Axis, Chart, Hue, Part};

/// A plot and the name of its file.
pub(super) struct Named {
    pub(super) file: &'static str,
    /// What is to be seen in it, in a sentence or two.
    pub(super) caption: String,
    pub(super) chart: Chart,
}

/// Calibrations of this size are drawn, or else the largest.
const DRAWN_SIZE: u32 = 5_000;

/// All plots that the figures allow.
pub(super) fn charts(points: &[Point], study: &Study, effort: &Effort) -> Vec<Named> {
    let mut charts = vec![risk_coverage(points, study, effort), answers(points, study)];
    for contract in Contract::ALL {
        let cells = study.cells.iter().filter(|cell| cell.target.contract() == contract);
        charts.extend(nearest(&cells.collect::<Vec<_>>(), effort.alpha()).map(violations));
    }
    for contract in Contract::ALL {
        let reports = study.drift.iter().filter(|report| report.contract == contract && report.fleet.is_none());
        charts.extend(wealth(contract, &reports.collect::<Vec<_>>()));
    }
    charts
}

fn shares(label: &str, from: f64, to: f64) -> Axis {
    Axis { label: label.to_owned(), from, to, format: percent }
}

fn risk_coverage(points: &[Point], study: &Study, effort: &Effort) -> Named {
    let of = |risk: fn(&Point) -> f64| points.iter().map(|point| (point.coverage, risk(point))).collect::<Vec<_>>();
    let certified = |contract| study.tested.iter().filter(move |tested| tested.target.contract() == contract);
    let top =
        points.iter().map(|point| point.local_risk.min(5.0 * effort.alpha())).fold(2.0 * effort.alpha(), f64::max);
    // The first few requests make no rate, and what lies far above alpha makes the rest small.
    let shown = |points: Vec<(f64, f64)>| points.into_iter().filter(|&(x, y)| x >= 0.02 && y <= top).collect();
    let (local, system) = (of(|point| point.local_risk), of(|point| point.system_risk));
    let parts = vec![
        Part::Line { name: "of the local answers".to_owned(), hue: Hue::Blue, points: shown(local) },
        Part::Line { name: "of all answers".to_owned(), hue: Hue::Green, points: shown(system) },
        Part::Level { name: format!("alpha {}", percent(effort.alpha())), hue: Hue::Red, at: effort.alpha() },
        Part::Points {
            name: "certified".to_owned(),
            hue: Hue::Orange,
            points: Contract::ALL.into_iter().flat_map(certified).filter_map(certified_point).collect(),
        },
    ];
    Named {
        file: "thresholds-risk-coverage.svg",
        caption: "How many answers differ from the cloud's, against the share that is answered on the device. The points are the \
                  certified thresholds: as far right as the calibration labels allow, and below alpha."
            .to_owned(),
        chart: Chart {
            title: "Risk and coverage".to_owned(),
            x: shares("answered on the device", 0.0, 1.0),
            y: shares("differ from the cloud's", 0.0, top),
            parts,
        },
    }
}

/// Coverage and risk of a certificate.
fn certified_point(tested: &Tested) -> Option<(f64, f64)> {
    let (accepted, k) = (tested.outcome.accepted?, tested.outcome.k?);
    Some((1.0 - tested.outcome.offload, tested.target.contract().risk(k, accepted, tested.outcome.n)))
}

fn answers(points: &[Point], study: &Study) -> Named {
    let agreement: Vec<(f64, f64)> = points.iter().rev().map(|p| (1.0 - p.coverage, 1.0 - p.system_risk)).collect();
    let accuracy: Vec<(f64, f64)> = points.iter().rev().filter_map(|p| Some((1.0 - p.coverage, p.accuracy?))).collect();
    let low = agreement.iter().chain(&accuracy).map(|&(_, share)| share).fold(1.0, f64::min);
    let mut parts = vec![Part::Line { name: "agrees with the cloud".to_owned(), hue: Hue::Blue, points: agreement }];
    if !accuracy.is_empty() {
        parts.push(Part::Line { name: "is right".to_owned(), hue: Hue::Green, points: accuracy });
    }
    let budgets = &study.routers.budgets;
    if !budgets.is_empty() {
        let points = budgets.iter().map(|figures| (figures.offload, 1.0 - figures.disagreement)).collect();
        parts.push(Part::Points { name: "under a budget".to_owned(), hue: Hue::Red, points });
    }
    let certified = study.tested.iter().filter(|tested| tested.threshold.is_some());
    parts.extend(certified.map(|tested| Part::Upright {
        name: format!("certified, {}", tested.target.contract()),
        hue: if tested.target.contract() == Contract::System { Hue::Orange } else { Hue::Grey },
        at: tested.outcome.offload,
    }));
    Named {
        file: "thresholds-answers.svg",
        caption:
            "What the whole system answers, against the share of requests that goes to the cloud: at the left all \
                  stay on the device, at the right all go to the cloud."
                .to_owned(),
        chart: Chart {
            title: "Agreement and accuracy against offload".to_owned(),
            x: shares("offloaded to the cloud", 0.0, 1.0),
            y: shares("of all answers", (low * 50.0).floor() / 50.0, 1.0),
            parts,
        },
    }
}

/// Of cells at the alpha that is watched, the one of the size that is drawn.
fn nearest<'a>(cells: &[&'a CalibrationCell], alpha: f64) -> Option<&'a CalibrationCell> {
    let at_alpha = |cell: &&&CalibrationCell| cell.target.alpha() == alpha;
    let watched: Vec<&&CalibrationCell> = cells.iter().filter(at_alpha).collect();
    let drawn = watched.iter().find(|cell| cell.n == DRAWN_SIZE).or_else(|| watched.iter().max_by_key(|cell| cell.n));
    drawn.map(|cell| **cell)
}

fn violations(cell: &CalibrationCell) -> Named {
    let contract = cell.target.contract();
    let so_far = |violations: &[u32]| share_so_far(violations, cell.repetitions);
    let (certified, plug_in) = (so_far(&cell.certified.violations), so_far(&cell.plug_in.violations));
    let top = cell.plug_in_violation_rate().max(cell.violation_rate()).max(cell.violation_limit());
    // The first few repetitions make no rate.
    let settled = |points: Vec<(f64, f64)>| points.into_iter().filter(|&(x, y)| x >= 20.0 && y <= 1.2 * top).collect();
    let parts = vec![
        Part::Line { name: "plug-in threshold".to_owned(), hue: Hue::Grey, points: settled(plug_in) },
        Part::Line { name: "certified".to_owned(), hue: Hue::Blue, points: settled(certified) },
        Part::Level { name: format!("delta {}", percent(cell.target.delta())), hue: Hue::Red, at: cell.target.delta() },
    ];
    Named {
        file: if contract == Contract::System { "violations-system.svg" } else { "violations-local.svg" },
        caption: format!(
            "Of repeated calibrations with {} labels, the share whose threshold truly lets more than {} differ ({contract} \
             contract). A threshold that only looks good on its labels breaks the promise far more often than delta; a \
             certified one does not.",
            cell.n,
            percent(cell.target.alpha()),
        ),
        chart: Chart {
            title: format!("Broken promises over repetitions, {contract} contract"),
            x: Axis { label: "calibrations".to_owned(), from: 0.0, to: f64::from(cell.repetitions), format: count },
            y: shares("broken so far", 0.0, 1.2 * top),
            parts,
        },
    }
}

/// The share of repetitions so far that violated, at each tenth of a percent of them.
fn share_so_far(violations: &[u32], repetitions: u32) -> Vec<(f64, f64)> {
    let step = (repetitions / 1_000).max(1);
    let share = |done: u32| {
        let so_far = violations.partition_point(|&violation| violation < done);
        (f64::from(done), so_far as f64 / f64::from(done))
    };
    (1..=repetitions / step).map(|at| share(at * step)).collect()
}

fn wealth(contract: Contract, reports: &[&DriftReport]) -> Option<Named> {
    let alarm = reports.first().map(|report| -report.delta_a.log10())?;
    let mut parts = Vec::new();
    let calm = reports.iter().find(|report| report.change_at == 0 && report.risk_after <= report.alpha);
    let drifted = reports.iter().find(|report| report.change_at > 0);
    for (report, what, hue) in [(calm, "calm", Hue::Green), (drifted, "drift", Hue::Orange)]
        .into_iter()
        .filter_map(|(r, w, h)| Some((r?, w, h)))
    {
        let name = format!("{what}, {} differ", percent(report.risk_after));
        parts.push(Part::Line { name, hue, points: Vec::new() });
        for trace in &report.traces {
            let points = trace.points.iter().map(|&(request, wealth)| (request as f64, wealth.log10()));
            let rings = trace.alarm_at.map(|request| (request as f64, alarm));
            parts.push(Part::Thin { hue, points: points.chain(rings).collect() });
        }
    }
    if let Some(report) = drifted {
        parts.push(Part::Upright { name: "change".to_owned(), hue: Hue::Grey, at: report.change_at as f64 });
    }
    parts.push(Part::Level { name: "alarm".to_owned(), hue: Hue::Red, at: alarm });
    let requests = reports.iter().map(|report| report.requests).max()?;
    Some(Named {
        file: if contract == Contract::System { "wealth-system.svg" } else { "wealth-local.svg" },
        caption: format!(
            "The alarm's wealth in the first runs of two scenarios, on a logarithmic scale ({contract} contract). It is a bet \
             against the certificate: while the promise holds it cannot be expected to grow, and at the line it rings."
        ),
        chart: Chart {
            title: format!("Wealth of the alarm, {contract} contract"),
            x: Axis { label: "requests".to_owned(), from: 0.0, to: requests as f64, format: count },
            y: Axis { label: "wealth".to_owned(), from: -1.0, to: alarm + 0.7, format: power_of_ten },
            parts,
        },
    })
}

/// The number that has this logarithm, if it is a power of ten: between those, grid lines have no name.
fn power_of_ten(log10: f64) -> String {
    if (log10 - log10.round()).abs() > 1e-6 {
        return String::new();
    }
    let number = 10f64.powf(log10.round());
    if number >= 1.0 { format!("{number:.0}") } else { format!("{number}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_so_far_counts_the_violations_before() {
        assert_eq!(share_so_far(&[0, 3], 4), [(1.0, 1.0), (2.0, 0.5), (3.0, 1.0 / 3.0), (4.0, 0.5)]);
        assert_eq!(share_so_far(&[], 2_500).len(), 1_250);
    }

    #[test]
    fn a_power_of_ten_is_written_as_the_number() {
        assert_eq!([-2.0, -0.5, 0.0, 1.0].map(power_of_ten), ["0.01", "", "1", "10"]);
    }
}
