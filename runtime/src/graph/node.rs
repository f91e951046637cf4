//! Nodes, their nested bodies, and the values between them.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use petgraph::stable_graph::{EdgeIndex, NodeIndex};
use smallvec::SmallVec;

use crate::error::Result;
use crate::graph::{Attribute, Attributes, Graph, TypeInfo};
use crate::tensor::Tensor;

/// A node of one graph. The id of a removed node may be given to a node that is added later.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(super) NodeIndex<u32>);

impl NodeId {
    /// A number below [`Graph::node_bound`], for tables indexed by node.
    pub fn index(self) -> usize {
        self.0.index()
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.index())
    }
}

/// A value of one graph; never reused after removal. `Option<ValueId>` is as small as `ValueId`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(NonZeroU32);

impl ValueId {
    pub(super) fn from_index(index: usize) -> Self {
        let number = u32::try_from(index + 1).ok().and_then(NonZeroU32::new);
        ValueId(number.expect("the limits keep a graph below 2^32 values"))
    }

    /// A number below [`Graph::value_bound`], for tables indexed by value.
    pub fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

impl fmt::Debug for ValueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.index())
    }
}

/// Where a node reads a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// Input `0` of the node.
    Input(u32),
    /// Capture `index` of the node's body number `body`.
    Capture { body: u32, index: u32 },
}

/// One reading of a value by a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Use {
    pub node: NodeId,
    pub slot: Slot,
}

/// The back reference of a slot: where its [`Use`] sits in the value, and the dependency edge if the value is produced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub use_index: u32,
    pub edge: Option<EdgeIndex<u32>>,
}

/// A value: a graph input, a constant, or the output of one node.
#[derive(Clone, Debug)]
pub struct Value {
    pub(super) name: Arc<str>,
    pub(super) ty: Option<TypeInfo>,
    pub(super) constant: Option<Tensor>,
    pub(super) default: Option<Tensor>,
    pub(super) producer: Option<(NodeId, u32)>,
    pub(super) is_input: bool,
    pub(super) uses: SmallVec<[Use; 2]>,
}

impl Value {
    /// The name, unique in its graph.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name without copying it.
    pub fn shared_name(&self) -> Arc<str> {
        self.name.clone()
    }

    /// The static type, where it is declared or inferred.
    pub fn ty(&self) -> Option<&TypeInfo> {
        self.ty.as_ref()
    }

    /// The contents, when they are known before the run.
    pub fn constant(&self) -> Option<&Tensor> {
        self.constant.as_ref()
    }

    /// What an input holds when the caller does not feed it.
    pub fn default(&self) -> Option<&Tensor> {
        self.default.as_ref()
    }

    /// The node that computes it and which of its outputs it is.
    pub fn producer(&self) -> Option<(NodeId, usize)> {
        self.producer.map(|(n, slot)| (n, slot as usize))
    }

    /// True for an input of the graph, formal or capture.
    pub fn is_input(&self) -> bool {
        self.is_input
    }

    /// Every reading by a node of the same graph; graph outputs are not among them.
    pub fn uses(&self) -> &[Use] {
        &self.uses
    }
}

/// A nested graph of a node such as If, Loop or Scan. It is closed: its inputs are its formal inputs and then one input
/// for each captured value of the outer graph.
#[derive(Clone, Debug)]
pub struct Body {
    pub(super) attribute: Arc<str>,
    pub(super) graph: Graph,
    pub(super) captures: Vec<ValueId>,
    pub(super) links: Vec<Link>,
}

impl Body {
    /// The body of graph attribute `attribute`; the last `captures.len()` inputs of `graph` receive the captures.
    pub fn new(attribute: impl Into<Arc<str>>, graph: Graph, captures: Vec<ValueId>) -> Self {
        Body { attribute: attribute.into(), graph, captures, links: Vec::new() }
    }

    /// The attribute's name: `then_branch`, `body`, ...
    pub fn attribute(&self) -> &str {
        &self.attribute
    }

    /// The nested graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Values of the outer graph; `captures()[k]` arrives at `capture_inputs()[k]`.
    pub fn captures(&self) -> &[ValueId] {
        &self.captures
    }

    /// The inputs that the operator itself feeds.
    pub fn formal_inputs(&self) -> &[ValueId] {
        &self.graph.inputs()[..self.formal_count()]
    }

    /// The inputs that captures feed.
    pub fn capture_inputs(&self) -> &[ValueId] {
        &self.graph.inputs()[self.formal_count()..]
    }

    fn formal_count(&self) -> usize {
        self.graph.inputs().len().saturating_sub(self.captures.len())
    }
}

