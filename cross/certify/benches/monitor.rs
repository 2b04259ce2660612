//! What watching a certificate costs: a request observed, a label taken in, a window tested, a simulated run.
//!
//! Figures, not a test: `cargo bench -p hedge-certify --bench monitor`.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::hint::black_box;
use std::time::Instant;

use hedge_certify::simulate::{DriftSettings, Pool, Scenario, Stream, simulate_drift};
use hedge_certify::{Contract, EProcess, Grid, Labelled, Monitor, MonitorConfig, shift_of_scores};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const REQUESTS: usize = 1_000_000;

fn main() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let scores: Vec<f32> = (0..REQUESTS).map(|_| random.random()).collect();
    let coins: Vec<f64> = (0..REQUESTS).map(|_| random.random()).collect();
    let grid = Grid::from_scores(&scores[..20_000]).expect("scores are finite");

    for contract in Contract::ALL {
        let mut monitor = Monitor::new(MonitorConfig::new(contract, 0.01), &grid).expect("defaults are sound");
        let each = per_item(|i| {
            black_box(monitor.observe(scores[i], scores[i] > 0.3, coins[i]));
        });
        println!("observe, {contract:6}      {each:>9}");
    }
    let mut alarm = EProcess::with_reserve(0.01, 0.05).expect("both are probabilities");
    println!("label                {:>9}", per_item(|i| alarm.label(black_box(i % 250 == 0))));
    let window = &scores[..500];
    let begun = Instant::now();
    (0..1_000).for_each(|_| assert!(black_box(shift_of_scores(&grid, window)).p_value > 0.0));
    println!("window of 500 tested {:9.2?}", begun.elapsed() / 1_000);

    let pool: Vec<Labelled> =
        scores[..40_000].iter().map(|&score| Labelled { score, differs: random.random::<f64>() < 0.003 }).collect();
    let pool = Pool::new(&pool, &grid, 0.3).expect("the pool is not empty");
    let scenario = Scenario::steady("none", MonitorConfig::new(Contract::Local, 0.01), Stream::of(&pool));
    let begun = Instant::now();
    let report = simulate_drift(&scenario, &grid, &DriftSettings { runs: 100, ..DriftSettings::default() })
        .expect("defaults are sound");
    println!("100 runs of 200k     {:9.2?}, {} alarms", begun.elapsed(), report.alarms);
}

fn per_item(item: impl FnMut(usize)) -> String {
    let begun = Instant::now();
    (0..REQUESTS).for_each(item);
    format!("{:.1} ns", begun.elapsed().as_secs_f64() * 1e9 / REQUESTS as f64)
}
