//! Everything that happens to a pool, as log line and metric at once.
//!
//! As in the gateway's own journal, label values come from enums, and what devices could repeat without end is throttled.

use std::{fmt, path::PathBuf, time::Instant};

use hedge_gateway_core::{Ignored, PoolCounts, PoolNote};
use hedge_link::PublishError;
use hedge_telemetry::{
    Throttle,
    metrics::{Counter, Counters, Gauge, Registry},
};
use hedge_wire::{Hash16, RouteSubject};

use crate::journal::{COMPLAINT_INTERVAL, excerpt};

/// What `evidence_total` counts beside the reasons of the core.
const COUNTED: &str = "counted";
const MALFORMED: &str = "malformed";

/// What `decisions_total` counts, so that each is there from the start.
const DECISIONS: [&str; 8] =
    ["alarm", "boost", "boost_ended", "issued", "not_certified", "expired", "retargeted", "forgotten"];

/// The events of a pool.
pub(super) struct PoolJournal {
    link_up: Gauge,
    evidence: Counters<1>,
    audits: Counter,
    labels: Counter,
    decisions: Counters<1>,
    states: Counters<1>,
    saves: Counters<1>,
    damaged: Counter,
    omitted: Counter,
    classes: Gauge,
    certified: Gauge,
    unsaved: Gauge,
    unconfirmed: Gauge,
    malformed_lines: Throttle,
    disk_lines: Throttle,
    unsent_lines: Throttle,
}

impl PoolJournal {
    /// A journal whose numbers are in `registry`.
    pub(super) fn new(registry: &Registry) -> Self {
        let evidence = registry.counters(
            "hedge_pool_evidence_total",
            "Messages of evidence: counted, or why they do not count",
            ["outcome"],
        );
        [COUNTED, MALFORMED].into_iter().chain(Ignored::ALL.map(Ignored::name)).for_each(|outcome| {
            evidence.with([outcome]);
        });
        let decisions = registry.counters("hedge_pool_decisions_total", "What was decided about classes", ["kind"]);
        DECISIONS.iter().for_each(|kind| drop(decisions.with([kind])));
        let states = registry.counters(
            "hedge_pool_states_total",
            "Class states published, by what the broker said; unsent ones are published again",
            ["outcome"],
        );
        ["confirmed", "rejected", "unsent"].iter().for_each(|outcome| drop(states.with([outcome])));
        let saves = registry.counters("hedge_pool_saves_total", "States written to state_dir", ["result"]);
        ["saved", "failed"].iter().for_each(|result| drop(saves.with([result])));
        Self {
            link_up: registry.gauge("hedge_pool_link_up", "Whether the broker can be reached by the pool"),
            evidence,
            audits: registry.counter("hedge_pool_audits_total", "Audits that an alarm took"),
            labels: registry.counter("hedge_pool_labels_total", "Labels that a campaign took"),
            decisions,
            states,
            saves,
            damaged: registry.counter("hedge_pool_damaged_total", "States that were set aside because of damage"),
            omitted: registry.counter(
                "hedge_pool_certificates_omitted_total",
                "Class states that went without their certificate because they were too large with it",
            ),
            classes: registry.gauge("hedge_pool_classes", "Classes, one for each edge and cloud model of a class"),
            certified: registry.gauge("hedge_pool_certified", "Classes with a certificate"),
            unsaved: registry.gauge("hedge_pool_unsaved", "Classes whose last decision is not on disk"),
            unconfirmed: registry.gauge("hedge_pool_unconfirmed", "Classes whose state the broker has not confirmed"),
            malformed_lines: Throttle::new(COMPLAINT_INTERVAL),
            disk_lines: Throttle::new(COMPLAINT_INTERVAL),
            unsent_lines: Throttle::new(COMPLAINT_INTERVAL),
        }
    }

    /// The link writes the line itself.
    pub(super) fn link(&self, up: bool) {
        self.link_up.set_flag(up);
    }

    pub(super) fn no_retain(&self) {
        tracing::warn!(
            "the broker keeps no retained messages: only devices that are connected hear what holds for them"
        );
    }

    pub(super) fn malformed(&self, topic: &str, error: &dyn fmt::Display) {
        self.evidence.inc([MALFORMED]);
        if let Some(held_back) = self.malformed_lines.pass(Instant::now()) {
            tracing::warn!(topic = ?excerpt(topic), %error, held_back, "message dropped: no evidence");
        }
    }

