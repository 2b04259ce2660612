//! Starting and stopping an agent: the parts in their order.
//!
//! The network is never on the way to the first answer: the cache and the models come first, then the listeners, and the
//! link connects in the background for as long as it takes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hedge_agent_spool::{Cache, CacheConfig, CacheError, OutboxConfig, OutboxError, State, StateConfig, StateError};
use hedge_engine::Engine;
use hedge_link::{Link, LinkError, LinkEvent, LinkEvents, LinkHandle};
use hedge_wire::{BootId, ClassState, ModelId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::api::{self, ApiState};
use crate::catalog::Catalog;
use crate::cloud::{ClassEar, Cloud, CloudParts};
use crate::config::{Config, Settings, SettingsError};
use crate::durable::{self, Driver, Durable, MachineClock, NotDurable, Opened};
use crate::listen::{self, Limited, ListenError};
use crate::metrics::Metrics;
use crate::model::ModelError;
use crate::presence::{self, Presence};
use crate::routing::{Auditor, Keeper, Routes, SignedTime};
use crate::row::Shared;
use crate::wait;

/// Words of the gateway to the class that may wait to be heard.
const CLASS_WORDS: usize = 64;
/// How long durable requests that are being executed at the end of the drain may take.
const OUTBOX_PATIENCE: Duration = Duration::from_secs(3);

/// Why the agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot work.
    #[error("configuration: {0}")]
    Settings(#[from] SettingsError),
    /// A model cannot be served.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Another agent uses the same state.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// Another agent uses the same state of routes and audits.
    #[error(transparent)]
    State(#[from] StateError),
    /// Another agent uses the same outbox.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The folder for state cannot be made.
    #[error("agent.state_dir {path} cannot be made: {why}")]
    StateDir {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// Nobody could reach it.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The link's settings cannot work.
    #[error("link: {0}")]
    Link(#[from] LinkError),
    /// The system gave no thread.
    #[error("a background thread ended unexpectedly: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

/// The disk failed under the outbox.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the disk failed under the outbox: {0}; what it holds is in doubt until it is opened anew: check the disk, and start the \
     agent again"
)]
pub struct DiskFailed(String);

/// A running agent.
pub struct Agent {
    http_addr: Option<SocketAddr>,
    unix_socket: Option<PathBuf>,
    state: Arc<ApiState>,
    stop: watch::Sender<bool>,
    servers: Vec<JoinHandle<()>>,
    link: Option<LinkHandle>,
    /// What watches the link, the folder of models and the models; ended last.
    watchers: Vec<JoinHandle<()>>,
    cache: Option<Cache>,
    routes: Arc<Routes>,
    routing: State,
    outbox: Option<Outbox>,
    drain: Duration,
}

/// The running outbox.
struct Outbox {
    durable: Durable,
    driver: JoinHandle<()>,
    /// Has those who wait for durable requests go.
    closing: watch::Sender<bool>,
    failed: oneshot::Receiver<DiskFailed>,
}

/// Starts an agent: returns when it answers. Must run in a tokio runtime.
///
/// # Errors
///
/// [`StartError`]; nothing is left running then.
pub async fn start(config: Config) -> Result<Agent, StartError> {
    start_on(config, Engine::default()).await
}

/// As [`start`], with another engine than that of this machine.
///
/// # Errors
///
/// As [`start`].
pub async fn start_on(config: Config, engine: Engine) -> Result<Agent, StartError> {
    let settings = Arc::new(config.resolve()?);
    let cache = open_cache(&settings).await?;
    let routing = open_state(&settings).await?;
    let metrics = Arc::new(Metrics::new());
    let opened = open_outbox(&settings, &routing, &metrics).await?;
    let boot = BootId(crate::random::bits());
    let routes = Arc::new(Routes::new(&routing, Arc::clone(&metrics), boot));
    let time = SignedTime::open(settings.state_dir.join("slots")).await?;
    routes.clock().at_least(time.now());
    let catalog = Catalog::start(Arc::clone(&settings), engine, Arc::clone(&metrics), Arc::clone(&routes)).await?;
    let identity = presence::identity(&settings, &catalog, boot);
    let (link, events) = match identity.as_ref().map(|identity| presence::link_config(&settings, identity)) {
        Some(config) => hedge_link::start(config).map(|(link, events)| (Some(link), Some(events)))?,
        None => (None, None),
    };
    let (speaker, words) = mpsc::channel(CLASS_WORDS);
    let cloud = Arc::new(Cloud::new(CloudParts {
        link: link.clone().map(|link| Arc::new(link) as Arc<dyn Link>),
        tenant: settings.tenant.clone(),
        device: settings.device.clone(),
        boot,
        metrics: Arc::clone(&metrics),
        notes: cache.clone(),
        models: cloud_models(&catalog),
        class: settings.class_key.map(|key| ClassEar { key, words: speaker }),
    }));
    let rows = Arc::new(Shared {
        cloud: Arc::clone(&cloud),
        cache: cache.clone(),
        metrics,
        routes: Arc::clone(&routes),
        epoch: Instant::now(),
        retry_after: settings.retry_after,
    });
    let outbox = opened.map(|opened| start_outbox(opened, &settings, &rows, &catalog));
    let durable = outbox.as_ref().map(|outbox| outbox.durable.clone()).map_err(Clone::clone);
    let state = Arc::new(ApiState::new(&settings, Arc::clone(&catalog), rows, durable));
    let presence = identity.zip(link.clone()).map(|(identity, link)| Presence { identity, link });
    let mut watchers = vec![tokio::spawn(watch_models(Arc::clone(&cloud), Arc::clone(&catalog), presence.clone()))];
    watchers.extend(watch_routes(&settings, &routes, &catalog, &cloud, words, time));
    watchers.extend(events.map(|events| tokio::spawn(watch_link(cloud, events, presence))));
    if let Some(repository) = &settings.repository {
        watchers.push(tokio::spawn(watch_folder(Arc::clone(&catalog), repository.scan)));
    }
    let mut agent = Agent {
        http_addr: None,
        unix_socket: settings.unix_socket.clone(),
        state,
        stop: watch::channel(false).0,
        servers: Vec::new(),
        link,
        watchers,
        cache,
        routes,
        routing,
        outbox: outbox.ok(),
        drain: settings.drain,
    };
    if let Err(error) = agent.serve(&settings).await {
        agent.unix_socket = None;
        agent.shutdown().await;
        return Err(error.into());
    }
    Ok(agent)
}

impl Agent {
    /// The TCP address it serves on.
    #[must_use]
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http_addr
    }

    /// Looks into the folder of models now, taking every file in it for complete.
    pub async fn reload(&self) {
        self.state.models.scan(true).await;
    }

    /// Waits until the disk fails under the outbox. Then the process must end, without regard to what is in flight: a process that
    /// went on would promise what it cannot keep.
    pub async fn failed(&mut self) -> DiskFailed {
        match &mut self.outbox {
            Some(outbox) => (&mut outbox.failed).await.unwrap_or_else(|_| DiskFailed("its task crashed".into())),
            None => std::future::pending().await,
        }
    }

    /// Stops: accepts nothing more, finishes what is in flight within `agent.drain_secs`, tells the broker that the device is
    /// offline, and writes the cache out.
    pub async fn shutdown(mut self) {
        self.state.drain();
        if let Some(outbox) = &self.outbox {
            outbox.closing.send_replace(true);
        }
        let _ = self.stop.send(true);
        let servers = std::mem::take(&mut self.servers);
        let aborts: Vec<_> = servers.iter().map(JoinHandle::abort_handle).collect();
        let finish = async {
            for server in servers {
                let _ = server.await;
            }
        };
        if timeout(self.drain, finish).await.is_err() {
            tracing::warn!(secs = self.drain.as_secs(), "requests were still in flight at the end of the drain");
            aborts.iter().for_each(tokio::task::AbortHandle::abort);
        }
        if let Some(outbox) = self.outbox.take() {
            outbox.durable.stop(OUTBOX_PATIENCE).await;
            // To a driver a store that closes is one that failed.
            outbox.driver.abort();
            let _ = outbox.driver.await;
            outbox.durable.close().await;
        }
        if let Some(link) = self.link.take() {
            link.close().await;
        }
        self.watchers.drain(..).for_each(|watcher| watcher.abort());
        if let Some(cache) = self.cache.take() {
            // Its thread ends by itself even if this one could not wait for it.
            let _ = tokio::task::spawn_blocking(move || cache.close()).await;
        }
        self.routes.all().iter().for_each(|route| route.save());
        let routing = self.routing.clone();
        let _ = tokio::task::spawn_blocking(move || routing.close()).await;
        if let Some(path) = self.unix_socket.take() {
            let _ = std::fs::remove_file(path);
        }
        tracing::info!("stopped");
    }

    async fn serve(&mut self, settings: &Settings) -> Result<(), ListenError> {
        let router = api::router(Arc::clone(&self.state));
        if let Some(path) = &settings.unix_socket {
            let listener = Limited::new(listen::unix(path)?, settings.max_connections);
            let serve = axum::serve(listener, router.clone()).with_graceful_shutdown(stopped(self.stop.subscribe()));
            self.servers.push(tokio::spawn(async move { report(serve.await) }));
            tracing::info!(path = %path.display(), "listening");
        }
        if let Some(address) = settings.listen {
            let listener = listen::tcp(address).await?;
            self.http_addr = listener.local_addr().ok();
            let listener = Limited::new(listener, settings.max_connections);
            let serve = axum::serve(listener, router).with_graceful_shutdown(stopped(self.stop.subscribe()));
            self.servers.push(tokio::spawn(async move { report(serve.await) }));
            tracing::info!(address = %self.http_addr.unwrap_or(address), "listening");
        }
        Ok(())
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // A dropped sender means that the agent is gone: stop as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

fn report(served: std::io::Result<()>) {
    if let Err(error) = served {
        tracing::error!(%error, "a listener failed");
    }
}

async fn open_cache(settings: &Arc<Settings>) -> Result<Option<Cache>, StartError> {
    let Some(section) = settings.cache.clone() else { return Ok(None) };
    let folder = settings.state_dir.clone();
    let opened = tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&folder)
            .map_err(|error| StartError::StateDir { path: folder.clone(), why: error.to_string() })?;
        let config = CacheConfig {
            path: folder.join("cache"),
            max_bytes: section.max_bytes,
            max_age: Duration::from_secs(section.max_age_secs),
        };
        Ok(Cache::open(config)?)
    });
    match opened.await? {
        Ok(cache) => Ok(Some(cache)),
        // Two agents on one state are a mistake; a disk that takes nothing must not keep the agent from answering.
        Err(StartError::Cache(error @ CacheError::InUse { .. })) => Err(error.into()),
        Err(error) => {
            tracing::warn!(%error, "serving without a result cache");
            Ok(None)
        }
    }
}

async fn open_state(settings: &Arc<Settings>) -> Result<State, StartError> {
    let audits = &settings.audits;
    let config = StateConfig {
        path: settings.state_dir.join("state"),
        max_audits: audits.max_waiting,
        max_audit_bytes: audits.max_bytes,
        max_audit_age: Duration::from_secs(audits.max_age_secs),
    };
    let opened = tokio::task::spawn_blocking(move || match State::open(config.clone()) {
        // As for the cache: a disk that takes nothing must not keep the agent from answering.
        Err(error @ StateError::Unusable { .. }) => {
            tracing::warn!(%error, "certificates and audits will not survive a restart");
            State::volatile(config)
        }
        opened => opened,
    });
    Ok(opened.await??)
}

/// The outbox, or why there are no durable requests.
async fn open_outbox(
    settings: &Arc<Settings>,
    routing: &State,
    metrics: &Arc<Metrics>,
) -> Result<Result<Opened, NotDurable>, StartError> {
    let Some(outbox) = &settings.outbox else {
        return Ok(Err(NotDurable("durable requests are turned off: set outbox.enabled = true".into())));
    };
    let config = OutboxConfig {
        max_bytes: outbox.settings.quota,
        reserve_bytes: outbox.reserve_bytes,
        boot: Some(MachineClock::new().boot()),
        audits: Some(routing.audits()),
        ..OutboxConfig::new(settings.state_dir.join("outbox"))
    };
    let metrics = Arc::clone(metrics);
    match tokio::task::spawn_blocking(move || durable::open(config, &metrics)).await? {
        Ok(opened) => Ok(Ok(opened)),
        Err(error @ OutboxError::InUse { .. }) => Err(error.into()),
        // As for the cache: a disk that takes nothing must not keep the agent from answering.
        Err(error) => {
            tracing::warn!(%error, "serving without durable requests");
            Ok(Err(NotDurable(error.to_string())))
        }
    }
}

/// Goes on with what was accepted before, in the background.
fn start_outbox(opened: Opened, settings: &Settings, rows: &Arc<Shared>, catalog: &Arc<Catalog>) -> Outbox {
    let (closing, closes) = watch::channel(false);
    let bounds = settings.outbox.as_ref().map(|outbox| outbox.settings.clone()).unwrap_or_default();
    let (durable, driver) = Driver::new(opened, bounds, rows, catalog, closes);
    let (fail, failed) = oneshot::channel();
    let driver = tokio::spawn(async move {
        let why = DiskFailed(driver.run().await);
        tracing::error!(error = %why, "no durable request is answered any more");
        // Who has ended already does not want to know.
        let _ = fail.send(why);
    });
    Outbox { durable, driver, closing, failed }
}

/// What keeps the routes up to date and asks the cloud about audits.
fn watch_routes(
    settings: &Settings,
    routes: &Arc<Routes>,
    catalog: &Arc<Catalog>,
    cloud: &Arc<Cloud>,
    words: mpsc::Receiver<ClassState>,
    time: SignedTime,
) -> [JoinHandle<()>; 2] {
    let keeper = Keeper {
        routes: Arc::clone(routes),
        cloud: Arc::clone(cloud),
        words,
        report: Duration::from_secs(settings.audits.report_secs),
        time,
    };
    let auditor = Auditor {
        routes: Arc::clone(routes),
        catalog: Arc::clone(catalog),
        cloud: Arc::clone(cloud),
        max_in_flight: settings.audits.max_in_flight,
    };
    [tokio::spawn(keeper.run()), tokio::spawn(auditor.run())]
}

fn cloud_models(catalog: &Catalog) -> Vec<ModelId> {
    catalog.served().iter().map(|model| model.settings.cloud_model.clone()).collect()
}

/// Looks into the folder of models from time to time.
async fn watch_folder(catalog: Arc<Catalog>, period: Duration) {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first is due at once; the start has looked already.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        catalog.scan(false).await;
    }
}

/// Keeps the cloud's side and the broker up to date about the models.
async fn watch_models(cloud: Arc<Cloud>, catalog: Arc<Catalog>, presence: Option<Presence>) {
    let mut changes = catalog.changes();
    while changes.changed().await.is_ok() {
        cloud_models(&catalog).into_iter().for_each(|model| cloud.know(model));
        if let Some(presence) = &presence {
            presence.tell();
        }
    }
}

/// Hands the link's events to the cloud's side until the link is closed.
async fn watch_link(cloud: Arc<Cloud>, mut events: LinkEvents, presence: Option<Presence>) {
    let mut settle_at: Option<Instant> = None;
    // The first connection's birth message is as new as can be; a later one's may be old.
    let mut connected = false;
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(event) => {
                    let again = matches!(event, LinkEvent::Up { .. }) && std::mem::replace(&mut connected, true);
                    settle_at = cloud.on_link_event(event).or(settle_at);
                    if let Some(presence) = presence.as_ref().filter(|_| again) {
                        presence.tell();
                    }
                }
                None => break,
            },
            () = wait::until(settle_at) => {
                cloud.settle();
                settle_at = None;
            }
        }
    }
}
