//! `hedge model inspect`: a model's graph as a table, and what each node costs.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use anyhow::{Context, Result};
use clap::Args;
use hedge_engine::{Device, DeviceChoice, Golden, StepTime};
use hedge_graph::cost::{Cost, NodeCost, Sizes};
use hedge_graph::{Dim, Graph};
use hedge_tensor::Tensor;
use serde_json::{Value, json};

use super::{ModelPath, read_graph};
use crate::output::{say, table, write_json};

/// Runs that are profiled; the median of each step counts. The run that makes up the inputs has compiled the shaders.
const PROFILED_RUNS: usize = 9;

#[derive(Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    model: ModelPath,
    /// Writes the graph for Graphviz.
    #[arg(long, value_name = "FILE")]
    dot: Option<String>,
    /// Measures how long each step takes.
    #[arg(long)]
    profile: bool,
    /// Shows the graph as it is run: fused, folded and without idle nodes. A profile always is of that graph.
    #[arg(long)]
    optimized: bool,
    /// The size of free leading dimensions; others count as 1.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// The size of a named dimension.
    #[arg(long = "dim", value_name = "NAME=N", value_parser = named_size)]
    dims: Vec<(String, usize)>,
    /// Where the profile runs: auto (a GPU where there is one), gpu or cpu.
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
    /// Writes the figures as JSON, `-` for standard output.
    #[arg(long, value_name = "FILE")]
    json: Option<String>,
}

fn named_size(text: &str) -> Result<(String, usize), String> {
    let (name, size) = text.split_once('=').ok_or("write it as NAME=N")?;
    let size = size.parse().ok().filter(|&size| size > 0).ok_or("N must be a positive number")?;
    Ok((name.to_owned(), size))
}

pub(crate) fn run(args: &Inspect) -> Result<()> {
    let given = read_graph(&args.model.path)?;
    let graph = if args.optimized || args.profile { hedge_engine::optimized(&given).0 } else { given.clone() };
    let sizes = sizes(&graph, args);
    let cost = Cost::of(&graph, &sizes);
    let profile = args.profile.then(|| profile(&given, &sizes, args.device)).transpose()?;
    let json = args.json.as_deref();
    say(json, nodes_table(&cost, profile.as_deref()));
    say(json, operators_table(&cost, profile.as_deref()));
    say(json, totals(&graph, &cost, profile.as_deref()));
    if let Some(target) = &args.dot {
        std::fs::write(target, dot(&graph, &cost)).with_context(|| format!("{target} cannot be written"))?;
    }
    if let Some(target) = json {
        write_json(target, &to_json(&graph, &cost, profile.as_deref()))?;
    }
    Ok(())
}

fn sizes(graph: &Graph, args: &Inspect) -> Sizes {
    let leading = graph.inputs.iter().filter_map(|input| match input.shape.as_ref()?.first()? {
        Dim::Named(name) => Some((name.clone(), usize::from(args.batch))),
        _ => None,
    });
    Sizes { named: leading.chain(args.dims.iter().cloned()).collect(), default: 1 }
}

/// The median time of each step over a few runs on made-up inputs of the sizes asked for.
fn profile(graph: &Graph, sizes: &Sizes, choice: DeviceChoice) -> Result<Vec<StepTime>> {
    let device = Device::candidates(choice).into_iter().next().context("there is no such device here")?;
    let mut bound = graph.clone();
    for dim in bound.inputs.iter_mut().filter_map(|input| input.shape.as_mut()).flatten() {
        if let Dim::Named(name) = dim {
            *dim = Dim::Known(sizes.named.get(name).copied().unwrap_or(sizes.default));
        }
    }
    let signature = hedge_engine::Signature::of(&bound);
    let mut model = hedge_engine::Model::unproven(graph.clone(), device)?;
    let run = |inputs: &[Tensor]| Ok(model.run_arranged(inputs)?.into_iter().map(|output| output.tensor).collect());
    let inputs: Vec<Tensor> = Golden::made_up(&signature, run)?.inputs.into_iter().map(|input| input.tensor).collect();
    let runs = (0..PROFILED_RUNS).map(|_| model.profile(&inputs)).collect::<Result<Vec<_>, _>>()?;
    let mut steps = runs[0].clone();
    for (index, step) in steps.iter_mut().enumerate() {
        let mut times: Vec<_> = runs.iter().filter_map(|run| run.get(index)).map(|step| step.time).collect();
        times.sort_unstable();
        step.time = times[times.len() / 2];
    }
    Ok(steps)
}

