//! Routes with a real model, real rows and a real queue, and a cloud that a test speaks for.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use hedge_agent_core::route::PhaseName;
use hedge_agent_core::{Answer, Asking, Place, Reason, Source, Status};
use hedge_agent_spool::{State, StateConfig};
use hedge_certify::{
    Certificate, Contract, Fingerprint, Grid, Issue, Labelled, Scoring, Spending, Subject, Target, Window,
};
use hedge_engine::Engine;
use hedge_graph::Dim;
use hedge_graph::build::GraphBuilder;
use hedge_link::{Incoming, Link, LinkEvent};
use hedge_tensor::{DType, NamedTensor, Tensor};
use hedge_wire::{
    BootId, ClassState, DeviceId, Digest, Evidence, GatewayId, ModelId, Purpose, Query, Reply, SigningKey, TenantId,
    Verdict,
};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::*;
use crate::catalog::Catalog;
use crate::cloud::tests::{FakeLink, presence, reply, up};
use crate::cloud::{ClassEar, Cloud, CloudParts};
use crate::config::{Config, ModelSection, RouteSection};
use crate::metrics::Metrics;
use crate::model::ServedModel;
use crate::row::{RowTask, Shared, Wish};

/// A test that waits longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the other modules' presence says of the cloud model.
const CLOUD: Digest = Digest([7; 32]);

/// One run of an agent without its HTTP API, and a gateway.
struct Scene {
    state: State,
    link: Arc<FakeLink>,
    shared: Arc<Shared>,
    catalog: Arc<Catalog>,
    /// Whether the cloud's answers differ from the model's.
    drifted: Arc<AtomicBool>,
    next: AtomicU32,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// A contract that few labels are enough for.
fn contract() -> RouteSection {
    RouteSection {
        contract: Some("system".into()),
        alpha: 0.2,
        delta: 0.1,
        audit_rate: 0.5,
        boost_rate: 0.5,
        fit_labels: 0,
        tune_labels: 20,
        calibration_labels: 60,
        shadow_requests: 5,
        ..RouteSection::default()
    }
}

fn key() -> SigningKey {
    SigningKey::from_seed(&[3; 32])
}

impl Scene {
    async fn start(folder: &Path, route: RouteSection) -> Self {
        Self::start_with(folder, |model| model.route = route).await
    }

    async fn start_with(folder: &Path, change: impl FnOnce(&mut ModelSection)) -> Self {
        let path = folder.join("tiny.onnx");
        std::fs::write(&path, tiny("tiny")).unwrap();
        let mut model = ModelSection { threshold: None, ..ModelSection::offloading("digits", path, 0.5) };
        change(&mut model);
        let mut config = Config { models: vec![model], ..Config::default() };
        config.engine.device = "cpu".into();
        let settings = Arc::new(config.resolve().unwrap());
        let audits = StateConfig {
            path: folder.join("state"),
            max_audits: 1000,
            max_audit_bytes: 1 << 20,
            max_audit_age: Duration::from_secs(3600),
        };
        let state = State::open(audits).unwrap();
        let metrics = Arc::new(Metrics::new());
        let routes = Arc::new(Routes::new(&state, Arc::clone(&metrics), BootId(9)));
        let catalog = Catalog::start(settings, Engine::default(), Arc::clone(&metrics), Arc::clone(&routes));
        let catalog = catalog.await.unwrap();
        let link = Arc::<FakeLink>::default();
        let (speaker, words) = mpsc::channel(8);
        let cloud = Arc::new(Cloud::new(CloudParts {
            link: Some(Arc::clone(&link) as Arc<dyn Link>),
            tenant: TenantId::parse("t").unwrap(),
            device: Some(DeviceId::parse("d1").unwrap()),
            boot: BootId(9),
            metrics: Arc::clone(&metrics),
            notes: None,
            models: vec![ModelId::from_name("digits")],
            class: Some(ClassEar { key: key().public(), words: speaker }),
        }));
        let keeper = Keeper {
            routes: Arc::clone(&routes),
            cloud: Arc::clone(&cloud),
            words,
            report: Duration::from_secs(1),
            time: SignedTime::open(folder.join("slots")).await.unwrap(),
        };
        let auditor = Auditor {
            routes: Arc::clone(&routes),
            catalog: Arc::clone(&catalog),
            cloud: Arc::clone(&cloud),
            max_in_flight: 2,
        };
        let drifted = Arc::new(AtomicBool::new(false));
        let gateway = gateway(Arc::clone(&link), Arc::clone(&cloud), Arc::clone(&drifted));
        let tasks = vec![tokio::spawn(keeper.run()), tokio::spawn(auditor.run()), tokio::spawn(gateway)];
        let shared =
            Shared { cloud, cache: None, metrics, routes, epoch: Instant::now(), retry_after: Duration::from_secs(30) };
        Self { state, link, shared: Arc::new(shared), catalog, drifted, next: AtomicU32::new(0), tasks }
    }

