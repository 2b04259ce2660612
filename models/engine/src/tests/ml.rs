//! Operators of `ai.onnx.ml`. Expected values are worked out by hand; where ONNX leaves scores open they are onnxruntime's.

use hedge_graph::{Attribute, Dim, Graph, GraphBuilder, Node};
use hedge_tensor::{DType, Element, Tensor};

use super::floats;
use crate::burn::BurnExecutor;
use crate::{Device, Executor};

type Attributes<'a> = Vec<(&'a str, Attribute)>;

fn graph(op: &str, x: &Tensor, constants: &[Tensor], attributes: &Attributes<'_>, outputs: usize) -> Graph {
    let mut b = GraphBuilder::new(op);
    b.input("x", x.dtype(), &vec![Dim::Unknown; x.shape().len()]);
    let constants = constants.iter().enumerate().map(|(index, tensor)| b.init(&format!("c{index}"), tensor.clone()));
    let inputs = std::iter::once("x".to_owned()).chain(constants.collect::<Vec<String>>()).collect();
    let outputs: Vec<String> = (0..outputs).map(|index| format!("y{index}")).collect();
    let attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let (op, domain) = (op.to_owned(), "ai.onnx.ml".to_owned());
    b.node(Node { name: op.clone(), op, domain, inputs, outputs: outputs.clone(), attributes });
    outputs.iter().for_each(|name| b.output(name, DType::F32, &[]));
    let mut graph = b.finish().unwrap();
    graph.outputs.iter_mut().for_each(|output| (output.shape, output.dtype) = (None, None));
    graph
}

/// What comes out, or the message of what is wrong.
fn attempt(op: &str, x: &Tensor, attributes: &Attributes<'_>, outputs: usize) -> Result<Vec<Tensor>, String> {
    let graph = graph(op, x, &[], attributes, outputs);
    let mut runnable = BurnExecutor.prepare(graph, &Device::cpu()).map_err(|error| error.to_string())?;
    runnable.run(std::slice::from_ref(x)).map_err(|error| error.to_string())
}

fn one(op: &str, x: &Tensor, attributes: &Attributes<'_>) -> Tensor {
    attempt(op, x, attributes, 1).unwrap().remove(0)
}

/// Labels and scores.
fn classes(op: &str, x: &Tensor, attributes: &Attributes<'_>) -> (Vec<i64>, Tensor) {
    let [labels, scores] = attempt(op, x, attributes, 2).unwrap().try_into().unwrap();
    (labels.to_vec().unwrap(), scores)
}

fn close(actual: &Tensor, shape: &[usize], expected: &[f32]) {
    assert_eq!((actual.dtype(), actual.shape()), (DType::F32, shape));
    for (a, b) in actual.to_vec::<f32>().unwrap().iter().zip(expected) {
        assert!((a - b).abs() <= 1e-6 * b.abs().max(1.0), "{a} is not {b}");
    }
}

fn of<T: Element>(shape: &[usize], values: &[T]) -> Tensor {
    Tensor::from_slice(shape, values).unwrap()
}

fn ints(values: &[i64]) -> Attribute {
    Attribute::Ints(values.to_vec())
}

fn reals(values: &[f32]) -> Attribute {
    Attribute::Floats(values.to_vec())
}

fn text(value: &str) -> Attribute {
    Attribute::from(value)
}

/// Two trees: one asks whether the first feature is at most 1, and if not, whether the second is 3, to which a missing value says
/// yes; the other is a leaf.
fn nodes<'a>() -> Attributes<'a> {
    let modes = ["BRANCH_LEQ", "LEAF", "BRANCH_EQ", "LEAF", "LEAF", "LEAF"];
    vec![
        ("nodes_treeids", ints(&[0, 0, 0, 0, 0, 7])),
        ("nodes_nodeids", ints(&[0, 1, 2, 3, 4, 0])),
        ("nodes_featureids", ints(&[0, 0, 1, 0, 0, 0])),
        ("nodes_truenodeids", ints(&[1, 0, 3, 0, 0, 0])),
        ("nodes_falsenodeids", ints(&[2, 0, 4, 0, 0, 0])),
        ("nodes_missing_value_tracks_true", ints(&[0, 0, 1, 0, 0, 0])),
        ("nodes_values", reals(&[1.0, 0.0, 3.0, 0.0, 0.0, 0.0])),
        ("nodes_modes", Attribute::Strings(modes.map(|mode| mode.as_bytes().to_vec()).to_vec())),
    ]
}