/// The times of the nodes that ran, by name.
fn times(profile: Option<&[StepTime]>) -> HashMap<&str, f64> {
    let steps = profile.unwrap_or_default().iter();
    steps.map(|step| (step.node.as_str(), milliseconds(step))).collect()
}

fn milliseconds(step: &StepTime) -> f64 {
    step.time.as_secs_f64() * 1e3
}

fn nodes_table(cost: &Cost, profile: Option<&[StepTime]>) -> comfy_table::Table {
    let mut header = vec!["node", "operator", "type", "shape", "parameters", "MACs", "memory"];
    header.extend(profile.map(|_| "ms"));
    let times = times(profile);
    let mut rows = table(&header);
    for node in &cost.nodes {
        let mut row = vec![
            node.node.clone(),
            node.op.clone(),
            node.dtype.map_or_else(|| "?".to_owned(), |dtype| dtype.to_string()),
            shape_text(node),
            count(node.parameters as u64),
            count(node.macs),
            bytes(node.bytes),
        ];
        row.extend(
            profile.map(|_| times.get(node.node.as_str()).map_or_else(|| "-".to_owned(), |ms| format!("{ms:.3}"))),
        );
        rows.add_row(row);
    }
    rows
}

/// One operator's nodes together.
#[derive(Default)]
struct Sum {
    nodes: usize,
    parameters: usize,
    macs: u64,
    milliseconds: f64,
}

