//! Brokers to test against, and waiting for events without sleeping.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hedge_broker::{Broker, BrokerConfig};
use hedge_link::{
    Backoff, BrokerLimits, Incoming, LinkConfig, LinkEvent, LinkEvents, LinkHandle, Outcome, PublishId, Subscription,
};
use tokio::net::TcpStream;

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The packet limit of every broker here.
pub(crate) const BROKER_MAX_PACKET: usize = 1 << 20;

/// A broker under test.
pub(crate) enum Site {
    Embedded(Broker),
    Mosquitto(Mosquitto),
}

/// A Mosquitto process of our own.
pub(crate) struct Mosquitto {
    process: Child,
    address: SocketAddr,
    _files: tempfile::TempDir,
}

impl Site {
    pub(crate) async fn embedded() -> Site {
        Site::embedded_with(BROKER_MAX_PACKET).await
    }

    pub(crate) async fn embedded_with(max_packet_bytes: usize) -> Site {
        Site::Embedded(Broker::start(BrokerConfig { max_packet_bytes, ..BrokerConfig::default() }).await.unwrap())
    }

    /// `None`, and one line that says so, where it is not installed.
    pub(crate) async fn mosquitto() -> Option<Site> {
        Site::mosquitto_with(BROKER_MAX_PACKET).await
    }

    pub(crate) async fn mosquitto_with(max_packet_bytes: usize) -> Option<Site> {
        let Some(program) = mosquitto_program() else {
            let required = std::env::var("HEDGE_REQUIRE").is_ok_and(|required| required.contains("mosquitto"));
            assert!(!required, "HEDGE_REQUIRE asks for mosquitto, which is neither in PATH nor in /usr/sbin");
            say("skipped: mosquitto is neither in PATH nor in /usr/sbin");
            return None;
        };
        for _ in 0..5 {
            if let Some(mosquitto) = Mosquitto::start(&program, max_packet_bytes).await {
                return Some(Site::Mosquitto(mosquitto));
            }
        }
        panic!("{} does not start", program.display());
    }

    /// Another broker of the same kind, with this packet limit.
    pub(crate) async fn with_limit(&self, max_packet_bytes: usize) -> Site {
        match self {
            Site::Embedded(_) => Site::embedded_with(max_packet_bytes).await,
            Site::Mosquitto(_) => Site::mosquitto_with(max_packet_bytes).await.expect("it was there a moment ago"),
        }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        match self {
            Site::Embedded(broker) => broker.addr(),
            Site::Mosquitto(mosquitto) => mosquitto.address,
        }
    }

    /// A link's configuration: quick to reconnect, nothing else unusual.
    pub(crate) fn config(&self, client: &str) -> LinkConfig {
        config(self.addr(), client)
    }

    /// Starts a link and waits until it is up.
    pub(crate) async fn link(&self, client: &str, filters: &[&str]) -> (LinkHandle, LinkEvents) {
        up(self.config(client).subscribed(filters)).await
    }
}

impl Mosquitto {
    /// `None` where another process took the port first.
    async fn start(program: &PathBuf, max_packet_bytes: usize) -> Option<Mosquitto> {
        let port = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let files = tempfile::tempdir().unwrap();
        let access = files.path().join("access");
        std::fs::write(&access, "topic readwrite hedge/1/#\n").unwrap();
        let settings = files.path().join("mosquitto.conf");
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n\
             max_packet_size {max_packet_bytes}\nacl_file {}\nuser root\nlog_type none\n",
            access.display()
        );
        std::fs::write(&settings, text).unwrap();
        let mut process =
            Command::new(program).arg("-c").arg(&settings).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        for _ in 0..500 {
            if process.try_wait().unwrap().is_some() {
                return None;
            }
            if TcpStream::connect(address).await.is_ok() {
                return Some(Mosquitto { process, address, _files: files });
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        None
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _killed = self.process.kill();
        let _reaped = self.process.wait();
    }
}

fn mosquitto_program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join("mosquitto")).find(|program| program.is_file())
}

#[expect(clippy::print_stderr, reason = "whoever runs the tests must see what did not run")]
pub(crate) fn say(line: &str) {
    eprintln!("{line}");
}

pub(crate) fn config(address: SocketAddr, client: &str) -> LinkConfig {
    let backoff = Backoff { base: Duration::from_millis(20), cap: Duration::from_millis(200) };
    LinkConfig { backoff, keepalive: Duration::from_secs(5), ..LinkConfig::new(format!("mqtt://{address}"), client) }
}

pub(crate) trait Subscribed {
    fn subscribed(self, filters: &[&str]) -> Self;
}

impl Subscribed for LinkConfig {
    fn subscribed(mut self, filters: &[&str]) -> Self {
        self.subscriptions = filters.iter().map(|filter| Subscription::at_least_once(*filter)).collect();
        self
    }
}

/// Starts a link and waits until it is up.
pub(crate) async fn up(config: LinkConfig) -> (LinkHandle, LinkEvents) {
    let (handle, mut events) = hedge_link::start(config).unwrap();
    events.up().await;
    assert!(handle.is_up());
    (handle, events)
}

/// Waiting for one kind of event; others on the way are dropped unless said otherwise.
pub(crate) trait Await {
    async fn event(&mut self) -> LinkEvent;
    async fn up(&mut self) -> BrokerLimits;
    async fn down(&mut self) -> String;
    async fn message(&mut self) -> Incoming;
    async fn outcome(&mut self, id: PublishId) -> Outcome;
    async fn silent_for(&mut self, time: Duration);
}

impl Await for LinkEvents {
    async fn event(&mut self) -> LinkEvent {
        tokio::time::timeout(PATIENCE, self.next()).await.expect("an event in time").expect("the link goes on")
    }

    async fn up(&mut self) -> BrokerLimits {
        loop {
            if let LinkEvent::Up { limits } = self.event().await {
                return limits;
            }
        }
    }

    async fn down(&mut self) -> String {
        loop {
            if let LinkEvent::Down { reason } = self.event().await {
                return reason;
            }
        }
    }

    async fn message(&mut self) -> Incoming {
        loop {
            match self.event().await {
                LinkEvent::Message(message) => return message,
                LinkEvent::Down { reason } => panic!("down while waiting for a message: {reason}"),
                _ => {}
            }
        }
    }

    async fn outcome(&mut self, wanted: PublishId) -> Outcome {
        loop {
            match self.event().await {
                LinkEvent::Published { id, outcome } if id == wanted => return outcome,
                LinkEvent::Down { reason } => panic!("down while waiting for an outcome: {reason}"),
                _ => {}
            }
        }
    }

    async fn silent_for(&mut self, time: Duration) {
        if let Ok(event) = tokio::time::timeout(time, self.next()).await {
            panic!("unexpected {event:?}");
        }
    }
}
