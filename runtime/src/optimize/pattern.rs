//! What patterns are written with: looking at producers, consumers and scalars, and putting new nodes in place.

use super::constants::is_pure;
use crate::dtype::DType;
use crate::error::Result;
use crate::graph::{Dim, Graph, Node, NodeId, Shape, ValueId};
use crate::shape;
use crate::tensor::Tensor;

/// The standard operator `op` that computes `value`.
pub fn producer(graph: &Graph, value: ValueId, op: &str) -> Option<NodeId> {
    let (node, slot) = graph.producer(value)?;
    (slot == 0 && graph.node(node).is_onnx(op)).then_some(node)
}

/// As [`producer`], when only one node and no graph output reads the value.
pub fn private_producer(graph: &Graph, value: ValueId, op: &str) -> Option<NodeId> {
    graph.sole_consumer(value)?;
    producer(graph, value, op)
}

/// Output 0 of a node.
pub fn result(graph: &Graph, node: NodeId) -> Option<ValueId> {
    graph.node(node).output(0)
}

/// The only reader of output 0 of a node, when it is a standard operator named `op`.
pub fn follower(graph: &Graph, node: NodeId, op: &str) -> Option<NodeId> {
    let next = graph.sole_consumer(result(graph, node)?)?;
    graph.node(next).is_onnx(op).then_some(next)
}

/// The other input of a node of two inputs.
pub fn other_input(graph: &Graph, node: NodeId, value: ValueId) -> Option<ValueId> {
    match graph.node(node).inputs() {
        [Some(a), Some(b)] if *a == value => Some(*b),
        [Some(a), Some(b)] if *b == value => Some(*a),
        _ => None,
    }
}

/// Both orders of the two inputs of a node.
pub fn operands(graph: &Graph, node: NodeId) -> Vec<(ValueId, ValueId)> {
    match graph.node(node).inputs() {
        [Some(a), Some(b)] => vec![(*a, *b), (*b, *a)],
        _ => Vec::new(),
    }
}

/// The one element of a numeric constant.
pub fn scalar(graph: &Graph, value: ValueId) -> Option<f64> {
    let tensor = graph.constant(value)?;
    if tensor.dims().iter().any(|d| *d != 1) || tensor.rank() > 8 {
        return None;
    }
    tensor.to_f64_vec().ok()?.first().copied()
}

/// True when `value` is the constant `wanted`, up to the rounding of its element type.
pub fn is_scalar(graph: &Graph, value: ValueId, wanted: f64) -> bool {
    let tolerance = match graph.constant(value).map(Tensor::dtype) {
        Some(DType::F16) => 1e-3,
        Some(DType::BF16) => 8e-3,
        _ => 1e-5,
    };
    scalar(graph, value).is_some_and(|s| (s - wanted).abs() <= tolerance * wanted.abs())
}

/// The operand that a node of two inputs has beside the constant `wanted`.
pub fn beside_scalar(graph: &Graph, node: NodeId, wanted: f64) -> Option<ValueId> {
    operands(graph, node).into_iter().find(|(_, s)| is_scalar(graph, *s, wanted)).map(|(x, _)| x)
}

/// The static shape of a value.
pub fn shape_of(graph: &Graph, value: ValueId) -> Option<&Shape> {
    graph.value(value).ty()?.shape()
}

/// The element type of a value; undefined when it is not known.
pub fn dtype_of(graph: &Graph, value: ValueId) -> DType {
    graph.value(value).ty().and_then(|t| t.dtype()).unwrap_or_default()
}

/// True when both values have one shape in every run.
pub fn same_shape(graph: &Graph, a: ValueId, b: ValueId) -> bool {
    match (shape_of(graph, a), shape_of(graph, b)) {
        (Some(x), Some(y)) => x == y && !x.contains(&Dim::Unknown),
        _ => false,
    }
}

/// True when a shape broadcasts to `to` without enlarging it, in every run.
pub fn broadcasts_to(shape: &Shape, to: &Shape) -> bool {
    let Some(lead) = to.rank().checked_sub(shape.rank()) else { return false };
    shape.iter().zip(&to[lead..]).all(|(d, t)| *d == Dim::Known(1) || (d == t && *d != Dim::Unknown))
}

/// The axes of a reduction, from its attribute or input; `None` when they are not known.
pub fn axes_of(graph: &Graph, node: NodeId) -> Option<Vec<i64>> {
    let n = graph.node(node);
    if let Some(axes) = n.attributes.ints("axes").ok()? {
        return Some(axes.to_vec());
    }
    graph.constant_input(node, 1)?.to_i64_vec().ok()
}

