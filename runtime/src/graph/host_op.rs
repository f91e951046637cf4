//! The operators that the runtime runs itself, because they hold nested graphs or values that are not tensors.

use crate::graph::{Graph, Node, NodeId, TypeInfo};

/// An operator of the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostOp {
    If,
    Loop,
    Scan,
    SequenceMap,
    SequenceConstruct,
    SequenceEmpty,
    SequenceAt,
    SequenceInsert,
    SequenceErase,
    SequenceLength,
    SplitToSequence,
    ConcatFromSequence,
    Optional,
    OptionalHasElement,
    OptionalGetElement,
    /// Identity of a sequence, an optional or a map.
    Identity,
    ZipMap,
    CastMap,
    DictVectorizer,
}

impl HostOp {
    /// The operator of the runtime that `node` is, by its name alone.
    fn of(node: &Node) -> Option<HostOp> {
        let op = match (&*node.domain, &*node.op_type) {
            ("", "If") => HostOp::If,
            ("", "Loop") => HostOp::Loop,
            ("", "Scan") => HostOp::Scan,
            ("", "SequenceMap") => HostOp::SequenceMap,
            ("", "SequenceConstruct") => HostOp::SequenceConstruct,
            ("", "SequenceEmpty") => HostOp::SequenceEmpty,
            ("", "SequenceAt") => HostOp::SequenceAt,
            ("", "SequenceInsert") => HostOp::SequenceInsert,
            ("", "SequenceErase") => HostOp::SequenceErase,
            ("", "SequenceLength") => HostOp::SequenceLength,
            ("", "SplitToSequence") => HostOp::SplitToSequence,
            ("", "ConcatFromSequence") => HostOp::ConcatFromSequence,
            ("", "Optional") => HostOp::Optional,
            ("", "OptionalHasElement") => HostOp::OptionalHasElement,
            ("", "OptionalGetElement") => HostOp::OptionalGetElement,
            ("ai.onnx.ml", "ZipMap") => HostOp::ZipMap,
            ("ai.onnx.ml", "CastMap") => HostOp::CastMap,
            ("ai.onnx.ml", "DictVectorizer") => HostOp::DictVectorizer,
            _ => return None,
        };
        Some(op)
    }
}

/// The operator of the runtime that a node is, or `None` when a provider must run it.
pub fn find(graph: &Graph, id: NodeId) -> Option<HostOp> {
    let node = graph.node(id);
    let holds_no_tensor = |index| {
        matches!(
            graph.input_type(id, index),
            Some(TypeInfo::Sequence(_) | TypeInfo::Optional(_) | TypeInfo::Map { .. })
        )
    };
    match HostOp::of(node) {
        Some(op) => Some(op),
        None if node.is_onnx("Identity") && holds_no_tensor(0) => Some(HostOp::Identity),
        None => None,
    }
}

/// True when the runtime runs the node itself.
pub fn is_host(graph: &Graph, id: NodeId) -> bool {
    find(graph, id).is_some()
}
