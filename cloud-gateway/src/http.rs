//! `GET /metrics` for Prometheus and `GET /healthz` for whoever restarts or routes around a gateway.
//!
//! ```text
//! 200 {"status":"ok"}
//! 503 {"status":"unavailable","reasons":["the link is down: connection refused"]}
//! ```
//!
//! No authentication: the default address is loopback.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use hedge_telemetry::metrics::{self, Registry};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::health::Health;

/// How long requests under way may take once the server stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// The running server.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<io::Result<()>>,
}

#[derive(Clone)]
struct Told {
    registry: Registry,
    health: Arc<Health>,
}

impl Server {
    /// Binds `listen` and serves from a task of its own.
    pub(crate) async fn start(listen: SocketAddr, registry: Registry, health: Arc<Health>) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let (stop, mut stopped) = watch::channel(false);
        let router = router(Told { registry, health });
        let task = tokio::spawn(async move {
            let asked = async move {
                // An error means that the server was dropped, which also ends it.
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            axum::serve(listener, router).with_graceful_shutdown(asked).await
        });
        Ok(Self { address, stop, task })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) async fn stop(mut self) {
        self.stop.send_replace(true);
        if tokio::time::timeout(STOP_TIMEOUT, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

fn router(told: Told) -> Router {
    Router::new().route("/metrics", get(metrics_text)).route("/healthz", get(healthz)).with_state(told)
}

async fn metrics_text(State(told): State<Told>) -> Response {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::render(&told.registry)).into_response()
}

async fn healthz(State(told): State<Told>) -> Response {
    let reasons = told.health.reasons();
    let (status, body) = if reasons.is_empty() {
        (StatusCode::OK, serde_json::json!({ "status": "ok" }))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, serde_json::json!({ "status": "unavailable", "reasons": reasons }))
    };
    (status, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}
