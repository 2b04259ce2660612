//! Model-local functions: their nodes take the place of each call, so that a graph knows operators only.
//!
//! A value inside a function gets the calling node's first output as a prefix, which makes it unique: no two nodes make the
//! same value. Attributes that refer to the call's take its value, or the function's default, or are absent.

use super::proto::{AttributeProto, FunctionProto, GraphProto, NodeProto};
use super::read::{ReadError, normal_domain};
use crate::names::HashMap;

/// How deep functions may call functions; a cycle of calls ends here, too.
const MAX_CALL_DEPTH: usize = 32;
/// The most nodes that calls may add to a model.
const MAX_INLINED_NODES: usize = 1 << 17;
/// What the names of all values in all bodies may add up to, in bytes.
const MAX_NAME_BYTES: usize = 64 << 20;

/// The functions of a model by (domain, name, overload).
pub(super) struct Functions {
    by_name: HashMap<(String, String, String), FunctionProto>,
    /// Nodes that bodies may still add.
    nodes_left: usize,
    name_bytes_left: usize,
}

impl Functions {
    /// Takes a model's functions; one that is written for another version of the default operator set is refused.
    pub(super) fn new(protos: Vec<FunctionProto>, opset: i64) -> Result<Self, ReadError> {
        let mut by_name = HashMap::default();
        for proto in protos {
            let name = proto.name().to_owned();
            let sets = proto.opset_import.iter();
            let mut versions = sets.filter(|set| normal_domain(set.domain.clone()).is_empty()).map(|set| set.version());
            if let Some(version) = versions.find(|&version| version != opset) {
                return Err(ReadError::FunctionOpset { function: name, version, opset });
            }
            let key = (normal_domain(proto.domain.clone()), name, proto.overload().to_owned());
            by_name.insert(key, proto);
        }
        Ok(Functions { by_name, nodes_left: MAX_INLINED_NODES, name_bytes_left: MAX_NAME_BYTES })
    }

    /// Replaces every call in `graph`, bodies of control flow included, by the function's nodes.
    pub(super) fn inline(&mut self, graph: &mut GraphProto) -> Result<(), ReadError> {
        if self.by_name.is_empty() {
            return Ok(());
        }
        graph.node = self.expand(std::mem::take(&mut graph.node), MAX_CALL_DEPTH)?;
        Ok(())
    }

    fn expand(&mut self, nodes: Vec<NodeProto>, depth: usize) -> Result<Vec<NodeProto>, ReadError> {
        let mut expanded = Vec::with_capacity(nodes.len());
        for mut node in nodes {
            for attribute in &mut node.attribute {
                for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                    let left = depth.checked_sub(1).ok_or_else(|| too_deep(&node.op_type))?;
                    graph.node = self.expand(std::mem::take(&mut graph.node), left)?;
                }
            }
            let key = (normal_domain(node.domain.clone()), node.op_type().to_owned(), node.overload().to_owned());
            match self.by_name.get(&key) {
                None => expanded.push(node),
                Some(function) => {
                    let left = depth.checked_sub(1).ok_or_else(|| too_deep(&node.op_type))?;
                    let function = function.clone();
                    self.nodes_left = self.nodes_left.checked_sub(function.node.len()).ok_or_else(|| {
                        ReadError::TooManyNodes { graph: key.1.clone(), count: MAX_INLINED_NODES + 1 }
                    })?;
                    let body = self.body(function, &node)?;
                    expanded.extend(self.expand(body, left)?);
                }
            }
        }
        Ok(expanded)
    }

    /// The nodes of one call.
    fn body(&mut self, function: FunctionProto, call: &NodeProto) -> Result<Vec<NodeProto>, ReadError> {
        let prefix = call.output.iter().find(|name| !name.is_empty()).cloned().unwrap_or_default();
        let mut names = Names { actual: HashMap::default(), prefix, bytes_left: self.name_bytes_left };
        let absent = String::new();
        for (index, formal) in function.input.iter().enumerate() {
            names.actual.insert(formal.clone(), call.input.get(index).unwrap_or(&absent).clone());
        }
        for (formal, actual) in function.output.iter().zip(&call.output).filter(|(_, actual)| !actual.is_empty()) {
            names.actual.insert(formal.clone(), actual.clone());
        }
        let attributes = Attributes { call: &call.attribute, defaults: &function.attribute_proto };
        let mut nodes = function.node;
        for node in &mut nodes {
            attributes.settle(node);
            names.apply(node).ok_or_else(|| too_deep(&call.op_type))?;
        }
        self.name_bytes_left = names.bytes_left;
        Ok(nodes)
    }
}

