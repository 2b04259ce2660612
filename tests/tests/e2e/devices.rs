//! The same model on another device gives the same answers, and no device is needed beside the CPU.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use hedge_tests::binaries::binaries;
use hedge_tests::daemons::AgentSetup;
use hedge_tests::digits::{self, SIDE};
use hedge_tests::needs::need;
use hedge_tests::npy::Array;
use hedge_tests::program::command;
use serde_json::Value;

/// Between devices, as a share of the largest reference value (of 1 where that is smaller).
const TOLERANCE: f32 = 1e-3;

/// How long `auto` may take to find that there is no GPU, load the model and run it.
const FALL_BACK_LIMIT: Duration = Duration::from_secs(1);

const ROWS: usize = 32;

#[test]
fn a_gpu_agrees_with_the_cpu_on_both_digits_models() {
    let get = "apt-get install mesa-vulkan-drivers";
    if need("vulkan", get, has_gpu().then_some(())).is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let input = write_input(folder.path());
    for model in [digits::edge_model(), digits::cloud_model()] {
        let [cpu, gpu] = ["cpu", "gpu"].map(|device| {
            let output = folder.path().join(device);
            let run = succeeded(run_model(&model, &input, &output, device));
            (Array::<f32>::read(&output.join("logits.npy")), String::from_utf8_lossy(&run.stderr).into_owned())
        });
        let (reference, _) = cpu;
        let (found, said) = gpu;
        assert_eq!(found.shape, [ROWS as u64, 10]);
        assert_eq!(found.shape, reference.shape);
        let scale = reference.data.iter().fold(1f32, |scale, value| scale.max(value.abs()));
        let pairs = found.data.iter().zip(&reference.data);
        let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(worst <= TOLERANCE * scale, "{}: {worst} of {scale}", model.display());
        if said.contains("llvmpipe") {
            assert!(said.contains("emulated"), "a software GPU was used silently: {said}");
        }
    }
}

#[test]
fn without_vulkan_auto_falls_back_to_the_cpu_at_once_with_one_info_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let input = write_input(folder.path());
    let mut run = run_model(&digits::edge_model(), &input, &folder.path().join("out"), "auto");
    let started = Instant::now();
    let run = succeeded(without_vulkan(&mut run));
    let took = started.elapsed();
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    assert!(matches!(lines[..], [line] if line.contains("INFO") && line.contains("CPU")), "{said}");
    assert!(took < FALL_BACK_LIMIT, "{took:?}");
}

#[test]
fn without_vulkan_a_gpu_that_was_asked_for_is_an_error_that_says_what_to_do() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let input = write_input(folder.path());
    let mut run = run_model(&digits::edge_model(), &input, &folder.path().join("out"), "gpu");
    let output = without_vulkan(&mut run).output().expect("hedge starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("--device cpu"), "{said}");
}

#[test]
fn the_devices_of_a_running_agent_are_shown() {
    let agent = AgentSetup::default().start();
    let url = format!("http://{}/", agent.address);
    let output = command(&binaries().hedge).args(["devices", "--agent", &url, "--json", "-"]).output();
    let output = output.expect("hedge starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("cpu") && said.contains("state"), "{said}");
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON on standard output");
    let devices = found["devices"].as_array().expect("a list of devices");
    assert!(devices.iter().any(|device| device["kind"] == "cpu" && device.get("state").is_some()), "{found}");

    let nobody = command(&binaries().hedge).args(["devices", "--agent", "http://127.0.0.1:1"]).output();
    let nobody = nobody.expect("hedge starts");
    let said = String::from_utf8_lossy(&nobody.stderr);
    assert_eq!(nobody.status.code(), Some(1), "{said}");
    assert!(said.contains("hint: is the agent running"), "{said}");
}

pub(crate) fn has_gpu() -> bool {
    let output = command(&binaries().hedge).args(["devices", "--json", "-"]).output().expect("hedge starts");
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON on standard output");
    found["devices"].as_array().is_some_and(|devices| devices.iter().any(|device| device["kind"] == "gpu"))
}

fn write_input(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("image.npy");
    let side = SIDE as u64;
    Array { shape: vec![ROWS as u64, 1, side, side], data: digits::images(7, ROWS).concat() }.write(&path);
    path
}

fn run_model(model: &Path, input: &Path, output: &Path, device: &str) -> Command {
    let mut run = command(&binaries().hedge);
    run.args(["model", "run"]).arg(model);
    run.arg("--input").arg(format!("image={}", input.display()));
    run.arg("--output-dir").arg(output).args(["--device", device]);
    run
}

fn without_vulkan(run: &mut Command) -> &mut Command {
    run.env("VK_ICD_FILENAMES", "/nowhere").env("VK_DRIVER_FILES", "/nowhere")
}

fn succeeded(mut run: impl std::borrow::BorrowMut<Command>) -> Output {
    let output = run.borrow_mut().output().expect("hedge starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}
