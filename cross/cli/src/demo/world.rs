//! The small world of the demonstration: a broker, a gateway, and an agent whose way to the broker can be cut, all in this
//! process on free loopback ports, each used through its public interface only.
//!
//! ```text
//! client ──HTTP──> agent ──MQTT──> proxy ──MQTT──> broker <──MQTT── gateway
//! ```

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hedge_agent::Agent;
use hedge_broker::proxy::{Mode, Proxy};
use hedge_broker::{Broker, BrokerConfig};
use hedge_engine::DeviceChoice;
use hedge_gateway::Gateway;
use hedge_zoo::digits::{self, Manifest};
use tempfile::TempDir;

use super::client::{Client, Served};
use super::metrics::Metrics;

const LOOPBACK: &str = "127.0.0.1:0";
/// How long a request may take. Generous, so that a loaded machine changes how long answers take, not where they come from.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long the parts may take to find one another.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// How long the agent may take to notice that its link is cut or back: it waits up to 30 s between attempts to connect.
const LINK_PATIENCE: Duration = Duration::from_secs(45);
/// Rows run at once. With more, which rows share a batch depends on timing, and with it the last bits of the logits: two
/// runs would differ by some 1e-6.
const MAX_BATCH: usize = 1;
/// How often the parts are asked.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// Everything that runs.
pub(super) struct World {
    broker: Broker,
    proxy: Proxy,
    gateway: Gateway,
    agent: Agent,
    to_agent: Client,
    to_gateway: Client,
    /// The agent's state and the models' files; deleted last.
    _folder: TempDir,
}

/// What runs on what.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    /// The agent's model.
    pub(super) edge: Served,
    /// The gateway's.
    pub(super) cloud: Served,
}

impl World {
    /// Starts everything; returns when the agent is ready and knows of the gateway.
    pub(super) async fn start(device: DeviceChoice, manifest: &Manifest) -> Result<Self> {
        let folder = tempfile::tempdir().context("no folder for the agent's state")?;
        let (edge, cloud) = (folder.path().join("edge.onnx"), folder.path().join("cloud.onnx"));
        tokio::fs::write(&edge, digits::edge_onnx()).await?;
        tokio::fs::write(&cloud, digits::cloud_onnx()).await?;

        let broker = Broker::start(BrokerConfig::default()).await.context("the broker does not start")?;
        let proxy = Proxy::start(broker.addr()).await.context("the proxy does not start")?;
        let gateway = Box::pin(hedge_gateway::start(gateway_config(&broker.url(), device, &cloud)));
        let gateway = gateway.await.context("the gateway does not start")?;
        let state = folder.path().join("state");
        let agent = Box::pin(hedge_agent::start(agent_config(&proxy.url(), device, &edge, &state, manifest)));
        let agent = agent.await.context("the agent does not start")?;

        let address: SocketAddr = agent.http_addr().context("the agent has no address")?;
        let (to_agent, to_gateway) = (Client::new(address)?, Client::new(gateway.http_addr())?);
        let world = Self { broker, proxy, gateway, agent, to_agent, to_gateway, _folder: folder };
        world.connected().await?;
        Ok(world)
    }

    /// The agent's API.
    pub(super) fn client(&self) -> &Client {
        &self.to_agent
    }

    /// What agent and gateway say of their models.
    pub(super) async fn parts(&self) -> Result<Parts> {
        let edge = self.to_agent.served().await?;
        let metrics = self.to_gateway.metrics().await?;
        let of =
            |label| metrics.label("hedge_gateway_model_info", &[("model", digits::NAME)], label).map(str::to_owned);
        let cloud = of("digest").zip(of("device")).map(|(digest, device)| Served { digest, device });
        Ok(Parts { edge, cloud: cloud.context("the gateway's metrics name no model")? })
    }

    /// Payload bytes that the agent has sent to the cloud so far.
    pub(super) async fn bytes_up(&self) -> Result<u64> {
        let metrics = self.to_agent.metrics().await?;
        Ok(metrics.sum("hedge_offload_bytes_total", &[("direction", "up")]) as u64)
    }