fn too_deep(op: &Option<String>) -> ReadError {
    ReadError::FunctionDepth { function: op.clone().unwrap_or_default() }
}

/// The values of a call's attributes.
struct Attributes<'a> {
    call: &'a [AttributeProto],
    defaults: &'a [AttributeProto],
}

impl Attributes<'_> {
    /// Replaces references in a node and its bodies by what they refer to.
    fn settle(&self, node: &mut NodeProto) {
        node.attribute = std::mem::take(&mut node.attribute).into_iter().filter_map(|own| self.value(own)).collect();
        let attributes = node.attribute.iter_mut();
        let graphs = attributes.flat_map(|attribute| attribute.g.iter_mut().chain(&mut attribute.graphs));
        graphs.flat_map(|graph| &mut graph.node).for_each(|node| self.settle(node));
    }

    fn value(&self, own: AttributeProto) -> Option<AttributeProto> {
        let reference = own.ref_attr_name();
        if reference.is_empty() {
            return Some(own);
        }
        let given = self.call.iter().chain(self.defaults).find(|attribute| attribute.name() == reference)?;
        Some(AttributeProto { name: own.name.clone(), ..given.clone() })
    }
}

/// What the values of a body are called outside of it.
struct Names {
    actual: HashMap<String, String>,
    prefix: String,
    bytes_left: usize,
}

