//! `hedge`: one tool for people. It parses, runs one command and turns its failure into a message, a hint and an exit code.

mod commands;
mod demo;
mod failure;
mod npy;
mod output;
mod plot;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Hybrid edge inference: answers on the device, asks the cloud only for what it must.
#[derive(Parser)]
#[command(name = "hedge", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs broker, gateway and agent in one process on real inputs, and says what came of each request.
    Demo(demo::DemoArgs),
    /// The bundled tasks.
    #[command(subcommand)]
    Zoo(commands::zoo::Zoo),
    /// Checks, runs and times ONNX models.
    #[command(subcommand)]
    Model(commands::model::Model),
    /// Packs, inspects and verifies bundles: models with all that is known of them.
    #[command(subcommand)]
    Bundle(commands::bundle::Bundle),
    /// Certifies which answers may stay on the device, simulates it, and reports on it.
    #[command(subcommand)]
    Route(Box<commands::route::Route>),
    /// Lists the devices that the probe found and why some are refused, or how the devices of a running agent do.
    Devices(commands::devices::Devices),
    /// Simulates devices, gateways and a broker under faults of network, disks and clocks, one seeded history after the other.
    Simulate(commands::simulate::Simulate),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return failure::usage(&error),
    };
    let outcome = match cli.command {
        Command::Demo(args) => commands::asynchronously(demo::run(args)),
        Command::Zoo(zoo) => commands::quietly(|| commands::zoo::run(zoo)),
        Command::Model(model) => commands::quietly(|| commands::model::run(model)),
        Command::Bundle(bundle) => commands::quietly(|| commands::bundle::run(bundle)),
        Command::Route(route) => commands::quietly(|| commands::route::run(&route)),
        Command::Devices(devices) => commands::quietly(|| commands::devices::run(&devices)),
        Command::Simulate(simulate) => commands::quietly(|| commands::simulate::run(&simulate)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn every_command_can_be_parsed() {
        super::Cli::command().debug_assert();
    }
}
