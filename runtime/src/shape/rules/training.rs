//! Losses and optimisers.

use super::Rule;
use crate::error::Result;
use crate::graph::Shape;
use crate::shape::site::Site;

const TRAINING: &str = "ai.onnx.preview.training";

pub const RULES: &[Rule] = &[
    Rule::onnx("NegativeLogLikelihoodLoss", 2, loss),
    Rule::onnx("SoftmaxCrossEntropyLoss", 2, loss),
    Rule::of(TRAINING, "Adagrad", 3, adagrad),
    Rule::of(TRAINING, "Adam", 3, adam),
    Rule::of(TRAINING, "Gradient", 1, gradient),
    Rule::of(TRAINING, "Momentum", 3, momentum),
];

fn loss(s: &mut Site<'_>) -> Result<()> {
    let shape = match s.string("reduction", "mean")? {
        "none" => s.shape(0).map(|x| {
            x.iter().enumerate().filter(|(i, _)| *i != 1).map(|(_, d)| d.clone()).collect::<Shape>()
        }),
        _ => Some(Shape::scalar()),
    };
    s.set_tensor(0, s.dtype(0), shape);
    s.copy(0, 1);
    Ok(())
}

/// After rate and step the inputs are `groups` lists of equal length; output `k` is like input `k` of the list that
/// `order` names.
fn updated(s: &mut Site<'_>, groups: usize, order: &[usize]) -> Result<()> {
    let count = s.input_count().saturating_sub(2) / groups;
    for output in 0..s.node.outputs().len() {
        let list = order.get(output / count.max(1)).copied().unwrap_or(0);
        s.copy(2 + list * count + output % count.max(1), output);
    }
    Ok(())
}

/// Tensors, gradients, squared gradients; returns tensors and squared gradients.
fn adagrad(s: &mut Site<'_>) -> Result<()> {
    updated(s, 3, &[0, 2])
}

/// Tensors, gradients, averages, squared averages; returns all but the gradients.
fn adam(s: &mut Site<'_>) -> Result<()> {
    updated(s, 4, &[0, 2, 3])
}

/// Tensors, gradients, momenta; returns tensors and momenta.
fn momentum(s: &mut Site<'_>) -> Result<()> {
    updated(s, 3, &[0, 2])
}

/// Each output is like the input it is the derivative for.
fn gradient(s: &mut Site<'_>) -> Result<()> {
    for output in 0..s.node.outputs().len() {
        s.copy(output, output);
    }
    Ok(())
}
