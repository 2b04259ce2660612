//! The cloud daemon: answers devices' queries with larger models.
//!
//! Composition only: what is decided stands in `hedge-gateway-core`, how models run in `hedge-engine`, how messages
//! travel in `hedge-link`.
//!
//! ```text
//!  $share/gw/…/q/{model}/+ ─> decode ─> admission ─> worker (batches across devices) ─> admission ─> …/r/{device}
//!  u/{gateway}/+           ─> parts of queries that do not fit a message, put together ─┘
//!  $share/gw/…/f/+         ─> pooling, on a connection and a thread of its own         ─> …/dg/{class}/{hash16}
//! ```
//!
//! # Invariants
//!
//! - Models are loaded before the link is started: a gateway never takes what it cannot answer.
//! - A delivery is acknowledged once the core has taken it over or answered it, not before.
//! - The device is the one of the topic; a response topic in a message is ignored.
//! - Inference runs on the models' own threads, never on the reactor.
//! - A gateway that cannot go on ends ([`Gateway::ended`]) rather than take queries and lose them.

mod config;
mod health;
mod http;
mod journal;
mod models;
mod pooling;
mod service;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hedge_gateway_core::{Admission, Uploads};
use hedge_link::{Birth, LinkHandle, Subscription, Will};
use hedge_telemetry::metrics::Registry;
use hedge_wire::{BootId, GatewayPresence, ModelId, Topic, gateway_parts_filter, gateway_queries_filter};
use tokio::{
    sync::watch,
    task::{JoinError, JoinHandle},
};

use crate::{
    config::PoolPlan,
    health::Health,
    http::Server,
    journal::Journal,
    models::Served,
    pooling::Pooling,
    service::{Identity, Service},
};

pub use crate::{
    config::{Config, EngineConfig, GatewayConfig, HttpConfig, LinkConfig, ModelConfig, Plan, PlanError, RouteConfig},
    models::ModelError,
    pooling::{KeyError, PoolError, StoreError},
    service::ServiceError,
};

/// Replies that may wait for the socket beyond one for each query in the queue: repetitions and refusals.
const LINK_QUEUE_SLACK: usize = 256;

/// What [`Gateway::shutdown`] may take beyond the configured drain, before the service is given up.
const SHUTDOWN_SLACK: Duration = Duration::from_secs(1);

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration says something impossible.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A setting of the link is impossible.
    #[error("link: {0}")]
    Link(#[from] hedge_link::LinkError),
    /// The address is not to be had.
    #[error("cannot listen on http.listen {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// A model cannot be served.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The engine panicked over a model.
    #[error("loading the model {model} failed: {source}")]
    Loader {
        /// Which.
        model: ModelId,
        /// How.
        source: JoinError,
    },
    /// Nothing can be pooled.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

impl StartError {
    /// Whether the configuration is to blame (and not a file, the system or the engine).
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Plan(_) | Self::Link(_))
    }
}

/// A running gateway. Dropping it ends it without a farewell: the broker then publishes its will.
pub struct Gateway {
    http: Server,
    link: LinkHandle,
    stop: watch::Sender<bool>,
    service: JoinHandle<Result<(), ServiceError>>,
    pooling: Option<Pooling>,
    drain: Duration,
}

/// Starts a gateway on the current tokio runtime; returns once its models are loaded. The broker need not be there.
///
/// # Errors
///
/// [`StartError`]; nothing is left running then.
pub async fn start(config: Config) -> Result<Gateway, StartError> {
    let plan = config.plan()?;
    let registry = Registry::new();
    let mut journal = Journal::new(&registry);
    let pool = open_pool(plan.pool.as_ref()).await?;
    let health = Arc::new(Health::starting(plan.models.keys()));
    let http = Server::start(plan.listen, registry.clone(), Arc::clone(&health))
        .await
        .map_err(|source| StartError::Listen { address: plan.listen, source })?;
    tracing::info!(address = %http.address(), "serving /metrics and /healthz");

    let models = load_models(&plan, &mut journal, &health).await?;
    let link_config = link_config(&plan, &models);
    let pooling = match pool {
        Some(opened) => Some(start_pool(opened, &plan, &models, &link_config, &registry, &health)?),
        None => None,
    };
    let (link, events) = hedge_link::start(link_config)?;
    let (stop, stopped) = watch::channel(false);
    let admission = Admission::new(plan.limits.clone(), models.keys().cloned());
    let uploads = Uploads::new(plan.gateway.clone(), plan.upload_limits.clone());
    let identity =
        Identity { tenant: plan.tenant, gateway: plan.gateway, drain: plan.drain, busy_retry: plan.limits.busy_retry };
    let service = Service::new(identity, models, link.clone(), (admission, uploads), journal, health);
    let service = tokio::spawn(service.run(events, stopped));
    Ok(Gateway { http, link, stop, service, pooling, drain: plan.drain })
}

