//! Writes the seed corpus: small models and bundles of our own making, one of each shape that the readers know.
//!
//! `cargo run --bin seeds -- corpus`

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use hedge_bundle::manifest::{Comparison, Input};
use hedge_bundle::transform::{Pad, TextTransform, Transform};
use hedge_bundle::{Draft, FileName, GoldenCase, Manifest, ModelName, ModelVersion, npy};
use hedge_graph::{Attribute, Dim, Graph, GraphBuilder, Node};
use hedge_tensor::{DType, NamedTensor, Tensor};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "corpus".to_owned());
    let folder = Path::new(&folder);
    for (name, graph) in [("network", network()?), ("branches", branches()?), ("integers", integers()?)] {
        put(&folder.join("onnx").join(name), &graph.write())?;
    }
    put(&folder.join("onnx/types"), &types()?.write())?;
    put(&folder.join("bundle/network"), &bundle()?.to_bytes()?)?;
    put(&folder.join("bundle/text"), &text()?.to_bytes()?)?;
    put(&folder.join("bundle/manifest"), &bundle()?.manifest.write())?;
    put(&folder.join("bundle/tensor"), &npy::encode(&Tensor::from_slice(&[2, 1], &[1f32, 2.0])?))?;
    Ok(())
}

fn put(path: &Path, bytes: &[u8]) -> Outcome<()> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    Ok(fs::write(path, bytes)?)
}

/// What passes fold and fuse: convolution, normalization, activation, a classifier.
fn network() -> Outcome<Graph> {
    let mut b = GraphBuilder::new("network");
    let x = b.input("x", DType::F32, &[Dim::named("N"), 1.into(), 4.into(), 4.into()]);
    let w = b.init("w", Tensor::from_slice(&[2, 1, 3, 3], &[0.5f32; 18])?);
    let conv = b.op("Conv", &[&x, &w], &[("pads", [1, 1, 1, 1].into()), ("strides", [2, 2].into())]);
    let [scale, bias, mean, var] = ["scale", "bias", "mean", "var"].map(|name| name.to_owned());
    for name in [&scale, &bias, &mean, &var] {
        b.init(name, Tensor::from_slice(&[2], &[1f32, 2.0])?);
    }
    let normal = b.op("BatchNormalization", &[&conv, &scale, &bias, &mean, &var], &[("epsilon", 1e-5f32.into())]);
    let active = b.op("Relu", &[&normal], &[]);
    let shape = b.init("shape", Tensor::from_slice(&[2], &[0i64, -1])?);
    let flat = b.op("Reshape", &[&active, &shape], &[]);
    let dense = b.init("dense", Tensor::from_slice(&[8, 40], &[0.25f32; 320])?);
    let logits = b.op("MatMul", &[&flat, &dense], &[]);
    let zero = b.op("Constant", &[], &[("value", Tensor::scalar(0f32).into())]);
    b.op_as("y", "Add", &[&logits, &zero], &[]);
    b.output("y", DType::F32, &[Dim::named("N"), 40.into()]);
    Ok(b.finish()?)
}

/// Bodies, one in the other, that take values from around them.
fn branches() -> Outcome<Graph> {
    let inner = Graph { nodes: inner_nodes(), ..values_out("r") };
    let sides: BTreeMap<String, Attribute> =
        [("then_branch".to_owned(), inner.clone().into()), ("else_branch".to_owned(), inner.into())].into();
    let branch = Node { op: "If".into(), inputs: vec!["constant_0".into()], outputs: vec!["q".into()], attributes: sides, ..Node::default() };
    let body = Graph { nodes: vec![constant_flag(), branch], ..values_out("q") };
    let mut b = GraphBuilder::new("branches");
    b.input("x", DType::F32, &[Dim::named("N")]);
    b.input("c", DType::Bool, &[]);
    let sides = [("then_branch".to_owned(), body.clone().into()), ("else_branch".to_owned(), body.into())].into();
    b.node(Node { op: "If".into(), inputs: vec!["c".into()], outputs: vec!["y".into()], attributes: sides, ..Node::default() });
    b.output("y", DType::F32, &[Dim::Unknown]);
    Ok(b.finish()?)
}

fn constant_flag() -> Node {
    let value = Tensor::bools(&[], &[true]).expect("one boolean");
    let attributes = [("value".to_owned(), value.into())].into();
    Node { op: "Constant".into(), outputs: vec!["constant_0".into()], attributes, ..Node::default() }
}

fn inner_nodes() -> Vec<Node> {
    vec![Node { op: "Neg".into(), inputs: vec!["x".into()], outputs: vec!["r".into()], ..Node::default() }]
}

