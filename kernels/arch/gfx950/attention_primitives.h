//! What attention asks of CDNA4 besides `primitives.h`: banks of LDS, exchanges between halves of a wave, weights.

/// Banks that serve a 16-byte read of LDS at once.
constexpr u32 kLdsReadBanks = 64;

/// The upper half of the wave's lanes of `a` and the lower half of `b` change places.
DEVICE void swap_halves(u32& a, u32& b) {
    const auto pair = __builtin_amdgcn_permlane32_swap(a, b, false, false);
    a = pair[0], b = pair[1];
}
/// The value of lane l ^ 32.
DEVICE float other_half(float v) {
    u32 a = __float_as_uint(v), b = a;
    swap_halves(a, b);
    return __uint_as_float(lane_id() < 32 ? b : a);
}

/// Two weights, which are not negative, to two 16-bit elements.
template <class T> DEVICE u32 pack_weights(f32x2 v) { return pack_halves<T>(v.x, v.y); }

/// Two floats that are 16-bit elements.
template <class T> DEVICE u32 pack_exact(f32x2 v) { return pack_halves<T>(v.x, v.y); }

/// 16 E4M3 codes to 16-bit elements in order, whose numbers times kE4M3Unit are those of the codes.
constexpr float kE4M3Unit = 1.0f;
template <class T, bool HIGH> DEVICE u32 widen_e4m3_pair(u32 word) {
    if constexpr (__is_same(T, BF16))
        return __builtin_bit_cast(u32, __builtin_amdgcn_cvt_scalef32_pk_bf16_fp8(word, 1.0f, HIGH));
    else return __builtin_bit_cast(u32, __builtin_amdgcn_cvt_scalef32_pk_f16_fp8(word, 1.0f, HIGH));
}
template <class T> DEVICE void widen_e4m3(u32x4 codes, u32x4 (&pieces)[2]) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        pieces[i / 2][i % 2 * 2] = widen_e4m3_pair<T, false>(codes[i]);
        pieces[i / 2][i % 2 * 2 + 1] = widen_e4m3_pair<T, true>(codes[i]);
    }
}

/// Of operands of 16-bit elements: matrix instructions for 16 bytes a lane, LDS reads for as much of the values; reads
/// that are under way when the first product starts.
constexpr u32 kProductsAPiece = 1, kReadsAValue = 2, kReadsAhead = 6;
