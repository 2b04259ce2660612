//! What the monitor promises, by simulation on pools whose truth is known.

#![expect(clippy::unwrap_used, reason = "what tests are made of exists")]

use hedge_certify::simulate::{
    DriftReport, DriftSettings, DriftStudy, Fleet, Pool, Scenario, Stream, StreamError, simulate_drift,
};
use hedge_certify::{Contract, Grid, Labelled, MonitorConfig};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const ALPHA: f64 = 0.01;
const SETTINGS: DriftSettings =
    DriftSettings { runs: 200, requests: 60_000, label_delay: 50, seed: 7, traces: 1, trace_every: 100 };

/// Requests whose scores crowd towards 1 the more the larger `ease`, and differ the less the larger their score.
fn requests(count: usize, ease: f64, differ: impl Fn(f64) -> f64, seed: u64) -> Vec<Labelled> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut request = || {
        let score = 1.0 - random.random::<f64>().powf(ease);
        Labelled { score: score as f32, differs: random.random::<f64>() < differ(score) }
    };
    (0..count).map(|_| request()).collect()
}

fn calm(seed: u64) -> Vec<Labelled> {
    requests(40_000, 2.5, |score| 0.3 * (1.0 - score).powf(1.3), seed)
}

fn drifted() -> Vec<Labelled> {
    requests(40_000, 1.5, |score| 0.02 + 0.45 * (1.0 - score).powf(0.8), 3)
}

fn grid(seed: u64) -> Grid {
    let scores: Vec<f32> = calm(seed).iter().take(5_000).map(|request| request.score).collect();
    Grid::from_scores(&scores).unwrap()
}

/// The lowest threshold at which the pool's own risk is at most `risk`.
fn threshold(labels: &[Labelled], grid: &Grid, contract: Contract, risk: f64) -> f32 {
    let keeps = |t: &&f32| Pool::new(labels, grid, **t).unwrap().risk(contract) <= risk;
    grid.thresholds().iter().take_while(keeps).last().copied().unwrap()
}

fn named<'a>(reports: &'a [DriftReport], name: &str) -> &'a DriftReport {
    reports.iter().find(|report| report.name == name).unwrap()
}

#[test]
fn no_alarm_is_false_and_drift_is_found_soon() {
    let (grid, calm, drifted) = (grid(1), calm(2), drifted());
    let easier = requests(40_000, 3.5, |score| 0.3 * (1.0 - score).powf(1.3), 4);
    for contract in Contract::ALL {
        let threshold = threshold(&calm, &grid, contract, 0.7 * ALPHA);
        let mut study = DriftStudy::new(&grid, threshold, MonitorConfig::new(contract, ALPHA), &calm);
        study.harmless = vec![("easier".to_owned(), &easier)];
        study.drifted = Some(&drifted);
        let reports = study.run(&SETTINGS).unwrap();
        for report in &reports {
            assert!(report.keeps_promise(), "{contract}: {report:#?}");
        }
        assert!(named(&reports, "none").audits_after < 0.025);
        let drift = reports.iter().find(|report| report.name.starts_with("3 alpha")).unwrap();
        assert!((drift.risk_after - 3.0 * ALPHA).abs() < 1e-12, "{}", drift.risk_after);
        assert!(drift.to_alarm.p50.unwrap() <= 3_000, "{contract}: {:?}", drift.to_alarm);
        let pooled = reports.iter().find(|report| report.name.ends_with("fleet") && report.risk_after > ALPHA).unwrap();
        assert!(pooled.to_alarm.p50.unwrap() <= 10_000, "{contract}: {:?}", pooled.to_alarm);
    }
}

#[test]
fn at_a_risk_of_exactly_alpha_the_alarm_keeps_its_bound_however_late_labels_come() {
    let (grid, calm, drifted) = (grid(1), calm(2), drifted());
    for contract in Contract::ALL {
        let threshold = threshold(&calm, &grid, contract, 0.7 * ALPHA);
        let [calm, drifted] = [&calm, &drifted].map(|labels| Pool::new(labels, &grid, threshold).unwrap());
        let stream = Stream::with_risk(&calm, &drifted, contract, ALPHA).unwrap();
        for label_delay in [0, 20_000] {
            for fleet in [None, Some(Fleet { devices: 20, report_every: 10 })] {
                let name = format!("exactly alpha {label_delay}");
                let scenario =
                    Scenario { fleet, ..Scenario::steady(&name, MonitorConfig::new(contract, ALPHA), stream) };
                let report = simulate_drift(&scenario, &grid, &DriftSettings { label_delay, ..SETTINGS }).unwrap();
                assert_eq!(report.alarms, report.false_alarms);
                assert!(report.keeps_promise(), "{contract} {label_delay} {fleet:?}: {}", report.false_alarms);
            }
        }
    }
}

