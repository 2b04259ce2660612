//! The figures of a demonstration, for programs, and whether it went well.

use anyhow::Result;
use serde_json::{Value, json};

use super::calibrate::Attempt;
use super::client::Source;
use super::recovery::Recovery;
use super::story::Transition;
use super::tally::{PhaseTally, Tally};
use super::world::Parts;
use crate::failure::with_hint;

/// The figures of a demonstration.
pub(super) struct Report {
    /// Phase by phase.
    pub(super) phases: Vec<PhaseTally>,
    /// All of them together.
    pub(super) total: Tally,
    /// Requests without an answer.
    pub(super) lost: usize,
    /// Ids with more than one answer.
    pub(super) duplicated: usize,
    /// What ran on what.
    pub(super) parts: Parts,
    /// The certificate at the start.
    pub(super) attempt: Attempt,
    /// How many requests a certificate is watched for before it is used.
    pub(super) shadow: u64,
    /// What happened to it, and to those after it.
    pub(super) transitions: Vec<Transition>,
    /// How far the drift was overcome.
    pub(super) recovery: Recovery,
    /// The first thing that went wrong.
    pub(super) error: Option<String>,
}

impl Report {
    /// Whether a GPU was emulated.
    pub(super) fn on_software_gpu(&self) -> bool {
        [&self.parts.edge, &self.parts.cloud].iter().any(|part| part.device.ends_with("software)"))
    }

    /// The figures for programs.
    pub(super) fn to_json(&self, seed: u64) -> Value {
        json!({
            "phases": self.phases.iter().map(phase_json).collect::<Vec<_>>(),
            "total": tally_json(&self.total),
            "certificate": attempt_json(&self.attempt),
            "transitions": self.transitions.iter().map(Transition::to_json).collect::<Vec<_>>(),
            "recovery": self.recovery.to_json(),
            "lost": self.lost,
            "duplicated": self.duplicated,
            "device": self.parts.edge.device,
            "cloud_device": self.parts.cloud.device,
            "software_gpu": self.on_software_gpu(),
            "models": { "edge": self.parts.edge.digest, "cloud": self.parts.cloud.digest },
            "seed": seed,
        })
    }

    /// An error unless every request has exactly one answer. How often certified answers differ is reported and judged by no
    /// one here: a bound that holds with a probability may be broken in a run.
    pub(super) fn verdict(&self) -> Result<()> {
        let (lost, failed, duplicated) = (self.lost, self.total.failed, self.duplicated);
        if (lost, failed, duplicated) == (0, 0, 0) {
            return Ok(());
        }
        let first = self.error.as_deref().map(|error| format!("; first: {error}")).unwrap_or_default();
        Err(with_hint(
            format!("{lost} requests were lost, {failed} failed and {duplicated} were answered more than once{first}"),
            "RUST_LOG=debug shows what agent and gateway did; --keep DIR names each request's error",
        ))
    }
}

fn phase_json(PhaseTally { phase, tally }: &PhaseTally) -> Value {
    let mut value = tally_json(tally);
    value["name"] = phase.name().into();
    value
}

fn tally_json(tally: &Tally) -> Value {
    let percentile = |p: f64| {
        let [edge, cache, cloud] = Source::ALL.map(|source| tally.from(source).percentile_ms(p));
        json!({ "edge": edge, "cache": cache, "cloud": cloud })
    };
    json!({
        "requests": tally.requests,
        "edge": tally.from(Source::Edge).answers(),
        "cache": tally.from(Source::Cache).answers(),
        "cloud": tally.from(Source::Cloud).answers(),
        "certified": tally.certified,
        "uncertified": tally.uncertified,
        "failed": tally.failed,
        "agreement": tally.agreement(),
        "accuracy": tally.accuracy(),
        "certified_disagreement": tally.certified_disagreement(),
        "system_disagreement": tally.system_disagreement(),
        "p50_ms": percentile(0.5),
        "p99_ms": percentile(0.99),
        "bytes_up": tally.bytes_up,
        "seconds": tally.took.as_secs_f64(),
    })
}

fn attempt_json(attempt: &Attempt) -> Value {
    match attempt {
        Ok(certificate) => json!({
            "certified": true,
            "id": certificate.id(),
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
            "needs_labels": 0,
        }),
        Err(error) => {
            json!({ "certified": false, "needs_labels": error.needs_labels, "why": error.to_string() })
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use hedge_certify::{NotCertified, WhyNot};

    use super::super::client::Served;
    use super::super::script::Phase;
    use super::*;

    pub(in super::super) fn report(change: impl FnOnce(&mut Report)) -> Report {
        let served = |device: &str| Served { digest: "sha256:00".into(), device: device.into() };
        let mut report = Report {
            phases: Phase::ALL.map(|phase| PhaseTally { phase, tally: Tally::default() }).into(),
            total: Tally::default(),
            lost: 0,
            duplicated: 0,
            parts: Parts { edge: served("cpu (flex)"), cloud: served("gpu (llvmpipe, vulkan, software)") },
            attempt: Err(NotCertified { needs_labels: Some(70), why: WhyNot::NotFull { missing: 3 } }),
            shadow: 5,
            transitions: Vec::new(),
            recovery: Recovery::default(),
            error: Some("request 7: 500: no".into()),
        };
        change(&mut report);
        report
    }

    #[test]
    fn only_exactly_one_answer_a_request_is_success() {
        assert!(report(|_| {}).verdict().is_ok());
        let failures: [fn(&mut Report); 3] =
            [|report| report.lost = 1, |report| report.duplicated = 1, |report| report.total.failed = 1];
        for failure in failures {
            let error = report(failure).verdict().unwrap_err().to_string();
            assert!(error.contains('1') && error.contains("request 7: 500: no"), "{error}");
        }
    }

    #[test]
    fn the_json_has_every_phase_and_null_where_nothing_was_measured() {
        let value = report(|_| {}).to_json(9);
        let names: Vec<&str> =
            value["phases"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["normal", "cut", "healed", "drift"]);
        let cut = &value["phases"][1];
        for key in ["requests", "edge", "cache", "cloud", "certified", "uncertified", "failed", "bytes_up"] {
            assert_eq!(cut[key], 0, "{key}");
        }
        for key in ["agreement", "accuracy", "certified_disagreement", "system_disagreement"] {
            assert!(cut.as_object().unwrap().contains_key(key) && cut[key].is_null(), "{key}");
        }
        assert_eq!(cut["p99_ms"], json!({ "edge": null, "cache": null, "cloud": null }));
        assert_eq!((&value["lost"], &value["duplicated"], &value["seed"]), (&json!(0), &json!(0), &json!(9)));
        assert_eq!(value["models"], json!({ "edge": "sha256:00", "cloud": "sha256:00" }));
        assert_eq!(value["transitions"], json!([]));
    }

    #[test]
    fn without_a_certificate_the_json_says_why_and_what_is_missing() {
        let certificate = &report(|_| {}).to_json(1)["certificate"];
        assert_eq!((&certificate["certified"], &certificate["needs_labels"]), (&json!(false), &json!(70)));
        assert!(certificate["why"].as_str().unwrap().contains("3 labels"), "{certificate}");
    }

    #[test]
    fn a_software_gpu_is_said() {
        assert_eq!(report(|_| {}).to_json(1)["software_gpu"], true);
        let report = report(|report| report.parts.cloud.device = "cpu (flex)".into());
        assert_eq!(report.to_json(1)["software_gpu"], false);
    }
}
