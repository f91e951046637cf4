//! Reshape and its kin: shapes computed in the graph become constants, chains become one node.

use super::pattern::{copy_of, forward, replace, same_shape, shape_of};
use super::{Outcome, Rewrite, State};
use crate::error::Result;
use crate::graph::{Dim, Graph, Node, NodeId, Shape, ValueId};
use crate::tensor::Tensor;

/// A Reshape whose target is computed gets a constant one, where the static shapes say what it is.
pub const STATIC_RESHAPE: Rewrite =
    Rewrite { name: "static Reshape", operators: &["Reshape"], apply: static_reshape };

/// The same for Expand.
pub const STATIC_EXPAND: Rewrite =
    Rewrite { name: "static Expand", operators: &["Expand"], apply: static_expand };

/// Two nodes in a row that only change the shape become one Reshape.
pub const MERGE: Rewrite = Rewrite {
    name: "merged reshapes",
    operators: &["Reshape", "Squeeze", "Unsqueeze", "Flatten"],
    apply: merge,
};

/// The Reshape target that gives `to` from `from`: sizes, 0 for a size that is kept, at most one -1.
fn target(from: &Shape, to: &Shape) -> Option<Vec<i64>> {
    let mut inferred = false;
    let mut sizes = Vec::with_capacity(to.rank());
    for (i, dim) in to.iter().enumerate() {
        sizes.push(match dim {
            Dim::Known(n) if *n > 0 => i64::try_from(*n).ok()?,
            dim if from.get(i) == Some(dim) && *dim != Dim::Unknown => 0,
            Dim::Known(_) => return None,
            _ if inferred => return None,
            _ => {
                inferred = true;
                -1
            }
        });
    }
    // With a size of zero the inferred one is not determined.
    (!inferred || !from.contains(&Dim::Known(0))).then_some(sizes)
}

fn reshape_node(
    graph: &mut Graph,
    template: &Node,
    source: ValueId,
    sizes: Vec<i64>,
) -> Result<(Node, Vec<Option<ValueId>>)> {
    let node = Node::new("", "Reshape", template.version.max(5)).with_name(template.name.clone());
    let shape = graph.add_constant("shape", Tensor::from_slice(&[sizes.len()], &sizes)?);
    Ok((node, vec![Some(source), Some(shape)]))
}

fn static_reshape(graph: &mut Graph, id: NodeId, _: &mut State<'_>) -> Result<Outcome> {
    let node = graph.node(id);
    if !node.domain.is_empty() || node.version < 5 {
        return Ok(Outcome::NoMatch);
    }
    let (Some(source), Some(given), Some(output)) = (node.input(0), node.input(1), node.output(0)) else {
        return Ok(Outcome::NoMatch);
    };
    if graph.constant(given).is_some() {
        return Ok(Outcome::NoEffect);
    }
    let (Some(from), Some(to)) = (shape_of(graph, source), shape_of(graph, output)) else {
        return Outcome::check_failed("a rank is not known");
    };
    let Some(sizes) = target(from, to) else {
        return Outcome::check_failed(format!("more than one size of {to} is computed from {from}"));
    };
    let template = copy_of(node);
    let (node, inputs) = reshape_node(graph, &template, source, sizes)?;
    replace(graph, id, node, &inputs)?;
    Ok(Outcome::Fired)
}

fn static_expand(graph: &mut Graph, id: NodeId, _: &mut State<'_>) -> Result<Outcome> {
    let node = graph.node(id);
    let (Some(source), Some(given), Some(output)) = (node.input(0), node.input(1), node.output(0)) else {
        return Ok(Outcome::NoMatch);
    };
    if !node.domain.is_empty() || graph.constant(given).is_some() {
        return Ok(Outcome::NoEffect);
    }
    let (Some(from), Some(to)) = (shape_of(graph, source), shape_of(graph, output)) else {
        return Outcome::check_failed("a rank is not known");
    };
    let size = |(i, dim): (usize, &Dim)| match dim {
        Dim::Known(n) => i64::try_from(*n).ok(),
        Dim::Unknown => None,
        // Expanding to 1 keeps a size.
        dim => ((i + from.rank()).checked_sub(to.rank()).and_then(|i| from.get(i)) == Some(dim)).then_some(1),
    };
    let Some(sizes) = to.iter().enumerate().map(size).collect::<Option<Vec<i64>>>() else {
        return Outcome::check_failed(format!("a size of {to} is not known before the run"));
    };
    let shape = graph.add_constant("shape", Tensor::from_slice(&[sizes.len()], &sizes)?);
    graph.set_input(id, 1, Some(shape));
    Ok(Outcome::Fired)
}

fn is_reshaping(node: &Node) -> bool {
    ["Reshape", "Squeeze", "Unsqueeze", "Flatten"].iter().any(|op| node.is_onnx(op))
}

fn merge(graph: &mut Graph, id: NodeId, _: &mut State<'_>) -> Result<Outcome> {
    let node = graph.node(id);
    if !is_reshaping(node) {
        return Ok(Outcome::NoMatch);
    }
    let Some(((first, 0), output)) = node.input(0).and_then(|v| Some((graph.producer(v)?, node.output(0)?)))
    else {
        return Ok(Outcome::NoMatch);
    };
    if !is_reshaping(graph.node(first)) {
        return Ok(Outcome::NoMatch);
    }
    let Some(source) = graph.node(first).input(0) else { return Ok(Outcome::NoMatch) };
    if same_shape(graph, source, output) && forward(graph, output, source) {
        graph.remove_node(id);
        return Ok(Outcome::Fired);
    }
    let sizes = match (shape_of(graph, source), shape_of(graph, output)) {
        (Some(from), Some(to)) => target(from, to),
        _ => None,
    };
    let Some(sizes) = sizes else {
        return Outcome::check_failed("more than one size is computed in the run");
    };
    let template = copy_of(graph.node(id));
    let (node, inputs) = reshape_node(graph, &template, source, sizes)?;
    replace(graph, id, node, &inputs)?;
    Ok(Outcome::Fired)
}
