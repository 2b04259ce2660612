//! Questions about the server and its models: `/v2`, health, metadata, readiness, configuration, statistics.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use hedge_agent_core::Offload;
use hedge_graph::Dim;
use hedge_telemetry::metrics::CONTENT_TYPE;
use serde_json::{Value, json};

use super::error::ApiError;
use super::json_body::Json;
use super::raw::{self, Described};
use super::request::BYTES;
use super::routes::ApiState;
use crate::catalog::Slot;
use crate::model::{ServedModel, Tally};
use crate::routing::RouteGauges;

type Shared = State<Arc<ApiState>>;

pub(super) async fn server() -> Json {
    Json(json!({
        "name": "hedge-agent",
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": ["binary_tensor_data", "model_repository", "model_configuration", "statistics", "hedge_routing", "hedge_durable"],
    }))
}

pub(super) async fn live() -> StatusCode {
    StatusCode::OK
}

pub(super) async fn ready(State(state): Shared) -> Response {
    readiness(&state)
}

pub(super) async fn model(State(state): Shared, Path(name): Path<String>) -> Result<Json, ApiError> {
    state.model(&name, None).map(|model| Json(describe(&model)))
}

pub(super) async fn model_version(
    State(state): Shared,
    Path((name, version)): Path<(String, String)>,
) -> Result<Json, ApiError> {
    state.model(&name, Some(&version)).map(|model| Json(describe(&model)))
}

pub(super) async fn model_ready(State(state): Shared, Path(name): Path<String>) -> Result<Response, ApiError> {
    state.model(&name, None).map(|_| readiness(&state))
}

pub(super) async fn model_version_ready(
    State(state): Shared,
    Path((name, version)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    state.model(&name, Some(&version)).map(|_| readiness(&state))
}

pub(super) async fn config(State(state): Shared, Path(name): Path<String>) -> Result<Json, ApiError> {
    state.model(&name, None).map(|model| Json(configuration(&model, state.max_batch)))
}

pub(super) async fn config_version(
    State(state): Shared,
    Path((name, version)): Path<(String, String)>,
) -> Result<Json, ApiError> {
    state.model(&name, Some(&version)).map(|model| Json(configuration(&model, state.max_batch)))
}

pub(super) async fn stats(State(state): Shared, Path(name): Path<String>) -> Result<Json, ApiError> {
    state.model(&name, None).map(|model| Json(json!({ "model_stats": [statistics(&model)] })))
}

pub(super) async fn stats_version(
    State(state): Shared,
    Path((name, version)): Path<(String, String)>,
) -> Result<Json, ApiError> {
    state.model(&name, Some(&version)).map(|model| Json(json!({ "model_stats": [statistics(&model)] })))
}

pub(super) async fn all_stats(State(state): Shared) -> Json {
    let all: Vec<Value> = state.models.served().iter().map(|model| statistics(model)).collect();
    Json(json!({ "model_stats": all }))
}

pub(super) async fn metrics(State(state): Shared) -> Response {
    let slots = state.models.all();
    let waiting = |slot: &Slot| slot.served.as_ref().map(|model| model.worker.queue_depth());
    let models = slots.iter().map(|(name, slot)| (name.as_str(), waiting(slot)));
    let cache = state.rows.cache.as_ref().map(hedge_agent_spool::Cache::stats);
    let devices = hedge_engine::device_states();
    let routes: Vec<_> = state.models.served().iter().map(|model| route_of(model)).collect();
    let (metrics, shared) = (&state.rows.metrics, &state.rows.routes);
    let routes = routes.iter().map(|(name, gauges)| (name.as_str(), gauges));
    metrics.show_routes(routes, shared.audits.stats(), shared.reports().dropped());
    if let Ok(durable) = &state.durable {
        metrics.outbox.show_store(durable.stats().await);
    }
    let text = metrics.render(cache, models, state.models.bytes(), &devices);
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
}

fn route_of(model: &ServedModel) -> (String, RouteGauges) {
    (model.settings.name.clone(), model.route.gauges())
}

fn readiness(state: &ApiState) -> Response {
    if state.is_draining() {
        return ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the agent is shutting down").into_response();
    }
    StatusCode::OK.into_response()
}

fn describe(model: &ServedModel) -> Value {
    let list = |ports: &[Described<'_>]| -> Value {
        let each =
            ports.iter().map(|port| json!({ "name": port.name, "datatype": port.datatype, "shape": shape(port, 0) }));
        each.collect()
    };
    json!({
        "name": model.settings.name,
        "versions": [model.version],
        "platform": "hedge_onnx",
        "inputs": list(&inputs(model)),
        "outputs": list(&outputs(model)),
        "properties": properties(model),
    })
}

fn inputs(model: &ServedModel) -> Vec<Described<'_>> {
    raw::inputs(model.pipeline.as_ref(), &model.signature)
}

