//! Softmax, LogSoftmax and Hardmax: along one axis, or before opset 13 over everything from the axis on.

use tenon_kernels::cpu::softmax::softmax_axis;

use crate::error::Result;
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::real::{self, Real, with_real};
use crate::ops::{NEWEST, Operator};
use crate::shape;
use crate::tensor::DType;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Function {
    Softmax,
    LogSoftmax,
    Hardmax,
}

struct Softmax {
    function: Function,
    axis: i64,
    /// Everything from the axis on counts as one axis.
    flatten: bool,
}

impl Softmax {
    /// The tensor as `[outer, axis, inner]`.
    fn view(&self, dims: &[usize]) -> Result<[usize; 3]> {
        if dims.is_empty() {
            return Ok([1, 1, 1]);
        }
        if self.flatten && self.axis == dims.len() as i64 {
            return Ok([dims.iter().product(), 1, 1]);
        }
        let axis = shape::axis(self.axis, dims.len())?;
        let product = |part: &[usize]| part.iter().product();
        Ok(match self.flatten {
            true => [product(&dims[..axis]), product(&dims[axis..]), 1],
            false => [product(&dims[..axis]), dims[axis], product(&dims[axis + 1..])],
        })
    }
}

impl Kernel for Softmax {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let input = cx.input(0)?;
        let dtype = input.dtype();
        let view = self.view(input.dims())?;
        if dtype == DType::F64 || self.function == Function::Hardmax {
            return with_real!(dtype, T => along_axis::<T>(cx, self.function, view));
        }
        let x = real::load::<f32>(cx, input)?;
        let mut out = real::Output::new::<f32>(cx, 0, dtype, input.dims())?;
        let machine = tenon_kernels::cpu::Context::new(cx.features(), cx.parallel());
        let log = self.function == Function::LogSoftmax;
        real::check(dtype)?;
        softmax_axis(machine, x.as_slice()?, view, log, out.slice()?)?;
        out.finish(cx)
    }
}

fn along_axis<T: Real>(
    cx: &mut Context<'_>,
    function: Function,
    [outer, axis, inner]: [usize; 3],
) -> Result<()> {
    let dtype = cx.input(0)?.dtype();
    let input = real::load_input::<T>(cx, 0)?;
    let mut out = real::Output::new::<T>(cx, 0, dtype, input.dims())?;
    let (x, y) = (input.as_slice::<T>()?, out.slice::<T>()?);
    for o in 0..outer {
        for i in 0..inner {
            let at = |k: usize| (o * axis + k) * inner + i;
            let best = (0..axis).fold(0, |best, k| if x[at(k)] > x[at(best)] { k } else { best });
            if function == Function::Hardmax {
                (0..axis).for_each(|k| y[at(k)] = if k == best { T::ONE } else { T::ZERO });
                continue;
            }
            if axis == 0 {
                continue;
            }
            let max = x[at(best)];
            let sum: T = (0..axis).map(|k| (x[at(k)] - max).exp()).sum();
            for k in 0..axis {
                let shifted = x[at(k)] - max;
                y[at(k)] =
                    if function == Function::LogSoftmax { shifted - sum.ln() } else { shifted.exp() / sum };
            }
        }
    }
    out.finish(cx)
}

fn build(node: &Node, function: Function) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(0))?;
    let flatten = node.version < 13;
    let axis = node.int("axis", if flatten { 1 } else { -1 })?;
    Ok(Box::new(Softmax { function, axis, flatten }))
}

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("Softmax", 1, NEWEST, |node| build(node, Function::Softmax)),
    Operator::onnx("LogSoftmax", 1, NEWEST, |node| build(node, Function::LogSoftmax)),
    Operator::onnx("Hardmax", 1, NEWEST, |node| build(node, Function::Hardmax)),
];
