//! The network: connections that keep order and lose everything when they end, over paths that are cut, slow, or swallow what is
//! sent without a sound.
//!
//! A black hole delays: what TCP sent into it comes when it ends, unless the connection was given up before. Who gives it up, and
//! when, is reckoned instead of simulating pings: a client that hears nothing for two keepalives, a broker that hears nothing for one
//! and a half.

pub(crate) mod broker;
pub(crate) mod link;
pub(crate) mod packet;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use self::packet::{Client, ConnectionId, End, Packet};
use crate::counts::Happening;
use crate::dice::{Dice, Stream};
use crate::queue::Event;
use crate::shared::Shared;

/// The way between a client and the broker.
#[derive(Debug)]
pub(crate) struct Path {
    /// Whether connections are cut and refused.
    pub(crate) is_cut: bool,
    /// Per [`End`] that does not hear: since when in the count of holes, or zero.
    holes: [u32; 2],
    next_hole: u32,
    /// What a KiB takes, while the line is slow.
    pub(crate) slow: Option<Duration>,
    latency: Duration,
    pub(crate) dice: Dice,
}

#[derive(Debug)]
struct Connection {
    client: Client,
    /// Whether each [`End`] has its socket open.
    open: [bool; 2],
    /// When the latest packet comes, by receiving [`End`] and lane.
    last: [[Duration; 2]; 2],
    /// In a black hole, by receiving [`End`].
    held: [VecDeque<Packet>; 2],
}

/// All paths and all connections there ever were.
#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) paths: Vec<Path>,
    connections: Vec<Connection>,
    pub(crate) broker_is_up: bool,
}

impl Net {
    pub(crate) fn new(seed: u64, clients: u16) -> Self {
        let paths = (0..clients).map(|client| {
            let mut dice = Dice::new(seed, Stream::Path(client));
            let latency = dice.millis(1..60);
            Path { is_cut: false, holes: [0; 2], next_hole: 1, slow: None, latency, dice }
        });
        Self { paths: paths.collect(), connections: Vec::new(), broker_is_up: true }
    }

    pub(crate) fn client(&self, connection: ConnectionId) -> Client {
        self.connections[connection.0 as usize].client
    }

    pub(crate) fn is_open(&self, connection: ConnectionId, end: End) -> bool {
        self.connections[connection.0 as usize].open[end as usize]
    }

    fn connection(&mut self, connection: ConnectionId) -> &mut Connection {
        &mut self.connections[connection.0 as usize]
    }

    pub(crate) fn path(&mut self, client: Client) -> &mut Path {
        &mut self.paths[usize::from(client.0)]
    }
}

impl Path {
    /// Whether this end hears nothing.
    pub(crate) fn is_deaf(&self, end: End) -> bool {
        self.holes[end as usize] != 0
    }

    fn delay(&mut self, size: usize) -> Duration {
        let jitter = self.latency.mul_f64(self.dice.fraction());
        let slow = self.slow.map_or(Duration::ZERO, |kib| kib.mul_f64(size as f64 / 1024.0));
        self.latency + jitter + slow
    }
}

impl Shared {
    /// A client begins to connect.
    pub(crate) fn connect(&mut self, client: Client) -> ConnectionId {
        let id = ConnectionId(u32::try_from(self.net.connections.len()).expect("fewer connections than steps"));
        let refused = self.net.path(client).is_cut || !self.net.broker_is_up;
        self.net.connections.push(Connection {
            client,
            open: [true, !refused],
            last: [[self.now; 2]; 2],
            held: [VecDeque::new(), VecDeque::new()],
        });
        if refused {
            self.deliver(id, End::Client, Packet::Closed);
        }
        id
    }

    /// Sends a packet to an end of a connection, if the other end is open.
    pub(crate) fn send(&mut self, connection: ConnectionId, to: End, packet: Packet) {
        if self.net.is_open(connection, to.other()) {
            self.deliver(connection, to, packet);
        }
    }

    fn deliver(&mut self, id: ConnectionId, to: End, packet: Packet) {
        let client = self.net.client(id);
        let delay = self.net.path(client).delay(packet.size());
        let now = self.now;
        let last = &mut self.net.connection(id).last[to as usize];
        let at = if packet.is_control() {
            let at = (now + delay).max(last[0]).max(last[1]);
            *last = [at; 2];
            at
        } else {
            let lane = &mut last[packet.lane()];
            *lane = (now + delay).max(*lane);
            *lane
        };
        self.queue.push(at, Event::Arrive { connection: id, to, packet });
    }

