//! Scores of a pairs file as the library takes them, without loss.
//!
//! A pairs file may hold any doubles, the library's scores are `f32`. Since nothing but the order of scores matters to a
//! threshold, each score is replaced by its rank among the file's (equal ones have one rank, one from another file that lies
//! between two ranks is a half), which `f32` holds exactly, and a threshold is translated back.

use hedge_certify::{Grid, Labelled};

use super::pairs_file::{MOST_PAIRS, Pair, Split};
use crate::failure::bad_usage;

/// A pairs file's scores by rank.
pub(super) struct Ranked {
    /// Distinct scores, ascending: the score of each rank.
    scores: Vec<f64>,
    /// Thresholds to choose from.
    pub(super) grid: Grid,
    /// The labels to certify by.
    pub(super) cal: Vec<Labelled>,
}

impl Ranked {
    pub(super) fn of(pairs: &[Pair]) -> anyhow::Result<Self> {
        let mut scores: Vec<f64> = pairs.iter().map(|pair| pair.score).collect();
        scores.sort_unstable_by(f64::total_cmp);
        scores.dedup();
        debug_assert!(scores.len() <= MOST_PAIRS, "ranks are exact");
        let tune: Vec<f32> = of_split(pairs, Split::Tune).map(|pair| rank(&scores, pair.score)).collect();
        let grid = Grid::from_scores(&tune)
            .map_err(|error| bad_usage(error, "give lines of split tune with the scores that requests get"))?;
        let cal = of_split(pairs, Split::Cal).map(|pair| labelled(&scores, pair)).collect();
        Ok(Ranked { scores, grid, cal })
    }

    /// The calibration lines of another file, by the ranks of this one.
    pub(super) fn others(&self, pairs: &[Pair]) -> Vec<Labelled> {
        of_split(pairs, Split::Cal).map(|pair| labelled(&self.scores, pair)).collect()
    }

    /// Ranks as shares of all, above 0 and at most 1: what stands for a softmax score of the same order.
    pub(super) fn shares(&self, labels: &[Labelled]) -> Vec<Labelled> {
        let most = self.scores.len() as f32 + 1.0;
        let share = |label: &Labelled| Labelled { score: (label.score + 1.0) / most, differs: label.differs };
        labels.iter().map(share).collect()
    }

    /// The score of a threshold.
    pub(super) fn score(&self, rank: f32) -> f64 {
        self.scores[rank as usize]
    }
}

fn of_split(pairs: &[Pair], split: Split) -> impl Iterator<Item = &Pair> {
    pairs.iter().filter(move |pair| pair.split == split)
}

fn labelled(scores: &[f64], pair: &Pair) -> Labelled {
    Labelled { score: rank(scores, pair.score), differs: !pair.agree }
}

fn rank(scores: &[f64], score: f64) -> f32 {
    match scores.binary_search_by(|known| known.total_cmp(&score)) {
        Ok(rank) => rank as f32,
        Err(above) => above as f32 - 0.5,
    }
}

#[cfg(test)]
mod tests {
    use hedge_certify::{Contract, Target, certify};

    use super::*;

    fn pairs(scores: impl Iterator<Item = f64>) -> Vec<Pair> {
        let pair = |(index, score)| Pair {
            score,
            agree: index % 40 != 3,
            split: if index % 4 == 0 { Split::Tune } else { Split::Cal },
            label: None,
            edge: None,
            cloud: None,
        };
        scores.enumerate().map(pair).collect()
    }

    #[test]
    fn scores_that_f32_cannot_tell_apart_are_told_apart() {
        let target = Target::new(Contract::System, 0.05, 0.05).unwrap();
        let score = |i: u32| f64::from(i * 7919 % 4001);
        let wide = Ranked::of(&pairs((0..4000).map(score))).unwrap();
        let close = Ranked::of(&pairs((0..4000).map(|i| 1.0 + score(i) * 1e-12))).unwrap();
        let [one, other] = [&wide, &close].map(|ranked| certify(&target, &ranked.grid, &ranked.cal));
        assert_eq!(one, other);
        let threshold = one.threshold.unwrap();
        assert_eq!(close.score(threshold), 1.0 + wide.score(threshold) * 1e-12);
    }

    #[test]
    fn a_rank_accepts_what_its_score_accepts() {
        let pairs = pairs([0.5, 0.25, 0.5, -1.0, 0.75, 0.25, 0.0, 0.125].into_iter());
        let ranked = Ranked::of(&pairs).unwrap();
        let other = self::pairs([0.3, 0.2, 0.25, 9.0, -7.0, 0.5, 0.74, 0.76].into_iter());
        for (pairs, labels) in [(&pairs, &ranked.cal), (&other, &ranked.others(&other))] {
            for (pair, label) in of_split(pairs, Split::Cal).zip(labels) {
                for &threshold in ranked.grid.thresholds() {
                    assert_eq!(label.score >= threshold, pair.score >= ranked.score(threshold), "{pair:?}");
                }
            }
        }
    }
}
