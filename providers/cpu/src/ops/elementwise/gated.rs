//! Gates of com.microsoft whose every step is rounded to the tensor's type: GatedAdd, ScaledSiLU.

use half::{bf16, f16};

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::Operator;
use crate::ops::real::{self, Output, Real, with_real};
use crate::tensor::{DType, Dims};

pub const OPERATORS: &[Operator] = &[
    Operator::of("com.microsoft", "GatedAdd", build_gated_add),
    Operator::of("com.microsoft", "ScaledSiLU", build_scaled_silu),
];

/// Rounds a value to `dtype`; the identity where it is computed in that type.
fn rounding<T: Real>(dtype: DType) -> fn(T) -> T {
    match dtype {
        DType::F16 => |v| T::from_f32(f16::from_f32(v.to_f32()).to_f32()),
        DType::BF16 => |v| T::from_f32(bf16::from_f32(v.to_f32()).to_f32()),
        _ => |v| v,
    }
}

/// `x + y * gate` with one gate a row: x and y `[.., width]`, gate `[.., 1]`.
struct GatedAdd;

fn build_gated_add(node: &Node) -> Result<Box<dyn Kernel>> {
    if node.has_input(3) {
        return Err(OpError::unsupported("GatedAdd has no kernel for a projected gate (gate_weight)"));
    }
    real::check(node.input_dtype(0))?;
    Ok(Box::new(GatedAdd))
}

impl Kernel for GatedAdd {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        with_real!(dtype, T => gated_add::<T>(cx, dtype))
    }
}

fn gated_add<T: Real>(cx: &mut Context<'_>, dtype: DType) -> Result<()> {
    let (x, y, gate) =
        (real::load_input::<T>(cx, 0)?, real::load_input::<T>(cx, 1)?, real::load_input::<T>(cx, 2)?);
    let dims: Dims = x.dims().into();
    let mut gates = dims.clone();
    match gates.last_mut() {
        Some(last) if y.dims() == x.dims() => *last = 1,
        _ => {
            return Err(OpError::invalid(format!(
                "X {:?} and Y {:?} must have one shape of rank 1 or more",
                x.dims(),
                y.dims()
            )));
        }
    }
    if gate.dims() != &*gates {
        return Err(OpError::invalid(format!("the gate has shape {:?}, expected {gates:?}", gate.dims())));
    }
    let round = rounding::<T>(dtype);
    let mut out = Output::new::<T>(cx, 0, dtype, &dims)?;
    let width = dims.last().copied().unwrap_or(1).max(1);
    let (x, y, gate) = (x.as_slice::<T>()?, y.as_slice::<T>()?, gate.as_slice::<T>()?);
    for (i, out) in out.slice::<T>()?.iter_mut().enumerate() {
        *out = x[i] + round(y[i] * gate[i / width]);
    }
    out.finish(cx)
}

/// `z * sigmoid(z)` of `z = scale * x`; the scale is input 1 or the attribute.
struct ScaledSilu {
    alpha: f32,
}

fn build_scaled_silu(node: &Node) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(0))?;
    Ok(Box::new(ScaledSilu { alpha: node.float("alpha", 1.0)? }))
}

impl Kernel for ScaledSilu {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        with_real!(dtype, T => self.compute::<T>(cx, dtype))
    }
}

impl ScaledSilu {
    fn compute<T: Real>(&self, cx: &mut Context<'_>, dtype: DType) -> Result<()> {
        let scale = match real::load_optional::<f32>(cx, 1)? {
            Some(scale) => scale.to_scalar::<f32>()?,
            None => self.alpha,
        };
        let (x, scale, round) = (real::load_input::<T>(cx, 0)?, T::from_f32(scale), rounding::<T>(dtype));
        let mut out = Output::new::<T>(cx, 0, dtype, x.dims())?;
        for (out, &x) in out.slice::<T>()?.iter_mut().zip(x.as_slice::<T>()?) {
            let z = round(scale * x);
            *out = z * round(z.sigmoid());
        }
        out.finish(cx)
    }
}
