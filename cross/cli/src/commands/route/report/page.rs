//! The page itself: words, tables and plots in one file without scripts or links to fetch.

use anyhow::Result;
use hedge_certify::Contract;

use super::super::certify::Tested;
use super::super::charts::Named;
use super::super::figures::Figures;
use super::super::study::Study;
use crate::output::percent;
use crate::plot::{escape, for_page};

const STYLE: &str = include_str!("style.css");

/// What stands on the page.
pub(super) struct Page<'a> {
    pub(super) title: &'a str,
    pub(super) facts: &'a [[String; 2]],
    pub(super) study: &'a Study,
    pub(super) figures: Vec<Figures>,
    pub(super) charts: Vec<Named>,
}

impl Page<'_> {
    /// The whole file.
    pub(super) fn html(&self) -> Result<String> {
        let title = escape(&format!("Certified routing: {}", self.title));
        let mut body = format!("<header><h1>{title}</h1>\n{}</header>\n", self.lead());
        body.push_str(&cards(&self.study.tested));
        body.push_str(PROMISE);
        for figures in &self.figures {
            let text = format!("{}{}{}", table(figures), words(&figures.words), self.plots(figures.plots)?);
            body.push_str(&section(&figures.title, &text));
        }
        body.push_str(&self.about());
        Ok(format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n\
             <body>\n<main>\n{body}</main>\n</body>\n</html>\n"
        ))
    }

    fn lead(&self) -> String {
        let differs = self.study.cells.first().map_or(0.0, |cell| cell.edge_differs);
        format!(
            "<p class=\"lead\">Left to itself, the edge model answers {} of requests other than the cloud model does. A \
             certified threshold on its confidence says which answers may stay on the device.</p>\n",
            percent(differs)
        )
    }

    /// The plots whose files begin so.
    fn plots(&self, begin: &str) -> Result<String> {
        let mut text = String::new();
        for named in &self.charts {
            if named.file.starts_with(begin) {
                let svg = for_page(&named.chart.svg()?);
                let (heading, caption) = (escape(&named.chart.title), escape(&named.caption));
                text.push_str(&format!(
                    "<figure>\n<h3>{heading}</h3>\n{svg}<figcaption>{caption}</figcaption>\n</figure>\n"
                ));
            }
        }
        Ok(if text.is_empty() { text } else { format!("<div class=\"plots\">\n{text}</div>\n") })
    }

    fn about(&self) -> String {
        let row = |[name, value]: &[String; 2]| format!("<dt>{}</dt><dd>{}</dd>\n", escape(name), escape(value));
        let facts: String = self.facts.iter().map(row).collect();
        let made = format!("<dt>made by</dt><dd>hedge {}</dd>\n", env!("CARGO_PKG_VERSION"));
        section("What it is about", &format!("<dl>\n{facts}{made}</dl>\n{SOURCES}"))
    }
}

/// What is promised and what is not, the same for every certificate.
const PROMISE: &str = "<section class=\"promise\">\n<div>\n<h2>What is promised</h2>\n<ul>\n\
<li><strong>system:</strong> of <em>all</em> requests, at most the share alpha gets an answer of the device that differs from \
the cloud's.</li>\n\
<li><strong>local:</strong> of the requests <em>answered on the device</em>, at most alpha; the stricter one.</li>\n\
<li>Both with probability at least 1 &minus; delta over the calibration, for requests like those of the calibration.</li>\n\
<li>Online, audits watch it: an alarm voids the certificate, and that a false one ever rings has a probability of at most \
delta_a, 5 % by default.</li>\n\
</ul>\n</div>\n<div>\n<h2>What is not</h2>\n<ul>\n\
<li><strong>Truth.</strong> It is about agreement with the cloud model, which errs, too.</li>\n\
<li><strong>Each class, place or user.</strong> It is an average over requests.</li>\n\
<li><strong>One certificate at a time.</strong> The probability is over calibrations, not given that a certificate came out.</li>\n\
<li><strong>The time between a drift and its alarm.</strong> It is short, not nil.</li>\n\
<li><strong>That there will be a certificate.</strong> Too few labels, or a bad edge model, and all goes to the cloud.</li>\n\
</ul>\n</div>\n</section>\n";

const SOURCES: &str = "<p class=\"small\">Thresholds: fixed-sequence testing by exact binomials (Angelopoulos et al., <cite>Learn then \
Test</cite>, 2021) on a grid from unlabelled requests. Alarm: testing by betting (Waudby-Smith and Ramdas, <cite>Estimating means \
of bounded random variables by betting</cite>, 2024). Violations are counted over all calibrations, those without a certificate \
among them.</p>\n";

fn cards(tested: &[Tested]) -> String {
    let cards: String = tested.iter().map(card).collect();
    format!("<section class=\"cards\">\n{cards}</section>\n")
}

fn card(tested: &Tested) -> String {
    let outcome = &tested.outcome;
    let contract = tested.target.contract();
    let of = match contract {
        Contract::System => "of all answers differ",
        Contract::Local => "of the device's answers differ",
    };
    let (class, state, detail) = match (tested.threshold, outcome.accepted, outcome.k, outcome.p_value) {
        (Some(threshold), Some(accepted), Some(k), Some(p)) => (
            "yes",
            "certified",
            format!(
                "{} of requests stay on the device: those with a score of at least {threshold}. Of {} calibration labels \
                 {accepted} lie there, and {k} of them differ (p = {p:.4}).",
                percent(1.0 - outcome.offload),
                outcome.n
            ),
        ),
        _ => ("no", "not certified", tested.shortfall()),
    };
    format!(
        "<article class=\"{class}\">\n<p class=\"state\">{contract} contract: {state}</p>\n\
         <p class=\"figure\">&le; {} <span>{of}</span></p>\n<p>{}</p>\n</article>\n",
        percent(tested.target.alpha()),
        escape(&detail)
    )
}

fn section(title: &str, body: &str) -> String {
    format!("<section>\n<h2>{}</h2>\n{body}</section>\n", escape(title))
}

fn words(words: &[String]) -> String {
    words.iter().map(|words| format!("<p>{}</p>\n", escape(words))).collect()
}

/// A table whose numbers stand right.
fn table(figures: &Figures) -> String {
    let is_number = |column: usize| {
        let mut cells = figures.rows.iter().filter_map(|row| row.get(column)).filter(|cell| *cell != "-");
        cells.all(|cell| cell.starts_with(|first: char| first.is_ascii_digit() || "+-".contains(first)))
    };
    let classes: Vec<&str> =
        (0..figures.header.len()).map(|at| if is_number(at) { " class=\"n\"" } else { "" }).collect();
    let line = |tag: &str, cells: &mut dyn Iterator<Item = &str>| {
        let cells: String =
            cells.zip(&classes).map(|(cell, class)| format!("<{tag}{class}>{}</{tag}>", escape(cell))).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let head = line("th", &mut figures.header.iter().copied());
    let rows: String = figures.rows.iter().map(|row| line("td", &mut row.iter().map(String::as_str))).collect();
    format!("<div class=\"table\">\n<table>\n<thead>\n{head}</thead>\n<tbody>\n{rows}</tbody>\n</table>\n</div>\n")
}
