//! Errors as the protocol has them: a status and `{"error": "..."}`.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hedge_agent_core::Failure;
use serde_json::json;

use super::json_body::Json;

/// Seconds after which an overloaded agent may be asked again.
const RETRY_AFTER_SECS: &str = "1";
/// The longest message, in characters: it may quote the request.
const MAX_MESSAGE: usize = 1000;

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    /// The durable request that has ended with this, for good.
    ended: Option<String>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), ended: None }
    }

    /// The durable request of this id has ended so.
    pub(crate) fn ended(status: StatusCode, message: impl Into<String>, id: &str) -> Self {
        Self { ended: Some(id.to_owned()), ..Self::new(status, message) }
    }

    /// The request is malformed.
    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// There is no such thing.
    pub(crate) fn unknown(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// The request is larger than allowed.
    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }

    /// A row failed; `row` is named where there are several.
    pub(crate) fn from_failure(failure: &Failure, row: Option<usize>) -> Self {
        let status = match failure {
            Failure::NoCloud(_) => StatusCode::SERVICE_UNAVAILABLE,
            Failure::NeverOffload => StatusCode::BAD_REQUEST,
            Failure::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Failure::Deadline(_) => StatusCode::GATEWAY_TIMEOUT,
            Failure::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            Failure::Engine(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        match row {
            Some(row) => Self::new(status, format!("row {row}: {failure}")),
            None => Self::new(status, failure.to_string()),
        }
    }

    fn may_be_retried(&self) -> bool {
        let later = matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        later && self.ended.is_none()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let retry = self.may_be_retried();
        let message: String = self.message.chars().take(MAX_MESSAGE).collect();
        let mut body = json!({ "error": message });
        if let Some(id) = self.ended {
            body["id"] = id.into();
        }
        let mut response = (self.status, Json(body)).into_response();
        if retry {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECS));
        }
        response
    }
}
