//! NegativeLogLikelihoodLoss and SoftmaxCrossEntropyLoss.

use tenon_kernels::gpu::loss::Loss;
use tenon_kernels::gpu::rows;
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::{AttributeView, Error, Result};

use super::Family;
use crate::operator::{Decline, Expansion, Lowered, Lowering, Operator};

pub(super) const FAMILIES: &[Family] = &[Family {
    domain: "",
    op_types: &["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"],
    lower: likelihood,
}];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reduction {
    None,
    Sum,
    Mean,
}

struct Likelihood {
    /// The scores are not yet logs of probabilities.
    has_softmax: bool,
    is_wide: bool,
    ignored: Option<i64>,
    reduction: Reduction,
}

impl Operator for Likelihood {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (scores, targets) = (cx.dims(0)?, cx.dims(1)?);
        let wrong = || Error::invalid(format!("targets of shape {targets:?} for scores of shape {scores:?}"));
        let [batch, classes, rest @ ..] = scores.as_slice() else { return Err(wrong()) };
        if targets.split_first() != Some((batch, rest)) {
            return Err(wrong());
        }
        if cx.optional(2).is_some() && cx.dims(2)? != [*classes] {
            return Err(Error::invalid(format!("weights of shape {:?} for {classes} classes", cx.dims(2)?)));
        }
        let inner = rest.iter().product();
        let loss =
            Loss { batch: *batch, classes: *classes, inner, is_wide: self.is_wide, ignored: self.ignored };
        let mut logs = cx.input(0)?;
        if self.has_softmax {
            let given = logs;
            logs = cx.output(1, Scalar::F32, &scores)?;
            let plan = rows::softmax(Scalar::F32, [*batch, *classes, inner], true, cx.has());
            cx.run(plan, &[Some(logs), Some(given)])?;
        }
        let (classes, weights) = (cx.input(1)?, cx.optional(2));
        if self.reduction == Reduction::None {
            let output = cx.output(0, Scalar::F32, &targets)?;
            return cx.run(loss.each(), &[Some(output), None, Some(logs), Some(classes), weights]);
        }
        let is_mean = self.reduction == Reduction::Mean;
        let losses = cx.scratch(Scalar::F32, &targets)?;
        let shares = if is_mean { Some(cx.scratch(Scalar::F32, &targets)?) } else { None };
        cx.run(loss.each(), &[Some(losses), shares, Some(logs), Some(classes), weights])?;
        let output = cx.output(0, Scalar::F32, &[])?;
        cx.run(Ok(loss.total(is_mean)), &[Some(output), Some(losses), shares])
    }
}

fn likelihood(l: &Lowering<'_>) -> Lowered {
    for index in [0, 2] {
        if l.has_input(index) && l.scalar(index)? != Scalar::F32 {
            return Err(Decline::new("losses of a type other than float32 have no GPU kernel"));
        }
    }
    let is_wide = match l.scalar(1)? {
        Scalar::I64 => true,
        Scalar::I32 => false,
        other => return Err(Decline(format!("targets of type {}", other.suffix()))),
    };
    let reduction = match l.node.text_or("reduction", "mean")? {
        "none" => Reduction::None,
        "sum" => Reduction::Sum,
        "mean" => Reduction::Mean,
        other => return Err(Decline(format!("reduction '{other}' is not known"))),
    };
    let ignored = match l.node.attribute("ignore_index") {
        Some(AttributeView::Int(index)) => Some(index),
        _ => None,
    };
    let has_softmax = l.node.op_type() == "SoftmaxCrossEntropyLoss";
    Ok(Box::new(Likelihood { has_softmax, is_wide, ignored, reduction }))
}
