//! `hedge-gateway`: parse, load, start, wait for a signal, drain.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::Parser;
use hedge_config::{EXIT_USAGE, Failure};
use hedge_gateway::{Config, Gateway, ModelError, StartError};

/// Answers devices' queries over MQTT with larger models.
#[derive(Debug, Parser)]
#[command(name = "hedge-gateway", version)]
struct Arguments {
    /// The configuration, TOML; HEDGE_SECTION__KEY in the environment overrides a key.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration and exit; nothing is opened.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // A closed output leaves nobody to tell.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let config: Config = hedge_config::load(&arguments.config, hedge_config::ENV_PREFIX)?;
    config.plan().map_err(|error| Failure::usage(&error))?;
    if arguments.check {
        let _ = writeln!(io::stdout(), "{}: ok", arguments.config.display());
        return Ok(());
    }
    hedge_telemetry::init(&config.log).map_err(|error| Failure::usage(&error))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("gateway")
        .build()
        .map_err(|error| Failure::failed(&error))?;
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> Result<(), Failure> {
    let mut signals = Signals::new().map_err(|error| Failure::failed(&error))?;
    let mut gateway = tokio::select! {
        started = hedge_gateway::start(config) => started.map_err(|error| start_failure(&error))?,
        signal = signals.next() => {
            tracing::info!(signal, "stopped while starting");
            return Ok(());
        }
    };
    tokio::select! {
        ended = gateway.ended() => {
            gateway.shutdown().await;
            ended.map_err(|error| Failure::failed(&error))
        }
        signal = signals.next() => {
            tracing::info!(signal, "signal received");
            drain(gateway, &mut signals).await;
            Ok(())
        }
    }
}

/// A second signal ends the wait.
async fn drain(gateway: Gateway, signals: &mut Signals) {
    tokio::select! {
        () = gateway.shutdown() => {}
        signal = signals.next() => tracing::warn!(signal, "second signal: stopping at once"),
    }
}

fn start_failure(error: &StartError) -> Failure {
    let failure = if error.is_configuration() { Failure::usage(error) } else { Failure::failed(error) };
    match error {
        StartError::Listen { .. } => failure.with_hint("choose another http.listen; port 0 takes a free one"),
        StartError::Model(ModelError::Unreadable { .. }) => failure.with_hint("set `path` of the [[models]] section"),
        StartError::Model(_) => failure.with_hint("`hedge model check FILE` says what a model needs"),
        _ => failure,
    }
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> &'static str {
        // Without a handler there is nothing to wait for; the process is then ended by the system.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        "ctrl-c"
    }
}
