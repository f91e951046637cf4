//! Swish, HardSigmoid and HardSwish from their definitions.

use super::activation::clip_bounds;
use super::pattern::{
    beside_scalar, dtype_of, is_scalar, operands, private_producer, replace, scalar, version,
};
use super::{Outcome, Rewrite, State};
use crate::error::Result;
use crate::graph::{Graph, Node, NodeId, ValueId};

/// `x * Sigmoid(alpha * x)`.
pub const SWISH: Rewrite = Rewrite { name: "Swish", operators: &["Mul"], apply: swish };

/// `Clip(x + 3, 0, 6) / 6`.
pub const HARD_SIGMOID: Rewrite =
    Rewrite { name: "HardSigmoid", operators: &["Div", "Mul"], apply: hard_sigmoid };

/// `x * HardSigmoid(x)` with a slope of a sixth.
pub const HARD_SWISH: Rewrite = Rewrite { name: "HardSwish", operators: &["Mul"], apply: hard_swish };

/// `x * Clip(x + 3, 0, 6) / 6`.
pub const HARD_SWISH_QUOTIENT: Rewrite =
    Rewrite { name: "HardSwish", operators: &["Div", "Mul"], apply: hard_swish_quotient };

fn is_float(graph: &Graph, value: ValueId) -> bool {
    dtype_of(graph, value).is_float()
}

fn swish(graph: &mut Graph, id: NodeId, _: &mut State<'_>) -> Result<Outcome> {
    if !graph.node(id).domain.is_empty() {
        return Ok(Outcome::NoMatch);
    }
    for (x, gate) in operands(graph, id) {
        let Some(sigmoid) = private_producer(graph, gate, "Sigmoid").filter(|_| is_float(graph, x)) else {
            continue;
        };
        let Some(inner) = graph.node(sigmoid).input(0) else { continue };
        let alpha = if inner == x {
            Some(1.0)
        } else {
            let scaled = private_producer(graph, inner, "Mul");
            scaled
                .and_then(|m| operands(graph, m).into_iter().find(|o| o.0 == x))
                .and_then(|o| scalar(graph, o.1))
        };
        if let Some(alpha) = alpha {
            let name = graph.node(id).name.clone();
            let node = Node::new("", "Swish", version(graph, 24))
                .with_name(name)
                .with_attribute("alpha", alpha as f32);
            replace(graph, id, node, &[Some(x)])?;
            return Ok(Outcome::Fired);
        }
    }
    Ok(Outcome::NoMatch)
}

/// The `x` of `Clip(x + 3, 0, 6)`, which nothing else reads.
fn shifted_relu6(graph: &Graph, value: ValueId) -> Option<ValueId> {
    let clip = private_producer(graph, value, "Clip")?;
    if clip_bounds(graph, clip)? != (0.0, 6.0) {
        return None;
    }
    let shifted = graph.node(clip).input(0)?;
    beside_scalar(graph, private_producer(graph, shifted, "Add")?, 3.0)
}

/// The operand that a node divides by six.
fn sixth(graph: &Graph, id: NodeId) -> Option<ValueId> {
    let node = graph.node(id);
    if node.is_onnx("Div") {
        return node.input(0).filter(|_| node.input(1).is_some_and(|d| is_scalar(graph, d, 6.0)));
    }
    if node.is_onnx("Mul") { beside_scalar(graph, id, 1.0 / 6.0) } else { None }
}

fn hard_sigmoid(graph: &mut Graph, id: NodeId, _: &mut State<'_>) -> Result<Outcome> {
    let Some(x) = sixth(graph, id).and_then(|v| shifted_relu6(graph, v)).filter(|x| is_float(graph, *x))
    else {
        return Ok(Outcome::NoMatch);
    };
    let node = Node::new("", "HardSigmoid", version(graph, 6))
        .with_name(graph.node(id).name.clone())
        .with_attribute("alpha", 1.0f32 / 6.0)
        .with_attribute("beta", 0.5f32);
    replace(graph, id, node, &[Some(x)])?;
    Ok(Outcome::Fired)
}

fn replace_by_hard_swish(graph: &mut Graph, id: NodeId, x: ValueId) -> Result<Outcome> {
    let node = Node::new("", "HardSwish", version(graph, 14)).with_name(graph.node(id).name.clone());
    replace(graph, id, node, &[Some(x)])?;
    Ok(Outcome::Fired)
}

fn hard_swish(graph: &mut Graph, id: NodeId, _: &mut State<'_>) -> Result<Outcome> {
    if !graph.node(id).domain.is_empty() {
        return Ok(Outcome::NoMatch);
    }
    for (x, gate) in operands(graph, id) {
        let Some(hard) = private_producer(graph, gate, "HardSigmoid").filter(|_| is_float(graph, x)) else {
            continue;
        };
        let node = graph.node(hard);
        if node.input(0) != Some(x) {
            continue;
        }
        let (alpha, beta) = (node.float_or("alpha", 0.2)?, node.float_or("beta", 0.5)?);
        if (alpha - 1.0 / 6.0).abs() > 1e-6 || beta != 0.5 {
            return Outcome::check_failed(format!("its HardSigmoid has slope {alpha} and offset {beta}"));
        }
        return replace_by_hard_swish(graph, id, x);
    }
    Ok(Outcome::NoMatch)
}

fn hard_swish_quotient(graph: &mut Graph, id: NodeId, _: &mut State<'_>) -> Result<Outcome> {
    let Some(product) = sixth(graph, id).and_then(|v| private_producer(graph, v, "Mul")) else {
        return Ok(Outcome::NoMatch);
    };
    for (x, gate) in operands(graph, product) {
        if shifted_relu6(graph, gate) == Some(x) && is_float(graph, x) {
            return replace_by_hard_swish(graph, id, x);
        }
    }
    Ok(Outcome::NoMatch)
}
