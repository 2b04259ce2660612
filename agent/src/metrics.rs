//! The numbers at `/metrics`. Rows are counted, not requests: each row is placed by itself.

use std::time::Duration;

use hedge_agent_core::{Answer, Failure};
use hedge_agent_spool::CacheStats;
use hedge_engine::{DeviceStanding, DeviceState, FaultKind};
use hedge_telemetry::metrics::{self, Counter, Counters, Gauge, Gauges, Histograms, Registry, SECONDS};

/// Every metric of the agent.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Counters<3>,
    failures: Counters<1>,
    seconds: Histograms<1>,
    pub(crate) link_up: Gauge,
    pub(crate) gateways: Gauge,
    bytes: Counters<1>,
    pub(crate) late_replies: Counter,
    pub(crate) bad_verdicts: Counter,
    pub(crate) bad_messages: Counter,
    pub(crate) retries: Counter,
    http_errors: Counters<1>,
    queue: Gauges<1>,
    pub(crate) stand_ins: Counter,
    models: ModelGauges,
    devices: DeviceGauges,
    cache: CacheGauges,
}

/// What became of a model.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Loading {
    Loaded,
    Failed,
    Unloaded,
}

/// The models at the moment of rendering. Series are by name only: digests come and go.
struct ModelGauges {
    up: Gauges<1>,
    bytes: Gauge,
    loads: Counters<1>,
}

/// The devices at the moment of rendering; the engine counts for itself.
struct DeviceGauges {
    state: Gauges<2>,
    faults: Gauges<2>,
}