fn outputs(model: &ServedModel) -> Vec<Described<'_>> {
    model.signature.outputs.iter().map(raw::own).collect()
}

/// The model's facts that the protocol has no field for.
fn properties(model: &ServedModel) -> Value {
    let settings = &model.settings;
    let offload = match settings.offload {
        Offload::Auto => "auto",
        Offload::Never => "never",
    };
    let mut properties = json!({
        "hedge.model": model.digest.to_string(),
        "hedge.device": model.device_label(model.worker.stands_in()),
        "hedge.offload": offload,
        "hedge.threshold": settings.threshold.to_string(),
        "hedge.route": model.route.gauges().phase.name(),
        "hedge.score": settings.score.name(),
        "hedge.cloud_model": settings.cloud_model.to_string(),
        "hedge.labels": model.labels.join(","),
    });
    for input in inputs(model) {
        if let Some(raw) = input.raw {
            properties[format!("hedge.input.{}", input.name)] = raw.into();
        }
    }
    properties
}

/// Triton's model configuration, as far as there is something to say.
fn configuration(model: &ServedModel, max_batch: usize) -> Value {
    // With a batch axis, Triton's dims leave it out.
    let skip = usize::from(model.signature.batched);
    let list = |ports: &[Described<'_>]| -> Value {
        let each = ports.iter().map(|port| {
            // Triton has a name of its own for the protocol's BYTES.
            let data_type = if port.datatype == BYTES { "STRING" } else { port.datatype };
            let data_type = format!("TYPE_{data_type}");
            json!({ "name": port.name, "data_type": data_type, "dims": shape(port, skip) })
        });
        each.collect()
    };
    let parameters: serde_json::Map<String, Value> = match properties(model) {
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, json!({ "string_value": value }))).collect(),
        _ => serde_json::Map::new(),
    };
    json!({
        "name": model.settings.name,
        "platform": "hedge_onnx",
        "backend": "hedge",
        "max_batch_size": if model.signature.batched { max_batch } else { 0 },
        "input": list(&inputs(model)),
        "output": list(&outputs(model)),
        "parameters": parameters,
    })
}

fn statistics(model: &ServedModel) -> Value {
    let counts = &model.counts;
    let tally = |tally: &Tally| json!({ "count": tally.count.load(Ordering::Relaxed), "ns": tally.nanos.load(Ordering::Relaxed) });
    let none = json!({ "count": 0, "ns": 0 });
    json!({
        "name": model.settings.name,
        "version": model.version,
        "last_inference": counts.last_unix_millis.load(Ordering::Relaxed),
        "inference_count": counts.success.count.load(Ordering::Relaxed),
        "execution_count": counts.infer.count.load(Ordering::Relaxed),
        "inference_stats": {
            "success": tally(&counts.success),
            "fail": tally(&counts.fail),
            "queue": tally(&counts.queue),
            "compute_input": none,
            "compute_infer": tally(&counts.infer),
            "compute_output": none,
            "cache_hit": tally(&counts.cache_hit),
            "cache_miss": tally(&counts.cache_miss),
        },
        "batch_stats": [],
    })
}

/// The dimensions from `skip` on. The protocol has no word for an unknown number of them: one free dimension stands for it.
fn shape(port: &Described<'_>, skip: usize) -> Value {
    let Some(dims) = &port.shape else { return json!([-1]) };
    let each = dims.iter().skip(skip).map(|dim| match dim {
        Dim::Known(size) => json!(size),
        Dim::Named(_) | Dim::Unknown => json!(-1),
    });
    each.collect()
}
