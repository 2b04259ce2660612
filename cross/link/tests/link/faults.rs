//! A network that breaks in every way the proxy knows, under load. Part of the contract.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hedge_broker::proxy::{Mode, Proxy};
use hedge_link::{CleanStart, LinkConfig, LinkEvent, LinkEvents, LinkHandle, Outcome, Outgoing, PublishId};

use crate::harness::{Await, PATIENCE, Site, config, say, up};

const LABELS: &str = "hedge/1/acme/f/camera";

/// For all faults of a run together; it takes about nine seconds.
const LONGEST: Duration = Duration::from_secs(90);

/// What an outbox does: holds each message until the broker has it, and sends what it holds again on each connection.
struct Outbox {
    handle: LinkHandle,
    held: BTreeSet<u32>,
    under_way: HashMap<PublishId, u32>,
}

impl Outbox {
    fn send_all(&mut self) {
        let under_way: BTreeSet<u32> = self.under_way.values().copied().collect();
        for &number in self.held.difference(&under_way) {
            match self.handle.publish(Outgoing::new(LABELS, Bytes::copy_from_slice(&number.to_be_bytes()))) {
                Ok(id) => self.under_way.insert(id, number),
                Err(_) => return,
            };
        }
    }

    fn on(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Down { .. } => self.under_way.clear(),
            LinkEvent::Published { id, outcome } => {
                assert_eq!(outcome, Outcome::Delivered);
                if let Some(number) = self.under_way.remove(&id) {
                    self.held.remove(&number);
                }
                self.send_all();
            }
            LinkEvent::Up { .. } => self.send_all(),
            LinkEvent::Message(_) => {}
        }
    }
}

/// Sessions are kept, so publishes come again from both sides: from the outbox and from the broker.
pub(crate) async fn whatever_breaks_under_load_nothing_is_lost_and_repetitions_are_told_apart_by_id(site: &Site) {
    const MESSAGES: u32 = 3000;
    let (sending, receiving) = (Proxy::start(site.addr()).await.unwrap(), Proxy::start(site.addr()).await.unwrap());
    let kept = |config| LinkConfig {
        clean_start: CleanStart::FirstConnect,
        session_expiry: Duration::from_secs(60),
        ..config
    };
    let (ingest, labels) = up(LinkConfig {
        subscriptions: vec![hedge_link::Subscription::at_least_once("hedge/1/acme/f/+")],
        ..kept(config(receiving.addr(), "ingest"))
    })
    .await;
    let collecting = tokio::spawn(collect(ingest, labels, MESSAGES));
    let (handle, mut events) = up(kept(config(sending.addr(), "camera"))).await;
    let mut outbox = Outbox { handle, held: (0..MESSAGES).collect(), under_way: HashMap::new() };
    let breaking = tokio::spawn(async move {
        for round in 0.. {
            for mode in FAULTS {
                break_and_heal(if round % 2 == 0 { &sending } else { &receiving }, mode).await;
            }
        }
    });

    let begin = Instant::now();
    outbox.send_all();
    while !outbox.held.is_empty() {
        assert!(begin.elapsed() < LONGEST, "{} messages are still held", outbox.held.len());
        // A trickle, so that every fault of the round meets messages under way.
        let event = outbox_event(&mut events).await;
        outbox.on(event);
        tokio::time::sleep(Duration::from_micros(300)).await;
    }
    breaking.abort();
    let counts = collecting.await.unwrap();
    let repeated: u32 = counts.values().map(|times| times - 1).sum();
    say(&format!("faults: {MESSAGES} messages in {:?}, {repeated} came more than once", begin.elapsed()));
    assert_eq!(counts.len(), MESSAGES as usize, "lost");
}

const FAULTS: [Mode; 6] = [
    Mode::Cut,
    Mode::CutAfter(3000),
    Mode::BlackHole,
    Mode::Slow { bytes_per_sec: 4000 },
    Mode::DropUp,
    Mode::DropDown,
];

/// A network that swallowed bytes never gives the connection back: such faults end in a cut.
async fn break_and_heal(proxy: &Proxy, mode: Mode) {
    proxy.set(mode);
    tokio::time::sleep(Duration::from_millis(60)).await;
    if matches!(mode, Mode::DropUp | Mode::DropDown) {
        proxy.set(Mode::Cut);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    proxy.set(Mode::Pass);
    tokio::time::sleep(Duration::from_millis(150)).await;
}

async fn outbox_event(events: &mut LinkEvents) -> LinkEvent {
    tokio::time::timeout(PATIENCE, events.next())
        .await
        .expect("the outbox hears of its link")
        .expect("the link goes on")
}

/// Each message and how often it came, once all have come.
async fn collect(ingest: LinkHandle, mut labels: LinkEvents, messages: u32) -> BTreeMap<u32, u32> {
    let mut counts = BTreeMap::new();
    while counts.len() < messages as usize {
        if let LinkEvent::Message(label) = outbox_event(&mut labels).await {
            ingest.ack(&label);
            *counts.entry(u32::from_be_bytes(label.payload.as_ref().try_into().unwrap())).or_default() += 1;
        }
    }
    counts
}

/// One direction passes, so that the other side may look alive.
pub(crate) async fn a_half_open_link_is_noticed_within_two_keepalives_and_heals_within_three(site: &Site) {
    let half_open = |mode, client: &'static str| async move {
        let proxy = Proxy::start(site.addr()).await.unwrap();
        let config = config(proxy.addr(), client);
        let keepalive = config.keepalive;
        let (_handle, mut events) = up(config).await;
        let begin = Instant::now();
        proxy.set(mode);
        events.down().await;
        let noticed = begin.elapsed();
        assert!(noticed <= keepalive * 2 + Duration::from_secs(2), "{mode:?}: {noticed:?}");
        let healed = Instant::now();
        proxy.set(Mode::Pass);
        events.up().await;
        assert!(healed.elapsed() < keepalive * 3, "{mode:?}: {:?}", healed.elapsed());
    };
    tokio::join!(half_open(Mode::DropUp, "up"), half_open(Mode::DropDown, "down"), half_open(Mode::BlackHole, "both"));
}
