//! The AVX-512 tier: 512-bit vectors with lane masks.

use std::arch::x86_64::*;

use super::simd::{Kernel, Simd};
/// Proof that the tier's instructions exist.
#[derive(Clone, Copy)]
pub struct Avx512(());

/// Runs a kernel compiled with the tier's instructions.
///
/// # Safety
/// The processor must have them.
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512(()))
}
#[inline(always)]
fn lane_mask(n: usize) -> __mmask16 {
    debug_assert!(n <= 16);
    ((1u32 << n) - 1) as __mmask16
}

impl Simd for Avx512 {
    const LANES: usize = 16;
    const FUSED: bool = true;
    type F = __m512;
    type I = __m512i;
    type M = __mmask16;

    #[inline(always)]
    fn prefetch<T>(self, p: *const T) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::F {
        // SAFETY: the value proves the instructions, the caller vouches for the memory.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::F) {
        // SAFETY: the value proves the instructions, the caller vouches for the memory.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    fn splat(self, v: f32) -> Self::F {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_set1_ps(v) }
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn sqrt(self, a: Self::F) -> Self::F {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_sqrt_ps(a) }
    }
    #[inline(always)]
    fn splat_i(self, v: i32) -> Self::I {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_set1_epi32(v) }
    }
    #[inline(always)]
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    fn sub_i(self, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_sub_epi32(a, b) }
    }
    #[inline(always)]
    fn mul_i(self, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_mullo_epi32(a, b) }
    }
    #[inline(always)]
    fn multiply_pairs(self, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_madd_epi16(a, b) }
    }
    #[inline(always)]
    fn decode<const MASK: i32>(self, a: Self::I, table: Self::F) -> Self::F {
        const { assert!(MASK <= 15) };
        // SAFETY: the value proves the instructions. The permutation looks at the low four bits only.
        unsafe { _mm512_permutexvar_ps(a, table) }
    }
    #[inline(always)]
    fn code_table<const MASK: i32>(self) -> Self::F {
        let entries: [f32; 16] = std::array::from_fn(|i| (i as i32 & MASK) as f32);
        // SAFETY: sixteen entries.
        unsafe { self.load(entries.as_ptr()) }
    }
    #[inline(always)]
    fn and_i(self, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    fn or_i(self, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    fn min_i(self, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_min_epi32(a, b) }
    }
    #[inline(always)]
    fn max_i(self, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_max_epi32(a, b) }
    }
    #[inline(always)]
    fn shr_by(self, a: Self::I, count: u32) -> Self::I {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_srl_epi32(a, _mm_cvtsi32_si128(count as i32)) }
    }
    #[inline(always)]
    fn bits(self, a: Self::F) -> Self::I {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_castps_si512(a) }
    }
    #[inline(always)]
    fn of_bits(self, a: Self::I) -> Self::F {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_castsi512_ps(a) }
    }
    #[inline(always)]
    fn to_i32(self, a: Self::F) -> Self::I {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_cvtps_epi32(a) }
    }
    #[inline(always)]
    fn to_f32(self, a: Self::I) -> Self::F {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_cvtepi32_ps(a) }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> Self::F {
        // SAFETY: the value proves the instructions, the caller vouches for the memory.
        unsafe { _mm512_maskz_loadu_ps(lane_mask(n), p) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: Self::F) {
        // SAFETY: the value proves the instructions, the caller vouches for the memory.
        unsafe { _mm512_mask_storeu_ps(p, lane_mask(n), v) }
    }
    #[inline(always)]
    unsafe fn load_even(self, p: *const f32) -> Self::F {
        // SAFETY: the value proves the instructions, the caller vouches for the memory.
        unsafe {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            _mm512_permutex2var_ps(_mm512_loadu_ps(p), even, _mm512_loadu_ps(p.add(16)))
        }
    }
    #[inline(always)]
    unsafe fn load_i32(self, p: *const i32) -> Self::I {
        // SAFETY: the value proves the instructions, the caller vouches for the memory.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_i32(self, p: *mut i32, v: Self::I) {
        // SAFETY: the value proves the instructions, the caller vouches for the memory.
        unsafe { _mm512_storeu_si512(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> Self::F {
        // SAFETY: the value proves the instructions, the caller vouches for the memory.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, v: Self::F) {
        // SAFETY: the value proves the instructions, the caller vouches for the memory.
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(v)) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> Self::F {
        // SAFETY: the value proves the instructions, the caller vouches for the memory.
        unsafe {
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()))))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16, v: Self::F) {
        // SAFETY: the value proves the instructions, the caller vouches for the memory.
        unsafe {
            let bits = _mm512_castps_si512(v);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            let high = _mm512_srli_epi32::<16>(_mm512_mask_mov_epi32(rounded, nan, quiet));
            _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(high))
        }
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> Self::I {
        // SAFETY: the value proves the instructions, the caller vouches for the memory.
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> Self::I {
        // SAFETY: the value proves the instructions, the caller vouches for the memory.
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_low_u8(self, p: *mut u8, v: Self::I) {
        // SAFETY: the value proves the instructions, the caller vouches for the memory.
        unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(v)) }
    }
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_abs_ps(a) }
    }
    #[inline(always)]
    fn neg(self, a: Self::F) -> Self::F {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_xor_ps(a, _mm512_set1_ps(-0.0)) }
    }
    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn floor(self, a: Self::F) -> Self::F {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn ceil(self, a: Self::F) -> Self::F {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn trunc(self, a: Self::F) -> Self::F {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn lt(self, a: Self::F, b: Self::F) -> Self::M {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b) }
    }
    #[inline(always)]
    fn le(self, a: Self::F, b: Self::F) -> Self::M {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_cmp_ps_mask::<_CMP_LE_OQ>(a, b) }
    }
    #[inline(always)]
    fn eq(self, a: Self::F, b: Self::F) -> Self::M {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b) }
    }
    #[inline(always)]
    fn is_nan(self, a: Self::F) -> Self::M {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a) }
    }
    #[inline(always)]
    fn select(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_mask_blend_ps(m, b, a) }
    }
    #[inline(always)]
    fn any(self, m: Self::M) -> bool {
        m != 0
    }
    #[inline(always)]
    fn shl<const N: u32>(self, a: Self::I) -> Self::I {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_slli_epi32::<N>(a) }
    }
    #[inline(always)]
    fn sar<const N: u32>(self, a: Self::I) -> Self::I {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_srai_epi32::<N>(a) }
    }
    #[inline(always)]
    fn shr<const N: u32>(self, a: Self::I) -> Self::I {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_srli_epi32::<N>(a) }
    }
    #[inline(always)]
    fn reduce_sum(self, a: Self::F) -> f32 {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_reduce_add_ps(a) }
    }
    #[inline(always)]
    fn reduce_max(self, a: Self::F) -> f32 {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_reduce_max_ps(a) }
    }
    #[inline(always)]
    fn reduce_min(self, a: Self::F) -> f32 {
        // SAFETY: the value proves the instructions.
        unsafe { _mm512_reduce_min_ps(a) }
    }
}
