//! The driver on a folder and a link that remember; the whole with a broker stands in `crate::tests`.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use hedge_certify::{Certificate, Contract, Features, Plan, Target};
use hedge_link::{BrokerLimits, Qos};
use hedge_telemetry::metrics::{Registry, render};
use hedge_wire::{
    AuditLabel, BootId, ClassState, Digest, Evidence, GroupId, LabelFeatures, RouteLabel, RouteSubject, SplitRole,
};
use tempfile::TempDir;

use super::*;
use hedge_gateway_core::{Pool, PoolSettings};
use hedge_link::{Incoming, Link, Outcome, Outgoing, PublishError, PublishId};

const START: u64 = 1_800_000_000;

/// What a link saw, with how many states were on disk at that moment.
#[derive(Default)]
struct Seen {
    published: Vec<(Outgoing, usize)>,
    acked: Vec<usize>,
    down: bool,
    /// The largest payload that the broker takes.
    limit: Option<usize>,
}

#[derive(Clone)]
struct FakeLink {
    seen: Arc<Mutex<Seen>>,
    folder: PathBuf,
}

impl FakeLink {
    fn states_on_disk(&self) -> usize {
        let names = fs::read_dir(self.folder.join("classes")).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_str().unwrap().ends_with(".class")).count()
    }
}

impl Link for FakeLink {
    fn is_up(&self) -> bool {
        !self.seen.lock().unwrap().down
    }

    fn publish(&self, message: Outgoing) -> Result<PublishId, PublishError> {
        let on_disk = self.states_on_disk();
        let mut seen = self.seen.lock().unwrap();
        let size = message.payload.len();
        match seen.limit {
            _ if seen.down => Err(PublishError::Down),
            Some(limit) if size > limit => Err(PublishError::TooLarge { limit, size }),
            _ => {
                seen.published.push((message, on_disk));
                Ok(PublishId(seen.published.len() as u64))
            }
        }
    }

    fn ack(&self, _message: &Incoming) {
        let on_disk = self.states_on_disk();
        self.seen.lock().unwrap().acked.push(on_disk);
    }
}

struct Bench {
    driver: Driver<FakeLink>,
    link: FakeLink,
    registry: Registry,
    public: hedge_wire::PublicKey,
    now: u64,
    seq: u64,
    random: u64,
}

fn tenant() -> TenantId {
    TenantId::parse("acme").unwrap()
}

fn subject() -> RouteSubject {
    RouteSubject {
        model: ModelId::from_name("digits"),
        edge: Digest([1; 32]),
        cloud: Digest([2; 32]),
        class: GroupId::parse("cam").unwrap(),
        transforms: Digest([3; 32]),
        comparison: "top-class".into(),
    }
}

fn settings() -> PoolSettings {
    let target = Target::new(Contract::Local, 0.1, 0.1).unwrap();
    PoolSettings::new(target, 0.05, Plan { fit: 0, tune: 40, calibration: 120 }, 86_400).unwrap()
}

fn open_bench(folder: &Path) -> Bench {
    let Opened { store, found, key } = open(folder).unwrap();
    let (registry, public) = (Registry::new(), key.public());
    let link = FakeLink { seen: Arc::default(), folder: folder.to_owned() };
    let pool = Pool::new([(subject().model, subject().cloud, settings())]);
    let mut driver = Driver::new(tenant(), key, pool, store, link.clone(), PoolJournal::new(&registry));
    driver.restore(found, START);
    Bench { driver, link, registry, public, now: START, seq: 0, random: 1 }
}

