//! A broker, and a gateway on it whose model is a test's: it counts what it is asked, and answers if it is told to.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hedge_broker::{Broker, BrokerConfig};
use hedge_link::{Birth, Incoming, LinkConfig, LinkEvent, LinkHandle, Outgoing, Subscription, Will};
use hedge_tensor::{NamedTensor, Tensor};
use hedge_wire::{
    BootId, Digest, GatewayId, GatewayPresence, ModelId, Query, Reply, RequestId, TenantId, Topic, Verdict,
};

/// What the gateway's model says of everything.
pub(crate) const LOGITS: [f32; 3] = [0.0, 9.0, 0.0];

pub(crate) async fn broker() -> Broker {
    Broker::start(BrokerConfig::default()).await.expect("the broker starts")
}

/// Has an agent connect to a broker.
pub(crate) fn connect(config: &mut hedge_agent::Config, url: &str) {
    config.agent.device_id = Some("d1".into());
    config.link.url = Some(url.to_owned());
    config.link.keepalive_secs = 5;
}

pub(crate) struct Gateway {
    link: LinkHandle,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    silent: AtomicBool,
    /// How often each request was asked.
    asked: Mutex<BTreeMap<[u8; 16], usize>>,
}

impl Gateway {
    /// One that serves the model `tiny`; a silent one answers nothing.
    pub(crate) fn start(url: &str, silent: bool) -> Self {
        let tenant = TenantId::parse("default").unwrap();
        let gateway = GatewayId::parse("g1").unwrap();
        let presence = |online| {
            let models = vec![(ModelId::from_name("tiny"), Digest([7; 32]))];
            GatewayPresence { gateway: gateway.clone(), boot: BootId(3), online, models }.encode()
        };
        let topic = Topic::GatewayPresence { gateway: gateway.clone() }.path(&tenant);
        let config = LinkConfig {
            subscriptions: vec![Subscription::at_least_once("$share/gw/hedge/1/default/q/tiny/+")],
            birth: Some(Birth { topic: topic.clone(), payload: presence(true).into() }),
            farewell: Some(Birth { topic: topic.clone(), payload: presence(false).into() }),
            will: Some(Will { topic, payload: presence(false).into(), retain: true, delay: Duration::ZERO }),
            ..LinkConfig::new(url, "g1")
        };
        let (link, mut events) = hedge_link::start(config).unwrap();
        let seen = Arc::new(Seen { silent: AtomicBool::new(silent), ..Seen::default() });
        let (answering, heard) = (link.clone(), Arc::clone(&seen));
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                if let LinkEvent::Message(message) = event {
                    answering.ack(&message);
                    answer(&answering, &heard, &message);
                }
            }
        });
        Self { link, seen }
    }

    pub(crate) fn speak(&self) {
        self.seen.silent.store(false, Ordering::SeqCst);
    }

    /// How often each request was asked.
    pub(crate) fn asked(&self) -> Vec<usize> {
        self.seen.asked.lock().unwrap().values().copied().collect()
    }

    pub(crate) async fn stop(self) {
        self.link.close().await;
    }
}

/// Answers twice, and not the same: whoever counts both has answered twice.
fn answer(link: &LinkHandle, seen: &Seen, message: &Incoming) {
    let query = Query::decode(&message.payload).expect("a query");
    *seen.asked.lock().unwrap().entry(*query.id.as_bytes()).or_default() += 1;
    if seen.silent.load(Ordering::SeqCst) {
        return;
    }
    for logits in [LOGITS, [9.0, 0.0, 0.0]] {
        link.publish(Outgoing::new("hedge/1/default/r/d1", verdict(query.id, &logits))).expect("the link is up");
    }
}

fn verdict(id: RequestId, logits: &[f32]) -> Vec<u8> {
    let outputs = vec![NamedTensor::new("logits", Tensor::from_slice(&[1, 3], logits).unwrap())];
    let gateway = GatewayId::parse("g1").unwrap();
    Reply::Verdict(Verdict { id, cloud: Digest([7; 32]), gateway, outputs, queue_us: 0, model_us: 0 }).encode()
}
