//! What every broker must do for the link, and the link with it. `embedded` and `mosquitto` run each of these.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hedge_broker::proxy::{Mode, Proxy};
use hedge_link::{
    Birth, CleanStart, LinkConfig, LinkEvent, LinkHandle, Outcome, Outgoing, PublishError, PublishId, Qos,
    Subscription, Will,
};

use tokio::task::JoinSet;

pub(crate) use crate::faults::*;
use crate::harness::{Await, PATIENCE, Site, Subscribed, config, up};
pub(crate) use crate::hostile::*;
pub(crate) use crate::presence::*;

const QUERIES: &str = "$share/gw/hedge/1/acme/q/digits/+";
const QUERY: &str = "hedge/1/acme/q/digits/camera";
const REPLY: &str = "hedge/1/acme/r/camera";

/// Runs every contract test of this module against the site that `$site` makes.
macro_rules! contract {
    ($($name:ident),* $(,)?) => {
        macro_rules! on {
            ($site:expr) => {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    if let Some(site) = $site.await {
                        crate::contract::$name(&site).await;
                    }
                })*
            };
        }
        pub(crate) use on;
    };
}

contract![
    a_request_and_its_reply_carry_their_properties,
    a_kilobyte_there_and_back_does_not_wait_for_nagle,
    bodies_far_above_ten_kib_arrive,
    a_cut_is_told_at_once_and_the_link_heals_by_itself,
    a_lost_session_is_subscribed_again,
    a_kept_session_delivers_what_came_meanwhile,
    what_was_not_acknowledged_comes_again_and_what_was_does_not,
    publishes_of_a_dead_connection_are_not_replayed,
    a_full_queue_refuses_and_then_goes_on,
    replying_to_a_storm_from_its_receiver_does_not_deadlock,
    a_receiver_that_sleeps_costs_no_connection,
    a_reply_right_after_up_is_not_missed,
    birth_farewell_and_will_say_who_is_there,
    a_publish_that_is_not_allowed_is_reported_with_its_code,
    closing_is_quick_and_ends_the_events,
    one_of_two_gateways_gets_each_request,
    many_subscriptions_are_all_acknowledged_before_up,
    forty_clients_of_which_half_are_cut_lose_nothing_that_was_acknowledged,
    a_publish_above_the_broker_s_limit_is_refused_and_the_link_stays_up,
    whatever_breaks_under_load_nothing_is_lost_and_repetitions_are_told_apart_by_id,
    a_half_open_link_is_noticed_within_two_keepalives_and_heals_within_three,
    two_hundred_take_overs_leave_the_word_of_the_last_owner,
    a_device_that_comes_back_within_the_delay_of_its_will_was_never_offline,
    a_device_that_stays_away_is_offline_once_the_delay_of_its_will_is_over,
    the_end_of_the_session_cuts_the_delay_of_a_will_short,
    of_retained_messages_the_last_is_kept_and_an_empty_one_deletes,
    forty_hostile_clients_cost_a_good_one_nothing,
];

/// rumqttc says Ok to such a publish, cannot write it, reconnects, and tries again for ever.
pub(crate) async fn a_publish_above_the_broker_s_limit_is_refused_and_the_link_stays_up(site: &Site) {
    let site = site.with_limit(64 * 1024).await;
    let (handle, mut events) = site.link("camera", &[]).await;
    let refused = handle.publish(Outgoing::new("hedge/1/acme/m/camera", vec![0; 64 * 1024]));
    assert!(matches!(refused, Err(PublishError::TooLarge { limit: 65_536, size }) if size > 65_536), "{refused:?}");
    let id = handle.publish(Outgoing::new("hedge/1/acme/m/camera", vec![0; 60 * 1024])).unwrap();
    assert!(!matches!(events.outcome(id).await, Outcome::Rejected { .. }));
}

