//! The figures of a study as tables for people and as JSON for programs: the same in a terminal and in a page.

use comfy_table::Table;
use hedge_agent_core::route::simulate::{BudgetFigures, RecoveryFigures};
use hedge_certify::simulate::{CalibrationCell, DriftReport};
use serde_json::{Value, json};

use super::certify::Tested;
use super::routers::{Recovered, mean, median};
use super::study::Study;
use crate::output::{percent, table};

/// A table with what it says.
pub(super) struct Figures {
    pub(super) title: String,
    pub(super) header: Vec<&'static str>,
    pub(super) rows: Vec<Vec<String>>,
    /// What follows from the rows, a sentence each.
    pub(super) words: Vec<String>,
    /// How the files of the plots that belong to it begin.
    pub(super) plots: &'static str,
}

impl Figures {
    /// For a terminal.
    pub(super) fn table(&self) -> Table {
        let mut table = table(&self.header);
        table.add_rows(&self.rows);
        table
    }
}

/// All tables that there are figures for.
pub(super) fn all(study: &Study) -> Vec<Figures> {
    let mut figures = vec![certificates(&study.tested), calibrations(&study.cells)];
    if !study.drift.is_empty() {
        figures.push(drift(&study.drift));
    }
    if !study.routers.budgets.is_empty() {
        figures.push(budgets(&study.routers.budgets));
    }
    if !study.routers.recoveries.is_empty() {
        figures.push(recoveries(&study.routers.recoveries));
    }
    if let Some(last) = figures.last_mut() {
        last.words.extend(study.notes.iter().cloned());
    }
    figures
}

/// All figures.
pub(super) fn to_json(study: &Study) -> Value {
    let cells: Vec<Value> = study.cells.iter().map(cell_json).collect();
    let certificates: Vec<Value> = study.tested.iter().map(Tested::to_json).collect();
    json!({
        "certificates": certificates,
        "calibrations": cells,
        "kept": study.cells.iter().all(CalibrationCell::keeps_promise),
        "drift": study.drift,
        "budgets": study.routers.budgets,
        "recoveries": study.routers.recoveries,
        "notes": study.notes,
    })
}

fn cell_json(cell: &CalibrationCell) -> Value {
    json!({
        "contract": cell.target.contract(),
        "alpha": cell.target.alpha(),
        "delta": cell.target.delta(),
        "n": cell.n,
        "repetitions": cell.repetitions,
        "certified": cell.certified_share(),
        "violations": cell.violation_rate(),
        "standard_error": cell.standard_error(),
        "limit": cell.violation_limit(),
        "kept": cell.keeps_promise(),
        "offload": cell.certified.offload,
        "oracle_offload": cell.oracle_offload,
        "price": cell.price(),
        "plug_in_violations": cell.plug_in_violation_rate(),
        "plug_in_offload": cell.plug_in.offload,
        "edge_differs": cell.edge_differs,
    })
}

fn certificates(tested: &[Tested]) -> Figures {
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let row = |tested: &Tested| {
        let outcome = &tested.outcome;
        vec![
            tested.target.contract().to_string(),
            percent(tested.target.alpha()),
            if tested.threshold.is_some() { "yes" } else { "no" }.to_owned(),
            tested.threshold.map_or_else(|| "-".to_owned(), |threshold| threshold.to_string()),
            outcome.n.to_string(),
            number(outcome.accepted),
            number(outcome.k),
            outcome.p_value.map_or_else(|| "-".to_owned(), |p| format!("{p:.4}")),
            percent(outcome.offload),
        ]
    };
    Figures {
        title: "Certified on all calibration requests".to_owned(),
        header: vec!["contract", "alpha", "certified", "threshold", "labels", "local", "differ", "p-value", "offload"],
        rows: tested.iter().map(row).collect(),
        words: tested.iter().filter(|tested| tested.threshold.is_none()).map(Tested::shortfall).collect(),
        plots: "thresholds",
    }
}

fn calibrations(cells: &[CalibrationCell]) -> Figures {
    let row = |cell: &CalibrationCell| {
        vec![
            cell.target.contract().to_string(),
            percent(cell.target.alpha()),
            cell.n.to_string(),
            percent(cell.certified_share()),
            percent(cell.violation_rate()),
            percent(cell.violation_limit()),
            percent(cell.plug_in_violation_rate()),
            percent(cell.certified.offload),
            percent(cell.plug_in.offload),
            percent(cell.oracle_offload),
            format!("{:+.2}", 100.0 * cell.price()),
        ]
    };
    let repetitions = cells.first().map_or(0, |cell| cell.repetitions);
    Figures {
        title: format!("Repeated calibrations, {repetitions} a row"),
        header: vec![
            "contract",
            "alpha",
            "labels",
            "certified",
            "violations",
            "at most",
            "plug-in violations",
            "offload",
            "plug-in offload",
            "oracle offload",
            "price in points",
        ],
        rows: cells.iter().map(row).collect(),
        words: verdict(cells),
        plots: "violations",
    }
}

/// Whether the promise was kept, and whether it was hard to keep.
fn verdict(cells: &[CalibrationCell]) -> Vec<String> {
    let broken: Vec<&CalibrationCell> = cells.iter().filter(|cell| !cell.keeps_promise()).collect();
    let worst = |rate: fn(&CalibrationCell) -> f64| cells.iter().map(rate).fold(0.0, f64::max);
    let kept = match broken[..] {
        [] => format!(
            "The promise is kept in all {} rows: at most {} of calibrations violate, where delta and three standard errors \
             allow {}.",
            cells.len(),
            percent(worst(CalibrationCell::violation_rate)),
            percent(worst(CalibrationCell::violation_limit)),
        ),
        _ => format!(
            "THE PROMISE IS BROKEN in {} of {} rows, {} n {} among them.",
            broken.len(),
            cells.len(),
            broken[0].target,
            broken[0].n
        ),
    };
    let naive = format!(
        "A threshold that only looks good on its labels (plug-in) violates in up to {} of calibrations.",
        percent(worst(CalibrationCell::plug_in_violation_rate))
    );
    vec![kept, naive]
}

