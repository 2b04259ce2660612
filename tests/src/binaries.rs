//! The programs under test. Cargo does not build other packages' programs for a test, so the first that asks builds them,
//! in the profile and the target folder that the test itself was built in: after `cargo test --workspace` only the
//! linking is left to do. `HEDGE_BINARIES` names a folder of programs to test instead, such as `target/release`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// The tool for people.
    pub hedge: PathBuf,
    /// The device daemon.
    pub agent: PathBuf,
    /// The cloud daemon.
    pub gateway: PathBuf,
}

/// Variables that cargo sets for a test and that would make it rebuild crates whose build scripts watch them (ring's does).
const OF_THE_TEST: [&str; 7] = [
    "CARGO",
    "CARGO_BIN_NAME",
    "CARGO_CRATE_NAME",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "CARGO_PRIMARY_PACKAGE",
    "OUT_DIR",
];

/// The programs, built once per process.
///
/// # Panics
///
/// If they cannot be built.
pub fn binaries() -> &'static Binaries {
    static BUILT: OnceLock<Binaries> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = std::env::var_os("HEDGE_BINARIES").map(|folder| crate::root().join(folder)).unwrap_or_else(|| {
            let folder = profile_folder();
            build(&folder);
            folder
        });
        let program = |name: &str| {
            let path = folder.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
            assert!(path.is_file(), "there is no {}", path.display());
            path
        };
        Binaries { hedge: program("hedge"), agent: program("hedge-agent"), gateway: program("hedge-gateway") }
    })
}

/// `target/debug` of `target/debug/deps/e2e-0123456789abcdef`.
fn profile_folder() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own file");
    let deps = test.parent().expect("a test lies in a folder");
    deps.parent().expect("which lies in the profile's folder").to_owned()
}

fn build(folder: &Path) {
    let target = folder.parent().expect("the profile's folder lies in the target folder");
    let mut cargo = Command::new(env!("CARGO"));
    // The whole workspace is selected as it was for the test: another selection resolves other features and builds anew.
    cargo.args(["build", "--workspace", "--bins", "--offline", "--quiet", "--target-dir"]).arg(target);
    match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => {}
        Some(profile) => {
            cargo.args(["--profile", profile]);
        }
    }
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if OF_THE_TEST.contains(&name.as_ref()) || name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_BIN_EXE_")
        {
            cargo.env_remove(name.as_ref());
        }
    }
    let built = cargo.current_dir(crate::root()).output().expect("cargo runs");
    assert!(built.status.success(), "the programs cannot be built:\n{}", String::from_utf8_lossy(&built.stderr));
}
