//! Whole files: golden bytes, round trips, damaged and hostile ones.

use bytes::Bytes;
use hedge_tensor::{DType, Tensor};
use prost::Message;

use super::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, SparseTensorProto, StringStringEntryProto,
    TensorProto, TypeProto, ValueInfoProto, attribute_proto::AttributeType, type_proto,
};
use super::{ExternalData, NoExternalData, ReadError};
use crate::{Attribute, Dim, Graph, GraphBuilder, Node, ValidateError, ValueInfo, file_digest};

/// A file with every kind of attribute, a subgraph, a constant of every type and every kind of dimension.
fn sample() -> Graph {
    let mut b = GraphBuilder::new("sample");
    b.doc("what it is");
    let x = b.input("x", DType::F32, &[Dim::named("N"), Dim::Known(2), Dim::Unknown]);
    for dtype in DType::all() {
        b.init(&format!("constant_{dtype}"), Tensor::zeros(dtype, vec![1, 2]).unwrap());
    }
    let body = Graph {
        name: "body".into(),
        outputs: vec![ValueInfo { name: "r".into(), dtype: None, shape: None }],
        nodes: vec![Node { op: "Neg".into(), inputs: vec!["x".into()], outputs: vec!["r".into()], ..Node::default() }],
        initializers: [("inner".into(), Tensor::scalar(1f32))].into(),
        opset: 17,
        ..Graph::default()
    };
    let bodies = Attribute::Graphs(vec![body.clone()]);
    let attributes = [
        ("int", Attribute::Int(-1)),
        ("float", Attribute::Float(0.5)),
        ("string", "text".into()),
        ("tensor", Tensor::scalar(7i64).into()),
        ("graph", body.into()),
        ("ints", [1, -2].into()),
        ("floats", Attribute::Floats(vec![1., 2.])),
        ("strings", Attribute::Strings(vec![b"a".to_vec(), vec![]])),
        ("tensors", Attribute::Tensors(vec![Tensor::scalar(1u8)])),
        ("graphs", bodies),
        ("empty", Attribute::Ints(vec![])),
    ];
    b.op_as("y", "Everything", &[&x, "", "constant_FP32"], &attributes);
    b.output("y", DType::F32, &[Dim::named("N")]);
    let mut graph = b.finish().unwrap();
    graph.other_opsets = vec![("com.example".into(), 3)];
    graph.metadata = [("key".into(), "value".into())].into();
    graph.values = vec![ValueInfo { name: "y".into(), dtype: Some(DType::F32), shape: None }];
    graph
}

fn read(model: &ModelProto) -> Result<Graph, ReadError> {
    Graph::read(model.encode_to_vec().into())
}

fn model(graph: GraphProto) -> ModelProto {
    ModelProto { graph: Some(graph), ..ModelProto::default() }
}

#[test]
fn a_graph_comes_back_as_it_was_written() {
    let graph = sample();
    let file = graph.write();
    let read = Graph::read(file.clone().into()).unwrap();
    assert_eq!(read, graph);
    assert_eq!(read.write(), file, "the same graph gives the same bytes");
}

#[test]
fn the_smallest_model_has_these_bytes() {
    let mut b = GraphBuilder::new("g");
    let x = b.input("x", DType::F32, &[Dim::named("N")]);
    b.op_as("y", "Relu", &[&x], &[]);
    b.output("y", DType::F32, &[Dim::named("N")]);
    let graph = b.finish().unwrap();
    let golden = [
        &b"\x08\x08\x12\x05hedge"[..],                      // ir_version 8, producer_name
        b"\x3a\x38",                                        // graph, 56 bytes:
        b"\x0a\x0f\x0a\x01x\x12\x01y\x1a\x01y\x22\x04Relu", //  node: input, output, name, op_type
        b"\x12\x01g",                                       //  name
        b"\x5a\x10\x0a\x01x\x12\x0b\x0a\x09\x08\x01\x12\x05\x0a\x03\x12\x01N", // input x: tensor of FLOAT, shape [N]
        b"\x62\x10\x0a\x01y\x12\x0b\x0a\x09\x08\x01\x12\x05\x0a\x03\x12\x01N", // output y
        b"\x42\x04\x0a\x00\x10\x11",                        // opset_import: domain '', version 17
    ];
    let file = graph.write();
    assert_eq!(file, golden.concat());
    let back = Graph::read(file.into()).unwrap();
    assert_eq!(back, graph);
}

