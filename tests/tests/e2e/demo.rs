//! `hedge demo`: every request is answered, with the cloud, without it and with it again; a second run repeats the first; and a
//! drift voids the certificate until there is a new one.

use std::ops::Range;
use std::path::Path;
use std::process::Output;

use hedge_tests::binaries::binaries;
use hedge_tests::npy::Array;
use hedge_tests::program::command;
use serde_json::{Value, json};

/// Enough for the certificate to be used in every phase; too few for a new one.
const REQUESTS: usize = 4000;
/// Enough for whichever requests happen to be audited: the drift alone is three times as long as a recovery usually takes.
const REQUESTS_OF_A_RECOVERY: usize = 24_000;
/// A certificate that holds may be lost to a false alarm, in at most 5 % of runs; so often in a row it is not.
const ATTEMPTS: usize = 3;

/// Two answers of one model to one input may differ by rounding: batches are not the same in both runs.
const ROUNDING: f32 = 1e-4;
/// The number of a transition's request is right to within the requests that are under way at once; twice that.
const NEAR: usize = 16;
/// What the demonstration certifies.
const ALPHA: f64 = 0.02;

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

fn run(requests: usize) -> Run {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (output, report) = run_demo(folder.path(), requests);
    assert_eq!(text(&output.stderr), "", "normal operation logs no warning");
    let lines = std::fs::read_to_string(folder.path().join("requests.jsonl")).expect("requests.jsonl");
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    assert_eq!(lines.len(), requests);
    for line in &lines {
        let status = line["status"].as_str().unwrap_or_else(|| panic!("no status: {line}"));
        let may_be: &[&str] = match line["source"].as_str() {
            Some("edge") => &["certified", "uncertified"],
            Some("cloud") => &["cloud"],
            Some("cache") => &["certified", "uncertified", "cloud"],
            _ => &[],
        };
        assert!(may_be.contains(&status), "{line}");
    }
    Run { report, lines, outputs: Array::read(&folder.path().join("outputs.npy")) }
}

