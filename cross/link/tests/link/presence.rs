//! Retained messages, wills and take-overs: whether the last word about a client is the right one. Part of the contract.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hedge_broker::proxy::{Mode, Proxy};
use hedge_link::{Birth, CleanStart, LinkConfig, LinkEvent, Outcome, Outgoing, Will};

use crate::harness::{Await, Site, config, up};

const STATUS: &str = "hedge/1/acme/s/camera";
const STATUSES: &str = "hedge/1/acme/s/+";

/// A device as agents connect: a session that continues, a status with a boot id, and a will with a delay.
fn device(config: LinkConfig, boot: u32, delay: Duration) -> LinkConfig {
    let says = |word: &str| Bytes::from(format!("{boot} {word}"));
    LinkConfig {
        clean_start: CleanStart::FirstConnect,
        session_expiry: Duration::from_secs(60),
        birth: Some(Birth { topic: STATUS.to_owned(), payload: says("online") }),
        will: Some(Will { topic: STATUS.to_owned(), payload: says("offline"), retain: true, delay }),
        ..config
    }
}

/// Each take-over is a device that lost its power: the broker still has the old connection, half-open, when the next process
/// connects with the same id.
pub(crate) async fn two_hundred_take_overs_leave_the_word_of_the_last_owner(site: &Site) {
    const DELAY: Duration = Duration::from_secs(2);
    let mut before = None;
    for boot in 1..=200 {
        // As agents do; without a delay brokers may publish the old will behind the new birth (decision 0005).
        let delay = if boot % 2 == 0 { DELAY / 2 } else { DELAY };
        let proxy = Proxy::start(site.addr()).await.unwrap();
        let (handle, mut events) = up(device(config(proxy.addr(), "camera"), boot, delay)).await;
        drop(before.take());
        // Behind the birth on the same connection: once the broker has this, it has the birth.
        let behind = handle.publish(Outgoing::new("hedge/1/acme/m/camera", "x")).unwrap();
        assert!(!matches!(events.outcome(behind).await, Outcome::Rejected { .. }));
        assert_eq!(last_word(site).await, format!("{boot} online"));
        proxy.set(Mode::BlackHole);
        before = Some((proxy, handle, events));
    }
    let (proxy, handle, events) = before.unwrap();
    proxy.set(Mode::Pass);
    assert!(handle.is_up());
    tokio::time::sleep(DELAY + Duration::from_millis(500)).await;
    assert_eq!(last_word(site).await, "200 online", "no will of an earlier owner comes late");
    drop((handle, events));
    assert_eq!(word_after(site, "200 online").await, "200 offline");
}

/// What somebody who comes now is told.
async fn last_word(site: &Site) -> Bytes {
    let (handle, mut events) = site.link("operator", &[STATUSES]).await;
    let message = events.message().await;
    assert!(message.retain);
    handle.close().await;
    message.payload
}

/// The first word after `old`, whether it is there already or comes soon.
async fn word_after(site: &Site, old: &str) -> Bytes {
    let (_handle, mut events) = site.link("operator", &[STATUSES]).await;
    loop {
        let word = events.message().await.payload;
        if word != old {
            return word;
        }
    }
}

pub(crate) async fn a_device_that_comes_back_within_the_delay_of_its_will_was_never_offline(site: &Site) {
    let delay = Duration::from_secs(2);
    let proxy = Proxy::start(site.addr()).await.unwrap();
    let (_operator, mut seen) = site.link("operator", &[STATUSES]).await;
    let (_handle, mut events) = up(device(config(proxy.addr(), "camera"), 1, delay)).await;
    assert_eq!(seen.message().await.payload, "1 online");
    proxy.set(Mode::Cut);
    events.down().await;
    proxy.set(Mode::Pass);
    assert!(events.up().await.session_present);
    assert_eq!(seen.message().await.payload, "1 online");
    seen.silent_for(delay + Duration::from_millis(700)).await;
}

pub(crate) async fn a_device_that_stays_away_is_offline_once_the_delay_of_its_will_is_over(site: &Site) {
    let delay = Duration::from_secs(2);
    let proxy = Proxy::start(site.addr()).await.unwrap();
    let (_operator, mut seen) = site.link("operator", &[STATUSES]).await;
    let (_handle, mut events) = up(device(config(proxy.addr(), "camera"), 1, delay)).await;
    assert_eq!(seen.message().await.payload, "1 online");
    let begin = Instant::now();
    proxy.set(Mode::Cut);
    events.down().await;
    assert_eq!(seen.message().await.payload, "1 offline");
    let after = begin.elapsed();
    // Brokers look at such clocks about once a second.
    assert!(after > delay - Duration::from_millis(1100) && after < delay + Duration::from_secs(4), "{after:?}");
}

/// Therefore the session must live longer than the delay.
pub(crate) async fn the_end_of_the_session_cuts_the_delay_of_a_will_short(site: &Site) {
    let proxy = Proxy::start(site.addr()).await.unwrap();
    let (_operator, mut seen) = site.link("operator", &[STATUSES]).await;
    let short = device(config(proxy.addr(), "camera"), 1, Duration::from_secs(3600));
    let (_handle, mut events) = up(LinkConfig { session_expiry: Duration::from_secs(1), ..short }).await;
    assert_eq!(seen.message().await.payload, "1 online");
    proxy.set(Mode::Cut);
    events.down().await;
    assert_eq!(seen.message().await.payload, "1 offline");
}

pub(crate) async fn of_retained_messages_the_last_is_kept_and_an_empty_one_deletes(site: &Site) {
    const TOPICS: usize = 500;
    let (handle, mut events) = site.link("camera", &[]).await;
    let topic = |number: usize| format!("hedge/1/acme/p/d{number}");
    let retained = |number, payload: &'static str| Outgoing { retain: true, ..Outgoing::new(topic(number), payload) };
    for number in 0..TOPICS {
        for payload in ["first", if number % 5 == 0 { "" } else { "last" }] {
            let id = handle.publish(retained(number, payload)).unwrap();
            assert!(!matches!(events.outcome(id).await, Outcome::Rejected { .. }));
        }
    }
    let (reader, mut told) = site.link("operator", &["hedge/1/acme/p/+"]).await;
    for _ in 0..TOPICS * 4 / 5 {
        let message = told.message().await;
        assert!(message.retain && message.payload == "last", "{} {:?}", message.topic, message.payload);
        reader.ack(&message);
    }
    // Nothing of the deleted ones comes after the others.
    let marker = reader.publish(Outgoing::new(topic(0), "marker")).unwrap();
    loop {
        match told.event().await {
            LinkEvent::Message(message) => {
                assert_eq!(message.payload, "marker");
                break;
            }
            LinkEvent::Published { id, .. } => assert_eq!(id, marker),
            other => panic!("{other:?}"),
        }
    }
}
