//! `hedge route simulate`: does the promise hold, and what does it cost? On any pairs file, taken for the truth.
//!
//! Calibrations are drawn with replacement from the file's calibration lines, certified, and held against the lines themselves;
//! then the monitor watches runs of requests drawn from calm, harmless and drifted files.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use hedge_agent_core::route::simulate::PoolRow;
use hedge_certify::Labelled;
use serde_json::json;

use super::charts::{self, charts};
use super::curve::curve;
use super::figures;
use super::pairs_file::{self, Pair};
use super::ranks::Ranked;
use super::routers::Rows;
use super::study::{Effort, Named, World, study};
use crate::output::{say, write_json};

/// `hedge route simulate`.
#[derive(Args)]
pub(crate) struct Simulate {
    /// The pairs file that is taken for the world: tune lines give thresholds, cal lines the truth.
    #[arg(long, value_name = "P.csv")]
    pairs: PathBuf,
    #[command(flatten)]
    others: Others,
    #[command(flatten)]
    effort: Effort,
    /// The seed of all draws.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Writes all figures as JSON, `-` for standard output.
    #[arg(long, value_name = "FILE")]
    json: Option<String>,
    /// Writes the plots as SVG files into this folder.
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
}

/// Pairs files of other conditions.
#[derive(Args)]
pub(super) struct Others {
    /// A pairs file of requests on which more differs.
    #[arg(long, value_name = "Q.csv")]
    drifted: Option<PathBuf>,
    /// A pairs file of requests that are other than calm, but not worse; may be given several times.
    #[arg(long, value_name = "R.csv")]
    harmless: Vec<PathBuf>,
}

impl Others {
    /// The world that `pairs` and these make.
    pub(super) fn world(&self, pairs: &[Pair]) -> Result<World> {
        let ranked = Ranked::of(pairs)?;
        let named = |path: &PathBuf| {
            let labels = ranked.others(&pairs_file::read_cal(path)?);
            anyhow::Ok(Named { name: name_of(path), labels })
        };
        let drifted = self.drifted.as_ref().map(named).transpose()?;
        let harmless = self.harmless.iter().map(named).collect::<Result<Vec<_>>>()?;
        let rows = |labels: &[Labelled]| -> Vec<PoolRow> {
            ranked.shares(labels).iter().map(|label| PoolRow::of_score(label.score, label.differs)).collect()
        };
        let rows = Rows { calm: rows(&ranked.cal), drifted: drifted.as_ref().map(|named: &Named| rows(&named.labels)) };
        Ok(World { ranked, drifted, harmless, rows })
    }
}

/// What a file is called in tables.
fn name_of(path: &Path) -> String {
    path.file_stem().map_or_else(|| "drifted".to_owned(), |stem| stem.to_string_lossy().into_owned())
}

pub(super) fn run(args: &Simulate) -> Result<()> {
    let pairs = pairs_file::read(&args.pairs)?;
    if let Some(folder) = &args.plots {
        // Now rather than after the simulation, whose figures would be lost.
        std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    }
    let world = args.others.world(&pairs)?;
    let started = Instant::now();
    let study = study(&world, &args.effort, args.seed)?;
    let seconds = started.elapsed().as_secs_f64();
    let json = args.json.as_deref();
    for figures in figures::all(&study) {
        say(json, format_args!("\n{}", figures.title));
        say(json, figures.table());
        figures.words.iter().for_each(|words| say(json, words));
    }
    if let Some(folder) = &args.plots {
        write_plots(folder, &charts(&curve(&pairs), &study, &args.effort), json)?;
    }
    say(json, format_args!("\nsimulated in {seconds:.1} s"));
    let Some(target) = json else { return Ok(()) };
    let mut value = figures::to_json(&study);
    value["pairs"] = json!(args.pairs);
    value["seconds"] = json!(seconds);
    write_json(target, &value)
}

fn write_plots(folder: &Path, charts: &[charts::Named], json: Option<&str>) -> Result<()> {
    for named in charts {
        let path = folder.join(named.file);
        std::fs::write(&path, named.chart.svg()?).with_context(|| format!("{} cannot be written", path.display()))?;
        say(json, format_args!("wrote {}", path.display()));
    }
    Ok(())
}
