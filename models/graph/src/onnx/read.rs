//! ONNX to graph.

use std::collections::BTreeMap;

use bytes::Bytes;
use hedge_tensor::Tensor;
use prost::Message;
use thiserror::Error;

use super::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorShapeProto, TypeProto,
    ValueInfoProto, attribute_proto::AttributeType, tensor_shape_proto::dimension, type_proto,
};
use super::tensor::{read_dtype, read_tensor};
use crate::validate::MAX_SUBGRAPH_DEPTH;
use crate::{Attribute, Dim, Graph, Node, ValidateError, ValueInfo};

/// The largest file; protobuf's own bound on a message.
pub const MAX_FILE_BYTES: usize = (1 << 31) - 1;
/// The most nodes of one graph or subgraph.
pub const MAX_NODES: usize = 1 << 20;
/// The most dimensions of a tensor.
pub const MAX_RANK: usize = 32;

/// Why a file is not a model that Hedge can read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReadError {
    /// Larger than a protobuf message may be.
    #[error("the file has {bytes} bytes; an ONNX file has at most {MAX_FILE_BYTES}")]
    TooLarge {
        /// The file's size.
        bytes: usize,
    },
    /// Not the message that an ONNX file is.
    #[error("this is not an ONNX file, or it is damaged: {reason}")]
    Malformed {
        /// What the decoder ran into.
        reason: String,
    },
    /// A model without a graph.
    #[error("the file holds no graph; is it an ONNX model, or a single ONNX tensor?")]
    NoGraph,
    /// A feature without which the model would mean something else.
    #[error("the model uses {feature}, which is not supported; export it without")]
    Feature {
        /// Which feature.
        feature: &'static str,
    },
    /// Weights in another file.
    #[error(
        "{tensor} keeps its data in another file; save the model with its weights inside (onnx.save_model does so by default)"
    )]
    ExternalData {
        /// Which tensor.
        tensor: String,
    },
    /// A tensor in a sparse form.
    #[error("{tensor} is sparse, which is not supported; export it dense")]
    Sparse {
        /// Which tensor.
        tensor: String,
    },
    /// Elements of a type without a host form.
    #[error("{what} has elements of type {dtype}, which is not supported")]
    ElementType {
        /// Which tensor or value.
        what: String,
        /// ONNX's name of the type, or its number.
        dtype: String,
    },
    /// Data that does not fit its declaration.
    #[error("{tensor} cannot be read: {reason}")]
    TensorData {
        /// Which tensor.
        tensor: String,
        /// What does not fit.
        reason: String,
    },
    /// An input or output that is no tensor.
    #[error("{what} is of type {kind}; only tensors are supported")]
    ValueType {
        /// Which value.
        what: String,
        /// The kind of type.
        kind: &'static str,
    },
    /// An attribute of a kind that no supported operator has.
    #[error("attribute '{attribute}' of node {node} is {kind}, which is not supported")]
    AttributeKind {
        /// The node's label.
        node: String,
        /// The attribute's name.
        attribute: String,
        /// What it is.
        kind: &'static str,
    },
    /// An attribute that is given twice.
    #[error("attribute '{attribute}' of node {node} is given twice")]
    DuplicateAttribute {
        /// The node's label.
        node: String,
        /// The attribute's name.
        attribute: String,
    },
    /// More of something than the bound.
    #[error("graph '{graph}' has {count} nodes; {MAX_NODES} are allowed")]
    TooManyNodes {
        /// The graph's name.
        graph: String,
        /// How many.
        count: usize,
    },
    /// A graph that cannot be executed.
    #[error(transparent)]
    Invalid(#[from] ValidateError),
}

impl Graph {
    /// Reads an ONNX file. The graph is sorted and valid; its constants are slices of `file`.
    pub fn read(file: Bytes) -> Result<Graph, ReadError> {
        if file.len() > MAX_FILE_BYTES {
            return Err(ReadError::TooLarge { bytes: file.len() });
        }
        let model = ModelProto::decode(file).map_err(|error| ReadError::Malformed { reason: error.to_string() })?;
        let mut graph = read_model(model)?;
        graph.sort()?;
        Ok(graph)
    }
}

