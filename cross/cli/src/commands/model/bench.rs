//! `hedge model bench`: latencies of one model, to be held beside another engine's in the same run.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use hedge_engine::{DeviceChoice, Model, Port, Signature};
use hedge_graph::Dim;
use hedge_tensor::{DType, NamedTensor, Tensor, TensorError};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use super::{ModelPath, Placement};
use crate::output::{say, table, write_json};

/// At least this many runs are timed, however long they take.
const FEWEST_RUNS: usize = 10;

/// Whole numbers are drawn below this: pixels would be, and so are the ids that every vocabulary has.
const WHOLE_NUMBERS: i64 = 256;

#[derive(Args)]
pub(crate) struct Bench {
    #[command(flatten)]
    model: ModelPath,
    /// Rows in each run, for models with a free leading dimension; one of the same name elsewhere is of this size, too.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// The size of every other free dimension, such as a text's length.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..))]
    length: u16,
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
    let devices = look_for_devices(args.placement.device);
    let started = Instant::now();
    let mut model = args.placement.prepare(&args.model.path)?;
    let load = started.elapsed();
    let inputs = inputs(model.signature(), usize::from(args.batch), usize::from(args.length))?;
    let started = Instant::now();
    model.run(&inputs)?;
    let first = started.elapsed();
    let times = time(&mut model, &inputs, Duration::try_from_secs_f64(args.seconds)?)?;
    let device = model.device().label();
    report(args, &Figures { devices, load, first, times, device, executor: model.executor() })
}

/// Looks for devices, which a process does once, whatever it loads later; returns how long that took.
fn look_for_devices(choice: DeviceChoice) -> Duration {
    let started = Instant::now();
    if choice != DeviceChoice::Cpu {
        hedge_engine::probe();
    }
    started.elapsed()
}

/// Random inputs, the same in every run; what a mask names is all ones.
fn inputs(signature: &Signature, batch: usize, length: usize) -> Result<Vec<NamedTensor>> {
    if batch > 1 && !signature.batched {
        bail!("this model's leading dimension is fixed; run it with --batch 1");
    }
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    // A name is one size: that of the rows, wherever it stands, is the batch's.
    let leading = signature.inputs.iter().filter_map(|port| port.shape.as_ref()?.first());
    let rows: Vec<&Dim> = leading.filter(|dim| matches!(dim, Dim::Named(_))).collect();
    let mut input = |port: &Port| {
        let size = |(index, dim): (usize, &Dim)| match dim {
            Dim::Known(size) => *size,
            dim if index == 0 || rows.contains(&dim) => batch,
            _ => length,
        };
        let Some(dims) = &port.shape else {
            bail!("input {:?} may have any number of dimensions; it cannot be drawn", port.name)
        };
        let shape: Vec<usize> = dims.iter().enumerate().map(size).collect();
        Ok(NamedTensor::new(port.name.clone(), drawn(port, &shape, &mut rng)?))
    };
    signature.inputs.iter().map(&mut input).collect()
}

fn drawn(port: &Port, shape: &[usize], rng: &mut ChaCha8Rng) -> Result<Tensor, TensorError> {
    let count = shape.iter().product();
    let whole: Vec<i64> = if port.name.contains("mask") {
        vec![1; count]
    } else {
        (0..count).map(|_| rng.random_range(0..WHOLE_NUMBERS)).collect()
    };
    let mut floats = || (0..count).map(|_| rng.random_range(-1.0f32..1.0)).collect::<Vec<f32>>();
    match port.dtype {
        DType::F32 => Tensor::from_slice(shape, &floats()),
        DType::F64 => Tensor::from_slice(shape, &floats().into_iter().map(f64::from).collect::<Vec<_>>()),
        DType::F16 => Tensor::from_slice(shape, &floats().into_iter().map(half::f16::from_f32).collect::<Vec<_>>()),
        DType::Bool => Tensor::bools(shape, &whole.iter().map(|value| value % 2 == 1).collect::<Vec<_>>()),
        other => {
            let bytes = whole.iter().flat_map(|value| value.to_le_bytes()[..other.size_bytes()].to_vec());
            Tensor::new(other, shape.to_vec(), bytes.collect::<Vec<u8>>().into())
        }
    }
}

fn time(model: &mut Model, inputs: &[NamedTensor], budget: Duration) -> Result<Vec<Duration>> {
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
    /// Until the machine's devices were known.
    devices: Duration,
    /// From the file until the model takes its first input.
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
        "devices_ms": milliseconds(figures.devices),
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
