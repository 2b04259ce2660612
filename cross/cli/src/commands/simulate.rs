//! `hedge simulate`: the real cores of agent and gateway over a network, disks and clocks that fail, one seeded history after the other.
//!
//! The rules are checked in every step; a seed whose history breaks one is told, and tells it again.

use std::time::Instant;

use anyhow::Result;
use clap::Args;
use clap::builder::PossibleValuesParser;
use hedge_simulator::{Campaign, Happening, Outcome, Plant, Setup, campaign, shrink, trace};
use serde_json::{Map, Value, json};

use crate::failure::with_hint;
use crate::output::{progress, say, table, write_json};

/// `hedge simulate`.
#[derive(Args)]
pub(crate) struct Simulate {
    /// How many histories to simulate.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    seeds: u64,
    /// The seed of the first of them.
    #[arg(long, value_name = "S", default_value_t = 0)]
    from: u64,
    /// Tells the history of this seed instead, a line for everything that happens.
    #[arg(long, value_name = "S", conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Devices of each history.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    devices: u16,
    /// Lets only this device take part, as a shrunken history says.
    #[arg(long, value_name = "DEVICE")]
    only: Option<u16>,
    /// Plants a bug in the simulated shells, to see that it is found.
    #[arg(long, value_name = "BUG", value_parser = PossibleValuesParser::new(Plant::ALL.iter().map(|plant| plant.name())))]
    plant: Option<String>,
    /// Writes what happened and what was broken as JSON, `-` for standard output.
    #[arg(long, value_name = "FILE")]
    json: Option<String>,
}

pub(crate) fn run(args: &Simulate) -> Result<()> {
    let plant = args.plant.as_deref().and_then(Plant::named);
    let setup = Setup { devices: args.devices, plant, only: args.only };
    match args.seed {
        Some(seed) => replay(args, seed, &setup),
        None => simulate(args, &setup),
    }
}

fn simulate(args: &Simulate, setup: &Setup) -> Result<()> {
    let bar = progress("histories", args.seeds);
    let began = Instant::now();
    let campaign = campaign(args.from..args.from.saturating_add(args.seeds), setup, |_| bar.inc(1));
    let seconds = began.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let json = args.json.as_deref();
    show(&campaign, setup, seconds, json);
    if let Some(target) = json {
        write_json(target, &to_json(args, &campaign, setup, seconds))?;
    }
    campaign.violations.first().map_or(Ok(()), |first| Err(broken(first, setup)))
}

/// Tells one history.
fn replay(args: &Simulate, seed: u64, setup: &Setup) -> Result<()> {
    let json = args.json.as_deref();
    let (outcome, lines) = trace(seed, setup);
    lines.iter().for_each(|line| say(json, line));
    if let Some(target) = json {
        write_json(target, &outcome_json(&outcome))?;
    }
    match &outcome.violation {
        Some(_) => Err(broken(&outcome, setup)),
        None => {
            let rest = outcome.rested_after.map_or(0.0, |rest| rest.as_secs_f64());
            say(
                json,
                format_args!("no rule was broken; {} steps, at rest {rest:.0} s after the last fault", outcome.steps),
            );
            Ok(())
        }
    }
}

fn show(campaign: &Campaign, setup: &Setup, seconds: f64, json: Option<&str>) {
    let mut rows = table(&["what happened", "times"]);
    for &what in Happening::ALL {
        rows.add_row([what.name().to_owned(), campaign.counts.of(what).to_string()]);
    }
    say(json, rows);
    let missing: Vec<&str> = campaign.counts.missing().into_iter().map(Happening::name).collect();
    if !missing.is_empty() {
        say(json, format_args!("never happened: {}", missing.join(", ")));
    }
    say(
        json,
        format_args!(
            "{} histories of {} devices, {} steps in {:.1} h of their time; {} broke a rule; at rest {:.0} s after the last fault at the \
             latest; {seconds:.1} s",
            campaign.seeds,
            setup.devices,
            campaign.steps,
            campaign.simulated.as_secs_f64() / 3600.0,
            campaign.broken,
            campaign.longest_rest.as_secs_f64(),
        ),
    );
}

/// The failure of a broken history, with how to see it in the smallest form that is found quickly.
fn broken(outcome: &Outcome, setup: &Setup) -> anyhow::Error {
    let violation = outcome.violation.as_ref().map(ToString::to_string).unwrap_or_default();
    let small = shrink(outcome, setup);
    let only = small.only.map(|only| format!(" --only {only}")).unwrap_or_default();
    let plant = small.plant.map(|plant| format!(" --plant {}", plant.name())).unwrap_or_default();
    let hint = format!("`hedge simulate --seed {} --devices {}{only}{plant}` tells it", outcome.seed, small.devices);
    with_hint(format_args!("seed {}: {violation}", outcome.seed), hint)
}

fn to_json(args: &Simulate, campaign: &Campaign, setup: &Setup, seconds: f64) -> Value {
    json!({
        "from": args.from,
        "seeds": campaign.seeds,
        "devices": setup.devices,
        "plant": setup.plant.map(Plant::name),
        "steps": campaign.steps,
        "simulated_secs": campaign.simulated.as_secs_f64(),
        "longest_rest_secs": campaign.longest_rest.as_secs_f64(),
        "broken": campaign.broken,
        "violations": campaign.violations.iter().map(outcome_json).collect::<Vec<_>>(),
        "counts": counts(&campaign.counts),
        "seconds": seconds,
    })
}

fn outcome_json(outcome: &Outcome) -> Value {
    let violation = outcome.violation.as_ref().map(|violation| {
        json!({ "rule": violation.rule.name(), "at_secs": violation.at.as_secs_f64(), "text": violation.text })
    });
    json!({
        "seed": outcome.seed,
        "violation": violation,
        "steps": outcome.steps,
        "simulated_secs": outcome.simulated.as_secs_f64(),
        "rest_secs": outcome.rested_after.map(|rest| rest.as_secs_f64()),
        "counts": counts(&outcome.counts),
    })
}

fn counts(counts: &hedge_simulator::Counts) -> Map<String, Value> {
    Happening::ALL.iter().map(|&what| (what.name().to_owned(), json!(counts.of(what)))).collect()
}
