//! Graphs in the form that a provider reads: a handle to one, and a builder for hosts that have no graph of their own.

use crate::{DType, ffi};
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ptr::null;

/// A graph that a provider may read for `'a`.
#[derive(Clone, Copy)]
pub struct Graph<'a> {
    raw: &'a ffi::Graph,
}

impl<'a> Graph<'a> {
    /// Vouches for `raw`.
    ///
    /// # Safety
    /// Every pointer in `raw` leads to what the header says, readable and unchanged for `'a`.
    pub const unsafe fn new(raw: &'a ffi::Graph) -> Graph<'a> {
        Graph { raw }
    }

    pub const fn raw(&self) -> &'a ffi::Graph {
        self.raw
    }
}

/// An attribute's value, as [`GraphBuilder::attribute`] takes it.
#[derive(Clone, Debug, PartialEq)]
pub enum AttributeValue {
    Int(i64),
    Float(f32),
    String(Vec<u8>),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Strings(Vec<Vec<u8>>),
    /// Type, dimensions, bytes.
    Tensor(DType, Vec<i64>, Vec<u8>),
}

/// Builds a graph that owns everything in it: for tests, tools and hosts without a graph of their own.
#[derive(Default)]
pub struct GraphBuilder {
    values: Vec<Value>,
    nodes: Vec<Node>,
    inputs: Vec<u32>,
    outputs: Vec<u32>,
}

struct Value {
    name: String,
    dtype: DType,
    dims: Option<Vec<i64>>,
    constant: Option<Vec<u8>>,
}

struct Node {
    name: String,
    domain: String,
    op_type: String,
    version: u32,
    inputs: Vec<u32>,
    outputs: Vec<u32>,
    attributes: Vec<(String, AttributeValue)>,
}

impl GraphBuilder {
    pub fn new() -> GraphBuilder {
        GraphBuilder::default()
    }

    /// Adds a value; -1 is an unknown dimension, `None` an unknown rank. Returns its index.
    pub fn value(&mut self, name: &str, dtype: DType, dims: Option<&[i64]>) -> u32 {
        self.push(Value { name: name.to_string(), dtype, dims: dims.map(<[i64]>::to_vec), constant: None })
    }

    /// Adds a value that each run receives. Returns its index.
    pub fn input(&mut self, name: &str, dtype: DType, dims: Option<&[i64]>) -> u32 {
        let index = self.value(name, dtype, dims);
        self.inputs.push(index);
        index
    }

    /// Adds a constant of little-endian `bytes`. Returns its index.
    pub fn constant(&mut self, name: &str, dtype: DType, dims: &[i64], bytes: &[u8]) -> u32 {
        let (dims, constant) = (Some(dims.to_vec()), Some(bytes.to_vec()));
        self.push(Value { name: name.to_string(), dtype, dims, constant })
    }

    /// Adds a node of domain `ai.onnx`, in topological order. Returns its index.
    pub fn node(&mut self, op_type: &str, version: u32, inputs: &[u32], outputs: &[u32]) -> u32 {
        let index = self.nodes.len() as u32;
        self.nodes.push(Node {
            name: alloc::format!("{op_type}_{index}"),
            domain: String::new(),
            op_type: op_type.to_string(),
            version,
            inputs: inputs.to_vec(),
            outputs: outputs.to_vec(),
            attributes: Vec::new(),
        });
        index
    }

    /// Sets the domain of node `node`.
    pub fn domain(&mut self, node: u32, domain: &str) -> &mut GraphBuilder {
        self.nodes[node as usize].domain = domain.to_string();
        self
    }

    /// Adds an attribute to node `node`.
    pub fn attribute(&mut self, node: u32, name: &str, value: AttributeValue) -> &mut GraphBuilder {
        self.nodes[node as usize].attributes.push((name.to_string(), value));
        self
    }

    /// Makes `value` an output of the graph.
    pub fn output(&mut self, value: u32) -> &mut GraphBuilder {
        self.outputs.push(value);
        self
    }

    fn push(&mut self, value: Value) -> u32 {
        self.values.push(value);
        self.values.len() as u32 - 1
    }

    /// The graph.
    pub fn build(self) -> OwnedGraph {
        OwnedGraph::new(self)
    }
}

/// A graph that owns everything in it.
pub struct OwnedGraph {
    raw: Box<ffi::Graph>,
    _arrays: Arrays,
    _source: GraphBuilder,
}

/// Arrays that the graph's pointers lead to; buffers of vectors do not move.
#[derive(Default)]
#[expect(clippy::vec_box, reason = "pointers into the boxes must survive the growth of the vectors")]
struct Arrays {
    tensors: Vec<Box<ffi::Tensor>>,
    values: Vec<Box<ffi::Value>>,
    value_pointers: Vec<*const ffi::Value>,
    nodes: Vec<Box<ffi::Node>>,
    node_pointers: Vec<*const ffi::Node>,
    attributes: Vec<Box<ffi::Attribute>>,
    attribute_pointers: Vec<Vec<*const ffi::Attribute>>,
    strings: Vec<Vec<ffi::Str>>,
}

// SAFETY: nobody changes what the pointers lead to, and the graph owns it.
unsafe impl Send for OwnedGraph {}
// SAFETY: as for Send.
unsafe impl Sync for OwnedGraph {}

