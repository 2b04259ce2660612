//! Clients that do what no client should, beside one that must not notice. Part of the contract.
//!
//! `HEDGE_HOSTILE_SECS` says for how long; without it, long enough to see that the test works.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hedge_link::{LinkEvent, Outgoing};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Await, Site, say};

const CLIENTS: usize = 40;
const QUERIES: &str = "$share/gw/hedge/1/good/q/digits/+";
const QUERY: &str = "hedge/1/good/q/digits/camera";
const REPLY: &str = "hedge/1/good/r/camera";

/// Without `HEDGE_HOSTILE_SECS`.
const SHORT: Duration = Duration::from_secs(4);

/// mqtt5 lets a publish wait up to 2 s for a subscriber that does not read, once each time one falls behind: here a request
/// and its reply. Mosquitto does not wait.
const WORST: Duration = Duration::from_secs(5);

pub(crate) async fn forty_hostile_clients_cost_a_good_one_nothing(site: &Site) {
    let seconds = std::env::var("HEDGE_HOSTILE_SECS").ok().and_then(|seconds| seconds.parse().ok());
    let time = seconds.map_or(SHORT, Duration::from_secs);
    let operations = Arc::new(AtomicU64::new(0));
    let hostile = Hostile::start(site.addr(), &operations);
    let times = ask_and_answer(site, time).await;
    drop(hostile);
    let worst = times.last().copied().unwrap_or_default();
    say(&format!(
        "hostile: {CLIENTS} clients, {time:?}, {} operations; {} requests, 0 lost, p50 {:?}, p99 {:?}, worst {worst:?}",
        operations.load(Ordering::Relaxed),
        times.len(),
        times[times.len() / 2],
        times[times.len() * 99 / 100],
    ));
    assert!(operations.load(Ordering::Relaxed) > 1000, "the hostile clients did something");
    assert!(worst < WORST, "{worst:?}");
}

/// Hostile clients on a thread of their own: what is measured is the broker, not a shared reactor.
struct Hostile(Option<tokio::runtime::Runtime>);

