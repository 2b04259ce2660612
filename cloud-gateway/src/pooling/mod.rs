//! Pooling: what the devices of a class find out, together, and what they may rely on.
//!
//! ```text
//! $share/gw/…/f/+ ─> link ─> thread: core's Pool ─> state_dir (first) ─> …/dg/{class}/{hash16}, signed and retained
//! ```
//!
//! # Invariants
//!
//! - It has a connection and a thread of its own: neither a flood of evidence nor a slow disk takes anything from the queries.
//!   The way from the broker to the thread is bounded by the link's channel and its window of unacknowledged deliveries:
//!   while the thread is behind, the broker keeps what comes.
//! - Evidence is acknowledged once it is counted, and once what it led to is on disk.
//! - Exactly one gateway of a site may pool. Two on one `state_dir` are refused; two with a `state_dir` each would share the
//!   evidence, and each publish states that the other knows nothing of.
//! - A pool that ends by itself, which only a fault makes it do, leaves the gateway serving, and unhealthy.

mod driver;
mod file;
mod journal;
mod key;
mod store;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hedge_gateway_core::{Pool, PoolSettings};
use hedge_link::{LinkEvent, LinkEvents, LinkHandle, Subscription};
use hedge_telemetry::metrics::Registry;
use hedge_wire::{Digest, ModelId, SigningKey, TenantId, gateway_evidence_filter};
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
    time::{Instant, sleep_until, timeout},
};

use self::{
    driver::Driver,
    journal::PoolJournal,
    store::{Found, Store},
};
use crate::health::Health;

pub use self::{key::KeyError, store::StoreError};

/// How often the core is told the time.
const TICK: Duration = Duration::from_secs(1);

/// How long a stopping pool may take to write what it has.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// States that may wait for the socket: all classes of some models at once, when the link comes up.
const LINK_QUEUE: usize = 1024;

/// Appended to the gateway's id, this is the MQTT client id of the pool's own connection.
const CLIENT_SUFFIX: &str = "-pool";

/// Why a gateway cannot pool.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// Its key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The folder for its state.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system gives no thread.
    #[error("cannot start a thread for pooling: {0}")]
    NoThread(#[source] io::Error),
}

/// What a pool goes on from.
pub(crate) struct Opened {
    store: Store,
    found: Vec<Found>,
    key: SigningKey,
}

/// Opens the folder of a pool; blocks for disk I/O.
pub(crate) fn open(state_dir: &Path) -> Result<Opened, PoolError> {
    let (store, found) = Store::open(state_dir)?;
    let key = key::open(state_dir)?;
    tracing::info!(public_key = %key.public(), "class states are signed; agents check them with link.class_key");
    Ok(Opened { store, found, key })
}

/// The link settings of a pool, from those of its gateway.
pub(crate) fn link_config(gateway: &hedge_link::LinkConfig, tenant: &TenantId) -> hedge_link::LinkConfig {
    hedge_link::LinkConfig {
        client_id: format!("{}{CLIENT_SUFFIX}", gateway.client_id),
        subscriptions: vec![Subscription::at_least_once(gateway_evidence_filter(tenant))],
        queue: LINK_QUEUE,
        birth: None,
        farewell: None,
        will: None,
        ..gateway.clone()
    }
}

/// What a pool works on.
pub(crate) struct Parts {
    pub(crate) tenant: TenantId,
    /// Cloud models as they are served, with what is promised about them.
    pub(crate) models: BTreeMap<ModelId, (Digest, PoolSettings)>,
    pub(crate) link: LinkHandle,
    pub(crate) events: LinkEvents,
    pub(crate) health: Arc<Health>,
}

/// A running pool.
pub(crate) struct Pooling {
    stop: watch::Sender<bool>,
    /// Says that the thread has ended.
    ended: oneshot::Receiver<()>,
    link: LinkHandle,
}

/// Starts the thread of a pool, on the current runtime's reactor.
pub(crate) fn start(opened: Opened, parts: Parts, registry: &Registry) -> Result<Pooling, PoolError> {
    let Parts { tenant, models, link, events, health } = parts;
    let pool = Pool::new(models.into_iter().map(|(model, (digest, settings))| (model, digest, settings)));
    let Opened { store, found, key } = opened;
    let driver = Driver::new(tenant, key, pool, store, link.clone(), PoolJournal::new(registry));
    let (stop, stopped) = watch::channel(false);
    let (end, ended) = oneshot::channel();
    let runtime = Handle::current();
    health.pool_link_down("not connected yet");
    let work = move || {
        let _guard = EndGuard { health: Arc::clone(&health), _end: end };
        // Dropped before the guard, and with it the lock of the folder.
        let (mut driver, mut clock) = (driver, Clock::default());
        driver.restore(found, clock.now());
        run(&mut driver, &runtime, events, stopped, &health, &mut clock);
    };
    std::thread::Builder::new().name("pool".into()).spawn(work).map_err(PoolError::NoThread)?;
    Ok(Pooling { stop, ended, link })
}

impl Pooling {
    /// Writes what is not on disk, and ends.
    pub(crate) async fn shutdown(self) {
        self.stop.send_replace(true);
        // An error means that it has ended; one that is still writing then is given up, and its state is that of before.
        let _ = timeout(STOP_PATIENCE, self.ended).await;
        self.link.close().await;
    }
}

/// What wakes the thread.
enum Wake {
    Link(LinkEvent),
    Tick,
    Stop,
}

fn run(
    driver: &mut Driver<LinkHandle>,
    runtime: &Handle,
    mut events: LinkEvents,
    mut stop: watch::Receiver<bool>,
    health: &Health,
    clock: &mut Clock,
) {
    let mut tick_at = Instant::now() + TICK;
    loop {
        let wake = runtime.block_on(async {
            tokio::select! {
                biased;
                // A dropped sender is a wish to stop, too.
                _ = stop.wait_for(|stop| *stop) => Wake::Stop,
                () = sleep_until(tick_at) => Wake::Tick,
                event = events.next() => event.map_or(Wake::Stop, Wake::Link),
            }
        });
        match wake {
            Wake::Link(event) => {
                match &event {
                    LinkEvent::Up { .. } => health.pool_link_up(),
                    LinkEvent::Down { reason } => health.pool_link_down(reason),
                    LinkEvent::Message(_) | LinkEvent::Published { .. } => {}
                }
                driver.on_link(event, clock.now());
            }
            Wake::Tick => {
                tick_at = Instant::now() + TICK;
                driver.tick(clock.now());
            }
            Wake::Stop => return driver.stop(clock.now()),
        }
    }
}

/// However the thread ends, a panic included, nobody goes on believing in it.
struct EndGuard {
    health: Arc<Health>,
    /// Dropped last.
    _end: oneshot::Sender<()>,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.health.pool_stopped();
    }
}

/// Seconds since 1970 that do not go back.
#[derive(Default)]
struct Clock {
    latest: u64,
}

impl Clock {
    fn now(&mut self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.latest = self.latest.max(since.as_secs());
        self.latest
    }
}
