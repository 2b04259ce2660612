//! Pooling in the whole gateway, on the embedded broker: from the evidence of several devices to the signed word that any
//! device of the class can read; and what happens to queries meanwhile.

use std::{net::SocketAddr, path::Path, time::Duration};

use hedge_broker::{Broker, BrokerConfig};
use hedge_certify::{Certificate, Features};
use hedge_link::{Incoming, LinkEvent, LinkEvents, LinkHandle, Outgoing, PublishError, Subscription};
use hedge_wire::{
    AuditLabel, BootId, ClassState, Digest, Evidence, GroupId, LabelFeatures, ModelId, PublicKey, Reply, RouteLabel,
    RouteSubject, SigningKey, SplitRole, TenantId,
};
use tokio::time::{sleep, timeout};

use super::{
    query, tensor,
    whole::{PATIENCE, config, device, http, message, presence},
    write_model,
};
use crate::{Config, Gateway, KeyError, PoolError, RouteConfig, StartError, StoreError, start};

fn pooling(url: &str, folder: &Path) -> Config {
    let model = folder.join("relu.onnx");
    write_model(&model);
    let mut config = config(url, &model);
    config.gateway.state_dir = Some(folder.join("state"));
    config.models[0].route = Some(RouteConfig {
        contract: "local".into(),
        alpha: 0.1,
        delta: 0.1,
        fit_labels: 0,
        tune_labels: 40,
        calibration_labels: 120,
        ..RouteConfig::default()
    });
    config
}

async fn start_healthy(config: Config) -> Gateway {
    let gateway = start(config).await.expect("the gateway starts");
    eventually(gateway.http_addr(), "/healthz", "\"ok\"").await;
    gateway
}

/// Waits until the page has the text.
async fn eventually(address: SocketAddr, path: &str, text: &str) {
    let found = async {
        while !http(address, path).await.contains(text) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("{path} never had {text}"));
}

fn public_key(folder: &Path) -> PublicKey {
    let text = std::fs::read_to_string(folder.join("state/class-key.pub")).expect("a public key");
    text.trim_end().parse().expect("64 hex digits")
}

fn tenant() -> TenantId {
    TenantId::parse("acme").expect("a good id")
}

/// Devices of one class, on one connection.
struct Fleet {
    handle: LinkHandle,
    events: LinkEvents,
    subject: RouteSubject,
    seq: u64,
    random: u64,
    version: u64,
}

impl Fleet {
    async fn connect(url: &str, cloud: Digest) -> Self {
        let (handle, events) = listener(url, "fleet").await;
        let subject = RouteSubject {
            model: ModelId::from_name("relu"),
            edge: Digest([1; 32]),
            cloud,
            class: GroupId::parse("cam").expect("a good id"),
            transforms: Digest([3; 32]),
            comparison: "top-class".into(),
        };
        Self { handle, events, subject, seq: 0, random: 1, version: 0 }
    }

    fn evidence(&mut self) -> Evidence {
        self.seq += 1;
        Evidence {
            boot: BootId(1),
            seq: self.seq,
            subject: self.subject.clone(),
            contract: hedge_wire::Contract::Local,
            alpha: 0.1,
            class_version: self.version,
            certificate: None,
            audits: Vec::new(),
            histogram: Vec::new(),
            labels: Vec::new(),
            offloaded: 0,
        }
    }

    fn label(&mut self) -> RouteLabel {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let uniform = (self.random >> 11) as f32 / (1_u64 << 53) as f32;
        let Features { margin, msp, entropy, class, top } = Features::of(&[8.0 * uniform, 0.0, -1.0]);
        let role = if self.random >> 33 & 3 == 0 { SplitRole::Tune } else { SplitRole::Calibration };
        RouteLabel { role, differs: false, features: LabelFeatures { margin, msp, entropy, class, top } }
    }

    fn send(&self, device: &str, evidence: &Evidence) -> Result<(), PublishError> {
        let body = evidence.encode_checked().expect("small evidence");
        self.handle.publish(Outgoing::new(format!("hedge/1/acme/f/{device}"), body)).map(drop)
    }

