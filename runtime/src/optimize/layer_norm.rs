//! LayerNormalization from `(x - mean) / sqrt(mean((x - mean)^2) + epsilon) * scale + bias` over the last axis.

use super::pattern::{
    dtype_of, follower, only_read_by, private_producer, producer, reduces_last, replace, result, version,
};
use super::variance::{self, flat, vector_beside};
use super::{Outcome, Rewrite, State};
use crate::dtype::DType;
use crate::error::Result;
use crate::graph::{Graph, Node, NodeId, ValueId};

pub const REWRITE: Rewrite = Rewrite { name: "LayerNormalization", operators: &["Sqrt", "Pow"], apply };

/// The `x` of `x - ReduceMean(x)`.
fn centered(graph: &Graph, difference: ValueId) -> Option<ValueId> {
    let sub = graph.node(producer(graph, difference, "Sub")?);
    let (x, mean) = (sub.input(0)?, sub.input(1)?);
    let reduce = private_producer(graph, mean, "ReduceMean").filter(|r| reduces_last(graph, *r))?;
    (graph.node(reduce).input(0) == Some(x)).then_some(x)
}

fn apply(graph: &mut Graph, id: NodeId, _: &mut State<'_>) -> Result<Outcome> {
    let Some(found) = variance::find(graph, id) else { return Ok(Outcome::NoMatch) };
    let Some(x) = centered(graph, found.input) else { return Ok(Outcome::NoMatch) };
    if !only_read_by(graph, found.input, &[found.square, found.quotient]) {
        return Outcome::check_failed("the difference from the mean is read elsewhere");
    }
    if !matches!(dtype_of(graph, x), DType::F32 | DType::F16 | DType::BF16) {
        return Outcome::check_failed("the operator computes in float32, which would lose precision here");
    }
    let scaled = follower(graph, found.quotient, "Mul")
        .and_then(|m| Some((m, vector_beside(graph, m, result(graph, found.quotient)?)?)));
    let Some((product, scale)) = scaled else {
        return Outcome::check_failed("no scale over the last axis follows");
    };
    let shifted = follower(graph, product, "Add")
        .and_then(|a| Some((a, vector_beside(graph, a, result(graph, product)?)?)));
    let (end, bias) = shifted.map_or((product, None), |(add, bias)| (add, Some(bias)));
    let Some(scale) = flat(graph, scale) else { return Outcome::check_failed("the scale is not a vector") };
    let bias = match bias {
        Some(bias) => match flat(graph, bias) {
            Some(bias) => Some(bias),
            None => return Outcome::check_failed("the bias is not a vector"),
        },
        None => None,
    };
    let node = Node::new("", "LayerNormalization", version(graph, 17))
        .with_name(graph.node(end).name.clone())
        .with_attribute("axis", -1)
        .with_attribute("epsilon", found.epsilon as f32);
    let mut inputs = vec![Some(x), Some(scale)];
    inputs.extend(bias.map(Some));
    replace(graph, end, node, &inputs)?;
    Ok(Outcome::Fired)
}
