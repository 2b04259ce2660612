//! An ONNX file from a stranger: read, from memory and as a stream, written again, its shapes inferred, its passes run.

#![no_main]

use bytes::Bytes;
use hedge_graph::cost::{Cost, Sizes};
use hedge_graph::infer::infer_shapes;
use hedge_graph::passes::{Options, optimize};
use hedge_graph::{Graph, NoExternalData};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let read = Graph::read(Bytes::copy_from_slice(data));
    let streamed = Graph::read_from(&mut &data[..], data.len() as u64, &NoExternalData);
    assert_eq!(read.is_ok(), streamed.is_ok(), "memory: {read:?}, stream: {streamed:?}");
    let Ok(graph) = read else { return };
    graph.validate().expect("what was read is valid");
    let again = Graph::read(graph.write().into()).expect("what was written can be read");
    assert_eq!(again.write(), graph.write(), "writing is stable");
    let mut known = graph.clone();
    infer_shapes(&mut known);
    known.validate().expect("knowing more changes nothing");
    Cost::of(&known, &Sizes::default());
    let mut optimized = graph;
    optimize(&mut optimized, &Options { integers: true, ..Options::default() });
    optimized.validate().expect("a pass leaves a valid graph");
});
