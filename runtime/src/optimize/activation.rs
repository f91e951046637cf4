//! The activations that a product or convolution can end with.

use super::pattern::scalar;
use crate::graph::{Graph, NodeId};

/// An activation by the name of attribute `activation`, with its parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Activation {
    pub name: &'static str,
    pub parameters: Vec<f32>,
}

/// The bounds of a Clip, when they are constant.
pub fn clip_bounds(graph: &Graph, id: NodeId) -> Option<(f64, f64)> {
    let node = graph.node(id);
    if node.version < 11 {
        let of = |name: &str, default: f32| node.float_or(name, default).ok().map(f64::from);
        return Some((of("min", f32::MIN)?, of("max", f32::MAX)?));
    }
    let of = |i: usize, default: f32| match node.input(i) {
        Some(v) => scalar(graph, v),
        None => Some(f64::from(default)),
    };
    Some((of(1, f32::MIN)?, of(2, f32::MAX)?))
}

/// The activation that a node applies to its first input.
pub fn of(graph: &Graph, id: NodeId) -> Option<Activation> {
    let node = graph.node(id);
    if !node.domain.is_empty() {
        return None;
    }
    let float = |name: &str, default: f32| node.float_or(name, default).ok();
    let (name, parameters) = match &*node.op_type {
        "Relu" => ("Relu", vec![]),
        "Sigmoid" => ("Sigmoid", vec![]),
        "Tanh" => ("Tanh", vec![]),
        "HardSwish" => ("HardSwish", vec![]),
        "LeakyRelu" => ("LeakyRelu", vec![float("alpha", 0.01)?]),
        "HardSigmoid" => ("HardSigmoid", vec![float("alpha", 0.2)?, float("beta", 0.5)?]),
        "Swish" if float("alpha", 1.0)? == 1.0 => ("Silu", vec![]),
        "Gelu" if node.string_or("approximate", "none").ok()? == "none" => ("Gelu", vec![]),
        "Clip" => {
            let (min, max) = clip_bounds(graph, id)?;
            ("Clip", vec![min as f32, max as f32])
        }
        _ => return None,
    };
    Some(Activation { name, parameters })
}
