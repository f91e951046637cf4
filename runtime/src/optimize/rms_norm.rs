//! RMSNormalization from `x / sqrt(mean(x^2) + epsilon) * scale` over the last axis.

use super::pattern::{dtype_of, follower, replace, result, version};
use super::variance::{self, flat, vector_beside};
use super::{Outcome, Rewrite, State};
use crate::dtype::DType;
use crate::error::Result;
use crate::graph::{Graph, Node, NodeId};

pub const REWRITE: Rewrite = Rewrite { name: "RMSNormalization", operators: &["Sqrt", "Pow"], apply };

fn apply(graph: &mut Graph, id: NodeId, _: &mut State<'_>) -> Result<Outcome> {
    let Some(found) = variance::find(graph, id) else { return Ok(Outcome::NoMatch) };
    if !matches!(dtype_of(graph, found.input), DType::F32 | DType::F16 | DType::BF16) {
        return Outcome::check_failed("the operator computes in float32, which would lose precision here");
    }
    let scaled = follower(graph, found.quotient, "Mul")
        .and_then(|m| Some((m, vector_beside(graph, m, result(graph, found.quotient)?)?)));
    let Some((end, scale)) = scaled else {
        return Outcome::check_failed("no scale over the last axis follows");
    };
    let Some(scale) = flat(graph, scale) else { return Outcome::check_failed("the scale is not a vector") };
    let node = Node::new("", "RMSNormalization", version(graph, 23))
        .with_name(graph.node(end).name.clone())
        .with_attribute("axis", -1)
        .with_attribute("epsilon", found.epsilon as f32);
    replace(graph, end, node, &[Some(found.input), Some(scale)])?;
    Ok(Outcome::Fired)
}
