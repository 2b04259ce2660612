//! `hedge-agent` and `hedge-gateway` as processes, configured as a user would.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::binaries::binaries;
use crate::http::Client;
use crate::program::{Program, command};
use crate::{digits, wait_for};

/// How long a daemon may take to load its models and answer; generous, for a debug build on a busy machine.
pub const START_LIMIT: Duration = Duration::from_secs(60);

/// The configurations in their folders.
const AGENT_TOML: &str = "agent.toml";
const GATEWAY_TOML: &str = "gateway.toml";

/// How an agent is set up.
#[derive(Debug, Clone)]
pub struct AgentSetup {
    /// `agent.device_id`.
    pub device: String,
    /// `link.url`; none: there is no cloud.
    pub broker: Option<String>,
    /// `link.class_key`; none: no gateway is heard about the class.
    pub class_key: Option<String>,
    /// Threshold of the bundled edge model; none: it never leaves the device.
    pub threshold: Option<f32>,
    /// Whether results are cached.
    pub cache: bool,
    /// Further models, which never leave the device.
    pub more_models: Vec<(String, PathBuf)>,
    /// Further models, all of whose rows go to the cloud.
    pub offloaded: Vec<(String, PathBuf)>,
    /// What is set in the agent's environment.
    pub environment: Vec<(&'static str, String)>,
    /// Further TOML, before the models.
    pub more: String,
    /// Further TOML of the bundled edge model, such as its `[models.route]`.
    pub route: String,
}

/// A running agent that serves the bundled edge model as `digits`.
#[derive(Debug)]
pub struct Agent {
    /// Its process.
    pub program: Program,
    /// Where its API is.
    pub address: SocketAddr,
    /// Its configuration and its state.
    pub folder: TempDir,
}

/// A running gateway that serves the bundled cloud model as `digits`.
#[derive(Debug)]
pub struct Gateway {
    id: String,
    /// Its process.
    pub program: Program,
    /// Where its metrics are.
    pub address: SocketAddr,
    folder: TempDir,
}

impl Default for AgentSetup {
    fn default() -> Self {
        Self {
            device: "device-1".into(),
            broker: None,
            class_key: None,
            threshold: None,
            cache: true,
            more_models: Vec::new(),
            offloaded: Vec::new(),
            environment: Vec::new(),
            more: String::new(),
            route: String::new(),
        }
    }
}

impl AgentSetup {
    /// Starts the agent and waits until it is ready.
    ///
    /// # Panics
    ///
    /// If it does not become ready.
    #[must_use]
    pub fn start(&self) -> Agent {
        self.launch(self.prepare())
    }

    /// A folder with the configuration, whose state will lie in `state`.
    ///
    /// # Panics
    ///
    /// If there is no room for it.
    #[must_use]
    pub fn prepare(&self) -> TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = folder.path().join(AGENT_TOML);
        std::fs::write(&config, self.toml(&folder.path().join("state"))).expect("a temporary folder can be written");
        folder
    }

    /// Starts the agent in a folder that was prepared, and waits until it is ready.
    ///
    /// # Panics
    ///
    /// If it does not become ready.
    #[must_use]
    pub fn launch(&self, folder: TempDir) -> Agent {
        let mut agent = agent_in(&folder);
        agent.envs(self.environment.iter().cloned());
        Agent::launch(agent, folder)
    }

    fn toml(&self, state: &Path) -> String {
        let mut text = format!(
            "[agent]\ndevice_id = {:?}\nstate_dir = {state:?}\n\n[http]\nlisten = \"127.0.0.1:0\"\n\n\
             [engine]\ndevice = \"cpu\"\n\n[cache]\nenabled = {}\n\n[log]\nformat = \"json\"\n\n",
            self.device, self.cache
        );
        if let Some(url) = &self.broker {
            let _ = writeln!(text, "[link]\nurl = {url:?}\nkeepalive_secs = 5\nreconnect_max_secs = 5");
            if let Some(key) = &self.class_key {
                let _ = writeln!(text, "class_key = {key:?}");
            }
        }
        text.push('\n');
        text.push_str(&self.more);
        let _ = writeln!(text, "\n[[models]]\nname = \"digits\"\npath = {:?}", digits::edge_model());
        match self.threshold {
            Some(threshold) => {
                let _ = writeln!(text, "threshold = {threshold:?}");
            }
            None => text.push_str("offload = \"never\"\n"),
        }
        text.push_str(&self.route);
        for (name, path) in &self.more_models {
            let _ = writeln!(text, "\n[[models]]\nname = {name:?}\npath = {path:?}\noffload = \"never\"");
        }
        for (name, path) in &self.offloaded {
            let _ = writeln!(text, "\n[[models]]\nname = {name:?}\npath = {path:?}\nthreshold = 1.0");
        }
        text
    }
}

impl Agent {
    /// Ends it, if it runs, and starts it again with the same configuration and state.
    ///
    /// # Panics
    ///
    /// If it does not become ready.
    #[must_use]
    pub fn restart(self) -> Self {
        let Self { mut program, folder, .. } = self;
        program.kill();
        Self::launch(agent_in(&folder), folder)
    }