#[test]
fn weights_are_slices_of_the_file() {
    let graph =
        Graph { initializers: [("w".into(), Tensor::zeros(DType::F32, vec![1000]).unwrap())].into(), ..sample() };
    let graph = Graph { nodes: vec![], outputs: vec![], ..graph };
    let file = Bytes::from(graph.write());
    let read = Graph::read(file.clone()).unwrap();
    let data = read.initializers["w"].bytes();
    assert!(file.as_ptr_range().contains(&data.as_ptr()));
}

/// Gives a few bytes at a time, as a network or a slow disk does.
struct Trickle<'a>(&'a [u8]);

impl std::io::Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = buffer.len().min(7);
        self.0.read(&mut buffer[..count])
    }
}

#[test]
fn a_streamed_file_is_the_same_graph_with_aligned_weights() {
    let mut graph = sample();
    graph.initializers.insert("large".into(), Tensor::zeros(DType::F32, vec![5000]).unwrap());
    let file = graph.write();
    let read = Graph::read_from(&mut Trickle(&file), file.len() as u64, &NoExternalData).unwrap();
    assert_eq!(read, graph);
    assert!(read.initializers["large"].bytes().as_ptr().addr().is_multiple_of(8));
}

#[test]
fn a_stream_that_ends_early_is_an_error() {
    let file = sample().write();
    for length in 0..file.len() {
        let error = Graph::read_from(&mut &file[..length], file.len() as u64, &NoExternalData).unwrap_err();
        assert!(matches!(error, ReadError::Io { .. } | ReadError::Malformed { .. }), "{error}");
    }
}

