//! A threshold is certified only by labels that prove it, a wrong file is refused where it is wrong, and a report is one file.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use hedge_tests::binaries::binaries;
use hedge_tests::digits;
use hedge_tests::program::command;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::Value;

/// Of the requests with scores below this, half differ; of the others, none.
const BAD: f64 = 0.1;

fn hedge(arguments: &[&str]) -> Output {
    command(&binaries().hedge).args(arguments).output().expect("hedge runs")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is UTF-8")
}

/// Runs `hedge route …` with `--json`, expects an exit code and gives the figures and what was said beside them.
fn figures(arguments: &[&str], code: i32) -> (Value, String) {
    let output = hedge(&[&["route"], arguments, &["--json", "-"]].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    (serde_json::from_slice(&output.stdout).expect("JSON"), said)
}

/// Requests with scores spread evenly over 0 to 1.
fn requests(count: usize, seed: u64) -> Vec<(f64, bool)> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut uniform = move || f64::from(random.next_u32()) / f64::from(u32::MAX);
    (0..count).map(|_| (uniform(), uniform() >= 0.5)).map(|(score, agree)| (score, agree || score >= BAD)).collect()
}

/// Writes a pairs file of 2,000 tune and `cal` calibration lines; gives it and the latter.
fn pairs_file(folder: &Path, cal: usize) -> (PathBuf, Vec<(f64, bool)>) {
    let cal = requests(cal, 2);
    let mut file = String::from("score,agree,split\n");
    for (split, requests) in [("tune", &requests(2_000, 1)), ("cal", &cal)] {
        for (score, agree) in requests {
            writeln!(file, "{score},{},{split}", u8::from(*agree)).expect("a text can be written to");
        }
    }
    let path = folder.join("pairs.csv");
    std::fs::write(&path, file).expect("a pairs file");
    (path, cal)
}

/// P(X <= k), X ~ Binomial(n, p), term by term.
fn binomial_cdf(k: u64, n: u64, p: f64) -> f64 {
    let mut term = (1.0 - p).powf(n as f64);
    let mut sum = term;
    for i in 1..=k {
        term *= (n - i + 1) as f64 / i as f64 * p / (1.0 - p);
        sum += term;
    }
    sum
}

#[test]
fn a_certified_threshold_is_proven_by_the_labels_above_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (path, cal) = pairs_file(folder.path(), 5_000);
    for contract in ["system", "local"] {
        let asked = ["certify", "--pairs", text(&path), "--alpha", "0.02", "--delta", "0.05", "--contract", contract];
        let (found, _) = figures(&asked, 0);
        assert_eq!((&found["certified"], &found["needs_labels"]), (&Value::Bool(true), &Value::from(0)), "{found}");
        let threshold = found["threshold"].as_f64().expect("a threshold");
        let accepted: Vec<_> = cal.iter().filter(|(score, _)| *score >= threshold).collect();
        let differing = accepted.iter().filter(|(_, agree)| !agree).count() as u64;
        assert_eq!(found["n"], 5_000);
        assert_eq!(found["k"], differing);
        assert_eq!(found["offload"], (5_000 - accepted.len()) as f64 / 5_000.0);
        let trials = if contract == "system" { 5_000 } else { accepted.len() as u64 };
        let p = binomial_cdf(differing, trials, 0.02);
        assert!(p <= 0.05 && (p - found["p_value"].as_f64().expect("a p-value")).abs() < 1e-9, "{p} {found}");
        // Below BAD the certificate must stop: half of those requests differ. It comes close.
        assert!((0.04..BAD).contains(&threshold), "{contract}: {threshold}");
    }
}

#[test]
fn too_few_labels_certify_nothing_and_more_of_them_do_as_was_said() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let certify = |cal: usize, code| {
        let (path, _) = pairs_file(folder.path(), cal);
        figures(&["certify", "--pairs", text(&path), "--alpha", "0.01", "--delta", "0.05", "--contract", "local"], code)
    };
    let (found, said) = certify(200, 1);
    assert_eq!(found["certified"], false);
    assert_eq!((&found["threshold"], &found["k"], &found["offload"]), (&Value::Null, &Value::Null, &Value::from(1.0)));
    let more = found["needs_labels"].as_u64().expect("a number of labels");
    assert!(said.contains(&format!("about {more} more")), "{said}");
    assert_eq!(said.lines().filter(|line| line.starts_with("hint:")).count(), 1, "{said}");
    // A few above the estimate: the next labels are other ones.
    let (found, _) = certify(200 + more as usize + 50, 0);
    assert_eq!(found["certified"], true);
}