fn values_out(name: &str) -> Graph {
    let output = hedge_graph::ValueInfo::new(name, DType::F32, &[Dim::Unknown]);
    Graph { name: "body".into(), outputs: vec![output], opset: 17, ..Graph::default() }
}

/// What shape inference follows: shapes that are computed, sliced and put together.
fn integers() -> Outcome<Graph> {
    let mut b = GraphBuilder::new("integers");
    let x = b.input("x", DType::I64, &[2.into(), 3.into(), Dim::named("L")]);
    let shape = b.op("Shape", &[&x], &[]);
    let zero = b.init("zero", Tensor::from_slice(&[1], &[0i64])?);
    let one = b.init("one", Tensor::from_slice(&[1], &[1i64])?);
    let batch = b.op("Slice", &[&shape, &zero, &one], &[]);
    let rest = b.init("rest", Tensor::from_slice(&[1], &[-1i64])?);
    let target = b.op("Concat", &[&batch, &rest], &[("axis", 0.into())]);
    let flat = b.op("Reshape", &[&x, &target], &[]);
    let turned = b.op("Transpose", &[&flat], &[("perm", [1, 0].into())]);
    let picked = b.op("Gather", &[&turned, &zero], &[("axis", 0.into())]);
    let tiled = b.op("Expand", &[&picked, &target], &[]);
    b.op_as("y", "Unsqueeze", &[&tiled, &zero], &[]);
    b.output("y", DType::I64, &[Dim::Unknown, Dim::Unknown, Dim::Unknown]);
    Ok(b.finish()?)
}

/// A constant of every element type, and an attribute of every kind.
fn types() -> Outcome<Graph> {
    let mut b = GraphBuilder::new("types");
    let x = b.input("x", DType::F32, &[2.into()]);
    for dtype in DType::all() {
        b.init(&format!("c-{dtype}"), Tensor::zeros(dtype, vec![2, 1])?);
    }
    let attributes: [(&str, Attribute); 7] = [
        ("int", 1.into()),
        ("float", 0.5f32.into()),
        ("text", "text".into()),
        ("ints", [1, -2].into()),
        ("floats", [1.0f32, 2.0][..].into()),
        ("texts", Attribute::Strings(vec![b"a".to_vec(), b"b".to_vec()])),
        ("tensors", Attribute::Tensors(vec![Tensor::scalar(1u8), Tensor::scalar(2i16)])),
    ];
    b.op_as("y", "Custom", &[&x], &attributes);
    b.output("y", DType::F32, &[2.into()]);
    b.doc("every kind");
    Ok(b.finish()?)
}

fn bundle() -> Outcome<Draft> {
    let mut manifest = Manifest::named(ModelName::parse("network")?, ModelVersion::parse("1")?);
    manifest.licence = "CC0-1.0".into();
    let image = r#"{"kind": "image", "color": "gray", "steps": [{"step": "resize", "width": 4, "height": 4}], "scale": 0.5}"#;
    let transform = Some(serde(image)?);
    manifest.inputs = vec![Input { name: "x".into(), transform, ..Input::default() }];
    manifest.outputs = vec![hedge_bundle::Output { name: "y".into(), ..Default::default() }];
    manifest.comparison = Some(Comparison::TopClass { output: "y".into() });
    let mut draft = Draft::new(manifest, network()?);
    draft.add_golden(&GoldenCase {
        inputs: vec![NamedTensor::new("x", Tensor::zeros(DType::F32, vec![1, 1, 4, 4])?)],
        outputs: vec![NamedTensor::new("y", Tensor::zeros(DType::F32, vec![1, 40])?)],
    });
    Ok(draft)
}

fn serde(json: &str) -> Outcome<Transform> {
    let manifest = format!(r#"{{"format": 1, "name": "m", "version": "1", "inputs": [{{"name": "x", "transform": {json}}}]}}"#);
    let manifest = Manifest::read(manifest.as_bytes())?;
    Ok(manifest.inputs.into_iter().find_map(|input| input.transform).ok_or("a transform")?)
}

fn text() -> Outcome<Draft> {
    let tokenizer = FileName::parse("tokenizer.json")?;
    let transform = Transform::Text(TextTransform {
        tokenizer: tokenizer.clone(),
        max_tokens: 8,
        max_bytes: 100,
        pad: Pad::Max,
        pad_token: "[PAD]".into(),
        special_tokens: true,
        ids: "x".into(),
        mask: None,
        types: None,
        dtype: DType::I64,
    });
    let mut manifest = Manifest::named(ModelName::parse("text")?, ModelVersion::parse("1")?);
    manifest.inputs = vec![Input { name: "text".into(), transform: Some(transform), ..Input::default() }];
    let mut draft = Draft::new(manifest, integers()?);
    draft.add_file(tokenizer, b"{}".to_vec().into());
    Ok(draft)
}