impl Names {
    /// `None` where the names of all bodies together grow beyond the bound.
    fn apply(&mut self, node: &mut NodeProto) -> Option<()> {
        for name in node.input.iter_mut().chain(&mut node.output) {
            self.rename(name)?;
        }
        let prefix = &self.prefix;
        if let Some(name) = node.name.as_mut().filter(|name| !name.is_empty()) {
            *name = format!("{prefix}/{name}");
            self.bytes_left = self.bytes_left.checked_sub(name.len())?;
        }
        let attributes = node.attribute.iter_mut();
        for graph in attributes.flat_map(|attribute| attribute.g.iter_mut().chain(&mut attribute.graphs)) {
            let values = graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info);
            let values = values.filter_map(|value| value.name.as_mut());
            let constants = graph.initializer.iter_mut().filter_map(|constant| constant.name.as_mut());
            for name in values.chain(constants) {
                self.rename(name)?;
            }
            for node in &mut graph.node {
                self.apply(node)?;
            }
        }
        Some(())
    }

    fn rename(&mut self, name: &mut String) -> Option<()> {
        if !name.is_empty() {
            let outside = self.actual.get(name).cloned().unwrap_or_else(|| format!("{}/{name}", self.prefix));
            *name = outside;
            self.bytes_left = self.bytes_left.checked_sub(name.len())?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::super::proto::{ModelProto, OperatorSetIdProto, ValueInfoProto};
    use super::*;
    use crate::{Attribute, Graph};

    fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        NodeProto { op_type: Some(op.into()), input: names(inputs), output: names(outputs), ..NodeProto::default() }
    }

    fn call(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
        NodeProto { domain: Some("local".into()), ..node(op, inputs, outputs) }
    }

    fn float(name: &str, value: f32) -> AttributeProto {
        AttributeProto { name: Some(name.into()), f: Some(value), r#type: Some(1), ..AttributeProto::default() }
    }

    fn reference(name: &str, to: &str) -> AttributeProto {
        let (name, to) = (Some(name.to_owned()), Some(to.to_owned()));
        AttributeProto { name, ref_attr_name: to, r#type: Some(1), ..AttributeProto::default() }
    }

    fn function(name: &str, inputs: &[&str], outputs: &[&str], body: Vec<NodeProto>) -> FunctionProto {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        FunctionProto {
            name: Some(name.into()),
            domain: Some("local".into()),
            input: names(inputs),
            output: names(outputs),
            node: body,
            ..FunctionProto::default()
        }
    }

    fn read(functions: Vec<FunctionProto>, nodes: Vec<NodeProto>) -> Result<Graph, ReadError> {
        let value = |name: &str| ValueInfoProto { name: Some(name.into()), ..ValueInfoProto::default() };
        let graph = GraphProto {
            node: nodes,
            input: vec![value("a"), value("b")],
            output: vec![value("y")],
            ..GraphProto::default()
        };
        let set = OperatorSetIdProto { domain: None, version: Some(17) };
        let model = ModelProto { graph: Some(graph), functions, opset_import: vec![set], ..ModelProto::default() };
        Graph::read(model.encode_to_vec().into())
    }

    #[test]
    fn each_call_gets_values_of_its_own_and_a_functions_call_is_expanded_too() {
        let inner = function("Twice", &["v"], &["w"], vec![node("Add", &["v", "v"], &["w"])]);
        let body = vec![call("Twice", &["p"], &["t"]), node("Mul", &["t", "q"], &["r"])];
        let outer = function("Scale", &["p", "q"], &["r"], body);
        let calls = vec![call("Scale", &["a", "b"], &["x"]), call("Scale", &["x", "b"], &["y"])];
        let graph = read(vec![inner, outer], calls).unwrap();
        let ops: Vec<_> = graph.nodes.iter().map(|node| (node.op.as_str(), node.outputs[0].as_str())).collect();
        assert_eq!(ops, [("Add", "x/t"), ("Mul", "x"), ("Add", "y/t"), ("Mul", "y")]);
        assert_eq!(graph.nodes[2].inputs, ["x", "x"]);
    }

    #[test]
    fn attributes_come_from_the_call_else_from_the_default_else_are_absent() {
        let mut relu = node("LeakyRelu", &["v"], &["w"]);
        relu.attribute = vec![reference("alpha", "slope"), reference("other", "unset")];
        let mut leaky = function("Leaky", &["v"], &["w"], vec![relu]);
        leaky.attribute_proto = vec![float("slope", 0.5)];
        let mut given = call("Leaky", &["a"], &["x"]);
        given.attribute = vec![float("slope", 0.25)];
        let graph = read(vec![leaky], vec![given, call("Leaky", &["x"], &["y"])]).unwrap();
        let slopes: Vec<_> = graph.nodes.iter().map(|node| node.attributes.get("alpha").cloned()).collect();
        assert_eq!(slopes, [Some(Attribute::Float(0.25)), Some(Attribute::Float(0.5))]);
        assert!(graph.nodes.iter().all(|node| !node.attributes.contains_key("other")));
    }

    #[test]
    fn an_input_that_a_call_leaves_out_is_absent_in_the_body() {
        let clip = function("Bound", &["v", "low"], &["w"], vec![node("Clip", &["v", "low"], &["w"])]);
        let graph = read(vec![clip], vec![call("Bound", &["a"], &["y"])]).unwrap();
        assert_eq!(graph.nodes[0].inputs, ["a", ""]);
    }

    #[test]
    fn functions_that_call_themselves_or_double_without_end_are_refused() {
        let cycle = function("F", &["v"], &["w"], vec![call("F", &["v"], &["w"])]);
        let error = read(vec![cycle], vec![call("F", &["a"], &["y"])]).unwrap_err();
        assert!(matches!(error, ReadError::FunctionDepth { .. }), "{error}");
        let level = |index: usize| {
            let next = format!("F{}", index + 1);
            let body = vec![call(&next, &["v"], &["m"]), call(&next, &["m"], &["w"])];
            function(&format!("F{index}"), &["v"], &["w"], body)
        };
        let mut bomb: Vec<_> = (0..30).map(level).collect();
        bomb.push(function("F30", &["v"], &["w"], vec![node("Neg", &["v"], &["w"])]));
        let error = read(bomb, vec![call("F0", &["a"], &["y"])]).unwrap_err();
        assert!(matches!(error, ReadError::TooManyNodes { .. } | ReadError::FunctionDepth { .. }), "{error}");
    }

    #[test]
    fn a_function_of_another_operator_set_is_refused() {
        let mut old = function("F", &["v"], &["w"], vec![node("Neg", &["v"], &["w"])]);
        old.opset_import = vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(11) }];
        let error = read(vec![old], vec![call("F", &["a"], &["y"])]).unwrap_err();
        assert!(matches!(error, ReadError::FunctionOpset { version: 11, opset: 17, .. }), "{error}");
    }
}
