//! `hedge route certify`: the lowest threshold with a proven bound, from a pairs file or from models asked here.
//!
//! It spends exactly the delta it is given. Too few labels certify nothing: exit code 1, and a sentence on how many more.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{ArgGroup, Args};
use hedge_certify::{Contract, Grid, Labelled, Outcome, Target, certify};
use serde_json::{Value, json};

use super::gather::Source;
use super::issue::{self, Term};
use super::pairs::shortest;
use super::pairs_file;
use super::ranks::Ranked;
use super::score_choice::{Chosen, ScoreChoice, labelled};
use crate::failure::{bad_usage, with_hint};
use crate::output::{percent, say, table, write_json};

/// `hedge route certify`.
#[derive(Args)]
#[command(group(ArgGroup::new("given").required(true)))]
pub(crate) struct Certify {
    /// A pairs file: score,agree,split (split: tune or cal; agree: 0 or 1), the score is taken as given.
    #[arg(long, value_name = "P.csv", group = "given", conflicts_with_all = ["bundle", "teacher", "output"])]
    pairs: Option<PathBuf>,
    #[command(flatten)]
    source: Source,
    /// Which number stands for an answer's confidence where models are asked.
    #[arg(long, value_enum, default_value = "auto")]
    score: ScoreChoice,
    #[command(flatten)]
    promise: Promise,
    /// Where models are asked: the certificate's file.
    #[arg(short, long, value_name = "CERT.json")]
    output: Option<PathBuf>,
    #[command(flatten)]
    term: Term,
    /// Writes the outcome as JSON, `-` for standard output.
    #[arg(long, value_name = "FILE")]
    json: Option<String>,
}

/// What is promised.
#[derive(Args, Clone, Copy)]
pub(super) struct Promise {
    /// The share of requests, 0 to 1, whose local answer may differ from the cloud's.
    #[arg(long, value_name = "A")]
    alpha: f64,
    /// The probability, 0 to 1, that the calibration misleads.
    #[arg(long, value_name = "D", default_value_t = 0.05)]
    delta: f64,
    /// Of which requests: system (of all) or local (of the locally answered).
    #[arg(long)]
    contract: Contract,
}

impl Promise {
    pub(super) fn target(self) -> Result<Target> {
        Target::new(self.contract, self.alpha, self.delta)
            .map_err(|error| bad_usage(error, "alpha and delta are shares: 0.01 is 1 %"))
    }
}

pub(super) fn run(args: &Certify) -> Result<()> {
    let target = args.promise.target()?;
    match &args.pairs {
        Some(path) => {
            let ranked = Ranked::of(&pairs_file::read(path)?)?;
            let tested = Tested::new(target, &ranked.grid, &ranked.cal, |rank| ranked.score(rank));
            tested.report(args.json.as_deref(), Vec::new(), json!({ "pairs": path }))
        }
        None => ask_and_certify(args, target),
    }
}

fn ask_and_certify(args: &Certify, target: Target) -> Result<()> {
    let (loaded, gathered) = args.source.gather(args.score.fits())?;
    let chosen = args.score.settle(&gathered)?;
    let (tune, cal) = (labelled(&chosen.scoring, &gathered.tune), labelled(&chosen.scoring, &gathered.cal));
    let grid = Grid::from_scores(&tune.iter().map(|label| label.score).collect::<Vec<_>>())
        .map_err(|error| bad_usage(error, "the edge model answers no request of part tune"))?;
    let tested = Tested::new(target, &grid, &cal, shortest);
    let mut more = json!({
        "score": chosen.scoring.name(),
        "aurc": chosen.aurc,
        "edge": loaded.edge,
        "cloud": loaded.cloud,
        "certificate": null,
    });
    if let (Some(path), true) = (&args.output, tested.outcome.threshold.is_some()) {
        let window = args.term.window(args.source.data.as_deref())?;
        let issue = args.term.issue(issue::subject(&loaded, &args.term), &chosen, target, grid, window);
        let certificate = issue::write(path, issue, &cal)?;
        say(args.json.as_deref(), format_args!("wrote {}: {certificate}", path.display()));
        more["certificate"] = json!(certificate.id());
    }
    tested.report(args.json.as_deref(), rows_of(&chosen), more)
}

