//! `hedge devices`.

use anyhow::Result;
use clap::Args;
use hedge_engine::{DeviceInfo, DeviceKind};
use serde_json::json;

use crate::output::{say, table, write_json};

/// `hedge devices`.
#[derive(Args)]
pub(crate) struct Devices {
    /// Writes what was found as JSON, `-` for standard output.
    #[arg(long, value_name = "FILE")]
    json: Option<String>,
}

pub(crate) fn run(args: &Devices) -> Result<()> {
    let report = hedge_engine::probe();
    let mut rows = table(&["device", "kind", "api", "auto", "why not"]);
    for device in &report.found {
        let auto = if device.accepted { "yes" } else { "no" };
        let why = device.why.as_deref().unwrap_or("");
        rows.add_row([device.name.as_str(), kind(device), device.api.as_str(), auto, why]);
    }
    say(args.json.as_deref(), rows);
    let Some(target) = &args.json else { return Ok(()) };
    let devices: Vec<_> = report.found.iter().map(to_json).collect();
    write_json(target, &json!({ "devices": devices }))
}

fn kind(device: &DeviceInfo) -> &'static str {
    match (device.kind, device.software) {
        (DeviceKind::Cpu, _) => "cpu",
        (DeviceKind::Gpu, false) => "gpu",
        (DeviceKind::Gpu, true) => "gpu (software)",
    }
}

fn to_json(device: &DeviceInfo) -> serde_json::Value {
    json!({
        "name": device.name,
        "kind": if device.kind == DeviceKind::Cpu { "cpu" } else { "gpu" },
        "api": device.api,
        "software": device.software,
        "accepted": device.accepted,
        "why": device.why,
    })
}
