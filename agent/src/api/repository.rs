//! The model repository extension: which models there are, and loading and unloading them by name.
//!
//! As Triton has it: loading a loaded model loads it again, a failed load is a 400 with the reason and leaves the model that
//! was there, unloading answers at once while requests in flight are finished by the old model.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::json_body::Json;
use super::routes::ApiState;
use crate::catalog::Slot;

type Shared = State<Arc<ApiState>>;

/// All models; with `{"ready": true}` only those that answer.
pub(super) async fn index(State(state): Shared, headers: HeaderMap, body: Body) -> Result<Json, ApiError> {
    let wish = read(&state, &headers, body).await?;
    let only_ready = wish.get("ready").and_then(Value::as_bool).unwrap_or(false);
    let draining = state.is_draining();
    let mut all = Vec::new();
    for (name, slot) in state.models.all() {
        all.extend(entries(&name, &slot, draining));
    }
    all.retain(|entry| !only_ready || entry["state"] == READY);
    Ok(Json(Value::Array(all)))
}

pub(super) async fn load(
    State(state): Shared,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let wish = read(&state, &headers, body).await?;
    if let Some(parameter) = wish.get("parameters").and_then(Value::as_object).and_then(|given| given.keys().next()) {
        return Err(ApiError::bad(format!(
            "parameter {parameter:?} is not supported: a model is loaded as its file is"
        )));
    }
    let models = Arc::clone(&state.models);
    // In a task of its own: a caller that goes away must not leave a load half done.
    let loaded = tokio::spawn(async move { models.load(&name).await }).await;
    let crashed = || ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "loading the model crashed; report this");
    loaded.map_err(|_| crashed())?.map_err(|error| ApiError::bad(format!("failed to load: {error}")))?;
    Ok(StatusCode::OK)
}

/// `unload_dependents` and other parameters mean nothing here: no model depends on another.
pub(super) async fn unload(
    State(state): Shared,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, ApiError> {
    read(&state, &headers, body).await?;
    let models = Arc::clone(&state.models);
    let unloaded = models.unload(&name).await;
    unloaded.map_err(|error| ApiError::bad(format!("failed to unload: {error}")))?;
    Ok(StatusCode::OK)
}

const READY: &str = "READY";
const UNAVAILABLE: &str = "UNAVAILABLE";

/// One for the model that answers, one for what does not: a newer file that did not load, or nothing at all.
fn entries(name: &str, slot: &Slot, draining: bool) -> Vec<Value> {
    let entry = |version: &str, state: &str, reason: &str| json!({ "name": name, "version": version, "state": state, "reason": reason });
    let served = slot.served.as_ref().map(|model| match draining {
        true => entry(&model.version, UNAVAILABLE, "the agent is shutting down"),
        false => entry(&model.version, READY, ""),
    });
    let problem = slot.problem.as_ref().map(|why| entry("", UNAVAILABLE, why));
    served.into_iter().chain(problem).collect()
}

/// A body that is a JSON object or empty.
async fn read(state: &ApiState, headers: &HeaderMap, body: Body) -> Result<Map<String, Value>, ApiError> {
    let body = state.bodies.read(headers, body).await?;
    if body.bytes.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(&body.bytes)
        .map_err(|error| ApiError::bad(format!("the body is not a JSON object: {error}; send {{}} or nothing")))
}