    /// Three devices send labels.
    fn send_labels(&mut self) {
        for device in ["d1", "d2", "d3"].iter().cycle().take(12) {
            let mut evidence = self.evidence();
            evidence.labels = (0..40).map(|_| self.label()).collect();
            self.send(device, &evidence).expect("the link is up");
        }
    }

    /// Each of three devices sends two audits that differ.
    fn send_drift(&mut self, certificate: Digest) {
        for device in ["d1", "d2", "d3"] {
            let mut evidence = self.evidence();
            evidence.certificate = Some(certificate);
            evidence.audits = vec![AuditLabel { score: 0.9, differs: true, propensity: 0.1 }; 2];
            self.send(device, &evidence).expect("the link is up");
        }
    }

    /// Waits for a state that is as wanted, and obeys it.
    async fn hear(&mut self, key: &PublicKey, wanted: impl Fn(&ClassState) -> bool) -> ClassState {
        loop {
            let state = read(&message(&self.handle, &mut self.events).await, key);
            if wanted(&state) {
                self.version = state.version;
                return state;
            }
        }
    }
}

/// A connection that hears what is said to the class `cam`.
async fn listener(url: &str, client: &str) -> (LinkHandle, LinkEvents) {
    let mut link = hedge_link::LinkConfig::new(url, client);
    link.subscriptions = vec![Subscription::at_least_once("hedge/1/acme/dg/cam/+")];
    let (handle, mut events) = hedge_link::start(link).expect("the link's settings are good");
    loop {
        let event = timeout(PATIENCE, events.next()).await.expect("the broker is there").expect("the link goes on");
        if matches!(event, LinkEvent::Up { .. }) {
            return (handle, events);
        }
    }
}

fn read(message: &Incoming, key: &PublicKey) -> ClassState {
    ClassState::decode_signed(&message.payload, &tenant(), key).expect("a state that the gateway signed")
}

fn certificate(state: &ClassState) -> Option<Certificate> {
    state.certificate.as_deref().map(|json| Certificate::read(json).expect("a good certificate"))
}

async fn cloud_digest(url: &str) -> Digest {
    let (handle, mut events) = device(url).await;
    let online = presence(&handle, &mut events, true).await;
    handle.close().await;
    online.models[0].1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_gets_its_certificate_a_drift_revokes_it_and_a_restart_forgets_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let broker = Broker::start(BrokerConfig::default()).await.expect("the broker starts");
    let url = broker.url();
    let gateway = start_healthy(pooling(&url, folder.path())).await;
    let key = public_key(folder.path());
    let mut fleet = Fleet::connect(&url, cloud_digest(&url).await).await;

    fleet.send_labels();
    let issued = fleet.hear(&key, |state| state.certificate.is_some()).await;
    let first = certificate(&issued).expect("a certificate");
    assert_eq!((first.index, first.n), (1, 120));
    let id = Digest(first.id().0);
    fleet.send_drift(id);
    let revoked = fleet.hear(&key, |state| !state.revoked.is_empty()).await;
    assert_eq!((revoked.revoked.as_slice(), &revoked.certificate), ([id].as_slice(), &None));

    // Whoever comes later hears it from the broker, and believes only the key that it was given.
    let (handle, mut events) = listener(&url, "late").await;
    let retained = message(&handle, &mut events).await;
    assert!(retained.retain);
    assert_eq!(read(&retained, &key), revoked);
    let foreign = SigningKey::from_seed(&[9; 32]).public();
    assert!(ClassState::decode_signed(&retained.payload, &tenant(), &foreign).is_err());
    handle.close().await;

    eventually(gateway.http_addr(), "/metrics", "hedge_pool_decisions_total{kind=\"alarm\"} 1").await;
    eventually(gateway.http_addr(), "/metrics", "hedge_pool_evidence_total{outcome=\"counted\"} 15").await;
    timeout(PATIENCE, gateway.shutdown()).await.expect("an idle gateway stops");

    let gateway = start_healthy(pooling(&url, folder.path())).await;
    assert_eq!(public_key(folder.path()), key);
    let again = fleet.hear(&key, |_| true).await;
    assert_eq!(again, revoked, "as it was, and published again");
    fleet.seq -= 3;
    fleet.send_drift(id);
    eventually(gateway.http_addr(), "/metrics", "hedge_pool_evidence_total{outcome=\"repeated\"} 3").await;
    fleet.send_labels();
    let next = fleet.hear(&key, |state| state.certificate.is_some()).await;
    assert_eq!(certificate(&next).map(|certificate| certificate.index), Some(2));
    assert_eq!(next.revoked, [id]);
    timeout(PATIENCE, gateway.shutdown()).await.expect("an idle gateway stops");
    fleet.handle.close().await;
    broker.stop().await;
}