fn by_operator(cost: &Cost, profile: Option<&[StepTime]>) -> Vec<(String, Sum)> {
    let times = times(profile);
    let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
    for node in &cost.nodes {
        let sum = sums.entry(node.op.clone()).or_default();
        sum.nodes += 1;
        sum.parameters += node.parameters;
        sum.macs = sum.macs.saturating_add(node.macs);
        sum.milliseconds += times.get(node.node.as_str()).copied().unwrap_or(0.0);
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    let order = |sum: &Sum| (sum.milliseconds, sum.macs as f64, sum.nodes as f64);
    sums.sort_by(|(_, a), (_, b)| order(b).partial_cmp(&order(a)).unwrap_or(std::cmp::Ordering::Equal));
    sums
}

fn operators_table(cost: &Cost, profile: Option<&[StepTime]>) -> comfy_table::Table {
    let mut header = vec!["operator", "nodes", "parameters", "MACs"];
    header.extend(profile.iter().flat_map(|_| ["ms", "share"]));
    let all: f64 = profile.unwrap_or_default().iter().map(milliseconds).sum();
    let mut rows = table(&header);
    for (op, sum) in by_operator(cost, profile) {
        let mut row = vec![op, sum.nodes.to_string(), count(sum.parameters as u64), count(sum.macs)];
        if profile.is_some() {
            let share = if all > 0.0 { 100.0 * sum.milliseconds / all } else { 0.0 };
            row.extend([format!("{:.3}", sum.milliseconds), format!("{share:.0} %")]);
        }
        rows.add_row(row);
    }
    rows
}

fn totals(graph: &Graph, cost: &Cost, profile: Option<&[StepTime]>) -> String {
    let mut text = format!(
        "opset {}, {} nodes, {} parameters, {} MACs, {} of weights, {} of values at most",
        graph.opset,
        cost.nodes.len(),
        count(cost.parameters as u64),
        count(cost.macs),
        bytes(cost.weight_bytes),
        bytes(cost.peak_bytes),
    );
    if let Some(steps) = profile {
        let all: f64 = steps.iter().map(milliseconds).sum();
        // Writing to a string does not fail.
        let _ = write!(text, ", {all:.3} ms in {} steps", steps.len());
    }
    text
}

fn shape_text(node: &NodeCost) -> String {
    node.shape.as_ref().map_or_else(
        || "?".to_owned(),
        |dims| format!("[{}]", dims.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    )
}

/// A count with three digits: `1.23 M`.
fn count(value: u64) -> String {
    scaled(value, 1000.0, &["", " k", " M", " G", " T"])
}

fn bytes(value: u64) -> String {
    scaled(value, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB"])
}

fn scaled(value: u64, base: f64, units: &[&str]) -> String {
    if value == 0 {
        return "-".to_owned();
    }
    let (mut number, mut unit) = (value as f64, 0);
    while number >= base && unit + 1 < units.len() {
        number /= base;
        unit += 1;
    }
    if unit == 0 { format!("{value}{}", units[0]) } else { format!("{number:.2}{}", units[unit]) }
}

/// The graph for Graphviz: a box a node, an arrow a value with its shape.
fn dot(graph: &Graph, cost: &Cost) -> String {
    let mut text = String::from("digraph model {\n  node [shape=box, fontname=\"sans-serif\"];\n");
    let mut makers: HashMap<&str, String> = HashMap::new();
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    for (index, input) in graph.inputs.iter().enumerate() {
        line(format!("  i{index} [label={}, shape=ellipse];", quoted(&input.name)));
        makers.insert(&input.name, format!("i{index}"));
    }
    for (index, (node, cost)) in graph.nodes.iter().zip(&cost.nodes).enumerate() {
        line(format!("  n{index} [label={}];", quoted(&format!("{}\n{}", cost.op, shape_text(cost)))));
        for input in node.inputs.iter().filter_map(|name| makers.get(name.as_str())) {
            line(format!("  {input} -> n{index};"));
        }
        makers.extend(node.outputs.iter().map(|name| (name.as_str(), format!("n{index}"))));
    }
    for (index, output) in graph.outputs.iter().enumerate() {
        line(format!("  o{index} [label={}, shape=ellipse];", quoted(&output.name)));
        if let Some(maker) = makers.get(output.name.as_str()) {
            line(format!("  {maker} -> o{index};"));
        }
    }
    text.push_str("}\n");
    text
}

/// Names come from files: what would end the text is escaped.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

fn to_json(graph: &Graph, cost: &Cost, profile: Option<&[StepTime]>) -> Value {
    let times = times(profile);
    let node = |node: &NodeCost| {
        json!({
            "node": node.node,
            "op": node.op,
            "dtype": node.dtype.map(|dtype| dtype.to_string()),
            "shape": node.shape.as_ref().map(|dims| dims.iter().map(dim_json).collect::<Vec<_>>()),
            "parameters": node.parameters,
            "macs": node.macs,
            "bytes": node.bytes,
            "ms": times.get(node.node.as_str()),
        })
    };
    let operator = |(op, sum): (String, Sum)| {
        let ms = profile.map(|_| sum.milliseconds);
        json!({"op": op, "nodes": sum.nodes, "parameters": sum.parameters, "macs": sum.macs, "ms": ms})
    };
    json!({
        "opset": graph.opset,
        "parameters": cost.parameters,
        "macs": cost.macs,
        "weight_bytes": cost.weight_bytes,
        "peak_bytes": cost.peak_bytes,
        "ms": profile.map(|steps| steps.iter().map(milliseconds).sum::<f64>()),
        "nodes": cost.nodes.iter().map(node).collect::<Vec<_>>(),
        "operators": by_operator(cost, profile).into_iter().map(operator).collect::<Vec<_>>(),
    })
}

fn dim_json(dim: &Dim) -> Value {
    match dim {
        Dim::Known(size) => json!(size),
        Dim::Named(name) => json!(name),
        Dim::Unknown => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_three_digits_and_a_unit() {
        assert_eq!([count(0), count(999), count(1_234_567)], ["-", "999", "1.23 M"]);
        assert_eq!([bytes(512), bytes(1536)], ["512 B", "1.50 KiB"]);
    }

    #[test]
    fn a_name_cannot_end_its_quotes() {
        assert_eq!(quoted("a\"; b\\"), "\"a\\\"; b\\\\\"");
    }

    #[test]
    fn sizes_of_dimensions_are_positive_numbers_with_a_name() {
        assert_eq!(named_size("L=128"), Ok(("L".to_owned(), 128)));
        assert!(named_size("L=0").is_err() && named_size("L").is_err());
    }
}
