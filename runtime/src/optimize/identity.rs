//! Removes nodes whose output is their input.

use super::pattern::{dtype_of, forward, is_scalar, same_shape};
use super::{Outcome, Rewrite, State};
use crate::dtype::DType;
use crate::error::Result;
use crate::graph::{Graph, NodeId, ValueId};

pub const REWRITE: Rewrite = Rewrite {
    name: "no-op elimination",
    operators: &[
        "Add",
        "Cast",
        "CastLike",
        "Clip",
        "Concat",
        "Div",
        "Dropout",
        "Expand",
        "Flatten",
        "Identity",
        "Max",
        "Mean",
        "Min",
        "Mul",
        "Pad",
        "Pow",
        "Reshape",
        "Slice",
        "Squeeze",
        "Sub",
        "Sum",
        "Tile",
        "Transpose",
        "Unsqueeze",
    ],
    apply,
};

fn apply(graph: &mut Graph, id: NodeId, _: &mut State<'_>) -> Result<Outcome> {
    let Some(output) = graph.node(id).output(0) else { return Ok(Outcome::NoMatch) };
    let Some(input) = passed_through(graph, id, output)? else { return Ok(Outcome::NoMatch) };
    if !forward(graph, output, input) {
        return Ok(Outcome::NoEffect);
    }
    graph.remove_node(id);
    Ok(Outcome::Fired)
}

/// The input that a node returns unchanged as its only output.
fn passed_through(graph: &Graph, id: NodeId, output: ValueId) -> Result<Option<ValueId>> {
    let node = graph.node(id);
    if !node.domain.is_empty() {
        return Ok(None);
    }
    let Some(first) = node.input(0) else { return Ok(None) };
    let keeps_shape = same_shape(graph, first, output);
    let constant_ints = |i: usize| graph.constant_input(id, i).and_then(|t| t.to_i64_vec().ok());
    let keeps = match &*node.op_type {
        "Identity" => true,
        "Cast" | "CastLike" => {
            dtype_of(graph, first) != DType::Undefined && dtype_of(graph, first) == dtype_of(graph, output)
        }
        "Dropout" => {
            let mask_unused = node.output(1).is_none_or(|m| graph.is_unused(m));
            let training = match node.version {
                12.. => match node.input(2) {
                    None => false,
                    Some(t) => graph.constant(t).is_none_or(|t| t.as_bytes().first() != Some(&0)),
                },
                _ => false,
            };
            mask_unused && !training
        }
        "Concat" | "Max" | "Mean" | "Min" | "Sum" => node.inputs().len() == 1,
        "Clip" if node.version >= 11 => node.input(1).is_none() && node.input(2).is_none(),
        "Clip" => !node.attributes.contains("min") && !node.attributes.contains("max"),
        "Expand" | "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze" => keeps_shape,
        "Tile" => keeps_shape && constant_ints(1).is_some_and(|r| r.iter().all(|n| *n == 1)),
        "Slice" => {
            let steps_one = match node.input(4) {
                Some(_) if node.version >= 10 => constant_ints(4).is_some_and(|s| s.iter().all(|n| *n == 1)),
                _ => true,
            };
            keeps_shape && steps_one
        }
        "Pad" => {
            let pads = match node.version {
                ..2 => node.attributes.ints("paddings")?.map(<[i64]>::to_vec),
                2..11 => node.attributes.ints("pads")?.map(<[i64]>::to_vec),
                _ => constant_ints(1),
            };
            pads.is_some_and(|p| p.iter().all(|n| *n == 0))
        }
        "Transpose" => {
            let ordered = |p: &[i64]| p.iter().enumerate().all(|(i, a)| i as i64 == *a);
            node.attributes.ints("perm")?.is_some_and(ordered)
        }
        "Add" | "Mul" => return Ok(neutral_operand(graph, id, output)),
        "Sub" => is_neutral(graph, id, 1, 0.0) && keeps_shape,
        "Div" | "Pow" => is_neutral(graph, id, 1, 1.0) && keeps_shape,
        _ => false,
    };
    Ok(keeps.then_some(first))
}

/// The operand beside an exact 0 (Add) or 1 (Mul) that does not enlarge it.
fn neutral_operand(graph: &Graph, id: NodeId, output: ValueId) -> Option<ValueId> {
    let neutral = if graph.node(id).is_onnx("Add") { 0.0 } else { 1.0 };
    let at = (0..2).find(|i| is_neutral(graph, id, *i, neutral))?;
    let other = graph.node(id).input(1 - at)?;
    same_shape(graph, other, output).then_some(other)
}

fn is_neutral(graph: &Graph, id: NodeId, i: usize, value: f64) -> bool {
    let exact = |v: ValueId| is_scalar(graph, v, value) && super::pattern::scalar(graph, v) == Some(value);
    graph.node(id).input(i).is_some_and(exact)
}
