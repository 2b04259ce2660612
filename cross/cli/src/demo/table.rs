//! The demonstration for people: a table per phase, the totals, and what they mean in words.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table};

use super::Report;
use super::client::Source;
use super::script::Phase;
use super::tally::{PhaseTally, Tally};
use crate::output::table;

/// One phase: a row for each source, and one for all.
pub(super) fn phase(PhaseTally { phase, tally }: &PhaseTally) -> String {
    let mut rows = numbers(&[phase.name(), "answers", "uncertified", "agreement", "accuracy", "p50 ms", "p99 ms"]);
    for source in Source::ALL {
        let from = tally.from(source);
        rows.add_row([
            source.name().to_owned(),
            from.answers().to_string(),
            from.uncertified.to_string(),
            percent(from.agreement()),
            percent(from.accuracy()),
            millis(from.percentile_ms(0.5)),
            millis(from.percentile_ms(0.99)),
        ]);
    }
    rows.add_row([
        "all".to_owned(),
        tally.answers().to_string(),
        tally.uncertified.to_string(),
        percent(tally.agreement()),
        percent(tally.accuracy()),
    ]);
    format!(
        "\n{}\n{rows}\n{} requests in {:.1} s, {} failed; {} bytes went to the cloud.",
        heading(*phase),
        tally.requests,
        tally.took.as_secs_f64(),
        tally.failed + tally.unanswered,
        tally.bytes_up,
    )
}

/// One row for each phase, and one for all.
pub(super) fn totals(report: &Report) -> String {
    let columns =
        ["", "requests", "edge", "cache", "cloud", "uncertified", "failed", "agreement", "accuracy", "bytes up"];
    let mut rows = numbers(&columns);
    let phases = report.phases.iter().map(|PhaseTally { phase, tally }| (phase.name(), tally));
    for (name, tally) in phases.chain([("total", &report.total)]) {
        let [edge, cache, cloud] = Source::ALL.map(|source| tally.from(source).answers().to_string());
        rows.add_row([
            name.to_owned(),
            tally.requests.to_string(),
            edge,
            cache,
            cloud,
            tally.uncertified.to_string(),
            tally.failed.to_string(),
            percent(tally.agreement()),
            percent(tally.accuracy()),
            tally.bytes_up.to_string(),
        ]);
    }
    format!("\nTotals\n{rows}\n{} lost, {} answered more than once.", report.lost, report.duplicated)
}

/// What it means.
pub(super) fn words(report: &Report) -> String {
    let mut text = String::from("\n");
    for PhaseTally { phase, tally } in &report.phases {
        let sentence = match phase {
            Phase::Normal => normal(tally),
            Phase::Cut => cut(tally),
            Phase::Healed => healed(tally),
        };
        let _ = writeln!(text, "{sentence}");
    }
    let _ = writeln!(text, "{}", devices(report));
    text.push_str(
        "`uncertified` means what it says: these models have no certificate, so nothing bounds how often a local answer \
         differs from the cloud's.",
    );
    text
}

fn heading(phase: Phase) -> &'static str {
    match phase {
        Phase::Normal => "Phase normal: agent, broker and gateway are connected.",
        Phase::Cut => "Phase cut: the agent cannot reach the broker.",
        Phase::Healed => "Phase healed: the agent's link is up again.",
    }
}

fn normal(tally: &Tally) -> String {
    let cloud = tally.from(Source::Cloud).answers();
    format!(
        "Connected, the device answered {} of {} requests itself, {} of them from its cache, and the cloud answered {cloud}. {} \
         of the answers are the cloud model's own class, {} are right.",
        tally.answers() - cloud,
        tally.requests,
        tally.from(Source::Cache).answers(),
        percent(tally.agreement()),
        percent(tally.accuracy()),
    )
}

fn cut(tally: &Tally) -> String {
    let (requests, answers, cloud) = (tally.requests, tally.answers(), tally.from(Source::Cloud).answers());
    let answered = match (answers == requests, cloud) {
        (true, 0) => format!("the device answered all {requests} requests alone"),
        (true, cloud) => format!("all {requests} requests were answered, {cloud} of them by the cloud all the same"),
        (false, _) => format!("only {answers} of {requests} requests were answered"),
    };
    format!(
        "While the link was cut, {answered}: {} are labelled `uncertified`, {} come from the cache; {} agree with the cloud \
         model, {} are right.",
        tally.uncertified,
        tally.from(Source::Cache).answers(),
        percent(tally.agreement()),
        percent(tally.accuracy()),
    )
}

fn healed(tally: &Tally) -> String {
    let (requests, asked) = (tally.requests, tally.from(Source::Cloud).answers());
    let cloud = match asked {
        0 => format!("the cloud answered none of {requests} requests"),
        _ => format!("offloading resumed by itself: the cloud answered {asked} of {requests} requests"),
    };
    format!(
        "When the link was back, {cloud}; {} of the answers agree with its model, {} are right.",
        percent(tally.agreement()),
        percent(tally.accuracy()),
    )
}

fn devices(report: &Report) -> String {
    let (edge, cloud) = (&report.parts.edge.device, &report.parts.cloud.device);
    let mut text = if edge == cloud {
        format!("Both models ran on {edge}.")
    } else {
        format!("The device's model ran on {edge}, the cloud's on {cloud}.")
    };
    if report.on_software_gpu() {
        text.push_str(" That is a GPU emulated on the CPU: good for checks, slower than --device cpu.");
    }
    text
}

/// A table whose columns but the first are numbers.
fn numbers(header: &[&str]) -> Table {
    let mut rows = table(header);
    rows.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    rows
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", 100.0 * share))
}

fn millis(millis: Option<f64>) -> String {
    millis.map_or_else(|| "-".to_owned(), |millis| format!("{millis:.2}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_claims_no_more_than_what_happened() {
        let tally = Tally { requests: 5, ..Tally::default() };
        assert!(cut(&tally).contains("only 0 of 5 requests were answered"));
        assert!(cut(&Tally::default()).contains("all 0 requests alone"));
        assert!(healed(&tally).contains("the cloud answered none of 5 requests"));
        assert!(!healed(&tally).contains("resumed"));
        assert!(normal(&tally).contains("0 of 5 requests itself"));
    }

    #[test]
    fn numbers_without_samples_are_a_dash() {
        let text = phase(&PhaseTally { phase: Phase::Cut, tally: Tally::default() });
        assert!(text.contains(" -"), "{text}");
        assert!(!text.contains("NaN") && !text.contains('%'), "{text}");
    }
}
