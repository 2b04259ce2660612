//! Everything that happens to a gateway, as log line and metric at once.
//!
//! One method an event, so that no message and no number stands anywhere else. Label values come from enums and from
//! the configuration; what comes from the network stands in log fields only, and repeated complaints are throttled.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use hedge_engine::worker::RowOutput;
use hedge_gateway_core::{Admission, Arrival, Key, Outcome, PartFault, Uploads};
use hedge_link::{BrokerLimits, PublishError};
use hedge_telemetry::{
    Throttle,
    metrics::{Counter, Counters, Gauge, Gauges, Histogram, Histograms, ROWS, Registry, SECONDS},
};
use hedge_wire::{ModelId, Refusal};

use crate::models::Served;

/// The shortest time between two log lines about the same complaint.
pub(crate) const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// The longest excerpt of a topic in a log line, in characters.
const TOPIC_EXCERPT: usize = 200;

/// What `requests_total` counts, so that each outcome is there from the start.
const OUTCOMES: [&str; 10] = [
    "verdict",
    "busy_queue",
    "busy_device",
    "busy_audit",
    "busy_draining",
    "refused_unknown_model",
    "refused_bad_input",
    "refused_expired",
    "refused_internal",
    "malformed",
];

/// The gateway's events.
pub(crate) struct Journal {
    link_up: Gauge,
    requests: Counters<1>,
    joined: Counter,
    resent: Counter,
    readmitted: Counter,
    bytes_in: Counter,
    bytes_out: Counter,
    undelivered: Counters<1>,
    queue_rows: Gauge,
    queue_bytes: Gauge,
    remembered: Gauge,
    uploads: Counters<1>,
    parts: Counter,
    parts_dropped: Counters<1>,
    uploads_open: Gauge,
    upload_bytes: Gauge,
    batch_rows: Histograms<1>,
    model_seconds: Histograms<1>,
    queue_seconds: Histograms<1>,
    model_info: Gauges<3>,
    models: BTreeMap<ModelId, Runs>,
    malformed_lines: Throttle,
    failed_lines: Throttle,
    undelivered_lines: Throttle,
}

/// The numbers of one model, found once.
struct Runs {
    batch_rows: Histogram,
    model_seconds: Histogram,
    queue_seconds: Histogram,
}

impl Journal {
    /// A journal whose numbers are in `registry`.
    pub(crate) fn new(registry: &Registry) -> Self {
        let requests = registry.counters(
            "hedge_gateway_requests_total",
            "Queries answered by what was replied, repetitions not counted, and bodies that are no query (malformed)",
            ["outcome"],
        );
        for outcome in OUTCOMES {
            requests.with([outcome]);
        }
        let repeats = registry.counters(
            "hedge_gateway_repeats_total",
            "Queries that came again: joined one in the queue, got the remembered reply (resent), or are run as new (rerun)",
            ["kind"],
        );
        let payload = registry.counters("hedge_gateway_payload_bytes_total", "Payload of messages", ["direction"]);
        let version = env!("CARGO_PKG_VERSION");
        registry.gauges("hedge_build_info", "The running program", ["version"]).with([version]).set_flag(true);
        Self {
            link_up: registry.gauge("hedge_link_up", "Whether the broker can be reached"),
            requests,
            joined: repeats.with(["joined"]),
            resent: repeats.with(["resent"]),
            readmitted: repeats.with(["rerun"]),
            bytes_in: payload.with(["in"]),
            bytes_out: payload.with(["out"]),
            undelivered: registry.counters(
                "hedge_gateway_undelivered_total",
                "Replies that the broker did not take or had nobody for",
                ["reason"],
            ),
            queue_rows: registry.gauge("hedge_gateway_queue_depth", "Queries admitted and not yet answered"),
            queue_bytes: registry.gauge("hedge_gateway_queue_bytes", "Tensor bytes of these queries"),
            remembered: registry.gauge("hedge_gateway_remembered_replies", "Replies kept for queries that come again"),
            uploads: registry.counters(
                "hedge_gateway_uploads_total",
                "Queries in parts: grants given, repetitions included, and queries put together",
                ["event"],
            ),
            parts: registry.counter("hedge_gateway_parts_total", "Parts of queries that came"),
            parts_dropped: registry.counters(
                "hedge_gateway_parts_dropped_total",
                "Parts that were of no use, by why",
                ["reason"],
            ),
            uploads_open: registry.gauge("hedge_gateway_uploads_open", "Queries granted and not yet whole"),
            upload_bytes: registry.gauge("hedge_gateway_upload_bytes", "Bytes held of these queries"),
            batch_rows: registry.histograms(
                "hedge_gateway_batch_rows",
                "Rows of the batch that each row ran in",
                ["model"],
                ROWS,
            ),
            model_seconds: registry.histograms(
                "hedge_gateway_model_seconds",
                "Run time of the batch that each row ran in",
                ["model"],
                SECONDS,
            ),
            queue_seconds: registry.histograms(
                "hedge_gateway_queue_seconds",
                "Time from a row's submission to the engine until its batch ran",
                ["model"],
                SECONDS,
            ),
            model_info: registry.gauges("hedge_gateway_model_info", "The models served", ["model", "digest", "device"]),
            models: BTreeMap::new(),
            malformed_lines: Throttle::new(COMPLAINT_INTERVAL),
            failed_lines: Throttle::new(COMPLAINT_INTERVAL),
            undelivered_lines: Throttle::new(COMPLAINT_INTERVAL),
        }
    }

