//! Routers as devices have them: one that goes by a threshold, and one with a certificate in force.
//!
//! Both are made once and cloned for each process. The certificate is a real one, issued from labels.

use std::sync::OnceLock;
use std::time::Duration;

use hedge_agent_core::route::EdgeSide;
use hedge_agent_core::route::simulate::PoolRow;
use hedge_agent_core::{Offload, RouteEvent, RouteSettings, Router};
use hedge_certify::{
    Certificate, Contract, Features, Fingerprint, Grid, Issue, Labelled, Scoring, Spending, Subject, Target, Window,
};

use crate::payload::{Payload, Trait};
use crate::shared::{CLOUD, EDGE};

/// What right wall clocks say when a machine boots.
pub(crate) const TODAY: Duration = Duration::from_secs(1_800_000_000);

/// Below it the cloud is asked, where there is no certificate.
const THRESHOLD: f32 = 0.5;

/// Whether the certificate holds by a wall clock.
pub(crate) fn in_force(wall: Duration) -> bool {
    let certificate = certificate();
    (certificate.issued_unix_secs..certificate.expires_unix_secs).contains(&wall.as_secs())
}

/// A router of a device with or without a contract.
pub(crate) fn router(contract: bool) -> Router {
    static ROUTERS: OnceLock<[Router; 2]> = OnceLock::new();
    let [plain, certified] = ROUTERS.get_or_init(|| [made(None), made(Some(target()))]);
    if contract { certified.clone() } else { plain.clone() }
}

/// What a small model makes of an input.
pub(crate) fn features(payload: Payload) -> Features {
    PoolRow::of_score(score(payload), false).features
}

pub(crate) fn score(payload: Payload) -> f32 {
    if payload.has(Trait::Sure) { 0.95 } else { 0.05 }
}

/// Revokes the certificate.
pub(crate) fn revocation() -> RouteEvent {
    RouteEvent::Revoke { certificates: vec![certificate().id()], reason: "the simulation says so".to_owned() }
}

fn made(contract: Option<Target>) -> Router {
    let settings =
        RouteSettings { contract, shadow: 0, audit_rate: 0.2, ..RouteSettings::uncertified(THRESHOLD, Offload::Auto) };
    let mut router = Router::new(settings, side()).expect("settings that work");
    router.on(RouteEvent::CloudDigest(Fingerprint(CLOUD.0)), TODAY);
    router.on(RouteEvent::Install(Box::new(certificate().clone())), TODAY);
    router
}

fn target() -> Target {
    Target::new(Contract::Local, 0.01, 0.05).expect("a target")
}

fn side() -> EdgeSide {
    EdgeSide {
        edge: Fingerprint(EDGE.0),
        device_class: "simulated".to_owned(),
        transforms: Fingerprint([0x71; 32]),
        comparison: "top-class".to_owned(),
    }
}

fn certificate() -> &'static Certificate {
    static CERTIFICATE: OnceLock<Certificate> = OnceLock::new();
    CERTIFICATE.get_or_init(issued)
}

fn issued() -> Certificate {
    const LABELS: u16 = 2000;
    let EdgeSide { edge, device_class, transforms, comparison } = side();
    let scores: Vec<f32> = (0..LABELS).map(|label| f32::from(label) / f32::from(LABELS)).collect();
    let labels: Vec<Labelled> = scores.iter().map(|&score| Labelled { score, differs: score < THRESHOLD }).collect();
    let issue = Issue {
        subject: Subject { edge, cloud: Fingerprint(CLOUD.0), device_class, transforms, comparison },
        scoring: Scoring::Margin,
        target: target(),
        spending: Spending::Whole,
        grid: Grid::from_scores(&scores).expect("scores make a grid"),
        window: Window { first_unix_secs: TODAY.as_secs() - 100, last_unix_secs: TODAY.as_secs() - 1 },
        issued_unix_secs: TODAY.as_secs(),
        lifetime_secs: 30 * 24 * 3600,
    };
    Certificate::issue(issue, &labels).expect("labels of which every sure one agrees")
}

#[cfg(test)]
mod tests {
    use hedge_agent_core::route::PhaseName;

    use super::*;

    #[test]
    fn the_router_with_a_contract_is_certified_and_the_other_is_not() {
        assert_eq!(router(true).phase(), PhaseName::Certified);
        assert_eq!(router(false).phase(), PhaseName::NoContract);
        assert!(in_force(TODAY) && !in_force(Duration::ZERO));
        let sure = Payload::new(0, 0, 0, Trait::Sure as u8, 16);
        assert!(score(sure) >= certificate().threshold);
        assert!(score(Payload::new(0, 0, 0, 0, 16)) < certificate().threshold);
    }
}
