//! Reading request bodies within bounds: each at most `max_body_bytes`, all at once at most `max_inflight_body_bytes`, and
//! none for longer than a while. A body's bytes are reserved before the first of them is read.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::error::ApiError;

/// How long a request may wait for room for its body.
const ROOM_PATIENCE: Duration = Duration::from_secs(1);
/// How long a client may take to send its body.
const READ_PATIENCE: Duration = Duration::from_secs(30);
/// Reservations are counted in KiB.
const UNIT: usize = 1024;

/// The room for request bodies.
#[derive(Clone, Debug)]
pub(crate) struct BodyBudget {
    max_body_bytes: usize,
    room: Arc<Semaphore>,
}

/// A body and its reservation, which ends with it.
#[derive(Debug)]
pub(crate) struct BoundedBody {
    pub(crate) bytes: Bytes,
    _reservation: OwnedSemaphorePermit,
}

impl BodyBudget {
    pub(crate) fn new(max_body_bytes: usize, max_inflight_body_bytes: usize) -> Self {
        let units = (max_inflight_body_bytes / UNIT).min(Semaphore::MAX_PERMITS);
        Self { max_body_bytes, room: Arc::new(Semaphore::new(units)) }
    }

    pub(crate) fn max_body_bytes(&self) -> usize {
        self.max_body_bytes
    }

    /// Reads a whole body.
    pub(crate) async fn read(&self, headers: &HeaderMap, body: Body) -> Result<BoundedBody, ApiError> {
        refuse_encodings(headers)?;
        let reservation = self.reserve(self.expected(headers)?).await?;
        let read = timeout(READ_PATIENCE, to_bytes(body, self.max_body_bytes)).await;
        let bytes = read
            .map_err(|_| {
                ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive within 30 s; send it at once")
            })?
            .map_err(|error| self.unreadable(&error))?;
        Ok(BoundedBody { bytes, _reservation: reservation })
    }

    /// The bytes to reserve: what the client declares, or all that it may send.
    fn expected(&self, headers: &HeaderMap) -> Result<usize, ApiError> {
        let Some(length) = headers.get(header::CONTENT_LENGTH) else {
            return Ok(self.max_body_bytes);
        };
        let declared = length.to_str().ok().and_then(|text| text.parse::<u64>().ok());
        match declared.map(usize::try_from) {
            Some(Ok(bytes)) if bytes <= self.max_body_bytes => Ok(bytes),
            Some(_) => Err(self.too_large()),
            None => Err(ApiError::bad("Content-Length is not a number of bytes; send the body's length")),
        }
    }

    async fn reserve(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).map_err(|_| self.too_large())?;
        // The configuration allows bodies as large as the whole room, whose last KiB may be a broken one.
        let units = units.min(u32::try_from(self.max_body_bytes / UNIT).unwrap_or(u32::MAX));
        let room = Arc::clone(&self.room).acquire_many_owned(units);
        match timeout(ROOM_PATIENCE, room).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the bodies of other requests fill the memory for them (http.max_inflight_body_bytes); retry after a moment",
            )),
        }
    }

    fn too_large(&self) -> ApiError {
        let limit = self.max_body_bytes;
        ApiError::too_large(format!(
            "the body is larger than {limit} bytes (http.max_body_bytes); send fewer rows at once"
        ))
    }

    fn unreadable(&self, error: &axum::Error) -> ApiError {
        let mut cause: Option<&dyn std::error::Error> = Some(error);
        while let Some(inner) = cause {
            if inner.to_string().contains("length limit exceeded") {
                return self.too_large();
            }
            cause = inner.source();
        }
        ApiError::bad(format!("the body could not be read: {error}"))
    }
}

/// The stock client compresses only on request; a compressed body would need a bound of its own.
fn refuse_encodings(headers: &HeaderMap) -> Result<(), ApiError> {
    match headers.get(header::CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("Content-Encoding {encoding:?} is not supported; send the body uncompressed"),
        )),
        _ => Ok(()),
    }
}