    async fn connected(folder: &Path, route: RouteSection) -> Self {
        let scene = Self::start(folder, route).await;
        scene.connect();
        scene
    }

    fn connect(&self) {
        self.shared.cloud.on_link_event(up());
        self.shared.cloud.on_link_event(presence("g1", true));
    }

    fn disconnect(&self) {
        self.shared.cloud.on_link_event(LinkEvent::Down { reason: "cut".into() });
    }

    fn model(&self) -> Arc<ServedModel> {
        self.catalog.served().remove(0)
    }

    fn phase(&self) -> PhaseName {
        self.model().route.gauges().phase
    }

    /// The answer to one more row, unlike those before.
    async fn ask(&self) -> Answer {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        self.ask_about([1.0 + (n % 97) as f32 / 97.0, 0.3]).await
    }

    /// The answer to a row of which the model is surer than of any other.
    async fn ask_sure(&self) -> Answer {
        self.ask_about([9.0, 0.3]).await
    }

    async fn ask_about(&self, values: [f32; 2]) -> Answer {
        let wish = Wish { place: Place::Auto, allowed: PATIENCE, asking: Asking::Now };
        let input = NamedTensor::new("x", Tensor::from_slice(&[1, 2], &values).unwrap());
        RowTask::start(&self.shared, &self.model(), vec![input], wish, Instant::now()).finish().await.unwrap()
    }

    /// Asks until the route is in this phase; all answers on the way.
    async fn until(&self, phase: PhaseName) -> Vec<Answer> {
        let mut answers = Vec::new();
        while self.phase() != phase {
            answers.push(self.ask().await);
            assert!(answers.len() < 2000, "never {phase:?}: {}", self.model().route.summary());
        }
        self.saved().await;
        answers
    }

    /// Nothing is certified before what led to it is on disk.
    async fn saved(&self) {
        let route = Arc::clone(&self.model().route);
        eventually("the state is on disk", || !route.inner().is_being_saved()).await;
    }

    fn kinds(&self) -> Vec<String> {
        let summary = self.model().route.summary();
        let steps = summary["transitions"].as_array().unwrap();
        steps.iter().map(|step| step["kind"].as_str().unwrap().to_owned()).collect()
    }

    fn sent(&self, purpose: Purpose) -> usize {
        let sent = self.link.sent.lock().unwrap();
        let queries = sent.iter().filter_map(|message| Query::decode(&message.payload).ok());
        queries.filter(|query| query.purpose == purpose).count()
    }

