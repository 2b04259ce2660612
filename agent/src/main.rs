//! `hedge-agent`: parse, load, start, wait for a signal, drain. It ends by itself where the disk fails under the outbox.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use hedge_agent::{Agent, Config};
use hedge_config::{ENV_PREFIX, Failure};
use tokio::signal::unix::{SignalKind, signal};

/// The Hedge agent: answers inference requests on this device.
#[derive(Parser)]
#[command(name = "hedge-agent", version)]
struct Arguments {
    /// The configuration file (TOML); `HEDGE_SECTION__KEY` in the environment overrides a key.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration and stop; opens nothing.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { hedge_config::EXIT_USAGE } else { 0 };
            // Nobody is left to tell when this fails.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let config: Config = hedge_config::load(&arguments.config, ENV_PREFIX)?;
    config.resolve().map_err(|error| Failure::usage(&error))?;
    if arguments.check {
        // A closed standard output leaves nobody to tell.
        let _ = writeln!(io::stdout(), "{}: ok", arguments.config.display());
        return Ok(());
    }
    hedge_telemetry::init(&config.log).map_err(|error| Failure::usage(&error))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("agent")
        .build()
        .map_err(|error| Failure::failed(&error))?;
    let served = runtime.block_on(serve(config));
    // What is still under way then is not waited for.
    runtime.shutdown_background();
    served
}

async fn serve(config: Config) -> Result<(), Failure> {
    // Before the start, so that a signal during it is not lost.
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| Failure::failed(&error))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| Failure::failed(&error))?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(|error| Failure::failed(&error))?;
    let mut agent: Agent = hedge_agent::start(config).await.map_err(|error| Failure::failed(&error))?;
    loop {
        tokio::select! {
            failed = agent.failed() => return Err(Failure::failed(&failed)),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => {
                tracing::info!("looking for new models");
                agent.reload().await;
            }
        }
    }
    tracing::info!("draining");
    agent.shutdown().await;
    Ok(())
}
