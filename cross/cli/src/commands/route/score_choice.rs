//! Which score requests are placed by: named, or the one that ranks best.

use anyhow::Result;
use clap::ValueEnum;
use hedge_certify::{AgreementHead, Features, Labelled, Scoring, aurc, candidates};

use super::gather::{Gathered, Seen};
use crate::failure::with_hint;

/// `--score`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum ScoreChoice {
    /// Softmax margin.
    Margin,
    /// Maximum softmax probability.
    Msp,
    /// The agreement head, fitted on the requests of part fit.
    Head,
    /// The one with the smallest area under risk-coverage on the requests of part tune.
    Auto,
}

/// A score and its area under risk-coverage on part tune.
pub(super) struct Chosen {
    pub(super) scoring: Scoring,
    pub(super) aurc: f64,
    /// All that were compared, best first.
    pub(super) compared: Vec<(&'static str, f64)>,
}

impl ScoreChoice {
    /// Whether requests are needed to fit an agreement head.
    pub(super) fn fits(self) -> bool {
        matches!(self, ScoreChoice::Head | ScoreChoice::Auto)
    }

    /// The score, settled without a look at the calibration.
    pub(super) fn settle(self, gathered: &Gathered) -> Result<Chosen> {
        let rows = |part: &[Seen]| part.iter().map(|seen| (seen.features, seen.differs)).collect::<Vec<_>>();
        let (fit, tune) = (rows(&gathered.fit), rows(&gathered.tune));
        let scoring = match self {
            ScoreChoice::Margin => Scoring::Margin,
            ScoreChoice::Msp => Scoring::Msp,
            ScoreChoice::Head => Scoring::Head(fitted(&fit)?),
            ScoreChoice::Auto => {
                let mut found = candidates(&fit, &tune);
                let compared = found.iter().map(|candidate| (candidate.scoring.name(), candidate.aurc)).collect();
                let best = found.swap_remove(0);
                return Ok(Chosen { scoring: best.scoring, aurc: best.aurc, compared });
            }
        };
        let area = aurc(&labelled(&scoring, &gathered.tune));
        Ok(Chosen { aurc: area, compared: vec![(scoring.name(), area)], scoring })
    }
}

fn fitted(fit: &[(Features, bool)]) -> Result<AgreementHead> {
    AgreementHead::fit(fit).map_err(|error| {
        with_hint(
            format_args!("there is no agreement head: {error}"),
            "give more requests of part fit, or use --score auto",
        )
    })
}

/// A part's answers under a score.
pub(super) fn labelled(scoring: &Scoring, part: &[Seen]) -> Vec<Labelled> {
    part.iter().map(|seen| Labelled { score: scoring.score(&seen.features), differs: seen.differs }).collect()
}
