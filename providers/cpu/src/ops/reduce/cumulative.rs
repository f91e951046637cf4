//! CumSum and CumProd along one axis.

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::cast::{converted, set_converted};
use crate::ops::{NEWEST, Operator};
use crate::shape;
use crate::tensor::{DType, Element, Tensor};

struct Cumulative {
    product: bool,
    exclusive: bool,
    reverse: bool,
}

impl Kernel for Cumulative {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let input = cx.input(0)?;
        let axis = match cx.input(1)?.to_i64s()?.as_slice() {
            [axis] => shape::axis(*axis, input.rank())?,
            other => return Err(OpError::invalid(format!("expected one axis, got {}", other.len()))),
        };
        let dtype = input.dtype();
        match dtype {
            DType::F16 | DType::BF16 => {
                let wide = converted(cx, input, DType::F32)?;
                let mut totals = cx.scratch(DType::F32, wide.dims())?;
                self.scan::<f32>(&wide, axis, &mut totals, 0.0, 1.0, |a, b| a + b, |a, b| a * b)?;
                set_converted(cx, 0, totals, dtype)
            }
            DType::F32 => self.scan_input::<f32>(cx, axis, 0.0, 1.0, |a, b| a + b, |a, b| a * b),
            DType::F64 => self.scan_input::<f64>(cx, axis, 0.0, 1.0, |a, b| a + b, |a, b| a * b),
            DType::I32 => self.scan_input::<i32>(cx, axis, 0, 1, i32::wrapping_add, i32::wrapping_mul),
            DType::I64 => self.scan_input::<i64>(cx, axis, 0, 1, i64::wrapping_add, i64::wrapping_mul),
            DType::U32 => self.scan_input::<u32>(cx, axis, 0, 1, u32::wrapping_add, u32::wrapping_mul),
            DType::U64 => self.scan_input::<u64>(cx, axis, 0, 1, u64::wrapping_add, u64::wrapping_mul),
            other => Err(refuse(other)),
        }
    }
}

fn refuse(dtype: DType) -> OpError {
    OpError::unsupported(format!("cumulative sums and products are not defined for element type {dtype}"))
}

impl Cumulative {
    fn scan_input<T: Element>(
        &self,
        cx: &mut Context<'_>,
        axis: usize,
        zero: T,
        one: T,
        plus: fn(T, T) -> T,
        times: fn(T, T) -> T,
    ) -> Result<()> {
        let input = cx.input(0)?;
        let mut out = cx.output(0, T::DTYPE, input.dims())?;
        self.scan(input, axis, &mut out, zero, one, plus, times)?;
        cx.set(0, out);
        Ok(())
    }

    fn scan<T: Element>(
        &self,
        input: &Tensor,
        axis: usize,
        out: &mut Tensor,
        zero: T,
        one: T,
        plus: fn(T, T) -> T,
        times: fn(T, T) -> T,
    ) -> Result<()> {
        let dims = input.dims();
        let (size, inner) = (dims[axis], dims[axis + 1..].iter().product::<usize>());
        let (start, step) = if self.product { (one, times) } else { (zero, plus) };
        let block = size * inner;
        if block == 0 {
            return Ok(());
        }
        let (x, y) = (input.as_slice::<T>()?, out.as_mut_slice::<T>()?);
        for (x, y) in x.chunks_exact(block).zip(y.chunks_exact_mut(block)) {
            for i in 0..inner {
                let mut total = start;
                for k in 0..size {
                    let k = if self.reverse { size - 1 - k } else { k };
                    let at = k * inner + i;
                    let next = step(total, x[at]);
                    y[at] = if self.exclusive { total } else { next };
                    total = next;
                }
            }
        }
        Ok(())
    }
}

fn build(node: &Node, product: bool) -> Result<Box<dyn Kernel>> {
    let dtype = node.input_dtype(0);
    let known = dtype.is_float() || matches!(dtype, DType::I32 | DType::I64 | DType::U32 | DType::U64);
    if dtype != DType::Undefined && !known {
        return Err(refuse(dtype));
    }
    let (exclusive, reverse) = (node.flag("exclusive", false)?, node.flag("reverse", false)?);
    Ok(Box::new(Cumulative { product, exclusive, reverse }))
}

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("CumSum", 11, NEWEST, |node| build(node, false)),
    Operator::onnx("CumProd", 26, NEWEST, |node| build(node, true)),
];
