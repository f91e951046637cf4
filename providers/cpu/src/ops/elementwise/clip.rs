//! Clip: limits from attributes (before opset 11) or from inputs.

use tenon_kernels::cpu::elementwise::Unary;

use super::row::{UnaryLoop, is_half, run_unary};
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::cast::converted;
use crate::ops::{NEWEST, Operator};
use crate::tensor::{DType, Element, Tensor};

enum Clip {
    /// Limits known while building.
    Fixed { low: Option<f32>, high: Option<f32> },
    /// Limits in inputs 1 and 2, either of which may be absent.
    Inputs,
}

/// An element type with limits.
trait Limited: Element + PartialOrd {
    const LOWEST: Self;
    const HIGHEST: Self;
    fn from_f32(value: f32) -> Self;
}

macro_rules! limited {
    ($($t:ident $low:expr, $high:expr;)*) => {
        $(
            impl Limited for $t {
                const LOWEST: Self = $low;
                const HIGHEST: Self = $high;
                fn from_f32(value: f32) -> Self {
                    value as $t
                }
            }
        )*
    };
}

limited! {
    f32 f32::MIN, f32::MAX;
    f64 f64::MIN, f64::MAX;
    i8 i8::MIN, i8::MAX;
    i16 i16::MIN, i16::MAX;
    i32 i32::MIN, i32::MAX;
    i64 i64::MIN, i64::MAX;
    u8 u8::MIN, u8::MAX;
    u16 u16::MIN, u16::MAX;
    u32 u32::MIN, u32::MAX;
    u64 u64::MIN, u64::MAX;
}

impl Clip {
    /// The limits; `widest` are those of the element type.
    fn limits<T: Limited>(&self, cx: &Context<'_>, widest: [T; 2]) -> Result<[T; 2]> {
        let or = |limit: Option<f32>, default| limit.map_or(default, T::from_f32);
        match self {
            Clip::Fixed { low, high } => Ok([or(*low, widest[0]), or(*high, widest[1])]),
            Clip::Inputs => Ok([limit(cx, 1, widest[0])?, limit(cx, 2, widest[1])?]),
        }
    }

    fn run_typed<T: Limited>(&self, cx: &mut Context<'_>) -> Result<()> {
        let [low, high] = self.limits(cx, [T::LOWEST, T::HIGHEST])?;
        let input = cx.input(0)?;
        let mut out = cx.output(0, T::DTYPE, input.dims())?;
        for (out, &x) in out.as_mut_slice::<T>()?.iter_mut().zip(input.as_slice::<T>()?) {
            let raised = if x < low { low } else { x };
            *out = if raised > high { high } else { raised };
        }
        cx.set(0, out);
        Ok(())
    }
}

fn limit<T: Limited>(cx: &Context<'_>, index: usize, default: T) -> Result<T> {
    let Some(tensor) = cx.optional(index) else { return Ok(default) };
    let widened: Tensor;
    let tensor = if is_half(tensor.dtype()) {
        widened = converted(cx, tensor, DType::F32)?;
        &widened
    } else {
        tensor
    };
    tensor.to_scalar::<T>()
}

impl Kernel for Clip {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        match cx.input(0)?.dtype() {
            dtype @ (DType::F32 | DType::F16 | DType::BF16) => {
                let largest = match dtype {
                    DType::F16 => half::f16::MAX.to_f32(),
                    DType::BF16 => half::bf16::MAX.to_f32(),
                    _ => f32::MAX,
                };
                let [min, max] = self.limits(cx, [-largest, largest])?;
                run_unary(cx, UnaryLoop::Vector(Unary::Clip { min, max }), [0.0; 2], dtype)
            }
            DType::F64 => self.run_typed::<f64>(cx),
            DType::I8 => self.run_typed::<i8>(cx),
            DType::I16 => self.run_typed::<i16>(cx),
            DType::I32 => self.run_typed::<i32>(cx),
            DType::I64 => self.run_typed::<i64>(cx),
            DType::U8 => self.run_typed::<u8>(cx),
            DType::U16 => self.run_typed::<u16>(cx),
            DType::U32 => self.run_typed::<u32>(cx),
            DType::U64 => self.run_typed::<u64>(cx),
            other => Err(refuse(other)),
        }
    }
}

fn refuse(dtype: DType) -> OpError {
    OpError::unsupported(format!("Clip is not defined for element type {dtype}"))
}

fn build(node: &Node) -> Result<Box<dyn Kernel>> {
    let dtype = node.input_dtype(0);
    if dtype != DType::Undefined && !dtype.is_float() && (!dtype.is_integer() || dtype.bits() < 8) {
        return Err(refuse(dtype));
    }
    if node.version >= 11 {
        return Ok(Box::new(Clip::Inputs));
    }
    let (low, high) = (node.optional_float("min")?, node.optional_float("max")?);
    Ok(Box::new(Clip::Fixed { low, high }))
}

pub const OPERATORS: &[Operator] = &[Operator::onnx("Clip", 1, NEWEST, build)];
