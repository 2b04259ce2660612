//! The numbers at `/metrics`. Rows are counted, not requests: each row is placed by itself.

use std::time::Duration;

use hedge_agent_core::route::PhaseName;
use hedge_agent_core::{Answer, Failure};
use hedge_agent_spool::{AuditStats, CacheStats};
use hedge_engine::{DeviceStanding, DeviceState, FaultKind};
use hedge_telemetry::metrics::{self, Counter, Counters, Gauge, Gauges, Histograms, Registry, SECONDS};

use crate::routing::{CertificateGauges, MonitorGauges, RouteGauges};

mod outbox;

pub(crate) use self::outbox::OutboxMetrics;

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
    uploads: Counters<1>,
    pub(crate) upload_parts: Counter,
    http_errors: Counters<1>,
    queue: Gauges<1>,
    pub(crate) stand_ins: Counter,
    models: ModelGauges,
    devices: DeviceGauges,
    cache: CacheGauges,
    routes: RouteMetrics,
    pub(crate) outbox: OutboxMetrics,
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

/// What local answers promise, and what checks it. Gauges are of the moment of rendering.
struct RouteMetrics {
    phase: Gauges<2>,
    transitions: Counters<2>,
    audits: Counters<2>,
    labels: Counters<2>,
    requests: Gauges<1>,
    attempts: Gauges<1>,
    gathered: Gauges<1>,
    wanted: Gauges<1>,
    threshold: Gauges<1>,
    index: Gauges<1>,
    expires: Gauges<1>,
    wealth: Gauges<1>,
    line: Gauges<1>,
    rate: Gauges<1>,
    breaker: Gauges<1>,
    waiting: Gauge,
    waiting_bytes: Gauge,
    removed: Gauges<1>,
    evidence_dropped: Gauge,
    budgets: Gauges<2>,
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
            uploads: r.counters(
                "hedge_uploads_total",
                "Rows too large for one message that were offered to a gateway, and offers that were granted",
                ["event"],
            ),
            upload_parts: r.counter("hedge_upload_parts_total", "Parts of such rows that were sent"),
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
            routes: RouteMetrics::new(r),
            outbox: OutboxMetrics::new(r),
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

    /// A row too large for one message was offered, or the offer was granted.
    pub(crate) fn upload(&self, event: &'static str) {
        self.uploads.inc([event]);
    }

    /// A model came or went, or did not.
    pub(crate) fn model_load(&self, result: Loading) {
        self.models.loads.inc([match result {
            Loading::Loaded => "loaded",
            Loading::Failed => "failed",
            Loading::Unloaded => "unloaded",
        }]);
    }

    /// Something happened to a model's route.
    pub(crate) fn route_step(&self, model: &str, kind: &str) {
        self.routes.transitions.with([model, kind]).inc();
    }

    /// The verdict on an audit is there.
    pub(crate) fn audited(&self, model: &str, differs: bool) {
        self.routes.audits.with([model, outcome(differs)]).inc();
    }

    /// Audits will get no verdict.
    pub(crate) fn audits_lost(&self, model: &str, count: u64) {
        self.routes.audits.with([model, "lost"]).inc_by(count);
    }

    /// The verdict on an offloaded row was compared with the local answer.
    pub(crate) fn labelled(&self, model: &str, differs: bool) {
        self.routes.labels.with([model, outcome(differs)]).inc();
    }

    /// What routes look like now, by model.
    pub(crate) fn show_routes<'a>(
        &self,
        routes: impl Iterator<Item = (&'a str, &'a RouteGauges)>,
        audits: AuditStats,
        evidence_dropped: u64,
    ) {
        routes.for_each(|(model, route)| self.routes.show(model, route));
        self.routes.evidence_dropped.set(evidence_dropped as f64);
        self.routes.waiting.set(audits.waiting as f64);
        self.routes.waiting_bytes.set(audits.bytes as f64);
        let removed = [
            ("finished", audits.finished),
            ("room", audits.dropped),
            ("age", audits.expired),
            ("withdrawn", audits.withdrawn),
            ("damaged", audits.damaged),
        ];
        removed.into_iter().for_each(|(why, count)| self.routes.removed.with([why]).set(count as f64));
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

fn outcome(differs: bool) -> &'static str {
    if differs { "differs" } else { "agrees" }
}

