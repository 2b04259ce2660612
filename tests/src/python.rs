//! The reference implementations that live in Python: Triton's stock client and onnxruntime.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::needs::need;

/// A Python interpreter: `HEDGE_PYTHON`, else `python3`.
#[derive(Debug, Clone)]
pub struct Python(String);

impl Python {
    /// An interpreter that can import every one of `modules`; `what` and `get` as in [`need`].
    #[must_use]
    pub fn with(modules: &[&str], what: &str, get: &str) -> Option<Self> {
        let program = std::env::var("HEDGE_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let imports = format!("import {}", modules.join(", "));
        let import = Command::new(&program)
            .args(["-c", &imports])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        need(what, get, import.is_ok_and(|status| status.success()).then_some(Self(program)))
    }

    /// Runs a script of this package to its end.
    ///
    /// # Panics
    ///
    /// If it fails; what it wrote is the message.
    pub fn run(&self, script: &str, arguments: &[&str]) -> Output {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e").join(script);
        let output = Command::new(&self.0)
            .arg(&path)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("{script} does not start: {error}"));
        assert!(
            output.status.success(),
            "{script} failed:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        output
    }
}
