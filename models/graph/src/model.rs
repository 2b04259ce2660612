//! The graph's types: what an ONNX file says, in names that the rest of Hedge uses.
//!
//! They are plain data. Their invariants are checked by [`Graph::validate`], not by construction: a pass may break and
//! mend a graph on its way. [`Graph::read`] and [`GraphBuilder::finish`](crate::build::GraphBuilder::finish) return
//! validated graphs only.

use std::collections::BTreeMap;

use hedge_tensor::{DType, Tensor};

/// A model, or the body of a control-flow operator.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Graph {
    /// The graph's name; free text.
    pub name: String,
    /// What a caller must give. A value with an initializer is never listed here: it is a constant.
    pub inputs: Vec<ValueInfo>,
    /// What a caller gets.
    pub outputs: Vec<ValueInfo>,
    /// What is known of values in between; may be empty, and holds for no decision that can fail.
    pub values: Vec<ValueInfo>,
    /// The operators, each after the ones whose outputs it takes.
    pub nodes: Vec<Node>,
    /// Constants by value name: weights, shapes, scales.
    pub initializers: BTreeMap<String, Tensor>,
    /// The version of the default operator set (`ai.onnx`); a subgraph has its parent's.
    pub opset: i64,
    /// Versions of further operator sets by domain; empty in a subgraph.
    pub other_opsets: Vec<(String, i64)>,
    /// The model's description.
    pub doc: String,
    /// The program that wrote the model.
    pub producer: String,
    /// The model's own key-value pairs.
    pub metadata: BTreeMap<String, String>,
}

/// A named value's type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ValueInfo {
    /// The value's name.
    pub name: String,
    /// The element type, where it is declared.
    pub dtype: Option<DType>,
    /// The dimensions, where the rank is declared.
    pub shape: Option<Vec<Dim>>,
}

/// One dimension of a declared shape.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Dim {
    /// A fixed size.
    Known(usize),
    /// A size that the caller chooses; the same name is the same size.
    Named(String),
    /// A size of which nothing is said.
    Unknown,
}

/// One operator at work.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Node {
    /// The node's own name; often empty, and not unique by any rule.
    pub name: String,
    /// The operator, such as `Conv`.
    pub op: String,
    /// The operator's domain; empty for ONNX's own operators.
    pub domain: String,
    /// Names of the values it takes; an empty name is an optional input left out.
    pub inputs: Vec<String>,
    /// Names of the values it makes; an empty name is an output that nobody takes.
    pub outputs: Vec<String>,
    /// Its attributes by name.
    pub attributes: BTreeMap<String, Attribute>,
}

/// The value of a node's attribute.
#[derive(Clone, PartialEq, Debug)]
pub enum Attribute {
    /// An integer.
    Int(i64),
    /// A number.
    Float(f32),
    /// Text, UTF-8 by convention only.
    String(Vec<u8>),
    /// A constant.
    Tensor(Tensor),
    /// The body of a control-flow operator.
    Graph(Box<Graph>),
    /// Integers.
    Ints(Vec<i64>),
    /// Numbers.
    Floats(Vec<f32>),
    /// Texts.
    Strings(Vec<Vec<u8>>),
    /// Constants.
    Tensors(Vec<Tensor>),
    /// Bodies.
    Graphs(Vec<Graph>),
}

impl Graph {
    /// The elements of all weights, subgraphs included. Constants of type `INT64` and `BOOL` do not count: ONNX keeps
    /// shapes, axes and conditions in them.
    pub fn parameters(&self) -> usize {
        let own: usize = self.initializers.values().filter(|tensor| is_weight(tensor)).map(Tensor::len).sum();
        let nested: usize = self.nodes.iter().flat_map(Node::subgraphs).map(Graph::parameters).sum();
        own + nested
    }

    /// The declared input called `name`.
    pub fn input(&self, name: &str) -> Option<&ValueInfo> {
        self.inputs.iter().find(|input| input.name == name)
    }

    /// The declared output called `name`.
    pub fn output(&self, name: &str) -> Option<&ValueInfo> {
        self.outputs.iter().find(|output| output.name == name)
    }
}

fn is_weight(tensor: &Tensor) -> bool {
    !matches!(tensor.dtype(), DType::I64 | DType::Bool)
}

impl ValueInfo {
    /// A value with a declared type and rank.
    pub fn new(name: impl Into<String>, dtype: DType, shape: &[Dim]) -> Self {
        ValueInfo { name: name.into(), dtype: Some(dtype), shape: Some(shape.to_vec()) }
    }
}

impl Dim {
    /// A dimension whose size the caller chooses.
    pub fn named(name: impl Into<String>) -> Self {
        Dim::Named(name.into())
    }
}

impl From<usize> for Dim {
    fn from(size: usize) -> Self {
        Dim::Known(size)
    }
}

impl std::fmt::Display for Dim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Dim::Known(size) => write!(f, "{size}"),
            Dim::Named(name) => f.write_str(name),
            Dim::Unknown => f.write_str("?"),
        }
    }
}