/// Data files by name.
struct Folder(Vec<(&'static str, Vec<u8>)>);

impl ExternalData for Folder {
    fn read(&self, location: &str, offset: u64, length: Option<u64>) -> Result<Bytes, String> {
        let (_, data) = self.0.iter().find(|(name, _)| *name == location).ok_or("there is no such file")?;
        let from = data.get(usize::try_from(offset).unwrap()..).ok_or("it is too short")?;
        let length = length.map_or(from.len(), |length| usize::try_from(length).unwrap());
        from.get(..length).map(Bytes::copy_from_slice).ok_or_else(|| "it is too short".to_owned())
    }
}

#[test]
fn large_weights_may_live_beside_the_model_and_come_back() {
    let mut graph = sample();
    let weights: Vec<f32> = (0..3000u16).map(f32::from).collect();
    for name in ["large", "larger"] {
        graph.initializers.insert(name.into(), Tensor::from_slice(&[3000], &weights).unwrap());
    }
    let (model, data) = graph.write_external("weights.bin");
    assert!(model.len() < 3000 && data.len() >= 24_000, "{} and {}", model.len(), data.len());
    let folder = Folder(vec![("weights.bin", data.clone())]);
    assert_eq!(Graph::read_with(model.clone().into(), &folder).unwrap(), graph);

    let missing = Graph::read(model.clone().into()).unwrap_err().to_string();
    assert!(missing.contains("'large'") && missing.contains("weights.bin"), "{missing}");
    let short = Folder(vec![("weights.bin", data[..20_000].to_vec())]);
    let error = Graph::read_with(model.into(), &short).unwrap_err();
    assert!(matches!(error, ReadError::ExternalData { ref tensor, .. } if tensor.contains("larger")), "{error}");
}

fn external(dims: &[i64], pairs: &[(&str, &str)]) -> ModelProto {
    let pair =
        |&(key, value): &(&str, &str)| StringStringEntryProto { key: Some(key.into()), value: Some(value.into()) };
    let tensor = TensorProto {
        name: Some("w".into()),
        dims: dims.to_vec(),
        data_type: Some(1),
        data_location: Some(1),
        external_data: pairs.iter().map(pair).collect(),
        ..TensorProto::default()
    };
    model(GraphProto { initializer: vec![tensor], ..GraphProto::default() })
}

#[test]
fn data_elsewhere_that_does_not_fit_or_leads_away_is_refused_before_it_is_opened() {
    struct Trap;
    impl ExternalData for Trap {
        fn read(&self, location: &str, _: u64, _: Option<u64>) -> Result<Bytes, String> {
            panic!("{location} was opened");
        }
    }
    type Case<'a> = (&'a [i64], &'a [(&'a str, &'a str)]);
    let cases: [Case; 6] = [
        (&[4], &[("location", "../secret")]),
        (&[4], &[("location", "/etc/passwd")]),
        (&[4], &[]),
        (&[4], &[("location", "w"), ("length", "17")]),
        (&[4], &[("location", "w"), ("offset", "-1")]),
        (&[i64::MAX, 8], &[("location", "w")]),
    ];
    for (dims, pairs) in cases {
        let error = Graph::read_with(external(dims, pairs).encode_to_vec().into(), &Trap).unwrap_err();
        assert!(error.to_string().contains("initializer 'w'"), "{error}");
    }
}

#[test]
fn parts_that_would_fill_memory_once_decoded_are_refused_before_they_are() {
    // Two bytes each, several hundred once decoded: of a node, of an attribute in a node, of a constant.
    let graphs = [
        [0x0a, 0x00].repeat(2_000_000),
        wrapped(0x0a, &[0x2a, 0x00].repeat(1_000_000)),
        [0x2a, 0x00].repeat(2_000_000),
    ];
    for graph in graphs {
        let file = wrapped(0x3a, &graph);
        assert_eq!(Graph::read(file.into()).unwrap_err(), ReadError::TooManyParts);
    }
}

/// A length-delimited field.
fn wrapped(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut field = vec![tag];
    prost::encoding::encode_varint(value.len() as u64, &mut field);
    field.extend_from_slice(value);
    field
}

#[test]
fn every_truncation_is_an_error_or_a_valid_graph() {
    let file = Bytes::from(sample().write());
    for length in 0..file.len() {
        if let Ok(graph) = Graph::read(file.slice(..length)) {
            graph.validate().unwrap();
        }
    }
    assert_eq!(Graph::read(Bytes::new()), Err(ReadError::NoGraph));
}

#[test]
fn every_flipped_byte_is_an_error_or_a_valid_graph() {
    let file = sample().write();
    for index in 0..file.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = file.clone();
            damaged[index] ^= flip;
            if let Ok(graph) = Graph::read(damaged.into()) {
                graph.validate().unwrap();
                Graph::read(graph.write().into()).unwrap();
            }
        }
    }
}

#[test]
fn other_files_are_refused_by_name_of_the_trouble() {
    for file in [&b"PK\x03\x04 a zip archive"[..], b"{\"json\": true}", &[0xff; 64]] {
        let message = Graph::read(Bytes::copy_from_slice(file)).unwrap_err().to_string();
        assert!(message.starts_with("this is not an ONNX file"), "{message}");
    }
}

fn nested(levels: usize) -> GraphProto {
    (0..levels).fold(GraphProto::default(), |inner, _| {
        let body = AttributeProto {
            name: Some("body".into()),
            r#type: Some(AttributeType::Graph.into()),
            g: Some(inner),
            ..AttributeProto::default()
        };
        GraphProto { node: vec![NodeProto { attribute: vec![body], ..NodeProto::default() }], ..GraphProto::default() }
    })
}

#[test]
fn subgraphs_are_read_up_to_a_bound_and_deeper_ones_refused_without_overflow() {
    let bound = crate::validate::MAX_SUBGRAPH_DEPTH;
    read(&model(nested(bound - 1))).unwrap();
    let error = read(&model(nested(bound))).unwrap_err();
    assert!(matches!(error, ReadError::Invalid(ValidateError::TooDeep { .. })), "{error}");
    // Beyond protobuf's own bound it is the decoder that refuses.
    assert!(matches!(read(&model(nested(100))), Err(ReadError::Malformed { .. })));
}

