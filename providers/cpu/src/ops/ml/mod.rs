//! ai.onnx.ml: feature transforms, encoders, linear models, support vector machines and tree ensembles.

pub mod encode;
pub mod ensemble;
pub mod linear;
pub mod svm;
pub mod transform;
pub mod tree;

use crate::error::{OpError, Result};
use crate::kernel::Context;
use crate::node::Node;
use crate::ops::cast::converted;
use crate::ops::layout::text::write;
use crate::tensor::{DType, Tensor};

const DOMAIN: &str = "ai.onnx.ml";

/// What is done to the scores of a row before they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostTransform {
    None,
    Softmax,
    Logistic,
    /// Softmax over the scores that are not zero.
    SoftmaxZero,
    Probit,
}

impl PostTransform {
    /// Reads the attribute `post_transform`.
    pub fn of(node: &Node) -> Result<PostTransform> {
        Ok(match node.string("post_transform", "NONE")? {
            "NONE" => PostTransform::None,
            "SOFTMAX" => PostTransform::Softmax,
            "LOGISTIC" => PostTransform::Logistic,
            "SOFTMAX_ZERO" => PostTransform::SoftmaxZero,
            "PROBIT" => PostTransform::Probit,
            other => return Err(OpError::invalid(format!("post_transform '{other}' is not one of ONNX's"))),
        })
    }

    /// Transforms the scores of one row.
    pub fn apply(self, scores: &mut [f32]) {
        match self {
            PostTransform::None => {}
            PostTransform::Logistic => scores.iter_mut().for_each(|score| *score = logistic(*score)),
            PostTransform::Probit => scores.iter_mut().for_each(|score| *score = probit(*score)),
            PostTransform::Softmax => softmax(scores, false),
            PostTransform::SoftmaxZero => softmax(scores, true),
        }
    }
}

/// `1 / (1 + exp(-x))`.
pub fn logistic(x: f32) -> f32 {
    let positive = 1.0 / (1.0 + (-x.abs()).exp());
    if x < 0.0 { 1.0 - positive } else { positive }
}

/// The inverse of the normal distribution function, by Winitzki's approximation of the inverse error function.
pub fn probit(probability: f32) -> f32 {
    let x = 2.0 * probability - 1.0;
    let log = ((1.0 - x) * (1.0 + x)).ln();
    let a = 2.0 / (std::f32::consts::PI * 0.147) + 0.5 * log;
    let root = (-a + (a * a - log / 0.147).sqrt()).sqrt();
    std::f32::consts::SQRT_2 * if x < 0.0 { -root } else { root }
}

fn softmax(scores: &mut [f32], skip_zeros: bool) {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        if skip_zeros && score.abs() <= 1e-7 {
            *score *= (-max).exp();
        } else {
            *score = (*score - max).exp();
            sum += *score;
        }
    }
    scores.iter_mut().for_each(|score| *score /= sum);
}

/// How a single score of a two-class model becomes two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecondClass {
    /// It stays single.
    No,
    /// It is the probability of the second class.
    Complement,
    /// It is the margin of the second class.
    Negated,
}

/// Scores of one row, extended to two classes and transformed, into `out`.
pub fn finish_scores(scores: &[f32], second: SecondClass, transform: PostTransform, out: &mut Vec<f32>) {
    let start = out.len();
    let [score] = *scores else {
        out.extend_from_slice(scores);
        return transform.apply(&mut out[start..]);
    };
    if transform == PostTransform::Probit {
        return out.push(probit(score));
    }
    match second {
        SecondClass::No => out.push(score),
        _ if transform == PostTransform::Logistic => out.extend([logistic(-score), logistic(score)]),
        SecondClass::Complement => out.extend([1.0 - score, score]),
        SecondClass::Negated => out.extend([-score, score]),
    }
}

/// Class labels.
#[derive(Clone, Debug)]
pub enum Labels {
    Ints(Vec<i64>),
    Strings(Vec<String>),
}

impl Labels {
    /// Reads the attributes `ints` and `strings`, of which at most one may be given.
    pub fn of(node: &Node, ints: &str, strings: &str) -> Result<Labels> {
        match (node.ints(ints)?.unwrap_or(&[]), node.strings(strings)?.unwrap_or(&[])) {
            (ints, []) => Ok(Labels::Ints(ints.to_vec())),
            ([], strings) => Ok(Labels::Strings(strings.to_vec())),
            _ => Err(OpError::invalid(format!("only one of '{ints}' and '{strings}' may be given"))),
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Labels::Ints(labels) => labels.len(),
            Labels::Strings(labels) => labels.len(),
        }
    }

    /// Hands in output 0: the label of each class index; an index without a label stands for itself.
    pub fn set(&self, cx: &mut Context<'_>, classes: &[usize]) -> Result<()> {
        let dims = [classes.len()];
        let out = match self {
            Labels::Ints(labels) => {
                let mut out = cx.output(0, DType::I64, &dims)?;
                for (out, &class) in out.as_mut_slice::<i64>()?.iter_mut().zip(classes) {
                    *out = labels.get(class).copied().unwrap_or(class as i64);
                }
                out
            }
            Labels::Strings(labels) => {
                write(cx, 0, &dims, |i| labels.get(classes[i]).map_or(&[][..], |label| label.as_bytes()))?
            }
        };
        cx.set(0, out);
        Ok(())
    }
}

/// A numeric input as rows of features; one dimension is one row.
pub struct Rows {
    pub tensor: Tensor,
    pub count: usize,
    pub width: usize,
}

impl Rows {
    /// Input 0 in type `to`.
    pub fn of(cx: &Context<'_>, to: DType) -> Result<Rows> {
        let input = cx.input(0)?;
        let (count, width) = match *input.dims() {
            [] => (1, 1),
            [width] => (1, width),
            [count, width] => (count, width),
            _ => {
                return Err(OpError::invalid(format!(
                    "expected shape [N, features], got {:?}",
                    input.dims()
                )));
            }
        };
        Ok(Rows { tensor: converted(cx, input, to)?, count, width })
    }
}

/// Errors when input 0 is known not to be numeric.
pub fn check_numeric(node: &Node) -> Result<()> {
    match node.input_dtype(0) {
        DType::Undefined | DType::F32 | DType::F64 | DType::I64 | DType::I32 | DType::F16 => Ok(()),
        other => {
            Err(OpError::unsupported(format!("{} is not defined for element type {other}", node.op_type)))
        }
    }
}

/// The class with the highest score, the first of equals.
pub fn best(scores: &[f32]) -> usize {
    (0..scores.len()).fold(0, |best, i| if scores[i] > scores[best] { i } else { best })
}

/// Hands in output `index` as `[rows, values / rows]`.
pub fn set_scores(cx: &mut Context<'_>, index: usize, rows: usize, values: &[f32]) -> Result<()> {
    let width = values.len().checked_div(rows).unwrap_or(0);
    let mut out = cx.output(index, DType::F32, &[rows, width])?;
    out.as_mut_slice::<f32>()?.copy_from_slice(values);
    cx.set(index, out);
    Ok(())
}
