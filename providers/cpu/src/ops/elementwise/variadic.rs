//! Operators of any number of operands with broadcasting: Min, Max, Sum and Mean.

use super::binary::{self, check_same_type};
use super::broadcast::shape_of;
use super::row::{BinaryLoop, accumulate, fill_binary, run_binary};
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::{NEWEST, Operator};
use crate::tensor::{DType, Dims};

struct Variadic {
    op_type: &'static str,
    select: fn(DType) -> Option<BinaryLoop>,
    /// Divide the result by the number of operands.
    mean: bool,
}

impl Kernel for Variadic {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let count = cx.input_count();
        let first = cx.input(0)?;
        let dtype = first.dtype();
        let body = (self.select)(dtype).ok_or_else(|| self.refuse(dtype))?;
        for index in 1..count {
            check_same_type(dtype, cx.input(index)?.dtype())?;
        }
        if count == 1 {
            let tensor = first.clone();
            cx.set(0, tensor);
            return Ok(());
        }
        if count == 2 && !self.mean {
            return run_binary(cx, body, [0.0; 2], None, dtype);
        }
        self.run_many(cx, body, count)
    }
}

impl Variadic {
    fn refuse(&self, dtype: DType) -> OpError {
        OpError::unsupported(format!("{} is not defined for element type {dtype}", self.op_type))
    }

    fn run_many(&self, cx: &mut Context<'_>, body: BinaryLoop, count: usize) -> Result<()> {
        let mut dims: Dims = cx.input(0)?.dims().into();
        for index in 1..count {
            dims = shape_of(&[&dims, cx.input(index)?.dims()])?;
        }
        let (a, b) = (cx.input(0)?, cx.input(1)?);
        let dtype = a.dtype();
        // Halves are totalled in f32 and rounded once.
        let wide = if super::row::is_half(dtype) { DType::F32 } else { dtype };
        let mut total = if wide == dtype { cx.output(0, dtype, &dims)? } else { cx.scratch(wide, &dims)? };
        let (a, b) = (crate::ops::cast::converted(cx, a, wide)?, crate::ops::cast::converted(cx, b, wide)?);
        fill_binary(cx, body, [0.0; 2], [&a, &b], [a.dims(), b.dims()], &mut total)?;
        for index in 2..count {
            let next = crate::ops::cast::converted(cx, cx.input(index)?, wide)?;
            accumulate(cx, body, [0.0; 2], &mut total, &next)?;
        }
        if self.mean {
            let factor = 1.0 / count as f64;
            match wide {
                DType::F64 => total.as_mut_slice::<f64>()?.iter_mut().for_each(|value| *value *= factor),
                _ => total.as_mut_slice::<f32>()?.iter_mut().for_each(|value| *value /= count as f32),
            }
        }
        if wide == dtype {
            cx.set(0, total);
            return Ok(());
        }
        crate::ops::cast::set_converted(cx, 0, total, dtype)
    }
}

fn build(
    node: &Node,
    op_type: &'static str,
    select: fn(DType) -> Option<BinaryLoop>,
    mean: bool,
) -> Result<Box<dyn Kernel>> {
    let kernel = Variadic { op_type, select, mean };
    let dtype = node.input_dtype(0);
    if dtype != DType::Undefined && select(dtype).is_none() {
        return Err(kernel.refuse(dtype));
    }
    if node.inputs.is_empty() {
        return Err(OpError::invalid(format!("{op_type} needs at least one input")));
    }
    Ok(Box::new(kernel))
}

fn floats(dtype: DType) -> Option<BinaryLoop> {
    dtype.is_float().then(|| binary::add(dtype)).flatten()
}

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("Min", 1, NEWEST, |node| build(node, "Min", binary::min, false)),
    Operator::onnx("Max", 1, NEWEST, |node| build(node, "Max", binary::max, false)),
    Operator::onnx("Sum", 1, NEWEST, |node| build(node, "Sum", floats, false)),
    Operator::onnx("Mean", 1, NEWEST, |node| build(node, "Mean", floats, true)),
];