/// True for a reduction over the last axis alone that keeps it.
pub fn reduces_last(graph: &Graph, node: NodeId) -> bool {
    let keeps = graph.node(node).attributes.flag("keepdims", true).unwrap_or(false);
    let rank = graph.node(node).input(0).and_then(|x| shape_of(graph, x)).map(|s| s.rank() as i64);
    let last = |a: &[i64]| a == [-1] || rank.is_some_and(|r| a == [r - 1]);
    keeps && axes_of(graph, node).is_some_and(|a| last(&a))
}

/// The version for a new node of an operator that version `since` of its operator set introduced.
pub fn version(graph: &Graph, since: i64) -> i64 {
    graph.opset("").unwrap_or(since).max(since)
}

/// A node of the same operator, version, name and attributes, without inputs and outputs.
pub fn copy_of(node: &Node) -> Node {
    let mut copy =
        Node::new(node.domain.clone(), node.op_type.clone(), node.version).with_name(node.name.clone());
    copy.attributes = node.attributes.clone();
    copy
}

/// True when `value` is no graph output and only the nodes of `readers` read it.
pub fn only_read_by(graph: &Graph, value: ValueId, readers: &[NodeId]) -> bool {
    !graph.is_output(value) && graph.consumers(value).all(|n| readers.contains(&n))
}

/// True when `perm` swaps the last two axes and keeps the others.
pub fn swaps_last_two(perm: &[usize]) -> bool {
    let n = perm.len();
    n >= 2
        && perm[n - 1] == n - 2
        && perm[n - 2] == n - 1
        && perm[..n - 2].iter().enumerate().all(|(i, a)| i == *a)
}

/// A constant of rank 0 in a float element type.
pub fn float_scalar(dtype: DType, value: f64) -> Option<Tensor> {
    Some(match dtype {
        DType::F32 => Tensor::scalar(value as f32),
        DType::F64 => Tensor::scalar(value),
        DType::F16 => Tensor::scalar(half::f16::from_f64(value)),
        DType::BF16 => Tensor::scalar(half::bf16::from_f64(value)),
        _ => return None,
    })
}

/// Adds a node with one output, typed, and returns it.
pub fn emit(graph: &mut Graph, node: Node, inputs: &[Option<ValueId>]) -> Result<ValueId> {
    let (id, outputs) = graph.append(node, inputs, 1)?;
    shape::infer_node(graph, id)?;
    Ok(outputs[0])
}

/// Puts `node` in the place of `old`: it computes output 0 of `old` under the name and type it has. `old` goes, and so
/// does what only it needed.
pub fn replace(graph: &mut Graph, old: NodeId, node: Node, inputs: &[Option<ValueId>]) -> Result<()> {
    let output = result(graph, old);
    let mut orphans: Vec<ValueId> = graph.node(old).inputs().iter().flatten().copied().collect();
    graph.remove_node(old);
    if let Some(output) = output.filter(|v| graph.get_value(*v).is_some()) {
        let id = graph.add_node(node, inputs, &[Some(output)])?;
        shape::infer_node(graph, id)?;
    }
    while let Some(value) = orphans.pop() {
        let Some((producer, _)) = graph.get_value(value).and_then(|v| v.producer()) else { continue };
        if graph.node(producer).outputs().iter().flatten().all(|v| graph.is_unused(*v)) {
            orphans.extend(graph.node(producer).reads());
            graph.remove_node(producer);
        }
    }
    Ok(())
}

/// True for a constant and for what a few nodes compute from constants alone.
pub fn is_computed_once(graph: &Graph, value: ValueId) -> bool {
    fn within(graph: &Graph, value: ValueId, depth: usize) -> bool {
        if graph.constant(value).is_some() {
            return true;
        }
        let Some((node, _)) = graph.producer(value).filter(|_| depth > 0) else { return false };
        let node = graph.node(node);
        is_pure(node) && node.bodies().is_empty() && node.reads().all(|v| within(graph, v, depth - 1))
    }
    within(graph, value, 12)
}

/// Makes the readers of `old` read `new`. False, and nothing is changed, when `old` is a graph output that would then
/// share its value with another output or be an input or a constant.
pub fn forward(graph: &mut Graph, old: ValueId, new: ValueId) -> bool {
    if old == new {
        return false;
    }
    if graph.is_output(old) {
        let v = graph.value(new);
        if v.is_input() || v.constant().is_some() || graph.is_output(new) {
            return false;
        }
    }
    graph.replace_all_uses(old, new);
    true
}
