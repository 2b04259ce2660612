//! The sections of the file with their defaults; what they come to is the parent's.

use std::path::PathBuf;
use std::time::Duration;

use hedge_agent_core::OutboxSettings;
use hedge_certify::Score;
use hedge_config::Secret;
use serde::Deserialize;

use super::{BudgetSection, Outbox, RouteSection, SettingsError, require};

/// The most durable requests, or results of them, that may be configured.
const MAX_DURABLE: usize = 1_000_000;
/// The longest that they may be configured to be kept.
const MAX_LIFE_SECS: u64 = 365 * 86_400;

/// `[agent]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentSection {
    /// Whose device it is: a topic level, `[a-z0-9-]{1,48}`. Default: `default`.
    pub tenant: String,
    /// The device's id, unique in its tenant, `[a-z0-9-]{1,48}`: also its MQTT client id. Needed with `link.url`.
    pub device_id: Option<String>,
    /// The class of devices whose evidence is pooled with this one's, `[a-z0-9-]{1,48}`: devices of one class see like data
    /// and compute alike. Default: of each model the kind of its device and the machine's architecture, such as `cpu-aarch64`.
    pub device_class: Option<String>,
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
    /// The longest wait between two attempts to connect, in seconds. Default: 30.
    pub reconnect_max_secs: u64,
    /// The broker's user. Default: none.
    pub username: Option<String>,
    /// The user's password; better given as `HEDGE_LINK__PASSWORD`. Default: none.
    pub password: Option<Secret>,
    /// The public key by which the gateway's word to a class of devices is checked: 64 hex digits, as the gateway writes
    /// them into `class-key.pub`. Default: none, and then no such word is heard.
    pub class_key: Option<String>,
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

/// `[outbox]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutboxSection {
    /// Whether requests may be durable (`hedge.durable`). Default: true.
    pub enabled: bool,
    /// The most rows that wait for their answer, or whose result nobody has fetched. Default 10000.
    pub max_requests: usize,
    /// The most bytes of rows that wait; new ones are refused from 80 % of it on. Bytes; default 256 MiB.
    pub max_bytes: u64,
    /// The longest that a row waits for the cloud; then it is answered without. Seconds; default 86400 (a day).
    pub life_secs: u64,
    /// How long a result is kept. Seconds; default 86400 (a day).
    pub keep_secs: u64,
    /// Results that are kept although they were fetched; beyond it the earliest fetched are dropped. Default 10000.
    pub max_results: usize,
    /// The most bytes of the answers that are kept: beyond it the earliest fetched are dropped, and new requests refused while
    /// so many bytes were not fetched. Bytes; default 256 MiB.
    pub max_result_bytes: u64,
    /// The most rows that the cloud is asked about at once, 1 to 48. Default 32.
    pub max_in_flight: usize,
    /// Space on the disk that is held back, so that what was accepted can be answered when it is full. Bytes; default 16 MiB.
    pub reserve_bytes: u64,
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
    /// Local answers of at least this score stay local, 0..1. Needed unless `offload` is `never` or `route.contract` is set,
    /// whose certificates bring a threshold of their own.
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
    /// What local answers promise.
    #[serde(default)]
    pub route: RouteSection,
    /// What offloads may cost.
    #[serde(default)]
    pub budget: BudgetSection,
}

impl Default for AgentSection {
    fn default() -> Self {
        Self {
            tenant: "default".into(),
            device_id: None,
            device_class: None,
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
        Self { url: None, keepalive_secs: 30, reconnect_max_secs: 30, username: None, password: None, class_key: None }
    }
}

impl Default for OffloadSection {
    fn default() -> Self {
        Self { deadline_ms: 1000, max_deadline_ms: 60_000, retry_after_ms: 250 }
    }
}

impl Default for OutboxSection {
    fn default() -> Self {
        let settings = OutboxSettings::default();
        Self {
            enabled: true,
            max_requests: settings.entries,
            max_bytes: settings.quota,
            life_secs: settings.life.as_secs(),
            keep_secs: settings.keep.as_secs(),
            max_results: settings.results,
            max_result_bytes: settings.result_bytes,
            max_in_flight: settings.in_flight,
            reserve_bytes: 16 * 1024 * 1024,
        }
    }
}

impl OutboxSection {
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        let requests = (1..=MAX_DURABLE).contains(&self.max_requests);
        require(requests, "outbox.max_requests", "must be 1 to 1000000; outbox.enabled = false turns it off")?;
        require(self.max_results <= MAX_DURABLE, "outbox.max_results", "must be at most 1000000")?;
        for (bytes, key) in [(self.max_bytes, "outbox.max_bytes"), (self.max_result_bytes, "outbox.max_result_bytes")] {
            require(bytes >= 1024 * 1024, key, "must be at least 1048576")?;
        }
        let year = |secs| (1..=MAX_LIFE_SECS).contains(&secs);
        require(year(self.life_secs), "outbox.life_secs", "must be 1 to 31536000 (a year)")?;
        require(year(self.keep_secs), "outbox.keep_secs", "must be 1 to 31536000 (a year)")?;
        // The link has 50 messages in flight; requests that somebody waits for need some of them.
        require((1..=48).contains(&self.max_in_flight), "outbox.max_in_flight", "must be 1 to 48")
    }

    pub(super) fn settings(&self) -> Outbox {
        let settings = OutboxSettings {
            entries: self.max_requests,
            quota: self.max_bytes,
            life: Duration::from_secs(self.life_secs),
            keep: Duration::from_secs(self.keep_secs),
            results: self.max_results,
            result_bytes: self.max_result_bytes,
            in_flight: self.max_in_flight,
            ..OutboxSettings::default()
        };
        Outbox { settings, reserve_bytes: self.reserve_bytes }
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
            route: RouteSection::default(),
            budget: BudgetSection::default(),
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
