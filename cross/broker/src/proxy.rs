//! A TCP proxy that breaks the connections through it on demand: what a demonstration cuts and a test torments.
//!
//! It knows nothing of MQTT. It forwards bytes between its own loopback port and one upstream address, in the [`Mode`] of the
//! moment, which holds for connections that exist as well as for new ones.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Bytes forwarded at a time.
const CHUNK_BYTES: usize = 16 * 1024;

/// A slowed connection forwards this many times a second.
const SLOW_STEPS_PER_SECOND: u64 = 20;

/// What happens to the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// They are forwarded.
    Pass,
    /// Every connection is closed, and new ones are closed as soon as they are accepted.
    Cut,
    /// Connections stay open and nothing passes, in either direction: neither side can tell at once.
    BlackHole,
    /// They are forwarded at this rate, in each direction.
    Slow {
        /// The rate.
        bytes_per_sec: u64,
    },
    /// Bytes from the client are read and thrown away.
    DropUp,
    /// Bytes from upstream are read and thrown away.
    DropDown,
    /// This many more bytes pass, both directions and all connections together; then as [`Mode::Cut`].
    CutAfter(u64),
}

/// A proxy on a free loopback port. Dropping it closes everything.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    mode: watch::Sender<Mode>,
    up: AtomicU64,
    down: AtomicU64,
    /// What [`Mode::CutAfter`] still lets pass.
    allowance: AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1, in [`Mode::Pass`]; `upstream` is connected to for each client.
    ///
    /// # Errors
    ///
    /// The system's, where there is no free port.
    pub async fn start(upstream: SocketAddr) -> io::Result<Proxy> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (mode, _) = watch::channel(Mode::Pass);
        let shared = Arc::new(Shared {
            upstream,
            mode,
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            allowance: AtomicU64::new(0),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Proxy { address, shared, task })
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// `mqtt://127.0.0.1:{port}`.
    pub fn url(&self) -> String {
        format!("mqtt://{}", self.address)
    }

    /// Changes the mode, at once and for every connection.
    pub fn set(&self, mode: Mode) {
        if let Mode::CutAfter(bytes) = mode {
            self.shared.allowance.store(bytes, Ordering::SeqCst);
        }
        self.shared.mode.send_replace(mode);
    }

    /// The mode of the moment; a used-up [`Mode::CutAfter`] has become [`Mode::Cut`].
    pub fn mode(&self) -> Mode {
        *self.shared.mode.borrow()
    }

    /// Bytes forwarded from clients so far.
    pub fn bytes_up(&self) -> u64 {
        self.shared.up.load(Ordering::Relaxed)
    }

    /// Bytes forwarded to clients so far.
    pub fn bytes_down(&self) -> u64 {
        self.shared.down.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropping the set (when the proxy aborts this task) ends every connection with it.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        if *shared.mode.borrow() != Mode::Cut {
            connections.spawn(serve(client, Arc::clone(&shared)));
        }
    }
}

/// Forwards one client's connection until either side closes it or the mode cuts it.
async fn serve(client: TcpStream, shared: Arc<Shared>) {
    let mut mode = shared.mode.subscribe();
    let Ok(upstream) = TcpStream::connect(shared.upstream).await else {
        return;
    };
    if client.set_nodelay(true).is_err() || upstream.set_nodelay(true).is_err() {
        return;
    }
    let (client_read, client_write) = client.into_split();
    let (upstream_read, upstream_write) = upstream.into_split();
    tokio::select! {
        _ = mode.wait_for(|mode| *mode == Mode::Cut) => {}
        _ = forward(client_read, upstream_write, Direction::Up, &shared) => {}
        _ = forward(upstream_read, client_write, Direction::Down, &shared) => {}
    }
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    direction: Direction,
    shared: &Shared,
) -> io::Result<()> {
    let mut modes = shared.mode.subscribe();
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let mode = *modes.borrow_and_update();
        let read = tokio::select! {
            changed = modes.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return Ok(()),
            },
            read = from.read(&mut buffer[..chunk(mode)]), if mode != Mode::BlackHole => read?,
        };
        if read == 0 {
            return Ok(());
        }
        if let Mode::Slow { .. } = mode {
            tokio::time::sleep(Duration::from_millis(1000 / SLOW_STEPS_PER_SECOND)).await;
        }
        // The mode may have changed while this was waiting for bytes.
        let (passing, cut) = shared.pass(direction, read);
        to.write_all(&buffer[..passing]).await?;
        shared.count(direction, passing);
        if cut {
            shared.mode.send_replace(Mode::Cut);
            return Ok(());
        }
    }
}

/// How many bytes to read at a time.
fn chunk(mode: Mode) -> usize {
    match mode {
        Mode::Slow { bytes_per_sec } => {
            let step = (bytes_per_sec / SLOW_STEPS_PER_SECOND).clamp(1, CHUNK_BYTES as u64);
            usize::try_from(step).unwrap_or(CHUNK_BYTES)
        }
        _ => CHUNK_BYTES,
    }
}

