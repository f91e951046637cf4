//! Dot products of bytes into 32-bit lanes: the one operation that differs between tiers.

use crate::cpu::features::{Features, Isa};
use crate::cpu::scalar::Scalar;
use crate::cpu::simd::Simd;

/// Vectors of i32 lanes that accumulate `GROUP` products of an unsigned and a signed byte each. Sums wrap.
///
/// A word is an i32 that holds the group: four bytes, or two 16-bit values where the tier multiplies those.
pub(crate) trait Dot: Copy {
    /// Products per lane and step.
    const GROUP: usize;
    /// i32 lanes of a vector.
    const LANES: usize;
    /// Rows of the tallest register tile.
    const ROWS: usize;
    type V: Copy;

    fn zero(self) -> Self::V;
    fn splat(self, word: i32) -> Self::V;
    /// # Safety
    /// `LANES` words must be readable.
    unsafe fn load(self, p: *const i32) -> Self::V;
    /// # Safety
    /// `LANES` words must be writable.
    unsafe fn store(self, p: *mut i32, v: Self::V);
    /// `acc` plus the dot product of the unsigned group `a` and the signed group `b`, lane by lane.
    fn dot(self, acc: Self::V, a: Self::V, b: Self::V) -> Self::V;
}

/// A computation written once for every form of [`Dot`]; `run` must be `#[inline(always)]`.
pub(crate) trait DotKernel {
    type Output;
    fn run<D: Dot>(self, dot: D) -> Self::Output;
}

/// Runs `kernel` with the fastest dot product allowed.
pub(crate) fn dispatch<K: DotKernel>(features: Features, kernel: K) -> K::Output {
    match features.isa() {
        // SAFETY: the features were detected.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if features.vnni() => unsafe { vnni::enter(kernel) },
        _ => features.dispatch(Pairs(kernel)),
    }
}

/// (products per word, columns of a panel, rows of a tile).
pub(crate) fn shape(features: Features) -> (usize, usize, usize) {
    struct Shape;
    impl DotKernel for Shape {
        type Output = (usize, usize, usize);
        #[inline(always)]
        fn run<D: Dot>(self, _: D) -> Self::Output {
            (D::GROUP, 2 * D::LANES, D::ROWS)
        }
    }
    dispatch(features, Shape)
}

/// Runs a dot kernel on the 16-bit products of a plain tier.
struct Pairs<K>(K);

impl<K: DotKernel> crate::cpu::simd::Kernel for Pairs<K> {
    type Output = K::Output;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> K::Output {
        self.0.run(Words(s))
    }
}

/// Products of 16-bit pairs: exact for any bytes.
#[derive(Clone, Copy)]
struct Words<S>(S);

impl<S: Simd> Dot for Words<S> {
    const GROUP: usize = 2;
    const LANES: usize = S::LANES;
    const ROWS: usize = if S::LANES == 16 { 12 } else { 4 };
    type V = S::I;

    #[inline(always)]
    fn zero(self) -> S::I {
        self.0.splat_i(0)
    }
    #[inline(always)]
    fn splat(self, word: i32) -> S::I {
        self.0.splat_i(word)
    }
    #[inline(always)]
    unsafe fn load(self, p: *const i32) -> S::I {
        // SAFETY: the caller's contract.
        unsafe { self.0.load_i32(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut i32, v: S::I) {
        // SAFETY: the caller's contract.
        unsafe { self.0.store_i32(p, v) }
    }
    #[inline(always)]
    fn dot(self, acc: S::I, a: S::I, b: S::I) -> S::I {
        self.0.add_i(acc, self.0.multiply_pairs(a, b))
    }
}

const _: () = assert!(Words::<Scalar>::GROUP == 2);

#[cfg(target_arch = "x86_64")]
mod vnni {
    use std::arch::x86_64::*;

    use super::{Dot, DotKernel};

    #[derive(Clone, Copy)]
    pub(super) struct Vnni(());

    /// # Safety
    /// The processor must have AVX512-VNNI.
    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    pub(super) unsafe fn enter<K: DotKernel>(kernel: K) -> K::Output {
        kernel.run(Vnni(()))
    }

    impl Dot for Vnni {
        const GROUP: usize = 4;
        const LANES: usize = 16;
        const ROWS: usize = 14;
        type V = __m512i;

        #[inline(always)]
        fn zero(self) -> __m512i {
            // SAFETY: the value proves the instructions.
            unsafe { _mm512_setzero_si512() }
        }
        #[inline(always)]
        fn splat(self, word: i32) -> __m512i {
            // SAFETY: the value proves the instructions.
            unsafe { _mm512_set1_epi32(word) }
        }
        #[inline(always)]
        unsafe fn load(self, p: *const i32) -> __m512i {
            // SAFETY: the value proves the instructions, the caller vouches for the memory.
            unsafe { _mm512_loadu_si512(p.cast()) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut i32, v: __m512i) {
            // SAFETY: the value proves the instructions, the caller vouches for the memory.
            unsafe { _mm512_storeu_si512(p.cast(), v) }
        }
        #[inline(always)]
        fn dot(self, acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
            // SAFETY: the value proves the instructions.
            unsafe { _mm512_dpbusd_epi32(acc, a, b) }
        }
    }
}