fn drift(reports: &[DriftReport]) -> Figures {
    let wait = |wait: Option<u64>| wait.map_or_else(|| "-".to_owned(), |wait| wait.to_string());
    let row = |report: &DriftReport| {
        vec![
            report.contract.to_string(),
            report.name.clone(),
            percent(report.risk_before),
            percent(report.risk_after),
            report.runs.to_string(),
            report.alarms.to_string(),
            percent(f64::from(report.false_alarms) / f64::from(report.runs.max(1))),
            percent(report.false_alarms_allowed),
            wait(report.to_alarm.p50),
            wait(report.to_alarm.p90),
            percent(report.audits_before),
            percent(report.audits_after),
        ]
    };
    let (requests, alpha) = reports.first().map_or((0, 0.0), |report| (report.requests, report.alpha));
    Figures {
        title: format!("The monitor at alpha {}, {requests} requests a run", percent(alpha)),
        header: vec![
            "contract",
            "scenario",
            "risk before",
            "risk after",
            "runs",
            "alarms",
            "false alarms",
            "at most",
            "to alarm, median",
            "90 %",
            "audits, calm",
            "audits, changed",
        ],
        rows: reports.iter().map(row).collect(),
        words: alarms(reports),
        plots: "wealth",
    }
}

fn alarms(reports: &[DriftReport]) -> Vec<String> {
    let broken = reports.iter().filter(|report| !report.keeps_promise()).count();
    let fleet = reports.iter().find_map(|report| {
        let (fleet, median) = (report.fleet?, report.to_alarm.p50.filter(|_| report.risk_after > report.alpha)?);
        let each = median as f64 / f64::from(fleet.devices.max(1));
        Some(format!(
            "A fleet of {} devices that is watched as one rings after {each:.0} requests a device ({}).",
            fleet.devices, report.name
        ))
    });
    let verdict = match broken {
        0 => {
            "False alarms, those while the true risk is at most alpha, stay within their bound in every row.".to_owned()
        }
        _ => format!("FALSE ALARMS EXCEED THEIR BOUND in {broken} of {} rows.", reports.len()),
    };
    std::iter::once(verdict).chain(fleet).collect()
}

fn budgets(budgets: &[BudgetFigures]) -> Figures {
    let row = |figures: &BudgetFigures| {
        vec![
            percent(figures.cap),
            (figures.runs - figures.uncertifiable).to_string(),
            percent(figures.offload),
            percent(figures.offload_max),
            percent(figures.excess_max),
            percent(figures.audits),
            percent(figures.disagreement),
            percent(figures.static_disagreement),
            format!("{:.3}", figures.disagreement / figures.static_disagreement),
            percent(figures.certified),
            percent(figures.over_budget),
            figures.unflagged.to_string(),
        ]
    };
    let requests = budgets.first().map_or(0, |figures| figures.requests);
    let unflagged: u64 = budgets.iter().map(|figures| figures.unflagged).sum();
    let excess = budgets.iter().map(|figures| figures.excess_max).fold(0.0, f64::max);
    Figures {
        title: format!("A router under a budget, {requests} requests a run, system contract"),
        header: vec![
            "cap",
            "runs",
            "offloaded",
            "most of a run",
            "ever ahead by",
            "audits",
            "differ",
            "static threshold",
            "ratio",
            "certified",
            "over budget",
            "unflagged",
        ],
        rows: budgets.iter().map(row).collect(),
        words: vec![format!(
            "No run was ever ahead of its cap by more than {} of its requests, audits included; {unflagged} answers called \
             themselves better than they are. The static threshold is the best one for the same offload on the same requests.",
            percent(excess)
        )],
        plots: "budgets",
    }
}

fn recoveries(recoveries: &[Recovered]) -> Figures {
    let row = |recovered: &Recovered| {
        let runs: Vec<RecoveryFigures> = recovered.runs.iter().filter(|run| run.certified_before).cloned().collect();
        let request = |of: fn(&RecoveryFigures) -> Option<u64>| {
            median(&runs, of).map_or_else(|| "-".to_owned(), |request| request.to_string())
        };
        let share = |of: fn(&RecoveryFigures) -> Option<f64>| mean(&runs, of).map_or_else(|| "-".to_owned(), percent);
        vec![
            recovered.contract.to_string(),
            runs.len().to_string(),
            request(|run| run.alarm),
            request(|run| run.issued),
            request(|run| run.used),
            share(|run| run.offload_before),
            share(|run| run.offload_recalibrated),
            share(|run| run.offload_refitted),
            share(|run| run.certified_disagreement_until_alarm),
            share(|run| run.true_risk_after),
            runs.iter().map(|run| run.unflagged).sum::<u64>().to_string(),
        ]
    };
    Figures {
        title: "A router through a drift, without a human".to_owned(),
        header: vec![
            "contract",
            "runs",
            "alarm at request",
            "certificate at",
            "used from",
            "offload before",
            "recalibrated",
            "refitted",
            "differ until the alarm",
            "risk of the new one",
            "unflagged",
        ],
        rows: recoveries.iter().map(row).collect(),
        words: vec![
            "Requests are counted from the drift on, medians of the runs; shares are means. Recalibrated: the old score with a new \
             threshold; refitted: the score chosen and fitted anew."
                .to_owned(),
        ],
        plots: "recoveries",
    }
}
