//! A row with a real model, a real cache and a cloud that a test speaks for.

use hedge_agent_core::{Origin, Reason, Source, Status};
use hedge_agent_spool::{CacheConfig, State, StateConfig};
use hedge_engine::Engine;
use hedge_graph::Dim;
use hedge_graph::build::GraphBuilder;
use hedge_tensor::{DType, Tensor};
use hedge_wire::{BootId, Digest, GatewayId, Verdict};
use tempfile::TempDir;

use super::*;
use crate::budget::Budget;
use crate::cloud::tests::{FakeLink, cloud, presence, reply, up};
use crate::config::{Config, ModelSection};

/// One device, its model and its cloud.
struct Scene {
    _folder: TempDir,
    _state: State,
    link: Arc<FakeLink>,
    shared: Arc<Shared>,
    model: Arc<ServedModel>,
}

fn scene() -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.onnx");
    std::fs::write(&path, tiny()).unwrap();
    let mut config = Config { models: vec![ModelSection::offloading("digits", path, 0.5)], ..Config::default() };
    config.engine.device = "cpu".into();
    let settings = config.resolve().unwrap();
    let (one, budget) = (&settings.models[0], Budget::new(u64::MAX));
    let path = one.path.clone().unwrap();
    let state = StateConfig {
        path: folder.path().join("state"),
        max_audits: 100,
        max_audit_bytes: 1 << 20,
        max_audit_age: Duration::from_secs(60),
    };
    let state = State::open(state).unwrap();
    let routes = Arc::new(Routes::new(&state, Arc::new(Metrics::new()), BootId(9)));
    let model =
        ServedModel::load(one, &path, &Engine::default(), (&settings, &budget, &routes), Arc::default()).unwrap();
    let model = Arc::new(model);
    let cache = CacheConfig { path: folder.path().join("cache"), max_bytes: 1 << 20, max_age: Duration::from_secs(60) };
    let link = Arc::<FakeLink>::default();
    let cloud = cloud(&link, None);
    cloud.on_link_event(up());
    cloud.on_link_event(presence("g1", true));
    let shared = Arc::new(Shared {
        cloud,
        cache: Some(Cache::open(cache).unwrap()),
        metrics: Arc::new(Metrics::new()),
        routes,
        epoch: Instant::now(),
        retry_after: Duration::from_secs(60),
    });
    Scene { _folder: folder, _state: state, link, shared, model }
}

/// logits = x W: [a, b] -> [a, b, -a-b].
fn tiny() -> Vec<u8> {
    let mut b = GraphBuilder::new("tiny");
    let x = b.input("x", DType::F32, &[Dim::named("N"), 2.into()]);
    let w = b.init("w", Tensor::from_slice(&[2, 3], &[1_f32, 0., -1., 0., 1., -1.]).unwrap());
    b.op_as("logits", "MatMul", &[&x, &w], &[]);
    b.output("logits", DType::F32, &[Dim::named("N"), 3.into()]);
    b.finish().unwrap().write()
}

fn row(values: [f32; 2]) -> Vec<NamedTensor> {
    vec![NamedTensor::new("x", Tensor::from_slice(&[1, 2], &values).unwrap())]
}

fn logits(values: &[f32]) -> Vec<NamedTensor> {
    vec![NamedTensor::new("logits", Tensor::from_slice(&[1, values.len()], values).unwrap())]
}

impl Scene {
    fn start(&self, values: [f32; 2], allowed: Duration) -> tokio::task::JoinHandle<Result<Answer, Failure>> {
        let wish = Wish { place: Place::Auto, allowed, asking: Asking::Now };
        let task = RowTask::start(&self.shared, &self.model, row(values), wish, Instant::now());
        tokio::spawn(task.finish())
    }

