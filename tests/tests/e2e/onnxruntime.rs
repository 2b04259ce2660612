//! What Hedge answered is what onnxruntime answers on the same files.

use hedge_tests::python::Python;

use crate::demo::run_demo;

const REQUESTS: usize = 400;

#[test]
fn answers_of_the_demonstration_are_onnxruntimes() {
    let get = "pip install onnxruntime numpy";
    let Some(python) = Python::with(&["onnxruntime", "numpy"], "onnxruntime", get) else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    run_demo(folder.path(), REQUESTS);
    python.run("onnxruntime_check.py", &[&folder.path().display().to_string()]);
}
