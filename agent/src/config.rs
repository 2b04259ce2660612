//! The agent's configuration: what the TOML file says ([`Config`]) and what it comes to ([`Settings`]).
//!
//! Every key but the models has a default. `hedge-agent.example.toml` shows each key with its default; a test holds the two
//! together. Relative paths are relative to the working directory.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use hedge_agent_core::Offload;
use hedge_certify::Score;
use hedge_config::Secret;
use hedge_engine::{DeviceChoice, FaultPolicy};
use hedge_telemetry::LogConfig;
use hedge_wire::{DeviceId, ModelId, TenantId};
use serde::Deserialize;

/// The most rows that the engine's queue may be configured to hold.
const MAX_QUEUE_ROWS: usize = 65_536;
/// The longest time that a request may be configured to take; below the idle time of a connection (`listen.rs`).
const MAX_DEADLINE: Duration = Duration::from_secs(600);
/// The least and the longest time between two scans of the models' folder.
const SCANS: std::ops::RangeInclusive<u64> = 10..=3_600_000;

/// The configuration file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Who this device is and where it keeps its state.
    pub agent: AgentSection,
    /// The local API.
    pub http: HttpSection,
    /// How models run.
    pub engine: EngineSection,
    /// The result cache.
    pub cache: CacheSection,
    /// The broker.
    pub link: LinkSection,
    /// When and how long the cloud is asked.
    pub offload: OffloadSection,
    /// The log.
    pub log: LogConfig,
    /// A folder of models.
    pub repository: RepositorySection,
    /// The models served; at least one, unless there is a folder of them.
    pub models: Vec<ModelSection>,
}

/// `[agent]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentSection {
    /// Whose device it is: a topic level, `[a-z0-9-]{1,48}`. Default: `default`.
    pub tenant: String,
    /// The device's id, unique in its tenant, `[a-z0-9-]{1,48}`: also its MQTT client id. Needed with `link.url`.
    pub device_id: Option<String>,
    /// Folder for what the agent keeps; one agent each. Default: `/var/lib/hedge-agent`.
    pub state_dir: PathBuf,
    /// How long, after SIGTERM, requests in flight may take. Seconds; default 10.
    pub drain_secs: u64,
}

/// `[http]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpSection {
    /// TCP address and port (0: any free one); empty for none. Default: `127.0.0.1:8000`. There is no authentication: a
    /// wider address gives the models to the whole network.
    pub listen: String,
    /// Path of a Unix socket to serve as well. Default: none.
    pub unix_socket: Option<PathBuf>,
    /// The largest request body. Bytes; default 16 MiB.
    pub max_body_bytes: usize,
    /// The most bytes of request bodies held at once; more requests wait, then get 503. Bytes; default 64 MiB.
    pub max_inflight_body_bytes: usize,
    /// The most connections at once, TCP and Unix each; more wait to be accepted. Default 256.
    pub max_connections: usize,
}

/// `[engine]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineSection {
    /// `auto` (the fastest that agrees with the CPU), `gpu` or `cpu`. Default: `auto`.
    pub device: String,
    /// The most rows run at once. Default 32.
    pub max_batch: usize,
    /// How long a row may wait for others to fill its batch. Microseconds; default 0.
    pub max_wait_micros: u64,
    /// The most rows that wait, and the most that one request may have; more get 429. Default 256.
    pub queue_rows: usize,
    /// A batch that a GPU has not answered by then is answered by the CPU. Milliseconds; default 500.
    pub slow_after_ms: u64,
    /// A GPU whose run has not ended by then is taken out of service and tried again later. Seconds; default 30.
    pub hang_after_secs: u64,
    /// The most that the weights of all loaded models may take; a model beyond it is not loaded. A model on a GPU counts
    /// twice, a model that is replaced counts until its last request is answered. Bytes; default 2 GiB.
    pub max_models_bytes: u64,
}

