//! Conversions between number types, by the rules of ONNX Cast.

use half::{bf16, f16};

use super::elementwise::map_unary;
use super::features::Context;
use super::float::Float;
use super::simd::{Kernel, Simd};
use crate::error::{Result, expect_len};
use crate::parallel::{SharedMut, for_each_range};

const GRAIN: usize = 32 * 1024;

struct FloatLoop<A, B> {
    x: *const A,
    y: *mut B,
    len: usize,
}

impl<A: Float, B: Float> Kernel for FloatLoop<A, B> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, y, len } = self;
        let mut i = 0;
        // SAFETY: both hold `len` elements.
        unsafe {
            while i + 2 * S::LANES <= len {
                let (a, b) = (A::load(s, x.add(i)), A::load(s, x.add(i + S::LANES)));
                B::store(s, y.add(i), a);
                B::store(s, y.add(i + S::LANES), b);
                i += 2 * S::LANES;
            }
            while i < len {
                let n = S::LANES.min(len - i);
                B::store_partial(s, y.add(i), n, A::load_partial(s, x.add(i), n));
                i += S::LANES;
            }
        }
    }
}

/// Converts between f32, f16 and bf16, rounding to nearest even.
pub fn convert_float<A: Float, B: Float>(ctx: Context<'_>, x: &[A], y: &mut [B]) -> Result<()> {
    expect_len("output of the cast", y.len(), x.len())?;
    let out = SharedMut::new(y);
    for_each_range(ctx.parallel, x.len(), GRAIN, 64, &|range| {
        // SAFETY: ranges are disjoint.
        let part = unsafe { out.slice(range.clone()) };
        ctx.features.dispatch(FloatLoop { x: x[range].as_ptr(), y: part.as_mut_ptr(), len: part.len() });
    });
    Ok(())
}

/// Numeric conversion of one value: floats truncate towards zero into integers, integers wrap into narrower ones,
/// bool is 0 or 1 and any non-zero value converts to true. Floats outside an integer's range saturate, NaN gives 0.
pub trait CastInto<D>: Copy {
    fn cast_into(self) -> D;
}

macro_rules! cast_primitives {
    ($($s:ty => [$($d:ty),*];)*) => { $( $(
        impl CastInto<$d> for $s {
            #[inline(always)]
            fn cast_into(self) -> $d {
                self as $d
            }
        }
    )* )* };
}

macro_rules! cast_all {
    ($($s:ty),*) => {
        cast_primitives! { $( $s => [u8, i8, u16, i16, u32, i32, u64, i64, f32, f64]; )* }
        $(
            impl CastInto<f16> for $s {
                #[inline(always)]
                fn cast_into(self) -> f16 {
                    f16::from_f64(self as f64)
                }
            }
            impl CastInto<bf16> for $s {
                #[inline(always)]
                fn cast_into(self) -> bf16 {
                    bf16::from_f64(self as f64)
                }
            }
            impl CastInto<bool> for $s {
                #[inline(always)]
                fn cast_into(self) -> bool {
                    self != (0 as $s)
                }
            }
            impl CastInto<$s> for bool {
                #[inline(always)]
                fn cast_into(self) -> $s {
                    u8::from(self) as $s
                }
            }
            impl CastInto<$s> for f16 {
                #[inline(always)]
                fn cast_into(self) -> $s {
                    self.to_f32() as $s
                }
            }
            impl CastInto<$s> for bf16 {
                #[inline(always)]
                fn cast_into(self) -> $s {
                    self.to_f32() as $s
                }
            }
        )*
    };
}
cast_all!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);

macro_rules! cast_halves {
    ($($s:ty => $d:ty = |$v:ident| $body:expr;)*) => { $(
        impl CastInto<$d> for $s {
            #[inline(always)]
            fn cast_into(self) -> $d {
                let $v = self;
                $body
            }
        }
    )* };
}
cast_halves! {
    bool => bool = |v| v;
    bool => f16 = |v| f16::from_f32(f32::from(u8::from(v)));
    bool => bf16 = |v| bf16::from_f32(f32::from(u8::from(v)));
    f16 => bool = |v| v.to_f32() != 0.0;
    bf16 => bool = |v| v.to_f32() != 0.0;
    f16 => f16 = |v| v;
    bf16 => bf16 = |v| v;
    f16 => bf16 = |v| bf16::from_f32(v.to_f32());
    bf16 => f16 = |v| f16::from_f32(v.to_f32());
}

/// Converts every element by [`CastInto`].
pub fn convert<A, B>(ctx: Context<'_>, x: &[A], y: &mut [B]) -> Result<()>
where
    A: CastInto<B> + Sync,
    B: Send,
{
    map_unary(ctx, x, y, A::cast_into)
}
