//! Devices that fail: an executor that fails on command, and a real device that is taken away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hedge_graph::Graph;
use hedge_tensor::Tensor;

use super::{affine, floats, named, real_device};
use crate::worker::{BatchPolicy, Worker};
use crate::{
    Device, DeviceChoice, DeviceKind, DeviceStanding, DeviceState, Engine, Executor, FaultKind, FaultPolicy,
    PrepareError, ProbePolicy, RanOn, RunError, Runnable, burn_executor, device_states,
};

const FINE: u8 = 0;
const ERROR: u8 = 1;
const PANIC: u8 = 2;
const NAN: u8 = 3;
const HANG: u8 = 4;
const OUT_OF_MEMORY: u8 = 5;
const LOST: u8 = 6;
const WRONG: u8 = 7;

/// Runs everything on the CPU; what it runs "on the device" fails as `mode` says.
#[derive(Default)]
struct Moody {
    mode: AtomicU8,
    prepared: AtomicUsize,
}

struct MoodyExecutor(Arc<Moody>);

struct MoodyRunnable {
    inner: Box<dyn Runnable>,
    moody: Arc<Moody>,
}

impl Executor for MoodyExecutor {
    fn name(&self) -> &'static str {
        "moody"
    }

    fn prepare(&self, graph: Graph, device: &Device) -> Result<Box<dyn Runnable>, PrepareError> {
        let inner = burn_executor().prepare(graph, &Device::cpu())?;
        if device.kind() == DeviceKind::Cpu {
            return Ok(inner);
        }
        self.0.prepared.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(MoodyRunnable { inner, moody: Arc::clone(&self.0) }))
    }
}

impl Runnable for MoodyRunnable {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, RunError> {
        let outputs = self.inner.run(inputs)?;
        let failed = |why: &str| Err(RunError::Device { why: why.to_owned() });
        let filled = |value: f32| {
            let shape = outputs[0].shape();
            Ok(vec![floats(shape, &vec![value; shape.iter().product()])])
        };
        match self.moody.mode.load(Ordering::SeqCst) {
            ERROR => failed("validation error"),
            PANIC => panic!("the driver panicked"),
            NAN => filled(f32::NAN),
            WRONG => filled(0.125),
            OUT_OF_MEMORY => failed("wgpu error: Out of Memory"),
            LOST => failed("DevicePoisoned: the device was lost"),
            HANG => {
                while self.moody.mode.load(Ordering::SeqCst) == HANG {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(outputs)
            }
            _ => Ok(outputs),
        }
    }
}

/// A worker on a device that fails on command.
struct Scene {
    moody: Arc<Moody>,
    worker: Worker,
    device: &'static str,
}

fn quick() -> FaultPolicy {
    let second = Duration::from_secs(1);
    FaultPolicy {
        slow_after: Duration::from_millis(100),
        hang_after: Duration::from_millis(200),
        prepare_limit: 20 * second,
        probe: ProbePolicy { base: Duration::from_millis(20), cap: second, settled: second, openings: 1000 },
    }
}

/// On a busy machine even a device that is fine may take a while.
fn patient() -> FaultPolicy {
    FaultPolicy { slow_after: Duration::from_secs(20), hang_after: Duration::from_secs(40), ..quick() }
}

fn scene(device: &'static str, policy: FaultPolicy) -> Scene {
    let moody = Arc::<Moody>::default();
    let worker = worker(&moody, device, policy);
    Scene { moody, worker, device }
}

fn worker(moody: &Arc<Moody>, device: &'static str, policy: FaultPolicy) -> Worker {
    let executor = Arc::new(MoodyExecutor(Arc::clone(moody)));
    let engine = Engine::with_executor(executor, vec![Device::foreign(device, "test")]).with_policy(policy);
    let model = engine.load(affine(), DeviceChoice::Gpu, &[]).expect("the model loads");
    let batch = BatchPolicy { max_batch: 4, max_wait: Duration::ZERO, queue_rows: 1024 };
    Worker::spawn("test", model, batch).unwrap()
}

impl Scene {
    /// Asks for one row, checks the numbers, and says who answered.
    fn ask(&self, value: f32) -> RanOn {
        ask(&self.worker, value)
    }

