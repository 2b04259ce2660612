//! The configuration of a gateway: what the file says ([`Config`]) and what the program uses ([`Plan`]).
//!
//! `hedge-gateway.example.toml` is the reference for people; a test holds it equal to the defaults here.

mod route;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use hedge_config::Secret;
use hedge_engine::{DeviceChoice, UnknownDevice, worker::BatchPolicy};
use hedge_gateway_core::{Limits, PoolSettings, UploadLimits};
use hedge_telemetry::{LogConfig, TelemetryError};
use hedge_wire::{GatewayId, IdError, ModelId, TenantId, limits::MAX_MODELS};
use serde::Deserialize;

pub use self::route::RouteConfig;

/// Batches of one model that are with its engine at a time: one runs, one fills, and the results of others are on
/// their way back. What waits beyond that waits where it can still expire.
const BATCHES_AHEAD: usize = 4;

/// The configuration as it stands in the file; the example file explains each key.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[gateway]`: identity and bounds.
    pub gateway: GatewayConfig,
    /// `[http]`: metrics and health.
    pub http: HttpConfig,
    /// `[link]`: the broker.
    pub link: LinkConfig,
    /// `[engine]`: device and batches.
    pub engine: EngineConfig,
    /// `[log]`: what is logged, and how.
    pub log: LogConfig,
    /// `[[models]]`: what is served; at least one.
    pub models: Vec<ModelConfig>,
}

/// `[gateway]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewayConfig {
    /// Whose devices are served. Default: `default`.
    pub tenant: String,
    /// This gateway's name and MQTT client id. Required.
    pub gateway_id: String,
    /// Queries of one device in the queue. Default: 128.
    pub queue_rows_per_device: usize,
    /// Tensor bytes of all queries in the queue. Default: 64 MiB.
    pub queue_bytes: usize,
    /// Queries that come in parts and are not whole yet, of all devices. Default: 256.
    pub uploads: usize,
    /// Bytes of these, as offered. Default: 128 MiB.
    pub upload_bytes: usize,
    /// Of these uploads, how many may be of one device. Default: 4.
    pub uploads_per_device: usize,
    /// Of these bytes, how many may be of one device. Default: 16 MiB.
    pub upload_bytes_per_device: usize,
    /// The longest time a query is kept. Default: 60,000 ms.
    pub max_deadline_millis: u64,
    /// What a device that finds no room is told to wait. Default: 200 ms.
    pub busy_retry_millis: u32,
    /// Replies remembered for queries that come again. Default: 16,384.
    pub dedup_replies: usize,
    /// Bytes of these replies. Default: 16 MiB.
    pub dedup_bytes: usize,
    /// How long these replies are remembered. Default: 120 s.
    pub dedup_age_secs: u64,
    /// How long a stopping gateway goes on finishing what it has admitted. Default: 10 s.
    pub drain_secs: u64,
    /// Folder for what pooling keeps. Default: none, and then nothing is pooled.
    pub state_dir: Option<PathBuf>,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            tenant: "default".into(),
            gateway_id: String::new(),
            queue_rows_per_device: 128,
            queue_bytes: 64 * 1024 * 1024,
            uploads: 256,
            upload_bytes: 128 * 1024 * 1024,
            uploads_per_device: 4,
            upload_bytes_per_device: 16 * 1024 * 1024,
            max_deadline_millis: 60_000,
            busy_retry_millis: 200,
            dedup_replies: 16 * 1024,
            dedup_bytes: 16 * 1024 * 1024,
            dedup_age_secs: 120,
            drain_secs: 10,
            state_dir: None,
        }
    }
}

/// `[http]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Address of `/metrics` and `/healthz`; port 0 takes a free one. Default: `127.0.0.1:9640`.
    pub listen: SocketAddr,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9640)) }
    }
}

/// `[link]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkConfig {
    /// The broker, `mqtt://host:port`. Default: `mqtt://127.0.0.1:1883`.
    pub url: String,
    /// The user, where the broker asks for one.
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// How often the link is probed. Default: 30 s; 5 s at least.
    pub keepalive_secs: u64,
    /// The longest wait between two attempts to connect. Default: 30 s.
    pub reconnect_max_secs: u64,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            url: "mqtt://127.0.0.1:1883".into(),
            username: None,
            password: None,
            keepalive_secs: 30,
            reconnect_max_secs: 30,
        }
    }
}