    async fn stop(mut self) {
        self.tasks.drain(..).for_each(|task| task.abort());
        self.shared.routes.all().iter().for_each(|route| route.save());
        let state = self.state.clone();
        tokio::task::spawn_blocking(move || state.close()).await.unwrap();
    }
}

/// Answers every query as the model itself would, or otherwise.
async fn gateway(link: Arc<FakeLink>, cloud: Arc<Cloud>, drifted: Arc<AtomicBool>) {
    let mut heard = 0;
    loop {
        let message = link.sent.lock().unwrap().get(heard).cloned();
        let Some(message) = message else {
            tokio::time::sleep(Duration::from_micros(200)).await;
            continue;
        };
        heard += 1;
        let Ok(query) = Query::decode(&message.payload) else { continue };
        let x = query.inputs[0].tensor.to_vec::<f32>().unwrap();
        let logits = match drifted.load(Ordering::Relaxed) {
            false => [x[0], x[1], -x[0] - x[1]],
            true => [0.0, 0.0, 1.0],
        };
        let outputs = vec![NamedTensor::new("logits", Tensor::from_slice(&[1, 3], &logits).unwrap())];
        let gateway = GatewayId::parse("g1").unwrap();
        let verdict = Verdict { id: query.id, cloud: CLOUD, gateway, outputs, queue_us: 0, model_us: 0 };
        cloud.on_link_event(reply(&Reply::Verdict(verdict)));
    }
}

/// logits = x W: [a, b] -> [a, b, -a-b].
fn tiny(name: &str) -> Vec<u8> {
    let mut b = GraphBuilder::new(name);
    let x = b.input("x", DType::F32, &[Dim::named("N"), 2.into()]);
    let w = b.init("w", Tensor::from_slice(&[2, 3], &[1_f32, 0., -1., 0., 1., -1.]).unwrap());
    b.op_as("logits", "MatMul", &[&x, &w], &[]);
    b.output("logits", DType::F32, &[Dim::named("N"), 3.into()]);
    b.finish().unwrap().write()
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A certificate for what the scene runs, after `change`.
fn certificate(scene: &Scene, change: impl FnOnce(&mut Subject)) -> Certificate {
    let side = &scene.model().route.side;
    let mut subject = Subject {
        edge: Fingerprint(side.edge.0),
        cloud: Fingerprint(CLOUD.0),
        device_class: side.class.as_str().to_owned(),
        transforms: side.transforms,
        comparison: side.comparison.clone(),
    };
    change(&mut subject);
    let scores: Vec<f32> = (1..=40).map(|n| n as f32 / 100.0).collect();
    let now = scene.shared.routes.clock().now().as_secs();
    let issue = Issue {
        subject,
        scoring: Scoring::Margin,
        target: Target::new(Contract::System, 0.2, 0.1).unwrap(),
        spending: Spending::Whole,
        grid: Grid::from_scores(&scores).unwrap(),
        window: Window { first_unix_secs: now - 10, last_unix_secs: now - 1 },
        issued_unix_secs: now,
        lifetime_secs: 3600,
    };
    let labels = vec![Labelled { score: 0.5, differs: false }; 100];
    Certificate::issue(issue, &labels).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_become_a_certificate_a_drift_revokes_it_and_new_labels_renew_it() {
    let folder = TempDir::new().unwrap();
    let scene = Scene::connected(folder.path(), contract()).await;
    let gathered = scene.until(PhaseName::Certified).await;
    assert!(gathered.iter().all(|a| (a.status, a.reason) == (Status::Cloud, Reason::NoCertificate)), "{gathered:?}");
    let answer = scene.ask_sure().await;
    assert_eq!((answer.source, answer.status), (Source::Edge, Status::Certified));
    assert_eq!(answer.reason, Reason::InsideCertificate);

    scene.drifted.store(true, Ordering::Relaxed);
    let drifting = scene.until(PhaseName::Gathering).await;
    assert!(drifting.iter().all(|answer| answer.status != Status::Uncertified), "{drifting:?}");
    let answer = scene.ask().await;
    assert_eq!((answer.source, answer.reason), (Source::Cloud, Reason::Alarm));

    scene.drifted.store(false, Ordering::Relaxed);
    scene.until(PhaseName::Certified).await;
    let summary = scene.model().route.summary();
    assert!(summary["certificate"]["index"].as_u64().unwrap() >= 2, "{summary}");
    let kinds = scene.kinds();
    let wanted = ["issued", "used", "alarm", "void", "gathering", "issued", "used"];
    let mut found = kinds.iter();
    assert!(wanted.iter().all(|kind| found.any(|found| found == kind)), "{kinds:?}");
    let requests: Vec<u64> =
        summary["transitions"].as_array().unwrap().iter().map(|step| step["request"].as_u64().unwrap()).collect();
    assert!(
        requests.is_sorted() && requests[kinds.iter().position(|kind| kind == "issued").unwrap()] >= 80,
        "each with the request at which: {requests:?}"
    );
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_phase_and_an_alarm_is_not_forgotten() {
    let folder = TempDir::new().unwrap();
    let scene = Scene::connected(folder.path(), contract()).await;
    scene.until(PhaseName::Certified).await;
    let before = scene.model().route.summary();
    scene.stop().await;

    // Without a link nobody says which cloud model there is: the one certified is the one known last.
    let scene = Scene::start(folder.path(), contract()).await;
    let after = scene.model().route.summary();
    assert_eq!((&after["certificate"], &after["requests"]), (&before["certificate"], &before["requests"]));
    assert_eq!((scene.ask_sure().await.status, &after["transitions"]), (Status::Certified, &before["transitions"]));
    scene.drifted.store(true, Ordering::Relaxed);
    scene.connect();
    scene.until(PhaseName::Gathering).await;
    scene.stop().await;

    let scene = Scene::start(folder.path(), contract()).await;
    let answer = scene.ask().await;
    assert_eq!((answer.status, answer.reason), (Status::Uncertified, Reason::LinkDown), "offline after an alarm");
    assert_eq!(scene.phase(), PhaseName::Gathering);
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_model_under_the_name_voids_the_certificate_and_the_old_one_certifies_nothing_more() {
    let folder = TempDir::new().unwrap();
    let scene = Scene::connected(folder.path(), contract()).await;
    scene.until(PhaseName::Certified).await;
    let old = scene.model();
    // The same function with another name has another digest.
    std::fs::write(folder.path().join("tiny.onnx"), tiny("other")).unwrap();
    scene.catalog.load("digits").await.unwrap();
    assert_ne!(scene.model().digest, old.digest);
    assert_eq!(scene.phase(), PhaseName::Gathering);
    let summary = scene.model().route.summary();
    assert!(summary.to_string().contains("void: certified for edge bundle"), "{summary}");
    assert!(summary["requests"].as_u64().unwrap() >= 85, "the route goes on counting: {summary}");
    let wish = Wish { place: Place::Auto, allowed: PATIENCE, asking: Asking::Now };
    let input = NamedTensor::new("x", Tensor::from_slice(&[1, 2], &[9.0_f32, 0.3]).unwrap());
    let late = RowTask::start(&scene.shared, &old, vec![input], wish, Instant::now()).finish().await.unwrap();
    assert_eq!((late.status, late.reason), (Status::Cloud, Reason::NoCertificate), "a row that the old one had begun");
    scene.until(PhaseName::Certified).await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_state_starts_without_a_certificate() {
    let folder = TempDir::new().unwrap();
    let scene = Scene::connected(folder.path(), contract()).await;
    scene.until(PhaseName::Certified).await;
    let path = scene.state.routes().path("digits");
    scene.stop().await;
    let mut saved = std::fs::read(&path).unwrap();
    let middle = saved.len() / 2;
    saved[middle] ^= 1;
    std::fs::write(&path, saved).unwrap();
    let scene = Scene::start(folder.path(), contract()).await;
    assert_eq!((scene.phase(), scene.ask().await.status), (PhaseName::Gathering, Status::Uncertified));
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn audits_wait_while_the_link_is_down_and_are_asked_for_afterwards() {
    let folder = TempDir::new().unwrap();
    let scene = Scene::connected(folder.path(), contract()).await;
    scene.until(PhaseName::Certified).await;
    let audits = &scene.shared.routes.audits;
    eventually("the audits so far are answered", || audits.stats().waiting == 0).await;
    scene.disconnect();
    let asked = scene.sent(Purpose::Audit);
    for _ in 0..40 {
        assert_eq!(scene.ask_sure().await.status, Status::Certified, "a certificate needs no link");
    }
    let waiting = audits.stats().waiting;
    assert!((5..=35).contains(&waiting), "about half of the answers are audited: {waiting}");
    assert_eq!(scene.sent(Purpose::Audit), asked);
    scene.connect();
    eventually("they are answered", || audits.stats().waiting == 0).await;
    assert!(scene.sent(Purpose::Audit) >= asked + waiting as usize);
    assert_eq!(scene.phase(), PhaseName::Certified);
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_from_a_file_is_used_if_it_is_about_this_very_pair_and_refused_by_name_otherwise() {
    let folder = TempDir::new().unwrap();
    let scene = Scene::connected(folder.path(), contract()).await;
    let (fitting, foreign) =
        (certificate(&scene, |_| {}), certificate(&scene, |subject| subject.edge = Fingerprint([9; 32])));
    scene.stop().await;
    let file = folder.path().join("c.json");
    let with_file = || RouteSection { certificate: Some(file.clone()), shadow_requests: 0, ..contract() };
    for (content, kind, why) in [
        (foreign.to_json(), "refused", "certified for edge bundle"),
        (b"{}".to_vec(), "", ""),
        (fitting.to_json(), "installed", ""),
    ] {
        std::fs::remove_dir_all(folder.path().join("state")).unwrap();
        std::fs::write(&file, content).unwrap();
        let scene = Scene::connected(folder.path(), with_file()).await;
        eventually("the file is looked at", || kind.is_empty() || scene.kinds().contains(&kind.to_owned())).await;
        scene.saved().await;
        let (summary, certified) = (scene.model().route.summary().to_string(), kind == "installed");
        assert!(summary.contains(why), "{summary}");
        assert_eq!(scene.phase() == PhaseName::Certified, certified, "{summary}");
        assert_eq!(scene.ask_sure().await.status == Status::Certified, certified);
        scene.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_model_that_may_not_leave_is_ever_sent() {
    let folder = TempDir::new().unwrap();
    let scene = Scene::connected(folder.path(), contract()).await;
    scene.until(PhaseName::Certified).await;
    scene.disconnect();
    let audits = scene.shared.routes.audits.clone();
    while audits.stats().waiting == 0 {
        scene.ask().await;
    }
    drop(audits);
    scene.stop().await;
    let scene = Scene::start_with(folder.path(), |model| {
        (model.offload, model.route) = ("never".into(), contract());
    })
    .await;
    assert_eq!(scene.shared.routes.audits.stats().waiting, 0, "what waited is withdrawn");
    scene.connect();
    for _ in 0..50 {
        assert_ne!(scene.ask().await.source, Source::Cloud);
    }
    // The report's period has passed at least once.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(scene.link.sent.lock().unwrap().is_empty());
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_goes_to_the_gateway_and_its_word_to_the_class_is_obeyed() {
    let folder = TempDir::new().unwrap();
    let scene = Scene::connected(folder.path(), contract()).await;
    let gathering = scene.until(PhaseName::Certified).await.len();
    for _ in 0..20 {
        scene.ask().await;
    }
    let evidence = || -> Vec<Evidence> {
        let sent = scene.link.sent.lock().unwrap();
        let labels = sent.iter().filter(|message| message.topic == "hedge/1/t/f/d1");
        labels.map(|message| Evidence::decode(&message.payload).unwrap()).collect()
    };
    eventually("audits are reported", || evidence().iter().any(|message| !message.audits.is_empty())).await;
    let labels: usize = evidence().iter().map(|message| message.labels.len()).sum();
    assert!((80..=gathering).contains(&labels), "{labels} labels of {gathering} requests");
    let subject = evidence()[0].subject.clone();
    assert!(evidence().iter().all(|message| message.subject == subject && message.alpha == 0.2));
    let mut numbers: Vec<u64> = evidence().iter().map(|message| message.seq).collect();
    numbers.dedup();
    assert_eq!(numbers.len(), evidence().len(), "no number twice");

    let id = scene.model().route.summary()["certificate"]["id"].as_str().unwrap().parse::<Fingerprint>().unwrap();
    let tenant = TenantId::parse("t").unwrap();
    let say = |version: u64, revoked: Vec<Digest>, certificate: Option<Certificate>, key: &SigningKey| {
        let certificate = certificate.map(|certificate| certificate.to_json());
        let (subject, boost_until_unix_secs) = (subject.clone(), 0);
        let state = ClassState { subject, version, revoked, boost_until_unix_secs, certificate };
        let body = state.encode_signed(&tenant, key).unwrap();
        let message = Incoming::new(state.topic().path(&tenant), body);
        scene.shared.cloud.on_link_event(LinkEvent::Message(message));
    };
    let bad = scene.shared.metrics.bad_messages.value();
    say(1, vec![Digest(id.0)], None, &SigningKey::from_seed(&[4; 32]));
    assert_eq!(scene.shared.metrics.bad_messages.value(), bad + 1, "another key's word is not heard");
    assert_eq!(scene.phase(), PhaseName::Certified);
    say(2, vec![Digest(id.0)], None, &key());
    eventually("it is revoked", || scene.phase() == PhaseName::Gathering).await;
    assert!(scene.model().route.summary().to_string().contains("by the gateway"));
    let certificate = certificate(&scene, |_| {});
    let installed = certificate.id().to_string();
    say(3, vec![Digest(id.0)], Some(certificate), &key());
    eventually("the class's is watched", || scene.phase() == PhaseName::Shadow).await;
    assert_eq!(scene.model().route.summary()["certificate"]["id"], installed.as_str());
    scene.until(PhaseName::Certified).await;
    for _ in 0..3 {
        scene.ask_sure().await;
    }
    eventually("what comes of a state is told as such", || evidence().last().unwrap().class_version == 3).await;
    assert!(evidence().is_sorted_by_key(|message| message.class_version), "and what came before it is not");
    scene.stop().await;
}
