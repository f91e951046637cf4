//! One-operand QLinear operators of com.microsoft: QLinearSigmoid, QLinearLeakyRelu (tables over the 256 codes),
//! QLinearSoftmax and QLinearReduceMean.

use super::value::{Affine, Codes, check, dequantized};
use crate::error::Result;
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::Operator;
use crate::ops::reduce::fold::Plan;
use crate::shape;
use crate::tensor::Dims;

#[derive(Clone, Copy)]
enum Function {
    Sigmoid,
    LeakyRelu { alpha: f32 },
}

impl Function {
    fn apply(self, x: f32) -> f32 {
        match self {
            Function::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Function::LeakyRelu { alpha } => {
                if x < 0.0 {
                    alpha * x
                } else {
                    x
                }
            }
        }
    }
}

struct Activation {
    function: Function,
}

impl Kernel for Activation {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (from, to) = (Affine::read(cx, 1, 2)?, Affine::read(cx, 3, 4)?);
        let input = cx.input(0)?;
        let codes = Codes::of(input.dtype())?;
        let table = codes.table(|code| to.code(self.function.apply(from.value(code)), codes));
        let mut out = cx.output(0, input.dtype(), input.dims())?;
        for (out, &byte) in out.as_bytes_mut().iter_mut().zip(input.as_bytes()) {
            *out = table[usize::from(byte)];
        }
        cx.set(0, out);
        Ok(())
    }
}

struct Softmax {
    axis: i64,
    /// Everything from the axis on counts as one axis.
    flatten: bool,
}

impl Kernel for Softmax {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (from, to) = (Affine::read(cx, 1, 2)?, Affine::read(cx, 3, 4)?);
        let input = cx.input(0)?;
        let codes = Codes::of(input.dtype())?;
        let dims = input.dims();
        let axis = shape::axis(self.axis, dims.len())?;
        let after: usize = dims[axis + 1..].iter().product();
        let (size, inner) = if self.flatten { (dims[axis] * after, 1) } else { (dims[axis], after) };
        let mut out = cx.output(0, input.dtype(), dims)?;
        let block = (size * inner).max(1);
        let mut weights = vec![0f32; size];
        for (x, y) in input.as_bytes().chunks_exact(block).zip(out.as_bytes_mut().chunks_exact_mut(block)) {
            for i in 0..inner {
                let row = || (0..size).map(|k| codes.load(x[k * inner + i]));
                let max = row().max().unwrap_or(0);
                for (weight, code) in weights.iter_mut().zip(row()) {
                    *weight = ((code - max) as f32 * from.scale).exp();
                }
                let sum: f32 = weights.iter().sum();
                for (k, weight) in weights.iter().enumerate() {
                    y[k * inner + i] = to.code(weight / sum, codes) as u8;
                }
            }
        }
        cx.set(0, out);
        Ok(())
    }
}

struct ReduceMean {
    axes: Vec<i64>,
    keep_dims: bool,
}

impl Kernel for ReduceMean {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (from, to) = (Affine::read(cx, 1, 2)?, Affine::read(cx, 3, 4)?);
        let input = cx.input(0)?;
        let codes = Codes::of(input.dtype())?;
        let mut axes = shape::axes(&self.axes, input.rank())?;
        if axes.is_empty() {
            axes = (0..input.rank()).collect();
        }
        let plan = Plan::new(input.dims(), &axes);
        let mut sums = vec![0f64; plan.kept()];
        let values = dequantized(input, from)?;
        plan.fold(&values, &mut sums, |total: f64, x: f32| total + f64::from(x));
        let kept = input.dims().iter().enumerate();
        let dims: Dims = if self.keep_dims {
            kept.map(|(axis, &size)| if axes.contains(&axis) { 1 } else { size }).collect()
        } else {
            kept.filter(|(axis, _)| !axes.contains(axis)).map(|(_, &size)| size).collect()
        };
        let mut out = cx.output(0, input.dtype(), &dims)?;
        for (out, sum) in out.as_bytes_mut().iter_mut().zip(sums) {
            *out = to.code((sum / plan.depth() as f64) as f32, codes) as u8;
        }
        cx.set(0, out);
        Ok(())
    }
}

pub const OPERATORS: &[Operator] = &[
    Operator::of("com.microsoft", "QLinearSigmoid", |node| {
        check(node.input_dtype(0))?;
        Ok(Box::new(Activation { function: Function::Sigmoid }))
    }),
    Operator::of("com.microsoft", "QLinearLeakyRelu", |node| {
        check(node.input_dtype(0))?;
        Ok(Box::new(Activation { function: Function::LeakyRelu { alpha: node.float("alpha", 0.01)? } }))
    }),
    Operator::of("com.microsoft", "QLinearSoftmax", build_softmax),
    Operator::of("com.microsoft", "QLinearReduceMean", |node| {
        check(node.input_dtype(0))?;
        let axes = node.ints("axes")?.unwrap_or(&[]).to_vec();
        Ok(Box::new(ReduceMean { axes, keep_dims: node.flag("keepdims", true)? }))
    }),
];

fn build_softmax(node: &Node) -> Result<Box<dyn Kernel>> {
    check(node.input_dtype(0))?;
    Ok(Box::new(Softmax { axis: node.int("axis", -1)?, flatten: node.required_int("opset")? < 13 }))
}