/// What the trees' leaves give: to each of the first tree's three, and to the second tree's.
fn leaves<'a>(names: [&'a str; 4], targets: [i64; 4], weights: [f32; 4]) -> Attributes<'a> {
    let [tree, node, id, weight] = names;
    vec![(tree, ints(&[0, 0, 0, 7])), (node, ints(&[1, 3, 4, 0])), (id, ints(&targets)), (weight, reals(&weights))]
}

const TARGETS: [&str; 4] = ["target_treeids", "target_nodeids", "target_ids", "target_weights"];
const CLASSES: [&str; 4] = ["class_treeids", "class_nodeids", "class_ids", "class_weights"];

fn rows() -> Tensor {
    floats(&[4, 2], &[1.0, 0.0, 2.0, 3.0, 2.0, 4.0, f32::NAN, f32::NAN])
}

#[test]
fn a_row_walks_each_tree_to_a_leaf_and_what_is_missing_goes_where_the_node_says() {
    let forest = |more: Attributes<'_>| {
        let attributes = [nodes(), leaves(TARGETS, [0; 4], [10.0, 20.0, 30.0, 4.0]), more].concat();
        one("TreeEnsembleRegressor", &rows(), &attributes)
    };
    close(&forest(vec![]), &[4, 1], &[14.0, 24.0, 34.0, 24.0]);
    let aggregated = |name: &str| forest(vec![("aggregate_function", text(name)), ("base_values", reals(&[1.0]))]);
    close(&aggregated("AVERAGE"), &[4, 1], &[8.0, 13.0, 18.0, 13.0]);
    close(&aggregated("MIN"), &[4, 1], &[5.0; 4]);
    close(&aggregated("MAX"), &[4, 1], &[11.0, 21.0, 31.0, 21.0]);
}

#[test]
fn the_class_with_the_highest_sum_gives_its_label() {
    let weights = leaves(CLASSES, [0, 1, 2, 1], [2.0, 1.0, 3.0, 0.5]);
    let attributes = [nodes(), weights, vec![("classlabels_int64s", ints(&[10, 20, 30]))]].concat();
    let (labels, scores) = classes("TreeEnsembleClassifier", &rows(), &attributes);
    assert_eq!(labels, [10, 20, 30, 20]);
    close(&scores, &[4, 3], &[2.0, 0.5, 0.0, 0.0, 1.5, 0.0, 0.0, 0.5, 3.0, 0.0, 1.5, 0.0]);
    // Two classes are no other than three where both have weights.
    let weights = leaves(CLASSES, [0, 1, 0, 1], [2.0, 1.0, 3.0, 0.5]);
    let more = vec![("classlabels_int64s", ints(&[10, 20])), ("base_values", reals(&[0.5, 1.25]))];
    let (labels, scores) = classes("TreeEnsembleClassifier", &rows(), &[nodes(), weights, more].concat());
    assert_eq!(labels, [10, 20, 10, 20]);
    close(&scores, &[4, 2], &[2.5, 1.75, 0.5, 2.75, 3.5, 1.75, 0.5, 2.75]);
}

#[test]
fn one_sum_for_two_classes_is_a_share_if_it_is_never_negative_and_else_signed() {
    let two = |weights: [f32; 4], transform: &str| {
        let more = vec![("classlabels_int64s", ints(&[5, 6])), ("post_transform", text(transform))];
        let attributes = [nodes(), leaves(CLASSES, [0; 4], weights), more].concat();
        classes("TreeEnsembleClassifier", &rows(), &attributes)
    };
    let (labels, scores) = two([0.25, 0.5, 0.75, 0.125], "NONE");
    assert_eq!(labels, [5, 6, 6, 6]);
    close(&scores, &[4, 2], &[0.625, 0.375, 0.375, 0.625, 0.125, 0.875, 0.375, 0.625]);
    let (labels, scores) = two([-2.0, 1.0, 3.0, 0.5], "NONE");
    assert_eq!(labels, [5, 6, 6, 6]);
    close(&scores, &[4, 2], &[1.5, -1.5, -1.5, 1.5, -3.5, 3.5, -1.5, 1.5]);
    let (_, scores) = two([-2.0, 1.0, 3.0, 0.0], "LOGISTIC");
    close(&scores, &[4, 2], &[0.880_797, 0.119_203, 0.268_941, 0.731_059, 0.047_426, 0.952_574, 0.268_941, 0.731_059]);
}