fn read_model(model: ModelProto) -> Result<Graph, ReadError> {
    if !model.functions.is_empty() {
        return Err(ReadError::Feature { feature: "functions of its own" });
    }
    let opsets = model.opset_import.into_iter();
    let opsets: Vec<_> = opsets.map(|set| (normal_domain(set.domain), set.version.unwrap_or_default())).collect();
    // Files older than operator sets declare none, which means the first.
    let opset = opsets.iter().find(|(domain, _)| domain.is_empty()).map_or(1, |&(_, version)| version);
    let main = model.graph.ok_or(ReadError::NoGraph)?;
    let mut graph = read_graph(main, opset, MAX_SUBGRAPH_DEPTH)?;
    graph.other_opsets = opsets.into_iter().filter(|(domain, _)| !domain.is_empty()).collect();
    graph.producer = model.producer_name.unwrap_or_default();
    graph.metadata.extend(model.metadata_props.into_iter().map(entry));
    if graph.doc.is_empty() {
        graph.doc = model.doc_string.unwrap_or_default();
    }
    Ok(graph)
}

/// `levels` counts this graph, too.
fn read_graph(proto: GraphProto, opset: i64, levels: usize) -> Result<Graph, ReadError> {
    let name = proto.name.unwrap_or_default();
    let Some(left) = levels.checked_sub(1) else {
        return Err(ValidateError::TooDeep { graph: name }.into());
    };
    if proto.node.len() > MAX_NODES {
        return Err(ReadError::TooManyNodes { graph: name, count: proto.node.len() });
    }
    if let Some(sparse) = proto.sparse_initializer.into_iter().next() {
        let tensor = sparse.values.and_then(|values| values.name).unwrap_or_default();
        return Err(ReadError::Sparse { tensor: format!("initializer '{tensor}'") });
    }
    let initializers = read_initializers(proto.initializer, &name)?;
    let mut inputs = read_values(proto.input, "input")?;
    // Before version 4 of the format every initializer was listed as an input, as a default that a caller may replace.
    inputs.retain(|input| !initializers.contains_key(&input.name));
    Ok(Graph {
        name,
        inputs,
        outputs: read_values(proto.output, "output")?,
        values: read_hints(proto.value_info),
        nodes: proto.node.into_iter().map(|node| read_node(node, opset, left)).collect::<Result<_, _>>()?,
        initializers,
        opset,
        other_opsets: Vec::new(),
        doc: proto.doc_string.unwrap_or_default(),
        producer: String::new(),
        metadata: proto.metadata_props.into_iter().map(entry).collect(),
    })
}

fn read_initializers(
    protos: Vec<super::proto::TensorProto>,
    graph: &str,
) -> Result<BTreeMap<String, Tensor>, ReadError> {
    let mut initializers = BTreeMap::new();
    for mut proto in protos {
        let name = proto.name.take().unwrap_or_default();
        let tensor = read_tensor(proto, &format!("initializer '{name}'"))?;
        if initializers.contains_key(&name) {
            return Err(ValidateError::Duplicate { graph: graph.to_owned(), value: name }.into());
        }
        initializers.insert(name, tensor);
    }
    Ok(initializers)
}

fn read_values(protos: Vec<ValueInfoProto>, role: &str) -> Result<Vec<ValueInfo>, ReadError> {
    protos.into_iter().map(|proto| read_value(proto, role)).collect()
}

/// Declared types of values in between. They are hints, so that one of an unsupported type is dropped, not an error.
fn read_hints(protos: Vec<ValueInfoProto>) -> Vec<ValueInfo> {
    protos.into_iter().filter_map(|proto| read_value(proto, "value").ok()).collect()
}

fn read_value(proto: ValueInfoProto, role: &str) -> Result<ValueInfo, ReadError> {
    let name = proto.name.unwrap_or_default();
    let what = format!("{role} '{name}'");
    let Some(declared) = proto.r#type.and_then(|TypeProto { value, .. }| value) else {
        return Ok(ValueInfo { name, dtype: None, shape: None });
    };
    let kind = match declared {
        type_proto::Value::TensorType(tensor) => {
            // An undefined element type is what exporters write where they do not know it.
            let code = tensor.elem_type.filter(|&code| code != 0);
            let dtype = code.map(|code| read_dtype(code, &what)).transpose()?;
            let shape = tensor.shape.map(|shape| read_shape(shape, &what)).transpose()?;
            return Ok(ValueInfo { name, dtype, shape });
        }
        type_proto::Value::SequenceType(_) => "sequence",
        type_proto::Value::MapType(_) => "map",
        type_proto::Value::OptionalType(_) => "optional",
        type_proto::Value::SparseTensorType(_) => "sparse tensor",
        type_proto::Value::OpaqueType(_) => "opaque",
    };
    Err(ReadError::ValueType { what, kind })
}

