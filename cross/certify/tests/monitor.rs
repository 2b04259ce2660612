//! Properties of the monitor on random streams.

#![expect(clippy::unwrap_used, reason = "what tests are made of exists")]

use hedge_certify::{Contract, Grid, Monitor, MonitorConfig, PooledMonitor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde::de::DeserializeOwned;

fn grid() -> Grid {
    let scores: Vec<f32> = (0..5_000_u16).map(|i| f32::from(i) / 5_000.0).collect();
    Grid::from_scores(&scores).unwrap()
}

fn monitor(contract: Contract) -> Monitor {
    Monitor::new(MonitorConfig::new(contract, 0.01), &grid()).unwrap()
}

/// A request with a score that is shifted in every other thousand, sometimes a label, a loss or a word of the class.
fn step(monitor: &mut Monitor, random: &mut ChaCha8Rng, request: u32) -> Option<f64> {
    let even = random.random::<f32>();
    let score = if request / 1_000 % 2 == 1 { even * even } else { even };
    let audit = monitor.observe(score, score > 0.3, random.random());
    match random.random_range(0..100) {
        0 => monitor.label(random.random::<f64>() < 0.01),
        1 => monitor.lost(),
        2 if request.is_multiple_of(5) => monitor.boost_class(request.is_multiple_of(2)),
        _ => (),
    }
    audit.map(|audit| audit.propensity)
}

fn through_cbor<T: Serialize + DeserializeOwned>(value: &T) -> T {
    minicbor_serde::from_slice(&minicbor_serde::to_vec(value).unwrap()).unwrap()
}

fn through_json<T: Serialize + DeserializeOwned>(value: &T) -> T {
    serde_json::from_slice(&serde_json::to_vec(value).unwrap()).unwrap()
}

#[test]
fn a_restart_at_any_point_changes_nothing_that_follows() {
    for (contract, seed) in [(Contract::Local, 1), (Contract::System, 2)] {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (mut whole, mut restarted) = (monitor(contract), monitor(contract));
        for request in 0..6_000 {
            if request % 7 == 0 {
                restarted = through_cbor(&restarted);
            }
            let (mut left, mut right) = (random.clone(), random.clone());
            let audits = (step(&mut whole, &mut left, request), step(&mut restarted, &mut right, request));
            assert_eq!(audits.0, audits.1, "request {request}, seed {seed}");
            random = left;
        }
        assert_eq!(whole, restarted);
        assert!(whole.counts().shifted > 1 && whole.counts().labels > 10, "{:?}", whole.counts());
    }
}

#[test]
fn as_many_are_audited_as_the_propensities_say() {
    for contract in Contract::ALL {
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let mut monitor = monitor(contract);
        let (mut expected, mut variance, mut boosted) = (0.0, 0.0, 0);
        for request in 0..200_000 {
            let score = random.random::<f32>().powi(1 + request / 10_000 % 2);
            let local = score > 0.3;
            let propensity = monitor.rate();
            let audit = monitor.observe(score, local, random.random());
            if local {
                expected += propensity;
                variance += propensity * (1.0 - propensity);
                boosted += u32::from(monitor.boosted());
                assert!(audit.is_none_or(|audit| audit.propensity == propensity));
            } else {
                assert_eq!(audit, None);
            }
        }
        let error = monitor.counts().audits as f64 - expected;
        assert!(error.abs() < 4.0 * f64::sqrt(variance), "{contract}: {error} of {expected}");
        assert!(boosted > 20_000, "{boosted}");
    }
}

#[test]
fn bets_are_renewed_only_when_the_audits_from_before_a_shift_are_settled() {
    let wealth_after = |settled_before: u32| {
        let mut monitor = monitor(Contract::Local);
        // Four audits are under way when the window closes.
        for i in 0..500 {
            monitor.observe(0.05, true, if i < 4 { 0.0 } else { 1.0 });
        }
        assert!(monitor.boosted());
        (0..settled_before).for_each(|_| monitor.lost());
        monitor.label(true);
        monitor.wealth()
    };
    assert_eq!(wealth_after(0), wealth_after(3));
    assert!(wealth_after(4) > 1.3 * wealth_after(3), "{} {}", wealth_after(4), wealth_after(3));
}

#[test]
fn under_the_system_contract_wealth_is_placed_only_while_no_audit_is_under_way() {
    // Calm times, in which all that is placed is lost; then one difference.
    let wealth_after = |end: fn(&mut Monitor)| {
        let mut monitor = monitor(Contract::System);
        assert!(monitor.observe(0.9, true, 0.0).is_some());
        end(&mut monitor);
        for i in 0..2_000_u32 {
            monitor.observe((f64::from(i) * 0.618_033_988_749_895).fract() as f32, false, 0.0);
        }
        monitor.label(true);
        monitor.wealth()
    };
    let waiting = wealth_after(|_| ());
    assert!((0.498..0.499).contains(&waiting), "the reserve is kept, and what was placed is gone: {waiting}");
    for settled in [wealth_after(|monitor| monitor.lost()), wealth_after(|monitor| monitor.all_settled())] {
        assert!(settled < 0.3, "{settled}");
    }
}

#[test]
fn a_shift_that_does_no_harm_becomes_the_new_reference() {
    let boosted_after = |risk: f64, requests: u32| {
        let mut random = ChaCha8Rng::seed_from_u64(9);
        let mut monitor = monitor(Contract::Local);
        for _ in 0..requests {
            if monitor.observe(random.random::<f32>().powi(2), true, random.random()).is_some() {
                monitor.label(random.random::<f64>() < risk);
            }
        }
        monitor.boosted()
    };
    assert!(boosted_after(0.005, 9_000), "not before patience ends");
    assert!(!boosted_after(0.005, 12_000));
    assert!(boosted_after(0.03, 12_000), "harm keeps the boost");

    // Without labels nothing is known of the harm.
    let mut unlabelled = monitor(Contract::Local);
    (0..30_000_u32).for_each(|i| assert!(unlabelled.observe((i % 100) as f32 / 200.0, true, 1.0).is_none()));
    assert!(unlabelled.boosted());
}

#[test]
fn a_class_is_boosted_by_scores_that_no_device_could_judge_alone() {
    let config = MonitorConfig::new(Contract::System, 0.01);
    let mut pooled = PooledMonitor::new(config, &grid()).unwrap();
    let mut device = vec![0; grid().len() + 1];
    device[90] = 5;
    for report in 0..100 {
        assert!(!pooled.boosted(), "report {report}");
        pooled.scores(&device);
    }
    assert!(pooled.boosted());

    pooled.offloaded(10);
    pooled.label(true);
    pooled.label(true);
    assert!(pooled.alarmed());
    assert_eq!((pooled.alarm().labels(), pooled.alarm().differing()), (12, 2));
    for same in [through_cbor(&pooled), through_json(&pooled)] {
        assert_eq!(same, pooled);
    }
}

#[test]
fn a_configuration_that_cannot_work_is_refused_by_name() {
    let good = MonitorConfig::new(Contract::Local, 0.01);
    for (bad, name) in [
        (MonitorConfig { alpha: 0.0, ..good }, "alpha"),
        (MonitorConfig { delta_a: 1.0, ..good }, "delta_a"),
        (MonitorConfig { p_value: f64::NAN, ..good }, "p_value"),
        (MonitorConfig { audit_rate: -0.1, ..good }, "audit_rate"),
        (MonitorConfig { boost_rate: 1.1, ..good }, "boost_rate"),
        (MonitorConfig { boost_rate: 0.01, ..good }, "boosted"),
        (MonitorConfig { window: 0, ..good }, "window"),
    ] {
        let errors = (Monitor::new(bad, &grid()).unwrap_err(), PooledMonitor::new(bad, &grid()).unwrap_err());
        assert!(errors.0.to_string().contains(name), "{}", errors.0);
        assert_eq!(errors.0.to_string(), errors.1.to_string());
    }
}
