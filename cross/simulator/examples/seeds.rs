//! Exploration.
#![allow(clippy::unwrap_used, clippy::print_stdout)]
use hedge_simulator::*;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (from, to, devices) =
        (args[1].parse::<u64>().unwrap(), args[2].parse::<u64>().unwrap(), args[3].parse().unwrap());
    let plant = args.get(4).filter(|p| *p != "-").map(|p| Plant::named(p).unwrap());
    let setup = Setup { devices, plant, only: None };
    if args.get(5).is_some() {
        let setup = Setup { only: args[5].parse().ok(), ..setup };
        let (outcome, lines) = trace(from, &setup);
        for line in lines {
            println!("{line}");
        }
        println!("{:?}", outcome.violation);
        return;
    }
    let began = std::time::Instant::now();
    let campaign = campaign(from..to, &setup, |_| ());
    let took = began.elapsed();
    for what in Happening::ALL {
        println!("{:9} {}", campaign.counts.of(*what), what.name());
    }
    for o in &campaign.violations {
        let text = o.violation.as_ref().unwrap().to_string();
        println!("seed {} {}", o.seed, text.chars().take(600).collect::<String>());
    }
    println!(
        "{} seeds, {} broken, {} steps, {:?} simulated, rest {:?}, took {took:?}",
        campaign.seeds, campaign.broken, campaign.steps, campaign.simulated, campaign.longest_rest
    );
}
