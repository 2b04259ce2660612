//! The broker's life: bind, run, stop.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mqtt5::broker::config::{BrokerConfig as Mqtt5Config, StorageBackend, StorageConfig};
use mqtt5::broker::{BrokerShutdownHandle, MqttBroker};
use thiserror::Error;
use tokio::task::JoinHandle;

use crate::access::Access;
use crate::bounds;

/// How long [`Broker::start`] waits for the accept loop.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// How long [`Broker::stop`] waits for connections to be closed before it cuts them.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// What a broker is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BrokerConfig {
    /// Where to listen; with port 0 the system chooses a free one.
    pub bind: SocketAddr,
    /// The largest packet, at least [`bounds::MIN_PACKET_BYTES`]. Clients are told in the CONNACK.
    pub max_packet_bytes: usize,
    /// Who may do what.
    pub allow: Access,
}

impl Default for BrokerConfig {
    /// A free port of 127.0.0.1, for clients of this machine.
    fn default() -> Self {
        BrokerConfig {
            bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            max_packet_bytes: bounds::DEFAULT_MAX_PACKET_BYTES,
            allow: Access::Loopback,
        }
    }
}

/// Why a broker did not start.
#[derive(Debug, Error)]
pub enum BrokerError {
    /// The packet limit is out of range.
    #[error("max_packet_bytes is {actual}, but must be from {min} to {max}")]
    PacketLimit {
        /// What was asked.
        actual: usize,
        /// The least.
        min: usize,
        /// The most.
        max: usize,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {bind}: {reason}; choose another address, or port 0 for a free one")]
    Bind {
        /// The address.
        bind: SocketAddr,
        /// What the system says.
        reason: String,
    },
    /// The accept loop ended or did not come up.
    #[error("the broker on {bind} did not start: {reason}")]
    Start {
        /// The address.
        bind: SocketAddr,
        /// What happened.
        reason: String,
    },
}

/// A running broker. [`Broker::stop`] ends it in order; dropping it does so without waiting.
pub struct Broker {
    address: SocketAddr,
    shutdown: BrokerShutdownHandle,
    task: Option<JoinHandle<()>>,
}

impl Broker {
    /// Binds and runs a broker on the current tokio runtime; clients can connect when this returns.
    ///
    /// # Errors
    ///
    /// The configuration is out of range or the address is taken.
    pub async fn start(config: BrokerConfig) -> Result<Broker, BrokerError> {
        let bind = config.bind;
        let (min, max) = (bounds::MIN_PACKET_BYTES, u32::MAX as usize);
        if !(min..=max).contains(&config.max_packet_bytes) {
            return Err(BrokerError::PacketLimit { actual: config.max_packet_bytes, min, max });
        }
        let mut mqtt5 = MqttBroker::with_config(mqtt5_config(&config))
            .await
            .map_err(|error| BrokerError::Bind { bind, reason: error.to_string() })?
            .with_auth_provider(Arc::new(config.allow));
        let start_error = |reason: String| BrokerError::Start { bind, reason };
        let address = mqtt5.local_addr().ok_or_else(|| start_error("it has no listener".to_owned()))?;
        let shutdown = mqtt5.shutdown_handle();
        let mut ready = mqtt5.ready_receiver();
        let task = tokio::spawn(async move {
            if let Err(error) = mqtt5.run().await {
                tracing::error!(%error, "broker ended");
            }
        });
        // From here on a failure drops `broker`, which stops the task.
        let broker = Broker { address, shutdown, task: Some(task) };
        match tokio::time::timeout(START_TIMEOUT, ready.wait_for(|ready| *ready)).await {
            Ok(Ok(_)) => Ok(broker),
            Ok(Err(_)) => Err(start_error("it ended at once".to_owned())),
            Err(_) => Err(start_error(format!("not ready within {START_TIMEOUT:?}"))),
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// What clients of this machine connect to: `mqtt://127.0.0.1:{port}`.
    pub fn url(&self) -> String {
        let ip = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        format!("mqtt://{}", SocketAddr::new(ip, self.address.port()))
    }

    /// Closes the listener and every connection. The port is free when this returns.
    pub async fn stop(mut self) {
        self.shutdown.shutdown();
        let Some(mut task) = self.task.take() else { return };
        if tokio::time::timeout(STOP_TIMEOUT, &mut task).await.is_err() {
            task.abort();
            let _aborted = task.await;
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.shutdown.shutdown();
    }
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("address", &self.address).finish_non_exhaustive()
    }
}

fn mqtt5_config(config: &BrokerConfig) -> Mqtt5Config {
    let storage = StorageConfig::new()
        .with_backend(StorageBackend::Memory)
        .with_max_queued_messages_per_client(bounds::MAX_QUEUED_MESSAGES_PER_CLIENT)
        .with_max_queued_bytes_per_client(bounds::MAX_QUEUED_BYTES_PER_CLIENT);
    Mqtt5Config::default()
        .with_bind_address(config.bind)
        .with_max_packet_size(config.max_packet_bytes)
        .with_max_clients(bounds::MAX_CLIENTS)
        .with_session_expiry(Duration::from_secs(bounds::MAX_SESSION_EXPIRY_SECS))
        .with_maximum_qos(1)
        .with_max_subscriptions_per_client(bounds::MAX_SUBSCRIPTIONS_PER_CLIENT)
        .with_max_retained_messages(bounds::MAX_RETAINED_MESSAGES)
        .with_max_retained_message_size(bounds::MAX_RETAINED_BYTES)
        .with_client_channel_capacity(bounds::CLIENT_CHANNEL_CAPACITY)
        .with_max_outbound_inflight(bounds::MAX_OUTBOUND_INFLIGHT)
        .with_sys_topics_enabled(false)
        .with_storage(storage)
}