    /// Cuts the agent's way to the broker; returns when the agent says so.
    pub(super) async fn cut(&self) -> Result<()> {
        self.proxy.set(Mode::Cut);
        self.agent_says("that its link is down", LINK_PATIENCE, |metrics| !link_up(metrics)).await
    }

    /// Restores it; returns when the agent's link is up and it knows of a gateway.
    pub(super) async fn heal(&self) -> Result<()> {
        self.proxy.set(Mode::Pass);
        self.agent_says("that it is back", LINK_PATIENCE, cloud_reachable).await
    }

    /// Stops everything, in the order in which nothing is missed.
    pub(super) async fn stop(self) {
        self.agent.shutdown().await;
        self.gateway.shutdown().await;
        drop(self.proxy);
        self.broker.stop().await;
    }

    async fn connected(&self) -> Result<()> {
        let begun = Instant::now();
        while !(self.to_agent.is_ok("/v2/health/ready").await? && self.to_gateway.is_ok("/healthz").await?) {
            if begun.elapsed() > START_PATIENCE {
                bail!("agent and gateway are not both ready after {} s", START_PATIENCE.as_secs());
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
        self.agent_says("that a gateway is there", START_PATIENCE, cloud_reachable).await
    }

    async fn agent_says(&self, what: &str, patience: Duration, holds: fn(&Metrics) -> bool) -> Result<()> {
        let begun = Instant::now();
        while !holds(&self.to_agent.metrics().await?) {
            if begun.elapsed() > patience {
                bail!("the agent does not say {what} within {} s", patience.as_secs());
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
        Ok(())
    }
}

fn link_up(metrics: &Metrics) -> bool {
    metrics.sum("hedge_link_up", &[]) > 0.0
}

fn cloud_reachable(metrics: &Metrics) -> bool {
    link_up(metrics) && metrics.sum("hedge_gateways_present", &[]) > 0.0
}

fn gateway_config(broker: &str, device: DeviceChoice, model: &Path) -> hedge_gateway::Config {
    use hedge_gateway::{Config, EngineConfig, GatewayConfig, HttpConfig, LinkConfig, ModelConfig};
    Config {
        gateway: GatewayConfig { gateway_id: "demo-gateway".into(), ..GatewayConfig::default() },
        http: HttpConfig { listen: LOOPBACK.parse().expect("a socket address") },
        link: LinkConfig { url: broker.into(), ..LinkConfig::default() },
        engine: EngineConfig { device: device.to_string(), max_batch: MAX_BATCH, ..EngineConfig::default() },
        models: vec![ModelConfig { name: digits::NAME.into(), path: model.into(), route: None }],
        ..Config::default()
    }
}

fn agent_config(
    broker: &str,
    device: DeviceChoice,
    model: &Path,
    state: &Path,
    manifest: &Manifest,
) -> hedge_agent::Config {
    use hedge_agent::{AgentSection, Config, EngineSection, HttpSection, LinkSection, ModelSection, OffloadSection};
    let deadline_ms = u64::try_from(DEADLINE.as_millis()).expect("a deadline of seconds");
    Config {
        agent: AgentSection {
            device_id: Some("demo-device".into()),
            state_dir: state.into(),
            ..AgentSection::default()
        },
        http: HttpSection { listen: LOOPBACK.into(), ..HttpSection::default() },
        engine: EngineSection { device: device.to_string(), max_batch: MAX_BATCH, ..EngineSection::default() },
        link: LinkSection { url: Some(broker.into()), ..LinkSection::default() },
        offload: OffloadSection { deadline_ms, ..OffloadSection::default() },
        models: vec![ModelSection {
            labels: manifest.labels.clone(),
            ..ModelSection::offloading(digits::NAME, model, manifest.threshold)
        }],
        ..Config::default()
    }
}
