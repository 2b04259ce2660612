//! Graph to ONNX.
//!
//! The same graph always gives the same bytes: constants and attributes are written in the order of their names.

use bytes::Bytes;
use prost::Message;

use super::external::Placement;
use super::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorShapeProto,
    TypeProto, ValueInfoProto, attribute_proto::AttributeType, tensor_shape_proto, type_proto,
};
use super::tensor::write_tensor;
use crate::{Attribute, Dim, Graph, Node, ValueInfo};

/// (highest operator set, the version of the format that came with it), from ONNX's table of releases. The lowest that
/// fits is written, so that older runtimes read the file.
const FORMATS: [(i64, i64); 3] = [(18, 8), (20, 9), (22, 10)];
/// The version of the format for operator sets beyond the table.
const NEWEST_FORMAT: i64 = 11;

impl Graph {
    /// The graph as an ONNX file.
    pub fn write(&self) -> Vec<u8> {
        self.to_proto().encode_to_vec()
    }

    /// The graph as an ONNX file without its large constants, and what the file `location` beside it must hold: these
    /// constants, each aligned to 64 bytes.
    pub fn write_external(&self, location: &str) -> (Vec<u8>, Vec<u8>) {
        let mut model = self.to_proto();
        let mut placement = Placement::new(location);
        let constants = model.graph.iter_mut().flat_map(|graph| &mut graph.initializer);
        constants.for_each(|constant| placement.place(constant));
        (model.encode_to_vec(), placement.into_data())
    }

    fn to_proto(&self) -> ModelProto {
        let format =
            FORMATS.iter().find(|(opset, _)| self.opset <= *opset).map_or(NEWEST_FORMAT, |&(_, format)| format);
        let default = (String::new(), self.opset);
        let opsets = std::iter::once(&default).chain(&self.other_opsets);
        let mut graph = write_graph(self);
        // The description and the pairs are the model's.
        graph.doc_string = None;
        graph.metadata_props = Vec::new();
        ModelProto {
            ir_version: Some(format),
            opset_import: opsets
                .map(|(domain, version)| OperatorSetIdProto { domain: Some(domain.clone()), version: Some(*version) })
                .collect(),
            producer_name: text(&self.producer),
            doc_string: text(&self.doc),
            metadata_props: write_metadata(self),
            graph: Some(graph),
            ..ModelProto::default()
        }
    }
}

fn write_graph(graph: &Graph) -> GraphProto {
    GraphProto {
        // A name is required, and an empty one is none.
        name: Some(if graph.name.is_empty() { "graph".to_owned() } else { graph.name.clone() }),
        node: graph.nodes.iter().map(write_node).collect(),
        initializer: graph.initializers.iter().map(|(name, tensor)| write_tensor(Some(name), tensor)).collect(),
        doc_string: text(&graph.doc),
        input: graph.inputs.iter().map(write_value).collect(),
        output: graph.outputs.iter().map(write_value).collect(),
        value_info: graph.values.iter().map(write_value).collect(),
        metadata_props: write_metadata(graph),
        ..GraphProto::default()
    }
}

fn write_metadata(graph: &Graph) -> Vec<StringStringEntryProto> {
    let pairs = graph.metadata.iter();
    pairs.map(|(key, value)| StringStringEntryProto { key: Some(key.clone()), value: Some(value.clone()) }).collect()
}

fn write_value(value: &ValueInfo) -> ValueInfoProto {
    let known = value.dtype.is_some() || value.shape.is_some();
    let tensor = || type_proto::Tensor {
        elem_type: value.dtype.map(|dtype| dtype.onnx_code()),
        shape: value.shape.as_ref().map(|dims| TensorShapeProto { dim: dims.iter().map(write_dim).collect() }),
    };
    ValueInfoProto {
        name: Some(value.name.clone()),
        r#type: known.then(|| TypeProto { value: Some(type_proto::Value::TensorType(tensor())), denotation: None }),
        ..ValueInfoProto::default()
    }
}

fn write_dim(dim: &Dim) -> tensor_shape_proto::Dimension {
    use tensor_shape_proto::dimension::Value;
    let value = match dim {
        Dim::Known(size) => i64::try_from(*size).ok().map(Value::DimValue),
        Dim::Named(name) => Some(Value::DimParam(name.clone())),
        Dim::Unknown => None,
    };
    tensor_shape_proto::Dimension { value, denotation: None }
}

fn write_node(node: &Node) -> NodeProto {
    NodeProto {
        input: node.inputs.clone(),
        output: node.outputs.clone(),
        name: text(&node.name),
        op_type: Some(node.op.clone()),
        domain: text(&node.domain),
        attribute: node.attributes.iter().map(|(name, value)| write_attribute(name, value)).collect(),
        ..NodeProto::default()
    }
}

fn write_attribute(name: &str, value: &Attribute) -> AttributeProto {
    let mut proto = AttributeProto { name: Some(name.to_owned()), ..AttributeProto::default() };
    let kind = match value {
        Attribute::Int(value) => {
            proto.i = Some(*value);
            AttributeType::Int
        }
        Attribute::Float(value) => {
            proto.f = Some(*value);
            AttributeType::Float
        }
        Attribute::String(value) => {
            proto.s = Some(Bytes::copy_from_slice(value));
            AttributeType::String
        }
        Attribute::Tensor(tensor) => {
            proto.t = Some(write_tensor(None, tensor));
            AttributeType::Tensor
        }
        Attribute::Graph(graph) => {
            proto.g = Some(write_graph(graph));
            AttributeType::Graph
        }
        Attribute::Ints(values) => {
            proto.ints.clone_from(values);
            AttributeType::Ints
        }
        Attribute::Floats(values) => {
            proto.floats.clone_from(values);
            AttributeType::Floats
        }
        Attribute::Strings(values) => {
            proto.strings = values.iter().map(|value| Bytes::copy_from_slice(value)).collect();
            AttributeType::Strings
        }
        Attribute::Tensors(tensors) => {
            proto.tensors = tensors.iter().map(|tensor| write_tensor(None, tensor)).collect();
            AttributeType::Tensors
        }
        Attribute::Graphs(graphs) => {
            proto.graphs = graphs.iter().map(write_graph).collect();
            AttributeType::Graphs
        }
    };
    proto.set_type(kind);
    proto
}

fn text(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}