#[test]
fn a_forest_of_tensors_tests_for_members_and_keeps_its_input_s_type() {
    let attributes = vec![
        ("nodes_splits", Attribute::Tensor(of(&[2], &[0.5f64, 0.0]))),
        ("nodes_featureids", ints(&[0, 1])),
        ("nodes_modes", Attribute::Tensor(of(&[2], &[1u8, 6]))),
        ("nodes_truenodeids", ints(&[0, 1])),
        ("nodes_falsenodeids", ints(&[1, 2])),
        ("nodes_trueleafs", ints(&[1, 1])),
        ("nodes_falseleafs", ints(&[0, 1])),
        ("membership_values", Attribute::Tensor(of(&[3], &[2.0f64, 7.0, f64::NAN]))),
        ("leaf_targetids", ints(&[0, 1, 0])),
        ("leaf_weights", Attribute::Tensor(of(&[3], &[1.5f64, 2.5, 3.5]))),
        ("tree_roots", ints(&[0])),
        ("n_targets", Attribute::Int(2)),
    ];
    let y = one("TreeEnsemble", &of(&[3, 2], &[0.25f64, 0.0, 0.5, 7.0, 0.5, 3.0]), &attributes);
    assert_eq!((y.shape(), y.to_vec::<f64>().unwrap()), (&[3, 2][..], vec![1.5, 0.0, 0.0, 2.5, 3.5, 0.0]));
}

#[test]
fn what_is_wrong_with_a_forest_is_said() {
    let with = |name: &str, value: Attribute| {
        let mut attributes = [nodes(), leaves(TARGETS, [0; 4], [1.0; 4])].concat();
        attributes.retain(|(known, _)| *known != name);
        attributes.push((name, value));
        attempt("TreeEnsembleRegressor", &rows(), &attributes, 1).unwrap_err()
    };
    assert!(with("nodes_falsenodeids", ints(&[9, 0, 4, 0, 0, 0])).contains("tree 0 has no node 9"));
    assert!(with("nodes_falsenodeids", ints(&[2, 0, 0, 0, 0, 0])).contains("leads back to itself"));
    assert!(with("nodes_featureids", ints(&[0, 0, 5, 0, 0, 0])).contains("2 features, but its trees ask for 6"));
    assert!(with("nodes_values", reals(&[1.0])).contains("1 nodes_values, but 6 are needed"));
    assert!(with("target_ids", ints(&[0, 0, 0, 3])).contains("of 4 targets, but it has 1"));
    assert!(with("n_targets", Attribute::Int(0)).contains("n_targets must be at least 1"));
    assert!(with("n_targets", Attribute::Int(i64::MAX)).contains("too large"));
    let texts = [nodes(), leaves(CLASSES, [0; 4], [1.0; 4])].concat();
    assert!(attempt("TreeEnsembleClassifier", &rows(), &texts, 2).unwrap_err().contains("texts are not supported"));
}

#[test]
fn linear_models_are_products_with_a_bias() {
    let x = floats(&[2, 2], &[1.0, 2.0, -3.0, 0.5]);
    let weights = vec![("coefficients", reals(&[1.0, 0.5, -1.0, 2.0])), ("intercepts", reals(&[0.5, -0.5]))];
    let regressor = [weights.clone(), vec![("targets", Attribute::Int(2))]].concat();
    close(&one("LinearRegressor", &x, &regressor), &[2, 2], &[2.5, 2.5, -2.25, 3.5]);
    let several = [weights, vec![("classlabels_ints", ints(&[4, 8])), ("post_transform", text("SOFTMAX"))]].concat();
    let (labels, scores) = classes("LinearClassifier", &x, &several);
    assert_eq!(labels, [4, 8], "the first of equals");
    close(&scores, &[2, 2], &[0.5, 0.5, 0.003_172_7, 0.996_827_3]);
    let single = vec![("coefficients", reals(&[1.0, 0.5])), ("intercepts", reals(&[0.0]))];
    let two = [single, vec![("classlabels_ints", ints(&[4, 8])), ("post_transform", text("LOGISTIC"))]].concat();
    let (labels, scores) = classes("LinearClassifier", &x, &two);
    assert_eq!(labels, [8, 4]);
    close(&scores, &[2, 2], &[0.119_203, 0.880_797, 0.939_913, 0.060_087]);
}

