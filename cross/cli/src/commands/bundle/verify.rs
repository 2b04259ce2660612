//! `hedge bundle verify`: every digest, then every golden case on the CPU.

use anyhow::{Context, Result};
use clap::Args;
use hedge_bundle::GoldenCase;
use hedge_engine::{Agreement, Device, Model};

use super::{BundlePath, hex, open};
use crate::failure::with_hint;
use crate::output::{say, table};

#[derive(Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    bundle: BundlePath,
}

pub(crate) fn run(args: &Verify) -> Result<()> {
    let path = args.bundle.path.display();
    let bundle = open(&args.bundle.path)?;
    say(None, format_args!("{} files are whole, {}", bundle.manifest.files.len(), hex(&bundle.digest())));
    if bundle.golden.is_empty() {
        let hint = "pack it again without --without-golden, or add golden vectors to its manifest";
        return Err(with_hint(format_args!("{path} has no golden vectors: nothing shows what it computes"), hint));
    }
    let mut model =
        Model::unproven(bundle.graph.clone(), Device::cpu()).with_context(|| format!("{path} cannot be run"))?;
    let mut rows = table(&["golden case", "largest difference", "agrees"]);
    let mut wrong = 0;
    for (index, case) in bundle.golden.iter().enumerate() {
        let (difference, agrees) = examine(&mut model, case);
        wrong += usize::from(!agrees);
        rows.add_row([index.to_string(), difference, if agrees { "yes" } else { "NO" }.to_owned()]);
    }
    say(None, rows);
    if wrong == 0 {
        return Ok(());
    }
    let message = format!("{wrong} of {} golden cases of {path} come out otherwise on the CPU", bundle.golden.len());
    Err(with_hint(message, "the vectors belong to another model, or an operator is wrong here: report it"))
}

fn examine(model: &mut Model, case: &GoldenCase) -> (String, bool) {
    match model.run(&case.inputs) {
        Ok(outputs) => match Agreement::of(&outputs, &case.outputs) {
            Some(agreement) => (format!("{:.2e}", agreement.error), agreement.is_close()),
            None => ("another shape, type or a number that is none".to_owned(), false),
        },
        Err(error) => (error.to_string(), false),
    }
}
