//! A broker that does what a script says, byte by byte: for what well-behaved brokers do not do.

use std::net::Ipv4Addr;
use std::time::Duration;

use hedge_link::{Birth, LinkConfig, LinkEvent, LinkEvents, LinkHandle, Outcome, Outgoing, PublishError, Qos};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Await, PATIENCE, Subscribed, config};

const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;
const SUBSCRIBE: u8 = 8;
const PINGREQ: u8 = 12;

/// A CONNACK with these properties.
fn connack(properties: &[u8]) -> Vec<u8> {
    let length = u8::try_from(properties.len()).unwrap();
    [&[0x20, 3 + length, 0, 0, length], properties].concat()
}

/// A PUBACK with a reason code.
fn puback(packet: u16, reason: u8) -> Vec<u8> {
    let [high, low] = packet.to_be_bytes();
    vec![0x40, 4, high, low, reason, 0]
}

struct Script {
    listener: TcpListener,
}

struct Peer {
    stream: TcpStream,
}

impl Script {
    /// A listener, and a link that will come to it.
    async fn start(change: impl FnOnce(LinkConfig) -> LinkConfig) -> (Script, LinkHandle, LinkEvents) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let config = change(config(listener.local_addr().unwrap(), "camera"));
        let (handle, events) = hedge_link::start(config).unwrap();
        (Script { listener }, handle, events)
    }

    /// Accepts the next connection up to its CONNECT.
    async fn accept(&self) -> Peer {
        let (stream, _) = tokio::time::timeout(PATIENCE, self.listener.accept()).await.unwrap().unwrap();
        let mut peer = Peer { stream };
        assert_eq!(peer.read().await.0, CONNECT);
        peer
    }
}

impl Peer {
    /// The next packet: its type, its flags and what follows the fixed header.
    async fn read(&mut self) -> (u8, u8, Vec<u8>) {
        tokio::time::timeout(PATIENCE, self.read_packet()).await.unwrap()
    }