#[test]
fn what_cannot_be_certified_by_is_refused_as_bad_usage() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("pairs.csv");
    let refused = |file: &str, alpha: &str| {
        std::fs::write(&path, file).expect("a pairs file");
        let output = hedge(&[
            "route",
            "certify",
            "--pairs",
            text(&path),
            "--alpha",
            alpha,
            "--contract",
            "system",
            "--json",
            "-",
        ]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{file:?}: {said}");
        assert!(output.stdout.is_empty(), "{file:?} has no figures");
        assert_eq!(said.lines().filter(|line| line.starts_with("hint:")).count(), 1, "{said}");
        said
    };
    for (file, why) in [
        ("score,agree\n0.5,1\n", "no column \"split\""),
        ("score,agree,split\n0.5,1,tune\nNaN,1,cal\n", "line 3, column \"score\""),
        ("score,agree,split\n0.5,1,tune\n0.5,0.5,cal\n", "line 3, column \"agree\""),
        ("score,agree,split\n0.5,1,test\n", "line 2, column \"split\""),
        ("score,agree,split\n0.5,1,cal\n", "no line of split \"tune\""),
        ("score,agree,split\n0.5,1,tune\n", "no line of split \"cal\""),
    ] {
        let said = refused(file, "0.01");
        assert!(said.contains(why), "{said} does not say {why}");
    }
    assert!(refused("score,agree,split\n0.5,1,tune\n0.5,1,cal\n", "1").contains("alpha"));
}

#[test]
fn a_simulation_holds_certificates_monitor_and_budget_against_the_truth() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (path, _) = pairs_file(folder.path(), 20_000);
    let plots = folder.path().join("plots");
    let effort = ["--repetitions", "500", "--sizes", "500,2000", "--alphas", "0.02", "--alpha", "0.02"];
    let runs = ["--runs", "20", "--requests", "5000", "--plots", text(&plots)];
    let routers = ["--router-runs", "2", "--router-requests", "5000", "--caps", "0.03"];
    let (found, _) =
        figures(&[&["simulate", "--pairs", text(&path)], &effort[..], &runs[..], &routers[..]].concat(), 0);
    let cells = found["calibrations"].as_array().expect("cells");
    assert_eq!(cells.len(), 2 * 2);
    for cell in cells {
        let number = |key: &str| cell[key].as_f64().expect("a number");
        assert!(number("violations") <= number("limit"), "{cell}");
        assert!(number("violations") <= number("certified"), "only a certificate violates: {cell}");
        assert!((number("edge_differs") - BAD / 2.0).abs() < 0.01, "{cell}");
    }
    // What makes it worth while: without the test, a threshold breaks the promise.
    assert!(cells.iter().any(|cell| cell["plug_in_violations"].as_f64() > cell["limit"].as_f64()), "{cells:?}");
    let calm =
        found["drift"].as_array().expect("scenarios").iter().all(|report| report["risk_after"].as_f64() < Some(0.02));
    assert!(calm, "{}", found["drift"]);
    let budget = &found["budgets"][0];
    assert_eq!((&budget["runs"], &budget["unflagged"]), (&Value::from(2), &Value::from(0)), "{budget}");
    assert!(budget["offload_max"].as_f64() < Some(0.04), "{budget}");
    for plot in ["thresholds-risk-coverage.svg", "thresholds-answers.svg", "violations-system.svg", "wealth-local.svg"]
    {
        let svg = std::fs::read_to_string(plots.join(plot)).expect("a plot");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>") && svg.contains("<text"), "{plot}");
    }
}

