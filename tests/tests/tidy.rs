//! Rules of the architecture that the compiler does not check: which crate may name which, and what a file begins with.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The workspace's crates from the lowest layer to the highest. A crate may name crates of lower layers only.
const LAYERS: [&[&str]; 9] = [
    &["hedge-tensor", "hedge-config"],
    &["hedge-wire", "hedge-certify", "hedge-graph", "hedge-telemetry"],
    &["hedge-bundle"],
    &["hedge-link", "hedge-broker", "hedge-agent-core", "hedge-gateway-core", "hedge-engine"],
    &["hedge-agent-spool", "hedge-train", "hedge-simulator"],
    &["hedge-zoo"],
    &["hedge-agent", "hedge-gateway"],
    &["hedge"],
    &["hedge-tests"],
];

/// What only one crate may name, so that it can be replaced there.
const OWNED: [(&str, &str); 12] = [
    ("burn", "hedge-engine"),
    ("burn-backend", "hedge-engine"),
    ("burn-dispatch", "hedge-engine"),
    ("wgpu", "hedge-engine"),
    ("rumqttc", "hedge-link"),
    ("rustls", "hedge-link"),
    ("mqtt5", "hedge-broker"),
    ("sled", "hedge-agent-spool"),
    ("zstd", "hedge-wire"),
    ("minicbor", "hedge-wire"),
    ("prost", "hedge-graph"),
    ("prometheus-client", "hedge-telemetry"),
];

/// Crates that decide and encode: no reactor, no clock, no network, no store, no kernels, at any depth.
const CORES: [&str; 6] =
    ["hedge-agent-core", "hedge-gateway-core", "hedge-wire", "hedge-certify", "hedge-graph", "hedge-simulator"];
const NOT_IN_A_CORE: [&str; 7] = ["tokio", "burn", "wgpu", "sled", "rumqttc", "mqtt5", "rustls"];

/// Dependents, for crates that not every higher layer may use: whatever is not listed may not name them.
const USERS: [(&str, &[&str]); 11] = [
    ("hedge-agent", &["hedge", "hedge-tests"]),
    ("hedge-gateway", &["hedge", "hedge-tests"]),
    ("hedge-agent-core", &["hedge-agent", "hedge-agent-spool", "hedge-simulator", "hedge"]),
    ("hedge-agent-spool", &["hedge-agent"]),
    ("hedge-gateway-core", &["hedge-gateway", "hedge-simulator"]),
    ("hedge-link", &["hedge-agent", "hedge-gateway", "hedge", "hedge-tests"]),
    ("hedge-broker", &["hedge", "hedge-tests"]),
    ("hedge-train", &["hedge-zoo", "hedge"]),
    ("hedge-zoo", &["hedge"]),
    ("hedge-simulator", &["hedge"]),
    ("hedge", &[]),
];

/// What must not reach the programs that run alone: the device daemon carries no broker, neither daemon a training.
const NOT_IN_A_DAEMON: [(&str, &[&str]); 2] = [
    ("hedge-agent", &["mqtt5", "hedge-broker", "hedge-train", "hedge-zoo", "hedge-gateway", "hedge-gateway-core"]),
    (
        "hedge-gateway",
        &["mqtt5", "hedge-broker", "hedge-train", "hedge-zoo", "hedge-agent", "hedge-agent-core", "sled"],
    ),
];

/// A crate of the workspace.
#[derive(Debug)]
struct Package {
    name: String,
    manifest: PathBuf,
    /// What it names to work or to be built; not what only its tests name.
    names: BTreeSet<String>,
    all_names: BTreeSet<String>,
}

#[test]
fn every_crate_stands_in_a_layer() {
    let packages: BTreeSet<String> = workspace().into_iter().map(|package| package.name).collect();
    let listed: BTreeSet<String> = LAYERS.iter().flat_map(|layer| layer.iter().map(|&name| name.to_owned())).collect();
    assert_eq!(packages, listed, "keep LAYERS complete");
}

#[test]
fn a_lower_layer_never_names_a_higher_one() {
    let rank = |name: &str| LAYERS.iter().position(|layer| layer.contains(&name));
    for package in workspace() {
        for named in &package.names {
            if let (Some(below), Some(own)) = (rank(named), rank(&package.name)) {
                assert!(below < own, "{} (layer {own}) names {named} (layer {below})", package.name);
            }
        }
    }
}

#[test]
fn replaceable_dependencies_are_named_by_one_crate_only() {
    for package in workspace() {
        for (dependency, owner) in OWNED {
            let named = package.all_names.contains(dependency);
            assert!(!named || package.name == owner, "{} names {dependency}, which is {owner}'s", package.name);
        }
    }
}

#[test]
fn each_crate_is_used_only_by_those_who_may() {
    let packages = workspace();
    for (dependency, users) in USERS {
        for package in &packages {
            let named = package.names.contains(dependency);
            assert!(!named || users.contains(&package.name.as_str()), "{} names {dependency}", package.name);
        }
    }
}

