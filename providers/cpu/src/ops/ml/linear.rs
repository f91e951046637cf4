//! LinearClassifier and LinearRegressor.

use super::{
    DOMAIN, Labels, PostTransform, Rows, SecondClass, best, check_numeric, finish_scores, set_scores,
};
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::Operator;
use crate::tensor::DType;

/// Affine functions of the features: one row of coefficients a target.
struct Linear {
    coefficients: Vec<f32>,
    /// Empty means zeros.
    intercepts: Vec<f32>,
    targets: usize,
    transform: PostTransform,
}

impl Linear {
    /// The scores of one row of features.
    fn scores(&self, features: &[f32], scores: &mut Vec<f32>) {
        scores.clear();
        for (target, weights) in
            self.coefficients.chunks_exact(features.len().max(1)).take(self.targets).enumerate()
        {
            let dot: f32 = weights.iter().zip(features).map(|(w, x)| w * x).sum();
            scores.push(dot + self.intercepts.get(target).copied().unwrap_or(0.0));
        }
    }

    fn check(&self, width: usize) -> Result<()> {
        if self.coefficients.len() == self.targets * width {
            return Ok(());
        }
        Err(OpError::invalid(format!(
            "{} targets of {width} features need {} coefficients, got {}",
            self.targets,
            self.targets * width,
            self.coefficients.len()
        )))
    }
}

struct Regressor(Linear);

impl Kernel for Regressor {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let rows = Rows::of(cx, DType::F32)?;
        self.0.check(rows.width)?;
        let (mut out, mut scores) = (Vec::new(), Vec::new());
        for features in rows.tensor.as_slice::<f32>()?.chunks_exact(rows.width.max(1)) {
            self.0.scores(features, &mut scores);
            finish_scores(&scores, SecondClass::No, self.0.transform, &mut out);
        }
        set_scores(cx, 0, rows.count, &out)
    }
}

struct Classifier {
    linear: Linear,
    labels: Labels,
}

impl Kernel for Classifier {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let rows = Rows::of(cx, DType::F32)?;
        self.linear.check(rows.width)?;
        let second = if self.linear.targets == 1 && self.labels.len() == 2 {
            SecondClass::Complement
        } else {
            SecondClass::No
        };
        let (mut classes, mut out, mut scores) = (Vec::with_capacity(rows.count), Vec::new(), Vec::new());
        for features in rows.tensor.as_slice::<f32>()?.chunks_exact(rows.width.max(1)) {
            self.linear.scores(features, &mut scores);
            classes.push(if scores.len() == 1 { usize::from(scores[0] > 0.0) } else { best(&scores) });
            finish_scores(&scores, second, self.linear.transform, &mut out);
        }
        self.labels.set(cx, &classes)?;
        set_scores(cx, 1, rows.count, &out)
    }
}

fn linear(node: &Node, targets: usize) -> Result<Linear> {
    check_numeric(node)?;
    let coefficients = node.floats("coefficients")?.unwrap_or(&[]).to_vec();
    let intercepts = node.floats("intercepts")?.unwrap_or(&[]).to_vec();
    Ok(Linear { coefficients, intercepts, targets, transform: PostTransform::of(node)? })
}

fn build_regressor(node: &Node) -> Result<Box<dyn Kernel>> {
    let targets = node.int("targets", 1)?;
    let targets = usize::try_from(targets)
        .map_err(|_| OpError::invalid(format!("attribute 'targets' must not be negative, got {targets}")))?;
    Ok(Box::new(Regressor(linear(node, targets)?)))
}

fn build_classifier(node: &Node) -> Result<Box<dyn Kernel>> {
    let labels = Labels::of(node, "classlabels_ints", "classlabels_strings")?;
    let targets = match node.floats("intercepts")?.unwrap_or(&[]).len() {
        0 => labels.len().max(1),
        given => given,
    };
    Ok(Box::new(Classifier { linear: linear(node, targets)?, labels }))
}

pub const OPERATORS: &[Operator] = &[
    Operator::of(DOMAIN, "LinearRegressor", build_regressor),
    Operator::of(DOMAIN, "LinearClassifier", build_classifier),
];