    /// Whether an arriving packet is heard now; otherwise it is held, or lost with its connection.
    pub(crate) fn hears(&mut self, id: ConnectionId, to: End, packet: Packet) -> Option<Packet> {
        let client = self.net.client(id);
        let path = self.net.path(client);
        let (cut, deaf) = (path.is_cut, path.is_deaf(to));
        let connection = self.net.connection(id);
        // Of a cut path both ends hear by themselves; what the machine knows already needs no path.
        if !connection.open[to as usize] || cut && !matches!(packet, Packet::Closed) {
            return None;
        }
        if deaf {
            connection.held[to as usize].push_back(packet);
            return None;
        }
        Some(packet)
    }

    /// An end closes its socket; the other hears of it as soon as the path lets it.
    pub(crate) fn close(&mut self, connection: ConnectionId, end: End) {
        if self.net.is_open(connection, end) {
            self.deliver(connection, end.other(), Packet::Closed);
            self.forget(connection, end);
        }
    }

    /// An end is gone without a word: its machine has lost power.
    pub(crate) fn vanish(&mut self, connection: ConnectionId, end: End) {
        self.forget(connection, end);
        self.expect_silence(connection, end.other(), 0);
    }

    /// An end knows that the connection is over.
    pub(crate) fn forget(&mut self, connection: ConnectionId, end: End) {
        let connection = self.net.connection(connection);
        connection.open[end as usize] = false;
        connection.held[end as usize].clear();
    }

    /// The path is cut: both ends hear of it, and what was on its way is lost.
    pub(crate) fn cut(&mut self, client: Client) {
        self.net.path(client).is_cut = true;
        for id in self.connections_of(client) {
            // Each end is told on its own; nothing passes.
            for end in [End::Client, End::Broker] {
                if self.net.is_open(id, end) {
                    let at = self.now + self.net.path(client).delay(0);
                    self.queue.push(at, Event::Reset { connection: id, to: end });
                }
            }
        }
    }

    /// An end of the path hears nothing any more.
    pub(crate) fn deafen(&mut self, client: Client, end: End) {
        let path = self.net.path(client);
        path.holes[end as usize] = path.next_hole;
        path.next_hole += 1;
        let hole = path.holes[end as usize];
        for id in self.connections_of(client) {
            self.expect_silence(id, end, hole);
        }
    }

    /// The end hears again; returns what it missed, in order.
    pub(crate) fn undeafen(&mut self, client: Client, end: End) -> Vec<(ConnectionId, Packet)> {
        self.net.path(client).holes[end as usize] = 0;
        let mut missed = Vec::new();
        for id in self.connections_of(client) {
            let held = std::mem::take(&mut self.net.connection(id).held[end as usize]);
            missed.extend(held.into_iter().map(|packet| (id, packet)));
        }
        missed
    }

    /// If nothing is heard until then, the end gives the connection up.
    fn expect_silence(&mut self, connection: ConnectionId, end: End, hole: u32) {
        let client = self.net.client(connection);
        // The last ping was answered up to a keepalive ago.
        let (least, most) = match end {
            End::Client => (1.0, 2.0),
            End::Broker => (0.5, 1.5),
        };
        let keepalives = least + (most - least) * self.net.path(client).dice.fraction();
        let at = self.now + self.weather.keepalive.mul_f64(keepalives);
        self.queue.push(at, Event::Silence { connection, end, hole });
    }

    /// Whether the silence lasted, so that the end gives up now.
    pub(crate) fn gives_up(&mut self, connection: ConnectionId, end: End, hole: u32) -> bool {
        if !self.net.is_open(connection, end) {
            return false;
        }
        let client = self.net.client(connection);
        let lasts = match hole {
            0 => !self.net.is_open(connection, end.other()),
            hole => self.net.path(client).holes[end as usize] == hole,
        };
        if lasts {
            let what = if end == End::Client { Happening::Watchdogs } else { Happening::BrokerGaveUp };
            self.count(what);
        }
        lasts
    }

    fn connections_of(&self, client: Client) -> Vec<ConnectionId> {
        let open = |connection: &Connection| connection.client == client && connection.open.contains(&true);
        let numbered = self.net.connections.iter().enumerate().filter(|(_, connection)| open(connection));
        numbered.map(|(number, _)| ConnectionId(u32::try_from(number).expect("few connections"))).collect()
    }
}
