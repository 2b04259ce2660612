//! ONNX to graph.

use std::collections::BTreeMap;
use std::io::Read;

use bytes::Bytes;
use hedge_tensor::Tensor;
use thiserror::Error;

use super::external::{ExternalData, NoExternalData};
use super::functions::Functions;
use super::proto::{
    AttributeProto, GraphProto, NodeProto, StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, attribute_proto::AttributeType, tensor_shape_proto::dimension, type_proto,
};
use super::split::{Parts, split_bytes, split_stream};
use super::tensor::{read_dtype, read_tensor};
use crate::validate::MAX_SUBGRAPH_DEPTH;
use crate::{Attribute, Dim, Graph, Node, ValidateError, ValueInfo};

/// The largest file; protobuf's own bound on a message. Larger models keep their weights beside it.
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
        bytes: u64,
    },
    /// The file could not be read to its end.
    #[error("the file cannot be read: {reason}")]
    Io {
        /// What the system said.
        reason: String,
    },
    /// Messages that would take far more memory than the file that holds them.
    #[error("the file holds more parts than a model of its size can have; is it damaged?")]
    TooManyParts,
    /// Not the message that an ONNX file is.
    #[error("this is not an ONNX file, or it is damaged: {reason}")]
    Malformed {
        /// What the decoder ran into.
        reason: String,
    },
    /// A model without a graph.
    #[error("the file holds no graph; is it an ONNX model, or a single ONNX tensor?")]
    NoGraph,
    /// A function of the model's own that means another version of ONNX's operators than the graph does.
    #[error(
        "function '{function}' is written for operator set {version}, but the model for {opset}; convert the model to one version"
    )]
    FunctionOpset {
        /// The function's name.
        function: String,
        /// Its version.
        version: i64,
        /// The model's.
        opset: i64,
    },
    /// Functions that call one another without end, or too deep.
    #[error("function '{function}' calls other functions too deep, or itself")]
    FunctionDepth {
        /// The function where the bound was met.
        function: String,
    },
    /// Weights in another file that cannot be had.
    #[error("{tensor} keeps its data in another file: {reason}")]
    ExternalData {
        /// Which tensor.
        tensor: String,
        /// What is wrong.
        reason: String,
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
    /// Reads an ONNX file that is whole by itself. The graph is sorted and valid; its constants are slices of `file`.
    pub fn read(file: Bytes) -> Result<Graph, ReadError> {
        Graph::read_with(file, &NoExternalData)
    }

    /// Reads an ONNX file whose weights may be in other files.
    pub fn read_with(file: Bytes, external: &dyn ExternalData) -> Result<Graph, ReadError> {
        read_parts(split_bytes(file)?, external)
    }

    /// Reads an ONNX file of `len` bytes from a stream, so that it is never in memory as a whole: each large constant has a
    /// buffer of its own.
    pub fn read_from(reader: &mut dyn Read, len: u64, external: &dyn ExternalData) -> Result<Graph, ReadError> {
        read_parts(split_stream(reader, len)?, external)
    }
}

fn read_parts(parts: Parts, external: &dyn ExternalData) -> Result<Graph, ReadError> {
    let Parts { model, graph, initializers } = parts;
    let opsets = model.opset_import.into_iter();
    let opsets: Vec<_> = opsets.map(|set| (normal_domain(set.domain), set.version.unwrap_or_default())).collect();
    // Files older than operator sets declare none, which means the first.
    let opset = opsets.iter().find(|(domain, _)| domain.is_empty()).map_or(1, |&(_, version)| version);
    let mut main = graph.ok_or(ReadError::NoGraph)?;
    main.initializer = initializers;
    Functions::new(model.functions, opset)?.inline(&mut main)?;
    let mut graph = Reading { opset, external }.graph(main, MAX_SUBGRAPH_DEPTH)?;
    graph.other_opsets = opsets.into_iter().filter(|(domain, _)| !domain.is_empty()).collect();
    graph.producer = model.producer_name.unwrap_or_default();
    graph.metadata.extend(model.metadata_props.into_iter().map(entry));
    if graph.doc.is_empty() {
        graph.doc = model.doc_string.unwrap_or_default();
    }
    graph.sort()?;
    Ok(graph)
}

/// What is the same for all graphs of a model.
#[derive(Clone, Copy)]
struct Reading<'a> {
    opset: i64,
    external: &'a dyn ExternalData,
}

impl Reading<'_> {
    /// `levels` counts this graph, too.
    fn graph(self, proto: GraphProto, levels: usize) -> Result<Graph, ReadError> {
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
        let initializers = self.initializers(proto.initializer, &name)?;
        let mut inputs = read_values(proto.input, "input")?;
        // Before version 4 of the format every initializer was listed as an input, as a default that a caller may replace.
        inputs.retain(|input| !initializers.contains_key(&input.name));
        Ok(Graph {
            name,
            inputs,
            outputs: read_values(proto.output, "output")?,
            values: read_hints(proto.value_info),
            nodes: proto.node.into_iter().map(|node| self.node(node, left)).collect::<Result<_, _>>()?,
            initializers,
            opset: self.opset,
            other_opsets: Vec::new(),
            doc: proto.doc_string.unwrap_or_default(),
            producer: String::new(),
            metadata: proto.metadata_props.into_iter().map(entry).collect(),
        })
    }

    fn initializers(self, protos: Vec<TensorProto>, graph: &str) -> Result<BTreeMap<String, Tensor>, ReadError> {
        let mut initializers = BTreeMap::new();
        for mut proto in protos {
            let name = proto.name.take().unwrap_or_default();
            let tensor = read_tensor(proto, &format!("initializer '{name}'"), self.external)?;
            if initializers.contains_key(&name) {
                return Err(ValidateError::Duplicate { graph: graph.to_owned(), value: name }.into());
            }
            initializers.insert(name, tensor);
        }
        Ok(initializers)
    }

    fn node(self, proto: NodeProto, levels: usize) -> Result<Node, ReadError> {
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
            let value = self.attribute(attribute, &name, &node, levels)?;
            if node.attributes.insert(name.clone(), value).is_some() {
                return Err(ReadError::DuplicateAttribute { node: node.label(), attribute: name });
            }
        }
        Ok(node)
    }

    fn attribute(self, proto: AttributeProto, name: &str, node: &Node, levels: usize) -> Result<Attribute, ReadError> {
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
            AttributeType::Tensor => {
                Attribute::Tensor(read_tensor(proto.t.unwrap_or_default(), &what(), self.external)?)
            }
            AttributeType::Tensors => {
                let tensors = proto.tensors.into_iter().map(|tensor| read_tensor(tensor, &what(), self.external));
                Attribute::Tensors(tensors.collect::<Result<_, _>>()?)
            }
            AttributeType::Graph => self.graph(proto.g.unwrap_or_default(), levels)?.into(),
            AttributeType::Graphs => {
                let graphs = proto.graphs.into_iter().map(|graph| self.graph(graph, levels));
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
pub(super) fn normal_domain(domain: Option<String>) -> String {
    domain.filter(|domain| domain != "ai.onnx").unwrap_or_default()
}

fn entry(proto: StringStringEntryProto) -> (String, String) {
    (proto.key.unwrap_or_default(), proto.value.unwrap_or_default())
}