/// `[repository]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RepositorySection {
    /// A folder whose bundles (`NAME.hedge`, or a folder `NAME` with a `manifest.json`) and ONNX files (`NAME.onnx`) are
    /// served by their names, while the agent runs. Default: none.
    pub path: Option<PathBuf>,
    /// How often the folder is looked at, 10 to 3600000; a file is taken when two looks in a row find it the same.
    /// Milliseconds; default 1000.
    pub scan_ms: u64,
    /// As in `[[models]]`, for the models of the folder that no `[[models]]` names. Default: `never`.
    pub offload: String,
    /// As in `[[models]]`. Default: none.
    pub threshold: Option<f32>,
}

/// `[cache]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheSection {
    /// Whether results are cached. Default: true.
    pub enabled: bool,
    /// The most bytes of results. Bytes; default 32 MiB.
    pub max_bytes: u64,
    /// Older results are not used. Seconds; default 86400 (a day).
    pub max_age_secs: u64,
}

/// `[link]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkSection {
    /// The MQTT 5 broker, `mqtt://host:port`. Default: none, and then there is no cloud.
    pub url: Option<String>,
    /// How often the broker is pinged; at least 5. Seconds; default 30.
    pub keepalive_secs: u64,
    /// The broker's user. Default: none.
    pub username: Option<String>,
    /// The user's password; better given as `HEDGE_LINK__PASSWORD`. Default: none.
    pub password: Option<Secret>,
}

/// `[offload]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OffloadSection {
    /// How long a request may take unless it says otherwise (`hedge.deadline_ms`). Milliseconds; default 1000.
    pub deadline_ms: u64,
    /// The most that a request may ask for. Milliseconds; default 60000.
    pub max_deadline_ms: u64,
    /// How long to wait for a reply before asking once more, at most half of the request's time; ± 25 % at random.
    /// Milliseconds; default 250.
    pub retry_after_ms: u64,
}

/// `[[models]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// The name in the API.
    pub name: String,
    /// The version in the API. Default: the bundle's own, `1` for an ONNX file.
    #[serde(default)]
    pub version: Option<String>,
    /// The ONNX file or bundle. Default: the model of this name in `repository.path`.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// `auto`: rows whose score is below the threshold go to the cloud; `never`: none leaves the device. Default: `auto`.
    #[serde(default = "auto")]
    pub offload: String,
    /// Local answers of at least this score stay local, 0..1. Needed unless `offload` is `never`.
    #[serde(default)]
    pub threshold: Option<f32>,
    /// `margin` (the two largest class probabilities' difference) or `msp` (the largest). Default: `margin`.
    #[serde(default)]
    pub score: Score,
    /// The output with the class logits, FP32 `[N, classes]`. Default: the model's only such output.
    #[serde(default)]
    pub score_output: Option<String>,
    /// The cloud model to ask. Default: the model of the same name.
    #[serde(default)]
    pub cloud_model: Option<String>,
    /// Names of the classes, for the model's `config` endpoint. Default: none.
    #[serde(default)]
    pub labels: Vec<String>,
}

/// A configuration that cannot work.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {why}")]
pub struct SettingsError {
    /// The key.
    pub key: String,
    /// What is wrong with it and what to do.
    pub why: String,
}

/// The configuration, checked and converted.
#[derive(Debug, Clone)]
pub struct Settings {
    pub(crate) tenant: TenantId,
    pub(crate) device: Option<DeviceId>,
    pub(crate) state_dir: PathBuf,
    pub(crate) drain: Duration,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) unix_socket: Option<PathBuf>,
    pub(crate) max_body_bytes: usize,
    pub(crate) max_inflight_body_bytes: usize,
    pub(crate) max_connections: usize,
    pub(crate) device_choice: DeviceChoice,
    pub(crate) max_batch: usize,
    pub(crate) max_wait: Duration,
    pub(crate) queue_rows: usize,
    pub(crate) faults: FaultPolicy,
    pub(crate) max_models_bytes: u64,
    pub(crate) repository: Option<Repository>,
    pub(crate) cache: Option<CacheSection>,
    pub(crate) link: LinkSection,
    pub(crate) deadline: Duration,
    pub(crate) max_deadline: Duration,
    pub(crate) retry_after: Duration,
    pub(crate) models: Vec<ModelSettings>,
}

