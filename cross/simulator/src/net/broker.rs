//! The broker: sessions, shared subscriptions, retained presence and wills, with what brokers are free to do left to the seed.
//!
//! Free are: whether a PUBACK says that nobody subscribes, whether sessions and retained messages survive the broker's own restart,
//! whether what a dead gateway has not acknowledged is given to another, which gateway gets a question, and a rejection now and then.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use super::packet::{Client, ConnectionId, End, Message, Outcome, Packet, Route};
use crate::counts::Happening;
use crate::dice::{Dice, Stream};
use crate::queue::Event;
use crate::shared::Shared;

/// Messages that wait for one client; more are dropped.
const MOST_WAITING: usize = 1000;

#[derive(Debug)]
pub(crate) struct Broker {
    devices: u16,
    sessions: Vec<Option<Session>>,
    /// By gateway.
    retained: Vec<Option<Rc<Message>>>,
    dice: Dice,
}

#[derive(Debug)]
struct Session {
    connection: Option<ConnectionId>,
    subscribed: bool,
    will: Option<Rc<Message>>,
    /// Sent and not acknowledged, or waiting for the client to come back.
    waiting: VecDeque<Waiting>,
    next_packet: u32,
    /// Counts ends of connections: an expiry of an earlier one is void.
    absences: u32,
}

#[derive(Debug)]
struct Waiting {
    packet: u32,
    message: Rc<Message>,
    until: Option<Duration>,
}

impl Broker {
    pub(crate) fn new(seed: u64, devices: u16, gateways: u16) -> Self {
        Self {
            devices,
            sessions: (0..devices + gateways).map(|_| None).collect(),
            retained: vec![None; usize::from(gateways)],
            dice: Dice::new(seed, Stream::Broker),
        }
    }

    pub(crate) fn on_packet(&mut self, connection: ConnectionId, packet: Packet, shared: &mut Shared) {
        let client = shared.net.client(connection);
        match packet {
            Packet::Connect { clean, will } => self.on_connect(connection, client, clean, will, shared),
            Packet::Closed => self.on_closed(connection, shared),
            _ if !self.is_current(client, connection) => {}
            Packet::Subscribe => self.on_subscribe(connection, client, shared),
            Packet::Publish { packet, message, .. } => {
                let outcome = self.publish(&message, shared);
                shared.send(connection, End::Client, Packet::Acknowledged { packet, outcome });
            }
            Packet::Acknowledged { packet, .. } => {
                if let Some(session) = self.session(client) {
                    session.waiting.retain(|waiting| waiting.packet != packet);
                }
            }
            Packet::Disconnect => {
                if let Some(session) = self.session(client) {
                    session.will = None;
                }
            }
            Packet::Accepted { .. } | Packet::Subscribed => {}
        }
    }

    /// A connection has ended, as far as the broker can tell.
    pub(crate) fn on_closed(&mut self, connection: ConnectionId, shared: &mut Shared) {
        shared.close(connection, End::Broker);
        let client = shared.net.client(connection);
        if self.is_current(client, connection) {
            self.disconnected(client, shared);
        }
    }

    /// The broker stops; where it keeps nothing on disk, everything is gone.
    pub(crate) fn stop(&mut self, shared: &mut Shared) {
        shared.count(Happening::BrokerRestarts);
        shared.net.broker_is_up = false;
        let open: Vec<_> = self.sessions.iter().flatten().filter_map(|session| session.connection).collect();
        open.into_iter().for_each(|connection| shared.close(connection, End::Broker));
        for (client, session) in self.sessions.iter_mut().enumerate() {
            let kept = shared.weather.broker_keeps && client < usize::from(self.devices);
            match session {
                Some(session) if kept => (session.connection, session.will) = (None, None),
                _ => *session = None,
            }
        }
        if !shared.weather.broker_keeps {
            self.retained.fill(None);
        }
    }

    /// A session's time is over.
    pub(crate) fn on_session_end(&mut self, client: Client, absences: u32) {
        let session = &mut self.sessions[usize::from(client.0)];
        if session.as_ref().is_some_and(|session| session.connection.is_none() && session.absences == absences) {
            *session = None;
        }
    }

    /// Messages that wait for somebody who is there.
    pub(crate) fn undelivered(&self) -> usize {
        self.sessions.iter().flatten().map(|session| session.waiting.len()).sum()
    }

    fn on_connect(
        &mut self,
        connection: ConnectionId,
        client: Client,
        clean: bool,
        will: Option<Rc<Message>>,
        shared: &mut Shared,
    ) {
        if !shared.net.broker_is_up {
            return shared.close(connection, End::Broker);
        }
        if let Some(earlier) = self.session(client).and_then(|session| session.connection) {
            shared.count(Happening::TakenOver);
            shared.close(earlier, End::Broker);
            self.disconnected(client, shared);
        }
        let session = &mut self.sessions[usize::from(client.0)];
        let session_present = !clean && session.is_some();
        if !session_present {
            *session = Some(Session {
                connection: None,
                subscribed: false,
                will: None,
                waiting: VecDeque::new(),
                next_packet: 0,
                absences: 0,
            });
        }
        let session = session.as_mut().expect("made above where there was none");
        (session.connection, session.will) = (Some(connection), will);
        shared.send(connection, End::Client, Packet::Accepted { session_present });
        let now = shared.now;
        session.waiting.retain(|waiting| waiting.until.is_none_or(|until| until > now));
        for waiting in &session.waiting {
            shared.count(Happening::Redelivered);
            shared.send(connection, End::Client, waiting.packet(now));
        }
    }

