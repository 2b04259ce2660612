//! What a score costs: features of a row, each score of them, and the fit of an agreement head.
//!
//! Figures, not a test: `cargo bench -p hedge-certify --bench scores`.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use hedge_certify::{AgreementHead, Features, Score, Scoring};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const ROWS: usize = 5_000;
const ROUNDS: usize = 100;

fn main() {
    for classes in [10, 151, 1_000] {
        let rows = logits(classes);
        let mean = per_row(|| rows.iter().map(|row| Features::of(black_box(row)).margin).sum());
        println!("features of {classes:5} classes  {mean:9.2?}");

        let labels = labels(&rows);
        let begun = Instant::now();
        let head = AgreementHead::fit(&labels).expect("both outcomes occur");
        println!("  fit of {ROWS} labels      {:9.2?}", begun.elapsed());
        for scoring in [Score::Margin.into(), Score::Msp.into(), Scoring::Head(head)] {
            let mean = per_row(|| labels.iter().map(|(f, _)| black_box(&scoring).score(black_box(f))).sum());
            println!("  {:22}{mean:9.2?}", scoring.name());
        }
    }
}

fn logits(classes: usize) -> Vec<Vec<f32>> {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut row = || (0..classes).map(|_| random.random_range(-8.0..8.0)).collect();
    (0..ROWS).map(|_| row()).collect()
}

/// Answers that differ the more often, the smaller the margin.
fn labels(rows: &[Vec<f32>]) -> Vec<(Features, bool)> {
    let mut random = ChaCha8Rng::seed_from_u64(2);
    rows.iter()
        .map(|row| {
            let features = Features::of(row);
            (features, random.random::<f32>() < 0.5 * (1.0 - features.margin))
        })
        .collect()
}

/// The mean time of one row, of rounds over all rows.
fn per_row(round: impl Fn() -> f32) -> Duration {
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        black_box(round());
    }
    begun.elapsed() / (ROUNDS * ROWS) as u32
}
