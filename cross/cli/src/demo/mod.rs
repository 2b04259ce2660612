//! `hedge demo`: real inputs through a real agent, broker and gateway, while the link is up, cut and healed.
//!
//! The same number of requests and seed ask the same in every run, and in phase `normal` the same sources answer them: what
//! may differ is how long it takes. Nothing is assumed of agent and gateway beyond their public interfaces.

mod client;
mod keep;
mod metrics;
mod phases;
mod reference;
mod script;
mod table;
mod tally;
mod world;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Result, bail};
use clap::Args;
use hedge_engine::DeviceChoice;
use hedge_telemetry::LogConfig;
use hedge_zoo::digits;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use self::client::{Reply, Source};
use self::phases::{Outcome, Ran};
use self::script::{Phase, Request};
use self::tally::{Ledger, PhaseTally, Tally};
use self::world::{Parts, World};
use crate::failure::with_hint;
use crate::output::{say, write_json};

/// What is logged without `RUST_LOG`: warnings, but neither of the link that the demonstration itself cuts, nor of a Vulkan
/// loader without a driver, which the probe takes for what it is: no GPU.
const LOG_LEVEL: &str = "warn,hedge_link=error,hedge_agent::cloud=error,wgpu_hal=off";

/// `hedge demo`.
#[derive(Args)]
pub(crate) struct DemoArgs {
    /// Requests in all: half of them in phase normal, a quarter each in cut and healed.
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(4..=100_000))]
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
    /// Keeps inputs, outputs and where each came from in this folder, with the models.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// The figures of a demonstration.
