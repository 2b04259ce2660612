//! Durable requests: `hedge.durable` of an inference request, and `GET /hedge/v1/requests/{id}`.
//!
//! ```text
//! POST …/infer                   200 ended by its deadline · 202 accepted · 409 the id is another request's · 503 not accepted
//! GET /hedge/v1/requests/{id}    200 ended · 202 not yet · 404 not known · 410 no longer kept
//! ```
//!
//! One that ended without an answer has the status that it would have without `hedge.durable`, and its id beside the error: who
//! sees the id need not ask again.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hedge_agent_core::outbox::{Ending, NotAccepted, Standing};
use hedge_agent_spool::OutboxError;
use hedge_tensor::NamedTensor;
use hedge_wire::RequestId;
use serde_json::json;
use tokio::time::{timeout, timeout_at};

use super::error::ApiError;
use super::infer::Job;
use super::json_body::Json;
use super::request::InferRequest;
use super::response::{self, Asked};
use super::routes::ApiState;
use crate::answered::Answered;
use crate::durable::{About, Durable, End, Failed, Handed, NotDurable, Request, Row, Stopping, Waited, row_id};

/// The longest id of a durable request, in bytes: it stands in paths and on the disk.
const MAX_ID: usize = 256;
/// How long beyond its deadline a caller waits to hear that the request is accepted: it takes one write.
const ACCEPTANCE: Duration = Duration::from_secs(10);
/// How often a request is looked at that changes meanwhile.
const LOOKS: usize = 4;

/// Hands a request in and waits for its end, until its deadline at the longest.
pub(super) async fn infer(job: Job, request: InferRequest) -> Result<Response, ApiError> {
    let InferRequest { id, inputs, wish, outputs, binary_outputs, .. } = request;
    let (durable, deadline) = (job.state.durable.clone()?, job.arrived + wish.allowed);
    let id = id.map_or_else(|| Ok(uuid::Uuid::now_v7().to_string()), checked)?;
    let model = job.model.settings.name.clone();
    let about = About { id: id.clone(), model, row: 0, rows: 0, outputs, binary_outputs };
    let rows = job.prepare(inputs, move |job, rows| hand(&job, rows, &about)).await?;
    let ids: Vec<RequestId> = rows.iter().map(|row| row.id).collect();
    let mut ticket = durable.hand_in(rows).await?;
    let waited = match timeout_at(deadline, ticket.ended()).await {
        Ok(waited) => waited,
        Err(_) => timeout(ACCEPTANCE, ticket.accepted()).await.map_err(|_| unsettled(&id))?,
    };
    match waited {
        Waited::Refused(why) => Err(refusal(why)),
        Waited::Ended(rows) => {
            let mut ends = Vec::with_capacity(rows.len());
            for (row, id) in rows.into_iter().zip(&ids) {
                let ending = if let Row::Ended(ending) = row { Some(ending) } else { kept(&durable, *id).await? };
                ends.push(end(ending.ok_or_else(no_longer_kept)?));
            }
            respond(&durable, &id, ids, ends).await
        }
        Waited::Accepted => Ok(accepted(&id)),
        Waited::Closing if ticket.is_accepted() => Ok(accepted(&id)),
        Waited::Closing => Err(Stopping.into()),
    }
}

/// The result of a durable request.
pub(super) async fn result(State(state): State<Arc<ApiState>>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let durable = state.durable.clone()?;
    for _ in 0..LOOKS {
        let first = row_id(&id, 0);
        let about = match known(&durable, &id, &[first]).await? {
            Standing::Done => match kept(&durable, first).await? {
                Some(ending) => match end(ending) {
                    Ok(end) => end.about,
                    // Whatever became of the others.
                    Err(failed) => return respond(&durable, &id, vec![first], vec![Err(failed)]).await,
                },
                None => continue,
            },
            _ => match durable.payload(first).await {
                Ok(Some(payload)) => match Request::decode(&payload) {
                    Some(request) => request.about,
                    None => return Ok(accepted(&id)),
                },
                Ok(None) => continue,
                // It will end with that.
                Err(OutboxError::Damaged { .. }) => return Ok(accepted(&id)),
                Err(error) => return Err(unavailable(&error)),
            },
        };
        let ids: Vec<RequestId> = (0..about.rows).map(|row| row_id(&id, row)).collect();
        if known(&durable, &id, &ids).await? != Standing::Done {
            return Ok(accepted(&id));
        }
        let mut ends = Vec::with_capacity(ids.len());
        for id in &ids {
            ends.push(end(kept(&durable, *id).await?.ok_or_else(no_longer_kept)?));
        }
        return respond(&durable, &id, ids, ends).await;
    }
    // It is about to end, or has just.
    Ok(accepted(&id))
}

/// How far rows of a request have come together: [`Standing::Done`] or [`Standing::Waiting`].
async fn known(durable: &Durable, id: &str, rows: &[RequestId]) -> Result<Standing, ApiError> {
    let standings = durable.look(rows.to_vec()).await?;
    let any = |wanted: fn(&Standing) -> bool| standings.iter().any(wanted);
    if any(|standing| *standing == Standing::Gone) {
        return Err(no_longer_kept());
    }
    // One row that was not accepted, and nothing was promised.
    if any(|standing| matches!(standing, Standing::Unknown | Standing::Accepting)) {
        return Err(ApiError::unknown(format!(
            "there is no durable request {id:?}: it was not accepted, or its result is no longer kept"
        )));
    }
    Ok(if any(|standing| *standing == Standing::Waiting) { Standing::Waiting } else { Standing::Done })
}

