//! A certificate's file: of what, for whom and for how long.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::Args;
use hedge_agent::default_device_class;
use hedge_certify::{Certificate, Grid, Issue, Labelled, Spending, Subject, Target, Window};

use super::models::Loaded;
use super::score_choice::Chosen;
use crate::failure::bad_usage;

const SECS_PER_DAY: u64 = 86_400;

/// For whom and for how long a certificate is.
#[derive(Args)]
pub(super) struct Term {
    /// The class of devices whose inputs the requests are, as the agents' agent.device_class; default: theirs, of the kind
    /// of device that the edge model ran on and this machine's architecture.
    #[arg(long, value_name = "CLASS")]
    device_class: Option<String>,
    /// How long the certificate holds, in days.
    #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = clap::value_parser!(u64).range(1..=3650))]
    lifetime_days: u64,
    /// When the first and the last request were made, in seconds since 1970; default: when the data file was last
    /// written, or now for a task.
    #[arg(long, value_name = "FIRST,LAST", value_delimiter = ',')]
    gathered: Option<Vec<u64>>,
}

impl Term {
    /// When the requests were made.
    pub(super) fn window(&self, data: Option<&Path>) -> Result<Window> {
        if let Some(gathered) = &self.gathered {
            return match gathered[..] {
                [first, last] if first <= last => Ok(Window { first_unix_secs: first, last_unix_secs: last }),
                _ => Err(bad_usage(
                    "--gathered is no stretch of time",
                    "give two times in seconds since 1970, the earlier one first: --gathered 1767225600,1767312000",
                )),
            };
        }
        let written = data.and_then(|path| path.metadata().and_then(|file| file.modified()).ok());
        let at = unix_secs(written.unwrap_or_else(SystemTime::now));
        Ok(Window { first_unix_secs: at, last_unix_secs: at })
    }

    pub(super) fn issue(&self, subject: Subject, chosen: &Chosen, target: Target, grid: Grid, window: Window) -> Issue {
        Issue {
            subject,
            scoring: chosen.scoring.clone(),
            target,
            spending: Spending::Whole,
            grid,
            window,
            issued_unix_secs: unix_secs(SystemTime::now()),
            lifetime_secs: self.lifetime_days * SECS_PER_DAY,
        }
    }
}

/// What the certificate is about.
pub(super) fn subject(loaded: &Loaded, term: &Term) -> Subject {
    let class = term.device_class.clone();
    loaded.subject(class.unwrap_or_else(|| default_device_class(loaded.duo.edge_kind())))
}

/// Issues the certificate and writes its file.
pub(super) fn write(path: &Path, issue: Issue, labels: &[Labelled]) -> Result<Certificate> {
    let certificate = Certificate::issue(issue, labels)?;
    std::fs::write(path, certificate.to_json()).with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(certificate)
}

/// Seconds since 1970; 0 for a clock before that.
fn unix_secs(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