#[test]
fn nothing_is_lost_in_any_phase_and_a_second_run_repeats_the_first() {
    let (first, second) = (run(REQUESTS), run(REQUESTS));
    holds_what_it_promises(&first.report);
    holds_what_it_promises(&second.report);
    assert_eq!(first.report["certificate"]["threshold"], second.report["certificate"]["threshold"]);
    assert_eq!(first.outputs.shape, second.outputs.shape);
    let classes = first.outputs.shape[1] as usize;
    let (change, calm) = (first_use(&first, &second), calm(&first, &second));
    let mut compared = 0;
    for (index, (a, b)) in first.lines.iter().zip(&second.lines).enumerate() {
        let asked_first = a["repeat_of"].as_u64().map_or(index, |first| first as usize);
        if calm.contains(&index) && !change.contains(&index) && !change.contains(&asked_first) {
            assert_eq!((&a["source"], &a["status"]), (&b["source"], &b["status"]), "request {index}: {a} and {b}");
            compared += 1;
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
    assert!(compared > 500, "{compared} requests of phase normal were compared");
}

/// The requests within which one run or the other began to use the certificate: it does so once its state is on disk, which
/// is not at the same request in both.
fn first_use(first: &Run, second: &Run) -> Range<usize> {
    let used = |run: &Run| transition(run, "used", 0).expect("the certificate is used");
    let certified = |run: &Run| run.lines.iter().position(|line| line["status"] == "certified").expect("and certifies");
    used(first).min(used(second)).saturating_sub(NEAR)..certified(first).max(certified(second)) + NEAR
}

/// The requests of phase normal, as long as neither run lost its certificate to a false alarm.
fn calm(first: &Run, second: &Run) -> Range<usize> {
    let end = first.lines.iter().position(|line| line["phase"] != "normal").expect("more phases than one");
    let void = |run: &Run| transition(run, "void", 0).map_or(end, |void| void - NEAR);
    0..end.min(void(first)).min(void(second))
}

fn holds_what_it_promises(report: &Value) {
    assert_eq!((&report["lost"], &report["duplicated"]), (&json!(0), &json!(0)), "{report}");
    let certificate = &report["certificate"];
    assert_eq!(
        (&certificate["certified"], &certificate["contract"]),
        (&json!(true), &json!("system")),
        "{certificate}"
    );
    let phases = report["phases"].as_array().expect("phases");
    let names: Vec<&str> = phases.iter().filter_map(|phase| phase["name"].as_str()).collect();
    assert_eq!(names, ["normal", "cut", "healed", "drift"]);
    let number = |phase: &Value, key: &str| phase[key].as_f64().unwrap_or_else(|| panic!("{key} of {phase}"));
    for phase in phases {
        assert_eq!(number(phase, "failed"), 0.0, "{phase}");
        let answered = number(phase, "edge") + number(phase, "cache") + number(phase, "cloud");
        assert_eq!(answered, number(phase, "requests"), "{phase}");
        // A label is never missing: what the cloud did not say is certified or uncertified.
        assert!(number(phase, "certified") + number(phase, "uncertified") >= number(phase, "edge"), "{phase}");
        if phase["name"] == "cut" {
            assert_eq!((number(phase, "cloud"), number(phase, "bytes_up")), (0.0, 0.0), "{phase}");
            assert!(number(phase, "uncertified") > 0.0, "{phase}");
        } else {
            assert!(number(phase, "cloud") > 0.0 && number(phase, "bytes_up") > 0.0, "{phase}");
        }
    }
    assert!(number(&phases[0], "agreement") >= 0.97, "{}", phases[0]);
    let cached: f64 = phases.iter().map(|phase| number(phase, "cache")).sum();
    assert!(cached > 0.0, "{report}");
}

#[test]
fn a_drift_voids_the_certificate_at_once_and_a_new_one_comes_without_anyones_doing() {
    let run = run_with_a_certificate_to_lose();
    holds_what_it_promises(&run.report);
    let drift = run.lines.iter().position(|line| line["phase"] == "drift").expect("a drift");
    let used = transition(&run, "used", 0).expect("the certificate is used");
    let alarm = transition(&run, "alarm", drift).unwrap_or_else(|| panic!("no alarm: {}", run.report["transitions"]));
    let void = transition(&run, "void", drift).expect("what is alarmed about is void");
    let issued =
        transition(&run, "issued", alarm).unwrap_or_else(|| panic!("none issued: {}", run.report["transitions"]));
    let again = transition(&run, "used", issued).unwrap_or_else(|| panic!("none used: {}", run.report["transitions"]));
    assert_eq!(alarm, void);

    assert!(count(&run, 0..used.saturating_sub(NEAR), "certified") == 0, "a certificate is watched before it is used");
    if transition(&run, "alarm", 0).is_some_and(|first| first >= drift) {
        let cut = run.lines.iter().filter(|line| line["phase"] == "cut");
        let (certified, uncertified): (Vec<_>, Vec<_>) =
            cut.filter(|line| line["status"] != "cloud").partition(|line| line["status"] == "certified");
        assert!(certified.iter().all(|line| line["reason"] == "inside-certificate"), "offline voids nothing");
        assert!(certified.len() > uncertified.len() && !uncertified.is_empty());
        within_the_promise(&run, used..drift);
    }
    let without = alarm + NEAR..again - NEAR;
    assert_eq!(count(&run, without.clone(), "certified"), 0, "nothing is certified without a certificate");
    assert_eq!(count(&run, without, "uncertified"), 0, "all goes to the cloud");
    let renewed = transition(&run, "void", again).map_or(REQUESTS_OF_A_RECOVERY, |void| void - NEAR);
    assert!(count(&run, again + NEAR..renewed, "certified") > 0, "the new one is used");
    within_the_promise(&run, again + NEAR..renewed);

    let recovery = &run.report["recovery"];
    assert_eq!(
        (&recovery["drift"], &recovery["alarm"], &recovery["renewed"]),
        (&json!(drift), &json!(alarm), &json!(again))
    );
    let broken = differing(&run, drift..alarm) as f64 / (alarm - drift) as f64;
    let reported = recovery["disagreement_until_alarm"].as_f64().expect("a share");
    assert!((reported - broken).abs() < 1e-9, "{reported} is reported, {broken} found");
}

fn run_with_a_certificate_to_lose() -> Run {
    let mut runs = std::iter::repeat_with(|| run(REQUESTS_OF_A_RECOVERY)).take(ATTEMPTS);
    runs.find(|run| run.report["recovery"]["in_use"] == true)
        .expect("a certificate that is in use when the drift begins")
}

/// The share of certified answers that differ from the cloud's, out of all requests, is at most alpha, but for what so few
/// requests leave uncertain (three deviations).
fn within_the_promise(run: &Run, requests: Range<usize>) {
    let total = requests.len() as f64;
    let (share, slack) = (differing(run, requests) as f64 / total, 3.0 * (ALPHA * (1.0 - ALPHA) / total).sqrt());
    assert!(share <= ALPHA + slack, "{share} of {total} requests");
}

/// Certified answers that are not the cloud's.
fn differing(run: &Run, requests: Range<usize>) -> usize {
    let lines = run.lines[requests].iter();
    lines.filter(|line| line["status"] == "certified" && line["prediction"] != line["cloud_prediction"]).count()
}

/// The request of the first transition of that kind from request `from` on.
fn transition(run: &Run, what: &str, from: usize) -> Option<usize> {
    let transitions = run.report["transitions"].as_array().expect("transitions");
    let at = |step: &Value| step["request"].as_u64().expect("a request's number") as usize;
    transitions.iter().find(|step| step["what"] == what && at(step) >= from).map(at)
}

fn count(run: &Run, requests: Range<usize>, status: &str) -> usize {
    run.lines[requests].iter().filter(|line| line["status"] == status).count()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
