//! The embedded broker: the contract, and what is its own.

use std::time::{Duration, Instant};

use hedge_broker::proxy::{Mode, Proxy};
use hedge_broker::{Broker, BrokerConfig, BrokerError};
use hedge_link::{LinkConfig, Outcome, Outgoing, PublishError};

use crate::harness::{Await, Site, Subscribed, config, up};

async fn site() -> Option<Site> {
    Some(Site::embedded().await)
}

crate::contract::on!(site());

/// rumqttc sends no ping while a write is stuck, and notices nothing.
#[tokio::test]
async fn a_black_hole_with_a_large_publish_under_way_is_noticed_within_two_keepalives() {
    let site = Site::embedded().await;
    let proxy = Proxy::start(site.addr()).await.unwrap();
    let config = LinkConfig { max_packet_bytes: 1 << 20, ..config(proxy.addr(), "camera") };
    let keepalive = config.keepalive;
    let (handle, mut events) = up(config).await;
    let begin = Instant::now();
    proxy.set(Mode::BlackHole);
    for _ in 0..30 {
        handle.publish(Outgoing::new("hedge/1/acme/m/camera", vec![0; 1_000_000])).unwrap();
    }
    let reason = events.down().await;
    assert!(reason.contains("nothing came"), "{reason}");
    let took = begin.elapsed();
    assert!(took >= keepalive && took < keepalive * 2 + Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn closing_through_a_black_hole_is_bounded() {
    let site = Site::embedded().await;
    let proxy = Proxy::start(site.addr()).await.unwrap();
    let farewell = Some(hedge_link::Birth { topic: "hedge/1/acme/s/camera".to_owned(), payload: "bye".into() });
    let (handle, mut events) = up(LinkConfig { farewell, ..config(proxy.addr(), "camera") }).await;
    proxy.set(Mode::BlackHole);
    let begin = Instant::now();
    handle.close().await;
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_link_starts_without_a_broker_says_so_once_and_connects_when_it_comes() {
    let site = Site::embedded().await;
    let proxy = Proxy::start(site.addr()).await.unwrap();
    proxy.set(Mode::Cut);
    let (handle, mut events) = hedge_link::start(config(proxy.addr(), "camera").subscribed(&[])).unwrap();
    events.down().await;
    assert!(!handle.is_up());
    assert_eq!(handle.publish(Outgoing::new("hedge/1/acme/m/camera", "x")), Err(PublishError::Down));
    events.silent_for(Duration::from_millis(300)).await;
    proxy.set(Mode::Pass);
    events.up().await;
}

#[tokio::test]
async fn closing_a_link_that_never_connected_is_immediate() {
    let proxy = Proxy::start(([127, 0, 0, 1], 1).into()).await.unwrap();
    proxy.set(Mode::BlackHole);
    let (handle, mut events) = hedge_link::start(config(proxy.addr(), "camera")).unwrap();
    let begin = Instant::now();
    handle.close().await;
    assert!(begin.elapsed() < Duration::from_millis(500), "{:?}", begin.elapsed());
    while let Some(event) = events.next().await {
        assert!(matches!(event, hedge_link::LinkEvent::Down { .. }), "{event:?}");
    }
}

#[tokio::test]
async fn the_broker_starts_and_stops_many_times_in_a_process_and_on_the_same_port() {
    let mut bind = ([127, 0, 0, 1], 0).into();
    for _ in 0..30 {
        let broker = Broker::start(BrokerConfig { bind, ..BrokerConfig::default() }).await.unwrap();
        bind = broker.addr();
        let (handle, mut events) = up(config(bind, "camera")).await;
        let taken = Broker::start(BrokerConfig { bind, ..BrokerConfig::default() }).await;
        assert!(matches!(taken, Err(BrokerError::Bind { .. })), "the port is taken");
        broker.stop().await;
        events.down().await;
        handle.close().await;
    }
}

#[tokio::test]
async fn a_packet_limit_out_of_range_is_refused() {
    for max_packet_bytes in [0, 1023, usize::MAX] {
        let started = Broker::start(BrokerConfig { max_packet_bytes, ..BrokerConfig::default() }).await;
        assert!(matches!(started, Err(BrokerError::PacketLimit { .. })));
    }
}

/// If mqtt5 took the prefix off, the policy would see a filter of the protocol here and allow another group.
#[tokio::test]
async fn a_shared_filter_reaches_the_policy_with_its_prefix() {
    let site = Site::embedded().await;
    for filter in ["$share/other/hedge/1/acme/q/digits/+", "$share/gw/elsewhere/#", "#", "hedge/#", "$SYS/#"] {
        let (_handle, mut events) = hedge_link::start(site.config("spy").subscribed(&[filter])).unwrap();
        let reason = events.down().await;
        assert!(reason.contains(filter) && reason.contains("NotAuthorized"), "{reason}");
    }
    site.link("gateway", &["$share/gw/hedge/1/acme/q/digits/+", "hedge/1/acme/x/gw/+"]).await;
}

#[tokio::test]
async fn a_will_outside_the_protocol_s_topics_is_not_published() {
    let site = Site::embedded().await;
    let will =
        hedge_link::Will { topic: "elsewhere".to_owned(), payload: "boo".into(), retain: true, delay: Duration::ZERO };
    let (observer, mut seen) = site.link("observer", &["hedge/1/acme/m/+"]).await;
    let link = up(LinkConfig { will: Some(will), ..site.config("rogue") }).await;
    drop(link);
    observer.publish(Outgoing::new("hedge/1/acme/m/observer", "x")).unwrap();
    assert_eq!(seen.message().await.payload, "x");
}

/// mqtt5 acknowledges what nobody subscribes to like anything else; the agent therefore looks at presence first.
#[tokio::test]
async fn the_embedded_broker_does_not_say_that_nobody_subscribes() {
    let site = Site::embedded().await;
    let (handle, mut events) = site.link("camera", &[]).await;
    let id = handle.publish(Outgoing::new("hedge/1/acme/q/nobody/camera", "x")).unwrap();
    assert_eq!(events.outcome(id).await, Outcome::Delivered);
}