/// `[engine]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// `auto`, `gpu` or `cpu`. Default: `auto`.
    pub device: String,
    /// Rows in one run of a model. Default: 32.
    pub max_batch: usize,
    /// How long the first row of a batch waits for others. Default: 1,000 µs.
    pub max_wait_micros: u64,
    /// Queries admitted and not yet answered, of all models. Default: 1,024.
    pub queue_rows: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { device: "auto".into(), max_batch: 32, max_wait_micros: 1_000, queue_rows: 1_024 }
    }
}

/// One of `[[models]]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The name that devices ask for.
    pub name: String,
    /// The ONNX file.
    pub path: PathBuf,
    /// `[models.route]`: what certificates of classes of devices promise. Default: none; evidence about it is not pooled.
    #[serde(default)]
    pub route: Option<RouteConfig>,
}

/// A configuration that says something impossible.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// No gateway id.
    #[error("gateway.gateway_id is missing; give each gateway process a name of its own")]
    NoGatewayId,
    /// Not an id.
    #[error("{key}: {source}")]
    Id {
        /// The key.
        key: &'static str,
        /// Why.
        source: IdError,
    },
    /// Not a device.
    #[error("engine.device: {0}")]
    Device(#[from] UnknownDevice),
    /// Not a log level.
    #[error(transparent)]
    Log(#[from] TelemetryError),
    /// A number outside its range.
    #[error("{key} must be {expected}")]
    Range {
        /// The key.
        key: &'static str,
        /// What it may be.
        expected: &'static str,
    },
    /// Nothing to serve.
    #[error("no model is configured; add a [[models]] section with name and path")]
    NoModels,
    /// Too much to serve.
    #[error(
        "{count} models are configured, but a gateway announces at most {limit}; start another gateway for the rest"
    )]
    TooManyModels {
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Two models of one name.
    #[error("the model `{name}` is configured twice; names must differ")]
    ModelTwice {
        /// The name.
        name: String,
    },
    /// A promise that cannot be made.
    #[error("route.{key} of the model `{model}`: {why}")]
    Route {
        /// The model.
        model: String,
        /// The key.
        key: &'static str,
        /// What it must be.
        why: String,
    },
    /// Something is to be pooled, and nothing can be kept.
    #[error("the model `{model}` has a [models.route], but there is no gateway.state_dir to keep its class's state in")]
    NoStateDir {
        /// The model.
        model: String,
    },
    /// Something can be kept, and nothing is to be pooled.
    #[error("gateway.state_dir is set, but no model has a [models.route] with a contract: nothing would be pooled")]
    NothingToPool,
    /// Not a broker's address. (The link says the rest when it starts.)
    #[error("link.url `{url}` must be mqtt://host or mqtt://host:port")]
    Url {
        /// What was given.
        url: String,
    },
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(crate) tenant: TenantId,
    pub(crate) gateway: GatewayId,
    pub(crate) limits: Limits,
    pub(crate) upload_limits: UploadLimits,
    pub(crate) drain: Duration,
    pub(crate) listen: SocketAddr,
    pub(crate) link: LinkConfig,
    pub(crate) device: DeviceChoice,
    pub(crate) batch: BatchPolicy,
    pub(crate) models: BTreeMap<ModelId, ModelConfig>,
    pub(crate) pool: Option<PoolPlan>,
}

/// What is pooled, and where it is kept.
#[derive(Debug, Clone)]
pub(crate) struct PoolPlan {
    pub(crate) state_dir: PathBuf,
    pub(crate) models: BTreeMap<ModelId, PoolSettings>,
}

impl Config {
    /// Checks everything that can be checked without opening anything.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, with its key.
    pub fn plan(&self) -> Result<Plan, PlanError> {
        if self.gateway.gateway_id.is_empty() {
            return Err(PlanError::NoGatewayId);
        }
        if self.link.url.strip_prefix("mqtt://").is_none_or(str::is_empty) {
            return Err(PlanError::Url { url: self.link.url.clone() });
        }
        self.log.validate()?;
        self.ranges()?;
        let id = |key| move |source| PlanError::Id { key, source };
        let running_per_model = self.running_per_model();
        Ok(Plan {
            tenant: TenantId::parse(&self.gateway.tenant).map_err(id("gateway.tenant"))?,
            gateway: GatewayId::parse(&self.gateway.gateway_id).map_err(id("gateway.gateway_id"))?,
            limits: self.limits(running_per_model),
            upload_limits: self.upload_limits(),
            drain: Duration::from_secs(self.gateway.drain_secs),
            listen: self.http.listen,
            link: self.link.clone(),
            device: self.engine.device.parse()?,
            batch: BatchPolicy {
                max_batch: self.engine.max_batch,
                max_wait: Duration::from_micros(self.engine.max_wait_micros),
                queue_rows: running_per_model,
            },
            models: self.models_by_id()?,
            pool: self.pool()?,
        })
    }