/// An operation. Its inputs and outputs change only through the graph, its other parts freely.
#[derive(Clone, Debug)]
pub struct Node {
    /// For people; not necessarily unique, may be empty.
    pub name: String,
    /// Empty for the standard operators (`ai.onnx`).
    pub domain: Arc<str>,
    pub op_type: Arc<str>,
    /// The version of `domain` whose semantics the node has: what its model or function imports, not the version that
    /// introduced the operator.
    pub version: i64,
    pub attributes: Attributes,
    pub(super) inputs: SmallVec<[Option<ValueId>; 4]>,
    pub(super) links: SmallVec<[Option<Link>; 4]>,
    pub(super) outputs: SmallVec<[Option<ValueId>; 2]>,
    pub(super) bodies: Vec<Body>,
}

impl Node {
    /// A node without name, inputs, outputs and attributes; add it with [`Graph::add_node`].
    pub fn new(domain: impl Into<Arc<str>>, op_type: impl Into<Arc<str>>, version: i64) -> Self {
        Node {
            name: String::new(),
            domain: domain.into(),
            op_type: op_type.into(),
            version,
            attributes: Attributes::new(),
            inputs: SmallVec::new(),
            links: SmallVec::new(),
            outputs: SmallVec::new(),
            bodies: Vec::new(),
        }
    }

    /// A node with the same name, operator, version and attributes, but without inputs, outputs and bodies.
    pub fn clone_operator(&self) -> Self {
        Node {
            name: self.name.clone(),
            attributes: self.attributes.clone(),
            ..Node::new(self.domain.clone(), self.op_type.clone(), self.version)
        }
    }

    /// Names the node.
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets an attribute.
    pub fn with_attribute(mut self, name: &str, value: impl Into<Attribute>) -> Self {
        self.attributes.set(name, value);
        self
    }

    /// Appends a body.
    pub fn with_body(mut self, body: Body) -> Self {
        self.bodies.push(body);
        self
    }

    /// True for operator `op_type` of `domain` (empty for the standard operators).
    pub fn is(&self, domain: &str, op_type: &str) -> bool {
        *self.op_type == *op_type && *self.domain == *domain
    }

    /// True for a standard operator named `op_type`.
    pub fn is_onnx(&self, op_type: &str) -> bool {
        self.is("", op_type)
    }

    /// The inputs in order; `None` where an optional input is left out.
    pub fn inputs(&self) -> &[Option<ValueId>] {
        &self.inputs
    }

    /// Input `index`, when it is given.
    pub fn input(&self, index: usize) -> Option<ValueId> {
        self.inputs.get(index).copied().flatten()
    }

    /// The outputs in order; `None` where an optional output is left out.
    pub fn outputs(&self) -> &[Option<ValueId>] {
        &self.outputs
    }

    /// Output `index`, when it is wanted.
    pub fn output(&self, index: usize) -> Option<ValueId> {
        self.outputs.get(index).copied().flatten()
    }

    /// The nested graphs, in the order of the attributes.
    pub fn bodies(&self) -> &[Body] {
        &self.bodies
    }

    /// The nested graph of one attribute.
    pub fn body(&self, attribute: &str) -> Option<&Body> {
        self.bodies.iter().find(|b| *b.attribute == *attribute)
    }

    /// Every value the node reads: its inputs, then what its bodies capture.
    pub fn reads(&self) -> impl Iterator<Item = ValueId> {
        let captures = self.bodies.iter().flat_map(|b| b.captures.iter().copied());
        self.inputs.iter().flatten().copied().chain(captures)
    }

    /// The operator as people write it: `Conv`, `com.microsoft.FusedMatMul`.
    pub fn operator(&self) -> String {
        if self.domain.is_empty() {
            self.op_type.to_string()
        } else {
            format!("{}.{}", self.domain, self.op_type)
        }
    }

    /// What identifies the node in messages: its name, else its operator and first output.
    pub fn label(&self, graph: &Graph) -> String {
        if !self.name.is_empty() {
            return self.name.clone();
        }
        match self.outputs.iter().flatten().next() {
            Some(v) => format!("{} -> {}", self.operator(), graph.value(*v).name()),
            None => self.operator(),
        }
    }

    /// An integer attribute or `default`.
    pub fn int_or(&self, name: &str, default: i64) -> Result<i64> {
        Ok(self.attributes.int(name)?.unwrap_or(default))
    }

    /// A float attribute or `default`.
    pub fn float_or(&self, name: &str, default: f32) -> Result<f32> {
        Ok(self.attributes.float(name)?.unwrap_or(default))
    }

    /// A string attribute or `default`.
    pub fn string_or<'a>(&'a self, name: &str, default: &'a str) -> Result<&'a str> {
        Ok(self.attributes.string(name)?.unwrap_or(default))
    }
}
