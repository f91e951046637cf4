//! Gelu from its definition with the error function and from its approximation with tanh.

use super::pattern::{
    beside_scalar, dtype_of, follower, is_scalar, operands, other_input, private_producer, producer, replace,
    result, version,
};
use super::{Outcome, Rewrite, State};
use crate::error::Result;
use crate::graph::{Graph, Node, NodeId, ValueId};

/// `x / 2 * (1 + Erf(x / sqrt(2)))`.
pub const ERF: Rewrite = Rewrite { name: "Gelu", operators: &["Erf"], apply: erf };

/// `x / 2 * (1 + Tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))`.
pub const TANH: Rewrite = Rewrite { name: "Gelu with tanh", operators: &["Tanh"], apply: tanh };

const ROOT_2_BY_PI: f64 = 0.797_884_560_802_865_4;
const CUBIC: f64 = 0.044_715;

fn erf(graph: &mut Graph, id: NodeId, _: &mut State<'_>) -> Result<Outcome> {
    let Some(scaled) = graph.node(id).input(0).filter(|_| graph.node(id).domain.is_empty()) else {
        return Ok(Outcome::NoMatch);
    };
    let by_division = private_producer(graph, scaled, "Div").and_then(|d| {
        let node = graph.node(d);
        node.input(0).filter(|_| node.input(1).is_some_and(|s| is_scalar(graph, s, std::f64::consts::SQRT_2)))
    });
    let by_product = || {
        private_producer(graph, scaled, "Mul")
            .and_then(|m| beside_scalar(graph, m, std::f64::consts::FRAC_1_SQRT_2))
    };
    match by_division.or_else(by_product) {
        Some(x) => finish(graph, id, x, "none"),
        None => Ok(Outcome::NoMatch),
    }
}

fn tanh(graph: &mut Graph, id: NodeId, _: &mut State<'_>) -> Result<Outcome> {
    if !graph.node(id).domain.is_empty() {
        return Ok(Outcome::NoMatch);
    }
    match graph.node(id).input(0).and_then(|v| tanh_argument(graph, v)) {
        Some(x) => finish(graph, id, x, "tanh"),
        None => Ok(Outcome::NoMatch),
    }
}

/// The `x` of `sqrt(2 / pi) * (x + 0.044715 * x^3)`.
fn tanh_argument(graph: &Graph, value: ValueId) -> Option<ValueId> {
    let product = private_producer(graph, value, "Mul")?;
    let sum = private_producer(graph, beside_scalar(graph, product, ROOT_2_BY_PI)?, "Add")?;
    operands(graph, sum).into_iter().find_map(|(x, cubic)| {
        let cube = beside_scalar(graph, private_producer(graph, cubic, "Mul")?, CUBIC)?;
        is_power(graph, cube, x).then_some(x)
    })
}

/// True when `value` is `x` to the third.
fn is_power(graph: &Graph, value: ValueId, x: ValueId) -> bool {
    if let Some(pow) = private_producer(graph, value, "Pow") {
        let node = graph.node(pow);
        return node.input(0) == Some(x) && node.input(1).is_some_and(|e| is_scalar(graph, e, 3.0));
    }
    let Some(product) = private_producer(graph, value, "Mul") else { return false };
    operands(graph, product).into_iter().any(|(a, square)| a == x && is_square(graph, square, x))
}

fn is_square(graph: &Graph, value: ValueId, x: ValueId) -> bool {
    if let Some(product) = producer(graph, value, "Mul") {
        return operands(graph, product).first() == Some(&(x, x));
    }
    producer(graph, value, "Pow").is_some_and(|pow| {
        let node = graph.node(pow);
        node.input(0) == Some(x) && node.input(1).is_some_and(|e| is_scalar(graph, e, 2.0))
    })
}

/// Replaces the end of `x / 2 * (1 + gate)`, whatever the order of its products.
fn finish(graph: &mut Graph, gate: NodeId, x: ValueId, approximate: &str) -> Result<Outcome> {
    if !dtype_of(graph, x).is_float() {
        return Ok(Outcome::NoMatch);
    }
    let Some(end) = end_of(graph, gate, x) else {
        return Outcome::check_failed(
            "what follows is not x / 2 * (1 + gate), or a step of it is read elsewhere",
        );
    };
    let node = Node::new("", "Gelu", version(graph, 20))
        .with_name(graph.node(end).name.clone())
        .with_attribute("approximate", approximate);
    replace(graph, end, node, &[Some(x)])?;
    Ok(Outcome::Fired)
}

fn end_of(graph: &Graph, gate: NodeId, x: ValueId) -> Option<NodeId> {
    let sum = follower(graph, gate, "Add")?;
    beside_scalar(graph, sum, 1.0)?;
    let first = follower(graph, sum, "Mul")?;
    let factor = other_input(graph, first, result(graph, sum)?)?;
    if factor == x {
        let second = follower(graph, first, "Mul")?;
        return beside_scalar(graph, second, 0.5).map(|_| second);
    }
    if is_scalar(graph, factor, 0.5) {
        let second = follower(graph, first, "Mul")?;
        return (other_input(graph, second, result(graph, first)?)? == x).then_some(second);
    }
    let half =
        private_producer(graph, factor, "Mul").and_then(|m| beside_scalar(graph, m, 0.5)).or_else(|| {
            let node = graph.node(private_producer(graph, factor, "Div")?);
            node.input(0).filter(|_| node.input(1).is_some_and(|s| is_scalar(graph, s, 2.0)))
        })?;
    (half == x).then_some(first)
}