struct Report {
    phases: Vec<PhaseTally>,
    total: Tally,
    lost: usize,
    duplicated: usize,
    parts: Parts,
    /// The first thing that went wrong.
    error: Option<String>,
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
    let (requests, classes) = unless(&mut interrupt, prepare(&args)).await?;
    let world = unless(&mut interrupt, World::start(args.device, &digits::manifest())).await?;
    let shown = unless(&mut interrupt, show(&args, &world, &requests, &classes)).await;
    world.stop().await;
    let (ran, report) = shown?;
    if let Some(to) = &args.keep {
        keep::write(to, &requests, &ran)?;
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

/// The requests, and the cloud model's class of each.
async fn prepare(args: &DemoArgs) -> Result<(Arc<[Request]>, Vec<usize>)> {
    let (total, seed) = (args.requests as usize, args.seed);
    let requests: Arc<[Request]> = tokio::task::spawn_blocking(move || script::write(total, seed).into()).await?;
    let progress = Progress::new("asking the cloud model itself", total);
    let classes = reference::classes(&requests, args.device, |done| progress.bar.set_position(done as u64)).await?;
    progress.end();
    Ok((requests, classes))
}

/// Runs the phases and shows each as it ends, then the totals and what they mean.
async fn show(args: &DemoArgs, world: &World, requests: &[Request], classes: &[usize]) -> Result<(Vec<Ran>, Report)> {
    let json = args.json.as_deref();
    let parts = world.parts().await?;
    let progress = Progress::new(Phase::Normal.name(), requests.len());
    let (mut all, mut phases, mut ledger) = (Vec::new(), Vec::new(), Ledger::default());
    for phase in Phase::ALL {
        let mut line = progress.phase(phase);
        let ran = phases::run(world, phase, requests, &mut |outcome| line.seen(outcome)).await?;
        ledger.enter(&ran.outcomes);
        let tally = PhaseTally { phase: ran.phase, tally: Tally::of(&ran, requests, classes) };
        progress.pause(|| say(json, table::phase(&tally)));
        phases.push(tally);
        all.push(ran);
    }
    progress.end();
    let report = Report {
        total: Tally::total(phases.iter().map(|phase| &phase.tally)),
        phases,
        lost: ledger.lost(),
        duplicated: ledger.duplicated(),
        parts,
        error: all.iter().flat_map(|ran| &ran.outcomes).find_map(|outcome| outcome.error()),
    };
    say(json, table::totals(&report));
    say(json, table::words(&report));
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

impl Report {
    fn on_software_gpu(&self) -> bool {
        [&self.parts.edge, &self.parts.cloud].iter().any(|part| part.device.ends_with("software)"))
    }

    fn to_json(&self, seed: u64) -> Value {
        json!({
            "phases": self.phases.iter().map(phase_json).collect::<Vec<_>>(),
            "total": tally_json(&self.total),
            "lost": self.lost,
            "duplicated": self.duplicated,
            "device": self.parts.edge.device,
            "cloud_device": self.parts.cloud.device,
            "software_gpu": self.on_software_gpu(),
            "models": { "edge": self.parts.edge.digest, "cloud": self.parts.cloud.digest },
            "seed": seed,
        })
    }

    /// An error unless every request has exactly one answer.
    fn verdict(&self) -> Result<()> {
        let (lost, failed, duplicated) = (self.lost, self.total.failed, self.duplicated);
        if (lost, failed, duplicated) == (0, 0, 0) {
            return Ok(());
        }
        let first = self.error.as_deref().map(|error| format!("; first: {error}")).unwrap_or_default();
        Err(with_hint(
            format!("{lost} requests were lost, {failed} failed and {duplicated} were answered more than once{first}"),
            "RUST_LOG=debug shows what agent and gateway did; --keep DIR names each request's error",
        ))
    }
}

fn phase_json(PhaseTally { phase, tally }: &PhaseTally) -> Value {
    let mut value = tally_json(tally);
    value["name"] = phase.name().into();
    value
}

fn tally_json(tally: &Tally) -> Value {
    let percentile = |p: f64| {
        let [edge, cache, cloud] = Source::ALL.map(|source| tally.from(source).percentile_ms(p));
        json!({ "edge": edge, "cache": cache, "cloud": cloud })
    };
    json!({
        "requests": tally.requests,
        "edge": tally.from(Source::Edge).answers(),
        "cache": tally.from(Source::Cache).answers(),
        "cloud": tally.from(Source::Cloud).answers(),
        "uncertified": tally.uncertified,
        "failed": tally.failed,
        "agreement": tally.agreement(),
        "accuracy": tally.accuracy(),
        "p50_ms": percentile(0.5),
        "p99_ms": percentile(0.99),
        "bytes_up": tally.bytes_up,
        "seconds": tally.took.as_secs_f64(),
    })
}

/// The live line; indicatif draws it on a terminal only.
struct Progress {
    bar: ProgressBar,
}

/// The live line of one phase: answers so far by source, and errors.
struct PhaseLine<'a> {
    bar: &'a ProgressBar,
    answers: [usize; 3],
    errors: usize,
}

impl Progress {
    fn new(stage: &'static str, requests: usize) -> Self {
        let style = ProgressStyle::with_template("{prefix:6} {bar:30} {pos}/{len} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        Self { bar: ProgressBar::new(requests as u64).with_style(style).with_prefix(stage) }
    }

    fn phase(&self, phase: Phase) -> PhaseLine<'_> {
        self.bar.set_prefix(phase.name());
        self.bar.set_message("");
        PhaseLine { bar: &self.bar, answers: [0; 3], errors: 0 }
    }

    /// Prints without the line in the way.
    fn pause(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl PhaseLine<'_> {
    fn seen(&mut self, outcome: &Outcome) {
        match &outcome.reply {
            Reply::Answer(answer) => self.answers[answer.source as usize] += 1,
            Reply::Failed(_) | Reply::Nothing(_) => self.errors += 1,
        }
        let ([edge, cache, cloud], errors) = (self.answers, self.errors);
        self.bar.inc(1);
        self.bar.set_message(format!("edge {edge}, cache {cache}, cloud {cloud}, failed {errors}"));
    }
}

#[cfg(test)]
mod tests {
    use super::client::Served;
    use super::*;

    fn report(change: impl FnOnce(&mut Report)) -> Report {
        let served = |device: &str| Served { digest: "sha256:00".into(), device: device.into() };
        let mut report = Report {
            phases: Phase::ALL.map(|phase| PhaseTally { phase, tally: Tally::default() }).into(),
            total: Tally::default(),
            lost: 0,
            duplicated: 0,
            parts: Parts { edge: served("cpu (flex)"), cloud: served("gpu (llvmpipe, vulkan, software)") },
            error: Some("request 7: 500: no".into()),
        };
        change(&mut report);
        report
    }

    #[test]
    fn only_exactly_one_answer_a_request_is_success() {
        assert!(report(|_| {}).verdict().is_ok());
        let failures: [fn(&mut Report); 3] =
            [|report| report.lost = 1, |report| report.duplicated = 1, |report| report.total.failed = 1];
        for failure in failures {
            let error = report(failure).verdict().unwrap_err().to_string();
            assert!(error.contains('1') && error.contains("request 7: 500: no"), "{error}");
        }
    }

    #[test]
    fn the_json_has_every_phase_and_null_where_nothing_was_measured() {
        let value = report(|_| {}).to_json(9);
        let names: Vec<&str> =
            value["phases"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["normal", "cut", "healed"]);
        let cut = &value["phases"][1];
        for key in ["requests", "edge", "cache", "cloud", "uncertified", "failed", "bytes_up"] {
            assert_eq!(cut[key], 0, "{key}");
        }
        for key in ["agreement", "accuracy"] {
            assert!(cut.as_object().unwrap().contains_key(key) && cut[key].is_null(), "{key}");
        }
        assert_eq!(cut["p99_ms"], json!({ "edge": null, "cache": null, "cloud": null }));
        assert_eq!((&value["lost"], &value["duplicated"], &value["seed"]), (&json!(0), &json!(0), &json!(9)));
        assert_eq!(value["models"], json!({ "edge": "sha256:00", "cloud": "sha256:00" }));
    }

    #[test]
    fn a_software_gpu_is_said() {
        assert_eq!(report(|_| {}).to_json(1)["software_gpu"], true);
        let report = report(|report| report.parts.cloud.device = "cpu (flex)".into());
        assert_eq!(report.to_json(1)["software_gpu"], false);
    }

    #[tokio::test]
    async fn an_interrupt_ends_what_is_under_way() {
        let mut never: Interrupt = Box::pin(std::future::pending());
        assert_eq!(unless(&mut never, async { Ok(3) }).await.unwrap(), 3);
        let mut now: Interrupt = Box::pin(std::future::ready(()));
        assert!(unless(&mut now, std::future::pending::<Result<()>>()).await.is_err());
    }
}
