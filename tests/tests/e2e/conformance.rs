//! Operators answer as ONNX's own cases say, and models as onnxruntime does.
//!
//! A case that does not pass is listed in `tests/conformance/{cpu,gpu}.txt` with the reason, and one that is listed must not
//! pass: the lists are what is missing, neither more nor less.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use hedge_tests::binaries::binaries;
use hedge_tests::needs::need;
use hedge_tests::program::command;
use hedge_tests::python::Python;
use hedge_tests::{asked, root};
use serde_json::Value;

use crate::devices::has_gpu;

const GET_ONNX: &str = "pip install onnx numpy";

/// How many networks, where `HEDGE_GRAPHS` does not say.
const GRAPHS: usize = 100;
/// How many models of tables, where `HEDGE_TABLES` does not say.
const TABLES: usize = 100;

#[test]
fn on_the_cpu_every_case_of_onnx_passes_but_for_those_listed() {
    let Some(cases) = Cases::of_package() else { return };
    compare(&conform(cases.folder(), None, "cpu").refused(), &[listed("cpu")]);
}

#[test]
fn on_software_vulkan_every_case_that_passes_on_the_cpu_passes_but_for_those_listed() {
    if need("vulkan", "apt install mesa-vulkan-drivers", has_gpu().then_some(())).is_none() {
        return;
    }
    let Some(cases) = Cases::of_package() else { return };
    compare(&conform(cases.folder(), None, "gpu").refused(), &[listed("cpu"), listed("gpu")]);
}

#[test]
fn the_core_cases_all_pass_on_the_cpu_and_on_software_vulkan() {
    let Some(shared) = shared() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let archive = shared.join("data/onnx-cases.tar.xz");
    let unpacked = std::process::Command::new("tar").arg("xf").arg(&archive).arg("-C").arg(folder.path()).status();
    assert!(unpacked.is_ok_and(|status| status.success()), "{} is not unpacked", archive.display());
    let cases = folder.path().join("onnx-cases");
    let list = cases.join("core.txt");
    let on_cpu = conform(&cases, Some(&list), "cpu");
    assert_eq!(on_cpu.refused(), BTreeSet::new());
    if need("vulkan", "apt install mesa-vulkan-drivers", has_gpu().then_some(())).is_some() {
        let on_gpu = conform(&cases, Some(&list), "gpu");
        let listed: BTreeSet<String> = listed("gpu").into_keys().map(|case| format!("node/{case}")).collect();
        let surprises: Vec<_> = on_gpu.refused().difference(&listed).cloned().collect();
        assert_eq!(surprises, Vec::<String>::new(), "cases that fail on the GPU without being listed");
        assert!(on_gpu.passed() >= 475, "{} of 485 pass", on_gpu.passed());
    }
}

#[test]
fn real_models_answer_as_onnxruntime_does() {
    let Some(shared) = shared() else { return };
    let get = "pip install onnxruntime numpy";
    let Some(python) = Python::with(&["onnxruntime", "numpy"], "onnxruntime", get) else { return };
    let hedge = binaries().hedge.display().to_string();
    python.run("models_check.py", &[&hedge, &shared.display().to_string()]);
}

/// `HEDGE_GRAPHS=3000 cargo test --workspace --test e2e networks_drawn` is the long run.
#[test]
fn networks_drawn_at_random_answer_as_onnxruntime_does() {
    drawn_at_random("random_graphs.py", asked("HEDGE_GRAPHS").unwrap_or(GRAPHS));
}

/// `HEDGE_TABLES=5000 cargo test --workspace --test e2e models_of_tables` is the long run.
#[test]
fn models_of_tables_drawn_at_random_answer_as_onnxruntime_does() {
    drawn_at_random("random_tables.py", asked("HEDGE_TABLES").unwrap_or(TABLES));
}

/// Has a script draw so many models and compare them with onnxruntime.
fn drawn_at_random(script: &str, models: usize) {
    let get = "pip install onnxruntime onnx numpy";
    let Some(python) = Python::with(&["onnxruntime", "onnx", "numpy"], "onnxruntime", get) else { return };
    let hedge = binaries().hedge.display().to_string();
    python.run(script, &[&hedge, &models.to_string()]);
}

/// The folder that `HEDGE_SHARED` names.
fn shared() -> Option<PathBuf> {
    let folder = std::env::var_os("HEDGE_SHARED").map(PathBuf::from).filter(|folder| folder.is_dir());
    need("shared", "set HEDGE_SHARED to the folder with models/ and data/", folder)
}

/// The cases of the `onnx` package, written out.
struct Cases(tempfile::TempDir);

impl Cases {
    fn of_package() -> Option<Self> {
        let python = Python::with(&["onnx", "numpy"], "onnx", GET_ONNX)?;
        let folder = tempfile::tempdir().expect("a temporary folder");
        python.run("onnx_cases.py", &[&folder.path().display().to_string()]);
        Some(Cases(folder))
    }

    fn folder(&self) -> &Path {
        self.0.path()
    }
}

/// What `hedge model conform` reported.
struct Outcome(Value);

fn conform(folder: &Path, list: Option<&Path>, device: &str) -> Outcome {
    let report = tempfile::NamedTempFile::new().expect("a temporary file");
    let mut conform = command(&binaries().hedge);
    conform.args(["model", "conform"]).arg(folder).args(["--device", device, "--json"]).arg(report.path());
    if let Some(list) = list {
        conform.arg("--list").arg(list);
    }
    let output = conform.output().expect("hedge starts");
    let text = std::fs::read(report.path()).expect("the report is there");
    let report = serde_json::from_slice(&text);
    Outcome(report.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr))))
}

impl Outcome {
    fn passed(&self) -> u64 {
        self.0["passed"].as_u64().expect("a number")
    }

    /// The cases that failed or need an operator that is missing.
    fn refused(&self) -> BTreeSet<String> {
        let list = |key: &str| self.0[key].as_array().expect("a list").clone();
        let name = |case: &Value| case["case"].as_str().expect("a name").to_owned();
        list("failed").iter().chain(&list("unsupported")).map(name).collect()
    }
}

/// The cases of an exception list with their reasons: `case: reason`, `#` for comments.
fn listed(device: &str) -> BTreeMap<String, String> {
    let path = root().join(format!("tests/conformance/{device}.txt"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let case = |line: &str| {
        let (case, reason) = line.split_once(": ").unwrap_or_else(|| panic!("{line:?} has no reason"));
        (case.to_owned(), reason.to_owned())
    };
    lines.map(case).collect()
}

/// Both ways: what fails is listed, and what is listed fails, unless numbers drawn at random decide.
fn compare(refused: &BTreeSet<String>, lists: &[BTreeMap<String, String>]) {
    let reason = |case: &String| lists.iter().find_map(|list| list.get(case));
    let surprises: Vec<&String> = refused.iter().filter(|case| reason(case).is_none()).collect();
    assert!(surprises.is_empty(), "these cases fail and are not listed: {surprises:#?}");
    let certain = lists.iter().flatten().filter(|(_, reason)| !reason.starts_with("random"));
    let outdated: Vec<&String> = certain.map(|(case, _)| case).filter(|case| !refused.contains(*case)).collect();
    assert!(outdated.is_empty(), "these cases are listed and pass: {outdated:#?}");
}
