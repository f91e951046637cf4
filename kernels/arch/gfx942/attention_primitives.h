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

/// Of operands of 16-bit elements: matrix instructions for 16 bytes a lane, LDS reads for as much of the values; reads
/// that are under way when the first product starts.
constexpr u32 kProductsAPiece = 2, kReadsAValue = 1, kReadsAhead = 4;
