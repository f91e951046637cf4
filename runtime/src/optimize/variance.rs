//! The part that layer and RMS normalisation share: `d / sqrt(mean(d^2) + epsilon)` over the last axis.

use super::pattern::{
    follower, is_scalar, operands, other_input, private_producer, reduces_last, result, scalar, shape_of,
};
use crate::graph::{Dim, Graph, NodeId, ValueId};

/// A normalised tensor.
pub struct Normalized {
    /// What is divided by the root of its mean square.
    pub input: ValueId,
    pub epsilon: f64,
    /// The node that squares the input.
    pub square: NodeId,
    /// The node that returns the quotient.
    pub quotient: NodeId,
}

/// Matches from the root: `Sqrt`, or `Pow` with exponent -1/2.
pub fn find(graph: &Graph, root: NodeId) -> Option<Normalized> {
    let node = graph.node(root);
    let sum = node.input(0)?;
    let (quotient, input) = if node.is_onnx("Sqrt") {
        divided(graph, root)?
    } else if node.is_onnx("Pow") && is_scalar(graph, node.input(1)?, -0.5) {
        multiplied(graph, root)?
    } else {
        return None;
    };
    let (mean, epsilon) = operands(graph, private_producer(graph, sum, "Add")?)
        .into_iter()
        .find_map(|(mean, epsilon)| Some((mean, scalar(graph, epsilon)?)))?;
    let reduce = private_producer(graph, mean, "ReduceMean").filter(|r| reduces_last(graph, *r))?;
    let squared = graph.node(reduce).input(0)?;
    let square = square_of(graph, squared, input)?;
    Some(Normalized { input, epsilon, square, quotient })
}

/// `d / root`, `d * (1 / root)` or `d * Reciprocal(root)`.
fn divided(graph: &Graph, root: NodeId) -> Option<(NodeId, ValueId)> {
    let denominator = result(graph, root)?;
    if let Some(reciprocal) = follower(graph, root, "Reciprocal") {
        return multiplied(graph, reciprocal);
    }
    let division = follower(graph, root, "Div")?;
    let node = graph.node(division);
    if node.input(1) != Some(denominator) {
        return None;
    }
    let dividend = node.input(0)?;
    if is_scalar(graph, dividend, 1.0) { multiplied(graph, division) } else { Some((division, dividend)) }
}

fn multiplied(graph: &Graph, inverse: NodeId) -> Option<(NodeId, ValueId)> {
    let product = follower(graph, inverse, "Mul")?;
    Some((product, other_input(graph, product, result(graph, inverse)?)?))
}

fn square_of(graph: &Graph, squared: ValueId, input: ValueId) -> Option<NodeId> {
    if let Some(pow) = private_producer(graph, squared, "Pow") {
        let node = graph.node(pow);
        return (node.input(0) == Some(input) && is_scalar(graph, node.input(1)?, 2.0)).then_some(pow);
    }
    let product = private_producer(graph, squared, "Mul")?;
    (operands(graph, product).first() == Some(&(input, input))).then_some(product)
}

/// The operand beside `value` when it is one vector over the last axis of `value`: its shape `[n]`, ones before allowed.
pub fn vector_beside(graph: &Graph, node: NodeId, value: ValueId) -> Option<ValueId> {
    let other = other_input(graph, node, value)?;
    let (shape, size) = (shape_of(graph, other)?, shape_of(graph, value)?.last()?.known()?);
    let (last, ones) = shape.split_last()?;
    (last.known() == Some(size) && ones.iter().all(|d| *d == Dim::Known(1))).then_some(other)
}

/// `vector` as rank 1; constants of higher rank are reshaped.
pub fn flat(graph: &mut Graph, vector: ValueId) -> Option<ValueId> {
    let shape = shape_of(graph, vector)?;
    if shape.rank() == 1 {
        return Some(vector);
    }
    let size = shape.last()?.known()?;
    let tensor = graph.constant(vector)?.reshaped(&[size]).ok()?;
    let name = graph.value(vector).shared_name();
    Some(graph.add_constant(&name, tensor))
}
