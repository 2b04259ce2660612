//! Mosquitto: the contract, and what is its own.

use hedge_link::{Outcome, Outgoing, PublishError};

use crate::harness::{Await, Site};

async fn site() -> Option<Site> {
    Site::mosquitto().await
}

crate::contract::on!(site());

#[tokio::test]
async fn a_publish_above_mosquitto_s_limit_is_refused_and_the_link_stays_up() {
    let Some(site) = Site::mosquitto_with(64 * 1024).await else { return };
    let (handle, mut events) = site.link("camera", &[]).await;
    let refused = handle.publish(Outgoing::new("hedge/1/acme/m/camera", vec![0; 64 * 1024]));
    assert!(matches!(refused, Err(PublishError::TooLarge { limit: 65_536, .. })), "{refused:?}");
    let id = handle.publish(Outgoing::new("hedge/1/acme/m/camera", vec![0; 60 * 1024])).unwrap();
    assert!(!matches!(events.outcome(id).await, Outcome::Rejected { .. }));
}

/// rumqttc counts it as success and tells nobody.
#[tokio::test]
async fn a_publish_that_nobody_subscribes_to_is_reported() {
    let Some(site) = site().await else { return };
    let (handle, mut events) = site.link("camera", &[]).await;
    let id = handle.publish(Outgoing::new("hedge/1/acme/q/nobody/camera", "x")).unwrap();
    assert_eq!(events.outcome(id).await, Outcome::NoSubscribers);
}
