//! Softmax along an axis, and normalisation of rows.

use super::launch::{Arg, Plan};
use super::scalar::{self, Scalar, Structure, blocks, kernel, launch, pointer};
use super::unit::{Text, Unit};
use crate::error::{KernelError, Result};
use crate::estimate::Cost;

fn check(scalar: Scalar, elements: usize) -> Result<()> {
    if !scalar.is_float() && scalar != Scalar::F64 {
        return Err(KernelError::parameter(format!("elements of type {}: floats only", scalar.suffix())));
    }
    if elements >= 1 << 31 {
        return Err(KernelError::shape(format!("{elements} elements: at most 2^31 - 1")));
    }
    Ok(())
}

/// Softmax (or its logarithm) of `[outer, axis, inner]` along the axis. Operands: 0 the result, 1 the input.
pub fn softmax(scalar: Scalar, [outer, axis, inner]: [usize; 3], is_log: bool) -> Result<Plan> {
    let elements = outer * axis * inner;
    check(scalar, elements)?;
    if elements == 0 {
        return Ok(Plan::default());
    }
    let cost = Cost { flops: 4.0 * elements as f64, bytes: 2.0 * (elements * scalar.bytes()) as f64 };
    let (suffix, is_log) = (scalar.suffix(), Arg::U32(is_log.into()));
    if inner == 1 {
        let args = vec![pointer(0), pointer(1), Arg::U32(axis as u32), is_log];
        return Ok(launch(format!("softmax_row_{suffix}"), [outer as u32, 1, 1], args, cost));
    }
    let sizes = [outer, axis, inner].map(|size| Arg::U32(size as u32));
    let args = [pointer(0), pointer(1)].into_iter().chain(sizes).chain([is_log]).collect();
    Ok(launch(format!("softmax_line_{suffix}"), [blocks(outer * inner), 1, 1], args, cost))
}

/// A normalisation of rows: `y = (x - mean) / sqrt(variance + epsilon) * gamma + beta`, `x = input + skip + bias`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowNorm {
    pub scalar: Scalar,
    pub rows: usize,
    pub columns: usize,
    /// False: by the root mean square, without the mean.
    pub is_centred: bool,
    pub epsilon: f32,
    /// Gamma and beta of an element: `(row % period) * group + column / span`.
    pub period: usize,
    pub group: usize,
    pub span: usize,
    /// Which operands are given.
    pub has: RowNormOperands,
}

/// Which operands of a [`RowNorm`] are given. Operands of the plan: 0 y, 1 sum, 2 mean, 3 inverse deviation, 4 input,
/// 5 skip, 6 bias, 7 gamma, 8 beta.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowNormOperands {
    pub sum: bool,
    pub mean: bool,
    pub deviation: bool,
    pub skip: bool,
    pub bias: bool,
    pub gamma: bool,
    pub beta: bool,
}

/// How a normalisation is started.
pub fn norm(problem: &RowNorm) -> Result<Plan> {
    let elements = problem.rows * problem.columns;
    check(problem.scalar, elements)?;
    if elements == 0 {
        return Ok(Plan::default());
    }
    let has = problem.has;
    let given = [true, has.sum, has.mean, has.deviation, true, has.skip, has.bias, has.gamma, has.beta];
    let mut args: Vec<Arg> = given
        .into_iter()
        .enumerate()
        .map(|(operand, given)| if given { pointer(operand) } else { Arg::I64(0) })
        .collect();
    args.push(
        Structure::default()
            .u32(problem.columns as u32)
            .u32(problem.period as u32)
            .u32(problem.group as u32)
            .u32(problem.span as u32)
            .u32(problem.is_centred.into())
            .f32(problem.epsilon)
            .finish(),
    );
    let streams = 2 + usize::from(has.sum) + usize::from(has.skip);
    let cost =
        Cost { flops: 8.0 * elements as f64, bytes: (streams * elements * problem.scalar.bytes()) as f64 };
    Ok(launch(format!("normalize_{}", problem.scalar.suffix()), [problem.rows as u32, 1, 1], args, cost))
}

/// What the build compiles.
pub fn units(arch: Text) -> [Unit; 2] {
    let types = ["f32", "f16", "bf16", "f64"];
    let softmax = Text { path: "device/softmax.cu", text: include_str!("../../device/softmax.cu") };
    let norm = Text { path: "device/norm.cu", text: include_str!("../../device/norm.cu") };
    let unit = |name: &str, own: Text, kernels: &[&str]| Unit {
        name: name.into(),
        texts: vec![arch, scalar::TEXT, own],
        defines: Vec::new(),
        kernels: kernels
            .iter()
            .flat_map(|kernel_name| types.map(|suffix| kernel(format!("{kernel_name}_{suffix}"))))
            .collect(),
    };
    [unit("softmax", softmax, &["softmax_row", "softmax_line"]), unit("norm", norm, &["normalize"])]
}