/// The folder of models.
#[derive(Debug, Clone)]
pub(crate) struct Repository {
    pub(crate) path: PathBuf,
    pub(crate) scan: Duration,
    /// For a model that no `[[models]]` names; its name and version are the file's.
    pub(crate) others: ModelSection,
}

/// One model's settings.
#[derive(Debug, Clone)]
pub(crate) struct ModelSettings {
    pub(crate) name: String,
    /// What was configured; a bundle brings its own otherwise.
    pub(crate) version: Option<String>,
    /// None for a model of the folder.
    pub(crate) path: Option<PathBuf>,
    pub(crate) offload: Offload,
    pub(crate) threshold: f32,
    pub(crate) score: Score,
    pub(crate) score_output: Option<String>,
    pub(crate) cloud_model: ModelId,
    pub(crate) labels: Vec<String>,
}

impl Config {
    /// Checks every key and converts it.
    ///
    /// # Errors
    ///
    /// The first key that cannot work.
    pub fn resolve(&self) -> Result<Settings, SettingsError> {
        let device = self.device()?;
        let deadline = self.deadline("offload.deadline_ms", self.offload.deadline_ms)?;
        let max_deadline = self.deadline("offload.max_deadline_ms", self.offload.max_deadline_ms)?;
        require(deadline <= max_deadline, "offload.deadline_ms", "must not exceed offload.max_deadline_ms")?;
        self.check_sizes()?;
        self.log.validate().map_err(|error| wrong("log.level", &error))?;
        Ok(Settings {
            tenant: TenantId::parse(&self.agent.tenant).map_err(|error| wrong("agent.tenant", &error))?,
            device,
            state_dir: self.agent.state_dir.clone(),
            drain: Duration::from_secs(self.agent.drain_secs),
            listen: self.listen()?,
            unix_socket: self.http.unix_socket.clone(),
            max_body_bytes: self.http.max_body_bytes,
            max_inflight_body_bytes: self.http.max_inflight_body_bytes,
            max_connections: self.http.max_connections,
            device_choice: self.engine.device.parse().map_err(|error| wrong("engine.device", &error))?,
            max_batch: self.engine.max_batch,
            max_wait: Duration::from_micros(self.engine.max_wait_micros),
            queue_rows: self.engine.queue_rows,
            faults: FaultPolicy {
                slow_after: Duration::from_millis(self.engine.slow_after_ms),
                hang_after: Duration::from_secs(self.engine.hang_after_secs),
                ..FaultPolicy::default()
            },
            max_models_bytes: self.engine.max_models_bytes,
            repository: self.repository()?,
            cache: self.cache.enabled.then(|| self.cache.clone()),
            link: self.link.clone(),
            deadline,
            max_deadline,
            retry_after: Duration::from_millis(self.offload.retry_after_ms),
            models: self.models()?,
        })
    }

    fn device(&self) -> Result<Option<DeviceId>, SettingsError> {
        let id = self.agent.device_id.as_deref().map(DeviceId::parse).transpose();
        let id = id.map_err(|error| wrong("agent.device_id", &error))?;
        let needed = self.link.url.is_some();
        require(id.is_some() || !needed, "agent.device_id", "is needed with link.url; give each device its own")?;
        Ok(id)
    }

    fn listen(&self) -> Result<Option<SocketAddr>, SettingsError> {
        let text = &self.http.listen;
        if text.is_empty() {
            let other = self.http.unix_socket.is_some();
            require(other, "http.listen", "is empty and http.unix_socket is not set: nobody could ask; set one")?;
            return Ok(None);
        }
        let address = text.parse().map_err(|_| SettingsError {
            key: "http.listen".into(),
            why: format!("{text:?} is no IP address with a port; for example \"127.0.0.1:8000\""),
        })?;
        Ok(Some(address))
    }

