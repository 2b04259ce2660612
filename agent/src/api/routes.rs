//! Paths and what they share.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use tokio::sync::Semaphore;

use super::body::BodyBudget;
use super::error::ApiError;
use super::request::Limits;
use super::{devices, durable, infer, metadata, repository, route};
use crate::catalog::Catalog;
use crate::config::Settings;
use crate::durable::{Durable, NotDurable};
use crate::model::ServedModel;
use crate::row::Shared;

/// What every handler has.
pub(crate) struct ApiState {
    pub(crate) models: Arc<Catalog>,
    pub(crate) rows: Arc<Shared>,
    /// Durable requests, or why there are none.
    pub(crate) durable: Result<Durable, NotDurable>,
    pub(super) bodies: BodyBudget,
    pub(super) limits: Limits,
    pub(super) max_rows: usize,
    pub(super) max_batch: usize,
    /// As many requests as there are cores decode their raw inputs at once, which bounds the memory for it as well.
    pub(super) decoders: Arc<Semaphore>,
    draining: AtomicBool,
}

impl ApiState {
    pub(crate) fn new(
        settings: &Settings,
        models: Arc<Catalog>,
        rows: Arc<Shared>,
        durable: Result<Durable, NotDurable>,
    ) -> Self {
        let bodies = BodyBudget::new(settings.max_body_bytes, settings.max_inflight_body_bytes);
        Self {
            models,
            rows,
            durable,
            limits: Limits {
                deadline: settings.deadline,
                max_deadline: settings.max_deadline,
                max_tensor_bytes: bodies.max_body_bytes(),
                takes_bytes: false,
            },
            bodies,
            max_rows: settings.queue_rows,
            max_batch: settings.max_batch,
            decoders: Arc::new(Semaphore::new(std::thread::available_parallelism().map_or(1, NonZero::get))),
            draining: AtomicBool::new(false),
        }
    }

    /// The model of that name and version.
    pub(super) fn model(&self, name: &str, version: Option<&str>) -> Result<Arc<ServedModel>, ApiError> {
        let Some(slot) = self.models.slot(name) else {
            let names: Vec<String> = self.models.all().into_keys().collect();
            return Err(ApiError::unknown(format!("there is no model {name:?}; there are {}", names.join(", "))));
        };
        let Some(model) = slot.served else {
            let why = slot.problem.unwrap_or_default();
            return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, format!("model {name:?} is not served: {why}")));
        };
        match version {
            Some(version) if version != model.version => {
                let served = &model.version;
                Err(ApiError::unknown(format!("model {name:?} has no version {version:?}; it is served as {served:?}")))
            }
            _ => Ok(model),
        }
    }

    /// From now on the agent says that it is not ready.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

/// The whole API.
pub(crate) fn router(state: Arc<ApiState>) -> Router {
    Router::new()
        .route("/v2", get(metadata::server))
        .route("/v2/", get(metadata::server))
        .route("/v2/health/live", get(metadata::live))
        .route("/v2/health/ready", get(metadata::ready))
        .route("/v2/models/stats", get(metadata::all_stats))
        .route("/v2/models/{name}", get(metadata::model))
        .route("/v2/models/{name}/ready", get(metadata::model_ready))
        .route("/v2/models/{name}/config", get(metadata::config))
        .route("/v2/models/{name}/stats", get(metadata::stats))
        .route("/v2/models/{name}/infer", post(infer::infer))
        .route("/v2/models/{name}/versions/{version}", get(metadata::model_version))
        .route("/v2/models/{name}/versions/{version}/ready", get(metadata::model_version_ready))
        .route("/v2/models/{name}/versions/{version}/config", get(metadata::config_version))
        .route("/v2/models/{name}/versions/{version}/stats", get(metadata::stats_version))
        .route("/v2/models/{name}/versions/{version}/infer", post(infer::infer_version))
        .route("/v2/repository/index", post(repository::index))
        .route("/v2/repository/models/{name}/load", post(repository::load))
        .route("/v2/repository/models/{name}/unload", post(repository::unload))
        .route("/hedge/v1/devices", get(devices::devices))
        .route("/hedge/v1/models/{name}/route", get(route::route))
        .route("/hedge/v1/requests/{id}", get(durable::result))
        .route("/metrics", get(metadata::metrics))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&state), count_errors))
        // Bodies are bounded by `BodyBudget`, before they are read.
        .layer(DefaultBodyLimit::disable())
        .with_state(state)
}

async fn unknown_path(request: Request) -> ApiError {
    ApiError::unknown(format!("there is nothing at {:?}; the API begins at /v2", request.uri().path()))
}

async fn wrong_method(request: Request) -> ApiError {
    let (method, path) = (request.method(), request.uri().path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not possible at {path:?}; see the Allow header"))
}

async fn count_errors(State(state): State<Arc<ApiState>>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    if response.status().is_client_error() || response.status().is_server_error() {
        state.rows.metrics.http_error(response.status().as_str());
    }
    response
}