    async fn read_packet(&mut self) -> (u8, u8, Vec<u8>) {
        let first = self.stream.read_u8().await.unwrap();
        let (mut length, mut shift) = (0usize, 0);
        loop {
            let byte = self.stream.read_u8().await.unwrap();
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.unwrap();
        (first >> 4, first & 0x0f, body)
    }

    /// The packet id of the next packet, which must be a PUBLISH with QoS 1.
    async fn read_publish(&mut self) -> u16 {
        let (kind, flags, body) = self.read().await;
        assert_eq!((kind, flags & 0b110), (PUBLISH, 0b010));
        let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
        u16::from_be_bytes([body[2 + topic], body[3 + topic]])
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }
}

#[tokio::test]
async fn up_waits_for_the_subscriptions_and_nothing_is_taken_before() {
    let (script, handle, mut events) = Script::start(|config| config.subscribed(&["a/b"])).await;
    let mut peer = script.accept().await;
    peer.write(&connack(&[])).await;
    let (kind, _, body) = peer.read().await;
    assert_eq!(kind, SUBSCRIBE);
    events.silent_for(Duration::from_millis(100)).await;
    assert!(!handle.is_up());
    assert_eq!(handle.publish(Outgoing::new("a", "x")), Err(PublishError::Down));
    peer.write(&[0x90, 4, body[0], body[1], 0, 1]).await;
    events.up().await;
    assert!(handle.is_up());
}

#[tokio::test]
async fn up_waits_for_the_last_of_several_subscribes() {
    let filters = ["1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let (script, handle, mut events) = Script::start(|config| config.subscribed(&filters)).await;
    let mut peer = script.accept().await;
    peer.write(&connack(&[])).await;
    let ((_, _, first), (_, _, second)) = (peer.read().await, peer.read().await);
    peer.write(&[0x90, 11, first[0], first[1], 0, 1, 1, 1, 1, 1, 1, 1, 1]).await;
    events.silent_for(Duration::from_millis(100)).await;
    assert!(!handle.is_up());
    peer.write(&[0x90, 4, second[0], second[1], 0, 1]).await;
    events.up().await;
}

#[tokio::test]
async fn a_refused_subscription_ends_the_connection_and_is_named() {
    let (script, _handle, mut events) = Script::start(|config| config.subscribed(&["a/b", "c/d"])).await;
    let mut peer = script.accept().await;
    peer.write(&connack(&[])).await;
    let (_, _, body) = peer.read().await;
    peer.write(&[0x90, 5, body[0], body[1], 0, 1, 0x87]).await;
    let reason = events.down().await;
    assert!(reason.contains("`c/d`") && reason.contains("NotAuthorized"), "{reason}");
    script.accept().await;
}

#[tokio::test]
async fn a_refused_connection_is_told_in_words_once() {
    let (script, _handle, mut events) = Script::start(|config| config).await;
    script.accept().await.write(&[0x20, 3, 0, 0x87, 0]).await;
    let reason = events.down().await;
    assert!(reason.contains("NotAuthorized"), "{reason}");
    script.accept().await.write(&[0x20, 3, 0, 0x87, 0]).await;
    script.accept().await;
    events.silent_for(Duration::from_millis(50)).await;
}

#[tokio::test]
async fn a_broker_that_can_less_is_asked_for_less() {
    let birth = Some(Birth { topic: "born".to_owned(), payload: "x".into() });
    let (script, handle, mut events) =
        Script::start(|config| LinkConfig { birth, ..config.subscribed(&["$share/gw/a/+"]) }).await;
    let mut peer = script.accept().await;
    // Maximum QoS 0, no retain, no shared subscriptions, receive maximum 7, packets up to 300 bytes.
    peer.write(&connack(&[0x24, 0, 0x25, 0, 0x2a, 0, 0x21, 0, 7, 0x27, 0, 0, 1, 0x2c])).await;
    let (kind, _, body) = peer.read().await;
    assert_eq!(kind, SUBSCRIBE);
    assert_eq!(&body[5..8], b"a/+");
    peer.write(&[0x90, 4, body[0], body[1], 0, 0]).await;
    let limits = events.up().await;
    assert_eq!((limits.max_packet_bytes, limits.inflight, limits.max_qos), (300, 7, Qos::AtMostOnce));
    assert!(!limits.retain && !limits.shared_subscriptions && !limits.session_present);
    let (kind, flags, _) = peer.read().await;
    assert_eq!((kind, flags), (PUBLISH, 0), "the birth: neither QoS 1 nor retained");
    let refused = handle.publish(Outgoing::new("a", vec![0; 300]));
    assert!(matches!(refused, Err(PublishError::TooLarge { limit: 300, .. })));
}

/// rumqttc holds a publish back while its packet id is in use, and forgets it if that id's publish is rejected.
#[tokio::test]
async fn acknowledgements_out_of_order_and_rejections_stop_nothing() {
    let (script, handle, mut events) = Script::start(|config| LinkConfig { inflight: 2, ..config }).await;
    let mut peer = script.accept().await;
    peer.write(&connack(&[])).await;
    events.up().await;
    let ids: Vec<_> = (0..4).map(|_| handle.publish(Outgoing::new("a", "x")).unwrap()).collect();
    assert_eq!((peer.read_publish().await, peer.read_publish().await), (1, 2));
    // The second first: the third would need packet id 1 and is held back.
    peer.write(&puback(2, 0)).await;
    assert_eq!(events.outcome(ids[1]).await, Outcome::Delivered);
    peer.write(&puback(1, 0x97)).await;
    assert!(matches!(events.outcome(ids[0]).await, Outcome::Rejected { code: 0x97, .. }));
    let third = peer.read_publish().await;
    peer.write(&puback(third, 0x10)).await;
    assert_eq!(events.outcome(ids[2]).await, Outcome::NoSubscribers);
    let fourth = peer.read_publish().await;
    peer.write(&puback(fourth, 0)).await;
    assert_eq!(events.outcome(ids[3]).await, Outcome::Delivered);
}

/// rumqttc takes a server keepalive of 0 for "ping without pause".
#[tokio::test]
async fn a_broker_that_turns_the_keepalive_off_is_not_flooded_with_pings() {
    let (script, _handle, mut events) = Script::start(|config| config).await;
    let mut peer = script.accept().await;
    peer.write(&connack(&[0x13, 0, 0])).await;
    events.up().await;
    let mut pings = 0;
    let counting = async {
        loop {
            if peer.read_packet().await.0 == PINGREQ {
                pings += 1;
                peer.write(&[0xd0, 0]).await;
            }
        }
    };
    let _elapsed = tokio::time::timeout(Duration::from_millis(300), counting).await;
    assert!(pings <= 1, "{pings}");
}

#[tokio::test]
async fn what_came_with_the_last_breath_of_a_connection_is_still_told() {
    let (script, handle, mut events) = Script::start(|config| config).await;
    let mut peer = script.accept().await;
    peer.write(&connack(&[])).await;
    events.up().await;
    let id = handle.publish(Outgoing::new("a", "x")).unwrap();
    let packet = peer.read_publish().await;
    // The PUBACK and a DISCONNECT (server shutting down) in one segment.
    peer.write(&[puback(packet, 0), vec![0xe0, 2, 0x8b, 0]].concat()).await;
    assert_eq!(events.event().await, LinkEvent::Published { id, outcome: Outcome::Delivered });
    let reason = events.down().await;
    assert!(reason.contains("ServerShuttingDown"), "{reason}");
}

#[tokio::test]
async fn garbage_ends_the_connection_and_the_link_tries_again() {
    let (script, _handle, mut events) = Script::start(|config| config).await;
    for garbage in [&[0xff; 64][..], &[0x30, 0x02, 0xff, 0xff], &[0x40, 2, 0, 9], &[0x30, 0xff, 0xff, 0xff, 0x7f]] {
        let mut peer = script.accept().await;
        peer.write(&connack(&[])).await;
        events.up().await;
        peer.write(garbage).await;
        events.down().await;
    }
    script.accept().await;
}

#[tokio::test]
async fn reconnecting_slows_down_when_connections_do_not_last() {
    let (script, _handle, _events) = Script::start(|config| config).await;
    let mut connections = 0;
    let accepting = async {
        loop {
            script.accept().await.write(&connack(&[])).await;
            connections += 1;
        }
    };
    let _elapsed = tokio::time::timeout(Duration::from_secs(2), accepting).await;
    // With waits of up to 200 ms, 100 ms on average, about 20; without them, thousands.
    assert!((3..60).contains(&connections), "{connections}");
}
