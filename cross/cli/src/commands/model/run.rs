//! `hedge model run`: one run on files.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use hedge_tensor::NamedTensor;

use super::{ModelPath, Placement};
use crate::failure::Usage;
use crate::npy;
use crate::output::say;

#[derive(Args)]
pub(crate) struct Run {
    #[command(flatten)]
    model: ModelPath,
    /// An input as a `.npy` file; once for each input.
    #[arg(long = "input", value_name = "NAME=FILE.npy", required = true)]
    inputs: Vec<String>,
    /// The folder for the outputs, `NAME.npy` each.
    #[arg(long, value_name = "DIR")]
    output_dir: PathBuf,
    #[command(flatten)]
    placement: Placement,
}

pub(crate) fn run(args: &Run) -> Result<()> {
    let inputs = args.inputs.iter().map(|input| read_input(input)).collect::<Result<Vec<_>>>()?;
    let mut model = match args.placement.load(&args.model.path) {
        Ok(model) => model,
        // Made-up inputs do not suit every model; the ones at hand do, or the first error says why there is none.
        Err(error) => {
            let golden = hedge_engine::Golden { inputs: inputs.clone(), outputs: Vec::new() };
            args.placement.load_for(&args.model.path, Some(&golden)).map_err(|_| error)?
        }
    };
    let outputs = model.run(&inputs)?;
    std::fs::create_dir_all(&args.output_dir)
        .with_context(|| format!("{} cannot be created", args.output_dir.display()))?;
    for output in outputs {
        let path = args.output_dir.join(file_name(&output.name));
        npy::write(&path, &output.tensor)?;
        let (dtype, shape) = (output.tensor.dtype(), output.tensor.shape());
        say(None, format_args!("{} {dtype} {shape:?} -> {}", output.name, path.display()));
    }
    say(None, format_args!("ran on {}", model.device().label()));
    Ok(())
}

fn read_input(argument: &str) -> Result<NamedTensor> {
    let (name, path) =
        argument.split_once('=').ok_or_else(|| Usage(format!("--input {argument:?} is not NAME=FILE.npy")))?;
    Ok(NamedTensor::new(name, npy::read(Path::new(path))?))
}

/// Output names are free text; in a file name every character outside `[A-Za-z0-9_.-]` becomes `_`.
fn file_name(name: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') { c } else { '_' };
    format!("{}.npy", name.chars().map(safe).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_name_with_a_path_in_it_stays_in_the_folder() {
        assert_eq!(file_name("../a/b:0"), ".._a_b_0.npy");
    }
}
