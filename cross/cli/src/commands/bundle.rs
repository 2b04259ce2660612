//! `hedge bundle`: a model with all that is known of it, as one file or a folder.

mod inspect;
mod pack;
mod verify;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Subcommand;

/// `hedge bundle …`.
#[derive(Subcommand)]
pub(crate) enum Bundle {
    /// Makes a bundle of a folder, an ONNX model or another bundle.
    Pack(pack::Pack),
    /// Prints what a bundle says of its model.
    Inspect(inspect::Inspect),
    /// Proves that a bundle is whole and that its model computes what it should.
    Verify(verify::Verify),
}

pub(crate) fn run(bundle: Bundle) -> Result<()> {
    match bundle {
        Bundle::Pack(pack) => pack::run(&pack),
        Bundle::Inspect(inspect) => inspect::run(&inspect),
        Bundle::Verify(verify) => verify::run(&verify),
    }
}

/// The bundle that a command is about.
#[derive(clap::Args)]
struct BundlePath {
    /// The bundle: a `.hedge` file, a folder, or an ONNX file.
    #[arg(value_name = "BUNDLE")]
    path: PathBuf,
}

fn open(path: &Path) -> Result<hedge_bundle::Bundle> {
    hedge_bundle::Bundle::open(path).with_context(|| format!("{} is not a bundle that can be used", path.display()))
}

fn hex(digest: &[u8; 32]) -> String {
    format!("sha256:{}", hedge_bundle::Digest(*digest))
}