#[test]
fn agent_and_gateway_never_depend_on_each_other_even_in_tests() {
    for package in workspace() {
        for (own, other) in [("hedge-agent", "hedge-gateway"), ("hedge-gateway", "hedge-agent")] {
            if package.name.starts_with(own) {
                let foreign = package.all_names.iter().find(|name| name.starts_with(other));
                assert_eq!(foreign, None, "{}", package.name);
            }
        }
    }
}

#[test]
fn cores_know_no_reactor_no_network_no_store_and_no_kernels() {
    for core in CORES {
        let tree = tree(core);
        for foreign in NOT_IN_A_CORE {
            assert!(
                !tree.contains(foreign),
                "{core} depends on {foreign}; `cargo tree -p {core} -i {foreign}` says how"
            );
        }
    }
}

#[test]
fn daemons_carry_nothing_that_they_do_not_run() {
    for (daemon, foreign) in NOT_IN_A_DAEMON {
        let tree = tree(daemon);
        for dependency in foreign {
            assert!(!tree.contains(*dependency), "{daemon} depends on {dependency}");
        }
    }
}

#[test]
fn there_is_one_tls_and_one_crypto_provider() {
    let tree = tree("hedge");
    assert!(tree.contains("ring"));
    for other in ["aws-lc-rs", "aws-lc-sys", "openssl", "openssl-sys", "native-tls"] {
        assert!(!tree.contains(other), "{other}");
    }
}

#[test]
fn running_building_and_testing_share_one_build() {
    // With other features for any crate below burn, cargo would compile burn once more (docs/decisions/0004).
    let workspace = features(&["--workspace", "--edges", "normal,build"]);
    let run = features(&["--package", "hedge", "--edges", "normal,build"]);
    let tests = features(&["--workspace", "--edges", "normal,build,dev"]);
    for (other, command) in [(run, "cargo run"), (tests, "cargo test --workspace")] {
        for (package, features) in &other {
            let built = workspace.get(package).unwrap_or(features);
            assert!(built.is_superset(features), "{package}: {command} wants {features:?}, the workspace {built:?}");
        }
    }
}

#[test]
fn every_crate_takes_the_workspaces_lints() {
    for package in workspace() {
        let manifest = std::fs::read_to_string(&package.manifest).expect("a manifest");
        assert!(manifest.contains("[lints]\nworkspace = true"), "{}", package.manifest.display());
    }
}

#[test]
fn every_file_begins_with_what_it_is() {
    let mut files = Vec::new();
    for package in workspace() {
        let folder = package.manifest.parent().expect("a manifest lies in a folder").to_owned();
        for part in ["src", "tests", "benches", "examples", "build.rs"] {
            rust_files(&folder.join(part), &mut files);
        }
    }
    assert!(files.len() > 50, "only {} files were found", files.len());
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a source file");
        assert!(text.starts_with("//!"), "{} does not begin with `//!`", file.display());
    }
}

#[test]
fn the_changelog_knows_the_version() {
    let changelog = std::fs::read_to_string(hedge_tests::root().join("CHANGELOG.md")).expect("CHANGELOG.md");
    let version = env!("CARGO_PKG_VERSION");
    assert!(changelog.contains(&format!("## [{version}]")) || changelog.contains("## [Unreleased]"));
}

fn workspace() -> Vec<Package> {
    let output = cargo(&["metadata", "--format-version", "1", "--no-deps", "--offline"]);
    let metadata: Value = serde_json::from_str(&output).expect("cargo writes JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    packages.iter().map(package).collect()
}

fn package(package: &Value) -> Package {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    // null: a normal dependency.
    let mut by_kind: BTreeMap<Option<String>, BTreeSet<String>> = BTreeMap::new();
    for dependency in package["dependencies"].as_array().expect("dependencies") {
        let kind = dependency["kind"].as_str().map(str::to_owned);
        by_kind.entry(kind).or_default().insert(text(&dependency["name"]));
    }
    let all_names = by_kind.values().flatten().cloned().collect();
    by_kind.remove(&Some("dev".to_owned()));
    Package {
        name: text(&package["name"]),
        manifest: text(&package["manifest_path"]).into(),
        names: by_kind.into_values().flatten().collect(),
        all_names,
    }
}

/// Every crate that `package` is built from on this machine, without what only builds it.
fn tree(package: &str) -> BTreeSet<String> {
    let arguments = ["tree", "--package", package, "--edges", "normal", "--prefix", "none", "--offline"];
    let lines = cargo(&arguments);
    lines.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// The features that each crate of a selection is built with; a crate may stand there twice, for the host and the target.
fn features(selection: &[&str]) -> BTreeMap<String, BTreeSet<String>> {
    let arguments = [&["tree", "--prefix", "none", "--offline", "--format", "{p}|{f}"], selection].concat();
    let mut features: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in cargo(&arguments).lines() {
        if let Some((package, with)) = line.split_once('|') {
            // The mark of a crate whose own dependencies were shown before.
            let with = with.trim_end_matches(" (*)");
            features.entry(package.to_owned()).or_default().insert(with.to_owned());
        }
    }
    features
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(hedge_tests::root()).output();
    let output = output.expect("cargo runs");
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo writes UTF-8")
}

fn rust_files(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
        found.push(path.to_owned());
    }
    let Ok(entries) = std::fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        rust_files(&entry.path(), found);
    }
}
