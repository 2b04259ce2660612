//! Manifests that are wrong, and what is said of them.

use super::*;
use crate::tests::{draft, manifest};

fn refused(json: &str) -> String {
    Manifest::read(json.as_bytes()).unwrap_err().to_string()
}

fn with(fields: &str) -> String {
    format!(r#"{{"format": 1, "name": "m", "version": "1", {fields}}}"#)
}

fn file(name: &str, bytes: u64) -> String {
    format!(r#"{{"name": {name:?}, "bytes": {bytes}, "sha256": "{}"}}"#, "0".repeat(64))
}

#[test]
fn a_manifest_reads_back_as_it_was_written() {
    let manifest = Manifest { description: "\"quoted\" \\ ü {[".into(), ..draft().manifest };
    assert_eq!(Manifest::read(&manifest.write()).unwrap(), manifest);
}

#[test]
fn the_digest_of_the_transforms_is_about_nothing_else() {
    let digest = |name: &str, meaning: &str, dtype: &str| {
        let transform = format!(r#"{{"kind": "image", "dtype": {dtype:?}}}"#);
        let input = format!(r#"{{"name": {name:?}, "meaning": {meaning:?}, "transform": {transform}}}"#);
        let manifest = with(&format!(r#""inputs": [{{"name": "other"}}, {input}]"#));
        Manifest::read(manifest.as_bytes()).unwrap().transforms_digest()
    };
    assert_eq!(digest("x", "a", "FP16"), digest("x", "b", "FP16"));
    assert_ne!(digest("x", "a", "FP16"), digest("x", "a", "FP32"));
    assert_ne!(digest("x", "a", "FP16"), digest("y", "a", "FP16"));
    assert_eq!(draft().manifest.transforms_digest(), Digest::of(b"{}"), "without a transform");
}

#[test]
fn unknown_and_repeated_keys_are_refused() {
    assert!(refused(&with(r#""nmae": "x""#)).contains("unknown field `nmae`"));
    assert!(refused(&with(r#""name": "x""#)).contains("duplicate field `name`"));
    assert!(refused(&with(r#""comparison": {"kind": "top-class", "output": "y", "k": 1}"#)).contains("unknown field"));
}

#[test]
fn another_format_a_bad_name_and_no_json_are_refused() {
    assert!(refused(r#"{"format": 2, "name": "m", "version": "1"}"#).contains("format 2"));
    assert!(refused(r#"{"format": 1, "name": "a/b", "version": "1"}"#).contains("\"a/b\""));
    assert!(refused("not json").contains("manifest.json"));
    assert!(refused("").contains("manifest.json"));
}

#[test]
fn nesting_is_bounded_before_it_is_parsed() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(refused(&deep).contains("100000 levels; 16 are allowed"));
    // Brackets in texts are no nesting.
    let text = with(&format!(r#""description": "\"{}""#, "[{".repeat(50)));
    Manifest::read(text.as_bytes()).unwrap();
}

#[test]
fn more_than_the_bounds_is_refused() {
    let labels = vec!["\"a\""; MAX_LABELS + 1].join(",");
    assert!(refused(&with(&format!(r#""outputs": [{{"name": "y", "labels": [{labels}]}}]"#))).contains("labels"));
    let inputs: Vec<String> = (0..=MAX_PORTS).map(|i| format!(r#"{{"name": "{i}"}}"#)).collect();
    assert!(refused(&with(&format!(r#""inputs": [{}]"#, inputs.join(",")))).contains("257 inputs"));
    let files: Vec<String> = (0..=MAX_FILES).map(|i| file(&format!("{i:05}"), 1)).collect();
    assert!(refused(&with(&format!(r#""files": [{}]"#, files.join(",")))).contains("1025 files"));
    assert!(
        refused(&with(&format!(r#""description": "{}""#, "x".repeat(MAX_TEXT_BYTES + 1)))).contains("bytes in a text")
    );
    assert!(refused(&with(&format!(r#""inputs": [{{"name": "{}"}}]"#, "x".repeat(2000)))).contains("bytes in a word"));
    let total = [file("a", MAX_BUNDLE_BYTES), file("b", u64::MAX)].join(",");
    assert!(refused(&with(&format!(r#""files": [{total}]"#))).contains("bytes in all files"));
}

#[test]
fn files_that_would_be_one_file_somewhere_are_refused() {
    let list = |names: &[&str]| {
        let files: Vec<String> = names.iter().map(|name| file(name, 1)).collect();
        with(&format!(r#""files": [{}]"#, files.join(",")))
    };
    assert!(refused(&list(&["a", "a"])).contains("in the order"));
    assert!(refused(&list(&["b", "a"])).contains("in the order"));
    assert!(refused(&list(&["A", "a"])).contains("but for case"));
    assert!(refused(&list(&["Manifest.JSON"])).contains("but for case"));
    assert!(refused(&list(&["a", "a/b"])).contains("the folder of"));
    assert!(refused(&list(&["a", "a.b", "a/b"])).contains("the folder of"));
    assert!(refused(&list(&["../a"])).contains("cannot be the name of a file"));
    assert!(refused(&list(&["a"])).contains("model.onnx"));
}

#[test]
fn what_is_spoken_of_must_be_listed() {
    let text = r#"{"kind": "text", "tokenizer": "t.json", "max_tokens": 8, "ids": "ids"}"#;
    let listed =
        format!(r#""inputs": [{{"name": "text", "transform": {text}}}], "files": [{}]"#, file("model.onnx", 1));
    assert!(refused(&with(&listed)).contains("\"t.json\": it is spoken of, but not listed"));
    assert!(refused(&with(r#""comparison": {"kind": "top-class", "output": "y"}"#)).contains("among the outputs"));
    assert!(refused(&with(r#""score": "y""#)).contains("among the outputs"));
}

#[test]
fn comparisons_have_numbers_that_make_sense() {
    for comparison in [
        r#"{"kind": "top-k", "output": "y", "k": 0}"#,
        r#"{"kind": "tolerance", "output": "y", "absolute": -1}"#,
        r#"{"kind": "exact", "output": "y"}"#,
    ] {
        refused(&with(&format!(r#""outputs": [{{"name": "y"}}], "comparison": {comparison}"#)));
    }
}

#[test]
fn each_input_of_the_model_is_given_exactly_once() {
    let graph = crate::tests::graph();
    let mut nothing = manifest();
    nothing.inputs.clear();
    assert!(nothing.check_against(&graph).unwrap_err().to_string().contains("nothing gives it"));
    nothing.complete(&graph);
    nothing.check_against(&graph).unwrap();
    let text = Transform::Text(crate::transform::TextTransform {
        tokenizer: FileName::parse("t").unwrap(),
        max_tokens: 1,
        max_bytes: 1,
        pad: crate::transform::Pad::Max,
        pad_token: String::new(),
        special_tokens: true,
        ids: "x".into(),
        mask: None,
        types: None,
        dtype: hedge_tensor::DType::I64,
    });
    let mut twice = manifest();
    twice.inputs.push(Input { name: "text".into(), transform: Some(text), ..Input::default() });
    assert!(twice.check_against(&graph).unwrap_err().to_string().contains("given twice"));
}

#[test]
fn a_transform_makes_what_the_model_takes() {
    let mut manifest = manifest();
    let transform = r#"{"kind": "image", "dtype": "FP16"}"#;
    manifest.inputs[0].transform = Some(serde_json::from_str(transform).unwrap());
    let error = manifest.check_against(&crate::tests::graph()).unwrap_err().to_string();
    assert!(error.contains("its transform makes FP16, but the model's input \"x\" is FP32"), "{error}");
}
