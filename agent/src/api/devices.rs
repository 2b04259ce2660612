//! `GET /hedge/v1/devices`: what the probe found and how each device has done since the agent started.

use hedge_engine::{Device, DeviceInfo, DeviceKind, DeviceState};
use serde_json::{Map, Value, json};

use super::json_body::Json;

pub(super) async fn devices() -> Json {
    // The probe looks at adapters once; where it is the first to do so it takes milliseconds.
    let report = tokio::task::spawn_blocking(hedge_engine::probe).await;
    let found = report.map(|report| report.found).unwrap_or_default();
    let states = hedge_engine::device_states();
    Json(json!({ "devices": found.iter().map(|info| describe(info, &states)).collect::<Vec<_>>() }))
}

/// A device that no model was loaded for has no state.
fn describe(info: &DeviceInfo, states: &[DeviceState]) -> Value {
    let mut described = json!({
        "name": info.name,
        "kind": if info.kind == DeviceKind::Cpu { "cpu" } else { "gpu" },
        "api": info.api,
        "software": info.software,
        "accepted": info.accepted,
        "why": info.why,
    });
    let state = states.iter().find(|state| state.device == Device::label_of(info));
    described["state"] = json!(state.map(|state| state.standing.name()));
    if let Some(state) = state {
        let faults: Map<String, Value> =
            state.faults.iter().map(|(kind, count)| (kind.name().to_owned(), json!(count))).collect();
        described["faults"] = Value::Object(faults);
        described["last_fault"] = json!(state.last_fault);
        described["next_probe_secs"] = json!(state.next_probe.map(|rest| rest.as_secs_f64()));
    }
    described
}
