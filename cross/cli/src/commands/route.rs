//! `hedge route`: which answers may stay on the device, and how that is known.

mod digits;
mod duo;
mod pairs;
mod pairs_file;

use anyhow::Result;
use clap::Subcommand;

/// `hedge route …`.
#[derive(Subcommand)]
pub(crate) enum Route {
    /// Asks an edge and a cloud model the same and writes scores and agreement as a pairs file.
    Pairs(pairs::Pairs),
}

pub(crate) fn run(route: Route) -> Result<()> {
    match route {
        Route::Pairs(pairs) => pairs::run(&pairs),
    }
}
