//! A factor or an offset by channel behind a BatchNormalization goes into its scale and shift.

use super::batch_norm::binary;
use super::conv::by_channel_kind;
use super::pattern::{copy_of, dtype_of, is_computed_once, other_input, replace, shape_of};
use super::{Outcome, Rewrite, State};
use crate::error::Result;
use crate::graph::{Dim, Graph, NodeId};

/// `BatchNormalization * constant` and `BatchNormalization + constant`, one constant for each channel or one for all.
pub const REWRITE: Rewrite =
    Rewrite { name: "BatchNormalization + scale and bias", operators: &["BatchNormalization"], apply };

fn apply(graph: &mut Graph, id: NodeId, _: &mut State<'_>) -> Result<Outcome> {
    let node = graph.node(id);
    let (Some(x), Some(scale), Some(shift), Some(output)) =
        (node.input(0), node.input(1), node.input(2), node.output(0))
    else {
        return Ok(Outcome::NoMatch);
    };
    if !node.domain.is_empty() || node.version < 7 {
        return Ok(Outcome::NoMatch);
    }
    let Some(next) = graph.sole_consumer(output) else { return Ok(Outcome::NoMatch) };
    let (adds, multiplies) = (graph.node(next).is_onnx("Add"), graph.node(next).is_onnx("Mul"));
    if (!adds && !multiplies) || graph.node(next).version < 7 {
        return Ok(Outcome::NoMatch);
    }
    let Some(other) = other_input(graph, next, output) else { return Ok(Outcome::NoMatch) };
    let shape = shape_of(graph, x).map(|shape| (shape.rank(), shape.get(1).cloned()));
    let Some((rank, Some(Dim::Known(channels)))) = shape else { return Ok(Outcome::NoMatch) };
    if by_channel_kind(graph, other, channels, rank).is_none() {
        return Ok(Outcome::NoMatch);
    }
    let node = graph.node(id);
    if node.attributes.flag("training_mode", false)?
        || !node.attributes.flag("spatial", true)?
        || node.outputs().iter().skip(1).any(Option::is_some)
    {
        return Outcome::check_failed("it does not normalise by channel with fixed statistics");
    }
    if !is_computed_once(graph, scale) || !is_computed_once(graph, shift) {
        return Outcome::check_failed("its scale or shift is not constant");
    }
    let dtype = dtype_of(graph, scale);
    if dtype != dtype_of(graph, shift) || dtype != dtype_of(graph, other) || dtype != dtype_of(graph, x) {
        return Outcome::check_failed("the constant has another element type");
    }
    let tensor = graph.constant(other).cloned();
    let flat = tensor.and_then(|tensor| tensor.reshaped(&[tensor.dims().iter().product()]).ok());
    let Some(flat) = flat else { return Ok(Outcome::NoMatch) };
    let (merged, statistics) = (copy_of(graph.node(id)), graph.node(id).inputs()[3..].to_vec());
    let vector = graph.add_constant("by_channel", flat);
    let (scale, shift) = match multiplies {
        true => (binary(graph, "Mul", scale, vector)?, binary(graph, "Mul", shift, vector)?),
        false => (scale, binary(graph, "Add", shift, vector)?),
    };
    let mut inputs = vec![Some(x), Some(scale), Some(shift)];
    inputs.extend(statistics);
    replace(graph, next, merged, &inputs)?;
    Ok(Outcome::Fired)
}
