//! The small world of the demonstration: a broker, a gateway, and an agent whose way to the broker can be cut, all in this
//! process on free loopback ports, each used through its public interface only.
//!
//! ```text
//! client ──HTTP──> agent ──MQTT──> proxy ──MQTT──> broker <──MQTT── gateway
//! ```

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hedge_agent::{Agent, RouteSection};
use hedge_broker::proxy::{Mode, Proxy};
use hedge_broker::{Broker, BrokerConfig};
use hedge_certify::{Certificate, Plan};
use hedge_engine::DeviceChoice;
use hedge_gateway::Gateway;
use hedge_zoo::digits::{self, Manifest};
use tempfile::TempDir;

use super::calibrate;
use super::client::{Client, Served};
use super::metrics::Metrics;
use super::script::Phase;
use super::story::Route;

const LOOPBACK: &str = "127.0.0.1:0";
/// How long a request may take. Generous, so that a loaded machine changes how long answers take, not where they come from.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long the parts may take to find one another.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// How long the agent may take to notice that its link is cut or back: it waits up to 30 s between attempts to connect.
const LINK_PATIENCE: Duration = Duration::from_secs(45);
/// How long a phase may wait in all for the agent to settle: longer than the pauses that it makes after unanswered audits.
pub(super) const SETTLE_PATIENCE: Duration = Duration::from_secs(30);
/// Rows run at once. With more, which rows share a batch depends on timing, and with it the last bits of the logits: two
/// runs would differ by some 1e-6.
const MAX_BATCH: usize = 1;
/// How often the parts are asked.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// The share of requests that is audited in calm times; 2 % by default. A demonstration has a few thousand requests, not a
/// day's, so that it audits more and takes fewer labels than is the default: what it shows is the way, not the cost.
pub(super) const AUDIT_RATE: f64 = 0.05;
/// The share once scores have shifted; 20 % by default.
pub(super) const BOOST_RATE: f64 = 0.5;
/// The labels for a new certificate; 7,000 by default.
pub(super) const RECERTIFY: Plan = Plan { fit: 400, tune: 400, calibration: 1000 };
/// How many requests a certificate is watched for before it is used, at most; 500 by default.
const SHADOW: usize = 200;
/// The share of all requests that this may be, where they are few: one in so many.
const SHADOW_DIVISOR: usize = 40;

/// The models' files, and where the agent keeps its state; deleted with this.
pub(super) struct Files {
    folder: TempDir,
}

/// Everything that runs.
pub(super) struct World {
    broker: Broker,
    proxy: Proxy,
    gateway: Gateway,
    agent: Agent,
    to_agent: Client,
    to_gateway: Client,
    /// Dropped last.
    _files: Files,
}

/// What runs on what.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    /// The agent's model.
    pub(super) edge: Served,
    /// The gateway's.
    pub(super) cloud: Served,
}

/// How many requests a certificate is watched for before it is used, out of `total`.
pub(super) fn shadow(total: usize) -> u64 {
    SHADOW.min(total / SHADOW_DIVISOR) as u64
}

impl Files {
    /// Writes the models into a new folder.
    pub(super) async fn write() -> Result<Self> {
        let files = Self { folder: tempfile::tempdir().context("no folder for the agent's state")? };
        tokio::fs::write(files.edge(), digits::edge_onnx()).await?;
        tokio::fs::write(files.cloud(), digits::cloud_onnx()).await?;
        Ok(files)
    }

    /// The agent's model.
    pub(super) fn edge(&self) -> PathBuf {
        self.folder.path().join("edge.onnx")
    }

    /// The gateway's model.
    pub(super) fn cloud(&self) -> PathBuf {
        self.folder.path().join("cloud.onnx")
    }

    fn certificate(&self) -> PathBuf {
        self.folder.path().join("certificate.json")
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }
}

impl World {
    /// Starts everything; returns when the agent is ready and knows of the gateway. A certificate is watched for `shadow`
    /// requests before it is used; without one, nothing that the agent answers is certified.
    pub(super) async fn start(
        files: Files,
        device: DeviceChoice,
        manifest: &Manifest,
        certificate: Option<&Certificate>,
        shadow: u64,
    ) -> Result<Self> {
        if let Some(certificate) = certificate {
            tokio::fs::write(files.certificate(), certificate.to_json()).await?;
        }
        let route = certificate.map(|_| route(&files.certificate(), shadow)).unwrap_or_default();

        let broker = Broker::start(BrokerConfig::default()).await.context("the broker does not start")?;
        let proxy = Proxy::start(broker.addr()).await.context("the proxy does not start")?;
        let gateway = Box::pin(hedge_gateway::start(gateway_config(&broker.url(), device, &files.cloud())));
        let gateway = gateway.await.context("the gateway does not start")?;
        let agent = Box::pin(hedge_agent::start(agent_config(&proxy.url(), device, &files, manifest, route)));
        let agent = agent.await.context("the agent does not start")?;

        let address: SocketAddr = agent.http_addr().context("the agent has no address")?;
        let (to_agent, to_gateway) = (Client::new(address)?, Client::new(gateway.http_addr())?);
        let world = Self { broker, proxy, gateway, agent, to_agent, to_gateway, _files: files };
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

    /// What the agent says of its certificates once its state is on disk and its audits are answered, or all of `patience` is
    /// used up. While the link is cut audits are not waited for: they are asked when it is back.
    pub(super) async fn settled(&self, phase: Phase, patience: &mut Duration) -> Result<Route> {
        let begun = Instant::now();
        loop {
            let route = self.to_agent.route().await?;
            let audited = phase == Phase::Cut || route.audits_waiting() == 0;
            if audited && route.is_saved() || begun.elapsed() >= *patience {
                *patience = patience.saturating_sub(begun.elapsed());
                return Ok(route);
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
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

/// The contract, and how it is kept.
fn route(certificate: &Path, shadow: u64) -> RouteSection {
    let target = calibrate::target();
    RouteSection {
        contract: Some(target.contract().name().to_owned()),
        alpha: target.alpha(),
        delta: target.delta(),
        certificate: Some(certificate.to_owned()),
        audit_rate: AUDIT_RATE,
        boost_rate: BOOST_RATE,
        fit_labels: RECERTIFY.fit,
        tune_labels: RECERTIFY.tune,
        calibration_labels: RECERTIFY.calibration,
        shadow_requests: shadow,
        ..RouteSection::default()
    }
}

fn agent_config(
    broker: &str,
    device: DeviceChoice,
    files: &Files,
    manifest: &Manifest,
    route: RouteSection,
) -> hedge_agent::Config {
    use hedge_agent::{AgentSection, Config, EngineSection, HttpSection, LinkSection, ModelSection, OffloadSection};
    let deadline_ms = u64::try_from(DEADLINE.as_millis()).expect("a deadline of seconds");
    Config {
        agent: AgentSection {
            device_id: Some("demo-device".into()),
            device_class: Some(calibrate::DEVICE_CLASS.into()),
            state_dir: files.state(),
            ..AgentSection::default()
        },
        http: HttpSection { listen: LOOPBACK.into(), ..HttpSection::default() },
        engine: EngineSection { device: device.to_string(), max_batch: MAX_BATCH, ..EngineSection::default() },
        link: LinkSection { url: Some(broker.into()), ..LinkSection::default() },
        offload: OffloadSection { deadline_ms, ..OffloadSection::default() },
        models: vec![ModelSection {
            labels: manifest.labels.clone(),
            route,
            ..ModelSection::offloading(digits::NAME, files.edge(), manifest.threshold)
        }],
        ..Config::default()
    }
}