impl Node {
    /// The integer attribute `name`, or `default` where it is absent or of another kind.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        match self.attributes.get(name) {
            Some(Attribute::Int(value)) => *value,
            _ => default,
        }
    }

    /// The number attribute `name`, or `default` where it is absent or of another kind.
    pub fn float(&self, name: &str, default: f32) -> f32 {
        match self.attributes.get(name) {
            Some(Attribute::Float(value)) => *value,
            _ => default,
        }
    }

    /// The text attribute `name`, where it is there and UTF-8.
    pub fn string(&self, name: &str) -> Option<&str> {
        match self.attributes.get(name) {
            Some(Attribute::String(value)) => std::str::from_utf8(value).ok(),
            _ => None,
        }
    }

    /// The integers attribute `name`.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.attributes.get(name) {
            Some(Attribute::Ints(values)) => Some(values),
            _ => None,
        }
    }

    /// The numbers attribute `name`.
    pub fn floats(&self, name: &str) -> Option<&[f32]> {
        match self.attributes.get(name) {
            Some(Attribute::Floats(values)) => Some(values),
            _ => None,
        }
    }

    /// The texts attribute `name`.
    pub fn strings(&self, name: &str) -> Option<&[Vec<u8>]> {
        match self.attributes.get(name) {
            Some(Attribute::Strings(values)) => Some(values),
            _ => None,
        }
    }

    /// The constant attribute `name`.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        match self.attributes.get(name) {
            Some(Attribute::Tensor(tensor)) => Some(tensor),
            _ => None,
        }
    }

    /// The body attribute `name`.
    pub fn graph(&self, name: &str) -> Option<&Graph> {
        match self.attributes.get(name) {
            Some(Attribute::Graph(graph)) => Some(graph),
            _ => None,
        }
    }

    /// The bodies among its attributes, in the order of their names.
    pub fn subgraphs(&self) -> impl Iterator<Item = &Graph> {
        self.attributes.values().flat_map(|attribute| match attribute {
            Attribute::Graph(graph) => std::slice::from_ref(graph.as_ref()),
            Attribute::Graphs(graphs) => graphs.as_slice(),
            _ => &[],
        })
    }

    pub(crate) fn subgraphs_mut(&mut self) -> impl Iterator<Item = &mut Graph> {
        self.attributes.values_mut().flat_map(|attribute| match attribute {
            Attribute::Graph(graph) => std::slice::from_mut(graph.as_mut()),
            Attribute::Graphs(graphs) => graphs.as_mut_slice(),
            _ => &mut [],
        })
    }

    /// Its name, or the first value it makes where it has none.
    pub fn display_name(&self) -> &str {
        let name = if self.name.is_empty() { self.outputs.first() } else { Some(&self.name) };
        name.map_or("", String::as_str)
    }

    /// What to call the node in a message: its operator and its [`Node::display_name`].
    pub fn label(&self) -> String {
        format!("{} '{}'", self.qualified_op(), self.display_name())
    }

    /// The operator with its domain, such as `Conv` or `com.microsoft.FusedConv`.
    pub fn qualified_op(&self) -> String {
        if self.domain.is_empty() { self.op.clone() } else { format!("{}.{}", self.domain, self.op) }
    }
}

impl From<i64> for Attribute {
    fn from(value: i64) -> Self {
        Attribute::Int(value)
    }
}

impl From<f32> for Attribute {
    fn from(value: f32) -> Self {
        Attribute::Float(value)
    }
}

impl From<&str> for Attribute {
    fn from(value: &str) -> Self {
        Attribute::String(value.as_bytes().to_vec())
    }
}

impl From<&[i64]> for Attribute {
    fn from(values: &[i64]) -> Self {
        Attribute::Ints(values.to_vec())
    }
}

impl<const N: usize> From<[i64; N]> for Attribute {
    fn from(values: [i64; N]) -> Self {
        Attribute::Ints(values.to_vec())
    }
}

impl From<&[f32]> for Attribute {
    fn from(values: &[f32]) -> Self {
        Attribute::Floats(values.to_vec())
    }
}

impl From<Tensor> for Attribute {
    fn from(tensor: Tensor) -> Self {
        Attribute::Tensor(tensor)
    }
}

impl From<Graph> for Attribute {
    fn from(graph: Graph) -> Self {
        Attribute::Graph(Box::new(graph))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(count: usize) -> Tensor {
        Tensor::zeros(DType::F32, vec![count]).unwrap()
    }

    #[test]
    fn parameters_count_weights_of_subgraphs_but_neither_shapes_nor_conditions() {
        let body = Graph { initializers: [("b".into(), weights(3))].into(), ..Graph::default() };
        let branch = Node { attributes: [("body".into(), body.into())].into(), ..Node::default() };
        let shape = Tensor::from_slice(&[2], &[-1i64, 4]).unwrap();
        let graph = Graph {
            nodes: vec![branch],
            initializers: [("w".into(), weights(5)), ("shape".into(), shape)].into(),
            ..Graph::default()
        };
        assert_eq!(graph.parameters(), 8);
    }

    #[test]
    fn an_attribute_of_another_kind_reads_as_absent() {
        let node = Node {
            op: "Conv".into(),
            outputs: vec!["y".into()],
            attributes: [
                ("group".into(), 2.into()),
                ("pads".into(), [1, 1].into()),
                ("auto_pad".into(), "SAME".into()),
            ]
            .into(),
            ..Node::default()
        };
        assert_eq!((node.int("group", 1), node.int("pads", 7)), (2, 7));
        assert_eq!(node.ints("pads"), Some(&[1, 1][..]));
        assert_eq!((node.string("auto_pad"), node.ints("group")), (Some("SAME"), None));
        assert_eq!(node.label(), "Conv 'y'");
    }
}
