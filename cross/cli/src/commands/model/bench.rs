//! `hedge model bench`: latencies of one model, to be held beside another engine's in the same run.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use hedge_engine::{Golden, Signature};
use hedge_tensor::{NamedTensor, Tensor};
use serde_json::json;

use super::{ModelPath, Placement};
use crate::output::{say, table, write_json};

/// At least this many runs are timed, however long they take.
const FEWEST_RUNS: usize = 10;

#[derive(Args)]
pub(crate) struct Bench {
    #[command(flatten)]
    model: ModelPath,
    /// Rows in each run, for models with a free leading dimension.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Threads of the CPU executor.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,
    /// How long to run.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    #[command(flatten)]
    placement: Placement,
    /// Writes the figures as JSON, `-` for standard output.
    #[arg(long, value_name = "FILE")]
    json: Option<String>,
}

pub(crate) fn run(args: &Bench) -> Result<()> {
    hedge_engine::set_threads(usize::from(args.threads));
    let started = Instant::now();
    let mut model = args.placement.load(&args.model.path)?;
    let load = started.elapsed();
    let inputs = inputs(model.signature(), usize::from(args.batch))?;
    let started = Instant::now();
    model.run(&inputs)?;
    let first = started.elapsed();
    let times = time(&mut model, &inputs, Duration::try_from_secs_f64(args.seconds)?)?;
    let device = model.device().label();
    report(args, &Figures { load, first, times, device, executor: model.executor() })
}

/// The rows that a golden run would take, repeated to the batch.
fn inputs(signature: &Signature, batch: usize) -> Result<Vec<NamedTensor>> {
    let golden = Golden::made_up(signature)?;
    if batch == 1 {
        return Ok(golden.inputs);
    }
    if !signature.batched {
        bail!("this model's leading dimension is fixed; run it with --batch 1");
    }
    let repeat = |input: NamedTensor| {
        let rows = vec![input.tensor; batch];
        Ok(NamedTensor::new(input.name, Tensor::stack(&rows)?))
    };
    golden.inputs.into_iter().map(repeat).collect()
}

fn time(model: &mut hedge_engine::Model, inputs: &[NamedTensor], budget: Duration) -> Result<Vec<Duration>> {
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < FEWEST_RUNS || begin.elapsed() < budget {
        let started = Instant::now();
        model.run(inputs)?;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}

struct Figures {
    load: Duration,
    first: Duration,
    /// Sorted.
    times: Vec<Duration>,
    device: String,
    executor: &'static str,
}

impl Figures {
    fn percentile(&self, share: f64) -> f64 {
        let index = (share * (self.times.len() - 1) as f64).round() as usize;
        milliseconds(self.times[index])
    }
}

fn report(args: &Bench, figures: &Figures) -> Result<()> {
    let (p50, p99, min) = (figures.percentile(0.5), figures.percentile(0.99), figures.percentile(0.0));
    let (load, first) = (milliseconds(figures.load), milliseconds(figures.first));
    let rss = peak_rss_mb();
    let mut rows = table(&["p50 ms", "min ms", "p99 ms", "load ms", "first ms", "peak RSS MB", "runs", "device"]);
    let rss_text = rss.map_or_else(|| "-".to_owned(), |rss| format!("{rss:.1}"));
    rows.add_row([
        format!("{p50:.4}"),
        format!("{min:.4}"),
        format!("{p99:.4}"),
        format!("{load:.1}"),
        format!("{first:.2}"),
        rss_text,
        figures.times.len().to_string(),
        figures.device.clone(),
    ]);
    let json = args.json.as_deref();
    say(json, rows);
    let Some(target) = json else { return Ok(()) };
    let value = json!({
        "p50_ms": p50,
        "min_ms": min,
        "p99_ms": p99,
        "load_ms": load,
        "first_ms": first,
        "rss_mb": rss,
        "device": figures.device,
        "executor": figures.executor,
        "batch": args.batch,
        "threads": args.threads,
        "runs": figures.times.len(),
    });
    write_json(target, &value)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The largest resident set so far (proc(5), VmHWM), where there is a `/proc`.
fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes / 1024.0)
}
