//! `hedge demo`: real inputs through a real agent, broker and gateway, while the link is up, cut and healed, and when the
//! inputs are no longer what they were.
//!
//! The same number of requests and seed ask the same in every run. The same sources answer them as long as the same
//! certificate is in use; which requests are audited, and so when exactly a drift is found, differs from run to run.
//! Nothing is assumed of agent and gateway beyond their public interfaces.

mod asker;
mod calibrate;
mod client;
mod keep;
mod metrics;
mod phases;
mod progress;
mod recovery;
mod report;
mod script;
mod story;
mod table;
mod tally;
mod words;
mod world;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use anyhow::{Result, bail};
use clap::Args;
use hedge_engine::DeviceChoice;
use hedge_telemetry::LogConfig;
use hedge_zoo::digits;

use self::asker::Asker;
use self::calibrate::Attempt;
use self::client::Reply;
use self::phases::{Outcome, Ran};
use self::progress::Progress;
use self::recovery::Recovery;
use self::report::Report;
use self::script::{Phase, Request};
use self::story::Story;
use self::tally::{Ledger, PhaseTally, Tally};
use self::world::{Files, World};
use crate::output::{say, write_json};

/// What is logged without `RUST_LOG`: warnings, but neither of the link that the demonstration itself cuts, nor of the alarm
/// that it provokes, nor of a Vulkan loader without a driver, which the probe takes for what it is: no GPU.
const LOG_LEVEL: &str = "warn,hedge_link=error,hedge_agent::cloud=error,hedge_agent::routing=error,wgpu_hal=off";

/// `hedge demo`.
#[derive(Args)]
pub(crate) struct DemoArgs {
    /// Requests in all: a quarter in phase normal, an eighth each in cut and healed, half in drift. With fewer than about
    /// 12,000 the run may end before the drift is found and a new certificate is in use.
    #[arg(long, value_name = "N", default_value_t = 12_000, value_parser = clap::value_parser!(u32).range(8..=100_000))]
    requests: u32,
    /// auto (the fastest that agrees with the CPU), gpu or cpu.
    #[arg(long, default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// Which inputs, and which of them are repeated.
    #[arg(long, value_name = "S", default_value_t = digits::SEED)]
    seed: u64,
    /// Writes the figures as JSON, `-` for standard output.
    #[arg(long, value_name = "FILE")]
    json: Option<String>,
    /// Keeps inputs, outputs and where each came from in this folder, with the models and the first certificate.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// What is known before anything runs.
struct Prepared {
    requests: Vec<Request>,
    /// The cloud model's class of each.
    classes: Vec<usize>,
    attempt: Attempt,
}

/// Runs the demonstration.
pub(crate) async fn run(args: DemoArgs) -> Result<()> {
    let level = std::env::var("RUST_LOG").unwrap_or_else(|_| LOG_LEVEL.to_owned());
    hedge_telemetry::init(&LogConfig { level, ..LogConfig::default() })?;
    let mut interrupt: Interrupt = Box::pin(async {
        if tokio::signal::ctrl_c().await.is_err() {
            // Without a handler Ctrl-C still ends the process, only less tidily.
            std::future::pending::<()>().await;
        }
    });
    if let Some(to) = &args.keep {
        // Now rather than after the run, whose figures would be lost.
        keep::make_folder(to)?;
    }
    let files = Files::write().await?;
    let prepared = unless(&mut interrupt, prepare(&args, &files)).await?;
    say(args.json.as_deref(), words::calibration(&prepared.attempt));
    let certificate = prepared.attempt.as_ref().ok();
    let manifest = digits::manifest();
    let shadow = world::shadow(prepared.requests.len());
    let world = unless(&mut interrupt, World::start(files, args.device, &manifest, certificate, shadow)).await?;
    let shown = unless(&mut interrupt, show(&args, &world, &prepared)).await;
    world.stop().await;
    let (ran, report) = shown?;
    if let Some(to) = &args.keep {
        keep::write(to, &prepared.requests, &prepared.classes, &ran, certificate)?;
        say(args.json.as_deref(), format_args!("Inputs, outputs and sources are in {}.", to.display()));
    }
    if let Some(target) = &args.json {
        write_json(target, &report.to_json(args.seed))?;
    }
    report.verdict()
}

type Interrupt = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Does `work`, unless Ctrl-C comes first.
async fn unless<T>(interrupt: &mut Interrupt, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        () = interrupt => bail!("interrupted; no figures were taken"),
        done = work => done,
    }
}

/// The requests, what the cloud model says to each, and a certificate to begin with.
async fn prepare(args: &DemoArgs, files: &Files) -> Result<Prepared> {
    let (total, seed) = (args.requests as usize, args.seed);
    let asker = Asker::load(&files.edge(), &files.cloud(), args.device).await?;
    let progress = Progress::new("certifying: asking both models", calibrate::PLAN.total());
    let attempt = calibrate::certify(&asker, seed, |done| progress.at(done)).await?;
    progress.end();
    let requests = tokio::task::spawn_blocking(move || script::write(total, seed)).await?;
    let progress = Progress::new("asking the cloud model itself", total);
    let classes = asker.cloud_classes(&requests, |done| progress.at(done)).await?;
    progress.end();
    Ok(Prepared { requests, classes, attempt })
}

/// Runs the phases and shows each as it ends, then the totals and what they mean.
async fn show(args: &DemoArgs, world: &World, prepared: &Prepared) -> Result<(Vec<Ran>, Report)> {
    let Prepared { requests, classes, attempt } = prepared;
    let json = args.json.as_deref();
    let parts = world.parts().await?;
    let progress = Progress::new(Phase::Normal.name(), requests.len());
    let (mut all, mut phases) = (Vec::new(), Vec::new());
    let (mut ledger, mut story) = (Ledger::default(), Story::default());
    for phase in Phase::ALL {
        let mut line = progress.phase(phase);
        let ran = phases::run(world, phase, requests, &mut story, &mut |outcome| line.seen(outcome)).await?;
        ledger.enter(&ran.outcomes);
        let tally = PhaseTally { phase: ran.phase, tally: Tally::of(&ran, requests, classes) };
        progress.pause(|| say(json, table::phase(&tally)));
        phases.push(tally);
        all.push(ran);
    }
    progress.end();
    let transitions = story.transitions(&all);
    let report = Report {
        total: Tally::total(phases.iter().map(|phase| &phase.tally)),
        phases,
        lost: ledger.lost(),
        duplicated: ledger.duplicated(),
        parts,
        attempt: attempt.clone(),
        shadow: world::shadow(requests.len()),
        recovery: Recovery::of(&transitions, &all, classes),
        transitions,
        error: all.iter().flat_map(|ran| &ran.outcomes).find_map(|outcome| outcome.error()),
    };
    say(json, table::totals(&report));
    say(json, table::transitions(&report));
    say(json, words::words(&report));
    Ok((all, report))
}

impl Outcome {
    fn error(&self) -> Option<String> {
        match &self.reply {
            Reply::Answer(_) => None,
            Reply::Failed(error) | Reply::Nothing(error) => Some(format!("request {}: {error}", self.index)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_interrupt_ends_what_is_under_way() {
        let mut never: Interrupt = Box::pin(std::future::pending());
        assert_eq!(unless(&mut never, async { Ok(3) }).await.unwrap(), 3);
        let mut now: Interrupt = Box::pin(std::future::ready(()));
        assert!(unless(&mut now, std::future::pending::<Result<()>>()).await.is_err());
    }
}
