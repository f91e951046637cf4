//! Borrowed views of a graph, its nodes and its values.

use super::{AttributeView, TensorView, check, slice_at};
use crate::{DType, Error, Result, ffi};
use alloc::format;

/// A checked graph, borrowed for the call that received it.
#[derive(Clone, Copy)]
pub struct GraphView<'a> {
    raw: &'a ffi::Graph,
}

// SAFETY: everything behind the pointers is unchanged for 'a and views only read it.
unsafe impl Send for GraphView<'_> {}
// SAFETY: as for Send.
unsafe impl Sync for GraphView<'_> {}

impl<'a> GraphView<'a> {
    /// Checks and views `raw`. Numbers, texts, indices and sizes are checked here, once, so that reading cannot fail.
    ///
    /// # Errors
    /// Names the first value or node that breaks the contract.
    ///
    /// # Safety
    /// Every pointer in `raw` is NULL or points at what the header says, readable and unchanged for `'a`.
    pub unsafe fn new(raw: &'a ffi::Graph) -> Result<GraphView<'a>> {
        // SAFETY: the caller vouches for the pointers.
        unsafe { check::graph(raw)? };
        Ok(GraphView { raw })
    }

    pub fn node_count(&self) -> usize {
        self.raw.node_count
    }

    /// Node `index`, or `None` behind the end.
    pub fn node(&self, index: usize) -> Option<NodeView<'a>> {
        // SAFETY: checked by `new`.
        let nodes = unsafe { slice_at(self.raw.nodes, self.raw.node_count) };
        // SAFETY: likewise: no pointer in the array is NULL.
        nodes.get(index).map(|&node| NodeView { raw: unsafe { &*node }, graph: *self, index: index as u32 })
    }

    /// The nodes in topological order.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = NodeView<'a>> + use<'a> {
        let graph = *self;
        (0..self.node_count()).map(move |index| graph.node(index).expect("the index is below the count"))
    }

    pub fn value_count(&self) -> usize {
        self.raw.value_count
    }

    /// Value `index`, or `None` behind the end and for an omitted value.
    pub fn value(&self, index: u32) -> Option<ValueView<'a>> {
        // SAFETY: checked by `new`.
        let values = unsafe { slice_at(self.raw.values, self.raw.value_count) };
        // SAFETY: likewise: no pointer in the array is NULL.
        values.get(index as usize).map(|&value| ValueView { raw: unsafe { &*value }, index })
    }

    /// Values that each run receives, in order; constants are not among them.
    pub fn inputs(&self) -> &'a [u32] {
        // SAFETY: checked by `new`.
        unsafe { slice_at(self.raw.inputs, self.raw.input_count) }
    }

    /// Values that each run produces, in order.
    pub fn outputs(&self) -> &'a [u32] {
        // SAFETY: checked by `new`.
        unsafe { slice_at(self.raw.outputs, self.raw.output_count) }
    }

    /// The struct viewed.
    pub const fn raw(&self) -> &'a ffi::Graph {
        self.raw
    }
}

/// A node of a checked graph: an operator with no nested graph.
#[derive(Clone, Copy)]
pub struct NodeView<'a> {
    raw: &'a ffi::Node,
    graph: GraphView<'a>,
    index: u32,
}

impl<'a> NodeView<'a> {
    /// Position in the graph's nodes: what claims and declines name.
    pub const fn index(&self) -> u32 {
        self.index
    }

