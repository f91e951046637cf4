//! The graph of operations: nodes, values, nested bodies, and the edits that optimisers make. Petgraph inside, typed ids
//! outside.

mod attribute;
mod check;
mod display;
mod edit;
mod node;
mod order;
mod types;

mod build;
pub mod host_op;
pub mod inline;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use petgraph::stable_graph::StableDiGraph;

pub use attribute::{Attribute, Attributes};

pub use build::build;
pub use node::{Body, Node, NodeId, Slot, Use, Value, ValueId};
pub use types::{Bindings, Dim, DimExpr, Shape, TensorType, TypeInfo};

use crate::tensor::Tensor;

/// The operator set versions a model imports: domain (empty for `ai.onnx`) to version.
pub type Opsets = BTreeMap<Arc<str>, i64>;

/// What a model file says about itself; empty for nested graphs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelInfo {
    pub ir_version: i64,
    pub producer_name: String,
    pub producer_version: String,
    pub domain: String,
    pub model_version: i64,
    pub doc: String,
    /// Free key-value pairs, in the order of the file.
    pub metadata: Vec<(String, String)>,
    /// What was left out on loading, for people.
    pub notes: Vec<String>,
}

/// A graph: inputs, nodes in no particular order, outputs. Values have unique names and one producer at most.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// For people.
    pub name: String,
    /// For people.
    pub doc: String,
    /// Of the model; nested graphs have a copy.
    pub opsets: Arc<Opsets>,
    pub info: Arc<ModelInfo>,
    dag: StableDiGraph<Node, (), u32>,
    values: Vec<Option<Value>>,
    live_values: usize,
    by_name: HashMap<Arc<str>, ValueId>,
    next_suffix: u64,
    inputs: Vec<ValueId>,
    outputs: Vec<Output>,
    order: OnceLock<Vec<NodeId>>,
}

/// An output of a graph. Its name and declared type stay when an edit puts another value behind it.
#[derive(Clone, Debug)]
pub struct Output {
    pub name: Arc<str>,
    pub value: ValueId,
    /// The type that the model declares.
    pub declared: Option<TypeInfo>,
}

impl Graph {
    /// An empty graph that imports `opsets`.
    pub fn new(name: impl Into<String>, opsets: Arc<Opsets>) -> Self {
        Graph { name: name.into(), opsets, ..Graph::default() }
    }

    /// The inputs in order; in a body the formal inputs and then the captures.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// The outputs in order.
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// The values behind the outputs, in order.
    pub fn output_values(&self) -> impl ExactSizeIterator<Item = ValueId> {
        self.outputs.iter().map(|o| o.value)
    }

    /// True when `value` is behind an output.
    pub fn is_output(&self, value: ValueId) -> bool {
        self.outputs.iter().any(|o| o.value == value)
    }

    /// A node; panics when it was removed.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.dag[id.0]
    }

    /// A node, unless it was removed.
    pub fn get_node(&self, id: NodeId) -> Option<&Node> {
        self.dag.node_weight(id.0)
    }

    /// A node for changing its name, operator, version and attributes; panics when it was removed.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.dag[id.0]
    }

    /// A value; panics when it was removed.
    pub fn value(&self, id: ValueId) -> &Value {
        self.get_value(id).expect("the value is in this graph")
    }

    /// A value, unless it was removed.
    pub fn get_value(&self, id: ValueId) -> Option<&Value> {
        self.values.get(id.index())?.as_ref()
    }

    /// The value named `name`.
    pub fn find_value(&self, name: &str) -> Option<ValueId> {
        self.by_name.get(name).copied()
    }

    /// The nodes in insertion order, which need not be topological.
    pub fn node_ids(&self) -> impl Iterator<Item = NodeId> {
        self.dag.node_indices().map(NodeId)
    }

    /// The values in insertion order.
    pub fn value_ids(&self) -> impl Iterator<Item = ValueId> {
        self.values.iter().enumerate().filter(|(_, v)| v.is_some()).map(|(i, _)| ValueId::from_index(i))
    }

    /// The number of nodes of this graph, bodies not counted.
    pub fn node_count(&self) -> usize {
        self.dag.node_count()
    }

    /// The number of values.
    pub fn value_count(&self) -> usize {
        self.live_values
    }

    /// One more than the largest [`NodeId::index`].
    pub fn node_bound(&self) -> usize {
        self.dag.node_indices().next_back().map_or(0, |n| n.index() + 1)
    }

    /// One more than the largest [`ValueId::index`].
    pub fn value_bound(&self) -> usize {
        self.values.len()
    }

    /// The node that computes `value` and which of its outputs it is.
    pub fn producer(&self, value: ValueId) -> Option<(NodeId, usize)> {
        self.value(value).producer()
    }

    /// The nodes that read `value`, once for each reading.
    pub fn consumers(&self, value: ValueId) -> impl ExactSizeIterator<Item = NodeId> {
        self.value(value).uses.iter().map(|u| u.node)
    }

    /// The only node that reads `value`, when it does so once and no graph output does.
    pub fn sole_consumer(&self, value: ValueId) -> Option<NodeId> {
        match self.value(value).uses.as_slice() {
            [only] if !self.is_output(value) => Some(only.node),
            _ => None,
        }
    }

    /// True when no node and no output reads `value`.
    pub fn is_unused(&self, value: ValueId) -> bool {
        self.value(value).uses.is_empty() && !self.is_output(value)
    }

    /// The contents of `value`, when they are known before the run.
    pub fn constant(&self, value: ValueId) -> Option<&Tensor> {
        self.value(value).constant()
    }

    /// The contents of input `index` of a node, when they are known before the run.
    pub fn constant_input(&self, node: NodeId, index: usize) -> Option<&Tensor> {
        self.constant(self.node(node).input(index)?)
    }

    /// The type of input `index` of a node.
    pub fn input_type(&self, node: NodeId, index: usize) -> Option<&TypeInfo> {
        self.value(self.node(node).input(index)?).ty()
    }

    /// The version of `domain` that the model imports.
    pub fn opset(&self, domain: &str) -> Option<i64> {
        self.opsets.get(domain).copied()
    }

    /// The nodes of this graph and of all bodies in it.
    pub fn total_node_count(&self) -> usize {
        let nested = self.dag.node_weights().flat_map(|n| &n.bodies).map(|b| b.graph.total_node_count());
        self.node_count() + nested.sum::<usize>()
    }

    /// The bytes of all constants of this graph and of all bodies in it; shared memory counts each time.
    pub fn constant_bytes(&self) -> usize {
        let own = self.values.iter().flatten().filter_map(|v| v.constant.as_ref()).map(Tensor::byte_len);
        let nested = self.dag.node_weights().flat_map(|n| &n.bodies).map(|b| b.graph.constant_bytes());
        own.sum::<usize>() + nested.sum::<usize>()
    }

    fn value_mut(&mut self, id: ValueId) -> &mut Value {
        self.values[id.index()].as_mut().expect("the value is in this graph")
    }
}