impl RouteMetrics {
    fn new(r: &Registry) -> Self {
        let gauges = |name, help| r.gauges(name, help, ["model"]);
        Self {
            phase: r.gauges("hedge_route_phase", "1 for the phase that a model's routing is in", ["model", "phase"]),
            transitions: r.counters(
                "hedge_route_transitions_total",
                "Changes of a model's routing, such as alarm, void, issued and used",
                ["model", "kind"],
            ),
            audits: r.counters(
                "hedge_route_audits_total",
                "Audits of local answers, by whether the cloud's answer agrees, differs or was lost",
                ["model", "outcome"],
            ),
            labels: r.counters(
                "hedge_route_labels_total",
                "Offloaded rows that were compared with their local answer, by whether they agree or differ",
                ["model", "outcome"],
            ),
            requests: gauges("hedge_route_requests", "Rows decided about since the route began"),
            attempts: gauges("hedge_route_attempts", "Attempts to certify so far"),
            gathered: gauges("hedge_route_labels_gathered", "Labels gathered for the next certificate"),
            wanted: gauges("hedge_route_labels_wanted", "Labels that the next certificate needs"),
            threshold: gauges("hedge_route_certificate_threshold", "Score from which on answers are certified"),
            index: gauges("hedge_route_certificate_index", "Number of the certificate in its series"),
            expires: gauges("hedge_route_certificate_expires_seconds", "When the certificate expires, since 1970"),
            wealth: gauges("hedge_route_alarm_wealth", "Wealth of the bets against the certificate"),
            line: gauges("hedge_route_alarm_line", "Wealth at which the certificate is void"),
            rate: gauges("hedge_route_audit_rate", "Fraction of the rows that is audited"),
            breaker: gauges("hedge_route_breaker_open", "1 while offloads pause because too many failed"),
            waiting: r.gauge("hedge_audits_waiting", "Audits waiting for the cloud"),
            waiting_bytes: r.gauge("hedge_audits_waiting_bytes", "Bytes of audits waiting for the cloud"),
            removed: r.gauges("hedge_audits_removed", "Audits that left the queue since the start", ["why"]),
            budgets: r.gauges(
                "hedge_route_budget_backlog",
                "How far a resource with a budget is ahead of it, in its own unit",
                ["model", "resource"],
            ),
            evidence_dropped: r
                .gauge("hedge_evidence_dropped", "Messages of evidence that the gateway never gets, since the start"),
        }
    }

    fn show(&self, model: &str, route: &RouteGauges) {
        for phase in [PhaseName::NoContract, PhaseName::Gathering, PhaseName::Shadow, PhaseName::Certified] {
            self.phase.with([model, phase.name()]).set_flag(phase == route.phase);
        }
        self.requests.with([model]).set(route.requests as f64);
        self.attempts.with([model]).set(f64::from(route.attempts));
        let (gathered, wanted) = route.labels.unwrap_or_default();
        self.gathered.with([model]).set_count(gathered);
        self.wanted.with([model]).set_count(wanted);
        self.breaker.with([model]).set_flag(route.breaker_open);
        for (resource, backlog) in &route.budgets {
            self.budgets.with([model, resource]).set(*backlog);
        }
        // Without a certificate there is no threshold: no number.
        let certificate = |of: fn(&CertificateGauges) -> f64| route.certificate.as_ref().map_or(f64::NAN, of);
        self.threshold.with([model]).set(certificate(|certificate| f64::from(certificate.threshold)));
        self.index.with([model]).set(certificate(|certificate| f64::from(certificate.index)));
        self.expires.with([model]).set(certificate(|certificate| certificate.expires_unix_secs as f64));
        let monitor = |of: fn(&MonitorGauges) -> f64| route.monitor.as_ref().map_or(f64::NAN, of);
        self.wealth.with([model]).set(monitor(|monitor| monitor.wealth));
        self.line.with([model]).set(monitor(|monitor| monitor.line));
        self.rate.with([model]).set(monitor(|monitor| monitor.rate));
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