    pub fn name(&self) -> &'a str {
        checked_text(self.raw.name)
    }

    /// The operator's domain; empty is `ai.onnx`.
    pub fn domain(&self) -> &'a str {
        checked_text(self.raw.domain)
    }

    pub fn op_type(&self) -> &'a str {
        checked_text(self.raw.op_type)
    }

    /// The opset version imported for the domain.
    pub const fn version(&self) -> u32 {
        self.raw.version
    }

    /// Indices of input values; [`ffi::NO_VALUE`] where an optional input is omitted.
    pub fn inputs(&self) -> &'a [u32] {
        // SAFETY: checked with the graph.
        unsafe { slice_at(self.raw.inputs, self.raw.input_count as usize) }
    }

    /// Input `position`, or `None` when it is omitted.
    pub fn input(&self, position: usize) -> Option<ValueView<'a>> {
        self.graph.value(*self.inputs().get(position)?)
    }

    /// Indices of output values; [`ffi::NO_VALUE`] where nobody uses an output.
    pub fn outputs(&self) -> &'a [u32] {
        // SAFETY: checked with the graph.
        unsafe { slice_at(self.raw.outputs, self.raw.output_count as usize) }
    }

    /// Output `position`, or `None` when nobody uses it.
    pub fn output(&self, position: usize) -> Option<ValueView<'a>> {
        self.graph.value(*self.outputs().get(position)?)
    }

    /// Names and values of the attributes that the model sets.
    pub fn attributes(&self) -> impl ExactSizeIterator<Item = (&'a str, AttributeView<'a>)> + use<'a> {
        // SAFETY: checked with the graph.
        let attributes = unsafe { slice_at(self.raw.attributes, self.raw.attribute_count as usize) };
        attributes.iter().map(|&attribute| {
            // SAFETY: likewise: no pointer in the array is NULL and each attribute was checked.
            unsafe { (checked_text((*attribute).name), AttributeView::new(&*attribute)) }
        })
    }

    /// The attribute `name`, or `None` when the model does not set it.
    pub fn attribute(&self, name: &str) -> Option<AttributeView<'a>> {
        self.attributes().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// The INT attribute `name`, or `default` when the model does not set it.
    pub fn int_or(&self, name: &str, default: i64) -> Result<i64> {
        match self.attribute(name) {
            None => Ok(default),
            Some(AttributeView::Int(value)) => Ok(value),
            Some(other) => Err(self.wrong_kind(name, "INT", other)),
        }
    }

    /// The FLOAT attribute `name`, or `default` when the model does not set it.
    pub fn float_or(&self, name: &str, default: f32) -> Result<f32> {
        match self.attribute(name) {
            None => Ok(default),
            Some(AttributeView::Float(value)) => Ok(value),
            Some(other) => Err(self.wrong_kind(name, "FLOAT", other)),
        }
    }

    /// The INTS attribute `name`, or `None` when the model does not set it.
    pub fn ints(&self, name: &str) -> Result<Option<&'a [i64]>> {
        match self.attribute(name) {
            None => Ok(None),
            Some(AttributeView::Ints(values)) => Ok(Some(values)),
            Some(other) => Err(self.wrong_kind(name, "INTS", other)),
        }
    }

    /// The STRING attribute `name` as text, or `default` when the model does not set it.
    pub fn text_or(&self, name: &str, default: &'a str) -> Result<&'a str> {
        match self.attribute(name) {
            None => Ok(default),
            Some(AttributeView::String(bytes)) => core::str::from_utf8(bytes).map_err(|_| {
                Error::invalid(format!("node '{}': attribute '{name}' is not UTF-8", self.name()))
            }),
            Some(other) => Err(self.wrong_kind(name, "STRING", other)),
        }
    }

    fn wrong_kind(&self, name: &str, expected: &str, got: AttributeView<'_>) -> Error {
        let (node, got) = (self.name(), got.kind_name());
        Error::invalid(format!("node '{node}': attribute '{name}' is {got}, expected {expected}"))
    }

    /// The struct viewed.
    pub const fn raw(&self) -> &'a ffi::Node {
        self.raw
    }
}

impl core::fmt::Debug for NodeView<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}({})", self.op_type(), self.name())
    }
}

/// A value of a checked graph.
#[derive(Clone, Copy)]
pub struct ValueView<'a> {
    raw: &'a ffi::Value,
    index: u32,
}

impl<'a> ValueView<'a> {
    /// Position in the graph's values.
    pub const fn index(&self) -> u32 {
        self.index
    }

    pub fn name(&self) -> &'a str {
        checked_text(self.raw.name)
    }

    /// The element type; [`DType::Undefined`] when it is not known.
    pub fn dtype(&self) -> DType {
        DType::from_onnx(self.raw.dtype as i32).unwrap_or_default()
    }

    /// Sizes of the dimensions, -1 where not known before the run; `None` when not even the rank is known.
    pub fn dims(&self) -> Option<&'a [i64]> {
        let rank = usize::try_from(self.raw.rank).ok()?;
        // SAFETY: checked with the graph.
        Some(unsafe { slice_at(self.raw.dims, rank) })
    }

    /// Sizes of the dimensions when all of them are known.
    pub fn known_dims(&self) -> Option<&'a [i64]> {
        self.dims().filter(|dims| dims.iter().all(|&dim| dim >= 0))
    }

    /// The name of dimension `axis` when its size is not known; equal names are equal sizes.
    pub fn dim_symbol(&self, axis: usize) -> Option<&'a str> {
        let rank = usize::try_from(self.raw.rank).ok()?;
        // SAFETY: checked with the graph.
        let symbols = unsafe { slice_at(self.raw.dim_symbols, rank) };
        symbols.get(axis).map(|&symbol| checked_text(symbol)).filter(|symbol| !symbol.is_empty())
    }

    /// The value itself when it is a constant, in host memory, perhaps unaligned.
    pub fn constant(&self) -> Option<TensorView<'a>> {
        if self.raw.constant.is_null() {
            return None;
        }
        // SAFETY: checked with the graph.
        Some(unsafe { TensorView::new(*self.raw.constant) })
    }

    /// The struct viewed.
    pub const fn raw(&self) -> &'a ffi::Value {
        self.raw
    }
}

impl core::fmt::Debug for ValueView<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}: {}{:?}", self.name(), self.dtype(), self.dims())
    }
}

/// A text of a checked graph.
fn checked_text<'a>(text: ffi::Str) -> &'a str {
    // SAFETY: the graph's check read the text; the views that call this are bounded by its life.
    unsafe { text.as_str() }.unwrap_or_default()
}
