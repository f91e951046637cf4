//! The floating-point storage types that kernels load into f32 lanes.

use half::{bf16, f16};

use super::buffer::Pod;
use super::simd::Simd;

/// f32, binary16 or bfloat16 in memory, f32 in registers.
pub trait Float: Pod {
    /// Loads one vector.
    ///
    /// # Safety
    /// `S::LANES` elements must be readable at `p`.
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::F;

    /// Stores one vector, rounding to nearest even.
    ///
    /// # Safety
    /// `S::LANES` elements must be writable at `p`.
    unsafe fn store<S: Simd>(s: S, p: *mut Self, v: S::F);

    /// Loads the first `n` lanes; the rest are zero.
    ///
    /// # Safety
    /// `n <= S::LANES` elements must be readable at `p`.
    #[inline(always)]
    unsafe fn load_partial<S: Simd>(s: S, p: *const Self, n: usize) -> S::F {
        let mut lanes = [0.0f32; MAX_LANES];
        // SAFETY: n <= LANES <= MAX_LANES.
        unsafe {
            for (i, lane) in lanes.iter_mut().enumerate().take(n) {
                *lane = (*p.add(i)).to_f32();
            }
            s.load(lanes.as_ptr())
        }
    }

    /// Stores the first `n` lanes.
    ///
    /// # Safety
    /// `n <= S::LANES` elements must be writable at `p`.
    #[inline(always)]
    unsafe fn store_partial<S: Simd>(s: S, p: *mut Self, n: usize, v: S::F) {
        let mut lanes = [Self::from_f32(0.0); MAX_LANES];
        // SAFETY: n <= LANES <= MAX_LANES.
        unsafe {
            Self::store(s, lanes.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n);
        }
    }

    /// Exact conversion.
    fn to_f32(self) -> f32;

    /// Conversion that rounds to nearest even.
    fn from_f32(v: f32) -> Self;
}

/// Lanes of the widest tier.
pub(crate) const MAX_LANES: usize = 16;

impl Float for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f32) -> S::F {
        // SAFETY: the caller's contract.
        unsafe { s.load(p) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut f32, v: S::F) {
        // SAFETY: the caller's contract.
        unsafe { s.store(p, v) }
    }
    #[inline(always)]
    unsafe fn load_partial<S: Simd>(s: S, p: *const f32, n: usize) -> S::F {
        // SAFETY: the caller's contract.
        unsafe { s.load_partial(p, n) }
    }
    #[inline(always)]
    unsafe fn store_partial<S: Simd>(s: S, p: *mut f32, n: usize, v: S::F) {
        // SAFETY: the caller's contract.
        unsafe { s.store_partial(p, n, v) }
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(v: f32) -> Self {
        v
    }
}

impl Float for f16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f16) -> S::F {
        // SAFETY: the caller's contract; f16 is a transparent u16.
        unsafe { s.load_f16(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut f16, v: S::F) {
        // SAFETY: the caller's contract; f16 is a transparent u16.
        unsafe { s.store_f16(p.cast(), v) }
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
    #[inline(always)]
    fn from_f32(v: f32) -> Self {
        f16::from_f32(v)
    }
}

impl Float for bf16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const bf16) -> S::F {
        // SAFETY: the caller's contract; bf16 is a transparent u16.
        unsafe { s.load_bf16(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut bf16, v: S::F) {
        // SAFETY: the caller's contract; bf16 is a transparent u16.
        unsafe { s.store_bf16(p.cast(), v) }
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
    #[inline(always)]
    fn from_f32(v: f32) -> Self {
        bf16::from_f32(v)
    }
}
