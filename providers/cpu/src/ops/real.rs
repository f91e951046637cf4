//! Float arithmetic written once for f32 and f64. Tensors of f16 and bf16 are widened to f32, computed on, and rounded
//! once when the result is stored.

use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub, SubAssign};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::error::{OpError, Result};
use crate::kernel::Context;
use crate::tensor::{DType, Element, Tensor};

/// A type that float kernels compute in: `f32` or `f64`.
pub trait Real:
    Element
    + Default
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + Sum
{
    const ZERO: Self;
    const ONE: Self;
    const INFINITY: Self;

    fn from_f32(value: f32) -> Self;
    fn from_f64(value: f64) -> Self;
    fn to_f32(self) -> f32;
    fn to_f64(self) -> f64;
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn sqrt(self) -> Self;
    fn tanh(self) -> Self;
    fn abs(self) -> Self;
    fn powf(self, exponent: Self) -> Self;
    fn is_nan(self) -> bool;

    /// The larger value; NaN when either is NaN.
    fn maximum(self, other: Self) -> Self {
        if self.is_nan() || self > other { self } else { other }
    }

    /// The smaller value; NaN when either is NaN.
    fn minimum(self, other: Self) -> Self {
        if self.is_nan() || self < other { self } else { other }
    }

    /// `1 / (1 + exp(-x))` without overflow.
    fn sigmoid(self) -> Self {
        if self >= Self::ZERO {
            Self::ONE / (Self::ONE + (-self).exp())
        } else {
            let e = self.exp();
            e / (Self::ONE + e)
        }
    }
}

macro_rules! real {
    ($t:ident) => {
        impl Real for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const INFINITY: Self = $t::INFINITY;

            fn from_f32(value: f32) -> Self {
                value as $t
            }
            fn from_f64(value: f64) -> Self {
                value as $t
            }
            fn to_f32(self) -> f32 {
                self as f32
            }
            fn to_f64(self) -> f64 {
                self as f64
            }
            fn exp(self) -> Self {
                $t::exp(self)
            }
            fn ln(self) -> Self {
                $t::ln(self)
            }
            fn sqrt(self) -> Self {
                $t::sqrt(self)
            }
            fn tanh(self) -> Self {
                $t::tanh(self)
            }
            fn abs(self) -> Self {
                $t::abs(self)
            }
            fn powf(self, exponent: Self) -> Self {
                $t::powf(self, exponent)
            }
            fn is_nan(self) -> bool {
                $t::is_nan(self)
            }
        }
    };
}
real!(f32);
real!(f64);

/// Runs an expression with `$t` standing for the type that tensors of `$dtype` are computed in.
macro_rules! with_real {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            $crate::tensor::DType::F64 => {
                type $t = f64;
                $body
            }
            $crate::tensor::DType::F32 | $crate::tensor::DType::F16 | $crate::tensor::DType::BF16 => {
                type $t = f32;
                $body
            }
            other => Err($crate::error::OpError::unsupported(format!(
                "element type {other} is not a float type with a kernel (float, float16, bfloat16, double)"
            ))),
        }
    };
}
pub(crate) use with_real;

/// Errors unless `dtype` is a float type or not known yet.
pub fn check(dtype: DType) -> Result<()> {
    match dtype {
        DType::Undefined => Ok(()),
        other => with_real!(other, T => {
            let _: T;
            Ok(())
        }),
    }
}

/// A float tensor in the type it is computed in: the tensor itself where the types agree, else a converted copy.
pub fn load<T: Real>(cx: &Context<'_>, tensor: &Tensor) -> Result<Tensor> {
    if tensor.dtype() == T::DTYPE {
        return Ok(tensor.clone());
    }
    let mut wide = cx.scratch(T::DTYPE, tensor.dims())?;
    convert_into(tensor, wide.as_mut_slice::<T>()?)?;
    Ok(wide)
}

/// [`load`] of input `index`.
pub fn load_input<T: Real>(cx: &Context<'_>, index: usize) -> Result<Tensor> {
    load::<T>(cx, cx.input(index)?)
}