impl Gateway {
    /// Where `/metrics` and `/healthz` are.
    pub fn http_addr(&self) -> SocketAddr {
        self.http.address()
    }

    /// Waits until the gateway ends by itself, which only a fault makes it do.
    ///
    /// # Errors
    ///
    /// The fault.
    pub async fn ended(&mut self) -> Result<(), ServiceError> {
        let crashed = |error: JoinError| Err(ServiceError::Crashed { reason: error.to_string() });
        (&mut self.service).await.unwrap_or_else(crashed)
    }

    /// Answers what it has admitted (as long as `gateway.drain_secs`), says farewell to the broker, and ends.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        if !self.service.is_finished() {
            let drained = tokio::time::timeout(self.drain + SHUTDOWN_SLACK, &mut self.service).await;
            if drained.is_err() {
                self.service.abort();
            }
        }
        let pool_ends = async {
            if let Some(pooling) = self.pooling.take() {
                pooling.shutdown().await;
            }
        };
        // Devices are told at once, however long a disk takes.
        tokio::join!(self.link.close(), pool_ends);
        self.http.stop().await;
    }
}

/// Loads the models one after the other: each takes all cores while it is timed.
async fn load_models(
    plan: &Plan,
    journal: &mut Journal,
    health: &Health,
) -> Result<BTreeMap<ModelId, Served>, StartError> {
    let mut models = BTreeMap::new();
    for (id, model) in &plan.models {
        let began = Instant::now();
        let (name, path, device, batch) = (id.clone(), model.path.clone(), plan.device, plan.batch);
        let served = tokio::task::spawn_blocking(move || models::load(&name, &path, device, batch))
            .await
            .map_err(|source| StartError::Loader { model: id.clone(), source })??;
        journal.model_loaded(id, &served, began.elapsed());
        health.model_loaded(id);
        models.insert(id.clone(), served);
    }
    Ok(models)
}

async fn open_pool(plan: Option<&PoolPlan>) -> Result<Option<pooling::Opened>, PoolError> {
    let Some(PoolPlan { state_dir, .. }) = plan.cloned() else { return Ok(None) };
    let opened = tokio::task::spawn_blocking(move || pooling::open(&state_dir)).await;
    opened.unwrap_or_else(|error| Err(PoolError::NoThread(io::Error::other(error)))).map(Some)
}

fn start_pool(
    opened: pooling::Opened,
    plan: &Plan,
    models: &BTreeMap<ModelId, Served>,
    link: &hedge_link::LinkConfig,
    registry: &Registry,
    health: &Arc<Health>,
) -> Result<Pooling, StartError> {
    let settings = plan.pool.iter().flat_map(|pool| &pool.models);
    let pooled = settings.filter_map(|(model, settings)| {
        models.get(model).map(|served| (model.clone(), (served.digest, settings.clone())))
    });
    let models = pooled.collect();
    let (link, events) = hedge_link::start(pooling::link_config(link, &plan.tenant))?;
    let parts = pooling::Parts { tenant: plan.tenant.clone(), models, link, events, health: Arc::clone(health) };
    Ok(pooling::start(opened, parts, registry)?)
}

fn link_config(plan: &Plan, models: &BTreeMap<ModelId, Served>) -> hedge_link::LinkConfig {
    let topic = Topic::GatewayPresence { gateway: plan.gateway.clone() }.path(&plan.tenant);
    let boot = boot_id();
    let presence = |online| {
        let models = models.iter().map(|(model, served)| (model.clone(), served.digest)).collect();
        GatewayPresence { gateway: plan.gateway.clone(), boot, online, models }.encode()
    };
    let (online, offline) = (presence(true), presence(false));
    let mut link = hedge_link::LinkConfig::new(plan.link.url.clone(), plan.gateway.as_str());
    link.username.clone_from(&plan.link.username);
    link.password = plan.link.password.as_ref().map(|password| password.expose().to_owned());
    link.keepalive = Duration::from_secs(plan.link.keepalive_secs);
    link.backoff.cap = Duration::from_secs(plan.link.reconnect_max_secs);
    link.queue = plan.limits.queue + LINK_QUEUE_SLACK;
    let queries = models.keys().map(|model| gateway_queries_filter(&plan.tenant, model));
    let filters = queries.chain([gateway_parts_filter(&plan.tenant, &plan.gateway)]);
    link.subscriptions = filters.map(Subscription::at_least_once).collect();
    link.birth = Some(Birth { topic: topic.clone(), payload: online.into() });
    link.farewell = Some(Birth { topic: topic.clone(), payload: offline.clone().into() });
    link.will = Some(Will { topic, payload: offline.into(), retain: true, delay: Duration::ZERO });
    link
}

/// Random, not counted: a gateway keeps nothing on disk. (62 of a version 7 UUID's low 64 bits are random.)
fn boot_id() -> BootId {
    BootId(uuid::Uuid::now_v7().as_u64_pair().1)
}