fn read_shape(shape: TensorShapeProto, what: &str) -> Result<Vec<Dim>, ReadError> {
    if shape.dim.len() > MAX_RANK {
        let reason = format!("it has {} dimensions; {MAX_RANK} are allowed", shape.dim.len());
        return Err(ReadError::TensorData { tensor: what.to_owned(), reason });
    }
    let dim = |value| match value {
        // Exporters write -1 where they mean that nothing is known.
        Some(dimension::Value::DimValue(size)) => usize::try_from(size).map_or(Dim::Unknown, Dim::Known),
        Some(dimension::Value::DimParam(name)) if !name.is_empty() => Dim::Named(name),
        _ => Dim::Unknown,
    };
    Ok(shape.dim.into_iter().map(|proto| dim(proto.value)).collect())
}

fn read_node(proto: NodeProto, opset: i64, levels: usize) -> Result<Node, ReadError> {
    let mut node = Node {
        name: proto.name.unwrap_or_default(),
        op: proto.op_type.unwrap_or_default(),
        domain: normal_domain(proto.domain),
        inputs: proto.input,
        outputs: proto.output,
        attributes: BTreeMap::new(),
    };
    for mut attribute in proto.attribute {
        let name = attribute.name.take().unwrap_or_default();
        let value = read_attribute(attribute, &name, &node, opset, levels)?;
        if node.attributes.insert(name.clone(), value).is_some() {
            return Err(ReadError::DuplicateAttribute { node: node.label(), attribute: name });
        }
    }
    Ok(node)
}

fn read_attribute(
    proto: AttributeProto,
    name: &str,
    node: &Node,
    opset: i64,
    levels: usize,
) -> Result<Attribute, ReadError> {
    let what = || format!("attribute '{name}' of node {}", node.label());
    let unsupported = |kind| ReadError::AttributeKind { node: node.label(), attribute: name.to_owned(), kind };
    if proto.ref_attr_name.as_ref().is_some_and(|reference| !reference.is_empty()) {
        return Err(unsupported("a reference to a function's attribute"));
    }
    let value = match attribute_type(&proto) {
        AttributeType::Int => Attribute::Int(proto.i.unwrap_or_default()),
        AttributeType::Float => Attribute::Float(proto.f.unwrap_or_default()),
        AttributeType::String => Attribute::String(proto.s.unwrap_or_default().into()),
        AttributeType::Ints => Attribute::Ints(proto.ints),
        AttributeType::Floats => Attribute::Floats(proto.floats),
        AttributeType::Strings => Attribute::Strings(proto.strings.into_iter().map(Vec::from).collect()),
        AttributeType::Tensor => Attribute::Tensor(read_tensor(proto.t.unwrap_or_default(), &what())?),
        AttributeType::Tensors => {
            let tensors = proto.tensors.into_iter().map(|tensor| read_tensor(tensor, &what()));
            Attribute::Tensors(tensors.collect::<Result<_, _>>()?)
        }
        AttributeType::Graph => read_graph(proto.g.unwrap_or_default(), opset, levels)?.into(),
        AttributeType::Graphs => {
            let graphs = proto.graphs.into_iter().map(|graph| read_graph(graph, opset, levels));
            Attribute::Graphs(graphs.collect::<Result<_, _>>()?)
        }
        AttributeType::SparseTensor | AttributeType::SparseTensors => {
            return Err(ReadError::Sparse { tensor: what() });
        }
        AttributeType::TypeProto | AttributeType::TypeProtos => return Err(unsupported("a type")),
        AttributeType::Undefined => return Err(unsupported("of no known kind")),
    };
    Ok(value)
}

/// The declared kind, or for files of the format's first version, which declared none, the kind of what is there.
fn attribute_type(proto: &AttributeProto) -> AttributeType {
    let kinds = [
        (proto.f.is_some(), AttributeType::Float),
        (proto.i.is_some(), AttributeType::Int),
        (proto.s.is_some(), AttributeType::String),
        (proto.t.is_some(), AttributeType::Tensor),
        (proto.g.is_some(), AttributeType::Graph),
        (!proto.floats.is_empty(), AttributeType::Floats),
        (!proto.ints.is_empty(), AttributeType::Ints),
        (!proto.strings.is_empty(), AttributeType::Strings),
        (!proto.tensors.is_empty(), AttributeType::Tensors),
        (!proto.graphs.is_empty(), AttributeType::Graphs),
    ];
    match proto.r#type() {
        AttributeType::Undefined => {
            kinds.into_iter().find(|(present, _)| *present).map_or(AttributeType::Undefined, |(_, kind)| kind)
        }
        declared => declared,
    }
}

/// `ai.onnx` is the long name of the default domain.
fn normal_domain(domain: Option<String>) -> String {
    domain.filter(|domain| domain != "ai.onnx").unwrap_or_default()
}

fn entry(proto: StringStringEntryProto) -> (String, String) {
    (proto.key.unwrap_or_default(), proto.value.unwrap_or_default())
}
