//! Brokers for tests: Debian's Mosquitto as a process of its own, and the embedded one.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hedge_broker::{Broker, BrokerConfig};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::needs::need;
use crate::program::{Program, command};
use crate::wait_for;

const MOSQUITTO: &str = "mosquitto";
const MOSQUITTO_CONF: &str = "mosquitto.conf";

/// How long a broker may take to accept connections.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Where Debian puts it, which is not on every user's path.
const USUAL_PLACES: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

/// The one that there is: Mosquitto where it is found, else the embedded one.
#[derive(Debug)]
pub enum AnyBroker {
    /// Mosquitto.
    Mosquitto(Mosquitto),
    /// The embedded one.
    Embedded(Embedded),
}

/// A Mosquitto of this machine.
#[derive(Debug)]
pub struct Mosquitto {
    binary: PathBuf,
    program: Program,
    folder: TempDir,
    port: u16,
}

/// The broker that the demo uses, on a reactor of its own.
#[derive(Debug)]
pub struct Embedded {
    url: String,
    // Declared in this order: the broker ends before its reactor does.
    broker: Option<Broker>,
    reactor: Runtime,
}

impl AnyBroker {
    /// Starts it.
    ///
    /// # Panics
    ///
    /// If it does not start.
    #[must_use]
    pub fn start() -> Self {
        match find(MOSQUITTO) {
            Some(binary) => Self::Mosquitto(Mosquitto::launch(binary)),
            None => Self::Embedded(Embedded::start()),
        }
    }

    /// What clients connect to.
    #[must_use]
    pub fn url(&self) -> String {
        match self {
            Self::Mosquitto(broker) => broker.url(),
            Self::Embedded(broker) => broker.url().to_owned(),
        }
    }

    /// Which it is.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Mosquitto(_) => MOSQUITTO,
            Self::Embedded(_) => "the embedded broker",
        }
    }

    /// Ends it without warning, and starts it again on the same port, with nothing of what it knew.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn restart(&mut self) {
        match self {
            Self::Mosquitto(broker) => broker.restart(),
            Self::Embedded(broker) => broker.restart(),
        }
    }
}

impl Mosquitto {
    /// Starts one that lets everybody in, if the machine has it.
    ///
    /// # Panics
    ///
    /// If it is there and does not start.
    #[must_use]
    pub fn start() -> Option<Self> {
        let binary = need(MOSQUITTO, "apt-get install mosquitto", find(MOSQUITTO))?;
        Some(Self::launch(binary))
    }

    fn launch(binary: PathBuf) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        let config = folder.path().join(MOSQUITTO_CONF);
        // The example that users are given, on a port of its own.
        let example = crate::root().join("docs/examples/mosquitto.conf");
        let example = std::fs::read_to_string(&example).expect("the example configuration");
        let listener = "listener 1883 127.0.0.1\n";
        assert!(example.contains(listener), "the example listens where agent.toml and gateway.toml look");
        let text = example.replace(listener, &format!("listener {port} 127.0.0.1\nlog_dest stderr\n"));
        std::fs::write(&config, text).expect("a temporary folder can be written");
        let program = run(&binary, &config, port);
        Self { binary, program, folder, port }
    }

    fn restart(&mut self) {
        self.program.kill();
        self.program = run(&self.binary, &self.folder.path().join(MOSQUITTO_CONF), self.port);
    }

    /// What clients connect to.
    #[must_use]
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }
}

impl Embedded {
    /// Starts one.
    ///
    /// # Panics
    ///
    /// If it does not start.
    #[must_use]
    pub fn start() -> Self {
        let reactor = Runtime::new().expect("a reactor");
        let broker = reactor.block_on(Broker::start(BrokerConfig::default())).expect("the embedded broker starts");
        Self { url: broker.url(), broker: Some(broker), reactor }
    }

    fn restart(&mut self) {
        let Some(broker) = self.broker.take() else { return };
        let config = BrokerConfig { bind: broker.addr(), ..BrokerConfig::default() };
        let restarted = self.reactor.block_on(async {
            broker.stop().await;
            Broker::start(config).await
        });
        self.broker = Some(restarted.expect("the embedded broker starts again"));
    }

    /// What clients connect to.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

fn run(binary: &Path, config: &Path, port: u16) -> Program {
    let mut mosquitto = command(binary);
    mosquitto.arg("-c").arg(config);
    let program = Program::start(MOSQUITTO, mosquitto);
    wait_for("mosquitto accepts connections", START_LIMIT, || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok());
    program
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(USUAL_PLACES.map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|path: &PathBuf| Path::is_file(path))
}

/// A port that was free a moment ago; Mosquitto cannot be asked to choose one.
fn free_port() -> u16 {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a free port");
    listener.local_addr().expect("a bound port").port()
}
