//! A JSON value as a response body.

use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

/// Answers with a JSON document.
pub(super) struct Json(pub(super) Value);

impl IntoResponse for Json {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "application/json")], self.0.to_string()).into_response()
    }
}
