//! `hedge devices`: what the probe finds here, or how the devices of a running agent do.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use comfy_table::Table;
use hedge_engine::{DeviceInfo, DeviceKind};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::failure::hinted;
use crate::output::{say, table, write_json};

/// `hedge devices`.
#[derive(Args)]
pub(crate) struct Devices {
    /// Asks a running agent how its devices do, by the address of its API, such as `http://127.0.0.1:8000`.
    #[arg(long, value_name = "URL")]
    agent: Option<String>,
    /// Writes what was found as JSON, `-` for standard output.
    #[arg(long, value_name = "FILE")]
    json: Option<String>,
}

/// How long an agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most bytes of its answer.
const MAX_ANSWER: usize = 1 << 20;

pub(crate) fn run(args: &Devices) -> Result<()> {
    match &args.agent {
        Some(agent) => of_agent(args, agent),
        None => of_this_machine(args),
    }
}

fn of_this_machine(args: &Devices) -> Result<()> {
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

/// How a device of an agent does.
#[derive(Deserialize)]
struct Standing {
    name: String,
    kind: String,
    software: bool,
    why: Option<String>,
    /// Absent: no model was loaded for it.
    state: Option<String>,
    #[serde(default)]
    faults: BTreeMap<String, u64>,
    last_fault: Option<String>,
    next_probe_secs: Option<f64>,
}

fn of_agent(args: &Devices, agent: &str) -> Result<()> {
    let url = format!("{}/hedge/v1/devices", agent.trim_end_matches('/'));
    let answer = super::asynchronously(fetch(&url)).map_err(|error| {
        hinted(&error, "is the agent running, and is this its address? See http.listen in its configuration")
    })?;
    say(args.json.as_deref(), standings(&answer).with_context(|| format!("the answer of {url} is not as expected"))?);
    args.json.as_deref().map_or(Ok(()), |target| write_json(target, &answer))
}

async fn fetch(url: &str) -> Result<Value> {
    let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
    let mut response = http.get(url).send().await?.error_for_status()?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER {
            return Err(anyhow!("the answer of {url} is larger than {MAX_ANSWER} bytes"));
        }
    }
    serde_json::from_slice(&body).with_context(|| format!("the answer of {url} is no JSON"))
}

/// The table of an agent's devices.
fn standings(answer: &Value) -> Result<Table> {
    let devices = Vec::<Standing>::deserialize(&answer["devices"])?;
    let mut rows = table(&["device", "kind", "state", "faults", "last fault", "tried again", "why not"]);
    for device in devices {
        let kind = if device.software { format!("{} (software)", device.kind) } else { device.kind };
        let faults: Vec<String> = device.faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        let next = device.next_probe_secs.map(|secs| format!("in {secs:.1} s"));
        rows.add_row([
            device.name,
            kind,
            device.state.unwrap_or_else(|| "-".to_owned()),
            faults.join(", "),
            device.last_fault.unwrap_or_default(),
            next.unwrap_or_default(),
            device.why.unwrap_or_default(),
        ]);
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(more: &Value) -> Value {
        let mut device = json!({ "name": "cpu (flex)", "kind": "cpu", "api": "flex", "software": false, "accepted": true, "why": null, "state": null });
        let more = more.as_object().cloned().unwrap_or_default();
        device.as_object_mut().unwrap().extend(more);
        device
    }

    #[test]
    fn an_agents_devices_are_shown_with_their_states_and_faults() {
        let gpu = json!({
            "name": "card", "kind": "gpu", "software": true, "state": "quarantined", "faults": { "lost": 2, "nan": 1 },
            "last_fault": "lost: reset", "next_probe_secs": 1.25,
        });
        let shown = standings(&json!({ "devices": [device(&json!({})), device(&gpu)] })).unwrap().to_string();
        let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
        assert!(lines.iter().any(|line| line[..] == ["cpu", "(flex)", "cpu", "-"]), "{shown}");
        let expected = "card gpu (software) quarantined lost 2, nan 1 lost: reset in 1.2 s";
        assert!(lines.iter().any(|line| line.join(" ") == expected), "{shown}");
    }

    #[test]
    fn an_answer_of_another_program_is_an_error() {
        for answer in [json!({}), json!([]), json!({ "devices": [{ "id": 1 }] })] {
            assert!(standings(&answer).is_err(), "{answer}");
        }
    }
}