#[test]
fn what_cannot_be_kept_is_named() {
    let values = TensorProto { name: Some("s".into()), ..TensorProto::default() };
    let sparse = SparseTensorProto { values: Some(values), ..SparseTensorProto::default() };
    let graph = GraphProto { sparse_initializer: vec![sparse], ..GraphProto::default() };
    assert_eq!(read(&model(graph)), Err(ReadError::Sparse { tensor: "initializer 's'".into() }));

    let sequence = TypeProto { value: Some(type_proto::Value::SequenceType(Box::default())), denotation: None };
    let input = ValueInfoProto { name: Some("q".into()), r#type: Some(sequence), ..ValueInfoProto::default() };
    let graph = GraphProto { input: vec![input], ..GraphProto::default() };
    assert_eq!(read(&model(graph)), Err(ReadError::ValueType { what: "input 'q'".into(), kind: "sequence" }));

    let attribute = |kind| AttributeProto { name: Some("a".into()), r#type: Some(kind), ..AttributeProto::default() };
    let node = |attribute| NodeProto { op_type: Some("Op".into()), attribute, ..NodeProto::default() };
    let graph = |attribute| GraphProto { node: vec![node(attribute)], ..GraphProto::default() };
    let typed = graph(vec![attribute(AttributeType::TypeProto.into())]);
    assert!(matches!(read(&model(typed)), Err(ReadError::AttributeKind { attribute, .. }) if attribute == "a"));
    let twice = graph(vec![attribute(AttributeType::Int.into()), attribute(AttributeType::Int.into())]);
    assert!(matches!(read(&model(twice)), Err(ReadError::DuplicateAttribute { attribute, .. }) if attribute == "a"));
}

#[test]
fn an_initializer_given_twice_is_refused() {
    let tensor = || TensorProto { name: Some("w".into()), dims: vec![0], data_type: Some(1), ..TensorProto::default() };
    let graph = GraphProto { initializer: vec![tensor(), tensor()], ..GraphProto::default() };
    let error = read(&model(graph)).unwrap_err();
    assert!(matches!(error, ReadError::Invalid(ValidateError::Duplicate { value, .. }) if value == "w"));
}

#[test]
fn old_files_list_weights_as_inputs_and_leave_out_kinds_and_operator_sets() {
    let weight = TensorProto {
        name: Some("w".into()),
        dims: vec![1],
        data_type: Some(1),
        float_data: vec![2.],
        ..TensorProto::default()
    };
    let input = |name: &str| ValueInfoProto { name: Some(name.into()), ..ValueInfoProto::default() };
    let pads = AttributeProto { name: Some("pads".into()), ints: vec![1, 1], ..AttributeProto::default() };
    let node = NodeProto {
        op_type: Some("Op".into()),
        domain: Some("ai.onnx".into()),
        input: vec!["x".into(), "w".into()],
        attribute: vec![pads],
        ..NodeProto::default()
    };
    let graph = GraphProto {
        initializer: vec![weight],
        input: vec![input("x"), input("w")],
        node: vec![node],
        ..GraphProto::default()
    };
    let graph = read(&model(graph)).unwrap();
    assert_eq!(graph.inputs.iter().map(|input| input.name.as_str()).collect::<Vec<_>>(), ["x"]);
    assert_eq!((graph.opset, graph.nodes[0].domain.as_str()), (1, ""));
    assert_eq!(graph.nodes[0].ints("pads"), Some(&[1, 1][..]));
}

#[test]
fn operator_sets_are_told_apart_by_domain() {
    let set = |domain: &str, version| OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) };
    let imports = vec![set("com.example", 2), set("ai.onnx", 19)];
    let graph = read(&ModelProto { opset_import: imports, ..model(GraphProto::default()) }).unwrap();
    assert_eq!((graph.opset, graph.other_opsets), (19, vec![("com.example".into(), 2)]));
}

#[test]
fn a_cycle_in_a_file_is_named() {
    let node = |input: &str, output: &str| NodeProto {
        op_type: Some("Abs".into()),
        input: vec![input.into()],
        output: vec![output.into()],
        ..NodeProto::default()
    };
    let graph = GraphProto { node: vec![node("a", "b"), node("b", "a")], ..GraphProto::default() };
    assert!(
        matches!(read(&model(graph)), Err(ReadError::Invalid(ValidateError::Cycle { nodes, .. })) if nodes.len() == 2)
    );
}

#[test]
fn a_files_digest_is_its_sha_256() {
    let digest = file_digest(b"abc");
    assert_eq!(digest[..4], [0xba, 0x78, 0x16, 0xbf]);
}
