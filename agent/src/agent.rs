//! Starting and stopping an agent: the parts in their order.
//!
//! The network is never on the way to the first answer: the cache and the models come first, then the listeners, and the
//! link connects in the background for as long as it takes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hedge_agent_spool::{Cache, CacheConfig, CacheError};
use hedge_engine::Engine;
use hedge_link::{
    Birth, CleanStart, Link, LinkConfig, LinkError, LinkEvent, LinkEvents, LinkHandle, Outgoing, Subscription, Will,
};
use hedge_wire::{BootId, DeviceId, DeviceStatus, ModelId, TenantId, Topic, gateway_presence_filter};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use crate::api::{self, ApiState};
use crate::catalog::Catalog;
use crate::cloud::{Cloud, CloudParts};
use crate::config::{Config, Settings, SettingsError};
use crate::listen::{self, Limited, ListenError};
use crate::metrics::Metrics;
use crate::model::ModelError;
use crate::row::Shared;

/// How long the broker keeps the session of a device that is away.
const SESSION_EXPIRY: Duration = Duration::from_secs(300);
/// How long after the connection ended the broker says that the device is offline.
const WILL_DELAY: Duration = Duration::from_secs(15);

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
    drain: Duration,
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
    let metrics = Arc::new(Metrics::new());
    let catalog = Catalog::start(Arc::clone(&settings), engine, Arc::clone(&metrics)).await?;
    let identity = identity(&settings, &catalog);
    let (link, events) = match identity.as_ref().map(|identity| link_config(&settings, identity)) {
        Some(config) => hedge_link::start(config).map(|(link, events)| (Some(link), Some(events)))?,
        None => (None, None),
    };
    let cloud = Arc::new(Cloud::new(CloudParts {
        link: link.clone().map(|link| Arc::new(link) as Arc<dyn Link>),
        tenant: settings.tenant.clone(),
        device: settings.device.clone(),
        boot: identity.as_ref().map_or_else(|| BootId(crate::random::bits()), |identity| identity.boot),
        metrics: Arc::clone(&metrics),
        notes: cache.clone(),
        models: cloud_models(&catalog),
    }));
    let rows = Arc::new(Shared {
        cloud: Arc::clone(&cloud),
        cache: cache.clone(),
        metrics,
        epoch: Instant::now(),
        retry_after: settings.retry_after,
    });
    let state = Arc::new(ApiState::new(&settings, Arc::clone(&catalog), rows));
    let presence = identity.zip(link.clone()).map(|(identity, link)| Presence { identity, link });
    let mut watchers = vec![tokio::spawn(watch_models(Arc::clone(&cloud), Arc::clone(&catalog), presence.clone()))];
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

    /// Stops: accepts nothing more, finishes what is in flight within `agent.drain_secs`, tells the broker that the device is
    /// offline, and writes the cache out.
    pub async fn shutdown(mut self) {
        self.state.drain();
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
        if let Some(link) = self.link.take() {
            link.close().await;
        }
        self.watchers.drain(..).for_each(|watcher| watcher.abort());
        if let Some(cache) = self.cache.take() {
            // Its thread ends by itself even if this one could not wait for it.
            let _ = tokio::task::spawn_blocking(move || cache.close()).await;
        }
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

/// Who the device is on the link, and what it tells of its models there.
#[derive(Clone)]
struct Identity {
    tenant: TenantId,
    device: DeviceId,
    boot: BootId,
    catalog: Arc<Catalog>,
}

impl Identity {
    fn topic(&self) -> String {
        Topic::DeviceStatus { device: self.device.clone() }.path(&self.tenant)
    }

    fn status(&self, online: bool) -> Bytes {
        let models = self.catalog.served();
        let status = DeviceStatus {
            device: self.device.clone(),
            boot: self.boot,
            online,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            models: models.iter().map(|model| (ModelId::from_name(&model.settings.name), model.digest)).collect(),
        };
        Bytes::from(status.encode())
    }
}

/// Tells the broker what the device serves now.
#[derive(Clone)]
struct Presence {
    identity: Identity,
    link: LinkHandle,
}

impl Presence {
    fn tell(&self) {
        let (topic, status) = (self.identity.topic(), self.identity.status(true));
        // While the link is down it is told when it comes up.
        let _ = self.link.publish(Outgoing { retain: true, ..Outgoing::new(topic, status) });
    }
}

fn identity(settings: &Settings, catalog: &Arc<Catalog>) -> Option<Identity> {
    let (_, device) = (settings.link.url.as_ref()?, settings.device.clone()?);
    let (tenant, boot) = (settings.tenant.clone(), BootId(crate::random::bits()));
    Some(Identity { tenant, device, boot, catalog: Arc::clone(catalog) })
}

fn link_config(settings: &Settings, identity: &Identity) -> LinkConfig {
    let (tenant, device, status) = (&identity.tenant, &identity.device, identity.topic());
    let says = |online: bool| identity.status(online);
    LinkConfig {
        username: settings.link.username.clone(),
        password: settings.link.password.as_ref().map(|password| password.expose().to_owned()),
        keepalive: Duration::from_secs(settings.link.keepalive_secs),
        clean_start: CleanStart::FirstConnect,
        session_expiry: SESSION_EXPIRY,
        subscriptions: vec![
            Subscription::at_least_once(Topic::Reply { device: device.clone() }.path(tenant)),
            Subscription::at_least_once(gateway_presence_filter(tenant)),
        ],
        will: Some(Will { topic: status.clone(), payload: says(false), retain: true, delay: WILL_DELAY }),
        birth: Some(Birth { topic: status.clone(), payload: says(true) }),
        farewell: Some(Birth { topic: status, payload: says(false) }),
        ..LinkConfig::new(settings.link.url.clone().unwrap_or_default(), device.as_str())
    }
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
        let settled = async {
            match settle_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
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
            () = settled => {
                cloud.settle();
                settle_at = None;
            }
        }
    }
}