    /// The query of the next publish, when it has been sent.
    async fn sent(&self, count: usize) -> Query {
        loop {
            if let Some(message) = self.link.sent.lock().unwrap().get(count - 1) {
                return Query::decode(&message.payload).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn verdict(&self, id: RequestId, outputs: Vec<NamedTensor>) {
        let gateway = GatewayId::parse("g1").unwrap();
        let verdict = Verdict { id, cloud: Digest([7; 32]), gateway, outputs, queue_us: 0, model_us: 0 };
        self.shared.cloud.on_link_event(reply(&Reply::Verdict(verdict)));
    }
}

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn an_unsure_row_is_answered_by_the_cloud_and_then_from_the_cache() {
    let scene = scene();
    let task = scene.start([0.0, 0.0], LONG);
    let query = scene.sent(1).await;
    assert_eq!((query.attempt, query.edge, query.inputs), (0, scene.model.digest, row([0.0, 0.0])));
    scene.verdict(query.id, logits(&[0.0, 9.0, 0.0]));
    let answer = task.await.unwrap().unwrap();
    assert_eq!((answer.source, answer.status, answer.reason), (Source::Cloud, Status::Cloud, Reason::BelowThreshold));
    assert_eq!(answer.outputs, logits(&[0.0, 9.0, 0.0]));
    assert!(answer.confidence.unwrap() > 0.99, "the score of the cloud's outputs");

    let again = scene.start([0.0, 0.0], LONG).await.unwrap().unwrap();
    assert_eq!((again.source, again.status), (Source::Cache, Status::Cloud));
    assert_eq!(again.outputs, answer.outputs);
    assert!(matches!(again.origin, Origin::Cloud { digest: Digest(bytes), gateway: None } if bytes == [7; 32]));
    assert_eq!(scene.link.sent.lock().unwrap().len(), 1, "nobody was asked again");
}

#[tokio::test]
async fn a_sure_row_stays_and_is_cached() {
    let scene = scene();
    let answer = scene.start([5.0, 0.0], LONG).await.unwrap().unwrap();
    assert_eq!((answer.source, answer.reason), (Source::Edge, Reason::NoCertificate));
    assert_eq!(answer.outputs, logits(&[5.0, 0.0, -5.0]));
    let again = scene.start([5.0, 0.0], LONG).await.unwrap().unwrap();
    assert_eq!((again.source, again.outputs), (Source::Cache, answer.outputs));
    assert!(scene.link.sent.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_verdict_that_does_not_fit_the_model_is_refused_and_counted() {
    let scene = scene();
    for (n, outputs) in
        [logits(&[1.0]), vec![], vec![NamedTensor::new("other", Tensor::scalar(1_f32))]].into_iter().enumerate()
    {
        let x = n as f32 * 1e-3;
        let task = scene.start([x, x], LONG);
        let query = scene.sent(n + 1).await;
        scene.verdict(query.id, outputs);
        let answer = task.await.unwrap().unwrap();
        assert_eq!((answer.source, answer.reason), (Source::Edge, Reason::BadVerdict));
    }
    assert_eq!(scene.shared.metrics.bad_verdicts.value(), 3);
}

#[tokio::test]
async fn without_a_reply_the_local_answer_comes_at_the_deadline_and_the_verdict_is_late() {
    let scene = scene();
    let started = Instant::now();
    let answer = scene.start([0.0, 0.0], Duration::from_millis(60)).await.unwrap().unwrap();
    assert_eq!((answer.source, answer.status, answer.reason), (Source::Edge, Status::Uncertified, Reason::Deadline));
    assert!(started.elapsed() >= Duration::from_millis(60));
    let sent = scene.link.sent.lock().unwrap().len();
    let (first, last) = (scene.sent(1).await, scene.sent(sent).await);
    assert_eq!((first.id, sent), (last.id, 2), "asked twice under one id");
    assert_eq!((first.attempt, last.attempt), (0, 1));
    scene.verdict(first.id, logits(&[0.0, 9.0, 0.0]));
    assert_eq!(scene.start([0.0, 0.0], Duration::from_millis(20)).await.unwrap().unwrap().status, Status::Uncertified);
}

#[tokio::test]
async fn when_the_caller_goes_away_nothing_is_left_behind() {
    let scene = scene();
    let task = scene.start([0.0, 0.0], LONG);
    let query = scene.sent(1).await;
    task.abort();
    let _ = task.await;
    scene.verdict(query.id, logits(&[0.0, 9.0, 0.0]));
    let again = scene.start([0.0, 0.0], Duration::from_millis(20)).await.unwrap().unwrap();
    assert_eq!(again.source, Source::Cache, "the local result was cached, the late verdict was not taken");
    assert_eq!(again.status, Status::Uncertified);
}
