//! What follows a convolution goes into it: factors and offsets by channel, a residual sum, an activation.

use super::activation::{self, Activation};
use super::batch_norm::{binary, by_channel};
use super::pattern::{
    copy_of, dtype_of, emit, is_computed_once, other_input, replace, result, same_shape, shape_of, version,
};
use super::{DOMAIN, Outcome, Rewrite, State};
use crate::error::Result;
use crate::graph::{Dim, Graph, Node, NodeId, ValueId};
use crate::tensor::Tensor;

/// `Conv * constant` and `Conv + constant`, one constant for each output channel or one for all.
pub const CHANNEL_BIAS: Rewrite =
    Rewrite { name: "Conv + scale and bias", operators: &["Conv"], apply: channel };

/// `activation(Conv + residual)`.
pub const EPILOGUE: Rewrite =
    Rewrite { name: "Conv + residual and activation", operators: &["Conv", "FusedConv"], apply: epilogue };

/// What a constant beside a convolution of `channels` is by channel.
pub enum ByChannel {
    /// One element for all.
    Scalar,
    /// One element a channel, in a shape such as `[1, channels, 1, 1]`.
    Vector,
}

pub fn by_channel_kind(graph: &Graph, value: ValueId, channels: usize, rank: usize) -> Option<ByChannel> {
    let tensor = graph.constant(value)?;
    let dims = tensor.dims();
    if dims.len() > rank {
        return None;
    }
    if dims.iter().all(|d| *d == 1) {
        return Some(ByChannel::Scalar);
    }
    let axis = 1usize.checked_sub(rank - dims.len())?;
    let fits = |(i, d): (usize, &usize)| *d == if i == axis { channels } else { 1 };
    dims.iter().enumerate().all(fits).then_some(ByChannel::Vector)
}

fn channel(graph: &mut Graph, id: NodeId, _: &mut State<'_>) -> Result<Outcome> {
    let node = graph.node(id);
    if !node.domain.is_empty() {
        return Ok(Outcome::NoMatch);
    }
    let (Some(x), Some(weight), Some(output)) = (node.input(0), node.input(1), node.output(0)) else {
        return Ok(Outcome::NoMatch);
    };
    let bias = node.input(2);
    let Some(next) = graph.sole_consumer(output) else { return Ok(Outcome::NoMatch) };
    let (adds, multiplies) = (graph.node(next).is_onnx("Add"), graph.node(next).is_onnx("Mul"));
    if (!adds && !multiplies) || graph.node(next).version < 7 {
        return Ok(Outcome::NoMatch);
    }
    let Some(other) = other_input(graph, next, output) else { return Ok(Outcome::NoMatch) };
    let channels = match shape_of(graph, weight).map(|s| (s.rank(), s.first().cloned())) {
        Some((rank, Some(Dim::Known(n)))) => Some((rank, n)),
        _ => None,
    };
    let Some((rank, channels)) = channels else { return Ok(Outcome::NoMatch) };
    let Some(kind) = by_channel_kind(graph, other, channels, rank) else { return Ok(Outcome::NoMatch) };
    if !is_computed_once(graph, weight) || bias.is_some_and(|b| !is_computed_once(graph, b)) {
        return Outcome::check_failed("its weight or bias is not constant");
    }
    if !dtype_of(graph, weight).is_float() || dtype_of(graph, other) != dtype_of(graph, weight) {
        return Outcome::check_failed("the constant has another element type");
    }
    let tensor = graph.constant(other).cloned();
    let size = if matches!(kind, ByChannel::Scalar) { 1 } else { channels };
    let Some(tensor) = tensor.and_then(|t| t.reshaped(&[size]).ok()) else { return Ok(Outcome::NoMatch) };
    let vector = graph.add_constant("by_channel", tensor);
    let (weight, bias) = if multiplies {
        let bias = bias.map(|b| binary(graph, "Mul", b, vector)).transpose()?;
        (by_channel(graph, weight, vector, rank)?, bias)
    } else {
        let bias = match (bias, &kind) {
            (Some(b), _) => binary(graph, "Add", b, vector)?,
            (None, ByChannel::Vector) => vector,
            (None, ByChannel::Scalar) => {
                let shape = graph.add_constant("shape", Tensor::from_slice(&[1], &[channels as i64])?);
                emit(graph, Node::new("", "Expand", version(graph, 8)), &[Some(vector), Some(shape)])?
            }
        };
        (weight, Some(bias))
    };
    let merged = copy_of(graph.node(id));
    let mut inputs = vec![Some(x), Some(weight)];
    inputs.extend(bias.map(Some));
    replace(graph, next, merged, &inputs)?;
    Ok(Outcome::Fired)
}

fn epilogue(graph: &mut Graph, id: NodeId, _: &mut State<'_>) -> Result<Outcome> {
    let node = graph.node(id);
    let fused = node.is(DOMAIN, "FusedConv");
    if !fused && !node.is_onnx("Conv") {
        return Ok(Outcome::NoMatch);
    }
    let Some(output) = node.output(0) else { return Ok(Outcome::NoMatch) };
    let Some(next) = graph.sole_consumer(output) else { return Ok(Outcome::NoMatch) };
    if !node.string_or("activation", "")?.is_empty() || !dtype_of(graph, output).is_float() {
        return Ok(Outcome::NoMatch);
    }
    let (mut copy, mut inputs) = (copy_of(node), node.inputs().to_vec());
    if !fused {
        copy.domain = DOMAIN.into();
        copy.op_type = "FusedConv".into();
        copy.version = 1;
    }
    if let Some(activation) = activation::of(graph, next) {
        set_activation(&mut copy, activation);
    } else if let Some(residual) = residual(graph, id, next)
        && node.input(3).is_none()
    {
        inputs.resize(4, None);
        inputs[3] = Some(residual);
    } else {
        return Ok(Outcome::NoMatch);
    }
    replace(graph, next, copy, &inputs)?;
    Ok(Outcome::Fired)
}

/// Writes an activation into the attributes of a fused node.
pub fn set_activation(node: &mut Node, activation: Activation) {
    node.attributes.set("activation", activation.name);
    if !activation.parameters.is_empty() {
        node.attributes.set("activation_params", activation.parameters);
    }
}

/// The other operand of an Add after node `id`, when it has exactly the shape of the result.
pub fn residual(graph: &Graph, id: NodeId, next: NodeId) -> Option<ValueId> {
    let node = graph.node(next);
    if !node.is_onnx("Add") || node.version < 7 {
        return None;
    }
    let output = result(graph, id)?;
    let other = other_input(graph, next, output)?;
    (same_shape(graph, output, other) && dtype_of(graph, output) == dtype_of(graph, other)).then_some(other)
}
