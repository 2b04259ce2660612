//! `GET /hedge/v1/models/{name}/route`: what a model's local answers promise now, and how it came to that.

use std::sync::Arc;

use axum::extract::{Path, State};
use serde_json::json;

use super::error::ApiError;
use super::json_body::Json;
use super::routes::ApiState;

pub(super) async fn route(State(state): State<Arc<ApiState>>, Path(name): Path<String>) -> Result<Json, ApiError> {
    let model = state.model(&name, None)?;
    let mut summary = model.route.summary();
    let audits = state.rows.routes.audits.stats();
    // Of all models together: they wait in one queue.
    summary["audit_queue"] = json!({
        "waiting": audits.waiting,
        "bytes": audits.bytes,
        "queued": audits.queued,
        "finished": audits.finished,
        "dropped": audits.dropped,
        "expired": audits.expired,
        "withdrawn": audits.withdrawn,
        "damaged": audits.damaged,
    });
    Ok(Json(summary))
}