fn rows_of(chosen: &Chosen) -> Vec<[String; 2]> {
    let areas: Vec<String> = chosen.compared.iter().map(|(name, area)| format!("{name} {area:.5}")).collect();
    vec![
        ["score".to_owned(), chosen.scoring.name().to_owned()],
        ["area under risk-coverage".to_owned(), areas.join(", ")],
    ]
}

/// What a calibration came to, with the threshold as people and other programs know it.
pub(super) struct Tested {
    pub(super) target: Target,
    pub(super) outcome: Outcome,
    /// On the scale of the scores that were given.
    pub(super) threshold: Option<f64>,
    tune: u64,
    /// The share of the calibration that differs, 0 to 1.
    raw: f64,
}

impl Tested {
    /// Certifies; `to_score` gives the score of a threshold.
    pub(super) fn new(target: Target, grid: &Grid, cal: &[Labelled], to_score: impl Fn(f32) -> f64) -> Self {
        let outcome = certify(&target, grid, cal);
        let differing = cal.iter().filter(|label| label.differs).count();
        Tested {
            target,
            threshold: outcome.threshold.map(to_score),
            outcome,
            tune: grid.tune_size(),
            raw: differing as f64 / cal.len().max(1) as f64,
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let Outcome { n, accepted, k, p_value, offload, needs_labels, threshold: _ } = self.outcome;
        json!({
            "certified": self.threshold.is_some(),
            "threshold": self.threshold,
            "n": n,
            "k": k,
            "accepted": accepted,
            "p_value": p_value,
            "offload": offload,
            "needs_labels": needs_labels,
            "contract": self.target.contract(),
            "alpha": self.target.alpha(),
            "delta": self.target.delta(),
            "tune": self.tune,
            "disagreement": self.raw,
        })
    }

    /// The rows of a table for people.
    pub(super) fn rows(&self) -> Vec<[String; 2]> {
        let Outcome { n, accepted, k, p_value, offload, .. } = self.outcome;
        let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let row = |what: &str, value: String| [what.to_owned(), value];
        vec![
            row("certified", if self.threshold.is_some() { "yes" } else { "no" }.to_owned()),
            row("threshold", self.threshold.map_or_else(|| "-".to_owned(), |threshold| threshold.to_string())),
            row("calibration labels", n.to_string()),
            row("of these at or above the threshold", number(accepted)),
            row("of these different", number(k)),
            row("p-value", p_value.map_or_else(|| "-".to_owned(), |p| format!("{p:.4}"))),
            row("offloaded", percent(offload)),
            row("different without any threshold", percent(self.raw)),
        ]
    }

    pub(super) fn promise(&self) -> String {
        let of = match self.target.contract() {
            Contract::System => "of all requests",
            Contract::Local => "of the locally answered",
        };
        format!(
            "at most {} {of} differ, but for {} of calibrations",
            percent(self.target.alpha()),
            percent(self.target.delta())
        )
    }

    /// Why there is no certificate and what would help.
    pub(super) fn shortfall(&self) -> String {
        let n = self.outcome.n;
        match self.outcome.needs_labels {
            Some(more) => format!(
                "{n} calibration labels certify no threshold; at the rates seen, about {more} more would certify the first one"
            ),
            None => format!(
                "{n} calibration labels certify no threshold, and more of them would not: where the edge is surest it still \
                 differs from the cloud at a rate that is not below {}",
                percent(self.target.alpha())
            ),
        }
    }

    fn report(&self, json: Option<&str>, more_rows: Vec<[String; 2]>, more: Value) -> Result<()> {
        let mut rows = table(&[&format!("{} contract", self.target.contract()), &self.promise()]);
        rows.add_rows(self.rows().into_iter().chain(more_rows));
        say(json, rows);
        if let Some(target) = json {
            let mut value = self.to_json();
            if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
                value.extend(more);
            }
            write_json(target, &value).context("the outcome")?;
        }
        if self.threshold.is_some() {
            return Ok(());
        }
        let hint = match self.outcome.needs_labels {
            Some(_) => "gather more calibration labels, or allow a larger alpha",
            None => "train a better edge model, try another score, or allow a larger alpha",
        };
        Err(with_hint(format_args!("not certified: {}", self.shortfall()), hint))
    }
}