#[test]
fn a_report_is_one_page_that_asks_for_nothing_else() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (path, _) = pairs_file(folder.path(), 10_000);
    let page = folder.path().join("report.html");
    let effort =
        ["--repetitions", "100", "--sizes", "1000", "--runs", "10", "--requests", "3000", "--router-runs", "0"];
    let (found, _) = figures(&[&["report", "--pairs", text(&path), "-o", text(&page)], &effort[..]].concat(), 0);
    let html = std::fs::read_to_string(&page).expect("a page");
    for asks in ["<script", "<link", "<img", "src=", "href=", "url(", "@import"] {
        assert!(!html.contains(asks), "{asks}");
    }
    assert!(html.matches("<svg").count() >= 6, "{} plots", html.matches("<svg").count());
    assert!(html.contains("What is promised") && html.contains("What is not"));
    let threshold = found["certificates"][0]["threshold"].to_string();
    assert!(html.contains(&threshold), "the threshold {threshold}");
    for tag in ["section", "table", "figure", "svg", "p", "tr", "td"] {
        let opened = html.matches(&format!("<{tag}>")).count() + html.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, html.matches(&format!("</{tag}>")).count(), "{tag} is closed as often as opened");
    }
}

#[test]
fn models_that_are_asked_here_give_a_certificate_that_names_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [bundle, certificate] = ["digits.hedge", "certificate.json"].map(|name| folder.path().join(name));
    assert!(hedge(&["zoo", "export", "digits", "-o", text(&bundle)]).status.success());
    let cloud = digits::cloud_model();
    let asked = ["certify", "--task", "digits", "--bundle", text(&bundle), "--teacher", text(&cloud)];
    let sizes = ["--fit", "1000", "--tune", "1000", "--cal", "3000", "--device", "cpu"];
    let promise = ["--alpha", "0.05", "--contract", "local", "--score", "head", "-o", text(&certificate)];
    let (found, _) = figures(&[&asked[..], &sizes[..], &promise[..]].concat(), 0);
    let file: Value = serde_json::from_slice(&std::fs::read(&certificate).expect("a certificate")).expect("JSON");
    let inspected = hedge(&["bundle", "inspect", text(&bundle), "--json", "-"]);
    let inspected: Value = serde_json::from_slice(&inspected.stdout).expect("JSON");
    let subject = &file["certificate"]["subject"];
    assert_eq!(format!("sha256:{}", subject["edge"].as_str().expect("a digest")), inspected["digest"]);
    assert_eq!((&found["edge"], &found["cloud"]), (&subject["edge"], &subject["cloud"]));
    assert_eq!((&found["certificate"], &found["score"]), (&file["digest"], &Value::from("head")));
    assert_eq!((&file["certificate"]["n"], &file["certificate"]["k"]), (&found["n"], &found["k"]));
}

#[test]
fn a_data_files_split_says_what_each_sample_is_for() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("noise.safetensors");
    // Noise, on which the models have no reason to agree.
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut image = vec![0u8; 300 * 256];
    random.fill_bytes(&mut image);
    let split: Vec<u8> = (0..300u16).map(|sample| if sample < 100 { 1 } else { 2 }).collect();
    write_safetensors(&data, &image, &split);
    let [edge, cloud] = [digits::edge_model(), digits::cloud_model()];
    let asked = ["certify", "--data", text(&data), "--bundle", text(&edge), "--teacher", text(&cloud)];
    let promise = ["--alpha", "0.01", "--contract", "system", "--score", "msp", "--device", "cpu"];
    let (found, said) = figures(&[&asked[..], &promise[..]].concat(), 1);
    assert_eq!((&found["n"], &found["tune"]), (&Value::from(200), &Value::from(100)), "{said}");
    assert!(found["disagreement"].as_f64() > Some(0.1), "{found}");
}

/// 300 images and what each is for, in the format of safetensors: the header's length, the header, the data.
fn write_safetensors(path: &Path, image: &[u8], split: &[u8]) {
    let (images, all) = (image.len(), image.len() + split.len());
    let header = format!(
        r#"{{"image":{{"dtype":"U8","shape":[300,1,16,16],"data_offsets":[0,{images}]}},"split":{{"dtype":"U8","shape":[300],"data_offsets":[{images},{all}]}}}}"#
    );
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(image);
    file.extend_from_slice(split);
    std::fs::write(path, file).expect("a data file");
}
