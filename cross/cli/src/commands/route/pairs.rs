//! `hedge route pairs`: a pairs file of a bundled task, calm or under drift.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use hedge_certify::Score;

use super::digits::{Field, Models};
use super::duo::Asked;
use super::pairs_file::{Pair, Split, write};
use crate::output::say;

/// `hedge route pairs`.
#[derive(Args)]
pub(crate) struct Pairs {
    #[command(flatten)]
    models: Models,
    #[command(flatten)]
    field: Field,
    /// Requests of split `tune`: scores to choose thresholds from.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    tune: usize,
    /// Requests of split `cal`: scores and agreement to certify by.
    #[arg(long, value_name = "N", default_value_t = 40_000)]
    cal: usize,
    /// Which number stands for an answer's confidence: margin or msp.
    #[arg(long, default_value_t = Score::Margin)]
    score: Score,
    /// The pairs file: score,agree,split and, of each request, the true class and both models' answers.
    #[arg(short, long, value_name = "P.csv")]
    output: PathBuf,
}

pub(super) fn run(args: &Pairs) -> Result<()> {
    let mut duo = args.models.load()?;
    let conditions = args.field.conditions()?;
    let mut pairs = Vec::with_capacity(args.tune + args.cal);
    for (split, count) in [(Split::Tune, args.tune), (Split::Cal, args.cal)] {
        let stream = args.field.stream(conditions, split);
        super::digits::ask(&mut duo, stream, count, split.name(), |label, asked| {
            pairs.push(pair(args.score, split, label, &asked));
        })?;
    }
    write(&args.output, &pairs)?;
    let differ = pairs.iter().filter(|pair| !pair.agree).count();
    say(
        None,
        format_args!(
            "wrote {}: {} requests, on {:.2} % of which the models differ",
            args.output.display(),
            pairs.len(),
            100.0 * differ as f64 / pairs.len().max(1) as f64
        ),
    );
    Ok(())
}

fn pair(score: Score, split: Split, label: u8, asked: &Asked) -> Pair {
    Pair {
        score: score.of(&asked.logits),
        agree: !asked.differs,
        split,
        label: Some(u32::from(label)),
        edge: Some(asked.edge),
        cloud: asked.cloud,
    }
}
