//! The numbers at `/metrics`. Rows are counted, not requests: each row is placed by itself.

use std::time::Duration;

use hedge_agent_core::{Answer, Failure};
use hedge_agent_spool::CacheStats;
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
    cache: CacheGauges,
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

    /// Everything as text; `queues` are the models' names and waiting rows.
    pub(crate) fn render<'a>(
        &self,
        cache: Option<CacheStats>,
        queues: impl Iterator<Item = (&'a str, usize)>,
    ) -> String {
        for (model, rows) in queues {
            self.queue.with([model]).set_count(rows);
        }
        if let Some(stats) = cache {
            self.cache.show(stats);
        }
        metrics::render(&self.registry)
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