    fn state(&self) -> DeviceState {
        let label = format!("gpu ({}, test)", self.device);
        device_states().into_iter().find(|state| state.device == label).expect("the device is known")
    }

    fn fails(&self, mode: u8) {
        self.moody.mode.store(mode, Ordering::SeqCst);
    }

    /// Waits until the device answers again.
    fn recovered(&self) {
        let started = Instant::now();
        while self.ask(1.0) != RanOn::Device {
            assert!(started.elapsed() < Duration::from_secs(20), "it does not come back: {:?}", self.state());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn ask(worker: &Worker, value: f32) -> RanOn {
    let row = named("x", floats(&[1, 2], &[value, value]));
    let output = worker.submit(row).unwrap().blocking_recv().expect("the worker lives").expect("every row is answered");
    assert_eq!(output.outputs[0].tensor.to_vec::<f32>().unwrap(), [value * 2.0 + 10.0, value * 2.0 + 20.0]);
    output.ran_on
}

#[test]
fn a_batch_that_the_device_fails_is_answered_by_the_cpu_and_the_device_comes_back() {
    for (device, mode, kind) in [
        ("erring", ERROR, FaultKind::Error),
        ("panicking", PANIC, FaultKind::Panic),
        ("dreaming", NAN, FaultKind::NotANumber),
        ("full", OUT_OF_MEMORY, FaultKind::OutOfMemory),
        ("lost", LOST, FaultKind::Lost),
    ] {
        let scene = scene(device, patient());
        assert_eq!(scene.ask(1.0), RanOn::Device, "{device}");
        scene.fails(mode);
        assert_eq!(scene.ask(2.0), RanOn::StandIn, "{device}");
        assert_eq!(scene.state().faults[&kind], 1, "{device}: {:?}", scene.state());
        assert_ne!(scene.state().standing, DeviceStanding::Serving, "{device}");
        assert_eq!(scene.ask(3.0), RanOn::StandIn, "{device} is not asked while it is in quarantine");
        scene.fails(FINE);
        scene.recovered();
        assert_eq!(scene.state().standing, DeviceStanding::Serving);
    }
}

#[test]
fn a_run_that_hangs_is_answered_by_the_cpu_in_bounded_time() {
    let scene = scene("hanging", quick());
    scene.fails(HANG);
    let started = Instant::now();
    assert_eq!(scene.ask(1.0), RanOn::StandIn);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let again = Instant::now();
    assert_eq!(scene.ask(2.0), RanOn::StandIn, "the device is busy");
    assert!(again.elapsed() < Duration::from_secs(5));
    std::thread::sleep(quick().hang_after);
    assert_eq!(scene.ask(3.0), RanOn::StandIn);
    assert_eq!(scene.state().faults[&FaultKind::Hang], 1);
    scene.fails(FINE);
    scene.recovered();
}

#[test]
fn a_device_that_was_only_slow_is_no_fault() {
    let scene = scene("slow", quick());
    scene.fails(HANG);
    assert_eq!(scene.ask(1.0), RanOn::StandIn);
    scene.fails(FINE);
    scene.recovered();
    assert_eq!(scene.state().faults.get(&FaultKind::Error), None);
    assert_eq!(scene.state().standing, DeviceStanding::Serving);
}

#[test]
fn a_device_that_answers_wrongly_after_a_fault_is_not_used() {
    let scene = scene("wrong", patient());
    scene.fails(ERROR);
    assert_eq!(scene.ask(1.0), RanOn::StandIn);
    scene.fails(WRONG);
    let prepared = scene.moody.prepared.load(Ordering::SeqCst);
    while scene.moody.prepared.load(Ordering::SeqCst) < prepared + 3 {
        assert_eq!(scene.ask(1.0), RanOn::StandIn);
    }
    scene.fails(FINE);
    scene.recovered();
}

#[test]
fn one_models_fault_takes_the_device_from_the_other_and_both_get_it_back() {
    let scene = scene("shared", patient());
    let other = worker(&scene.moody, "shared", patient());
    assert_eq!(ask(&other, 1.0), RanOn::Device);
    scene.fails(LOST);
    assert_eq!(scene.ask(1.0), RanOn::StandIn);
    assert_eq!(ask(&other, 1.0), RanOn::StandIn);
    assert_eq!(scene.state().faults[&FaultKind::Lost], 1, "the other model did not run into it");
    scene.fails(FINE);
    scene.recovered();
    let started = Instant::now();
    while ask(&other, 1.0) != RanOn::Device {
        assert!(started.elapsed() < Duration::from_secs(20));
    }
}

#[test]
fn a_model_loaded_during_a_quarantine_starts_on_the_cpu() {
    let scene = scene("resting", patient());
    scene.fails(LOST);
    scene.ask(1.0);
    let late = worker(&scene.moody, "resting", patient());
    assert_eq!(ask(&late, 1.0), RanOn::StandIn);
    scene.fails(FINE);
    scene.recovered();
}

#[test]
fn under_load_no_row_is_lost_whatever_the_device_does() {
    let scene = scene("chaotic", quick());
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for client in 0..4u8 {
            let (worker, answered) = (scene.worker.clone(), &answered);
            scope.spawn(move || {
                for value in 0..100u8 {
                    ask(&worker, f32::from(client) * 100.0 + f32::from(value));
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for mode in [ERROR, FINE, PANIC, FINE, NAN, FINE, HANG, FINE, LOST, FINE, OUT_OF_MEMORY, FINE] {
            scene.fails(mode);
            std::thread::sleep(Duration::from_millis(15));
        }
    });
    assert_eq!(answered.load(Ordering::SeqCst), 400);
    scene.recovered();
}

#[test]
fn what_the_cpu_fails_at_as_well_is_not_held_against_the_device() {
    use hedge_graph::{Dim, GraphBuilder};
    use hedge_tensor::DType;
    // Two free dimensions with the same name that a caller gives differently.
    let mut builder = GraphBuilder::new("sum");
    let free = [Dim::named("N"), Dim::named("L")];
    let (a, b) = (builder.input("a", DType::F32, &free), builder.input("b", DType::F32, &free));
    builder.op_as("y", "Add", &[&a, &b], &[]);
    builder.output("y", DType::F32, &free);
    let moody = Arc::<Moody>::default();
    let executor = Arc::new(MoodyExecutor(moody));
    let engine = Engine::with_executor(executor, vec![Device::foreign("blameless", "test")]).with_policy(patient());
    let mut model = engine.load(builder.finish().unwrap(), DeviceChoice::Gpu, &[]).unwrap();
    let error = model.run_supervised(&[floats(&[1, 2], &[0., 0.]), floats(&[1, 3], &[0., 0., 0.])]);
    assert!(error.is_err());
    let state = device_states().into_iter().find(|state| state.device.contains("blameless")).unwrap();
    assert_eq!((state.standing, state.faults.len()), (DeviceStanding::Serving, 0));
}

/// Needs a Vulkan driver; a software one will do.
#[test]
fn a_real_device_that_is_taken_away_is_replaced_by_the_cpu_and_opened_anew() {
    let Some((device, _turn)) = real_device() else { return };
    let engine = Engine::default().with_policy(FaultPolicy { prepare_limit: Duration::from_secs(120), ..patient() });
    let mut model = engine.load(affine(), DeviceChoice::Gpu, &[]).expect("the model loads");
    let mut ask = || {
        let (outputs, ran_on) = model.run_supervised(&[floats(&[1, 2], &[1., 2.])]).expect("every batch is answered");
        assert_eq!(outputs[0].tensor.to_vec::<f32>().unwrap(), [12., 24.]);
        ran_on
    };
    for _ in 0..2 {
        assert_eq!(ask(), RanOn::Device);
        assert!(crate::device::lose(&device));
        assert_eq!(ask(), RanOn::StandIn);
        let started = Instant::now();
        while ask() != RanOn::Device {
            assert!(started.elapsed() < Duration::from_secs(120), "{:?}", device_states());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let state = device_states().into_iter().find(|state| state.device == device.label()).unwrap();
    assert_eq!(state.standing, DeviceStanding::Serving);
    assert!(state.faults.values().sum::<u64>() >= 2, "{state:?}");
}