/// The cache counts for itself; these show its numbers at the moment of rendering.
struct CacheGauges {
    lookups: Gauges<1>,
    entries: Gauge,
    bytes: Gauge,
    removed: Gauges<1>,
    dropped: Gauge,
    rebuilt: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let registry = Registry::new();
        let r = &registry;
        Self {
            requests: r.counters(
                "hedge_requests_total",
                "Rows answered, by where, what the answer is worth, and why",
                ["source", "status", "reason"],
            ),
            failures: r.counters("hedge_failures_total", "Rows without an answer, by what failed", ["kind"]),
            seconds: r.histograms(
                "hedge_request_seconds",
                "Seconds from a row's arrival to its answer",
                ["source"],
                SECONDS,
            ),
            link_up: r.gauge("hedge_link_up", "1 while the broker is connected"),
            gateways: r.gauge("hedge_gateways_present", "Gateways that are online"),
            bytes: r.counters("hedge_offload_bytes_total", "Payload bytes to and from the cloud", ["direction"]),
            late_replies: r.counter("hedge_late_replies_total", "Replies to rows that were answered already"),
            bad_verdicts: r.counter("hedge_bad_verdicts_total", "Verdicts refused for not fitting the model's outputs"),
            bad_messages: r.counter("hedge_bad_messages_total", "Messages from the broker that could not be read"),
            retries: r.counter("hedge_retries_total", "Rows sent to the cloud a second time"),
            http_errors: r.counters("hedge_http_errors_total", "HTTP requests answered with an error", ["code"]),
            queue: r.gauges("hedge_queue_rows", "Rows waiting for the local model", ["model"]),
            stand_ins: r
                .counter("hedge_stand_in_rows_total", "Rows that the CPU ran in the place of the model's own device"),
            models: ModelGauges {
                up: r.gauges("hedge_model_up", "1 while the model answers", ["model"]),
                bytes: r.gauge("hedge_model_bytes", "Bytes that the weights of loaded models count for"),
                loads: r.counters("hedge_model_loads_total", "Models loaded, not loaded and unloaded", ["result"]),
            },
            devices: DeviceGauges {
                state: r.gauges("hedge_device_state", "1 for the state that a device is in", ["device", "state"]),
                faults: r.gauges("hedge_device_faults", "Faults of a device since the start", ["device", "kind"]),
            },
            cache: CacheGauges {
                lookups: r.gauges("hedge_cache_lookups", "Cache look-ups since the start", ["result"]),
                entries: r.gauge("hedge_cache_entries", "Results in the cache"),
                bytes: r.gauge("hedge_cache_bytes", "Bytes of results in the cache"),
                removed: r.gauges("hedge_cache_removed", "Results that left the cache since the start", ["why"]),
                dropped: r.gauge("hedge_cache_dropped", "Results not cached since the start"),
                rebuilt: r.gauge("hedge_cache_rebuilt", "Times that the cache was made anew since the start"),
            },
            registry,
        }
    }

    /// A row was answered.
    pub(crate) fn answered(&self, answer: &Answer, took: Duration) {
        let source = answer.source.name();
        self.requests.inc([source, answer.status.name(), answer.reason.name()]);
        self.seconds.observe_duration([source], took);
    }

    /// A row has no answer.
    pub(crate) fn failed(&self, failure: &Failure) {
        let kind = match failure {
            Failure::NoCloud(reason) => reason.name(),
            Failure::NeverOffload => "never-offload",
            Failure::TooLarge => "too-large",
            Failure::Deadline(_) => "deadline",
            Failure::Overloaded => "overloaded",
            Failure::Engine(_) => "engine",
        };
        self.failures.inc([kind]);
    }

    /// An HTTP request was answered with an error; the codes are the few of `ApiError`.
    pub(crate) fn http_error(&self, code: &str) {
        self.http_errors.with([code]).inc();
    }

    /// A message went to the cloud.
    pub(crate) fn sent(&self, payload: usize) {
        self.bytes.inc_by(["up"], payload as u64);
    }

    /// A message came from the cloud.
    pub(crate) fn received(&self, payload: usize) {
        self.bytes.inc_by(["down"], payload as u64);
    }

    /// A model came or went, or did not.
    pub(crate) fn model_load(&self, result: Loading) {
        self.models.loads.inc([match result {
            Loading::Loaded => "loaded",
            Loading::Failed => "failed",
            Loading::Unloaded => "unloaded",
        }]);
    }

    /// Everything as text; `models` are the known names, each with its waiting rows if it is served.
    pub(crate) fn render<'a>(
        &self,
        cache: Option<CacheStats>,
        models: impl Iterator<Item = (&'a str, Option<usize>)>,
        model_bytes: u64,
        devices: &[DeviceState],
    ) -> String {
        for (model, waiting) in models {
            self.queue.with([model]).set_count(waiting.unwrap_or(0));
            self.models.up.with([model]).set_flag(waiting.is_some());
        }
        self.models.bytes.set(model_bytes as f64);
        devices.iter().for_each(|device| self.devices.show(device));
        if let Some(stats) = cache {
            self.cache.show(stats);
        }
        metrics::render(&self.registry)
    }
}

impl DeviceGauges {
    fn show(&self, device: &DeviceState) {
        for standing in DeviceStanding::ALL {
            self.state.with([&device.device, standing.name()]).set_flag(standing == device.standing);
        }
        for kind in FaultKind::ALL {
            let faults = device.faults.get(&kind).copied().unwrap_or(0);
            self.faults.with([&device.device, kind.name()]).set(faults as f64);
        }
    }
}

impl CacheGauges {
    fn show(&self, stats: CacheStats) {
        let set = |gauge: &Gauge, value: u64| gauge.set(value as f64);
        set(&self.lookups.with(["hit"]), stats.hits);
        set(&self.lookups.with(["miss"]), stats.misses);
        set(&self.entries, stats.entries);
        set(&self.bytes, stats.bytes);
        set(&self.removed.with(["room"]), stats.evicted);
        set(&self.removed.with(["age"]), stats.expired);
        set(&self.removed.with(["corrupt"]), stats.corrupt);
        set(&self.dropped, stats.dropped);
        set(&self.rebuilt, stats.rebuilt);
    }
}