#[test]
fn features_are_scaled_and_normalized_and_what_is_missing_is_replaced() {
    let x = floats(&[2, 2], &[3.0, -4.0, 0.0, 0.0]);
    let scale = vec![("offset", reals(&[1.0])), ("scale", reals(&[2.0, 0.5]))];
    close(&one("Scaler", &x, &scale), &[2, 2], &[4.0, -2.5, -2.0, -0.5]);
    let normalized = |norm: &str| one("Normalizer", &x, &vec![("norm", text(norm))]);
    close(&normalized("MAX"), &[2, 2], &[1.0, -4.0 / 3.0, 0.0, 0.0]);
    close(&normalized("L1"), &[2, 2], &[3.0 / 7.0, -4.0 / 7.0, 0.0, 0.0]);
    close(&normalized("L2"), &[2, 2], &[0.6, -0.8, 0.0, 0.0]);
    close(&one("Binarizer", &x, &vec![("threshold", Attribute::Float(-0.5))]), &[2, 2], &[1.0, 0.0, 1.0, 1.0]);
    let holes = floats(&[2, 2], &[f32::NAN, 1.0, 2.0, f32::NAN]);
    let missing = |values: &[f32]| {
        vec![("imputed_value_floats", reals(values)), ("replaced_value_float", Attribute::Float(f32::NAN))]
    };
    close(&one("Imputer", &holes, &missing(&[7.0, 8.0])), &[2, 2], &[7.0, 1.0, 2.0, 8.0]);
    close(&one("Imputer", &holes, &missing(&[9.0])), &[2, 2], &[9.0, 1.0, 2.0, 9.0]);
}

#[test]
fn categories_become_columns_and_keys_values() {
    let x = of(&[2, 2], &[3i64, 1, 9, 3]);
    let hot = one("OneHotEncoder", &x, &vec![("cats_int64s", ints(&[1, 3]))]);
    close(&hot, &[2, 2, 2], &[0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    let strict = vec![("cats_int64s", ints(&[1, 3])), ("zeros", Attribute::Int(0))];
    assert!(attempt("OneHotEncoder", &x, &strict, 1).unwrap_err().contains("9 is none of its categories"));
    let encoded =
        |more: Attributes<'_>| one("LabelEncoder", &x, &[vec![("keys_int64s", ints(&[3, 1, 3]))], more].concat());
    close(&encoded(vec![("values_floats", reals(&[0.5, 1.5, 2.5]))]), &[2, 2], &[0.5, 1.5, 0.0, 0.5]);
    let numbers = encoded(vec![("values_int64s", ints(&[30, 10, 0])), ("default_int64", Attribute::Int(-7))]);
    assert_eq!(numbers.to_vec::<i64>().unwrap(), [30, 10, -7, 30]);
    let keys = vec![("keys_floats", reals(&[f32::NAN, 0.0])), ("values_int64s", ints(&[1, 2]))];
    let found = one("LabelEncoder", &floats(&[3], &[-0.0, f32::NAN, 1.0]), &keys);
    assert_eq!(found.to_vec::<i64>().unwrap(), [2, 1, -1]);
}

#[test]
fn features_are_picked_by_their_numbers() {
    let picked = |x: &Tensor, indices: &[i64]| {
        let graph = graph("ArrayFeatureExtractor", x, &[of(&[indices.len()], indices)], &vec![], 1);
        let mut runnable = BurnExecutor.prepare(graph, &Device::cpu()).map_err(|error| error.to_string())?;
        runnable.run(std::slice::from_ref(x)).map(|mut y| y.remove(0)).map_err(|error| error.to_string())
    };
    let y = picked(&of(&[2, 3], &[1i32, 2, 3, 4, 5, 6]), &[2, 0, 2]).unwrap();
    assert_eq!((y.shape(), y.to_vec::<i32>().unwrap()), (&[2, 3][..], vec![3, 1, 3, 6, 4, 6]));
    close(&picked(&floats(&[3], &[1.0, 2.0, 3.0]), &[1]).unwrap(), &[1, 1], &[2.0]);
    assert!(picked(&floats(&[1, 2], &[0.0; 2]), &[2]).unwrap_err().contains("outside 2 features"));
}
