//! The sending end of a link, and what it shares with the polling task.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rumqttc::v5::AsyncClient;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Publish;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::config::CLOSE_TIMEOUT;
use crate::message::{BrokerLimits, Incoming, Outgoing, PublishError, PublishId, Qos, packet_bytes, properties};

/// What agents and gateways need of a link; a fake of it makes them testable without a network.
pub trait Link: Send + Sync {
    /// Whether a publish would be taken now.
    fn is_up(&self) -> bool;
    /// See [`LinkHandle::publish`].
    fn publish(&self, message: Outgoing) -> Result<PublishId, PublishError>;
    /// See [`LinkHandle::ack`].
    fn ack(&self, message: &Incoming);
}

/// Publishes and acknowledges. Clones share the link; when the last one is dropped the link ends without a DISCONNECT, so
/// that the broker publishes the will.
#[derive(Clone, Debug)]
pub struct LinkHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    close: mpsc::Sender<()>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// What the handles and the polling task have in common. Locks are held for a few instructions and never across an await.
#[derive(Debug)]
pub(crate) struct Shared {
    up: AtomicBool,
    next_id: AtomicU64,
    /// Publishes that may wait for the socket.
    queue: usize,
    connection: Mutex<Option<Connection>>,
}

/// The connection of the moment, from its CONNACK to its end.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) number: u64,
    pub(crate) client: AsyncClient,
    pub(crate) limits: BrokerLimits,
    /// What is in rumqttc's channel, in its order: rumqttc names a publish only once it is sent.
    pub(crate) queued: VecDeque<PublishId>,
}

impl LinkHandle {
    pub(crate) fn new(shared: Arc<Shared>, close: mpsc::Sender<()>, task: JoinHandle<()>) -> Self {
        LinkHandle { inner: Arc::new(Inner { shared, close, task: Mutex::new(Some(task)) }) }
    }

    /// Whether a publish would be taken now.
    pub fn is_up(&self) -> bool {
        self.inner.shared.is_up()
    }

    /// Queues a message; its fate is told by [`crate::LinkEvent::Published`] or [`crate::LinkEvent::Down`]. Never blocks.
    ///
    /// # Errors
    ///
    /// The message is not queued and nothing more will be heard of it.
    pub fn publish(&self, message: Outgoing) -> Result<PublishId, PublishError> {
        self.inner.shared.publish(message)
    }

    /// Tells the broker that a message with QoS 1 has been taken over. Without effect for QoS 0, and for a connection that has
    /// ended since (the broker then delivers it again).
    pub fn ack(&self, message: &Incoming) {
        self.inner.shared.ack(message);
    }

    /// Sends what is queued and the farewell, disconnects, and ends the link for all handles, within [`CLOSE_TIMEOUT`].
    pub async fn close(self) {
        let task = lock(&self.inner.task).take();
        let _already_asked = self.inner.close.try_send(());
        let Some(mut task) = task else { return };
        // The task keeps to the timeout itself; this is for one that cannot run.
        let bound = CLOSE_TIMEOUT + Duration::from_millis(500);
        if tokio::time::timeout(bound, &mut task).await.is_err() {
            task.abort();
        }
    }
}

impl Link for LinkHandle {
    fn is_up(&self) -> bool {
        LinkHandle::is_up(self)
    }

    fn publish(&self, message: Outgoing) -> Result<PublishId, PublishError> {
        LinkHandle::publish(self, message)
    }

    fn ack(&self, message: &Incoming) {
        LinkHandle::ack(self, message);
    }
}

impl Shared {
    pub(crate) fn new(queue: usize) -> Self {
        Shared { up: AtomicBool::new(false), next_id: AtomicU64::new(1), queue, connection: Mutex::new(None) }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// A connection has begun; acknowledgements go out, publishes not yet.
    pub(crate) fn connected(&self, connection: Connection) {
        *self.connection() = Some(connection);
    }

    /// Whether publishes are taken from now on.
    pub(crate) fn set_up(&self, up: bool) {
        self.up.store(up, Ordering::Release);
    }

    /// The connection has ended: what is queued is forgotten.
    pub(crate) fn disconnected(&self) {
        self.set_up(false);
        *self.connection() = None;
    }

    /// The oldest queued publish, which rumqttc has just sent.
    pub(crate) fn sent(&self) -> Option<PublishId> {
        self.connection().as_mut()?.queued.pop_front()
    }

    /// Queues a message of the link's own (birth, farewell), past the queue's bound and before `Up`.
    pub(crate) fn publish_own(&self, message: Outgoing) -> Result<PublishId, PublishError> {
        self.connection().as_mut().ok_or(PublishError::Down)?.enqueue(message, &self.next_id)
    }

    fn publish(&self, message: Outgoing) -> Result<PublishId, PublishError> {
        let mut connection = self.connection();
        let connection = connection.as_mut().filter(|_| self.is_up()).ok_or(PublishError::Down)?;
        if connection.queued.len() >= self.queue {
            return Err(PublishError::QueueFull);
        }
        connection.enqueue(message, &self.next_id)
    }

    fn ack(&self, message: &Incoming) {
        let receipt = message.receipt;
        let connection = self.connection();
        let Some(connection) = connection.as_ref().filter(|connection| connection.number == receipt.connection) else {
            return;
        };
        if receipt.packet == 0 {
            return;
        }
        // The channel has room for as many acknowledgements as the broker may leave open, so this fails only where it sends
        // more than that; it will then deliver the message again.
        let publish = Publish { qos: QoS::AtLeastOnce, pkid: receipt.packet, ..Publish::default() };
        if connection.client.try_ack(&publish).is_err() {
            tracing::debug!(packet = receipt.packet, "acknowledgement dropped");
        }
    }

    fn connection(&self) -> MutexGuard<'_, Option<Connection>> {
        lock(&self.connection)
    }
}

impl Connection {
    /// Hands a message to rumqttc. The size is checked first: rumqttc would take a packet above the broker's limit, fail to
    /// write it, and drop the connection with everything in it.
    fn enqueue(&mut self, message: Outgoing, next_id: &AtomicU64) -> Result<PublishId, PublishError> {
        let qos = message.qos.min(self.limits.max_qos);
        let retain = message.retain && self.limits.retain;
        let properties = properties(&message).ok_or(PublishError::Invalid)?;
        let (limit, size) = (self.limits.max_packet_bytes, packet_bytes(&message, qos));
        if size > limit {
            return Err(PublishError::TooLarge { limit, size });
        }
        let Outgoing { topic, payload, .. } = message;
        self.client
            .try_publish_with_properties(topic, qos.to_mqtt(), retain, payload, properties)
            .map_err(|_| PublishError::QueueFull)?;
        let id = PublishId(next_id.fetch_add(1, Ordering::Relaxed));
        // Under the lock that `sent` takes, so the polling task cannot have looked for it yet.
        self.queued.push_back(id);
        Ok(id)
    }
}

/// A panic while holding one of these locks leaves nothing half-done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BrokerLimits {
    /// Whether PUBACKs are to be expected.
    pub(crate) fn acknowledges(&self) -> bool {
        self.max_qos == Qos::AtLeastOnce
    }
}
