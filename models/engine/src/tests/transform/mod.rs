//! Raw bytes become the tensors that other programs make of them, and nothing that a stranger sends is more than an error.

mod audio;
mod golden;
mod image;
mod text;

use bytes::Bytes;
use hedge_bundle::{Bundle, Draft, FileName, Manifest};
use hedge_graph::{Dim, GraphBuilder};
use hedge_tensor::{DType, NamedTensor, Tensor};

use crate::transform::{Pipeline, RawKind, RowError, TransformError};

/// A pipeline whose manifest has these inputs, for a model that takes `takes`.
fn pipeline(inputs: &str, takes: &[&str], files: &[(&str, &'static str)]) -> Result<Pipeline, TransformError> {
    let mut b = GraphBuilder::new("any");
    for (index, input) in takes.iter().enumerate() {
        b.input(input, DType::F32, &[Dim::named("N"), Dim::Unknown]);
        let output = b.op_as(&format!("y{index}"), "Identity", &[input], &[]);
        b.output(&output, DType::F32, &[Dim::named("N"), Dim::Unknown]);
    }
    let manifest = format!(r#"{{"format": 1, "name": "m", "version": "1", "inputs": {inputs}}}"#);
    let manifest = Manifest::read(manifest.as_bytes()).expect("the manifest is right");
    let mut graph = b.finish().expect("the graph is well formed");
    // Transforms of any element type are tried on it.
    graph.inputs.iter_mut().for_each(|input| input.dtype = None);
    let mut draft = Draft::new(manifest, graph);
    for (name, content) in files {
        draft.add_file(FileName::parse(name).unwrap(), Bytes::from_static(content.as_bytes()));
    }
    let bundle = Bundle::from_bytes(draft.to_bytes().expect("the bundle can be packed").into());
    Pipeline::new(&bundle.expect("the bundle can be opened"))
}

/// A pipeline of one input `x` with one transform.
fn one(transform: &str) -> Pipeline {
    pipeline(&format!(r#"[{{"name": "x", "transform": {transform}}}]"#), &["x"], &[]).unwrap()
}

fn raw(tensor: Tensor) -> Vec<NamedTensor> {
    vec![NamedTensor::new("x", tensor)]
}

fn bytes(content: &[u8]) -> Tensor {
    Tensor::from_slice(&[content.len()], content).unwrap()
}

/// The only output of a pipeline of one input.
fn apply(pipeline: &Pipeline, tensor: Tensor) -> Result<Tensor, TransformError> {
    pipeline.apply(raw(tensor)).map(|mut outputs| outputs.remove(0).tensor)
}

fn close(actual: &Tensor, expected: &[f32], tolerance: f32) {
    let actual = actual.to_vec::<f32>().unwrap();
    assert_eq!(actual.len(), expected.len());
    for (index, (a, e)) in actual.iter().zip(expected).enumerate() {
        assert!((a - e).abs() <= tolerance, "element {index} is {a}, not {e}");
    }
}

#[test]
fn inputs_without_a_transform_pass_as_they_are() {
    let pipeline = pipeline("[]", &["a", "b"], &[]).unwrap();
    assert!(pipeline.is_identity());
    assert!(matches!(&pipeline.signature()[1].kind, RawKind::Tensor(port) if port.name == "b"));
    let value = |number: f32| Tensor::from_slice(&[1, 1], &[number]).unwrap();
    let sample = |a, b| vec![NamedTensor::new("b", value(b)), NamedTensor::new("a", value(a))];
    let outputs = pipeline.apply_rows(vec![sample(1.0, 2.0), sample(3.0, 4.0)]).unwrap();
    assert_eq!(outputs[0], NamedTensor::new("a", Tensor::from_slice(&[2, 1], &[1f32, 3.0]).unwrap()));
    assert_eq!(outputs[1].tensor.to_vec::<f32>().unwrap(), [2.0, 4.0]);
}

#[test]
fn inputs_that_are_missing_unknown_or_repeated_are_named() {
    let pipeline = one(r#"{"kind": "image"}"#);
    let named = |names: &[&str]| names.iter().map(|name| NamedTensor::new(*name, bytes(b"x"))).collect();
    for (names, what) in [(&[][..], "missing"), (&["z"][..], "not one of"), (&["x", "x"][..], "given twice")] {
        let error = pipeline.apply(named(names)).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains("JPEG"), "{error}");
    }
}

#[test]
fn inputs_may_be_given_as_columns_whose_tensors_hold_one_row_or_several() {
    let inputs = r#"[{"name": "x", "transform": {"kind": "image", "color": "gray", "layout": "nhwc"}}, {"name": "b"}]"#;
    let pipeline = pipeline(inputs, &["x", "b"], &[]).unwrap();
    let two = Tensor::from_slice(&[2, 1, 1, 1], &[1u8, 2]).unwrap();
    let third = Tensor::from_slice(&[1, 1, 1], &[3u8]).unwrap();
    let numbers = Tensor::from_slice(&[3, 1], &[7f32, 8.0, 9.0]).unwrap();
    let columns =
        |b: &str| vec![(b.to_owned(), vec![numbers.clone()]), ("x".to_owned(), vec![two.clone(), third.clone()])];
    let outputs = pipeline.apply_columns(columns("b")).unwrap();
    assert_eq!(outputs[0].tensor, Tensor::from_slice(&[3, 1, 1, 1], &[1f32, 2.0, 3.0]).unwrap());
    assert_eq!(outputs[1].tensor, numbers);
    for (name, what) in [("z", "not one of"), ("x", "given twice")] {
        let error = pipeline.apply_columns(columns(name)).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
    assert!(pipeline.apply_columns(vec![("x".to_owned(), vec![third])]).unwrap_err().to_string().contains("missing"));
}

#[test]
fn a_row_that_is_wrong_is_named_by_its_number() {
    let pipeline = one(r#"{"kind": "image", "steps": [{"step": "resize", "width": 2, "height": 2}]}"#);
    let pixels = Tensor::zeros(DType::U8, vec![4, 4, 3]).unwrap();
    let error = pipeline.apply_rows(vec![raw(pixels), raw(bytes(b"no image"))]).unwrap_err();
    assert!(matches!(&error, TransformError::Row { row: 1, why: RowError::Image(_), .. }), "{error}");
}