    pub(crate) fn model_loaded(&mut self, model: &ModelId, served: &Served, took: Duration) {
        let (digest, device) = (served.digest.to_string(), served.worker.device_label());
        self.model_info.with([model.as_str(), &digest, device]).set_flag(true);
        let name = [model.as_str()];
        let runs = Runs {
            batch_rows: self.batch_rows.with(name),
            model_seconds: self.model_seconds.with(name),
            queue_seconds: self.queue_seconds.with(name),
        };
        self.models.insert(model.clone(), runs);
        tracing::info!(%model, %digest, device, executor = served.worker.executor(), ?took, "model loaded");
    }

    /// The link writes the line itself.
    pub(crate) fn link_up(&self, limits: &BrokerLimits) {
        self.link_up.set_flag(true);
        if !limits.shared_subscriptions {
            tracing::warn!("the broker has no shared subscriptions: every gateway answers every query");
        }
    }

    /// The link writes the line itself.
    pub(crate) fn link_down(&self) {
        self.link_up.set_flag(false);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.bytes_in.inc_by(bytes as u64);
    }

    pub(crate) fn malformed(&self, topic: &str, error: &dyn fmt::Display, now: Instant) {
        self.requests.inc(["malformed"]);
        if let Some(held_back) = self.malformed_lines.pass(now) {
            tracing::warn!(topic = ?excerpt(topic), %error, held_back, "message dropped: not a query");
        }
    }

    pub(crate) fn arrived(&self, arrival: Arrival) {
        match arrival {
            Arrival::Joined => self.joined.inc(),
            Arrival::Repeated => self.resent.inc(),
            Arrival::Readmitted => self.readmitted.inc(),
            Arrival::Admitted | Arrival::TurnedAway => {}
        }
    }

    pub(crate) fn granted(&self, bytes: usize) {
        self.bytes_out.inc_by(bytes as u64);
        self.uploads.inc(["granted"]);
    }

    pub(crate) fn assembled(&self) {
        self.uploads.inc(["assembled"]);
    }

    pub(crate) fn part(&self) {
        self.parts.inc();
    }

    pub(crate) fn part_dropped(&self, fault: PartFault) {
        self.parts_dropped.inc([match fault {
            PartFault::NotOpen => "not_open",
            PartFault::NoSuchPart => "no_such_part",
            PartFault::WrongLength => "wrong_length",
            PartFault::Repeated => "repeated",
        }]);
    }