#[test]
fn a_drift_after_calm_times_is_found_nearly_as_soon_as_one_at_the_start() {
    let (grid, calm, drifted) = (grid(1), calm(2), drifted());
    for contract in Contract::ALL {
        let threshold = threshold(&calm, &grid, contract, 0.7 * ALPHA);
        let [calm, drifted] = [&calm, &drifted].map(|labels| Pool::new(labels, &grid, threshold).unwrap());
        let after = Stream::with_risk(&calm, &drifted, contract, 3.0 * ALPHA).unwrap();
        let start = Scenario::steady("start", MonitorConfig::new(contract, ALPHA), after);
        let late = Scenario { before: Stream::of(&calm), change_at: 100_000, name: "late".to_owned(), ..start.clone() };
        let settings = DriftSettings { requests: 150_000, runs: 100, ..SETTINGS };
        let [start, late] = [start, late].map(|scenario| simulate_drift(&scenario, &grid, &settings).unwrap());
        let (start, late) = (start.to_alarm.p50.unwrap(), late.to_alarm.p50.unwrap());
        assert!(late < 3 * start, "{contract}: {late} requests instead of {start}");
    }
}

#[test]
fn calm_audits_stay_few_whatever_the_error_of_the_reference() {
    let calm = calm(2);
    let shares: Vec<f64> = (10..30)
        .map(|seed| {
            // Everything is local: no audit is spared.
            let grid = grid(seed);
            let pool = Pool::new(&calm, &grid, f32::NEG_INFINITY).unwrap();
            let config = MonitorConfig { alpha: 0.9, ..MonitorConfig::new(Contract::Local, ALPHA) };
            let scenario = Scenario::steady("none", config, Stream::of(&pool));
            simulate_drift(&scenario, &grid, &DriftSettings { runs: 20, ..SETTINGS }).unwrap().audits_after
        })
        .collect();
    assert!(shares.iter().all(|&share| share < 0.025), "{shares:?}");
}

#[test]
fn a_mixture_has_exactly_the_risk_that_is_wanted() {
    let (grid, calm, drifted) = (grid(1), calm(2), drifted());
    let [calm, drifted] = [&calm, &drifted].map(|labels| Pool::new(labels, &grid, grid.thresholds()[30]).unwrap());
    for contract in Contract::ALL {
        let (low, high) = (calm.risk(contract), drifted.risk(contract));
        for risk in [low, 0.7 * low + 0.3 * high, high] {
            let stream = Stream::with_risk(&calm, &drifted, contract, risk).unwrap();
            assert!((stream.risk(contract) / risk - 1.0).abs() < 1e-12, "{contract} {risk}: {}", stream.risk(contract));
        }
        let error = Stream::with_risk(&calm, &drifted, contract, 1.1 * high).unwrap_err();
        assert!(matches!(error, StreamError::OutOfReach { .. }), "{error}");
    }
    assert_eq!(Pool::new(&[], &grid, 0.5), Err(StreamError::Size(0)));
    assert_eq!(drifted.differing_only().unwrap().risk(Contract::System), 1.0);
}

#[test]
fn the_result_depends_on_the_seed_and_not_on_the_threads() {
    let (grid, calm, drifted) = (grid(1), calm(2), drifted());
    let mut study = DriftStudy::new(&grid, 0.9, MonitorConfig::new(Contract::Local, ALPHA), &calm);
    study.drifted = Some(&drifted);
    let run = |threads: usize, seed: u64| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| study.run(&DriftSettings { runs: 12, requests: 8_000, seed, ..SETTINGS }).unwrap())
    };
    assert_eq!(run(1, 1), run(3, 1));
    assert_ne!(run(1, 1), run(1, 2));
}
