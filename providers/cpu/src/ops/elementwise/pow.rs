//! Pow: base and exponent may differ in element type; the result has the base's.

use tenon_kernels::cpu::elementwise::{Binary, Unary};

use super::binary::Legacy;
use super::broadcast::shape_of;
use super::row::{
    BinaryLoop, BinaryOp, Params, UnaryLoop, binary_row, fill_binary, is_half, run_binary, run_unary,
};
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::cast::{converted, set_converted};
use crate::ops::{NEWEST, Operator};
use crate::tensor::{DType, Dims};

struct Pow {
    legacy: Legacy,
}

/// The power itself. Integer powers wrap; a negative exponent of an integer gives the truncated quotient.
struct Power;

impl BinaryOp<f32> for Power {
    type Output = f32;
    #[inline(always)]
    fn apply(_: &Params, base: f32, exponent: f32) -> f32 {
        base.powf(exponent)
    }
}

impl BinaryOp<f64> for Power {
    type Output = f64;
    #[inline(always)]
    fn apply(_: &Params, base: f64, exponent: f64) -> f64 {
        base.powf(exponent)
    }
}

impl BinaryOp<i64> for Power {
    type Output = i64;
    #[inline(always)]
    fn apply(_: &Params, base: i64, exponent: i64) -> i64 {
        match (base, exponent) {
            (_, 0..) => power(base, exponent),
            (1, _) => 1,
            (-1, _) => 1 - 2 * (exponent & 1),
            _ => 0,
        }
    }
}

fn power(mut base: i64, mut exponent: i64) -> i64 {
    let mut result = 1i64;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = result.wrapping_mul(base);
        }
        base = base.wrapping_mul(base);
        exponent >>= 1;
    }
    result
}

impl Kernel for Pow {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (base, exponent) = (cx.input(0)?, cx.input(1)?);
        let (from, by) = (base.dtype(), exponent.dtype());
        let aligned = self.legacy.align(base.dims(), exponent.dims())?;
        let dims = aligned.unwrap_or_else(|| exponent.dims().into());
        if (from == DType::F32 || is_half(from)) && exponent.len() == 1 && dims.len() <= base.rank() {
            let exponent = converted(cx, exponent, DType::F64)?.to_scalar::<f64>()?;
            if run_constant(cx, exponent)? {
                return Ok(());
            }
        }
        match (from, by) {
            (DType::F32, DType::F32) | (DType::F16, DType::F16) | (DType::BF16, DType::BF16) => {
                run_binary(cx, BinaryLoop::Typed(binary_row::<f32, Power>), [0.0; 2], Some(&dims), from)
            }
            (DType::F64, DType::F64) => {
                run_binary(cx, BinaryLoop::Typed(binary_row::<f64, Power>), [0.0; 2], Some(&dims), from)
            }
            _ => run_mixed(cx, &dims),
        }
    }
}

/// The exponents that need no power: 2, 1, 1/2 and -1. Returns false for others.
fn run_constant(cx: &mut Context<'_>, exponent: f64) -> Result<bool> {
    let input = cx.input(0)?;
    let dtype = input.dtype();
    if exponent == 2.0 {
        let mut out = cx.output(0, dtype, input.dims())?;
        let shapes = [input.dims(), input.dims()];
        fill_binary(cx, BinaryLoop::Vector(Binary::Mul), [0.0; 2], [input, input], shapes, &mut out)?;
        cx.set(0, out);
        return Ok(true);
    }
    let function = match exponent {
        1.0 => Unary::Identity,
        -1.0 => Unary::Reciprocal,
        _ => return Ok(false),
    };
    run_unary(cx, UnaryLoop::Vector(function), [0.0; 2], dtype)?;
    Ok(true)
}

/// Computes in a type that holds both: i64 for integers, f64 where a float meets an integer or an f64.
fn run_mixed(cx: &mut Context<'_>, exponent_dims: &[usize]) -> Result<()> {
    let (base, exponent) = (cx.input(0)?, cx.input(1)?);
    let to = base.dtype();
    let wide = if to.is_integer() && exponent.dtype().is_integer() { DType::I64 } else { DType::F64 };
    let dims: Dims = shape_of(&[base.dims(), exponent_dims])?;
    let body = match wide {
        DType::I64 => BinaryLoop::Typed(binary_row::<i64, Power>),
        _ => BinaryLoop::Typed(binary_row::<f64, Power>),
    };
    let (a, b) = (converted(cx, base, wide)?, converted(cx, exponent, wide)?);
    let mut out = cx.scratch(wide, &dims)?;
    fill_binary(cx, body, [0.0; 2], [&a, &b], [a.dims(), exponent_dims], &mut out)?;
    set_converted(cx, 0, out, to)
}

fn build(node: &Node) -> Result<Box<dyn Kernel>> {
    for index in 0..2 {
        let dtype = node.input_dtype(index);
        if dtype != DType::Undefined && !dtype.is_float() && (!dtype.is_integer() || dtype.bits() < 8) {
            return Err(OpError::unsupported(format!("Pow is not defined for element type {dtype}")));
        }
    }
    Ok(Box::new(Pow { legacy: Legacy::of(node)? }))
}

pub const OPERATORS: &[Operator] = &[Operator::onnx("Pow", 1, NEWEST, build)];
