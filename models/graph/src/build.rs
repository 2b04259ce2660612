//! Graphs written in code: the bundled models and tests.
//!
//! The builder makes names, not judgements: whether a value exists and whether the nodes are in order is said by
//! [`GraphBuilder::finish`], whether an operator's inputs fit is said by an executor.

use hedge_tensor::{DType, Tensor};

use crate::validate::ValidateError;
use crate::{Attribute, Dim, Graph, Node, ValueInfo};

/// The operator set that built graphs declare. Version 17 has every operator that Hedge writes, and every runtime of the
/// last years reads it.
pub const BUILD_OPSET: i64 = 17;

/// Builds a [`Graph`] value by value.
#[derive(Debug)]
pub struct GraphBuilder {
    graph: Graph,
}

impl GraphBuilder {
    /// An empty graph called `name`.
    pub fn new(name: impl Into<String>) -> Self {
        let graph = Graph { name: name.into(), opset: BUILD_OPSET, producer: "hedge".into(), ..Graph::default() };
        GraphBuilder { graph }
    }

    /// Declares an input; returns its name.
    pub fn input(&mut self, name: &str, dtype: DType, shape: &[Dim]) -> String {
        self.graph.inputs.push(ValueInfo::new(name, dtype, shape));
        name.to_owned()
    }

    /// Adds a constant; returns its name.
    pub fn init(&mut self, name: &str, value: Tensor) -> String {
        self.graph.initializers.insert(name.to_owned(), value);
        name.to_owned()
    }

    /// Adds a node with one output, whose name is made from the operator and the node's place; returns that name.
    pub fn op(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, Attribute)]) -> String {
        let name = format!("{}_{}", op.to_lowercase(), self.graph.nodes.len());
        self.op_as(&name, op, inputs, attributes)
    }

    /// Adds a node whose one output is called `output`; returns that name.
    pub fn op_as(&mut self, output: &str, op: &str, inputs: &[&str], attributes: &[(&str, Attribute)]) -> String {
        self.node(Node {
            name: output.to_owned(),
            op: op.to_owned(),
            domain: String::new(),
            inputs: inputs.iter().map(|&input| input.to_owned()).collect(),
            outputs: vec![output.to_owned()],
            attributes: attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        });
        output.to_owned()
    }

    /// Adds a node as it is: several outputs, another domain.
    pub fn node(&mut self, node: Node) {
        self.graph.nodes.push(node);
    }

    /// Declares the value `name` an output.
    pub fn output(&mut self, name: &str, dtype: DType, shape: &[Dim]) {
        self.graph.outputs.push(ValueInfo::new(name, dtype, shape));
    }

    /// Declares another version of the default operator set.
    pub fn opset(&mut self, version: i64) {
        self.graph.opset = version;
    }

    /// Sets the model's description.
    pub fn doc(&mut self, text: impl Into<String>) {
        self.graph.doc = text.into();
    }

    /// The graph, sorted and validated.
    pub fn finish(self) -> Result<Graph, ValidateError> {
        let mut graph = self.graph;
        graph.sort()?;
        Ok(graph)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_built_out_of_order_is_finished_in_order() {
        let mut b = GraphBuilder::new("late");
        let x = b.input("x", DType::F32, &[Dim::named("N")]);
        b.op_as("y", "Relu", &["h"], &[]);
        b.op_as("h", "Neg", &[&x], &[]);
        b.output("y", DType::F32, &[Dim::named("N")]);
        let graph = b.finish().unwrap();
        let ops: Vec<&str> = graph.nodes.iter().map(|node| node.op.as_str()).collect();
        assert_eq!(ops, ["Neg", "Relu"]);
        assert_eq!(graph.opset, BUILD_OPSET);
    }

    #[test]
    fn made_names_differ() {
        let mut b = GraphBuilder::new("names");
        let x = b.input("x", DType::F32, &[]);
        let first = b.op("Relu", &[&x], &[]);
        let second = b.op("Relu", &[&first], &[]);
        assert_eq!((first.as_str(), second.as_str()), ("relu_0", "relu_1"));
    }
}
