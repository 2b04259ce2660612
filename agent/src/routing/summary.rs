//! A route at a glance: for `/hedge/v1/models/{name}/route` and for the metrics.

use std::collections::BTreeMap;

use hedge_agent_core::route::PhaseName;
use hedge_certify::{Certificate, Monitor, Progress, Role, Target};
use serde_json::{Value, json};

use super::route::Route;

/// What the metrics show of a route.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct RouteGauges {
    pub(crate) phase: PhaseName,
    pub(crate) requests: u64,
    pub(crate) attempts: u32,
    /// Labels gathered for the next certificate, and wanted.
    pub(crate) labels: Option<(usize, usize)>,
    pub(crate) certificate: Option<CertificateGauges>,
    pub(crate) monitor: Option<MonitorGauges>,
    pub(crate) breaker_open: bool,
    /// How far each resource with a budget is ahead of it.
    pub(crate) budgets: Vec<(&'static str, f64)>,
}

/// What they show of its certificate.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct CertificateGauges {
    pub(crate) index: u32,
    pub(crate) threshold: f32,
    pub(crate) expires_unix_secs: u64,
}

/// What they show of its alarm.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct MonitorGauges {
    pub(crate) wealth: f64,
    pub(crate) line: f64,
    pub(crate) rate: f64,
}

impl Route {
    /// What the metrics show.
    pub(crate) fn gauges(&self) -> RouteGauges {
        let inner = self.inner();
        let router = &inner.router;
        RouteGauges {
            phase: router.phase(),
            requests: router.requests(),
            attempts: router.attempts(),
            labels: router.progress().map(|progress| (progress.total(), progress.wanted.total())),
            certificate: router.certificate().map(|certificate| CertificateGauges {
                index: certificate.index,
                threshold: certificate.threshold,
                expires_unix_secs: certificate.expires_unix_secs,
            }),
            monitor: router.monitor().map(|monitor| MonitorGauges {
                wealth: monitor.wealth(),
                line: monitor.alarm().line(),
                rate: monitor.rate(),
            }),
            breaker_open: router.is_breaker_open(),
            budgets: router.budget_backlog(),
        }
    }

    /// Everything an operator may want to know.
    pub(crate) fn summary(&self) -> Value {
        let now = self.now();
        let mut inner = self.inner();
        let saving = inner.is_being_saved();
        let router = &inner.router;
        let p95 = router.round_trip_p95(now).map(|p95| p95.as_secs_f64() * 1e3);
        json!({
            "model": self.name,
            "phase": router.phase().name(),
            // Until it is over nothing is certified.
            "saving": saving,
            "contract": router.settings().contract.map(|target| contract(&target)),
            "requests": router.requests(),
            "attempts": router.attempts(),
            "lost_audits": router.lost_audits(),
            "certificate": router.certificate().map(certificate),
            "monitor": router.monitor().map(monitor),
            "labels": router.progress().map(|progress| labels(&progress)),
            "breaker_open": router.is_breaker_open(),
            "budget_backlog": router.budget_backlog().into_iter().collect::<BTreeMap<_, _>>(),
            "round_trip_p95_ms": p95,
            "subject": {
                "edge": self.side.edge.to_string(),
                "cloud": router.subject().map(|subject| subject.cloud.to_string()),
                "device_class": self.side.class.as_str(),
                "transforms": self.side.transforms.to_string(),
                "comparison": self.side.comparison,
            },
            "transitions": inner.history.steps().collect::<Vec<_>>(),
        })
    }
}

fn contract(target: &Target) -> Value {
    json!({ "contract": target.contract(), "alpha": target.alpha(), "delta": target.delta() })
}

fn certificate(certificate: &Certificate) -> Value {
    json!({
        "id": certificate.id().to_string(),
        "index": certificate.index,
        "contract": certificate.target.contract(),
        "alpha": certificate.target.alpha(),
        "delta": certificate.target.delta(),
        "spent": certificate.spent,
        "score": certificate.scoring.name(),
        "threshold": certificate.threshold,
        "n": certificate.n,
        "accepted": certificate.accepted,
        "k": certificate.k,
        "p_value": certificate.p_value,
        "offload": certificate.offload,
        "issued_unix_secs": certificate.issued_unix_secs,
        "expires_unix_secs": certificate.expires_unix_secs,
    })
}

fn monitor(monitor: &Monitor) -> Value {
    let counts = monitor.counts();
    json!({
        "wealth": monitor.wealth(),
        "line": monitor.alarm().line(),
        "audit_rate": monitor.rate(),
        "boosted": monitor.boosted(),
        "requests": counts.requests,
        "local": counts.local,
        "audits": counts.audits,
        "windows": counts.windows,
        "shifted": counts.shifted,
    })
}

fn labels(progress: &Progress) -> Value {
    let part = |role: Role| json!({ "gathered": progress.gathered.size(role), "wanted": progress.wanted.size(role) });
    json!({ "fit": part(Role::Fit), "tune": part(Role::Tune), "calibration": part(Role::Calibration) })
}