impl Bench {
    fn evidence(&mut self) -> Evidence {
        self.seq += 1;
        Evidence {
            boot: BootId(1),
            seq: self.seq,
            subject: subject(),
            contract: hedge_wire::Contract::Local,
            alpha: 0.1,
            class_version: u64::MAX,
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

    fn deliver(&mut self, evidence: &Evidence) {
        let message = Incoming::new("hedge/1/acme/f/d1", evidence.encode_checked().unwrap());
        self.driver.on_link(LinkEvent::Message(message), self.now);
    }

    fn up(&mut self) {
        let limits = BrokerLimits {
            max_packet_bytes: 1 << 20,
            inflight: 50,
            max_qos: Qos::AtLeastOnce,
            retain: true,
            shared_subscriptions: true,
            keepalive: Duration::from_secs(30),
            session_present: false,
        };
        self.driver.on_link(LinkEvent::Up { limits }, self.now);
    }

    fn tick(&mut self, secs: u64) {
        self.now += secs;
        self.driver.tick(self.now);
    }

    /// Labels until there is a certificate on disk or in memory.
    fn gather(&mut self) {
        for _ in 0..20 {
            let mut evidence = self.evidence();
            evidence.labels = (0..20).map(|_| self.label()).collect();
            self.deliver(&evidence);
        }
        assert!(self.metric("hedge_pool_certified 1.0"), "{}", render(&self.registry));
    }

    fn alarm(&mut self, certificate: Digest) {
        let mut evidence = self.evidence();
        evidence.certificate = Some(certificate);
        evidence.audits = vec![AuditLabel { score: 0.9, differs: true, propensity: 0.1 }; 6];
        self.deliver(&evidence);
    }

    /// What was published last, as a device takes it.
    fn said(&self) -> Option<ClassState> {
        let seen = self.link.seen.lock().unwrap();
        let (message, on_disk) = seen.published.last()?;
        assert!(message.retain && *on_disk > 0 && message.topic == subject_topic());
        Some(ClassState::decode_signed(&message.payload, &tenant(), &self.public).unwrap())
    }

    fn metric(&self, line: &str) -> bool {
        render(&self.registry).lines().any(|other| other == line)
    }

    fn counts(&self, line: &str) {
        assert!(self.metric(line), "no line `{line}` in\n{}", render(&self.registry));
    }
}

fn subject_topic() -> String {
    format!("hedge/1/acme/dg/cam/{}", subject().hash())
}

fn certificate(state: &ClassState) -> Certificate {
    Certificate::read(state.certificate.as_deref().expect("a certificate")).unwrap()
}

fn id(state: &ClassState) -> Digest {
    Digest(certificate(state).id().0)
}

#[test]
fn what_evidence_led_to_is_on_disk_before_it_is_published_or_acknowledged() {
    let folder = TempDir::new().unwrap();
    let mut bench = open_bench(folder.path());
    bench.up();
    let first = bench.evidence();
    bench.deliver(&first);
    assert_eq!(bench.link.seen.lock().unwrap().acked, [1]);
    assert_eq!(bench.said().unwrap().certificate, None);
    bench.gather();
    assert_eq!(certificate(&bench.said().unwrap()).index, 1);
    bench.counts("hedge_pool_decisions_total{kind=\"issued\"} 1");
    bench.counts("hedge_pool_evidence_total{outcome=\"counted\"} 21");
    bench.counts("hedge_pool_labels_total 160");
}

#[test]
fn what_a_kill_kept_from_being_published_is_published_by_the_next_process() {
    let folder = TempDir::new().unwrap();
    let mut bench = open_bench(folder.path());
    bench.link.seen.lock().unwrap().down = true;
    bench.gather();
    assert_eq!(bench.said(), None);
    drop(bench);
    let mut bench = open_bench(folder.path());
    bench.up();
    let issued = bench.said().unwrap();
    assert_eq!(certificate(&issued).index, 1);
    let id = id(&issued);
    drop(bench);

    let mut bench = open_bench(folder.path());
    bench.seq = 1_000;
    bench.link.seen.lock().unwrap().down = true;
    bench.alarm(id);
    drop(bench);
    let mut bench = open_bench(folder.path());
    bench.up();
    let revoked = bench.said().unwrap();
    assert_eq!((revoked.revoked.as_slice(), revoked.certificate.is_none()), ([id].as_slice(), true));
    assert!(revoked.version > issued.version);
}

#[test]
fn a_damaged_state_is_set_aside_and_the_class_begins_behind_what_it_may_have_spent() {
    let folder = TempDir::new().unwrap();
    let mut bench = open_bench(folder.path());
    bench.gather();
    drop(bench);
    let path = folder.path().join("classes").join(format!("{}-1.class", subject().hash()));
    let mut content = fs::read(&path).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(&path, content).unwrap();
    let mut bench = open_bench(folder.path());
    bench.counts("hedge_pool_damaged_total 1");
    bench.counts("hedge_pool_classes 0.0");
    assert!(path.with_extension("damaged").exists() && !path.exists());
    drop(bench);
    // Also where nothing was heard of the class in between.
    bench = open_bench(folder.path());
    bench.counts("hedge_pool_damaged_total 0");
    bench.up();
    bench.gather();
    let again = certificate(&bench.said().unwrap());
    assert_eq!(again.index, 2);
    assert!(again.spent < 0.1 * 6.0 / 9.8 / 3.9, "a quarter of the first share: {}", again.spent);
}

#[test]
fn on_a_disk_that_takes_nothing_no_certificate_is_given_out_and_a_revocation_is() {
    let folder = TempDir::new().unwrap();
    let mut bench = open_bench(folder.path());
    bench.up();
    bench.gather();
    let first = id(&bench.said().unwrap());
    let blocked = folder.path().join("classes").join(format!("{}.part", subject().hash()));
    fs::create_dir(&blocked).unwrap();
    bench.alarm(first);
    let revoked = bench.said().unwrap();
    assert_eq!(revoked.revoked, [first]);
    bench.counts("hedge_pool_unsaved 1.0");
    bench.gather();
    assert_eq!(bench.said().unwrap().certificate, None, "certified in memory only");
    fs::remove_dir(&blocked).unwrap();
    bench.tick(5);
    let second = bench.said().unwrap();
    assert_eq!((certificate(&second).index, &second.revoked), (2, &vec![first]));
    bench.counts("hedge_pool_unsaved 0.0");
}

#[test]
fn a_state_that_the_broker_finds_too_large_goes_without_its_certificate() {
    let folder = TempDir::new().unwrap();
    let mut bench = open_bench(folder.path());
    bench.up();
    bench.link.seen.lock().unwrap().limit = Some(600);
    bench.gather();
    assert_eq!(bench.said().unwrap().certificate, None);
    bench.counts("hedge_pool_certificates_omitted_total 1");
}

#[test]
fn a_state_is_published_again_until_the_broker_has_confirmed_it() {
    let folder = TempDir::new().unwrap();
    let mut bench = open_bench(folder.path());
    bench.up();
    let first = bench.evidence();
    bench.deliver(&first);
    let published = |bench: &Bench| bench.link.seen.lock().unwrap().published.len();
    let outcome = |bench: &mut Bench, id, outcome| {
        let event = LinkEvent::Published { id: PublishId(id), outcome };
        bench.driver.on_link(event, bench.now);
    };
    outcome(&mut bench, 99, Outcome::Delivered);
    bench.counts("hedge_pool_unconfirmed 1.0");
    outcome(&mut bench, 1, Outcome::Rejected { code: 0x87, reason: "not authorized".into() });
    bench.tick(10);
    assert_eq!(published(&bench), 2);
    outcome(&mut bench, 2, Outcome::Delivered);
    bench.counts("hedge_pool_unconfirmed 0.0");
    bench.counts("hedge_pool_states_total{outcome=\"rejected\"} 1");
    bench.tick(10);
    assert_eq!(published(&bench), 2);
    bench.driver.on_link(LinkEvent::Down { reason: "cut".into() }, bench.now);
    bench.up();
    assert_eq!(published(&bench), 3);
}

#[test]
fn what_is_no_evidence_is_acknowledged_counted_and_changes_nothing() {
    let folder = TempDir::new().unwrap();
    let mut bench = open_bench(folder.path());
    let good = bench.evidence().encode_checked().unwrap();
    let flawed = [("hedge/1/acme/f/d1", &good[1..]), ("hedge/1/other/f/d1", &good), ("hedge/1/acme/r/d1", &good)];
    for (topic, body) in flawed {
        bench.driver.on_link(LinkEvent::Message(Incoming::new(topic, body.to_vec())), START);
    }
    assert_eq!(bench.link.seen.lock().unwrap().acked.len(), 3);
    bench.counts("hedge_pool_evidence_total{outcome=\"malformed\"} 3");
    bench.counts("hedge_pool_classes 0.0");
}

#[test]
fn what_was_only_counted_is_on_disk_when_the_pool_has_stopped() {
    let folder = TempDir::new().unwrap();
    let mut bench = open_bench(folder.path());
    for _ in 0..2 {
        let next = bench.evidence();
        bench.deliver(&next);
    }
    bench.driver.stop(START);
    drop(bench);
    let mut bench = open_bench(folder.path());
    for _ in 0..3 {
        let next = bench.evidence();
        bench.deliver(&next);
    }
    bench.counts("hedge_pool_evidence_total{outcome=\"repeated\"} 2");
    bench.counts("hedge_pool_evidence_total{outcome=\"counted\"} 1");
}