    fn deadline(&self, key: &str, millis: u64) -> Result<Duration, SettingsError> {
        let deadline = Duration::from_millis(millis);
        let possible = !deadline.is_zero() && deadline <= MAX_DEADLINE;
        require(possible, key, "must be 1 to 600000 milliseconds")?;
        Ok(deadline)
    }

    fn check_sizes(&self) -> Result<(), SettingsError> {
        let http = &self.http;
        require(http.max_body_bytes >= 1024, "http.max_body_bytes", "must be at least 1024")?;
        require(
            http.max_inflight_body_bytes >= http.max_body_bytes,
            "http.max_inflight_body_bytes",
            "must be at least http.max_body_bytes",
        )?;
        // The semaphore that counts them has 32-bit steps of a KiB.
        require(http.max_inflight_body_bytes <= 1 << 40, "http.max_inflight_body_bytes", "must be at most 1 TiB")?;
        require((1..=65_536).contains(&http.max_connections), "http.max_connections", "must be 1 to 65536")?;
        let engine = &self.engine;
        require((1..=4096).contains(&engine.max_batch), "engine.max_batch", "must be 1 to 4096")?;
        require(engine.max_wait_micros <= 1_000_000, "engine.max_wait_micros", "must be at most 1000000")?;
        let queue = (engine.max_batch..=MAX_QUEUE_ROWS).contains(&engine.queue_rows);
        require(queue, "engine.queue_rows", "must be at least engine.max_batch and at most 65536")?;
        let slow = Duration::from_millis(engine.slow_after_ms);
        require(!slow.is_zero() && slow <= MAX_DEADLINE, "engine.slow_after_ms", "must be 1 to 600000 milliseconds")?;
        let hang = Duration::from_secs(engine.hang_after_secs);
        require(
            hang >= slow && hang <= MAX_DEADLINE,
            "engine.hang_after_secs",
            "must be at least engine.slow_after_ms and at most 600 seconds",
        )?;
        require(
            self.cache.max_age_secs > 0,
            "cache.max_age_secs",
            "must be at least 1; cache.enabled = false turns it off",
        )
    }

    fn repository(&self) -> Result<Option<Repository>, SettingsError> {
        let section = &self.repository;
        let Some(path) = section.path.clone() else { return Ok(None) };
        require(SCANS.contains(&section.scan_ms), "repository.scan_ms", "must be 10 to 3600000 milliseconds")?;
        let others = ModelSection {
            offload: section.offload.clone(),
            threshold: section.threshold,
            path: None,
            ..ModelSection::local("any", PathBuf::new())
        };
        others.resolve(&|key| format!("repository.{key}"))?;
        Ok(Some(Repository { path, scan: Duration::from_millis(section.scan_ms), others }))
    }

    fn models(&self) -> Result<Vec<ModelSettings>, SettingsError> {
        let folder = self.repository.path.is_some();
        let any = folder || !self.models.is_empty();
        require(any, "models", "is empty; add a [[models]] with name, path and threshold, or set repository.path")?;
        let mut names = BTreeSet::new();
        let each = self.models.iter().enumerate().map(|(index, model)| {
            let key = |name: &str| format!("models.{index}.{name}");
            let settings = model.resolve(&key)?;
            let found = folder || model.path.is_some();
            require(found, &key("path"), "is missing; only models of repository.path need none")?;
            require(names.insert(&model.name), &format!("models.{index}.name"), "is used twice; each name once")?;
            Ok(settings)
        });
        each.collect()
    }
}

impl Repository {
    /// The settings of a model that no `[[models]]` names.
    pub(crate) fn settings(&self, name: &str) -> Result<ModelSettings, SettingsError> {
        let section = ModelSection { name: name.to_owned(), ..self.others.clone() };
        section.resolve(&|key| format!("repository, {name:?}: {key}"))
    }
}

