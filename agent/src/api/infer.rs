//! `POST …/infer`: bounds, parsing, one [`RowTask`] a row, and the response.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use hedge_agent_core::{Answer, Failure};
use hedge_tensor::NamedTensor;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::binary;
use super::durable;
use super::error::ApiError;
use super::raw;
use super::request::{InferRequest, Input, Limits};
use super::response::{self, Asked};
use super::routes::ApiState;
use crate::answered::Answered;
use crate::model::ServedModel;
use crate::row::{RowTask, Wish};

/// JSON of at least this many bytes is parsed off the reactor (about 1 ms).
const LARGE_JSON: usize = 128 * 1024;
/// Bodies of at least this many bytes are checked and digested off the reactor (about 1 ms).
const LARGE_BODY: usize = 1024 * 1024;

/// Infers with the model's only version.
pub(super) async fn infer(
    State(state): State<Arc<ApiState>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    answer(&state, &name, None, &headers, body).await
}

/// Infers with a version named.
pub(super) async fn infer_version(
    State(state): State<Arc<ApiState>>,
    Path((name, version)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    answer(&state, &name, Some(&version), &headers, body).await
}

async fn answer(
    state: &Arc<ApiState>,
    name: &str,
    version: Option<&str>,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let model = state.model(name, version)?;
    let body = state.bodies.read(headers, body).await?;
    let (json, binary) = binary::split(headers, &body.bytes)?;
    let large = body.bytes.len() >= LARGE_BODY;
    let limits = Limits { takes_bytes: model.pipeline.is_some(), ..state.limits };
    let request = parse(json, binary, limits).await?;
    response::check_outputs(&model, request.outputs.as_deref())?;
    let job = Job { state: Arc::clone(state), model: Arc::clone(&model), wish: request.wish, arrived, large };
    if request.durable {
        return durable::infer(job, request).await;
    }
    let rows = job.prepare(request.inputs, Job::start).await?;
    let answers: Vec<Answered> =
        finish_rows(rows).await?.into_iter().map(|answer| Answered::new(answer, &model)).collect();
    let asked = Asked {
        model: &model.settings.name,
        id: request.id.as_deref(),
        outputs: request.outputs.as_deref(),
        binary_outputs: request.binary_outputs,
    };
    response::build(&asked, &answers)
}

async fn parse(json: Bytes, binary: Option<Bytes>, limits: Limits) -> Result<InferRequest, ApiError> {
    if json.len() < LARGE_JSON {
        return InferRequest::read(&json, binary, &limits);
    }
    off_the_reactor(move || InferRequest::read(&json, binary, &limits)).await
}

pub(super) async fn off_the_reactor<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| {
        Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the request could not be processed; report this"))
    })
}

/// What it takes to make a request's rows.
pub(super) struct Job {
    pub(super) state: Arc<ApiState>,
    pub(super) model: Arc<ServedModel>,
    pub(super) wish: Wish,
    pub(super) arrived: Instant,
    /// Whether its body is large.
    large: bool,
}

impl Job {
    /// Makes the model's inputs of what was sent and gives them to `then`; what takes long is done off the reactor.
    pub(super) async fn prepare<T: Send + 'static>(
        self,
        inputs: Vec<Input>,
        then: impl FnOnce(Self, Vec<Vec<NamedTensor>>) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        match (&self.model.pipeline, self.large) {
            (Some(_), _) => self.transform(inputs, then).await,
            (None, true) => {
                off_the_reactor(move || {
                    let rows = self.rows(raw::tensors(inputs)?)?;
                    Ok(then(self, rows))
                })
                .await
            }
            (None, false) => {
                let rows = self.rows(raw::tensors(inputs)?)?;
                Ok(then(self, rows))
            }
        }
    }

    /// Makes the model's inputs of raw ones, off the reactor.
    async fn transform<T: Send + 'static>(
        self,
        inputs: Vec<Input>,
        then: impl FnOnce(Self, Vec<Vec<NamedTensor>>) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let turn = Arc::clone(&self.state.decoders).acquire_owned();
        let turn = timeout_at(self.arrived + self.wish.allowed, turn).await;
        let turn = turn.map_err(|_| ApiError::from_failure(&Failure::Deadline(self.wish.allowed), None))?;
        off_the_reactor(move || {
            let inputs = match &self.model.pipeline {
                Some(pipeline) => raw::transformed(pipeline, inputs, self.state.max_rows)?,
                None => raw::tensors(inputs)?,
            };
            drop(turn);
            let rows = self.rows(inputs)?;
            Ok(then(self, rows))
        })
        .await
    }

    /// Checks the inputs against the model and takes them apart into rows.
    fn rows(&self, inputs: Vec<NamedTensor>) -> Result<Vec<Vec<NamedTensor>>, ApiError> {
        let rows = self.model.signature.split(inputs).map_err(|error| ApiError::bad(error.to_string()))?;
        let (count, limit) = (rows.len(), self.state.max_rows);
        if count > limit {
            return Err(ApiError::too_large(format!(
                "the batch has {count} rows, more than {limit} (engine.queue_rows); send fewer at once"
            )));
        }
        Ok(rows)
    }

    /// Starts every row at once, so that they share batches.
    fn start(self, rows: Vec<Vec<NamedTensor>>) -> Vec<RowTask> {
        let start = |row| RowTask::start(&self.state.rows, &self.model, row, self.wish, self.arrived);
        rows.into_iter().map(start).collect()
    }
}

/// Waits for every row; the first failure in the order of the rows is the request's.
async fn finish_rows(mut rows: Vec<RowTask>) -> Result<Vec<Answer>, ApiError> {
    let count = rows.len();
    if count == 1
        && let Some(row) = rows.pop()
    {
        let answer = row.finish().await.map_err(|failure| ApiError::from_failure(&failure, None))?;
        return Ok(vec![answer]);
    }
    // Dropping the set, when the caller goes away, ends the tasks.
    let mut running = JoinSet::new();
    for (index, row) in rows.into_iter().enumerate() {
        running.spawn(async move { (index, row.finish().await) });
    }
    let mut ends: Vec<Option<Result<Answer, Failure>>> = vec![None; count];
    while let Some(joined) = running.join_next().await {
        if let Ok((index, end)) = joined {
            ends[index] = Some(end);
        }
    }
    let ends = ends.into_iter().enumerate().map(|(index, end)| {
        let end = end.unwrap_or_else(|| Err(Failure::Engine("the row's task ended early".into())));
        end.map_err(|failure| ApiError::from_failure(&failure, Some(index)))
    });
    ends.collect()
}
