//! What a protobuf message will take in memory once prost has decoded it, estimated from its bytes.
//!
//! A walk over tags and lengths alone; it allocates nothing. Malformed input gives some number, and prost the error.

use super::proto::{
    AttributeProto, FunctionProto, GraphProto, NodeProto, SparseTensorProto, StringStringEntryProto, TensorProto,
    ValueInfoProto,
};

/// The messages whose fields are told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Function,
    /// Any other: small messages within small messages.
    Other,
}

/// What a length-delimited field becomes.
enum Becomes {
    /// A message of a kind, in a struct of a size.
    Message(Kind, usize),
    /// Packed numbers, each of at least one byte in the file and eight in memory.
    Varints,
    /// As many bytes as in the file.
    Bytes,
}

/// Small messages of unknown kind become at most this many bytes for each of the file's.
const OTHER_FACTOR: u64 = 32;
/// A `String` or `Bytes` by itself.
const TEXT: u64 = 32;
/// As deep as prost decodes.
const DEPTH: usize = 100;

/// The estimate in bytes; stops counting once it exceeds `limit`.
pub(super) fn decoded_size(bytes: &[u8], kind: Kind, limit: u64) -> u64 {
    let mut total = 0;
    add(bytes, kind, limit, DEPTH, &mut total);
    total
}

fn add(mut bytes: &[u8], kind: Kind, limit: u64, depth: usize, total: &mut u64) {
    if depth == 0 {
        return;
    }
    while *total <= limit {
        let Some(tag) = varint(&mut bytes) else { return };
        let skipped = match tag & 7 {
            // An unpacked number of a list, eight bytes once decoded.
            0 => {
                *total += 8;
                varint(&mut bytes).map(|_| ())
            }
            1 => take(&mut bytes, 8).map(|_| *total += 8),
            5 => take(&mut bytes, 4).map(|_| *total += 8),
            2 => varint(&mut bytes).and_then(|len| take(&mut bytes, len)).map(|value| {
                *total += TEXT;
                match becomes(kind, tag >> 3) {
                    Becomes::Message(Kind::Other, size) => *total += size as u64 + OTHER_FACTOR * value.len() as u64,
                    Becomes::Message(kind, size) => {
                        *total += size as u64;
                        add(value, kind, limit, depth - 1, total);
                    }
                    Becomes::Varints => *total += 8 * value.len() as u64,
                    Becomes::Bytes => *total += value.len() as u64,
                }
            }),
            _ => None,
        };
        if skipped.is_none() {
            return;
        }
    }
}

/// Field numbers as in `onnx.proto`.
fn becomes(kind: Kind, field: u64) -> Becomes {
    let message = |kind, size| Becomes::Message(kind, size);
    let entry = || message(Kind::Other, size_of::<StringStringEntryProto>());
    match (kind, field) {
        (Kind::Model, 25) => message(Kind::Function, size_of::<FunctionProto>()),
        (Kind::Model, 8 | 14) => entry(),
        (Kind::Graph, 1) | (Kind::Function, 7) => message(Kind::Node, size_of::<NodeProto>()),
        (Kind::Graph, 5) => message(Kind::Tensor, size_of::<TensorProto>()),
        (Kind::Graph, 11..=13) | (Kind::Function, 12) => message(Kind::Other, size_of::<ValueInfoProto>()),
        (Kind::Graph, 15) | (Kind::Attribute, 22 | 23) => message(Kind::Other, size_of::<SparseTensorProto>()),
        (Kind::Graph, 14 | 16) | (Kind::Function, 9 | 14) | (Kind::Node, 9 | 10) => entry(),
        (Kind::Node, 5) | (Kind::Function, 11) => message(Kind::Attribute, size_of::<AttributeProto>()),
        (Kind::Attribute, 5 | 10) => message(Kind::Tensor, size_of::<TensorProto>()),
        (Kind::Attribute, 6 | 11) => message(Kind::Graph, size_of::<GraphProto>()),
        (Kind::Attribute, 14 | 15) => message(Kind::Other, 64),
        (Kind::Attribute, 8) | (Kind::Tensor, 1 | 5 | 7 | 11) => Becomes::Varints,
        (Kind::Tensor, 3 | 13 | 16) => entry(),
        _ => Becomes::Bytes,
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8], count: u64) -> Option<&'a [u8]> {
    let (value, rest) = bytes.split_at_checked(usize::try_from(count).ok()?)?;
    *bytes = rest;
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn empty_messages_cost_what_they_become() {
        let graph = GraphProto { node: vec![NodeProto::default(); 1000], ..GraphProto::default() };
        let bytes = graph.encode_to_vec();
        assert_eq!(bytes.len(), 2000);
        let cost = decoded_size(&bytes, Kind::Graph, u64::MAX);
        assert!(cost >= 1000 * size_of::<NodeProto>() as u64, "{cost}");
    }

    #[test]
    fn weights_cost_their_bytes_and_nesting_costs_its_parts() {
        let weights = TensorProto { raw_data: Some(vec![0; 4096].into()), ..TensorProto::default() };
        let cost = decoded_size(&weights.encode_to_vec(), Kind::Tensor, u64::MAX);
        assert!((4096..4200).contains(&cost), "{cost}");
        let attribute = AttributeProto { t: Some(weights), ..AttributeProto::default() };
        let node = NodeProto { attribute: vec![attribute], ..NodeProto::default() };
        let cost = decoded_size(&node.encode_to_vec(), Kind::Node, u64::MAX);
        assert!(cost > 4096 + size_of::<AttributeProto>() as u64, "{cost}");
    }

    #[test]
    fn counting_stops_at_the_limit_and_at_what_is_no_message() {
        let graph = GraphProto { node: vec![NodeProto::default(); 1000], ..GraphProto::default() };
        let cost = decoded_size(&graph.encode_to_vec(), Kind::Graph, 1000);
        assert!(cost < 3000, "{cost}");
        assert!(decoded_size(&[0xff; 40], Kind::Graph, 1000) < 1000);
    }
}
