//! `hedge model conform`: ONNX's own backend cases, run by an executor.
//!
//! A case is a folder with `model.onnx` and `test_data_set_*/{input,output}_N.pb`. Outputs are compared as ONNX's runner
//! does: type, shape, and values with the case's tolerances (`index.json`), or looser ones if those are tighter than ours.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use hedge_engine::{Device, Model};
use hedge_graph::Graph;
use hedge_tensor::Tensor;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::{ExecutorName, read_graph};
use crate::failure::with_hint;
use crate::output::{say, table, write_json};

/// The tightest tolerances that are asked of a float.
const RELATIVE: f64 = 1e-3;
const ABSOLUTE: f64 = 1e-5;

/// Failures that the table shows; all are in the JSON.
const SHOWN: usize = 40;

#[derive(Args)]
pub(crate) struct Conform {
    /// The folder of the cases.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// A file with one case a line, relative to the folder; without it every folder with a `model.onnx` is a case.
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
    /// cpu, or gpu (a software one if there is no other).
    #[arg(long, default_value = "cpu")]
    device: hedge_engine::DeviceChoice,
    /// The executor.
    #[arg(long, value_enum, default_value = "burn")]
    executor: ExecutorName,
    /// Writes the outcome as JSON, `-` for standard output.
    #[arg(long, value_name = "FILE")]
    json: Option<String>,
}

/// One case, what came of it and which of its nodes the GPU left to the CPU.
struct Examined {
    case: String,
    outcome: Outcome,
    on_cpu: Vec<String>,
}

/// What came of one case.
enum Outcome {
    Passed,
    Failed(String),
    /// Operators that there are no implementations of.
    Unsupported(Vec<String>),
}

pub(crate) fn run(args: &Conform) -> Result<()> {
    let ExecutorName::Burn = args.executor;
    let cases = match &args.list {
        Some(list) => read_list(list)?,
        None => find_cases(&args.folder)?,
    };
    let device = Device::candidates(args.device).into_iter().next().context("there is no such device here")?;
    let tolerances = Tolerances::read(&args.folder)?;
    let bar = ProgressBar::new(cases.len() as u64);
    let examined: Vec<Examined> = cases
        .into_iter()
        .map(|case| {
            bar.inc(1);
            let mut on_cpu = Vec::new();
            let outcome = examine(&args.folder.join(&case), &device, tolerances.of(&case), &mut on_cpu);
            let outcome = outcome.unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
            Examined { case, outcome, on_cpu }
        })
        .collect();
    bar.finish_and_clear();
    report(args, &device, &examined)
}

fn examine(folder: &Path, device: &Device, tolerance: Tolerance, on_cpu: &mut Vec<String>) -> Result<Outcome> {
    let graph = read_graph(&folder.join("model.onnx"))?;
    let missing = hedge_engine::check(&graph).missing();
    if !missing.is_empty() {
        return Ok(Outcome::Unsupported(missing.into_iter().map(|operator| operator.op).collect()));
    }
    let mut model = Model::unproven(graph.clone(), device.clone())?;
    for data in data_sets(folder)? {
        let inputs = read_tensors(&data, "input")?;
        let expected = read_tensors(&data, "output")?;
        let outputs = model.run_arranged(&by_signature(&graph, &model, &inputs)?)?;
        *on_cpu = model.on_cpu();
        for (output, expected) in outputs.iter().zip(&expected) {
            if let Some(why) = tolerance.difference(&output.tensor, expected) {
                return Ok(Outcome::Failed(format!("output {:?}: {why}", output.name)));
            }
        }
    }
    Ok(Outcome::Passed)
}

/// The inputs in the file's order are those of the graph; a signature leaves out the ones that have a constant value.
fn by_signature(graph: &Graph, model: &Model, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    let names: Vec<&str> = graph.inputs.iter().map(|input| input.name.as_str()).collect();
    let at = |name: &str| names.iter().position(|other| *other == name).and_then(|index| inputs.get(index)).cloned();
    let port = |name: &str| at(name).with_context(|| format!("the case has no data for input {name:?}"));
    model.signature().inputs.iter().map(|input| port(&input.name)).collect()
}

fn data_sets(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut sets: Vec<PathBuf> = std::fs::read_dir(folder)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("test_data_set_")))
        .collect();
    if sets.is_empty() {
        bail!("the case has no test_data_set_*");
    }
    sets.sort();
    Ok(sets)
}

fn read_tensors(folder: &Path, side: &str) -> Result<Vec<Tensor>> {
    let mut tensors = Vec::new();
    loop {
        let path = folder.join(format!("{side}_{}.pb", tensors.len()));
        if !path.is_file() {
            return Ok(tensors);
        }
        let bytes = std::fs::read(&path)?;
        let tensor = hedge_graph::read_tensor_file(bytes.into());
        tensors.push(tensor.with_context(|| format!("{} cannot be read", path.display()))?);
    }
}

fn read_list(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

fn find_cases(folder: &Path) -> Result<Vec<String>> {
    let mut cases = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        let entries = std::fs::read_dir(&next).with_context(|| format!("{} cannot be read", next.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.join("model.onnx").is_file() {
                let case = path.strip_prefix(folder).unwrap_or(&path);
                cases.push(case.to_string_lossy().into_owned());
            } else if path.is_dir() {
                folders.push(path);
            }
        }
    }
    cases.sort();
    Ok(cases)
}

/// Tolerances by case, from the folder's `index.json` where there is one.
struct Tolerances(BTreeMap<String, Tolerance>);

#[derive(Clone, Copy)]
struct Tolerance {
    relative: f64,
    absolute: f64,
}

impl Tolerances {
    fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("index.json");
        if !path.is_file() {
            return Ok(Tolerances(BTreeMap::new()));
        }
        let index: BTreeMap<String, Value> = serde_json::from_slice(&std::fs::read(&path)?)
            .with_context(|| format!("{} is not an index of cases", path.display()))?;
        let tolerance = |case: &Value| {
            let number = |key: &str| case.get(key).and_then(Value::as_f64).unwrap_or(0.0);
            Tolerance { relative: number("rtol").max(RELATIVE), absolute: number("atol").max(ABSOLUTE) }
        };
        Ok(Tolerances(index.iter().map(|(name, case)| (name.clone(), tolerance(case))).collect()))
    }

    fn of(&self, case: &str) -> Tolerance {
        self.0.get(case).copied().unwrap_or(Tolerance { relative: RELATIVE, absolute: ABSOLUTE })
    }
}

