//! The agent's configuration: what the TOML file says ([`Config`]) and what it comes to ([`Settings`]).
//!
//! Every key but the models has a default. `hedge-agent.example.toml` shows each key with its default; a test holds the two
//! together. Relative paths are relative to the working directory.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use hedge_agent_core::{Offload, OutboxSettings, RouteSettings};
use hedge_certify::Score;
use hedge_engine::{DeviceChoice, FaultPolicy};
use hedge_telemetry::LogConfig;
use hedge_wire::{DeviceId, GroupId, ModelId, PublicKey, TenantId};
use serde::Deserialize;

mod route;
mod sections;

pub use route::{AuditsSection, BudgetSection, RouteSection};
pub use sections::{
    AgentSection, CacheSection, EngineSection, HttpSection, LinkSection, ModelSection, OffloadSection, OutboxSection,
    RepositorySection,
};

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
    /// Rows that the cloud is asked about later.
    pub audits: AuditsSection,
    /// Requests that are answered whatever happens.
    pub outbox: OutboxSection,
    /// The log.
    pub log: LogConfig,
    /// A folder of models.
    pub repository: RepositorySection,
    /// The models served; at least one, unless there is a folder of them.
    pub models: Vec<ModelSection>,
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
    pub(crate) device_class: Option<GroupId>,
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
    pub(crate) class_key: Option<PublicKey>,
    pub(crate) audits: AuditsSection,
    pub(crate) outbox: Option<Outbox>,
    pub(crate) deadline: Duration,
    pub(crate) max_deadline: Duration,
    pub(crate) retry_after: Duration,
    pub(crate) models: Vec<ModelSettings>,
}

/// Durable requests.
#[derive(Debug, Clone)]
pub(crate) struct Outbox {
    pub(crate) settings: OutboxSettings,
    pub(crate) reserve_bytes: u64,
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
    /// How its rows are routed; the seed is drawn when the route begins.
    pub(crate) route: RouteSettings,
    /// A certificate to begin with.
    pub(crate) certificate: Option<PathBuf>,
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
        self.audits.check()?;
        self.outbox.check()?;
        self.log.validate().map_err(|error| wrong("log.level", &error))?;
        Ok(Settings {
            tenant: TenantId::parse(&self.agent.tenant).map_err(|error| wrong("agent.tenant", &error))?,
            device,
            device_class: self.device_class()?,
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
            class_key: self.class_key()?,
            audits: self.audits.clone(),
            outbox: self.outbox.enabled.then(|| self.outbox.settings()),
            deadline,
            max_deadline,
            retry_after: Duration::from_millis(self.offload.retry_after_ms),
            models: self.models()?,
        })
    }

    fn device(&self) -> Result<Option<DeviceId>, SettingsError> {
        let id = self.agent.device_id.as_deref().map(DeviceId::parse).transpose();
        let id = id.map_err(|error| wrong("agent.device_id", &error))?;
        let waits = (1..=86_400).contains(&self.link.reconnect_max_secs);
        require(waits, "link.reconnect_max_secs", "must be 1 to 86400")?;
        let needed = self.link.url.is_some();
        require(id.is_some() || !needed, "agent.device_id", "is needed with link.url; give each device its own")?;
        Ok(id)
    }

    fn device_class(&self) -> Result<Option<GroupId>, SettingsError> {
        let class = self.agent.device_class.as_deref().map(GroupId::parse).transpose();
        class.map_err(|error| wrong("agent.device_class", &error))
    }

    fn class_key(&self) -> Result<Option<PublicKey>, SettingsError> {
        let key = self.link.class_key.as_deref().map(str::parse).transpose();
        key.map_err(|error: hedge_wire::KeyError| wrong("link.class_key", &error))
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

impl ModelSettings {
    /// Whether rows are decided about by a score.
    pub(crate) fn needs_score(&self) -> bool {
        self.offload == Offload::Auto || self.route.contract.is_some()
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
        let threshold = match (self.threshold, offload, &self.route.contract) {
            (Some(threshold), _, _) => threshold,
            (None, Offload::Never, _) | (None, _, Some(_)) => f32::NEG_INFINITY,
            (None, Offload::Auto, None) => {
                let why = "is missing; set it (0..1), a route.contract, or offload = \"never\"";
                return Err(wrong(&key("threshold"), &why));
            }
        };
        require(!threshold.is_nan(), &key("threshold"), "must be a number")?;
        let route = self.route.resolve(&self.budget, (threshold, self.score, offload), key)?;
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
            route,
            certificate: self.route.certificate.clone(),
        })
    }
}

fn require(holds: bool, key: &str, why: &str) -> Result<(), SettingsError> {
    if holds { Ok(()) } else { Err(wrong(key, &why)) }
}

fn wrong(key: &str, why: &dyn Display) -> SettingsError {
    SettingsError { key: key.to_owned(), why: why.to_string() }
}

#[cfg(test)]
mod tests;
