//! The portable tier: four-lane arrays in plain Rust, the reference for every other tier.

use half::{bf16, f16};

use super::simd::{Kernel, Simd};

const LANES: usize = 4;

/// Baseline instructions only.
#[derive(Clone, Copy)]
pub struct Scalar;

/// Runs a kernel on the portable tier.
pub(super) fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Scalar)
}

#[inline(always)]
fn map<T: Copy, R: Copy + Default>(a: [T; LANES], f: impl Fn(T) -> R) -> [R; LANES] {
    [f(a[0]), f(a[1]), f(a[2]), f(a[3])]
}

#[inline(always)]
fn zip<T: Copy, R: Copy>(a: [T; LANES], b: [T; LANES], f: impl Fn(T, T) -> R) -> [R; LANES] {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

impl Simd for Scalar {
    const LANES: usize = LANES;
    const FUSED: bool = false;
    type F = [f32; LANES];
    type I = [i32; LANES];
    type M = [bool; LANES];

    #[inline(always)]
    fn prefetch<T>(self, _: *const T) {}
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::F {
        // SAFETY: the caller vouches for LANES readable values.
        unsafe { p.cast::<[f32; LANES]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::F) {
        // SAFETY: the caller vouches for LANES writable values.
        unsafe { p.cast::<[f32; LANES]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> Self::F {
        let mut v = [0.0; LANES];
        for (i, lane) in v.iter_mut().enumerate().take(n) {
            // SAFETY: the caller vouches for n readable values.
            *lane = unsafe { p.add(i).read() };
        }
        v
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: Self::F) {
        for (i, lane) in v.iter().enumerate().take(n) {
            // SAFETY: the caller vouches for n writable values.
            unsafe { p.add(i).write(*lane) };
        }
    }
    #[inline(always)]
    unsafe fn load_even(self, p: *const f32) -> Self::F {
        // SAFETY: the caller vouches for 2 * LANES readable values.
        unsafe { [*p, *p.add(2), *p.add(4), *p.add(6)] }
    }
    #[inline(always)]
    unsafe fn load_i32(self, p: *const i32) -> Self::I {
        // SAFETY: the caller vouches for LANES readable values.
        unsafe { p.cast::<[i32; LANES]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_i32(self, p: *mut i32, v: Self::I) {
        // SAFETY: the caller vouches for LANES writable values.
        unsafe { p.cast::<[i32; LANES]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> Self::F {
        // SAFETY: the caller vouches for LANES readable values.
        map(unsafe { p.cast::<[u16; LANES]>().read_unaligned() }, |v| f16::from_bits(v).to_f32())
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, v: Self::F) {
        // SAFETY: the caller vouches for LANES writable values.
        unsafe { p.cast::<[u16; LANES]>().write_unaligned(map(v, |v| f16::from_f32(v).to_bits())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> Self::F {
        // SAFETY: the caller vouches for LANES readable values.
        map(unsafe { p.cast::<[u16; LANES]>().read_unaligned() }, |v| f32::from_bits(u32::from(v) << 16))
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16, v: Self::F) {
        // SAFETY: the caller vouches for LANES writable values.
        unsafe { p.cast::<[u16; LANES]>().write_unaligned(map(v, |v| bf16::from_f32(v).to_bits())) }
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> Self::I {
        // SAFETY: the caller vouches for LANES readable values.
        map(unsafe { p.cast::<[u8; LANES]>().read_unaligned() }, i32::from)
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> Self::I {
        // SAFETY: the caller vouches for LANES readable values.
        map(unsafe { p.cast::<[i8; LANES]>().read_unaligned() }, i32::from)
    }
    #[inline(always)]
    unsafe fn store_low_u8(self, p: *mut u8, v: Self::I) {
        // SAFETY: the caller vouches for LANES writable values.
        unsafe { p.cast::<[u8; LANES]>().write_unaligned(map(v, |v| v as u8)) }
    }

    #[inline(always)]
    fn splat(self, v: f32) -> Self::F {
        [v; LANES]
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        self.add(self.mul(a, b), c)
    }
    #[inline(always)]
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        self.sub(c, self.mul(a, b))
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn sqrt(self, a: Self::F) -> Self::F {
        map(a, f32::sqrt)
    }
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        map(a, f32::abs)
    }
    #[inline(always)]
    fn neg(self, a: Self::F) -> Self::F {
        map(a, |a| -a)
    }
    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        map(a, f32::round_ties_even)
    }
    #[inline(always)]
    fn floor(self, a: Self::F) -> Self::F {
        map(a, f32::floor)
    }
    #[inline(always)]
    fn ceil(self, a: Self::F) -> Self::F {
        map(a, f32::ceil)
    }
    #[inline(always)]
    fn trunc(self, a: Self::F) -> Self::F {
        map(a, f32::trunc)
    }

    #[inline(always)]
    fn lt(self, a: Self::F, b: Self::F) -> Self::M {
        zip(a, b, |a, b| a < b)
    }
    #[inline(always)]
    fn le(self, a: Self::F, b: Self::F) -> Self::M {
        zip(a, b, |a, b| a <= b)
    }
    #[inline(always)]
    fn eq(self, a: Self::F, b: Self::F) -> Self::M {
        zip(a, b, |a, b| a == b)
    }
    #[inline(always)]
    fn is_nan(self, a: Self::F) -> Self::M {
        map(a, f32::is_nan)
    }
    #[inline(always)]
    fn select(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| if m[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn any(self, m: Self::M) -> bool {
        m[0] | m[1] | m[2] | m[3]
    }

    #[inline(always)]
    fn splat_i(self, v: i32) -> Self::I {
        [v; LANES]
    }
    #[inline(always)]
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, i32::wrapping_add)
    }
    #[inline(always)]
    fn sub_i(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, i32::wrapping_sub)
    }
    #[inline(always)]
    fn mul_i(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, i32::wrapping_mul)
    }
    #[inline(always)]
    fn multiply_pairs(self, a: Self::I, b: Self::I) -> Self::I {
        let high = |v: i32| v >> 16;
        let low = |v: i32| i32::from(v as i16);
        zip(a, b, |a, b| (low(a) * low(b)).wrapping_add(high(a) * high(b)))
    }
    #[inline(always)]
    fn decode<const MASK: i32>(self, a: Self::I, _: Self::F) -> Self::F {
        map(a, |a| (a & MASK) as f32)
    }
    #[inline(always)]
    fn code_table<const MASK: i32>(self) -> Self::F {
        self.zero()
    }
    #[inline(always)]
    fn and_i(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, |a, b| a & b)
    }
    #[inline(always)]
    fn or_i(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, |a, b| a | b)
    }
    #[inline(always)]
    fn min_i(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, i32::min)
    }
    #[inline(always)]
    fn max_i(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, i32::max)
    }
    #[inline(always)]
    fn shl<const N: u32>(self, a: Self::I) -> Self::I {
        map(a, |a| a << N)
    }
    #[inline(always)]
    fn sar<const N: u32>(self, a: Self::I) -> Self::I {
        map(a, |a| a >> N)
    }
    #[inline(always)]
    fn shr<const N: u32>(self, a: Self::I) -> Self::I {
        map(a, |a| ((a as u32) >> N) as i32)
    }
    #[inline(always)]
    fn shr_by(self, a: Self::I, count: u32) -> Self::I {
        map(a, |a| ((a as u32) >> count) as i32)
    }
    #[inline(always)]
    fn bits(self, a: Self::F) -> Self::I {
        map(a, |a| a.to_bits() as i32)
    }
    #[inline(always)]
    fn of_bits(self, a: Self::I) -> Self::F {
        map(a, |a| f32::from_bits(a as u32))
    }
    #[inline(always)]
    fn to_i32(self, a: Self::F) -> Self::I {
        map(a, |a| a.round_ties_even() as i32)
    }
    #[inline(always)]
    fn to_f32(self, a: Self::I) -> Self::F {
        map(a, |a| a as f32)
    }

    #[inline(always)]
    fn reduce_sum(self, a: Self::F) -> f32 {
        (a[0] + a[2]) + (a[1] + a[3])
    }
    #[inline(always)]
    fn reduce_max(self, a: Self::F) -> f32 {
        a[0].max(a[1]).max(a[2].max(a[3]))
    }
    #[inline(always)]
    fn reduce_min(self, a: Self::F) -> f32 {
        a[0].min(a[1]).min(a[2].min(a[3]))
    }
}
