//! Requests of a task or a data file, asked of both models, each for one part: fit, tune or calibration.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use hedge_certify::{Features, Role};
use hedge_tensor::{NamedTensor, Tensor};
use hedge_zoo::digits::{self, Drift, FieldStream};
use indicatif::ProgressBar;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::data_file::DataFile;
use super::duo::{Asked, Duo};
use super::field::Field;
use super::models::{Loaded, Models, Task};
use crate::failure::bad_usage;
use crate::output::progress;

/// Where requests come from, and who is asked.
#[derive(Args)]
pub(super) struct Source {
    /// Asks the requests of a bundled task.
    #[arg(long, value_enum, group = "given")]
    task: Option<Task>,
    /// Asks the samples of a safetensors file.
    ///
    /// It holds a tensor for each input of the models, by the input's name and of its type, samples along the first dimension:
    /// what the model takes, after the bundle's transforms. Beside them, where wanted, whole numbers (U8, I32 or I64), one a
    /// sample: `split` with 0 to fit the agreement head, 1 to choose score and thresholds, 2 to certify by (default: a fifth, a
    /// fifth and the rest, drawn by --seed), and `label` with the true class, which is reported on and never certified by.
    #[arg(long, value_name = "D.safetensors", group = "given", requires_all = ["bundle", "teacher"])]
    pub(super) data: Option<PathBuf>,
    #[command(flatten)]
    pub(super) models: Models,
    /// The task's requests to fit the agreement head on, where that is a choice.
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    fit: usize,
    /// The task's requests to choose score and thresholds from.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    tune: usize,
    /// The task's requests to certify by.
    #[arg(long, value_name = "N", default_value_t = 40_000)]
    cal: usize,
    /// The seed of requests, of what a data file's samples are for, and of all draws.
    #[arg(long, value_name = "S", default_value_t = digits::SEED)]
    pub(super) seed: u64,
    #[command(flatten)]
    field: Field,
}

/// What both models said to one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) features: Features,
    pub(super) differs: bool,
    /// The true class.
    pub(super) label: Option<u32>,
    /// The edge model's class.
    pub(super) edge: u32,
    /// The cloud model's.
    pub(super) cloud: Option<u32>,
}

/// Answers by what they are for.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) fit: Vec<Seen>,
    pub(super) tune: Vec<Seen>,
    pub(super) cal: Vec<Seen>,
}

impl Gathered {
    fn part(&mut self, role: Role) -> &mut Vec<Seen> {
        match role {
            Role::Fit => &mut self.fit,
            Role::Tune => &mut self.tune,
            Role::Calibration => &mut self.cal,
        }
    }
}

impl Source {
    /// Loads the models and asks them; without `fit` no request is spent on the agreement head.
    pub(super) fn gather(&self, fit: bool) -> Result<(Loaded, Gathered)> {
        let mut loaded = self.models.load()?;
        let gathered = match &self.data {
            Some(path) => self.ask_data(&mut loaded.duo, &DataFile::read(path)?, fit)?,
            None => self.ask_task(&mut loaded.duo, fit)?,
        };
        if gathered.tune.is_empty() || gathered.cal.is_empty() {
            return Err(bad_usage(
                "there is no request of part tune or of part calibration",
                "give samples of both in `split` (1 and 2), or --tune and --cal of at least 1",
            ));
        }
        Ok((loaded, gathered))
    }

    /// Whether a bundled task is asked.
    pub(super) fn is_task(&self) -> bool {
        self.task.is_some()
    }

    /// Asks as many requests as are certified by, under other conditions and apart from all others.
    pub(super) fn ask_under(&self, duo: &mut Duo, drift: Drift) -> Result<Vec<Seen>> {
        let stream = FieldStream::under(drift.conditions(), digits::Split::Test, self.seed);
        let mut seen = Vec::with_capacity(self.cal);
        ask_stream(duo, stream, self.cal, &format!("asking both: {drift}"), &mut seen)?;
        Ok(seen)
    }

    fn ask_task(&self, duo: &mut Duo, fit: bool) -> Result<Gathered> {
        let mut gathered = Gathered::default();
        for (role, split, count) in [
            // Of the field, as the others, and apart from them.
            (Role::Fit, digits::Split::Audit, if fit { self.fit } else { 0 }),
            (Role::Tune, digits::Split::Tune, self.tune),
            (Role::Calibration, digits::Split::Calibration, self.cal),
        ] {
            let stream = self.field.stream(split, self.seed)?;
            ask_stream(duo, stream, count, &format!("asking both: {role}"), gathered.part(role))?;
        }
        Ok(gathered)
    }

    fn ask_data(&self, duo: &mut Duo, data: &DataFile, fit: bool) -> Result<Gathered> {
        let roles = data.roles.clone().unwrap_or_else(|| drawn_roles(data.samples(), self.seed, fit));
        let mut gathered = Gathered::default();
        for role in Role::ALL {
            let samples: Vec<usize> = (0..data.samples()).filter(|&sample| roles[sample] == role).collect();
            if role == Role::Fit && !fit {
                continue;
            }
            let bar = progress(&format!("asking both: {role}"), samples.len() as u64);
            for batch in samples.chunks(duo.batch()) {
                let (inputs, labels) = data.batch(batch)?;
                ask(duo, &inputs, &labels, &bar, gathered.part(role))?;
            }
            bar.finish_and_clear();
        }
        Ok(gathered)
    }
}

/// Asks the first `count` samples of a stream.
fn ask_stream(duo: &mut Duo, mut stream: FieldStream, count: usize, what: &str, part: &mut Vec<Seen>) -> Result<()> {
    let bar = progress(what, count as u64);
    while part.len() < count {
        let batch = stream.by_ref().take(duo.batch().min(count - part.len()));
        let (images, labels): (Vec<Tensor>, Vec<_>) =
            batch.map(|sample| (sample.image, Some(u32::from(sample.label)))).unzip();
        ask(duo, &[NamedTensor::new(digits::INPUT, Tensor::stack(&images)?)], &labels, &bar, part)?;
    }
    bar.finish_and_clear();
    Ok(())
}

fn ask(
    duo: &mut Duo,
    inputs: &[NamedTensor],
    labels: &[Option<u32>],
    bar: &ProgressBar,
    part: &mut Vec<Seen>,
) -> Result<()> {
    let asked = duo.ask(inputs)?;
    bar.inc(asked.len() as u64);
    part.extend(asked.iter().zip(labels).map(|(asked, &label)| seen(asked, label)));
    Ok(())
}

fn seen(asked: &Asked, label: Option<u32>) -> Seen {
    let Asked { features, differs, cloud } = *asked;
    Seen { features, differs, label, edge: features.class, cloud }
}

/// A fifth of the samples each to fit and to tune, the others to certify; by coins that know nothing of answers.
fn drawn_roles(samples: usize, seed: u64, fit: bool) -> Vec<Role> {
    let mut coins = ChaCha8Rng::seed_from_u64(seed);
    let role = |_| match coins.random_range(0..5) {
        0 if fit => Role::Fit,
        1 => Role::Tune,
        _ => Role::Calibration,
    };
    (0..samples).map(role).collect()
}
