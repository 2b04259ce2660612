//! Evaluates the certificate of 10,000 labels and fails when one evaluation takes 50 ms or more.
//!
//! ```console
//! cargo bench -p hedge-certify --bench certify
//! ```

#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use hedge_certify::{Contract, Grid, Labelled, Target, certify};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

const LABELS: usize = 10_000;
const ROUNDS: usize = 200;
const LIMIT: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let tune: Vec<f32> = (0..5_000).map(|_| uniform(&mut rng)).collect();
    let mut within = true;
    for contract in Contract::ALL {
        for alpha in [0.05, 0.005] {
            let labels = labels(&mut rng, alpha);
            let slowest = slowest(contract, alpha, &tune, &labels);
            println!("{contract:6} alpha {alpha:5}: {LABELS} labels, grid included, slowest of {ROUNDS}: {slowest:?}");
            within &= slowest < LIMIT;
        }
    }
    println!("limit {LIMIT:?}: {}", if within { "kept" } else { "EXCEEDED" });
    if within { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The slowest of the evaluations, from unlabelled tune scores and labels to the outcome.
fn slowest(contract: Contract, alpha: f64, tune: &[f32], labels: &[Labelled]) -> Duration {
    let target = Target::new(contract, alpha, 0.05).expect("0 < alpha < 1");
    let evaluation = || {
        let begun = Instant::now();
        let grid = Grid::from_scores(black_box(tune)).expect("scores are finite");
        let outcome = black_box(certify(&target, &grid, black_box(labels)));
        assert!(outcome.threshold.is_some(), "an evaluation that stops at the first threshold measures nothing");
        begun.elapsed()
    };
    (0..ROUNDS).map(|_| evaluation()).max().expect("there are rounds")
}

/// The less sure, the more often an answer differs; alpha is met in about the lower half of the grid, so that the walk is long.
fn labels(rng: &mut ChaCha8Rng, alpha: f64) -> Vec<Labelled> {
    let mut label = || {
        let score = uniform(rng);
        Labelled { score, differs: f64::from(uniform(rng)) < 3.0 * alpha * f64::from((1.0 - score).powi(2)) }
    };
    (0..LABELS).map(|_| label()).collect()
}

fn uniform(rng: &mut ChaCha8Rng) -> f32 {
    (rng.next_u32() >> 8) as f32 / (1 << 24) as f32
}