/// A pipe in the place of the file that is written next: the pool stands still until somebody reads it.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_hangs_and_a_flood_of_evidence_keep_no_query_waiting() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let broker = Broker::start(BrokerConfig::default()).await.expect("the broker starts");
    let url = broker.url();
    let gateway = start_healthy(pooling(&url, folder.path())).await;
    let mut fleet = Fleet::connect(&url, cloud_digest(&url).await).await;
    let pipe = folder.path().join("state/classes").join(format!("{}.part", fleet.subject.hash()));
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().is_ok_and(|status| status.success()));

    // More than the broker may deliver to one client without an acknowledgement.
    for _ in 0..200 {
        let mut evidence = fleet.evidence();
        evidence.labels = (0..100).map(|_| fleet.label()).collect();
        fleet.send("d1", &evidence).expect("the link's queue has room");
    }
    let (handle, mut events) = device(&url).await;
    for id in 1..=20 {
        let body = query(id, tensor("x", 1, &[3.0, -4.0])).encode();
        handle.publish(Outgoing::new("hedge/1/acme/q/relu/d1", body)).expect("the link is up");
        let reply = loop {
            let message = message(&handle, &mut events).await;
            if message.topic == "hedge/1/acme/r/d1" {
                break message;
            }
        };
        assert!(matches!(Reply::decode(&reply.payload), Ok(Reply::Verdict(_))));
    }
    let metrics = http(gateway.http_addr(), "/metrics").await;
    assert!(metrics.contains("hedge_pool_evidence_total{outcome=\"counted\"} 0"), "the pool still stands: {metrics}");

    let reading = pipe.clone();
    let open = tokio::task::spawn_blocking(move || std::fs::File::open(reading));
    let reader = timeout(PATIENCE, open).await.expect("the pool is writing").expect("no panic").expect("a pipe");
    std::fs::remove_file(&pipe).expect("a pipe");
    let drained = tokio::task::spawn_blocking(move || std::io::copy(&mut { reader }, &mut std::io::sink()));
    drained.await.expect("no panic").expect("the pool's state");
    eventually(gateway.http_addr(), "/metrics", "hedge_pool_evidence_total{outcome=\"counted\"} 200").await;
    timeout(PATIENCE, gateway.shutdown()).await.expect("an idle gateway stops");
    handle.close().await;
    fleet.handle.close().await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_cannot_pool_as_it_should_does_not_start() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = || pooling("mqtt://127.0.0.1:1", folder.path());
    let gateway = start(config()).await.expect("the gateway starts without a broker");
    let health = http(gateway.http_addr(), "/healthz").await;
    assert!(health.contains("the pool's link is down"), "{health}");
    let error = start(config()).await.err().expect("the folder is in use");
    assert!(matches!(error, StartError::Pool(PoolError::Store(StoreError::InUse { .. }))), "{error}");
    timeout(PATIENCE, gateway.shutdown()).await.expect("an idle gateway stops");
    std::fs::write(folder.path().join("state/class-key"), "no key").expect("the temporary folder is writable");
    let error = start(config()).await.err().expect("the key is damaged");
    assert!(matches!(error, StartError::Pool(PoolError::Key(KeyError::Damaged { .. }))), "{error}");
    assert!(!error.is_configuration());
}