    fn on_subscribe(&mut self, connection: ConnectionId, client: Client, shared: &mut Shared) {
        let session = self.session(client).expect("a current connection has a session");
        session.subscribed = true;
        shared.send(connection, End::Client, Packet::Subscribed);
        if client.0 < self.devices {
            for message in self.retained.clone().into_iter().flatten() {
                self.give(client, &message, shared);
            }
        }
    }

    fn publish(&mut self, message: &Rc<Message>, shared: &mut Shared) -> Outcome {
        if !matches!(message.route, Route::Presence(_)) && self.dice.chance(shared.weather.rejections) {
            shared.count(Happening::Rejected);
            return Outcome::Rejected;
        }
        let given = match message.route {
            Route::Query => match self.any_gateway() {
                Some(gateway) => self.give(gateway, message, shared),
                None => false,
            },
            Route::Reply(device) => self.give(Client(device), message, shared),
            Route::Part(gateway) => self.give(Client(self.devices + gateway), message, shared),
            Route::Presence(gateway) => {
                self.retained[usize::from(gateway)] = Some(Rc::clone(message));
                (0..self.devices).for_each(|device| {
                    self.give(Client(device), message, shared);
                });
                true
            }
        };
        match given || !shared.weather.broker_tells {
            true => Outcome::Delivered,
            false => Outcome::NoSubscribers,
        }
    }

    /// One of the gateways that subscribe to questions, dead or alive.
    fn any_gateway(&mut self) -> Option<Client> {
        let clients = self.devices..u16::try_from(self.sessions.len()).expect("clients are counted in 16 bits");
        let there = |client: &u16| {
            let session = self.sessions[usize::from(*client)].as_ref();
            session.is_some_and(|session| session.subscribed && session.connection.is_some())
        };
        let there: Vec<u16> = clients.filter(there).collect();
        (!there.is_empty()).then(|| Client(self.dice.pick(&there)))
    }

    /// Puts a message into a session; false if there is none that subscribes.
    fn give(&mut self, client: Client, message: &Rc<Message>, shared: &mut Shared) -> bool {
        let now = shared.now;
        let Some(session) = self.session(client).filter(|session| session.subscribed) else { return false };
        if session.waiting.len() >= MOST_WAITING {
            return true;
        }
        let until = message.expiry.map(|seconds| now + Duration::from_secs(seconds));
        let waiting = Waiting { packet: session.next_packet, message: Rc::clone(message), until };
        session.next_packet += 1;
        if let Some(connection) = session.connection {
            shared.send(connection, End::Client, waiting.packet(now));
        }
        session.waiting.push_back(waiting);
        true
    }

    fn disconnected(&mut self, client: Client, shared: &mut Shared) {
        let is_gateway = client.0 >= self.devices;
        let slot = &mut self.sessions[usize::from(client.0)];
        let Some(session) = slot else { return };
        let will = session.will.take();
        session.connection = None;
        session.absences += 1;
        if is_gateway {
            let lost = slot.take().map(|session| session.waiting).unwrap_or_default();
            self.lost_with(lost, shared);
        } else {
            let event = Event::SessionEnds { client, absences: session.absences };
            shared.queue.push(shared.now + shared.weather.session_expiry, event);
        }
        if let Some(will) = will {
            shared.count(Happening::Wills);
            self.publish(&will, shared);
        }
    }

    /// What a gateway has not acknowledged goes to another one, or nowhere.
    fn lost_with(&mut self, waiting: VecDeque<Waiting>, shared: &mut Shared) {
        for Waiting { message, .. } in waiting {
            let again = shared.weather.broker_redispatches && matches!(message.route, Route::Query);
            match self.any_gateway().filter(|_| again) {
                Some(gateway) => {
                    self.give(gateway, &message, shared);
                }
                None => shared.count(Happening::LostWithGateway),
            }
        }
    }

    fn is_current(&self, client: Client, connection: ConnectionId) -> bool {
        let session = self.sessions[usize::from(client.0)].as_ref();
        session.is_some_and(|session| session.connection == Some(connection))
    }

    fn session(&mut self, client: Client) -> Option<&mut Session> {
        self.sessions[usize::from(client.0)].as_mut()
    }
}

impl Waiting {
    fn packet(&self, now: Duration) -> Packet {
        let left = self.until.map(|until| Duration::from_secs(until.saturating_sub(now).as_secs()));
        Packet::Publish { packet: self.packet, message: Rc::clone(&self.message), left }
    }
}
