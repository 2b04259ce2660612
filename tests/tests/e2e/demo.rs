//! `hedge demo`: every request is answered, with the cloud, without it and with it again; and a second run repeats the first.

use std::path::Path;
use std::process::Output;

use hedge_tests::binaries::binaries;
use hedge_tests::npy::Array;
use hedge_tests::program::command;
use serde_json::{Value, json};

const REQUESTS: usize = 600;

/// Two answers of one model to one input may differ by rounding: batches are not the same in both runs.
const ROUNDING: f32 = 1e-4;

/// What one run kept and reported.
struct Run {
    report: Value,
    lines: Vec<Value>,
    outputs: Array<f32>,
}

/// Runs the demonstration on the CPU and keeps what it keeps in `folder`.
pub(crate) fn run_demo(folder: &Path, requests: usize) -> (Output, Value) {
    let report = folder.join("report.json");
    let mut demo = command(&binaries().hedge);
    demo.args(["demo", "--device", "cpu", "--requests"]).arg(requests.to_string());
    demo.arg("--json").arg(&report).arg("--keep").arg(folder);
    let output = demo.output().expect("hedge starts");
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    let report = std::fs::read_to_string(&report).expect("the report");
    (output, serde_json::from_str(&report).expect("the report is JSON"))
}

fn run() -> Run {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (output, report) = run_demo(folder.path(), REQUESTS);
    assert_eq!(text(&output.stderr), "", "normal operation logs no warning");
    let lines = std::fs::read_to_string(folder.path().join("requests.jsonl")).expect("requests.jsonl");
    let lines = lines.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    Run { report, lines, outputs: Array::read(&folder.path().join("outputs.npy")) }
}

#[test]
fn nothing_is_lost_in_any_phase_and_a_second_run_repeats_the_first() {
    let first = run();
    holds_what_it_promises(&first.report);
    let second = run();
    holds_what_it_promises(&second.report);
    assert_eq!((first.lines.len(), second.lines.len()), (REQUESTS, REQUESTS));
    assert_eq!(first.outputs.shape, second.outputs.shape);
    let classes = first.outputs.shape[1] as usize;
    for (index, (a, b)) in first.lines.iter().zip(&second.lines).enumerate() {
        if a["phase"] == "normal" {
            assert_eq!(a["source"], b["source"], "request {index}: {a} and {b}");
        }
        // A cached answer is one model's or the other's: the digest says whose.
        if (&a["source"], &a["model"]) == (&b["source"], &b["model"]) {
            assert_eq!(a["prediction"], b["prediction"], "request {index}");
            let row = index * classes..(index + 1) * classes;
            let pairs = first.outputs.data[row.clone()].iter().zip(&second.outputs.data[row]);
            let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(worst <= ROUNDING, "request {index} of {}: {worst}", a["source"]);
        }
    }
}

fn holds_what_it_promises(report: &Value) {
    assert_eq!((&report["lost"], &report["duplicated"]), (&json!(0), &json!(0)), "{report}");
    let phases = report["phases"].as_array().expect("phases");
    let names: Vec<&str> = phases.iter().filter_map(|phase| phase["name"].as_str()).collect();
    assert_eq!(names, ["normal", "cut", "healed"]);
    let number = |phase: &Value, key: &str| phase[key].as_f64().unwrap_or_else(|| panic!("{key} of {phase}"));
    for phase in phases {
        assert_eq!(number(phase, "failed"), 0.0, "{phase}");
        let answered = number(phase, "edge") + number(phase, "cache") + number(phase, "cloud");
        assert_eq!(answered, number(phase, "requests"), "{phase}");
        // A label is never missing: what the cloud did not say is uncertified.
        assert!(number(phase, "uncertified") >= number(phase, "edge"), "{phase}");
        if phase["name"] == "cut" {
            assert_eq!((number(phase, "cloud"), number(phase, "bytes_up")), (0.0, 0.0), "{phase}");
        } else {
            assert!(number(phase, "cloud") > 0.0 && number(phase, "bytes_up") > 0.0, "{phase}");
        }
    }
    assert!(number(&phases[0], "agreement") >= 0.98, "{}", phases[0]);
    let cached: f64 = phases.iter().map(|phase| number(phase, "cache")).sum();
    assert!(cached > 0.0, "{report}");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
