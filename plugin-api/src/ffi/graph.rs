//! Mirror of the graph part of the header: values, attributes, nodes, graphs, claims, attention capability.

use super::{Cost, Str, Tensor, assert_last_member};
use core::ffi::c_void;
use core::mem::{offset_of, size_of};

/// A value of a graph.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Value {
    pub struct_size: usize,
    pub name: Str,
    /// A number of [`crate::DType`], 0 when not known.
    pub dtype: u32,
    /// -1 when not known.
    pub rank: i32,
    pub dims: *const i64,
    pub dim_symbols: *const Str,
    pub constant: *const Tensor,
}

/// Which members of an [`Attribute`] hold it: one of the `ATTRIBUTE_` constants.
pub type AttributeKind = u32;
pub const ATTRIBUTE_INT: AttributeKind = 1;
pub const ATTRIBUTE_FLOAT: AttributeKind = 2;
pub const ATTRIBUTE_STRING: AttributeKind = 3;
pub const ATTRIBUTE_TENSOR: AttributeKind = 4;
pub const ATTRIBUTE_INTS: AttributeKind = 5;
pub const ATTRIBUTE_FLOATS: AttributeKind = 6;
pub const ATTRIBUTE_STRINGS: AttributeKind = 7;

/// An attribute of a node.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Attribute {
    pub struct_size: usize,
    pub name: Str,
    pub kind: AttributeKind,
    pub f: f32,
    pub i: i64,
    pub s: Str,
    pub tensor: *const Tensor,
    pub count: usize,
    pub ints: *const i64,
    pub floats: *const f32,
    pub strings: *const Str,
}

/// An omitted optional input, or an output that nobody uses.
pub const NO_VALUE: u32 = u32::MAX;

/// A node of a graph.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Node {
    pub struct_size: usize,
    pub name: Str,
    pub domain: Str,
    pub op_type: Str,
    pub version: u32,
    pub input_count: u32,
    pub inputs: *const u32,
    pub output_count: u32,
    pub attribute_count: u32,
    pub outputs: *const u32,
    pub attributes: *const *const Attribute,
}

/// A graph or a subgraph, as `claim` and `compile` see it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Graph {
    pub struct_size: usize,
    pub value_count: usize,
    pub values: *const *const Value,
    pub node_count: usize,
    pub nodes: *const *const Node,
    pub input_count: usize,
    pub inputs: *const u32,
    pub output_count: usize,
    pub outputs: *const u32,
}

/// Where a provider says what it can run.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ClaimSink {
    pub struct_size: usize,
    pub context: *mut c_void,
    pub claim:
        Option<unsafe extern "C" fn(context: *mut c_void, nodes: *const u32, node_count: usize, cost: Cost)>,
    pub decline: Option<unsafe extern "C" fn(context: *mut c_void, node: u32, reason: Str)>,
}

/// Bits of [`AttentionCaps::layouts`].
pub type AttentionLayout = u32;
pub const ATTENTION_CONTIGUOUS: AttentionLayout = 1;
pub const ATTENTION_PAGED: AttentionLayout = 2;

/// What a device's attention kernels take; bit n of a dtype mask is dtype n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct AttentionCaps {
    pub struct_size: usize,
    pub layouts: u32,
    pub max_head_size: u32,
    pub head_size_step: u32,
    pub grouped_query: u32,
    pub sliding_window: u32,
    pub attention_sink: u32,
    pub softcap: u32,
    pub additive_bias: u32,
    pub query_dtypes: u32,
    pub kv_dtypes: u32,
    /// Bit n set: pages of 2^n tokens are taken.
    pub page_tokens: u64,
}

impl AttentionCaps {
    /// No attention kernel at all.
    pub const NONE: AttentionCaps = AttentionCaps {
        struct_size: size_of::<AttentionCaps>(),
        layouts: 0,
        max_head_size: 0,
        head_size_step: 0,
        grouped_query: 0,
        sliding_window: 0,
        attention_sink: 0,
        softcap: 0,
        additive_bias: 0,
        query_dtypes: 0,
        kv_dtypes: 0,
        page_tokens: 0,
    };
}

assert_last_member! {
    Value.constant: *const Tensor;
    Attribute.strings: *const Str;
    Node.attributes: *const *const Attribute;
    Graph.outputs: *const u32;
    ClaimSink.decline: Option<unsafe extern "C" fn(*mut c_void, u32, Str)>;
    AttentionCaps.page_tokens: u64;
}
