//! LpNormalization and MeanVarianceNormalization.

use super::fold::Plan;
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::real::{self, Real, with_real};
use crate::ops::{NEWEST, Operator};
use crate::shape;

/// Division by the norm of order `p` along one axis; a zero norm gives zeros.
struct LpNormalization {
    axis: i64,
    p: i64,
}

impl Kernel for LpNormalization {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        with_real!(cx.input(0)?.dtype(), T => self.run_typed::<T>(cx))
    }
}

impl LpNormalization {
    fn run_typed<T: Real>(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        let input = real::load_input::<T>(cx, 0)?;
        let axis = shape::axis(self.axis, input.rank())?;
        let (size, inner) = (input.dims()[axis], input.dims()[axis + 1..].iter().product::<usize>());
        let mut out = real::Output::new::<T>(cx, 0, dtype, input.dims())?;
        let block = (size * inner).max(1);
        for (x, y) in
            input.as_slice::<T>()?.chunks_exact(block).zip(out.slice::<T>()?.chunks_exact_mut(block))
        {
            for i in 0..inner {
                let values = (0..size).map(|k| x[k * inner + i]);
                let norm = match self.p {
                    1 => values.map(Real::abs).sum::<T>(),
                    _ => values.map(|x| x * x).sum::<T>().sqrt(),
                };
                for k in 0..size {
                    let at = k * inner + i;
                    y[at] = if norm == T::ZERO { T::ZERO } else { x[at] / norm };
                }
            }
        }
        out.finish(cx)
    }
}

/// `(x - mean) / (standard deviation + 1e-9)` with statistics over `axes`.
struct MeanVarianceNormalization {
    axes: Vec<i64>,
}

impl Kernel for MeanVarianceNormalization {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        with_real!(cx.input(0)?.dtype(), T => self.run_typed::<T>(cx))
    }
}

impl MeanVarianceNormalization {
    fn run_typed<T: Real>(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        let input = real::load_input::<T>(cx, 0)?;
        let axes = shape::axes(&self.axes, input.rank())?;
        let plan = Plan::new(input.dims(), &axes);
        let count = T::from_f64(plan.depth().max(1) as f64);
        let x = input.as_slice::<T>()?;
        let mut mean = vec![T::ZERO; plan.kept()];
        plan.fold(x, &mut mean, |total: T, x: T| total + x);
        mean.iter_mut().for_each(|total| *total = *total / count);
        let mut deviation = vec![T::ZERO; plan.kept()];
        plan.fold_with(x, &mean, &mut deviation, |total: T, x: T, mean: T| total + (x - mean) * (x - mean));
        deviation.iter_mut().for_each(|total| *total = (*total / count).sqrt() + T::from_f64(1e-9));
        let mut out = real::Output::new::<T>(cx, 0, dtype, input.dims())?;
        let y = out.slice::<T>()?;
        plan.for_each(|at, target| y[at] = (x[at] - mean[target]) / deviation[target]);
        out.finish(cx)
    }
}

fn build_lp(node: &Node) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(0))?;
    let p = node.int("p", 2)?;
    if p != 1 && p != 2 {
        return Err(OpError::invalid(format!("attribute 'p' must be 1 or 2, got {p}")));
    }
    Ok(Box::new(LpNormalization { axis: node.int("axis", -1)?, p }))
}

fn build_mean_variance(node: &Node) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(0))?;
    Ok(Box::new(MeanVarianceNormalization { axes: node.ints("axes")?.unwrap_or(&[0, 2, 3]).to_vec() }))
}

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("LpNormalization", 1, NEWEST, build_lp),
    Operator::onnx("MeanVarianceNormalization", 9, NEWEST, build_mean_variance),
];