    fn launch(agent: Command, folder: TempDir) -> Self {
        let mut program = Program::start("agent", agent);
        let address = program.wait_for_field("listening", "address", START_LIMIT).parse().expect("an address");
        wait_for("the agent is ready", START_LIMIT, || {
            Client::new(address).get("/v2/health/ready").ok().filter(|response| response.status == 200)
        });
        Self { program, address, folder }
    }

    /// A client of its API.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.address)
    }

    /// The value of a metric without labels.
    #[must_use]
    pub fn metric(&self, name: &str) -> Option<f64> {
        metric(self.address, name)
    }

    /// Waits until the agent sees `gateways` of them.
    ///
    /// # Panics
    ///
    /// If it does not in time.
    pub fn wait_for_gateways(&self, gateways: usize) {
        wait_for(&format!("the agent sees {gateways} gateways"), START_LIMIT, || {
            let up = self.metric("hedge_link_up") == Some(1.0);
            let present = self.metric("hedge_gateways_present") == Some(gateways as f64);
            (up && present).then_some(())
        });
    }
}

impl Gateway {
    /// Starts a gateway and waits until it is healthy.
    ///
    /// # Panics
    ///
    /// If it does not become healthy.
    #[must_use]
    pub fn start(id: &str, broker: &str) -> Self {
        Self::start_with(id, broker, "")
    }

    /// As [`Gateway::start`], with further lines of the section `[engine]`.
    ///
    /// # Panics
    ///
    /// As [`Gateway::start`].
    #[must_use]
    pub fn start_with(id: &str, broker: &str, engine: &str) -> Self {
        Self::configure(id, broker, ("", engine, ""))
    }

    /// As [`Gateway::start`], with a further model.
    ///
    /// # Panics
    ///
    /// As [`Gateway::start`].
    #[must_use]
    pub fn start_serving(id: &str, broker: &str, name: &str, path: &Path) -> Self {
        Self::configure(id, broker, ("", "", &format!("\n[[models]]\nname = {name:?}\npath = {path:?}")))
    }

    /// As [`Gateway::start`], with a state folder and a `[models.route]` of these lines, by which it pools.
    ///
    /// # Panics
    ///
    /// As [`Gateway::start`].
    #[must_use]
    pub fn start_pooling(id: &str, broker: &str, route: &str) -> Self {
        Self::configure(id, broker, ("state_dir = \"state\"", "", &format!("[models.route]\n{route}")))
    }

    /// Ends it, if it runs, and starts it again with the same configuration and state.
    ///
    /// # Panics
    ///
    /// If it does not become healthy.
    #[must_use]
    pub fn restart(self) -> Self {
        let Self { mut program, id, folder, .. } = self;
        program.kill();
        Self::launch(&id, folder)
    }

    /// The value of a metric without labels.
    #[must_use]
    pub fn metric(&self, name: &str) -> Option<f64> {
        metric(self.address, name)
    }

    /// What a pooling gateway wrote for the agents' `link.class_key`.
    ///
    /// # Panics
    ///
    /// If it did not.
    #[must_use]
    pub fn class_key(&self) -> String {
        let key = std::fs::read_to_string(self.folder.path().join("state/class-key.pub"));
        key.expect("a pooling gateway writes its public key").trim_end().to_owned()
    }

    fn configure(id: &str, broker: &str, (section, engine, model): (&str, &str, &str)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let text = format!(
            "[gateway]\ngateway_id = {id:?}\n{section}\n\n[http]\nlisten = \"127.0.0.1:0\"\n\n[link]\nurl = {broker:?}\n\
             keepalive_secs = 5\nreconnect_max_secs = 5\n\n[engine]\ndevice = \"cpu\"\n{engine}\n\n[log]\nformat = \"json\"\n\n\
             [[models]]\nname = \"digits\"\npath = {:?}\n{model}\n",
            digits::cloud_model()
        );
        std::fs::write(folder.path().join(GATEWAY_TOML), text).expect("a temporary folder can be written");
        Self::launch(id, folder)
    }

    fn launch(id: &str, folder: TempDir) -> Self {
        let mut gateway = command(&binaries().gateway);
        // What the configuration names without a folder is in this one.
        gateway.current_dir(folder.path()).arg("--config").arg(GATEWAY_TOML);
        let mut program = Program::start(id, gateway);
        let address = program.wait_for_field("serving /metrics and /healthz", "address", START_LIMIT);
        let address = address.parse().expect("an address");
        wait_for(&format!("{id} is healthy"), START_LIMIT, || {
            Client::new(address).get("/healthz").ok().filter(|response| response.status == 200)
        });
        Self { id: id.to_owned(), program, address, folder }
    }
}

/// The value of a metric without labels, at `address`.
#[must_use]
pub fn metric(address: SocketAddr, name: &str) -> Option<f64> {
    let text = Client::new(address).get("/metrics").ok()?.text();
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// An agent by the configuration in this folder.
fn agent_in(folder: &TempDir) -> Command {
    let mut agent = command(&binaries().agent);
    agent.arg("--config").arg(folder.path().join(AGENT_TOML));
    agent
}
