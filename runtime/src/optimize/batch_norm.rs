//! BatchNormalization after a convolution goes into its weight and bias, as nodes that a provider computes once.

use super::pattern::{
    copy_of, dtype_of, emit, float_scalar, is_computed_once, private_producer, replace, shape_of, version,
};
use super::{Outcome, Rewrite, State};
use crate::error::Result;
use crate::graph::{Graph, Node, NodeId, ValueId};
use crate::tensor::Tensor;

pub const REWRITE: Rewrite =
    Rewrite { name: "Conv + BatchNormalization", operators: &["BatchNormalization"], apply };

fn apply(graph: &mut Graph, id: NodeId, _: &mut State<'_>) -> Result<Outcome> {
    let node = graph.node(id);
    let Some(conv) = node.input(0).and_then(|x| private_producer(graph, x, "Conv")) else {
        return Ok(Outcome::NoMatch);
    };
    if !node.domain.is_empty() {
        return Ok(Outcome::NoMatch);
    }
    if node.version < 7
        || node.attributes.flag("training_mode", false)?
        || !node.attributes.flag("spatial", true)?
    {
        return Outcome::check_failed("it does not normalise by channel with fixed statistics");
    }
    if node.outputs().iter().skip(1).any(Option::is_some) {
        return Outcome::check_failed("its running statistics are read");
    }
    let epsilon = f64::from(node.float_or("epsilon", 1e-5)?);
    let (Some(scale), Some(shift), Some(mean), Some(var)) =
        (node.input(1), node.input(2), node.input(3), node.input(4))
    else {
        return Ok(Outcome::NoMatch);
    };
    let c = graph.node(conv);
    let (Some(x), Some(weight)) = (c.input(0), c.input(1)) else { return Ok(Outcome::NoMatch) };
    let bias = c.input(2);
    let mut constants = vec![weight, scale, shift, mean, var];
    constants.extend(bias);
    if constants.iter().any(|v| !is_computed_once(graph, *v)) {
        return Outcome::check_failed("a weight or statistic is not constant");
    }
    let dtype = dtype_of(graph, weight);
    if constants.iter().any(|v| dtype_of(graph, *v) != dtype) {
        return Outcome::check_failed("weights and statistics have different element types");
    }
    let (Some(epsilon), Some(rank)) =
        (float_scalar(dtype, epsilon), shape_of(graph, weight).map(|s| s.rank()))
    else {
        return Outcome::check_failed("the weight is not a float tensor");
    };
    let factor = factor(graph, scale, var, epsilon)?;
    let scaled = by_channel(graph, weight, factor, rank)?;
    let offset = match bias {
        Some(bias) => binary(graph, "Sub", bias, mean)?,
        None => emit(graph, Node::new("", "Neg", version(graph, 6)), &[Some(mean)])?,
    };
    let offset = binary(graph, "Mul", offset, factor)?;
    let new_bias = binary(graph, "Add", offset, shift)?;
    let merged = copy_of(graph.node(conv));
    replace(graph, id, merged, &[Some(x), Some(scaled), Some(new_bias)])?;
    Ok(Outcome::Fired)
}

/// `scale / sqrt(var + epsilon)`.
fn factor(graph: &mut Graph, scale: ValueId, var: ValueId, epsilon: Tensor) -> Result<ValueId> {
    let epsilon = graph.add_constant("epsilon", epsilon);
    let sum = binary(graph, "Add", var, epsilon)?;
    let deviation = emit(graph, Node::new("", "Sqrt", version(graph, 6)), &[Some(sum)])?;
    binary(graph, "Div", scale, deviation)
}

/// An arithmetic node with broadcasting.
pub fn binary(graph: &mut Graph, op: &str, a: ValueId, b: ValueId) -> Result<ValueId> {
    emit(graph, Node::new("", op, version(graph, 7)), &[Some(a), Some(b)])
}

/// `weight` (`[channels, ..]` of `rank`) with each output channel multiplied by its element of `factor`.
pub fn by_channel(graph: &mut Graph, weight: ValueId, factor: ValueId, rank: usize) -> Result<ValueId> {
    let mut sizes = vec![1i64; rank];
    sizes[0] = -1;
    let shape = graph.add_constant("shape", Tensor::from_slice(&[rank], &sizes)?);
    let column = emit(graph, Node::new("", "Reshape", version(graph, 5)), &[Some(factor), Some(shape)])?;
    binary(graph, "Mul", weight, column)
}
