//! `hedge model check`: operators, shapes, what is missing — all of it.

use anyhow::Result;
use clap::Args;
use hedge_engine::{CheckReport, Port, Signature};
use serde_json::{Value, json};

use super::{ModelPath, read_graph};
use crate::failure::with_hint;
use crate::output::{say, table, write_json};

#[derive(Args)]
pub(crate) struct Check {
    #[command(flatten)]
    model: ModelPath,
    /// Writes the report as JSON, `-` for standard output.
    #[arg(long, value_name = "FILE")]
    json: Option<String>,
}

pub(crate) fn run(args: &Check) -> Result<()> {
    let graph = read_graph(&args.model.path)?;
    let signature = Signature::of(&graph);
    let report = hedge_engine::check(&graph);
    let json = args.json.as_deref();
    say(json, ports_table(&signature));
    say(json, operators_table(&report));
    say(json, format_args!("opset {}, {} nodes, {} parameters", graph.opset, graph.nodes.len(), graph.parameters()));
    if let Some(target) = json {
        write_json(target, &to_json(&graph, &signature, &report))?;
    }
    let missing = report.missing();
    if missing.is_empty() {
        return Ok(());
    }
    let each: Vec<String> = missing.iter().map(ToString::to_string).collect();
    Err(with_hint(
        format_args!("{} operators are not supported: {}", missing.len(), each.join(", ")),
        "export the model with other operators, or ask for these in an issue",
    ))
}

fn ports_table(signature: &Signature) -> comfy_table::Table {
    let mut rows = table(&["", "name", "type", "shape"]);
    let sides = [("input", &signature.inputs), ("output", &signature.outputs)];
    for (side, ports) in sides {
        for port in ports {
            rows.add_row([side, port.name.as_str(), port.dtype.oip_name(), port.shape_text().as_str()]);
        }
    }
    rows
}

fn operators_table(report: &CheckReport) -> comfy_table::Table {
    let mut rows = table(&["operator", "nodes", "supported"]);
    for operator in &report.operators {
        let name = if operator.domain.is_empty() {
            operator.op.clone()
        } else {
            format!("{}.{}", operator.domain, operator.op)
        };
        let supported = if operator.supported { "yes" } else { "NO" };
        rows.add_row([name, operator.nodes.len().to_string(), supported.to_owned()]);
    }
    rows
}

fn to_json(graph: &hedge_graph::Graph, signature: &Signature, report: &CheckReport) -> Value {
    let ports = |ports: &[Port]| -> Vec<Value> {
        ports
            .iter()
            .map(|port| json!({"name": port.name, "dtype": port.dtype.oip_name(), "shape": port.shape_text()}))
            .collect()
    };
    let operators: Vec<Value> = report
        .operators
        .iter()
        .map(|operator| {
            json!({"domain": operator.domain, "op": operator.op, "nodes": operator.nodes, "supported": operator.supported})
        })
        .collect();
    let missing: Vec<Value> = report
        .missing()
        .iter()
        .map(|operator| json!({"domain": operator.domain, "op": operator.op, "nodes": operator.nodes}))
        .collect();
    json!({
        "opset": graph.opset,
        "nodes": graph.nodes.len(),
        "parameters": graph.parameters(),
        "inputs": ports(&signature.inputs),
        "outputs": ports(&signature.outputs),
        "operators": operators,
        "missing": missing,
    })
}