    pub(super) fn note(&self, note: &PoolNote) {
        if let Some(kind) = decision(note) {
            self.decisions.inc([kind]);
        }
        match note {
            PoolNote::Counted { audits, labels } => {
                self.evidence.inc([COUNTED]);
                self.audits.inc_by(*audits);
                self.labels.inc_by(*labels as u64);
            }
            PoolNote::Ignored(why) => self.evidence.inc([why.name()]),
            PoolNote::Alarm { subject, audits, differing, revoked } => {
                let About { model, class, hash } = about(subject);
                tracing::warn!(
                    model, class, %hash, audits, differing, revoked,
                    "alarm: the class differs from the cloud more often than alpha; its certificates are revoked"
                );
            }
            PoolNote::Boost { subject, on } => {
                let About { model, class, hash } = about(subject);
                tracing::info!(model, class, %hash, on, "the class audits more");
            }
            PoolNote::Issued { subject, certificate, index, labels, offload } => {
                let About { model, class, hash } = about(subject);
                tracing::info!(model, class, %hash, %certificate, index, labels, offload, "class certificate issued");
            }
            PoolNote::NotCertified { subject, index, next_labels, why } => {
                let About { model, class, hash } = about(subject);
                tracing::info!(model, class, %hash, index, next_labels, why, "labels gathered, but no certificate");
            }
            PoolNote::Expired { subject } => {
                let About { model, class, hash } = about(subject);
                tracing::info!(model, class, %hash, "class certificate expired");
            }
            PoolNote::Retargeted { subject } => {
                let About { model, class, hash } = about(subject);
                tracing::info!(model, class, %hash, "the configured promise has changed: the class begins anew");
            }
            PoolNote::Forgotten { subject } => {
                let About { model, class, hash } = about(subject);
                tracing::info!(model, class, %hash, "nothing was heard of the class for long: forgotten");
            }
        }
    }

    pub(super) fn restored(&self, classes: usize) {
        tracing::info!(classes, "pooling goes on from gateway.state_dir");
    }

    pub(super) fn damaged(&self, class: Hash16, index: u32, why: &str, aside: &[PathBuf]) {
        self.damaged.inc();
        tracing::error!(
            %class, index, why, ?aside,
            "the state of a class is damaged and was set aside; the class begins anew behind this index"
        );
    }

    /// A state that is left on disk, and not gone on with.
    pub(super) fn not_restored(&self, class: Hash16, why: &dyn fmt::Display) {
        tracing::warn!(%class, %why, "the state of a class is left alone");
    }

    pub(super) fn saved(&self) {
        self.saves.inc(["saved"]);
    }

    pub(super) fn not_saved(&self, class: Hash16, error: &dyn fmt::Display) {
        self.saves.inc(["failed"]);
        if let Some(held_back) = self.disk_lines.pass(Instant::now()) {
            tracing::error!(%class, %error, held_back, "gateway.state_dir cannot be written: no certificate is given out");
        }
    }

    pub(super) fn omitted(&self, subject: &RouteSubject, why: &dyn fmt::Display) {
        self.omitted.inc();
        let About { model, class, hash } = about(subject);
        tracing::warn!(model, class, %hash, %why, "the class state goes without its certificate");
    }

    pub(super) fn confirmed(&self) {
        self.states.inc(["confirmed"]);
    }

    pub(super) fn rejected(&self, reason: &str) {
        self.states.inc(["rejected"]);
        if let Some(held_back) = self.unsent_lines.pass(Instant::now()) {
            tracing::warn!(reason, held_back, "the broker refused a class state: may this client publish to dg/+/+?");
        }
    }

    pub(super) fn unsent(&self, error: PublishError) {
        self.states.inc(["unsent"]);
        // Without a link there is nobody to tell; it is published when there is one.
        if error != PublishError::Down
            && let Some(held_back) = self.unsent_lines.pass(Instant::now())
        {
            tracing::warn!(%error, held_back, "class state not sent");
        }
    }

    pub(super) fn holds(&self, counts: &PoolCounts) {
        self.classes.set_count(counts.classes);
        self.certified.set_count(counts.certified);
        self.unsaved.set_count(counts.unsaved);
        self.unconfirmed.set_count(counts.unconfirmed);
    }
}

/// A subject in a log line.
struct About<'a> {
    model: &'a str,
    class: &'a str,
    hash: Hash16,
}

fn about(subject: &RouteSubject) -> About<'_> {
    About { model: subject.model.as_str(), class: subject.class.as_str(), hash: subject.hash() }
}

fn decision(note: &PoolNote) -> Option<&'static str> {
    match note {
        PoolNote::Counted { .. } | PoolNote::Ignored(_) => None,
        PoolNote::Alarm { .. } => Some("alarm"),
        PoolNote::Boost { on: true, .. } => Some("boost"),
        PoolNote::Boost { on: false, .. } => Some("boost_ended"),
        PoolNote::Issued { .. } => Some("issued"),
        PoolNote::NotCertified { .. } => Some("not_certified"),
        PoolNote::Expired { .. } => Some("expired"),
        PoolNote::Retargeted { .. } => Some("retargeted"),
        PoolNote::Forgotten { .. } => Some("forgotten"),
    }
}
