//! One device's link to the broker, through what the network does to it.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::broker::Broker;
use super::link::{CleanStart, Link, LinkEvent, PublishError};
use super::packet::{Client, ConnectionId, End, Message, Outcome, Packet, Route};
use crate::queue::Event;
use crate::shared::Shared;
use crate::world::Setup;

const DEVICE: Client = Client(0);
const GATEWAY: Client = Client(1);

/// A device and a gateway, as far as their links go.
struct Bench {
    shared: Shared,
    broker: Broker,
    links: [Link; 2],
    /// What the device's link told: `up`, `down`, `reply 3`, `Delivered`.
    told: Vec<String>,
    /// Whether the device acknowledges what it gets.
    acknowledges: bool,
}

impl Bench {
    fn new() -> Self {
        let mut shared = Shared::new(1, &Setup { devices: 1, plant: None, only: None }, None);
        shared.weather.keepalive = Duration::from_secs(5);
        shared.weather.session_expiry = Duration::from_secs(60);
        (shared.weather.broker_tells, shared.weather.broker_keeps, shared.weather.rejections) = (true, true, 0.0);
        let broker = Broker::new(1, 1, 1);
        let device = Link::new(DEVICE, 0, CleanStart::FirstConnect, None, 10);
        let gateway = Link::new(GATEWAY, 0, CleanStart::Always, Some(message(Route::Presence(0), 0)), 10);
        let mut bench = Self { shared, broker, links: [device, gateway], told: Vec::new(), acknowledges: true };
        bench.links.iter_mut().for_each(|link| link.start(&mut bench.shared));
        bench.run(2000);
        assert_eq!(bench.told(), ["up"]);
        bench
    }

    /// Lets so many milliseconds pass.
    fn run(&mut self, millis: u64) {
        let until = self.shared.now + Duration::from_millis(millis);
        // Nothing happens after the last event, so one at the end makes time pass.
        self.shared.queue.push(until, Event::LookForRest);
        while let Some((at, event)) = self.shared.queue.pop() {
            self.shared.now = at;
            match event {
                Event::LookForRest => return,
                Event::Arrive { connection, to, packet } => {
                    if let Some(packet) = self.shared.hears(connection, to, packet) {
                        self.arrive(connection, to, packet);
                    }
                }
                Event::Reset { connection, to } => self.lost(connection, to),
                Event::Silence { connection, end, hole } => {
                    if self.shared.gives_up(connection, end, hole) {
                        self.lost(connection, end);
                    }
                }
                Event::Link { client, turn, .. } => {
                    let event = self.links[usize::from(client.0)].on_alarm(turn, &mut self.shared);
                    self.tell(client, event);
                }
                Event::SessionEnds { client, absences } => self.broker.on_session_end(client, absences),
                other => panic!("{other:?}"),
            }
        }
    }

    fn arrive(&mut self, connection: ConnectionId, to: End, packet: Packet) {
        let client = self.shared.net.client(connection);
        match to {
            End::Broker => self.broker.on_packet(connection, packet, &mut self.shared),
            End::Client if self.links[usize::from(client.0)].connection() == Some(connection) => {
                let event = self.links[usize::from(client.0)].on_packet(packet, &mut self.shared);
                self.tell(client, event);
            }
            End::Client => {}
        }
    }

    fn lost(&mut self, connection: ConnectionId, end: End) {
        let client = self.shared.net.client(connection);
        match end {
            End::Broker => self.broker.on_closed(connection, &mut self.shared),
            End::Client => {
                let event = self.links[usize::from(client.0)].lost(&mut self.shared);
                self.tell(client, event);
            }
        }
    }

    fn tell(&mut self, client: Client, event: Option<LinkEvent>) {
        let Some(event) = event.filter(|_| client == DEVICE) else { return };
        self.told.push(match event {
            LinkEvent::Up => "up".to_owned(),
            LinkEvent::Down => "down".to_owned(),
            LinkEvent::Published { outcome, .. } => format!("{outcome:?}"),
            LinkEvent::Message { packet, message, .. } => {
                if self.acknowledges {
                    self.links[0].acknowledge(packet, &mut self.shared);
                }
                format!("reply {}", message.body[0])
            }
        });
    }