/// [`load`] of input `index` when it is present.
pub fn load_optional<T: Real>(cx: &Context<'_>, index: usize) -> Result<Option<Tensor>> {
    cx.optional(index).map(|tensor| load::<T>(cx, tensor)).transpose()
}

/// The elements of a float tensor as a vector.
pub fn to_vec<T: Real>(tensor: &Tensor) -> Result<Vec<T>> {
    let mut values = vec![T::ZERO; tensor.len()];
    convert_into(tensor, &mut values)?;
    Ok(values)
}

/// Converts the elements of a float tensor into `out`, which has as many elements.
pub fn convert_into<T: Real>(tensor: &Tensor, out: &mut [T]) -> Result<()> {
    match tensor.dtype() {
        DType::F32 => each(tensor.as_slice::<f32>()?, out, T::from_f32),
        DType::F64 => each(tensor.as_slice::<f64>()?, out, T::from_f64),
        DType::F16 => each(tensor.as_slice::<f16>()?, out, |v| T::from_f32(v.to_f32())),
        DType::BF16 => each(tensor.as_slice::<bf16>()?, out, |v| T::from_f32(v.to_f32())),
        other => return Err(OpError::unsupported(format!("expected a float tensor, got {other}"))),
    }
    Ok(())
}

fn each<S: Copy, T>(from: &[S], to: &mut [T], convert: impl Fn(S) -> T) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = convert(from);
    }
}

/// An output being computed in `T` that ends up as a tensor of another float type.
pub struct Output {
    index: usize,
    dtype: DType,
    tensor: Tensor,
}

impl Output {
    /// Memory for output `index` of type `dtype`, computed in `T`. The content is unspecified.
    pub fn new<T: Real>(cx: &Context<'_>, index: usize, dtype: DType, dims: &[usize]) -> Result<Output> {
        let tensor =
            if dtype == T::DTYPE { cx.output(index, dtype, dims)? } else { cx.scratch(T::DTYPE, dims)? };
        Ok(Output { index, dtype, tensor })
    }

    /// The elements to write.
    pub fn slice<T: Real>(&mut self) -> Result<&mut [T]> {
        self.tensor.as_mut_slice::<T>()
    }

    /// Rounds to the output's type and hands it in.
    pub fn finish(self, cx: &mut Context<'_>) -> Result<()> {
        let Output { index, dtype, tensor } = self;
        if tensor.dtype() == dtype {
            cx.set(index, tensor);
            return Ok(());
        }
        let mut out = cx.output(index, dtype, tensor.dims())?;
        round_into(&tensor, &mut out)?;
        cx.set(index, out);
        Ok(())
    }
}

/// Rounds an f32 or f64 tensor into a float tensor of as many elements.
pub fn round_into(from: &Tensor, to: &mut Tensor) -> Result<()> {
    match (from.dtype(), to.dtype()) {
        (DType::F32, DType::F16) => to.as_mut_slice::<f16>()?.convert_from_f32_slice(from.as_slice()?),
        (DType::F32, DType::BF16) => to.as_mut_slice::<bf16>()?.convert_from_f32_slice(from.as_slice()?),
        (DType::F32, DType::F64) => each(from.as_slice::<f32>()?, to.as_mut_slice::<f64>()?, f64::from),
        (DType::F32, DType::F32) => to.as_mut_slice::<f32>()?.copy_from_slice(from.as_slice()?),
        (DType::F64, DType::F32) => each(from.as_slice::<f64>()?, to.as_mut_slice::<f32>()?, |v| v as f32),
        (DType::F64, DType::F16) => each(from.as_slice::<f64>()?, to.as_mut_slice::<f16>()?, f16::from_f64),
        (DType::F64, DType::BF16) => {
            each(from.as_slice::<f64>()?, to.as_mut_slice::<bf16>()?, bf16::from_f64)
        }
        (DType::F64, DType::F64) => to.as_mut_slice::<f64>()?.copy_from_slice(from.as_slice()?),
        (from, to) => return Err(OpError::unsupported(format!("no rounding from {from} to {to}"))),
    }
    Ok(())
}
