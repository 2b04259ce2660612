//! The demonstration for people: a table per phase, the totals, and what happened to certificates.

use comfy_table::{CellAlignment, Table};

use super::client::Source;
use super::report::Report;
use super::script::Phase;
use super::story::Transition;
use super::tally::PhaseTally;
use crate::output::table;

/// One phase: a row for each source, and one for all.
pub(super) fn phase(PhaseTally { phase, tally }: &PhaseTally) -> String {
    let mut rows =
        numbers(&[phase.name(), "answers", "certified", "uncertified", "agreement", "accuracy", "p50 ms", "p99 ms"]);
    for source in Source::ALL {
        let from = tally.from(source);
        rows.add_row([
            source.name().to_owned(),
            from.answers().to_string(),
            from.certified.to_string(),
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
        tally.certified.to_string(),
        tally.uncertified.to_string(),
        percent(tally.agreement()),
        percent(tally.accuracy()),
    ]);
    format!(
        "\n{}\n{rows}\n{} requests in {:.1} s, {} failed; {} bytes went to the cloud. {} certified answers differ from the cloud's.",
        heading(*phase),
        tally.requests,
        tally.took.as_secs_f64(),
        tally.failed + tally.unanswered,
        tally.bytes_up,
        tally.certified_differing,
    )
}

/// One row for each phase, and one for all.
pub(super) fn totals(report: &Report) -> String {
    let columns = [
        "",
        "requests",
        "edge",
        "cache",
        "cloud",
        "certified",
        "differ",
        "uncertified",
        "failed",
        "agreement",
        "accuracy",
        "bytes up",
    ];
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
            tally.certified.to_string(),
            percent(tally.system_disagreement()),
            tally.uncertified.to_string(),
            tally.failed.to_string(),
            percent(tally.agreement()),
            percent(tally.accuracy()),
            tally.bytes_up.to_string(),
        ]);
    }
    format!(
        "\nTotals\n{rows}\n{} lost, {} answered more than once. \"differ\": requests whose certified answer differs from the cloud's.",
        report.lost, report.duplicated
    )
}

/// What happened to the certificates, and at which request.
pub(super) fn transitions(report: &Report) -> String {
    if report.attempt.is_err() {
        return "\nThere was no certificate to keep or to lose.".to_owned();
    }
    let mut rows = table(&["request", "phase", "what", "m", "score", "threshold", "meaning"]);
    for step in worth_telling(&report.transitions) {
        let shown = step.certificate.as_ref();
        let of = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        rows.add_row([
            step.request.to_string(),
            step.phase.name().to_owned(),
            step.what.clone(),
            of(shown.map(|shown| shown.index.to_string())),
            of(shown.map(|shown| shown.score.clone())),
            of(shown.map(|shown| format!("{:.4}", shown.threshold))),
            meaning(step),
        ]);
    }
    for column in [0, 3, 5] {
        if let Some(column) = rows.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("\nCertificates, and from which request on\n{rows}")
}

/// All but a campaign that ended at once, since there was a certificate: with it the agent begins.
fn worth_telling(steps: &[Transition]) -> impl Iterator<Item = &Transition> {
    let ended_at_once = |at: usize| {
        let next = steps.get(at + 1).filter(|next| next.what == "installed");
        steps[at].what == "gathering" && next.is_some_and(|next| next.request == steps[at].request)
    };
    steps.iter().enumerate().filter(move |&(at, _)| !ended_at_once(at)).map(|(_, step)| step)
}

fn meaning(step: &Transition) -> String {
    let labels = step.certificate.as_ref().map_or(0, |shown| shown.n);
    match step.what.as_str() {
        "installed" => format!("a certificate by {labels} labels; all goes to the cloud while it is watched"),
        "issued" => format!("a new certificate by {labels} labels; all goes to the cloud while it is watched"),
        "used" => "from here on, local answers of that score are `certified`".to_owned(),
        "alarm" => "audits show: certified answers differ more often than was promised".to_owned(),
        "void" => "it is revoked at once: all goes to the cloud, whose answers are labels".to_owned(),
        _ => step.why.clone().unwrap_or_default(),
    }
}

fn heading(phase: Phase) -> &'static str {
    match phase {
        Phase::Normal => "Phase normal: agent, broker and gateway are connected.",
        Phase::Cut => "Phase cut: the agent cannot reach the broker.",
        Phase::Healed => "Phase healed: the agent's link is up again.",
        Phase::Drift => "Phase drift: everything is connected, but the camera is turned and noisier.",
    }
}

/// A table whose columns but the first are numbers.
fn numbers(header: &[&str]) -> Table {
    let mut rows = table(header);
    rows.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    rows
}

pub(super) fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", 100.0 * share))
}

fn millis(millis: Option<f64>) -> String {
    millis.map_or_else(|| "-".to_owned(), |millis| format!("{millis:.2}"))
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::super::tally::Tally;
    use super::*;

    #[test]
    fn numbers_without_samples_are_a_dash() {
        let text = phase(&PhaseTally { phase: Phase::Cut, tally: Tally::default() });
        assert!(text.contains(" -"), "{text}");
        assert!(!text.contains("NaN") && !text.contains('%'), "{text}");
    }

    #[test]
    fn a_campaign_that_a_certificate_ended_at_once_is_not_worth_a_row() {
        let step = |what: &str, request| Transition {
            what: what.to_owned(),
            request,
            phase: Phase::Normal,
            certificate: None,
            why: Some("labels for a certificate".to_owned()),
        };
        let steps =
            [step("gathering", 0), step("installed", 0), step("void", 7), step("gathering", 7), step("installed", 9)];
        let told: Vec<(&str, usize)> = worth_telling(&steps).map(|step| (step.what.as_str(), step.request)).collect();
        assert_eq!(told, [("installed", 0), ("void", 7), ("gathering", 7), ("installed", 9)]);
    }

    #[test]
    fn without_a_certificate_there_is_no_table_of_them() {
        assert_eq!(transitions(&report(|_| {})), "\nThere was no certificate to keep or to lose.");
    }
}
