//! Mosquitto: the contract, and what is its own.

use hedge_link::{Outcome, Outgoing};

use crate::harness::{Await, Site};

async fn site() -> Option<Site> {
    Site::mosquitto().await
}

crate::contract::on!(site());

/// rumqttc counts it as success and tells nobody.
#[tokio::test]
async fn a_publish_that_nobody_subscribes_to_is_reported() {
    let Some(site) = site().await else { return };
    let (handle, mut events) = site.link("camera", &[]).await;
    let id = handle.publish(Outgoing::new("hedge/1/acme/q/nobody/camera", "x")).unwrap();
    assert_eq!(events.outcome(id).await, Outcome::NoSubscribers);
}