    fn running_per_model(&self) -> usize {
        self.engine.max_batch.saturating_mul(BATCHES_AHEAD).min(self.engine.queue_rows)
    }

    fn limits(&self, running_per_model: usize) -> Limits {
        let gateway = &self.gateway;
        Limits {
            queue: self.engine.queue_rows,
            queue_bytes: gateway.queue_bytes,
            queue_per_device: gateway.queue_rows_per_device,
            running_per_model,
            max_deadline: Duration::from_millis(gateway.max_deadline_millis),
            busy_retry: Duration::from_millis(gateway.busy_retry_millis.into()),
            replies: gateway.dedup_replies,
            reply_bytes: gateway.dedup_bytes,
            reply_age: Duration::from_secs(gateway.dedup_age_secs),
            ..Limits::default()
        }
    }

    fn upload_limits(&self) -> UploadLimits {
        let gateway = &self.gateway;
        UploadLimits {
            uploads: gateway.uploads,
            bytes: gateway.upload_bytes,
            uploads_per_device: gateway.uploads_per_device,
            bytes_per_device: gateway.upload_bytes_per_device,
            ..UploadLimits::default()
        }
    }

    fn ranges(&self) -> Result<(), PlanError> {
        let (gateway, engine, link) = (&self.gateway, &self.engine, &self.link);
        let checks = [
            ("engine.max_batch", (1..=4_096).contains(&engine.max_batch), "1 to 4096"),
            ("engine.max_wait_micros", engine.max_wait_micros <= 1_000_000, "0 to 1000000"),
            ("engine.queue_rows", (1..=1_000_000).contains(&engine.queue_rows), "1 to 1000000"),
            ("gateway.queue_rows_per_device", gateway.queue_rows_per_device > 0, "at least 1"),
            ("gateway.queue_bytes", gateway.queue_bytes > 0, "at least 1"),
            ("gateway.max_deadline_millis", (1..=3_600_000).contains(&gateway.max_deadline_millis), "1 to 3600000"),
            ("gateway.dedup_age_secs", gateway.dedup_age_secs <= 86_400, "0 to 86400"),
            ("gateway.drain_secs", gateway.drain_secs <= 3_600, "0 to 3600"),
            ("link.keepalive_secs", (5..=65_535).contains(&link.keepalive_secs), "5 to 65535"),
            ("link.reconnect_max_secs", (1..=86_400).contains(&link.reconnect_max_secs), "1 to 86400"),
        ];
        match checks.into_iter().find(|(_, holds, _)| !holds) {
            Some((key, _, expected)) => Err(PlanError::Range { key, expected }),
            None => Ok(()),
        }
    }

    fn pool(&self) -> Result<Option<PoolPlan>, PlanError> {
        let mut models = BTreeMap::new();
        for model in &self.models {
            if let Some(route) = &model.route {
                models.insert(ModelId::from_name(&model.name), route.settings(&model.name)?);
            }
        }
        let pooled = self.models.iter().find(|model| model.route.is_some());
        match (&self.gateway.state_dir, pooled) {
            (Some(state_dir), Some(_)) => Ok(Some(PoolPlan { state_dir: state_dir.clone(), models })),
            (Some(_), None) => Err(PlanError::NothingToPool),
            (None, Some(model)) => Err(PlanError::NoStateDir { model: model.name.clone() }),
            (None, None) => Ok(None),
        }
    }

    fn models_by_id(&self) -> Result<BTreeMap<ModelId, ModelConfig>, PlanError> {
        if self.models.is_empty() {
            return Err(PlanError::NoModels);
        }
        if self.models.len() > MAX_MODELS {
            return Err(PlanError::TooManyModels { count: self.models.len(), limit: MAX_MODELS });
        }
        let mut models = BTreeMap::new();
        for model in &self.models {
            if models.insert(ModelId::from_name(&model.name), model.clone()).is_some() {
                return Err(PlanError::ModelTwice { name: model.name.clone() });
            }
        }
        Ok(models)
    }
}

#[cfg(test)]
mod tests;
