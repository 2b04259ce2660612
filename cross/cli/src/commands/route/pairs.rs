//! `hedge route pairs`: a pairs file of a bundled task, calm or under drift, or of a data file.

use std::path::PathBuf;

use anyhow::Result;
use clap::{ArgGroup, Args};
use hedge_certify::Scoring;

use super::gather::{Gathered, Seen, Source};
use super::pairs_file::{Pair, Split, write};
use super::score_choice::ScoreChoice;
use crate::output::{percent, say};

/// `hedge route pairs`.
#[derive(Args)]
#[command(group(ArgGroup::new("given").required(true)))]
pub(crate) struct Pairs {
    #[command(flatten)]
    source: Source,
    /// Which number stands for an answer's confidence.
    #[arg(long, value_enum, default_value = "margin")]
    score: ScoreChoice,
    /// The pairs file: score,agree,split and, of each request, the true class and both models' answers.
    #[arg(short, long, value_name = "P.csv")]
    output: PathBuf,
}

pub(super) fn run(args: &Pairs) -> Result<()> {
    let (_, gathered) = args.source.gather(args.score.fits())?;
    let chosen = args.score.settle(&gathered)?;
    let pairs = pairs(&chosen.scoring, &gathered);
    write(&args.output, &pairs)?;
    let differ = pairs.iter().filter(|pair| !pair.agree).count();
    say(
        None,
        format_args!(
            "wrote {}: {} requests by {}, on {} of which the models differ",
            args.output.display(),
            pairs.len(),
            chosen.scoring.name(),
            percent(differ as f64 / pairs.len() as f64)
        ),
    );
    Ok(())
}

/// The parts tune and calibration as the lines of a pairs file.
pub(super) fn pairs(scoring: &Scoring, gathered: &Gathered) -> Vec<Pair> {
    let tune = gathered.tune.iter().map(|seen| pair(scoring, Split::Tune, seen));
    tune.chain(cal_pairs(scoring, &gathered.cal)).collect()
}

/// Answers as the calibration lines of a pairs file.
pub(super) fn cal_pairs(scoring: &Scoring, seen: &[Seen]) -> Vec<Pair> {
    seen.iter().map(|seen| pair(scoring, Split::Cal, seen)).collect()
}

fn pair(scoring: &Scoring, split: Split, seen: &Seen) -> Pair {
    Pair {
        score: shortest(scoring.score(&seen.features)),
        agree: !seen.differs,
        split,
        label: seen.label,
        edge: Some(seen.edge),
        cloud: seen.cloud,
    }
}

/// The double that is written with the fewest digits among those that are this `f32`: files stay small, and order is kept.
pub(super) fn shortest(score: f32) -> f64 {
    score.to_string().parse().unwrap_or(f64::from(score))
}