impl OwnedGraph {
    fn new(source: GraphBuilder) -> OwnedGraph {
        let mut arrays = Arrays::default();
        for value in &source.values {
            let raw = arrays.value(value);
            arrays.values.push(Box::new(raw));
        }
        for node in &source.nodes {
            let raw = arrays.node(node);
            arrays.nodes.push(Box::new(raw));
        }
        arrays.value_pointers = pointers(&arrays.values);
        arrays.node_pointers = pointers(&arrays.nodes);
        let raw = Box::new(ffi::Graph {
            struct_size: size_of::<ffi::Graph>(),
            value_count: arrays.value_pointers.len(),
            values: arrays.value_pointers.as_ptr(),
            node_count: arrays.node_pointers.len(),
            nodes: arrays.node_pointers.as_ptr(),
            input_count: source.inputs.len(),
            inputs: source.inputs.as_ptr(),
            output_count: source.outputs.len(),
            outputs: source.outputs.as_ptr(),
        });
        OwnedGraph { raw, _arrays: arrays, _source: source }
    }

    /// The graph, for calls of a provider.
    pub fn graph(&self) -> Graph<'_> {
        // SAFETY: every pointer leads into memory that self owns and does not change.
        unsafe { Graph::new(&self.raw) }
    }
}

impl Arrays {
    fn value(&mut self, value: &Value) -> ffi::Value {
        let constant = match &value.constant {
            Some(bytes) => self.tensor(value.dtype, value.dims.as_deref().unwrap_or_default(), bytes),
            None => null(),
        };
        ffi::Value {
            struct_size: size_of::<ffi::Value>(),
            name: ffi::Str::new(&value.name),
            dtype: value.dtype as u32,
            rank: value.dims.as_ref().map_or(-1, |dims| dims.len() as i32),
            dims: value.dims.as_ref().map_or(null(), |dims| dims.as_ptr()),
            dim_symbols: null(),
            constant,
        }
    }

    fn tensor(&mut self, dtype: DType, dims: &[i64], bytes: &[u8]) -> *const ffi::Tensor {
        self.tensors.push(Box::new(ffi::Tensor {
            data: bytes.as_ptr().cast_mut().cast(),
            bytes: bytes.len(),
            dims: dims.as_ptr(),
            rank: dims.len() as u32,
            dtype: dtype as u32,
            memory: ffi::MEMORY_HOST,
            reserved: 0,
        }));
        self.tensors.last().map_or(null(), |tensor| &raw const **tensor)
    }

    fn node(&mut self, node: &Node) -> ffi::Node {
        let first = self.attributes.len();
        for (name, value) in &node.attributes {
            let raw = self.attribute(name, value);
            self.attributes.push(Box::new(raw));
        }
        let attributes = pointers(&self.attributes[first..]);
        let pointer = attributes.as_ptr();
        self.attribute_pointers.push(attributes);
        ffi::Node {
            struct_size: size_of::<ffi::Node>(),
            name: ffi::Str::new(&node.name),
            domain: ffi::Str::new(&node.domain),
            op_type: ffi::Str::new(&node.op_type),
            version: node.version,
            input_count: node.inputs.len() as u32,
            inputs: node.inputs.as_ptr(),
            output_count: node.outputs.len() as u32,
            attribute_count: node.attributes.len() as u32,
            outputs: node.outputs.as_ptr(),
            attributes: pointer,
        }
    }

    fn attribute(&mut self, name: &str, value: &AttributeValue) -> ffi::Attribute {
        let mut raw = ffi::Attribute {
            struct_size: size_of::<ffi::Attribute>(),
            name: ffi::Str::new(name),
            kind: 0,
            f: 0.0,
            i: 0,
            s: ffi::Str::EMPTY,
            tensor: null(),
            count: 0,
            ints: null(),
            floats: null(),
            strings: null(),
        };
        let text = |bytes: &Vec<u8>| ffi::Str { data: bytes.as_ptr().cast(), len: bytes.len() };
        raw.kind = match value {
            AttributeValue::Int(i) => {
                raw.i = *i;
                ffi::ATTRIBUTE_INT
            }
            AttributeValue::Float(f) => {
                raw.f = *f;
                ffi::ATTRIBUTE_FLOAT
            }
            AttributeValue::String(bytes) => {
                raw.s = text(bytes);
                ffi::ATTRIBUTE_STRING
            }
            AttributeValue::Ints(values) => {
                (raw.count, raw.ints) = (values.len(), values.as_ptr());
                ffi::ATTRIBUTE_INTS
            }
            AttributeValue::Floats(values) => {
                (raw.count, raw.floats) = (values.len(), values.as_ptr());
                ffi::ATTRIBUTE_FLOATS
            }
            AttributeValue::Strings(values) => {
                let strings: Vec<ffi::Str> = values.iter().map(text).collect();
                (raw.count, raw.strings) = (strings.len(), strings.as_ptr());
                self.strings.push(strings);
                ffi::ATTRIBUTE_STRINGS
            }
            AttributeValue::Tensor(dtype, dims, bytes) => {
                raw.tensor = self.tensor(*dtype, dims, bytes);
                ffi::ATTRIBUTE_TENSOR
            }
        };
        raw
    }
}

fn pointers<T>(items: &[Box<T>]) -> Vec<*const T> {
    items.iter().map(|item| &raw const **item).collect()
}
