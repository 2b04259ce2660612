//! Devices that fail under an agent: every request is answered, and says by whom.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use hedge_engine::{
    Device, DeviceChoice, DeviceKind, Engine, Executor, PrepareError, RunError, Runnable, burn_executor,
};
use hedge_graph::Graph;
use hedge_tensor::Tensor;
use serde_json::{Value, json};

use crate::client::{Connection, get};
use crate::scene::{INFER, SURE, Scene, UNSURE, config, rows};

/// How the device fails now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Mood {
    Fine,
    Error,
    Panic,
    NotANumber,
    Hang,
    Lost,
}

const MOODS: [Mood; 6] = [Mood::Fine, Mood::Error, Mood::Panic, Mood::NotANumber, Mood::Hang, Mood::Lost];

/// Runs on the CPU; what it runs "on the device" fails as it is told.
#[derive(Clone, Default)]
struct Moody(Arc<AtomicU8>);

struct MoodyRunnable {
    inner: Box<dyn Runnable>,
    moody: Moody,
}

impl Moody {
    fn be(&self, mood: Mood) {
        self.0.store(mood as u8, Ordering::SeqCst);
    }

    fn is(&self) -> Mood {
        MOODS[usize::from(self.0.load(Ordering::SeqCst))]
    }
}

impl Executor for Moody {
    fn name(&self) -> &'static str {
        "moody"
    }

    fn prepare(&self, graph: Graph, device: &Device) -> Result<Box<dyn Runnable>, PrepareError> {
        let inner = burn_executor().prepare(graph, &Device::cpu())?;
        match device.kind() {
            DeviceKind::Cpu => Ok(inner),
            DeviceKind::Gpu => Ok(Box::new(MoodyRunnable { inner, moody: self.clone() })),
        }
    }
}

impl Runnable for MoodyRunnable {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, RunError> {
        let outputs = self.inner.run(inputs)?;
        match self.moody.is() {
            Mood::Fine => Ok(outputs),
            Mood::Error => Err(RunError::Device { why: "validation error".into() }),
            Mood::Lost => Err(RunError::Device { why: "DevicePoisoned: the device was lost".into() }),
            Mood::Panic => panic!("the driver panicked"),
            Mood::NotANumber => {
                let shape = outputs[0].shape();
                Ok(vec![Tensor::from_slice(shape, &vec![f32::NAN; shape.iter().product()]).unwrap()])
            }
            Mood::Hang => {
                while self.moody.is() == Mood::Hang {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(outputs)
            }
        }
    }
}

async fn start(device: &str, slow_after_ms: u64) -> (Scene, Moody) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&folder);
    config.engine.device = DeviceChoice::Gpu.to_string();
    config.engine.slow_after_ms = slow_after_ms;
    config.engine.hang_after_secs = slow_after_ms.div_ceil(1000);
    config.cache.enabled = false;
    let moody = Moody::default();
    let engine = Engine::with_executor(Arc::new(moody.clone()), vec![Device::foreign(device, "test")]);
    let agent = hedge_agent::start_on(config, engine).await.expect("the agent starts");
    let address = agent.http_addr().unwrap();
    (Scene { folder, agent, address }, moody)
}

fn parameters(answer: &Value) -> [&str; 3] {
    ["hedge.device", "hedge.reason", "hedge.source"].map(|key| answer["parameters"][key].as_str().unwrap())
}

fn metric(address: SocketAddr, line: &str) -> f64 {
    let text = String::from_utf8(get(address, "/metrics").body).unwrap();
    let found = text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("no {line} in\n{text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_on_a_failing_device_is_answered_by_the_cpu_and_says_so() {
    let (scene, moody) = start("solo", 20_000).await;
    let gpu = "gpu (solo, test)";
    let fine = scene.infer(rows(&[SURE])).await.json();
    assert_eq!(parameters(&fine), [gpu, "no-certificate", "edge"]);
    moody.be(Mood::Lost);
    let instead = scene.infer(rows(&[SURE])).await;
    assert_eq!(instead.status, 200);
    let instead = instead.json();
    assert_eq!(parameters(&instead), ["cpu (flex)", "device-fault", "edge"]);
    assert_eq!(instead["outputs"], fine["outputs"], "the same numbers");
    let unsure = scene.infer(rows(&[UNSURE])).await.json();
    assert_eq!(parameters(&unsure), ["cpu (flex)", "device-fault", "edge"], "quarantined");
    scene
        .with(|address| {
            assert_eq!(metric(address, "hedge_device_faults{device=\"gpu (solo, test)\",kind=\"lost\"}"), 1.0);
            assert_eq!(metric(address, "hedge_device_state{device=\"gpu (solo, test)\",state=\"serving\"}"), 0.0);
            assert!(metric(address, "hedge_stand_in_rows_total") >= 2.0);
        })
        .await;
    moody.be(Mood::Fine);
    let started = Instant::now();
    while parameters(&scene.infer(rows(&[SURE])).await.json())[0] != gpu {
        assert!(started.elapsed() < Duration::from_secs(20), "the device does not come back");
    }
    let serving = |address| metric(address, "hedge_device_state{device=\"gpu (solo, test)\",state=\"serving\"}");
    assert_eq!(scene.with(serving).await, 1.0);
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_no_request_fails_whatever_the_device_does() {
    let (scene, moody) = start("crowd", 50).await;
    let done: &'static AtomicBool = Box::leak(Box::default());
    let callers: Vec<_> = (0..6)
        .map(|caller| {
            scene.with(move |address| {
                let mut connection = Connection::open(address);
                let (mut stand_ins, mut n) = (0, 0);
                while !done.load(Ordering::SeqCst) {
                    n = (n + 1) % 1000;
                    let (a, b) = (f64::from(caller * 1000 + n), 2.0);
                    let response = connection.post(INFER, rows(&[[a, b]]).to_string().as_bytes());
                    assert_eq!(response.status, 200, "{response:?}");
                    let body = response.json();
                    assert_eq!(body["outputs"][0]["data"], json!([a, b, -a - b]));
                    stand_ins += u32::from(parameters(&body)[1] == "device-fault");
                }
                stand_ins
            })
        })
        .collect();
    for mood in MOODS.repeat(3) {
        moody.be(mood);
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    moody.be(Mood::Fine);
    done.store(true, Ordering::SeqCst);
    let mut stand_ins = 0;
    for caller in callers {
        stand_ins += caller.await;
    }
    assert!(stand_ins > 0, "the device never failed");
    scene.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_on_a_device_that_fails_at_the_start_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&folder);
    config.engine.device = "gpu".into();
    let moody = Moody::default();
    moody.be(Mood::Panic);
    let engine = Engine::with_executor(Arc::new(moody), vec![Device::foreign("stillborn", "test")]);
    let error = hedge_agent::start_on(config, engine).await.err().expect("no device serves").to_string();
    assert!(error.contains("no device may serve this model"), "{error}");
    assert!(error.contains("the driver panicked"), "{error}");
}