    pub(crate) fn uploads(&self, uploads: &Uploads) {
        self.uploads_open.set_count(uploads.open().0);
        self.upload_bytes.set_count(uploads.held_bytes());
    }

    pub(crate) fn ran(&self, model: &ModelId, row: &RowOutput) {
        if let Some(runs) = self.models.get(model) {
            runs.batch_rows.observe(row.batch as f64);
            runs.model_seconds.observe_duration(row.model_time);
            runs.queue_seconds.observe_duration(row.queue_time);
        }
    }

    pub(crate) fn run_failed(&self, model: &ModelId, error: &dyn fmt::Display, now: Instant) {
        if let Some(held_back) = self.failed_lines.pass(now) {
            tracing::error!(%model, %error, held_back, "the model failed");
        }
    }

    /// A reply goes out; `repeated` where it was counted before.
    pub(crate) fn replied(&self, key: &Key, outcome: Outcome, bytes: usize, repeated: bool) {
        let outcome = label(outcome);
        self.bytes_out.inc_by(bytes as u64);
        if !repeated {
            self.requests.inc([outcome]);
        }
        tracing::debug!(device = %key.device, id = %key.id, outcome, bytes, repeated, "replied");
    }

    pub(crate) fn not_published(&self, key: &Key, error: PublishError, now: Instant) {
        let reason = match error {
            PublishError::Down => "link_down",
            PublishError::QueueFull => "link_queue",
            PublishError::TooLarge { .. } => "too_large",
            PublishError::Invalid => "invalid",
        };
        self.undelivered.inc([reason]);
        if let Some(held_back) = self.undelivered_lines.pass(now) {
            tracing::warn!(device = %key.device, id = %key.id, %error, held_back, "reply not sent");
        }
    }

    pub(crate) fn not_delivered(&self, outcome: &hedge_link::Outcome, now: Instant) {
        let reason = match outcome {
            hedge_link::Outcome::Delivered => return,
            // The device has gone; it needs nothing.
            hedge_link::Outcome::NoSubscribers => return self.undelivered.inc(["no_subscriber"]),
            hedge_link::Outcome::Rejected { reason, .. } => reason,
        };
        self.undelivered.inc(["rejected"]);
        if let Some(held_back) = self.undelivered_lines.pass(now) {
            tracing::warn!(reason, held_back, "the broker refused a reply");
        }
    }

    pub(crate) fn holds(&self, admission: &Admission) {
        self.queue_rows.set_count(admission.queued());
        self.queue_bytes.set_count(admission.queued_bytes());
        self.remembered.set_count(admission.remembered().0);
    }

    pub(crate) fn draining(&self, queued: usize) {
        tracing::info!(queued, "stopping: finishing what was admitted");
    }

    pub(crate) fn drained(&self, unanswered: usize, unconfirmed: usize) {
        if unanswered + unconfirmed == 0 {
            tracing::info!("everything admitted is answered");
        } else {
            tracing::warn!(unanswered, unconfirmed, "stopping before everything admitted is answered");
        }
    }
}

/// As much of a topic as a log line takes.
pub(crate) fn excerpt(topic: &str) -> String {
    topic.chars().take(TOPIC_EXCERPT).collect()
}

fn label(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Verdict => "verdict",
        Outcome::QueueFull => "busy_queue",
        Outcome::DeviceShare => "busy_device",
        Outcome::Audit => "busy_audit",
        Outcome::Draining => "busy_draining",
        Outcome::Refused(Refusal::UnknownModel) => "refused_unknown_model",
        Outcome::Refused(Refusal::BadInput) => "refused_bad_input",
        Outcome::Refused(Refusal::Expired) => "refused_expired",
        Outcome::Refused(Refusal::Internal) => "refused_internal",
    }
}
