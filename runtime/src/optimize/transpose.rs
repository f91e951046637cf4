//! Merges a Transpose of a Transpose; what is left of a pair that cancels is removed as a no-op.

use super::pattern::{copy_of, forward, private_producer, producer, replace, shape_of, version};
use super::{Outcome, Rewrite, State};
use crate::error::Result;
use crate::graph::{Dim, Graph, Node, NodeId, ValueId};

pub const MERGE: Rewrite = Rewrite { name: "merged transposes", operators: &["Transpose"], apply: merge };

/// `Reshape(Transpose(Reshape(x)))` that flattens the outer axes, swaps the last two and restores the outer axes.
pub const BATCHED: Rewrite = Rewrite { name: "batched transposes", operators: &["Reshape"], apply: batched };

/// The axes a Transpose reads its input by.
pub fn permutation(graph: &Graph, id: NodeId) -> Option<Vec<usize>> {
    let node = graph.node(id);
    if let Some(perm) = node.attributes.ints("perm").ok()? {
        return perm.iter().map(|a| usize::try_from(*a).ok()).collect();
    }
    let rank = graph.input_type(id, 0)?.shape()?.rank();
    Some((0..rank).rev().collect())
}

fn merge(graph: &mut Graph, id: NodeId, _: &mut State<'_>) -> Result<Outcome> {
    if !graph.node(id).domain.is_empty() {
        return Ok(Outcome::NoMatch);
    }
    let Some(first) = graph.node(id).input(0).and_then(|v| producer(graph, v, "Transpose")) else {
        return Ok(Outcome::NoMatch);
    };
    let (Some(inner), Some(outer)) = (permutation(graph, first), permutation(graph, id)) else {
        return Ok(Outcome::NoMatch);
    };
    let Some(perm) = outer.iter().map(|a| inner.get(*a).copied()).collect::<Option<Vec<_>>>() else {
        return Ok(Outcome::NoMatch);
    };
    let (Some(source), Some(output)) = (graph.node(first).input(0), graph.node(id).output(0)) else {
        return Ok(Outcome::NoMatch);
    };
    if perm.iter().enumerate().all(|(i, a)| i == *a) && forward(graph, output, source) {
        graph.remove_node(id);
        return Ok(Outcome::Fired);
    }
    let mut merged = copy_of(graph.node(id));
    merged.attributes.set("perm", perm.iter().map(|a| *a as i64).collect::<Vec<_>>());
    replace(graph, id, merged, &[Some(source)])?;
    Ok(Outcome::Fired)
}

fn batched(graph: &mut Graph, id: NodeId, _: &mut State<'_>) -> Result<Outcome> {
    let Some((source, rank)) = swapped_source(graph, id) else { return Ok(Outcome::NoMatch) };
    let mut perm: Vec<i64> = (0..rank as i64).collect();
    perm.swap(rank - 1, rank - 2);
    let node = Node::new("", "Transpose", version(graph, 1))
        .with_name(graph.node(id).name.clone())
        .with_attribute("perm", perm);
    replace(graph, id, node, &[Some(source)])?;
    Ok(Outcome::Fired)
}

/// The `x` whose last two axes a Reshape after a Transpose after a Reshape swaps, and its rank.
fn swapped_source(graph: &Graph, id: NodeId) -> Option<(ValueId, usize)> {
    let node = graph.node(id);
    if !node.is_onnx("Reshape") {
        return None;
    }
    let transpose = private_producer(graph, node.input(0)?, "Transpose")?;
    let flattened = graph.node(transpose).input(0)?;
    let source = graph.node(producer(graph, flattened, "Reshape")?).input(0)?;
    let (from, flat, to) =
        (shape_of(graph, source)?, shape_of(graph, flattened)?, shape_of(graph, node.output(0)?)?);
    let [outer @ .., length, size] = from.dims() else { return None };
    let [outer_to @ .., size_to, length_to] = to.dims() else { return None };
    let fits = permutation(graph, transpose)? == [0, 2, 1]
        && outer == outer_to
        && flat.rank() == 3
        && flat[1..] == [length.clone(), size.clone()]
        && (length, size) == (length_to, size_to)
        && !from.contains(&Dim::Unknown);
    fits.then_some((source, from.rank()))
}