impl Hostile {
    fn start(broker: SocketAddr, operations: &Arc<AtomicU64>) -> Hostile {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        for number in 0..CLIENTS {
            runtime.spawn(misbehave(broker, number, Arc::clone(operations)));
        }
        Hostile(Some(runtime))
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// One request after the other through a gateway; how long each took, ascending. A connection that goes down, or a reply that
/// does not come, fails the test.
async fn ask_and_answer(site: &Site, time: Duration) -> Vec<Duration> {
    let (gateway, mut queries) = site.link("good-gateway", &[QUERIES]).await;
    let (device, mut replies) = site.link("good-camera", &[REPLY]).await;
    let answering = tokio::spawn(async move {
        loop {
            match queries.event().await {
                LinkEvent::Message(query) => {
                    gateway.ack(&query);
                    gateway.publish(Outgoing::new(REPLY, query.payload)).unwrap();
                }
                LinkEvent::Down { reason } => panic!("the good gateway's link went down: {reason}"),
                _ => {}
            }
        }
    });
    let (begin, mut times) = (Instant::now(), Vec::new());
    while begin.elapsed() < time {
        let asked = Instant::now();
        let number = Bytes::from(times.len().to_string());
        device.publish(Outgoing::new(QUERY, number.clone())).unwrap();
        let reply = replies.message().await;
        assert_eq!(reply.payload, number, "nothing lost, nothing twice");
        device.ack(&reply);
        times.push(asked.elapsed());
    }
    assert!(!answering.is_finished(), "the good gateway's link went down");
    answering.abort();
    times.sort();
    times
}

/// Goes on until it is aborted; a broker that throws it out is connected to again.
async fn misbehave(broker: SocketAddr, number: usize, operations: Arc<AtomicU64>) {
    let client = format!("hostile-{number}");
    loop {
        if let Ok(mut stream) = TcpStream::connect(broker).await {
            let _thrown_out = match number % 8 {
                0 => babble(&mut stream, number).await,
                1 => stall(&mut stream, &client).await,
                2 => flood(&mut stream, &client, &operations).await,
                3 => hear_everything_and_read_nothing(&mut stream, &client, number).await,
                4 => come_and_go(&mut stream, &client).await,
                // All of them under one id.
                5 => come_and_go(&mut stream, "hostile-twin").await,
                6 => announce_too_much(&mut stream, &client).await,
                _ => subscribe_to_much(&mut stream, &client, &operations).await,
            };
        }
        operations.fetch_add(1, Ordering::Relaxed);
        // Refused connections come back at once; without a pause this would measure the machine.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Bytes that are no MQTT.
async fn babble(stream: &mut TcpStream, number: usize) -> std::io::Result<()> {
    let noise: Vec<u8> = (0..2000).map(|at| (at * 31 + number * 17) as u8 ^ 0xa5).collect();
    stream.write_all(&noise).await?;
    read_for(stream, Duration::from_millis(20)).await
}

/// Half a CONNECT, and then nothing.
async fn stall(stream: &mut TcpStream, client: &str) -> std::io::Result<()> {
    let packet = connect(client);
    stream.write_all(&packet[..packet.len() / 2]).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    Ok(())
}

/// QoS 1 as fast as the socket takes it, past any window, without reading a single PUBACK.
async fn flood(stream: &mut TcpStream, client: &str, operations: &AtomicU64) -> std::io::Result<()> {
    stream.write_all(&connect(client)).await?;
    for packet in 1..=u16::MAX {
        let publish = publish(&format!("hedge/1/evil/m/{client}"), packet, &[7; 1024]);
        if tokio::time::timeout(Duration::from_millis(200), stream.write_all(&publish)).await.is_err() {
            return Ok(());
        }
        operations.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// The good client's messages, too. Some stay; some come again and again.
async fn hear_everything_and_read_nothing(stream: &mut TcpStream, client: &str, number: usize) -> std::io::Result<()> {
    stream.write_all(&connect(client)).await?;
    stream.write_all(&subscribe(1, "hedge/1/#")).await?;
    let stays = if number < 24 { Duration::from_secs(3600) } else { Duration::from_secs(5) };
    tokio::time::sleep(stays).await;
    Ok(())
}

/// Connects and is gone, without a DISCONNECT.
async fn come_and_go(stream: &mut TcpStream, client: &str) -> std::io::Result<()> {
    stream.write_all(&connect(client)).await?;
    read_for(stream, Duration::from_millis(3)).await
}

/// A packet that says it has 250 MB, and 64 KB of it.
async fn announce_too_much(stream: &mut TcpStream, client: &str) -> std::io::Result<()> {
    stream.write_all(&connect(client)).await?;
    stream.write_all(&[0x32, 0xff, 0xff, 0xff, 0x7f]).await?;
    stream.write_all(&[0; 65_536]).await?;
    read_for(stream, Duration::from_millis(20)).await
}

/// Shared subscriptions of its own, each with retained messages to be sent again.
async fn subscribe_to_much(stream: &mut TcpStream, client: &str, operations: &AtomicU64) -> std::io::Result<()> {
    stream.write_all(&connect(client)).await?;
    for packet in 1..=200u16 {
        let topic = format!("hedge/1/evil/p/d{}", packet % 20);
        let mut retained = publish(&topic, packet, &[1; 64]);
        retained[0] |= 1;
        stream.write_all(&retained).await?;
        stream.write_all(&subscribe(packet, &format!("$share/gw/hedge/1/evil/q/m{packet}/+"))).await?;
        stream.write_all(&subscribe(packet, "hedge/1/evil/p/+")).await?;
        operations.fetch_add(3, Ordering::Relaxed);
        read_for(stream, Duration::from_millis(1)).await?;
    }
    Ok(())
}

/// Reads and throws away until the time is over; `Err` once the broker has closed.
async fn read_for(stream: &mut TcpStream, time: Duration) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    let reading = async {
        while stream.read(&mut buffer).await? > 0 {}
        Err(std::io::ErrorKind::ConnectionAborted.into())
    };
    tokio::time::timeout(time, reading).await.unwrap_or(Ok(()))
}

fn connect(client: &str) -> Vec<u8> {
    // MQTT 5, clean start, keepalive 60 s, no properties.
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 60, 0];
    body.extend(text(client));
    packet(0x10, &body)
}

fn publish(topic: &str, id: u16, payload: &[u8]) -> Vec<u8> {
    packet(0x32, &[&text(topic)[..], &id.to_be_bytes(), &[0], payload].concat())
}

fn subscribe(id: u16, filter: &str) -> Vec<u8> {
    packet(0x82, &[&id.to_be_bytes()[..], &[0], &text(filter), &[1]].concat())
}

fn text(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
}

/// The fixed header, with a remaining length of up to two bytes, and the body.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let length: &[u8] = match length {
        0..=127 => &[length as u8],
        _ => &[0x80 | (length % 128) as u8, (length / 128) as u8],
    };
    [&[first][..], length, body].concat()
}
