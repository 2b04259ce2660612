//! `hedge route`: which answers may stay on the device, and how that is known.

mod certify;
mod data_file;
mod duo;
mod field;
mod gather;
mod issue;
mod models;
mod pairs;
mod pairs_file;
mod ranks;
mod score_choice;

use anyhow::Result;
use clap::Subcommand;

/// `hedge route …`.
#[derive(Subcommand)]
pub(crate) enum Route {
    /// Asks an edge and a cloud model the same and writes scores and agreement as a pairs file.
    Pairs(pairs::Pairs),
    /// Certifies the lowest threshold at which local answers differ from the cloud's no more often than promised.
    Certify(certify::Certify),
}

pub(crate) fn run(route: &Route) -> Result<()> {
    match route {
        Route::Pairs(pairs) => pairs::run(pairs),
        Route::Certify(certify) => certify::run(certify),
    }
}
