//! `hedge route report`: one HTML page that holds everything known of a certificate, and needs nothing beside it.

mod page;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{ArgGroup, Args};
use hedge_agent_core::route::simulate::PoolRow;
use hedge_zoo::digits::Drift;

use self::page::Page;
use super::charts::charts;
use super::curve::curve;
use super::figures;
use super::gather::{Seen, Source};
use super::pairs::{cal_pairs, pairs};
use super::pairs_file::{self, Pair};
use super::routers::Rows;
use super::score_choice::ScoreChoice;
use super::simulate::Others;
use super::study::{Effort, Named, World, study};
use crate::output::{say, write_json};

/// Conditions of a task that are other than calm, but no worse.
const HARMLESS: [Drift; 2] = [Drift::LessNoise, Drift::Easier];

/// `hedge route report`.
#[derive(Args)]
#[command(group(ArgGroup::new("given").required(true)))]
pub(crate) struct Report {
    /// A pairs file: score,agree,split.
    #[arg(long, value_name = "P.csv", group = "given", conflicts_with_all = ["bundle", "teacher"])]
    pairs: Option<PathBuf>,
    #[command(flatten)]
    source: Source,
    /// Which number stands for an answer's confidence where models are asked.
    #[arg(long, value_enum, default_value = "auto")]
    score: ScoreChoice,
    #[command(flatten)]
    others: Others,
    #[command(flatten)]
    effort: Effort,
    /// The page.
    #[arg(short, long, value_name = "REPORT.html")]
    output: PathBuf,
    /// Writes all figures as JSON, `-` for standard output.
    #[arg(long, value_name = "FILE")]
    json: Option<String>,
}

/// What a report is about.
struct About {
    title: String,
    /// What is known beside the figures: a name and a value each.
    facts: Vec<[String; 2]>,
    pairs: Vec<Pair>,
    world: World,
}

pub(super) fn run(args: &Report) -> Result<()> {
    let about = match &args.pairs {
        Some(path) => of_pairs(args, path)?,
        None => of_models(args)?,
    };
    let study = study(&about.world, &args.effort, args.source.seed)?;
    let page = Page {
        title: &about.title,
        facts: &about.facts,
        study: &study,
        figures: figures::all(&study),
        charts: charts(&curve(&about.pairs), &study, &args.effort),
    };
    std::fs::write(&args.output, page.html()?)
        .with_context(|| format!("{} cannot be written", args.output.display()))?;
    say(args.json.as_deref(), format_args!("wrote {}", args.output.display()));
    args.json.as_deref().map_or(Ok(()), |target| write_json(target, &figures::to_json(&study)))
}

fn of_pairs(args: &Report, path: &Path) -> Result<About> {
    let pairs = pairs_file::read(path)?;
    let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    Ok(About { world: args.others.world(&pairs)?, facts: vec![fact("pairs file", &name)], title: name, pairs })
}

fn of_models(args: &Report) -> Result<About> {
    let (mut loaded, gathered) = args.source.gather(args.score.fits())?;
    let chosen = args.score.settle(&gathered)?;
    let pairs = pairs(&chosen.scoring, &gathered);
    let mut world = args.others.world(&pairs)?;
    if args.source.is_task() {
        let named = |drift: Drift, seen: &[Seen]| {
            let labels = world.ranked.others(&cal_pairs(&chosen.scoring, seen));
            Named { name: drift.to_string(), labels }
        };
        let mut harmless = Vec::new();
        for drift in HARMLESS {
            harmless.push(named(drift, &args.source.ask_under(&mut loaded.duo, drift)?));
        }
        let seen = args.source.ask_under(&mut loaded.duo, Drift::Harmful)?;
        let drifted = named(Drift::Harmful, &seen);
        world.harmless.extend(harmless);
        world.drifted.get_or_insert(drifted);
        // The features themselves, so that a router can fit a head anew.
        world.rows = Rows { calm: rows(&gathered.cal), drifted: Some(rows(&seen)) };
    }
    let areas: Vec<String> = chosen.compared.iter().map(|(name, area)| format!("{name} {area:.5}")).collect();
    let facts = vec![
        fact("edge model", &loaded.edge.to_string()),
        fact("cloud model", &loaded.cloud.to_string()),
        fact("input transforms", &loaded.transforms.to_string()),
        fact("answers are compared by", &loaded.comparison.to_string()),
        fact("score", chosen.scoring.name()),
        fact("area under risk-coverage, smaller is better", &areas.join(", ")),
    ];
    Ok(About { title: loaded.name, facts, pairs, world })
}

fn rows(seen: &[Seen]) -> Vec<PoolRow> {
    seen.iter().map(|seen| PoolRow { features: seen.features, differs: seen.differs }).collect()
}

fn fact(name: &str, value: &str) -> [String; 2] {
    [name.to_owned(), value.to_owned()]
}