/// The rows as the outbox takes them.
fn hand(job: &Job, rows: Vec<Vec<NamedTensor>>, about: &About) -> Vec<Handed> {
    let count = u32::try_from(rows.len()).expect("a request's rows are bounded by the engine's queue");
    let hand = |(row, inputs)| {
        let about = About { row, rows: count, ..about.clone() };
        let id = row_id(&about.id, row);
        Handed::new(id, Request { about, place: job.wish.place, inputs }.encode())
    };
    (0..count).zip(rows).map(hand).collect()
}

fn checked(id: String) -> Result<String, ApiError> {
    match (1..=MAX_ID).contains(&id.len()) {
        true => Ok(id),
        false => {
            Err(ApiError::bad(format!("the id of a durable request has 1 to {MAX_ID} bytes; shorten it, or omit it")))
        }
    }
}

async fn kept(durable: &Durable, row: RequestId) -> Result<Option<Ending<Bytes>>, ApiError> {
    match durable.result(row).await {
        Ok(result) => Ok(result.map(|(_, ending)| ending)),
        Err(OutboxError::Damaged { .. }) => Ok(Some(Ending::Damaged)),
        Err(error) => Err(unavailable(&error)),
    }
}

/// A row's end, as its request's response tells it.
fn end(ending: Ending<Bytes>) -> Result<End, Failed> {
    let failed = |message: &str| Err(Failed { status: 500, message: message.to_owned() });
    match ending {
        Ending::Answered(bytes) => match End::decode(&bytes) {
            Some(end) => Ok(end),
            None => failed("the answer was written by another version of the agent"),
        },
        Ending::Poisoned { attempts } => failed(&format!(
            "the agent ended {attempts} times while it executed this, which is not tried again; it is kept in quarantine"
        )),
        Ending::Damaged => failed("the request or its answer was damaged on the disk; the agent's log says more"),
    }
}

/// The response to a request whose rows have all ended. From now on its results may be dropped for later ones.
async fn respond(
    durable: &Durable,
    id: &str,
    rows: Vec<RequestId>,
    ends: Vec<Result<End, Failed>>,
) -> Result<Response, ApiError> {
    durable.fetched(rows).await;
    let several = ends.len() > 1;
    let (mut about, mut answers) = (None, Vec::<Answered>::with_capacity(ends.len()));
    for (row, end) in ends.into_iter().enumerate() {
        let answered = end.and_then(|end| {
            about.get_or_insert(end.about);
            end.outcome
        });
        answers.push(answered.map_err(|failed| failure(failed, several.then_some(row), id))?);
    }
    let Some(About { model, outputs, binary_outputs, .. }) = about else { return Err(no_longer_kept()) };
    let asked = Asked { model: &model, id: Some(id), outputs: outputs.as_deref(), binary_outputs };
    response::build(&asked, &answers)
}

fn failure(failed: Failed, row: Option<usize>, id: &str) -> ApiError {
    let status = StatusCode::from_u16(failed.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match row {
        Some(row) => ApiError::ended(status, format!("row {row}: {}", failed.message), id),
        None => ApiError::ended(status, failed.message, id),
    }
}

/// The request will be answered; where is said.
fn accepted(id: &str) -> Response {
    let path = format!("/hedge/v1/requests/{}", in_a_path(id));
    let mut response = (StatusCode::ACCEPTED, Json(json!({ "id": id }))).into_response();
    if let Ok(path) = HeaderValue::from_str(&path) {
        response.headers_mut().insert(header::LOCATION, path);
    }
    response
}

/// As RFC 3986 has it: everything but unreserved characters is escaped.
fn in_a_path(id: &str) -> String {
    let escape = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    id.bytes().map(escape).collect()
}

/// Whether it is accepted is not known: the disk is slow.
fn unsettled(id: &str) -> ApiError {
    let message = format!("the disk has not taken the request yet; send it again with \"id\": {id:?}, which joins it");
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message)
}

fn refusal(why: NotAccepted) -> ApiError {
    let status = match why {
        NotAccepted::OtherRequest => StatusCode::CONFLICT,
        NotAccepted::Gone => StatusCode::GONE,
        NotAccepted::TooMany { .. }
        | NotAccepted::TooLarge { .. }
        | NotAccepted::Unfetched { .. }
        | NotAccepted::DiskFull => StatusCode::SERVICE_UNAVAILABLE,
    };
    ApiError::new(status, why.to_string())
}

fn no_longer_kept() -> ApiError {
    ApiError::new(StatusCode::GONE, NotAccepted::Gone.to_string())
}

fn unavailable(error: &OutboxError) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

impl From<NotDurable> for ApiError {
    fn from(why: NotDurable) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, why.to_string())
    }
}

impl From<Stopping> for ApiError {
    fn from(why: Stopping) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, why.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_id_has_a_place_in_a_path() {
        assert_eq!(in_a_path("0199-Az._~"), "0199-Az._~");
        assert_eq!(in_a_path("a/b c\u{e9}%"), "a%2Fb%20c%C3%A9%25");
    }

    #[test]
    fn an_id_is_neither_empty_nor_longer_than_a_path_takes() {
        assert!(checked("x".repeat(MAX_ID)).is_ok());
        assert!(checked(String::new()).is_err() && checked("x".repeat(MAX_ID + 1)).is_err());
    }
}
