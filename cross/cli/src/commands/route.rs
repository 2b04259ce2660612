//! `hedge route`: which answers may stay on the device, and how that is known.

mod both;
mod certify;
mod charts;
mod curve;
mod data_file;
mod duo;
mod field;
mod figures;
mod gather;
mod issue;
mod models;
mod pairs;
mod pairs_file;
mod ranks;
mod report;
mod routers;
mod score_choice;
mod simulate;
mod study;

use anyhow::Result;
use clap::Subcommand;

pub(crate) use self::both::Both;
pub(crate) use self::duo::Asked;

/// `hedge route …`.
#[derive(Subcommand)]
pub(crate) enum Route {
    /// Asks an edge and a cloud model the same and writes scores and agreement as a pairs file.
    Pairs(pairs::Pairs),
    /// Certifies the lowest threshold at which local answers differ from the cloud's no more often than promised.
    Certify(certify::Certify),
    /// Repeats calibrations and drifts on a pairs file that is taken for the truth.
    Simulate(simulate::Simulate),
    /// Writes one HTML page with certificate, plots and figures, for a pairs file or models asked here.
    Report(report::Report),
}

pub(crate) fn run(route: &Route) -> Result<()> {
    match route {
        Route::Pairs(pairs) => pairs::run(pairs),
        Route::Certify(certify) => certify::run(certify),
        Route::Simulate(simulate) => simulate::run(simulate),
        Route::Report(report) => report::run(report),
    }
}