pub(crate) async fn a_request_and_its_reply_carry_their_properties(site: &Site) {
    let (gateway, mut queries) = site.link("gw-1", &[QUERIES]).await;
    let (device, mut replies) = site.link("camera", &[REPLY]).await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let query = Outgoing {
        expiry: Some(Duration::from_millis(30_500)),
        response_topic: Some(REPLY.to_owned()),
        correlation: Some(Bytes::from_static(b"0123456789abcdef")),
        traceparent: Some(trace.to_owned()),
        ..Outgoing::new(QUERY, &b"what is this?"[..])
    };
    let id = device.publish(query).unwrap();

    let query = queries.message().await;
    assert_eq!((query.topic.as_str(), query.payload.as_ref()), (QUERY, &b"what is this?"[..]));
    assert_eq!(query.response_topic.as_deref(), Some(REPLY));
    assert_eq!(query.correlation.as_deref(), Some(&b"0123456789abcdef"[..]));
    assert_eq!(query.traceparent.as_deref(), Some(trace));
    assert!(query.expiry.is_some_and(|left| left > Duration::from_secs(25) && left <= Duration::from_secs(31)));
    assert!(!query.retain);
    gateway.ack(&query);
    gateway.publish(Outgoing { correlation: query.correlation, ..Outgoing::new(REPLY, &b"a seven"[..]) }).unwrap();

    let mut delivered = None;
    let reply = loop {
        match replies.event().await {
            LinkEvent::Message(reply) => break reply,
            LinkEvent::Published { id, outcome } => delivered = Some((id, outcome)),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(reply.payload.as_ref(), b"a seven");
    assert_eq!(reply.correlation.as_deref(), Some(&b"0123456789abcdef"[..]));
    match delivered {
        Some(delivered) => assert_eq!(delivered, (id, Outcome::Delivered)),
        None => assert_eq!(replies.outcome(id).await, Outcome::Delivered),
    }
}

/// Without TCP_NODELAY on the client each of these takes 40 ms or more.
pub(crate) async fn a_kilobyte_there_and_back_does_not_wait_for_nagle(site: &Site) {
    let (gateway, mut queries) = site.link("gw-1", &[QUERIES]).await;
    let (device, mut replies) = site.link("camera", &[REPLY]).await;
    let answering = tokio::spawn(async move {
        while let Some(event) = queries.next().await {
            if let LinkEvent::Message(query) = event {
                gateway.ack(&query);
                gateway.publish(Outgoing::new(REPLY, query.payload)).unwrap();
            }
        }
    });
    let payload = Bytes::from(vec![7; 1024]);
    let mut times = Vec::new();
    for _ in 0..300 {
        let begin = Instant::now();
        device.publish(Outgoing::new(QUERY, payload.clone())).unwrap();
        let reply = replies.message().await;
        times.push(begin.elapsed());
        device.ack(&reply);
    }
    times.sort();
    let (median, worst_tenth) = (times[times.len() / 2], times[times.len() * 9 / 10]);
    crate::harness::say(&format!("1 KB round trip: p50 {median:?}, p90 {worst_tenth:?}"));
    assert!(median < Duration::from_millis(10), "median {median:?}");
    answering.abort();
}

/// rumqttc reads no packet above 10 KiB unless told, and then reconnects for ever.
pub(crate) async fn bodies_far_above_ten_kib_arrive(site: &Site) {
    let (handle, mut events) = site.link("camera", &[REPLY]).await;
    for size in [10 * 1024, 10 * 1024 + 1, 64 * 1024, 100 * 1024] {
        handle.publish(Outgoing::new(REPLY, vec![size as u8; size])).unwrap();
        let message = events.message().await;
        assert_eq!(message.payload.len(), size);
        handle.ack(&message);
    }
}

pub(crate) async fn a_cut_is_told_at_once_and_the_link_heals_by_itself(site: &Site) {
    let proxy = Proxy::start(site.addr()).await.unwrap();
    let (handle, mut events) = up(config(proxy.addr(), "camera").subscribed(&[REPLY])).await;
    for _ in 0..3 {
        let begin = Instant::now();
        proxy.set(Mode::Cut);
        events.down().await;
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
        assert!(!handle.is_up());
        assert_eq!(handle.publish(Outgoing::new(REPLY, "x")), Err(PublishError::Down));
        proxy.set(Mode::Pass);
        events.up().await;
        handle.publish(Outgoing::new(REPLY, "back")).unwrap();
        let message = events.message().await;
        assert_eq!(message.payload, "back");
        handle.ack(&message);
    }
}

/// rumqttc does not subscribe again by itself.
pub(crate) async fn a_lost_session_is_subscribed_again(site: &Site) {
    let proxy = Proxy::start(site.addr()).await.unwrap();
    // The session ends with the connection, although the link would continue it.
    let config = LinkConfig { clean_start: CleanStart::FirstConnect, ..config(proxy.addr(), "camera") };
    let (handle, mut events) = up(config.subscribed(&[REPLY])).await;
    proxy.set(Mode::Cut);
    events.down().await;
    proxy.set(Mode::Pass);
    assert!(!events.up().await.session_present);
    handle.publish(Outgoing::new(REPLY, "x")).unwrap();
    assert_eq!(events.message().await.payload, "x");
}

pub(crate) async fn a_kept_session_delivers_what_came_meanwhile(site: &Site) {
    let proxy = Proxy::start(site.addr()).await.unwrap();
    let (_handle, mut events) = up(kept(config(proxy.addr(), "camera")).subscribed(&[REPLY])).await;
    let (other, mut others) = site.link("other", &[]).await;
    proxy.set(Mode::Cut);
    events.down().await;
    let id = other.publish(Outgoing::new(REPLY, "meanwhile")).unwrap();
    others.outcome(id).await;
    proxy.set(Mode::Pass);
    // It may come before or after `Up`.
    let (mut up, mut received) = (false, false);
    while !(up && received) {
        match events.event().await {
            LinkEvent::Up { limits } => up = limits.session_present,
            LinkEvent::Message(message) => received = message.payload == "meanwhile",
            _ => {}
        }
    }
}

pub(crate) async fn what_was_not_acknowledged_comes_again_and_what_was_does_not(site: &Site) {
    let proxy = Proxy::start(site.addr()).await.unwrap();
    let (handle, mut events) = up(kept(config(proxy.addr(), "camera")).subscribed(&[REPLY])).await;
    for text in ["first", "second"] {
        handle.publish(Outgoing::new(REPLY, text)).unwrap();
    }
    let (first, second) = (events.message().await, events.message().await);
    assert_eq!((first.payload.as_ref(), second.payload.as_ref()), (&b"first"[..], &b"second"[..]));
    handle.ack(&first);
    // One more round trip: the acknowledgement has been read by the broker.
    let id = handle.publish(Outgoing::new("hedge/1/acme/m/camera", "")).unwrap();
    events.outcome(id).await;

    // A receipt of the old connection must not acknowledge a packet of the new one: it comes a third time.
    for _ in 0..2 {
        proxy.set(Mode::Cut);
        events.down().await;
        proxy.set(Mode::Pass);
        let again = loop {
            if let LinkEvent::Message(message) = events.event().await {
                break message;
            }
        };
        assert_eq!(again.payload, "second");
        if !handle.is_up() {
            events.up().await;
        }
        handle.ack(&second);
        let id = handle.publish(Outgoing::new("hedge/1/acme/m/camera", "")).unwrap();
        events.outcome(id).await;
    }
}

/// rumqttc alone would send them after the reconnect, when their deadlines are over.
pub(crate) async fn publishes_of_a_dead_connection_are_not_replayed(site: &Site) {
    let proxy = Proxy::start(site.addr()).await.unwrap();
    let (_observer, mut seen) = site.link("observer", &["hedge/1/acme/m/+"]).await;
    let (handle, mut events) = up(kept(config(proxy.addr(), "camera"))).await;
    proxy.set(Mode::BlackHole);
    for _ in 0..100 {
        handle.publish(Outgoing::new("hedge/1/acme/m/camera", "stale")).unwrap();
    }
    proxy.set(Mode::Cut);
    events.down().await;
    proxy.set(Mode::Pass);
    events.up().await;
    handle.publish(Outgoing::new("hedge/1/acme/m/camera", "fresh")).unwrap();
    assert_eq!(seen.message().await.payload, "fresh");
}

pub(crate) async fn a_full_queue_refuses_and_then_goes_on(site: &Site) {
    let proxy = Proxy::start(site.addr()).await.unwrap();
    let config = LinkConfig { queue: 8, inflight: 4, ..config(proxy.addr(), "camera") };
    let (handle, mut events) = up(config).await;
    proxy.set(Mode::BlackHole);
    let mut taken = Vec::new();
    let begin = Instant::now();
    // The in-flight window fills first; how fast is up to the polling task.
    while begin.elapsed() < PATIENCE {
        match handle.publish(Outgoing::new("hedge/1/acme/m/camera", "x")) {
            Ok(id) => taken.push(id),
            Err(PublishError::QueueFull) if taken.len() == 12 => break,
            Err(PublishError::QueueFull) => tokio::task::yield_now().await,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(taken.len(), 12, "window and queue");
    proxy.set(Mode::Pass);
    for id in taken {
        assert!(!matches!(events.outcome(id).await, Outcome::Rejected { .. }));
    }
    assert!(handle.publish(Outgoing::new("hedge/1/acme/m/camera", "x")).is_ok());
}

/// With a tiny channel, a client that publishes where it polls waits for itself for ever.
pub(crate) async fn replying_to_a_storm_from_its_receiver_does_not_deadlock(site: &Site) {
    const STORM: usize = 500;
    let config = LinkConfig { queue: 1, inflight: 1, receive_max: 1, ..site.config("gw-1") };
    let (gateway, mut queries) = up(config.subscribed(&[QUERIES])).await;
    let (device, mut events) = site.link("camera", &[]).await;
    let asking = tokio::spawn(async move {
        let mut outstanding = 0;
        for _ in 0..STORM {
            device.publish(Outgoing::new(QUERY, "x")).unwrap();
            outstanding += 1;
            while outstanding > 16 {
                if let LinkEvent::Published { .. } = events.event().await {
                    outstanding -= 1;
                }
            }
        }
        while outstanding > 0 {
            if let LinkEvent::Published { .. } = events.event().await {
                outstanding -= 1;
            }
        }
    });
    let (mut received, mut replied) = (0, 0);
    while received < STORM {
        let query = queries.message().await;
        received += 1;
        replied += usize::from(gateway.publish(Outgoing::new(REPLY, query.payload.clone())).is_ok());
        gateway.ack(&query);
    }
    assert!(replied > 0);
    tokio::time::timeout(PATIENCE, asking).await.unwrap().unwrap();
}

pub(crate) async fn a_receiver_that_sleeps_costs_no_connection(site: &Site) {
    let (_sleeper, mut events) = site.link("sleeper", &["hedge/1/acme/b/+"]).await;
    let (handle, mut others) = site.link("server", &[]).await;
    let payload = Bytes::from(vec![1; 2048]);
    for _ in 0..2000 {
        let chunk = Outgoing { qos: Qos::AtMostOnce, ..Outgoing::new("hedge/1/acme/b/00", payload.clone()) };
        publish_when_there_is_room(&handle, chunk).await;
    }
    let id = publish_when_there_is_room(&handle, Outgoing::new("hedge/1/acme/b/00", "last")).await;
    others.outcome(id).await;
    // QoS 0 may be lost on the way; the connection, and what has QoS 1, may not.
    let mut received = 0;
    while events.message().await.payload != "last" {
        received += 1;
    }
    assert!(received >= hedge_link::config::EVENT_CAPACITY, "{received}");
}

pub(crate) async fn a_reply_right_after_up_is_not_missed(site: &Site) {
    for _ in 0..20 {
        let (handle, mut events) = site.link("camera", &[REPLY]).await;
        handle.publish(Outgoing::new(REPLY, "quick")).unwrap();
        assert_eq!(events.message().await.payload, "quick");
        handle.close().await;
    }
}

pub(crate) async fn birth_farewell_and_will_say_who_is_there(site: &Site) {
    const PRESENCE: &str = "hedge/1/acme/g/gw-1";
    let said = |payload: &'static str| Some(Birth { topic: PRESENCE.to_owned(), payload: Bytes::from(payload) });
    let will = Will { topic: PRESENCE.to_owned(), payload: Bytes::from("gone"), retain: true, delay: Duration::ZERO };
    let config =
        || LinkConfig { birth: said("here"), farewell: said("bye"), will: Some(will.clone()), ..site.config("gw-1") };
    let (observer, mut seen) = site.link("observer", &["hedge/1/acme/g/+"]).await;

    let (gateway, _events) = up(config()).await;
    assert_eq!(seen.message().await.payload, "here");
    gateway.close().await;
    assert_eq!(seen.message().await.payload, "bye");

    let (gateway, events) = up(config()).await;
    assert_eq!(seen.message().await.payload, "here", "and no will after a farewell");
    drop((gateway, events));
    assert_eq!(seen.message().await.payload, "gone");

    // Retained: who comes later is told the last word.
    let (_later, mut told) = site.link("later", &["hedge/1/acme/g/+"]).await;
    let message = told.message().await;
    assert_eq!(message.payload, "gone");
    assert!(message.retain);
    observer.close().await;
}

pub(crate) async fn a_publish_that_is_not_allowed_is_reported_with_its_code(site: &Site) {
    let (handle, mut events) = site.link("camera", &[]).await;
    let id = handle.publish(Outgoing::new("elsewhere/1/acme", "x")).unwrap();
    assert!(matches!(events.outcome(id).await, Outcome::Rejected { code: 0x87, .. }));
    let id = handle.publish(Outgoing::new("hedge/1/acme/m/camera", "x")).unwrap();
    assert!(!matches!(events.outcome(id).await, Outcome::Rejected { .. }), "the link goes on");
}

pub(crate) async fn closing_is_quick_and_ends_the_events(site: &Site) {
    let (handle, mut events) = site.link("camera", &[REPLY]).await;
    let other = handle.clone();
    let begin = Instant::now();
    handle.close().await;
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    assert_eq!(events.next().await, None);
    assert!(!other.is_up());
    assert_eq!(other.publish(Outgoing::new(REPLY, "x")), Err(PublishError::Down));
    other.close().await;
}

pub(crate) async fn one_of_two_gateways_gets_each_request(site: &Site) {
    const REQUESTS: usize = 60;
    let (first, mut first_queries) = site.link("gw-1", &[QUERIES]).await;
    let (second, mut second_queries) = site.link("gw-2", &[QUERIES]).await;
    let (device, _events) = site.link("camera", &[]).await;
    let mut counts = [0, 0];
    for number in 0..REQUESTS {
        device.publish(Outgoing::new(QUERY, number.to_string())).unwrap();
        tokio::select! {
            query = first_queries.message() => { first.ack(&query); counts[0] += 1; }
            query = second_queries.message() => { second.ack(&query); counts[1] += 1; }
        }
    }
    assert_eq!(counts[0] + counts[1], REQUESTS);
    assert!(counts.iter().all(|&count| count > 0), "{counts:?}");
    first_queries.silent_for(Duration::from_millis(100)).await;
    second_queries.silent_for(Duration::from_millis(100)).await;
}

/// More than fit in one SUBSCRIBE.
pub(crate) async fn many_subscriptions_are_all_acknowledged_before_up(site: &Site) {
    let topics: Vec<String> = (0..20).map(|number| format!("hedge/1/acme/r/d{number}")).collect();
    let subscriptions = topics.iter().map(Subscription::at_least_once).collect();
    let (handle, mut events) = up(LinkConfig { subscriptions, ..site.config("camera") }).await;
    for topic in &topics {
        handle.publish(Outgoing::new(topic, "x")).unwrap();
        let message = events.message().await;
        assert_eq!(&message.topic, topic);
        handle.ack(&message);
    }
}

/// What the broker acknowledged with QoS 1 reaches a subscriber that stays, whatever happens to the senders.
pub(crate) async fn forty_clients_of_which_half_are_cut_lose_nothing_that_was_acknowledged(site: &Site) {
    const CLIENTS: usize = 40;
    const MESSAGES: usize = 20;
    let proxy = Proxy::start(site.addr()).await.unwrap();
    let (ingest, mut labels) = site.link("ingest", &["hedge/1/acme/f/+"]).await;
    let collecting = tokio::spawn(async move {
        let mut received = HashSet::new();
        loop {
            let label = labels.message().await;
            ingest.ack(&label);
            if label.payload == "last" {
                return received;
            }
            received.insert(label.payload);
        }
    });
    let mut senders = JoinSet::new();
    for number in 0..CLIENTS {
        let address = if number % 2 == 0 { site.addr() } else { proxy.addr() };
        senders.spawn(send_labels(config(address, &format!("d{number}")), MESSAGES));
    }
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        proxy.set(Mode::Cut);
        tokio::time::sleep(Duration::from_millis(5)).await;
        proxy.set(Mode::Pass);
    }
    let acknowledged: Vec<Bytes> = senders.join_all().await.concat();
    let (last, mut events) = site.link("last", &[]).await;
    let id = last.publish(Outgoing::new("hedge/1/acme/f/last", "last")).unwrap();
    assert_eq!(events.outcome(id).await, Outcome::Delivered);
    let received = collecting.await.unwrap();
    assert_eq!(acknowledged.len(), CLIENTS * MESSAGES);
    let lost = acknowledged.iter().filter(|label| !received.contains(*label)).count();
    assert_eq!(lost, 0);
}

/// Sends labels one by one, each again until it is acknowledged, and returns them.
async fn send_labels(config: LinkConfig, messages: usize) -> Vec<Bytes> {
    let client = config.client_id.clone();
    // Not `up`: the link may be cut again before anyone looks.
    let (handle, mut events) = hedge_link::start(config).unwrap();
    events.up().await;
    let mut acknowledged = Vec::new();
    while acknowledged.len() < messages {
        let label = Bytes::from(format!("{client} {}", acknowledged.len()));
        let Ok(id) = handle.publish(Outgoing::new(format!("hedge/1/acme/f/{client}"), label.clone())) else {
            events.up().await;
            continue;
        };
        loop {
            match events.event().await {
                LinkEvent::Published { id: told, outcome } if told == id => {
                    assert_eq!(outcome, Outcome::Delivered);
                    acknowledged.push(label);
                    break;
                }
                LinkEvent::Up { .. } => break,
                _ => {}
            }
        }
    }
    handle.close().await;
    acknowledged
}

async fn publish_when_there_is_room(handle: &LinkHandle, message: Outgoing) -> PublishId {
    loop {
        match handle.publish(message.clone()) {
            Err(PublishError::QueueFull) => tokio::task::yield_now().await,
            taken => return taken.unwrap(),
        }
    }
}

fn kept(config: LinkConfig) -> LinkConfig {
    LinkConfig { clean_start: CleanStart::FirstConnect, session_expiry: Duration::from_secs(60), ..config }
}