impl Shared {
    /// How many of `read` bytes pass, and whether the connections are to be cut after them.
    fn pass(&self, direction: Direction, read: usize) -> (usize, bool) {
        match (*self.mode.borrow(), direction) {
            (Mode::Pass | Mode::Slow { .. }, _) => (read, false),
            (Mode::DropUp, Direction::Down) | (Mode::DropDown, Direction::Up) => (read, false),
            (Mode::DropUp | Mode::DropDown | Mode::BlackHole, _) => (0, false),
            (Mode::Cut, _) => (0, true),
            (Mode::CutAfter(_), _) => {
                let read = read as u64;
                let before = self
                    .allowance
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| Some(left.saturating_sub(read)));
                let before = before.unwrap_or(0);
                (usize::try_from(before.min(read)).unwrap_or(0), before <= read)
            }
        }
    }

    fn count(&self, direction: Direction, bytes: usize) {
        let counter = match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        };
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An upstream that sends back what it gets.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        address
    }

    async fn connected() -> (Proxy, TcpStream) {
        let proxy = Proxy::start(echo().await).await.unwrap();
        let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
        assert_eq!(round_trip(&mut client, b"hello").await.unwrap(), b"hello");
        (proxy, client)
    }

    async fn round_trip(client: &mut TcpStream, bytes: &[u8]) -> io::Result<Vec<u8>> {
        client.write_all(bytes).await?;
        let mut back = vec![0; bytes.len()];
        client.read_exact(&mut back).await?;
        Ok(back)
    }

    async fn stays_silent(client: &mut TcpStream) -> bool {
        let read = tokio::time::timeout(Duration::from_millis(100), client.read_u8());
        read.await.is_err()
    }

    #[tokio::test]
    async fn bytes_pass_and_are_counted() {
        let (proxy, _client) = connected().await;
        assert_eq!((proxy.bytes_up(), proxy.bytes_down()), (5, 5));
    }

    #[tokio::test]
    async fn a_cut_closes_what_exists_refuses_what_comes_and_heals() {
        let (proxy, mut client) = connected().await;
        proxy.set(Mode::Cut);
        assert!(matches!(client.read(&mut [0; 1]).await, Ok(0) | Err(_)));
        let mut refused = TcpStream::connect(proxy.addr()).await.unwrap();
        assert!(matches!(refused.read(&mut [0; 1]).await, Ok(0) | Err(_)));
        proxy.set(Mode::Pass);
        let mut healed = TcpStream::connect(proxy.addr()).await.unwrap();
        assert_eq!(round_trip(&mut healed, b"again").await.unwrap(), b"again");
    }

    #[tokio::test]
    async fn a_black_hole_is_silent_and_loses_nothing_when_it_ends() {
        let (proxy, mut client) = connected().await;
        proxy.set(Mode::BlackHole);
        client.write_all(b"late").await.unwrap();
        assert!(stays_silent(&mut client).await);
        proxy.set(Mode::Pass);
        let mut back = [0; 4];
        client.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"late");
    }

    #[tokio::test]
    async fn one_direction_can_be_lost() {
        let (proxy, mut client) = connected().await;
        proxy.set(Mode::DropUp);
        client.write_all(b"lost").await.unwrap();
        assert!(stays_silent(&mut client).await);
        assert_eq!(proxy.bytes_up(), 5);
        proxy.set(Mode::DropDown);
        client.write_all(b"gone").await.unwrap();
        assert!(stays_silent(&mut client).await);
        assert_eq!((proxy.bytes_up(), proxy.bytes_down()), (9, 5));
    }

    #[tokio::test]
    async fn a_cut_after_n_bytes_lets_exactly_n_pass() {
        let (proxy, mut client) = connected().await;
        proxy.set(Mode::CutAfter(3));
        client.write_all(b"abcdef").await.unwrap();
        assert!(matches!(client.read(&mut [0; 1]).await, Ok(0) | Err(_)));
        assert_eq!(proxy.bytes_up() + proxy.bytes_down(), 10 + 3);
        assert_eq!(proxy.mode(), Mode::Cut);
    }

    #[tokio::test]
    async fn a_slow_connection_keeps_its_rate() {
        let (proxy, mut client) = connected().await;
        proxy.set(Mode::Slow { bytes_per_sec: 2000 });
        let begin = std::time::Instant::now();
        let sent = vec![7; 400];
        assert_eq!(round_trip(&mut client, &sent).await.unwrap(), sent);
        // 4 steps of 100 bytes, 50 ms each.
        assert!(begin.elapsed() >= Duration::from_millis(190), "{:?}", begin.elapsed());
    }
}
