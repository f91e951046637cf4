//! Rotary position embedding from `x * cos + rotate_half(x) * sin`, where the angles repeat in both halves.

use super::pattern::{dtype_of, emit, operands, private_producer, producer, replace, shape_of, version};
use super::{Outcome, Rewrite, State};
use crate::error::Result;
use crate::graph::{Dim, Graph, Node, NodeId, ValueId};

pub const REWRITE: Rewrite = Rewrite { name: "RotaryEmbedding", operators: &["Add"], apply };

fn apply(graph: &mut Graph, id: NodeId, _: &mut State<'_>) -> Result<Outcome> {
    if !graph.node(id).domain.is_empty() {
        return Ok(Outcome::NoMatch);
    }
    let Some((x, cos, sin)) = rotation(graph, id) else { return Ok(Outcome::NoMatch) };
    let (Some(cos), Some(sin)) = (angles(graph, cos, "Cos"), angles(graph, sin, "Sin")) else {
        return Outcome::check_failed(
            "the cosines and sines are not those of angles that repeat in both halves",
        );
    };
    let fits = match (shape_of(graph, x), shape_of(graph, cos), shape_of(graph, sin)) {
        (Some(x), Some(c), Some(s)) => {
            let half = x.last().and_then(Dim::known).map(|h| h / 2);
            let by_position =
                |t: &[Dim]| t.len() == 3 && t[0] == x[0] && t[1] == x[2] && t[2].known() == half;
            x.rank() == 4 && half.is_some() && by_position(c) && by_position(s)
        }
        _ => false,
    };
    if !fits || dtype_of(graph, cos) != dtype_of(graph, x) || !dtype_of(graph, x).is_float() {
        return Outcome::check_failed(
            "the angles are not one for each entry, position and pair in the type of the input",
        );
    }
    let cos = emit(graph, Node::new("", "Cos", version(graph, 7)), &[Some(cos)])?;
    let sin = emit(graph, Node::new("", "Sin", version(graph, 7)), &[Some(sin)])?;
    let node = Node::new("", "RotaryEmbedding", version(graph, 23)).with_name(graph.node(id).name.clone());
    replace(graph, id, node, &[Some(x), Some(cos), Some(sin)])?;
    Ok(Outcome::Fired)
}

/// The `x`, cosines and sines of `x * cos + rotate_half(x) * sin`.
fn rotation(graph: &Graph, id: NodeId) -> Option<(ValueId, ValueId, ValueId)> {
    operands(graph, id).into_iter().find_map(|(straight, turned)| {
        let straight = operands(graph, private_producer(graph, straight, "Mul")?);
        let turned = operands(graph, private_producer(graph, turned, "Mul")?);
        turned.into_iter().find_map(|(rotated, sin)| {
            let x = rotated_half(graph, rotated)?;
            straight.iter().find(|(a, _)| *a == x).map(|(_, cos)| (x, *cos, sin))
        })
    })
}

/// The `x` of `Concat(-second half, first half)` along the last axis.
fn rotated_half(graph: &Graph, value: ValueId) -> Option<ValueId> {
    let concat = graph.node(private_producer(graph, value, "Concat")?);
    let rank = shape_of(graph, value)?.rank() as i64;
    let axis = concat.attributes.int("axis").ok()??;
    let [Some(negated), Some(first)] = *concat.inputs() else { return None };
    if axis != -1 && axis != rank - 1 {
        return None;
    }
    let second = graph.node(private_producer(graph, negated, "Neg")?).input(0)?;
    let (x, low) = half(graph, first)?;
    let (y, high) = half(graph, second)?;
    (x == y && low == 0 && high == 1).then_some(x)
}

/// The value that `value` is a half of along the last axis, and which half.
fn half(graph: &Graph, value: ValueId) -> Option<(ValueId, usize)> {
    let (node, slot) = graph.producer(value)?;
    let n = graph.node(node);
    let source = n.input(0)?;
    let (whole, part) = (shape_of(graph, source)?, shape_of(graph, value)?);
    let (size, rank) = (whole.last()?.known()?, whole.rank());
    if size % 2 != 0 || part.last()?.known()? * 2 != size || part.rank() != rank {
        return None;
    }
    let last = |axis: i64| axis == -1 || axis == rank as i64 - 1;
    if n.is_onnx("Split") {
        return (n.outputs().len() == 2 && last(n.int_or("axis", 0).ok()?)).then_some((source, slot));
    }
    if !n.is_onnx("Slice") || n.version < 10 {
        return None;
    }
    let one = |i: usize| match graph.constant_input(node, i)?.to_i64_vec().ok()?.as_slice() {
        [value] => Some(*value),
        _ => None,
    };
    let step = if n.input(4).is_some() { one(4)? } else { 1 };
    let start = one(1)?;
    let start = if start < 0 { start + size as i64 } else { start };
    if !last(one(3)?) || step != 1 {
        return None;
    }
    match start {
        0 => Some((source, 0)),
        s if s == size as i64 / 2 => Some((source, 1)),
        _ => None,
    }
}

/// The angles `f` of `function(Concat(f, f))`, seen through a dimension that is added for the heads.
fn angles(graph: &Graph, value: ValueId, function: &str) -> Option<ValueId> {
    let added = producer(graph, value, "Unsqueeze").or_else(|| producer(graph, value, "Reshape"))?;
    let table = graph.node(added).input(0)?;
    let (from, to) = (shape_of(graph, table)?, shape_of(graph, value)?);
    let with_heads = from.rank() == 3 && to.rank() == 4 && to[1] == Dim::Known(1);
    if !with_heads || to[0] != from[0] || to[2..] != from[1..] || from.contains(&Dim::Unknown) {
        return None;
    }
    let doubled = graph.node(producer(graph, table, function)?).input(0)?;
    let concat = graph.node(producer(graph, doubled, "Concat")?);
    let axis = concat.attributes.int("axis").ok()??;
    match *concat.inputs() {
        [Some(a), Some(b)] if a == b && (axis == -1 || axis == 2) => Some(a),
        _ => None,
    }
}