    fn told(&mut self) -> Vec<String> {
        std::mem::take(&mut self.told)
    }

    fn ask(&mut self) -> Result<u32, PublishError> {
        self.links[0].publish(message(Route::Query, 0), &mut self.shared)
    }

    fn reply(&mut self, number: u8) {
        self.links[1].publish(message(Route::Reply(0), number), &mut self.shared).expect("the gateway is there");
    }
}

fn message(route: Route, number: u8) -> Rc<Message> {
    Rc::new(Message { route, topic: "t".into(), body: Bytes::copy_from_slice(&[number]), expiry: Some(30) })
}

#[test]
fn a_cut_link_says_so_at_once_and_comes_back_with_its_session() {
    let mut bench = Bench::new();
    bench.acknowledges = false;
    bench.reply(1);
    bench.run(500);
    bench.acknowledges = true;
    bench.shared.cut(DEVICE);
    bench.run(500);
    assert_eq!(bench.told(), ["reply 1", "down"]);
    assert_eq!(bench.ask(), Err(PublishError::Down));
    bench.reply(2);
    bench.shared.net.path(DEVICE).is_cut = false;
    bench.run(8000);
    assert_eq!(bench.told(), ["reply 1", "reply 2", "up"], "again what was not acknowledged, then what waited");
    bench.shared.cut(DEVICE);
    bench.run(500);
    bench.shared.net.path(DEVICE).is_cut = false;
    bench.run(8000);
    assert_eq!(bench.told(), ["down", "up"], "and nothing twice that was");
}

#[test]
fn what_a_black_hole_swallowed_comes_late_and_in_order_if_it_ends_in_time() {
    let mut bench = Bench::new();
    bench.shared.deafen(DEVICE, End::Client);
    (1..=3).for_each(|number| bench.reply(number));
    bench.run(4000);
    assert_eq!(bench.told(), Vec::<String>::new(), "nothing comes, and nothing fails");
    for (connection, packet) in bench.shared.undeafen(DEVICE, End::Client) {
        bench.arrive(connection, End::Client, packet);
    }
    bench.run(500);
    assert_eq!(bench.told(), ["reply 1", "reply 2", "reply 3"]);
}

#[test]
fn a_black_hole_that_lasts_ends_the_connection_within_two_keepalives() {
    let mut bench = Bench::new();
    bench.shared.deafen(DEVICE, End::Client);
    bench.reply(1);
    bench.run(4900);
    assert_eq!(bench.told(), Vec::<String>::new());
    bench.run(5100);
    assert_eq!(bench.told(), ["down"]);
}

#[test]
fn a_device_that_is_mute_is_given_up_by_the_broker_and_hears_of_it() {
    let mut bench = Bench::new();
    bench.shared.deafen(DEVICE, End::Broker);
    bench.ask().unwrap();
    bench.run(8000);
    assert_eq!(bench.told(), ["down"]);
}

#[test]
fn a_question_for_which_nobody_is_there_is_told_from_one_that_is_on_its_way() {
    let mut bench = Bench::new();
    bench.ask().unwrap();
    bench.run(500);
    let connection = bench.links[1].connection().expect("the gateway is connected");
    bench.links[1].leave(&mut bench.shared);
    bench.run(500);
    bench.ask().unwrap();
    bench.run(500);
    assert_eq!(bench.told(), ["Delivered", "NoSubscribers"]);
    assert!(!bench.shared.net.is_open(connection, End::Broker));
    bench.shared.weather.broker_tells = false;
    bench.ask().unwrap();
    bench.run(500);
    assert_eq!(bench.told(), [format!("{:?}", Outcome::Delivered)], "brokers need not say it");
}

#[test]
fn a_broker_without_a_memory_forgets_the_session() {
    for keeps in [true, false] {
        let mut bench = Bench::new();
        bench.shared.weather.broker_keeps = keeps;
        bench.acknowledges = false;
        bench.reply(1);
        bench.run(500);
        bench.broker.stop(&mut bench.shared);
        bench.run(1000);
        bench.shared.net.broker_is_up = true;
        bench.run(8000);
        let told = bench.told();
        let expected: &[&str] = if keeps { &["reply 1", "down", "reply 1", "up"] } else { &["reply 1", "down", "up"] };
        assert_eq!(told, expected);
    }
}