impl ModelSection {
    /// `key` makes the full name of a key.
    fn resolve(&self, key: &dyn Fn(&str) -> String) -> Result<ModelSettings, SettingsError> {
        // `/v2/models/stats` is the statistics of all models.
        let usable = !self.name.is_empty() && self.name.len() <= 256 && self.name != "stats";
        require(usable, &key("name"), "must be 1 to 256 bytes and not \"stats\"")?;
        require(self.version.as_ref().is_none_or(|version| !version.is_empty()), &key("version"), "must not be empty")?;
        let offload = match self.offload.as_str() {
            "auto" => Offload::Auto,
            "never" => Offload::Never,
            other => return Err(wrong(&key("offload"), &format!("{other:?} is neither \"auto\" nor \"never\""))),
        };
        let threshold = match (self.threshold, offload) {
            (Some(threshold), _) => threshold,
            (None, Offload::Never) => f32::NEG_INFINITY,
            (None, Offload::Auto) => {
                return Err(wrong(&key("threshold"), &"is missing; set it (0..1), or offload = \"never\""));
            }
        };
        require(!threshold.is_nan(), &key("threshold"), "must be a number")?;
        Ok(ModelSettings {
            name: self.name.clone(),
            version: self.version.clone(),
            path: self.path.clone(),
            offload,
            threshold,
            score: self.score,
            score_output: self.score_output.clone(),
            cloud_model: ModelId::from_name(self.cloud_model.as_deref().unwrap_or(&self.name)),
            labels: self.labels.clone(),
        })
    }
}

impl Default for AgentSection {
    fn default() -> Self {
        Self {
            tenant: "default".into(),
            device_id: None,
            state_dir: PathBuf::from("/var/lib/hedge-agent"),
            drain_secs: 10,
        }
    }
}

impl Default for HttpSection {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8000".into(),
            unix_socket: None,
            max_body_bytes: 16 * 1024 * 1024,
            max_inflight_body_bytes: 64 * 1024 * 1024,
            max_connections: 256,
        }
    }
}

impl Default for EngineSection {
    fn default() -> Self {
        Self {
            device: "auto".into(),
            max_batch: 32,
            max_wait_micros: 0,
            queue_rows: 256,
            slow_after_ms: 500,
            hang_after_secs: 30,
            max_models_bytes: 2 * 1024 * 1024 * 1024,
        }
    }
}

impl Default for RepositorySection {
    fn default() -> Self {
        Self { path: None, scan_ms: 1000, offload: "never".into(), threshold: None }
    }
}

impl Default for CacheSection {
    fn default() -> Self {
        Self { enabled: true, max_bytes: 32 * 1024 * 1024, max_age_secs: 86_400 }
    }
}

impl Default for LinkSection {
    fn default() -> Self {
        Self { url: None, keepalive_secs: 30, username: None, password: None }
    }
}

impl Default for OffloadSection {
    fn default() -> Self {
        Self { deadline_ms: 1000, max_deadline_ms: 60_000, retry_after_ms: 250 }
    }
}

impl ModelSection {
    /// A model that is never offloaded: name and file, everything else by default.
    #[must_use]
    pub fn local(name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            version: None,
            path: Some(path.into()),
            offload: "never".into(),
            threshold: None,
            score: Score::default(),
            score_output: None,
            cloud_model: None,
            labels: Vec::new(),
        }
    }

    /// A model whose rows below `threshold` go to the cloud model of the same name.
    #[must_use]
    pub fn offloading(name: impl Into<String>, path: impl Into<PathBuf>, threshold: f32) -> Self {
        Self { offload: auto(), threshold: Some(threshold), ..Self::local(name, path) }
    }
}

fn auto() -> String {
    "auto".into()
}

fn require(holds: bool, key: &str, why: &str) -> Result<(), SettingsError> {
    if holds { Ok(()) } else { Err(wrong(key, &why)) }
}

fn wrong(key: &str, why: &dyn Display) -> SettingsError {
    SettingsError { key: key.to_owned(), why: why.to_string() }
}

#[cfg(test)]
mod tests;
