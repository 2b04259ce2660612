//! `hedge bundle inspect`.

use anyhow::Result;
use clap::Args;
use hedge_bundle::{Bundle, Manifest};
use hedge_engine::{Port, Signature};
use serde_json::{Value, json};

use super::{BundlePath, hex, open};
use crate::output::{say, table, write_json};

/// Labels that the table shows of an output.
const SHOWN_LABELS: usize = 5;

#[derive(Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    bundle: BundlePath,
    /// Writes all of it as JSON, `-` for standard output.
    #[arg(long, value_name = "FILE")]
    json: Option<String>,
}

pub(crate) fn run(args: &Inspect) -> Result<()> {
    let bundle = open(&args.bundle.path)?;
    let signature = Signature::of(&bundle.graph);
    let json = args.json.as_deref();
    say(json, summary(&bundle));
    say(json, ports(&bundle.manifest, &signature));
    say(json, files(&bundle.manifest));
    match json {
        Some(target) => write_json(target, &to_json(&bundle, &signature)?),
        None => Ok(()),
    }
}

fn summary(bundle: &Bundle) -> comfy_table::Table {
    let manifest = &bundle.manifest;
    let or_none = |text: &str| if text.is_empty() { "none stated".to_owned() } else { text.to_owned() };
    let comparison =
        manifest.comparison.as_ref().map_or("none: nothing can be certified".to_owned(), ToString::to_string);
    let model = format!(
        "opset {}, {} nodes, {} parameters",
        bundle.graph.opset,
        bundle.graph.nodes.len(),
        bundle.graph.parameters()
    );
    let mut rows = table(&[manifest.name.as_str(), manifest.version.as_str()]);
    for (what, value) in [
        ("description", or_none(&manifest.description)),
        ("licence", or_none(&manifest.licence)),
        ("digest", hex(&bundle.digest())),
        ("model", model),
        ("comparison", comparison),
        ("score", or_none(manifest.score.as_deref().unwrap_or_default())),
        ("golden cases", bundle.golden.len().to_string()),
        ("size", format!("{} bytes", total(manifest))),
    ] {
        rows.add_row([what.to_owned(), value]);
    }
    rows
}

fn ports(manifest: &Manifest, signature: &Signature) -> comfy_table::Table {
    let mut rows = table(&["", "name", "type", "shape", "meaning", "unit", "transform or labels"]);
    for input in &manifest.inputs {
        let (dtype, shape) = kind(signature.input(&input.name));
        let transform = input.transform.as_ref().map_or(String::new(), |transform| {
            format!("{} -> {}", transform.kind(), transform.feeds(&input.name).join(", "))
        });
        rows.add_row(["input", &input.name, &dtype, &shape, &input.meaning, &input.unit, &transform]);
    }
    for output in &manifest.outputs {
        let (dtype, shape) = kind(signature.output(&output.name));
        rows.add_row(["output", &output.name, &dtype, &shape, &output.meaning, &output.unit, &labels(&output.labels)]);
    }
    rows
}

fn kind(port: Option<&Port>) -> (String, String) {
    port.map_or_else(Default::default, |port| (port.dtype.oip_name().to_owned(), port.shape_text()))
}

fn labels(labels: &[String]) -> String {
    let shown = labels.iter().take(SHOWN_LABELS).cloned().collect::<Vec<_>>().join(", ");
    match labels.len().saturating_sub(SHOWN_LABELS) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn files(manifest: &Manifest) -> comfy_table::Table {
    let mut rows = table(&["file", "bytes", "SHA-256"]);
    for file in &manifest.files {
        rows.add_row([file.name.to_string(), file.bytes.to_string(), file.sha256.to_string()]);
    }
    rows
}

/// The manifest itself, with what the model adds to it.
fn to_json(bundle: &Bundle, signature: &Signature) -> Result<Value> {
    let ports = |ports: &[Port]| -> Vec<Value> {
        ports
            .iter()
            .map(|port| json!({"name": port.name, "dtype": port.dtype.oip_name(), "shape": port.shape_text()}))
            .collect()
    };
    let mut value = serde_json::to_value(&bundle.manifest)?;
    let more = json!({
        "digest": hex(&bundle.digest()),
        "bytes": total(&bundle.manifest),
        "model": {
            "opset": bundle.graph.opset,
            "nodes": bundle.graph.nodes.len(),
            "parameters": bundle.graph.parameters(),
            "inputs": ports(&signature.inputs),
            "outputs": ports(&signature.outputs),
        },
    });
    if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
        value.extend(more);
    }
    Ok(value)
}

fn total(manifest: &Manifest) -> u64 {
    manifest.files.iter().map(|file| file.bytes).sum()
}
