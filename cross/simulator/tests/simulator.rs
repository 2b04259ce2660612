//! The simulator's own promises: nothing is broken, everything happens, what is planted is found, and a seed is one history.
//!
//! `hedge simulate` runs as many seeds as there is time for; these are the few that fit into a test.

use hedge_simulator::{Happening, Plant, Rule, Setup, campaign, shrink, simulate, trace};
use rayon::prelude::*;

const SOME: Setup = Setup { devices: 25, plant: None, only: None };

#[test]
fn no_rule_is_broken_and_everything_that_can_happen_does() {
    let campaign = campaign(0..400, &SOME, |_| ());
    let broken: Vec<String> = campaign
        .violations
        .iter()
        .filter_map(|outcome| Some(format!("seed {}: {}", outcome.seed, outcome.violation.as_ref()?)))
        .collect();
    assert_eq!(broken, Vec::<String>::new());
    assert_eq!(campaign.counts.missing(), []);
    // What is told and what is counted are two accounts of the same thing.
    let ended = [
        Happening::EndedByCloud,
        Happening::EndedByEdge,
        Happening::EndedWithoutCloud,
        Happening::EndedFailed,
        Happening::EndedPoisoned,
        Happening::EndedDamaged,
    ];
    let ended: u64 = ended.iter().map(|&what| campaign.counts.of(what)).sum();
    assert_eq!(ended, campaign.counts.of(Happening::Delivered));
}

#[test]
fn a_hundred_devices_come_to_rest() {
    let setup = Setup { devices: 100, ..SOME };
    for seed in 1000..1010 {
        let outcome = simulate(seed, &setup);
        assert_eq!(outcome.violation, None, "seed {seed}");
        assert!(outcome.rested_after.is_some(), "seed {seed}");
    }
}

#[test]
fn a_seed_is_one_history_whether_it_is_told_or_not() {
    let outcomes: Vec<_> = (0..10).map(|seed| simulate(seed, &SOME)).collect();
    for outcome in &outcomes {
        let (told, lines) = trace(outcome.seed, &SOME);
        assert_eq!(told, *outcome);
        assert_eq!(lines, trace(outcome.seed, &SOME).1, "to the letter");
        assert!(lines.len() > 100, "{} lines", lines.len());
    }
    assert!(outcomes.windows(2).all(|two| two[0].fingerprint != two[1].fingerprint));
}

/// The rules by which a planted bug may be found.
fn broken_by(plant: Plant) -> &'static [Rule] {
    match plant {
        Plant::AckBeforeBarrier | Plant::DropOnPuback => &[Rule::NothingLost],
        Plant::NoBarrierAtOpen => &[Rule::NothingLost, Rule::OneEnding, Rule::DeliveredOnce],
        Plant::UnwrittenAttempt => &[Rule::Poison],
        Plant::DeliverAgain => &[Rule::DeliveredOnce],
        Plant::OldBootsDeadline => &[Rule::Life],
        Plant::OtherAnswer | Plant::CrossedReplies => &[Rule::RightAnswer],
        Plant::FalseCloud => &[Rule::CloudSaidIt],
        Plant::FalseCertificate => &[Rule::Certified],
        Plant::SecondAnswer => &[Rule::RowEndsOnce],
        Plant::LostWakeUp => &[Rule::Life, Rule::ComesToRest],
        Plant::BusyLoop => &[Rule::NoBusyLoop],
        Plant::NoWindow => &[Rule::DeviceBounds],
        Plant::ForgetDedup => &[Rule::RunsOnce],
        Plant::NoBound => &[Rule::GatewayBounds],
    }
}

#[test]
fn each_planted_bug_is_found_within_few_seeds_and_its_seed_finds_it_again() {
    for &plant in Plant::ALL {
        let setup = Setup { plant: Some(plant), ..SOME };
        let found = (0..400_u64)
            .into_par_iter()
            .map(|seed| simulate(seed, &setup))
            .find_first(|outcome| outcome.violation.is_some());
        let outcome = found.unwrap_or_else(|| panic!("{} is not found", plant.name()));
        let violation = outcome.violation.clone().expect("that is what was looked for");
        println!("{}: seed {}, {}", plant.name(), outcome.seed, violation.rule.name());
        assert!(broken_by(plant).contains(&violation.rule), "{}: seed {}: {violation}", plant.name(), outcome.seed);
        assert_eq!(simulate(outcome.seed, &setup), outcome, "{}: the seed tells another story", plant.name());
    }
}

#[test]
fn a_broken_history_is_told_with_fewer_devices() {
    let setup = Setup { plant: Some(Plant::DeliverAgain), ..SOME };
    let broken = (0..50).map(|seed| simulate(seed, &setup)).find(|outcome| outcome.violation.is_some());
    let broken = broken.expect("the bug is found in most seeds");
    let fewer = shrink(&broken, &setup);
    assert!(fewer.only.is_some() || fewer.devices < setup.devices, "{fewer:?}");
    let again = simulate(broken.seed, &fewer).violation.expect("it is still there");
    assert_eq!(again.rule, Rule::DeliveredOnce);
}
