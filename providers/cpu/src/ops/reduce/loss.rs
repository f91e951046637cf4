//! NegativeLogLikelihoodLoss and SoftmaxCrossEntropyLoss.

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::real::{self, Real, with_real};
use crate::ops::{NEWEST, Operator};
use crate::tensor::{Dims, Tensor};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reduction {
    None,
    Sum,
    Mean,
}

struct Loss {
    reduction: Reduction,
    ignore_index: Option<i64>,
    /// The scores are not yet logarithms of probabilities.
    softmax: bool,
}

impl Kernel for Loss {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        with_real!(cx.input(0)?.dtype(), T => self.run_typed::<T>(cx))
    }
}

impl Loss {
    fn run_typed<T: Real>(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        let scores = real::load_input::<T>(cx, 0)?;
        let target = cx.input(1)?;
        let weight = real::load_optional::<T>(cx, 2)?;
        let (classes, inner) = check_shapes(&scores, target, weight.as_ref())?;
        let target_dims: Dims = target.dims().into();
        let target = target.to_i64s()?;
        let logs = if self.softmax { log_softmax::<T>(cx, &scores, classes, inner)? } else { scores };
        let weights = weight.as_ref().map(Tensor::as_slice::<T>).transpose()?;
        let x = logs.as_slice::<T>()?;
        let mut losses = vec![T::ZERO; target.len()];
        let (mut total, mut total_weight) = (T::ZERO, T::ZERO);
        for (at, (&class, loss)) in target.iter().zip(&mut losses).enumerate() {
            if Some(class) == self.ignore_index {
                continue;
            }
            let class = usize::try_from(class)
                .ok()
                .filter(|&class| class < classes)
                .ok_or_else(|| OpError::invalid(format!("target class {class} is outside 0 .. {classes}")))?;
            let weight = weights.map_or(T::ONE, |weights| weights[class]);
            let (batch, place) = (at / inner, at % inner);
            *loss = -x[(batch * classes + class) * inner + place] * weight;
            total += *loss;
            total_weight += weight;
        }
        if self.softmax && cx.wants(1) {
            let mut out = real::Output::new::<T>(cx, 1, dtype, logs.dims())?;
            out.slice::<T>()?.copy_from_slice(logs.as_slice()?);
            out.finish(cx)?;
        }
        let dims: &[usize] = if self.reduction == Reduction::None { &target_dims } else { &[] };
        let mut out = real::Output::new::<T>(cx, 0, dtype, dims)?;
        match self.reduction {
            Reduction::None => out.slice::<T>()?.copy_from_slice(&losses),
            Reduction::Sum => out.slice::<T>()?[0] = total,
            Reduction::Mean => out.slice::<T>()?[0] = total / total_weight,
        }
        out.finish(cx)
    }
}

/// The number of classes and of places after the class axis, for scores `[N, C, d1, ...]` and targets `[N, d1, ...]`.
fn check_shapes(scores: &Tensor, target: &Tensor, weight: Option<&Tensor>) -> Result<(usize, usize)> {
    let dims = scores.dims();
    let fits = dims.len() >= 2
        && target.rank() + 1 == dims.len()
        && target.dims()[0] == dims[0]
        && target.dims()[1..] == dims[2..];
    if !fits {
        return Err(OpError::invalid(format!(
            "scores of shape {dims:?} need targets without the class axis (axis 1), got shape {:?}",
            target.dims()
        )));
    }
    if let Some(weight) = weight.filter(|weight| weight.dims() != [dims[1]]) {
        return Err(OpError::invalid(format!(
            "expected {} class weights, got shape {:?}",
            dims[1],
            weight.dims()
        )));
    }
    Ok((dims[1], dims[2..].iter().product()))
}

fn log_softmax<T: Real>(cx: &Context<'_>, scores: &Tensor, classes: usize, inner: usize) -> Result<Tensor> {
    let mut logs = cx.scratch(T::DTYPE, scores.dims())?;
    let block = (classes * inner).max(1);
    for (x, y) in
        scores.as_slice::<T>()?.chunks_exact(block).zip(logs.as_mut_slice::<T>()?.chunks_exact_mut(block))
    {
        for i in 0..inner {
            let max = (0..classes).fold(-T::INFINITY, |max, k| max.maximum(x[k * inner + i]));
            let sum: T = (0..classes).map(|k| (x[k * inner + i] - max).exp()).sum();
            let shift = max + sum.ln();
            (0..classes).for_each(|k| y[k * inner + i] = x[k * inner + i] - shift);
        }
    }
    Ok(logs)
}

fn build(node: &Node, softmax: bool) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(0))?;
    let reduction = match node.string("reduction", "mean")? {
        "none" => Reduction::None,
        "sum" => Reduction::Sum,
        "mean" => Reduction::Mean,
        other => {
            return Err(OpError::invalid(format!(
                "attribute 'reduction' must be none, sum or mean, got '{other}'"
            )));
        }
    };
    Ok(Box::new(Loss { reduction, ignore_index: node.optional_int("ignore_index")?, softmax }))
}

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("NegativeLogLikelihoodLoss", 12, NEWEST, |node| build(node, false)),
    Operator::onnx("SoftmaxCrossEntropyLoss", 12, NEWEST, |node| build(node, true)),
];
