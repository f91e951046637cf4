//! What attention asks of CDNA3 besides `primitives.h`: banks of LDS, exchanges between halves of a wave, weights.

/// Banks that serve a 16-byte read of LDS at once.
constexpr u32 kLdsReadBanks = 32;

/// The value of lane l ^ 32.
DEVICE u32 from_other_half(u32 v) { return __builtin_amdgcn_ds_bpermute((int)(lane_id() ^ 32) * 4, (int)v); }
DEVICE float other_half(float v) { return __uint_as_float(from_other_half(__float_as_uint(v))); }
/// The upper half of the wave's lanes of `a` and the lower half of `b` change places.
DEVICE void swap_halves(u32& a, u32& b) {
    const bool is_upper = lane_id() >= 32;
    const u32 other = from_other_half(is_upper ? a : b);
    a = is_upper ? other : a, b = is_upper ? b : other;
}

/// Two weights, which are not negative, to two 16-bit elements. CDNA3 has no conversion to bf16: halves are rounded up,
/// which saves the test for even and is exact otherwise.
template <class T> DEVICE u32 pack_weights(f32x2 v) { return pack_halves<T>(v.x, v.y); }
template <> __device__ __forceinline__ u32 pack_weights<BF16>(f32x2 v) {
    return pick_halves(__float_as_uint(v.x) + 0x8000, __float_as_uint(v.y) + 0x8000, true);
}

/// Two floats that are 16-bit elements.
template <class T> DEVICE u32 pack_exact(f32x2 v);
template <> __device__ __forceinline__ u32 pack_exact<BF16>(f32x2 v) {
    return pick_halves(__float_as_uint(v.x), __float_as_uint(v.y), true);
}
template <> __device__ __forceinline__ u32 pack_exact<F16>(f32x2 v) {
    return __builtin_bit_cast(u32, __builtin_amdgcn_cvt_pkrtz(v.x, v.y));
}
/// 16 E4M3 codes to 16-bit elements in order, whose numbers times kE4M3Unit are those of the codes.
constexpr float kE4M3Unit = 2.0f;
template <class T> DEVICE void widen_e4m3(u32x4 codes, u32x4 (&pieces)[2]) {
    const u32x4 native = to_native_e4m3(codes);
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        pieces[i / 2][i % 2 * 2] = pack_exact<T>(__builtin_amdgcn_cvt_pk_f32_fp8(native[i], false));
        pieces[i / 2][i % 2 * 2 + 1] = pack_exact<T>(__builtin_amdgcn_cvt_pk_f32_fp8(native[i], true));
    }
}

/// Of operands of 16-bit elements: matrix instructions for 16 bytes a lane, LDS reads for as much of the values; reads
/// that are under way when the first product starts.
constexpr u32 kProductsAPiece = 2, kReadsAValue = 1, kReadsAhead = 4;
