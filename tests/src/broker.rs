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

/// How long a broker may take to accept connections.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Where Debian puts it, which is not on every user's path.
const USUAL_PLACES: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

/// A Mosquitto of this machine.
#[derive(Debug)]
pub struct Mosquitto {
    _program: Program,
    _folder: TempDir,
    port: u16,
}

/// The broker that the demo uses, on a reactor of its own.
#[derive(Debug)]
pub struct Embedded {
    url: String,
    // Declared in this order: the broker ends before its reactor does.
    _broker: Broker,
    _reactor: Runtime,
}

impl Mosquitto {
    /// Starts one that lets everybody in, if the machine has it.
    ///
    /// # Panics
    ///
    /// If it is there and does not start.
    #[must_use]
    pub fn start() -> Option<Self> {
        let program = need("mosquitto", "apt-get install mosquitto", find("mosquitto"))?;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        let config = folder.path().join("mosquitto.conf");
        // The example that users are given, on a port of its own.
        let example = crate::root().join("docs/examples/mosquitto.conf");
        let example = std::fs::read_to_string(&example).expect("the example configuration");
        let listener = "listener 1883 127.0.0.1\n";
        assert!(example.contains(listener), "the example listens where agent.toml and gateway.toml look");
        let text = example.replace(listener, &format!("listener {port} 127.0.0.1\nlog_dest stderr\n"));
        std::fs::write(&config, text).expect("a temporary folder can be written");
        let mut mosquitto = command(&program);
        mosquitto.arg("-c").arg(&config);
        let program = Program::start("mosquitto", mosquitto);
        wait_for("mosquitto accepts connections", START_LIMIT, || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok());
        Some(Self { _program: program, _folder: folder, port })
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
        Self { url: broker.url(), _broker: broker, _reactor: reactor }
    }

    /// What clients connect to.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
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
