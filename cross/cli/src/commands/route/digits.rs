//! The bundled task's models and its field stream, as the commands of `hedge route` take them.

use std::path::PathBuf;

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use hedge_bundle::{Bundle, Comparison};
use hedge_engine::DeviceChoice;
use hedge_graph::Graph;
use hedge_tensor::{NamedTensor, Tensor};
use hedge_zoo::digits::{self, Classes, Conditions, Drift, FieldStream};

use super::duo::{Asked, Duo};
use super::pairs_file::Split;
use crate::failure::bad_usage;
use crate::output::progress;

/// Requests asked at once.
const BATCH: usize = 100;

/// The bundled tasks.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Task {
    /// Handwritten digits, distorted as a camera in the field would see them.
    Digits,
}

/// Which models are asked.
#[derive(Args)]
pub(super) struct Models {
    /// The task whose requests are asked.
    #[arg(long, value_enum)]
    task: Task,
    /// The edge model, a bundle or an ONNX file; default: the task's own.
    #[arg(long, value_name = "B")]
    bundle: Option<PathBuf>,
    /// The cloud model, a bundle or an ONNX file; default: the task's own.
    #[arg(long, value_name = "T.onnx")]
    teacher: Option<PathBuf>,
    /// auto (the fastest that agrees with the CPU), gpu or cpu.
    #[arg(long, default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
}

impl Models {
    pub(super) fn load(&self) -> Result<Duo> {
        let Task::Digits = self.task;
        let graph = |path: &Option<PathBuf>, own: &'static [u8]| match path {
            Some(path) => Ok(Bundle::open(path)
                .with_context(|| format!("{} is not a model that can be used", path.display()))?
                .graph),
            None => Graph::read(Bytes::from_static(own)).context("the bundled model"),
        };
        let (edge, cloud) = (graph(&self.bundle, digits::edge_onnx())?, graph(&self.teacher, digits::cloud_onnx())?);
        let comparison = Comparison::TopClass { output: digits::OUTPUT.to_owned() };
        Duo::load(&edge, &cloud, self.device, comparison, digits::OUTPUT.to_owned())
    }
}

/// Which requests are asked.
#[derive(Args)]
pub(super) struct Field {
    /// The seed of the requests.
    #[arg(long, value_name = "S", default_value_t = digits::SEED)]
    seed: u64,
    /// How the field differs from training: none, less-noise, easier, rotation, noise or drift (rotation and noise).
    #[arg(long, default_value_t = Drift::None)]
    drift: Drift,
    /// The noise's standard deviation, from and to, as shares of full brightness.
    #[arg(long, value_name = "LOW,HIGH", value_delimiter = ',', num_args = 2)]
    noise: Option<Vec<f32>>,
    /// The largest rotation in degrees, each way.
    #[arg(long, value_name = "DEG")]
    rotation: Option<f64>,
    /// The digits that occur.
    #[arg(long, value_name = "0,1,…", value_delimiter = ',')]
    classes: Option<Vec<u8>>,
}

impl Field {
    /// The drift's conditions with what is given beside it.
    pub(super) fn conditions(&self) -> Result<Conditions> {
        let mut conditions = self.drift.conditions();
        if let Some(noise) = &self.noise {
            conditions.noise = noise_range(noise)?;
        }
        if let Some(degrees) = self.rotation {
            conditions.half_angle = half_angle(degrees)?;
        }
        if let Some(digits) = &self.classes {
            conditions.classes =
                Classes::of(digits).map_err(|error| bad_usage(error, "name some, such as --classes 0,6,7"))?;
        }
        Ok(conditions)
    }

    pub(super) fn stream(&self, conditions: Conditions, split: Split) -> FieldStream {
        let stream = match split {
            Split::Tune => digits::Split::Tune,
            Split::Cal => digits::Split::Calibration,
        };
        FieldStream::under(conditions, stream, self.seed)
    }
}

fn noise_range(noise: &[f32]) -> Result<(f32, f32)> {
    match noise {
        &[low, high] if (0.0..=high).contains(&low) && high <= 1.0 => Ok((low, high)),
        _ => Err(bad_usage(
            "--noise is no range of shares of full brightness",
            "give two numbers of 0 to 1, the smaller one first, such as --noise 0.02,0.13",
        )),
    }
}

fn half_angle(degrees: f64) -> Result<f32> {
    // Half the angle has its tangent at less than 1 up to here; beyond, a six is a nine.
    const MOST: f64 = 90.0;
    if (0.0..=MOST).contains(&degrees) {
        Ok((degrees / 2.0).to_radians().tan() as f32)
    } else {
        Err(bad_usage(format_args!("--rotation {degrees} is out of range"), "give degrees of 0 to 90"))
    }
}

/// Asks both models the first `count` samples of `stream`; `each` is told the true class and what they said, in order.
pub(super) fn ask(
    duo: &mut Duo,
    mut stream: FieldStream,
    count: usize,
    what: &str,
    mut each: impl FnMut(u8, Asked),
) -> Result<()> {
    let bar = progress(what, count as u64);
    let mut left = count;
    while left > 0 {
        let (images, labels): (Vec<Tensor>, Vec<u8>) =
            stream.by_ref().take(left.min(BATCH)).map(|sample| (sample.image, sample.label)).unzip();
        let asked = duo.ask(&[NamedTensor::new(digits::INPUT, Tensor::stack(&images)?)])?;
        left -= labels.len();
        bar.inc(labels.len() as u64);
        labels.into_iter().zip(asked).for_each(|(label, asked)| each(label, asked));
    }
    bar.finish_and_clear();
    Ok(())
}
