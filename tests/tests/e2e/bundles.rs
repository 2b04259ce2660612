//! A bundle is made, moved about as file and folder, runs like its model, and is refused once a byte of it is another.

use std::path::Path;
use std::process::Output;

use hedge_tests::binaries::binaries;
use hedge_tests::digits;
use hedge_tests::program::command;
use serde_json::Value;

fn hedge(arguments: &[&str]) -> Output {
    command(&binaries().hedge).args(arguments).output().expect("hedge runs")
}

fn succeeded(arguments: &[&str]) -> String {
    let output = hedge(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is UTF-8")
}

#[test]
fn a_packed_model_is_verified_inspected_and_run_as_file_and_as_folder() {
    let outer = tempfile::tempdir().expect("a temporary folder");
    let [file, folder] = ["digits.hedge", "digits"].map(|name| outer.path().join(name));
    let model = digits::edge_model();
    succeeded(&["bundle", "pack", text(&model), "-o", text(&file)]);
    succeeded(&["bundle", "pack", text(&file), "-o", text(&folder)]);
    let described = |bundle: &Path| -> Value {
        let json = succeeded(&["bundle", "inspect", text(bundle), "--json", "-"]);
        serde_json::from_str(&json).expect("JSON")
    };
    assert_eq!(described(&file), described(&folder));
    for bundle in [&file, &folder] {
        assert!(succeeded(&["bundle", "verify", text(bundle)]).contains("yes"));
        assert!(succeeded(&["model", "check", text(bundle)]).contains("2651 parameters"));
    }
}

#[test]
fn an_exported_model_says_what_its_answers_mean() {
    let outer = tempfile::tempdir().expect("a temporary folder");
    let bundle = outer.path().join("digits.hedge");
    succeeded(&["zoo", "export", "digits", "-o", text(&bundle)]);
    succeeded(&["bundle", "verify", text(&bundle)]);
    let json: Value =
        serde_json::from_str(&succeeded(&["bundle", "inspect", text(&bundle), "--json", "-"])).expect("JSON");
    assert_eq!(json["outputs"][0]["labels"][9], "9");
    assert_eq!(json["comparison"]["kind"], "top-class");
    assert!(json["licence"].as_str().is_some_and(|licence| licence.contains("CC-BY-4.0")));
}

#[test]
fn a_changed_bundle_and_a_wrong_golden_vector_fail_with_what_and_which() {
    let outer = tempfile::tempdir().expect("a temporary folder");
    let [file, folder, other] = ["digits.hedge", "digits", "other.hedge"].map(|name| outer.path().join(name));
    succeeded(&["zoo", "export", "digits", "-o", text(&file)]);
    succeeded(&["bundle", "pack", text(&file), "-o", text(&folder)]);
    let mut bytes = std::fs::read(&file).expect("the bundle");
    *bytes.last_mut().expect("it is not empty") ^= 1;
    std::fs::write(&file, bytes).expect("the bundle is written");
    let refused = |path: &Path, what: &str| {
        let output = hedge(&["bundle", "verify", text(path)]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(what), "{said}");
    };
    refused(&file, "weights.bin");
    // Packed again, a wrong answer is whole, but still wrong.
    let golden = folder.join("golden/0/output-0.npy");
    let mut answers = std::fs::read(&golden).expect("the golden output");
    let first = answers.len() - 10 * 4;
    answers[first..first + 4].copy_from_slice(&1e6f32.to_le_bytes());
    std::fs::write(&golden, answers).expect("the golden output is written");
    refused(&folder, "golden/0/output-0.npy");
    succeeded(&["bundle", "pack", text(&folder), "-o", text(&other)]);
    refused(&other, "1 of 1 golden cases");
}
