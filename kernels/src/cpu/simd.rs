//! The vector operations that kernels are written in; one implementation per instruction set tier.

use super::features::{Features, Isa};

/// A computation written once and compiled for every tier.
///
/// `run` must be `#[inline(always)]`, as must everything it calls that takes the `Simd` value: only then are the
/// tier's instructions available to it.
pub trait Kernel {
    /// What the computation returns.
    type Output;

    /// The computation.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

impl Features {
    /// Runs `kernel` compiled for the fastest tier allowed.
    #[inline]
    pub fn dispatch<K: Kernel>(self, kernel: K) -> K::Output {
        match self.isa() {
            // SAFETY: a `Features` value proves that the tier was detected.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { super::avx512::enter(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { super::avx2::enter(kernel) },
            _ => super::scalar::enter(kernel),
        }
    }
}

/// Vectors of `LANES` f32 or i32 values. Holding a value proves that the instructions are available.
///
/// Pointer operations are unsafe with the usual contract: the lanes named must be readable or writable. No
/// alignment is required.
#[expect(
    clippy::missing_safety_doc,
    reason = "the trait documentation states the one contract of all pointer operations"
)]
pub trait Simd: Copy + Send + Sync + 'static {
    /// Lanes of a vector.
    const LANES: usize;
    /// Whether multiply-add rounds once.
    const FUSED: bool;
    /// f32 lanes.
    type F: Copy;
    /// i32 lanes.
    type I: Copy;
    /// One truth value per lane.
    type M: Copy;

    /// Hints that the cache line of `p` will be read; any address is allowed.
    fn prefetch<T>(self, p: *const T);
    unsafe fn load(self, p: *const f32) -> Self::F;
    unsafe fn store(self, p: *mut f32, v: Self::F);
    /// Loads the first `n <= LANES` lanes; the rest are zero.
    unsafe fn load_partial(self, p: *const f32, n: usize) -> Self::F;
    /// Stores the first `n <= LANES` lanes.
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: Self::F);
    /// Loads `2 * LANES` values and keeps those at even positions.
    unsafe fn load_even(self, p: *const f32) -> Self::F;
    unsafe fn load_i32(self, p: *const i32) -> Self::I;
    unsafe fn store_i32(self, p: *mut i32, v: Self::I);
    /// Loads `LANES` IEEE binary16 values.
    unsafe fn load_f16(self, p: *const u16) -> Self::F;
    /// Stores `LANES` binary16 values, rounding to nearest even.
    unsafe fn store_f16(self, p: *mut u16, v: Self::F);
    /// Loads `LANES` bfloat16 values.
    unsafe fn load_bf16(self, p: *const u16) -> Self::F;
    /// Stores `LANES` bfloat16 values, rounding to nearest even; NaN stays NaN.
    unsafe fn store_bf16(self, p: *mut u16, v: Self::F);
    /// Loads `LANES` unsigned bytes, zero-extended.
    unsafe fn load_u8(self, p: *const u8) -> Self::I;
    /// Loads `LANES` signed bytes, sign-extended.
    unsafe fn load_i8(self, p: *const i8) -> Self::I;
    /// Stores the low byte of every lane.
    unsafe fn store_low_u8(self, p: *mut u8, v: Self::I);

    fn splat(self, v: f32) -> Self::F;
    fn zero(self) -> Self::F {
        self.splat(0.0)
    }
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c - a * b`.
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `if a < b { a } else { b }`: the second operand when either is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a > b { a } else { b }`: the second operand when either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    fn sqrt(self, a: Self::F) -> Self::F;
    fn abs(self, a: Self::F) -> Self::F;
    fn neg(self, a: Self::F) -> Self::F;
    /// Rounds to the nearest integer, ties to even.
    fn round(self, a: Self::F) -> Self::F;
    fn floor(self, a: Self::F) -> Self::F;
    fn ceil(self, a: Self::F) -> Self::F;
    fn trunc(self, a: Self::F) -> Self::F;

    fn lt(self, a: Self::F, b: Self::F) -> Self::M;
    fn le(self, a: Self::F, b: Self::F) -> Self::M;
    fn eq(self, a: Self::F, b: Self::F) -> Self::M;
    /// True where `a` is NaN.
    fn is_nan(self, a: Self::F) -> Self::M;
    /// `if m { a } else { b }` per lane.
    fn select(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F;
    /// Whether any lane is true.
    fn any(self, m: Self::M) -> bool;

    fn splat_i(self, v: i32) -> Self::I;
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn sub_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn mul_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// Per lane: the sum of the products of the two signed 16-bit halves.
    fn multiply_pairs(self, a: Self::I, b: Self::I) -> Self::I;
    /// The low bits `MASK` (at most four) of every lane as a number; `table` is [`Simd::code_table`] of the mask.
    fn decode<const MASK: i32>(self, a: Self::I, table: Self::F) -> Self::F;
    /// What [`Simd::decode`] looks codes up in, where the tier has such an instruction.
    fn code_table<const MASK: i32>(self) -> Self::F;
    fn and_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn or_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn min_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn max_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn shl<const N: u32>(self, a: Self::I) -> Self::I;
    /// Arithmetic shift right.
    fn sar<const N: u32>(self, a: Self::I) -> Self::I;
    /// Logical shift right.
    fn shr<const N: u32>(self, a: Self::I) -> Self::I;
    /// Logical shift right by the same count in every lane; cheap where the count is known when compiled.
    fn shr_by(self, a: Self::I, count: u32) -> Self::I;
    /// The f32 bits as i32.
    fn bits(self, a: Self::F) -> Self::I;
    /// The i32 as f32 bits.
    fn of_bits(self, a: Self::I) -> Self::F;
    /// Rounds to the nearest integer, ties to even; lanes outside i32 are unspecified.
    fn to_i32(self, a: Self::F) -> Self::I;
    fn to_f32(self, a: Self::I) -> Self::F;

    fn reduce_sum(self, a: Self::F) -> f32;
    /// Largest lane; unspecified where a lane is NaN.
    fn reduce_max(self, a: Self::F) -> f32;
    /// Smallest lane; unspecified where a lane is NaN.
    fn reduce_min(self, a: Self::F) -> f32;
}

/// `min` that returns NaN when either operand is NaN.
#[inline(always)]
pub(crate) fn min_nan<S: Simd>(s: S, a: S::F, b: S::F) -> S::F {
    let m = s.min(a, b);
    s.select(s.is_nan(a), a, m)
}

/// `max` that returns NaN when either operand is NaN.
#[inline(always)]
pub(crate) fn max_nan<S: Simd>(s: S, a: S::F, b: S::F) -> S::F {
    let m = s.max(a, b);
    s.select(s.is_nan(a), a, m)
}
