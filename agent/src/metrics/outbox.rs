//! The numbers of durable requests. As everywhere, rows are counted: each is an entry of the outbox.

use bytes::Bytes;
use hedge_agent_core::outbox::NotAccepted;
use hedge_agent_core::{Outbox, Reason};
use hedge_agent_spool::{Damage, OutboxStats};
use hedge_telemetry::metrics::{Counter, Counters, Gauge, Gauges, Histogram, Registry, SECONDS};

/// Those of the outbox.
pub(crate) struct OutboxMetrics {
    requests: Counters<1>,
    refused: Counters<1>,
    without_cloud: Counters<1>,
    damage: Counters<1>,
    /// Times that the cloud was asked.
    pub(crate) attempts: Counter,
    /// From asking for a write until it survives a power cut.
    pub(crate) write_seconds: Histogram,
    waiting: Gauge,
    waiting_bytes: Gauge,
    executing: Gauge,
    in_flight: Gauge,
    suspects: Gauge,
    results: Gauges<1>,
    answer_bytes: Gauge,
    database_bytes: Gauge,
    quarantined: Gauge,
    full: Gauge,
    barriers: Gauge,
}

impl OutboxMetrics {
    pub(super) fn new(r: &Registry) -> Self {
        Self {
            requests: r.counters(
                "hedge_outbox_requests_total",
                "Durable rows, by what became of them: accepted, joined, known, answered, poisoned, damaged",
                ["event"],
            ),
            refused: r.counters("hedge_outbox_refused_total", "Durable rows that were not accepted", ["reason"]),
            without_cloud: r.counters(
                "hedge_outbox_without_cloud_total",
                "Durable rows that were executed without the cloud after it was to answer them, by why it did not",
                ["reason"],
            ),
            damage: r.counters("hedge_outbox_damage_total", "What was found damaged on the disk at a start", ["what"]),
            attempts: r.counter("hedge_outbox_attempts_total", "Times that the cloud was asked about a durable row"),
            write_seconds: r.histogram(
                "hedge_outbox_write_seconds",
                "Seconds from asking for a write until it survives a power cut",
                SECONDS,
            ),
            waiting: r.gauge("hedge_outbox_waiting", "Durable rows without an answer"),
            waiting_bytes: r.gauge("hedge_outbox_waiting_bytes", "Bytes of their payloads"),
            executing: r.gauge("hedge_outbox_executing", "Durable rows that are being executed"),
            in_flight: r.gauge("hedge_outbox_in_flight", "Durable rows that the cloud has been asked about"),
            suspects: r
                .gauge("hedge_outbox_tries_suspect", "1 while a row is tried that was executed when the process died"),
            results: r.gauges("hedge_outbox_results", "Results that are kept: fetched, and not fetched yet", ["state"]),
            answer_bytes: r.gauge("hedge_outbox_result_bytes", "Bytes of the results that are kept"),
            database_bytes: r.gauge("hedge_outbox_database_bytes", "Bytes of the database's files"),
            quarantined: r.gauge("hedge_outbox_quarantined", "Databases and payloads that are kept to be looked at"),
            full: r.gauge("hedge_outbox_disk_full", "1 while the disk has no space for new durable requests"),
            barriers: r.gauge("hedge_outbox_barriers", "Groups of rows that were synced to the disk since the start"),
        }
    }

    /// Something became of a row.
    pub(crate) fn request(&self, event: &'static str) {
        self.requests.inc([event]);
    }

    /// A row was not accepted.
    pub(crate) fn refused(&self, why: &NotAccepted) {
        self.refused.inc([match why {
            NotAccepted::TooMany { .. } => "too-many",
            NotAccepted::TooLarge { .. } => "too-large",
            NotAccepted::Unfetched { .. } => "unfetched",
            NotAccepted::DiskFull => "disk-full",
            NotAccepted::OtherRequest => "other-request",
            NotAccepted::Gone => "gone",
        }]);
    }

    /// A row is executed without the cloud.
    pub(crate) fn without_cloud(&self, why: Reason) {
        self.without_cloud.inc([why.name()]);
    }

    /// Something was damaged on the disk.
    pub(crate) fn damaged(&self, damage: &Damage) {
        let (what, count) = match damage {
            Damage::Payload { .. } => ("payload", 1),
            Damage::Answer { .. } => ("answer", 1),
            Damage::Unnamed { count, .. } => ("lost", *count),
            Damage::Database { .. } => ("database", 1),
            Damage::Ledger { .. } => ("ledger", 1),
        };
        self.damage.inc_by([what], count);
    }

    /// What the outbox holds now.
    pub(crate) fn show(&self, outbox: &Outbox<Bytes>) {
        self.waiting.set_count(outbox.waiting());
        self.waiting_bytes.set(outbox.bytes() as f64);
        self.executing.set_count(outbox.running());
        self.in_flight.set_count(outbox.in_flight());
        self.suspects.set_flag(outbox.tries_a_suspect());
        let (unfetched, all) = outbox.results();
        self.results.with(["waiting"]).set_count(unfetched);
        self.results.with(["fetched"]).set_count(all - unfetched);
    }

    /// What the store holds now.
    pub(crate) fn show_store(&self, stats: OutboxStats) {
        self.answer_bytes.set(stats.answer_bytes as f64);
        self.database_bytes.set(stats.database_bytes as f64);
        self.quarantined.set(stats.quarantined as f64);
        self.full.set_flag(stats.full);
        self.barriers.set(stats.barriers as f64);
    }
}