impl Tolerance {
    /// What is wrong with `actual`, if anything.
    fn difference(self, actual: &Tensor, expected: &Tensor) -> Option<String> {
        if actual.dtype() != expected.dtype() {
            return Some(format!("it is {}, but must be {}", actual.dtype(), expected.dtype()));
        }
        if actual.shape() != expected.shape() {
            return Some(format!("its shape is {:?}, but must be {:?}", actual.shape(), expected.shape()));
        }
        if !expected.dtype().is_float() {
            return (actual != expected).then(|| "its values differ".to_owned());
        }
        let (actual, expected) = (actual.to_doubles()?, expected.to_doubles()?);
        let close = |(a, e): (&f64, &f64)| {
            a == e || (a.is_nan() && e.is_nan()) || (a - e).abs() <= self.absolute + self.relative * e.abs()
        };
        let index = actual.iter().zip(&expected).position(|pair| !close(pair))?;
        Some(format!("element {index} is {}, but must be {}", actual[index], expected[index]))
    }
}

fn report(args: &Conform, device: &Device, examined: &[Examined]) -> Result<()> {
    let json = args.json.as_deref();
    let mut failed = Vec::new();
    let mut unsupported = Vec::new();
    let mut rows = table(&["case", "why it did not pass"]);
    for Examined { case, outcome, .. } in examined {
        let why = match outcome {
            Outcome::Passed => continue,
            Outcome::Failed(why) => {
                failed.push(json!({"case": case, "why": why}));
                why.clone()
            }
            Outcome::Unsupported(ops) => {
                unsupported.push(json!({"case": case, "ops": ops}));
                format!("no {}", ops.join(", "))
            }
        };
        if failed.len() + unsupported.len() <= SHOWN {
            rows.add_row([case.as_str(), why.as_str()]);
        }
    }
    let total = examined.len();
    let passed = total - failed.len() - unsupported.len();
    if passed < total {
        say(json, rows);
    }
    let (failures, unknown) = (failed.len(), unsupported.len());
    let summary =
        format!("{passed} of {total} pass on {}; {failures} fail, {unknown} need other operators", device.label());
    say(json, &summary);
    let on_cpu: Vec<&Examined> = examined.iter().filter(|examined| !examined.on_cpu.is_empty()).collect();
    if !on_cpu.is_empty() {
        say(json, on_cpu_table(&on_cpu));
        say(
            json,
            format_args!("{} cases ran nodes on the CPU that the GPU lacks the type or the operator of", on_cpu.len()),
        );
    }
    if let Some(target) = json {
        let value = json!({
            "total": total,
            "passed": passed,
            "failed": failed,
            "unsupported": unsupported,
            "on_cpu": on_cpu.iter().map(|each| json!({"case": each.case, "nodes": each.on_cpu})).collect::<Vec<_>>(),
            "device": device.label(),
            "executor": "burn",
        });
        write_json(target, &value)?;
    }
    if passed == total {
        return Ok(());
    }
    Err(with_hint(summary, "`--json FILE` lists every case that did not pass, and why"))
}

/// The operators that each case ran on the CPU; the nodes are in the JSON.
fn on_cpu_table(examined: &[&Examined]) -> comfy_table::Table {
    let mut rows = table(&["case", "nodes that ran on the CPU"]);
    for each in examined.iter().take(SHOWN) {
        rows.add_row([each.case.clone(), each.on_cpu.join(", ")]);
    }
    if examined.len() > SHOWN {
        rows.add_row(["...".to_owned(), format!("and {} cases more", examined.len() - SHOWN)]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLERANCE: Tolerance = Tolerance { relative: RELATIVE, absolute: ABSOLUTE };

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::from_slice(&[values.len()], values).unwrap()
    }

    #[test]
    fn another_type_shape_or_value_is_a_difference_that_says_which() {
        let expected = tensor(&[1.0, 2.0]);
        assert_eq!(TOLERANCE.difference(&tensor(&[1.0, 2.001]), &expected), None);
        let value = TOLERANCE.difference(&tensor(&[1.0, 2.5]), &expected).unwrap();
        assert!(value.starts_with("element 1 is 2.5"), "{value}");
        assert!(TOLERANCE.difference(&tensor(&[1.0]), &expected).unwrap().contains("shape"));
        let doubles = Tensor::from_slice(&[2], &[1f64, 2.0]).unwrap();
        assert!(TOLERANCE.difference(&doubles, &expected).unwrap().contains("FP64"));
    }

    #[test]
    fn a_nan_equals_only_a_nan_and_integers_must_be_exact() {
        assert_eq!(TOLERANCE.difference(&tensor(&[f32::NAN]), &tensor(&[f32::NAN])), None);
        assert!(TOLERANCE.difference(&tensor(&[f32::NAN]), &tensor(&[0.0])).is_some());
        assert!(TOLERANCE.difference(&Tensor::scalar(1i64), &Tensor::scalar(2i64)).is_some());
    }
}
