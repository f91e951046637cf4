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

/// Of operands of 16-bit elements: matrix instructions for 16 bytes a lane, LDS reads for as much of the values; reads
/// that are under way when the first product starts.
constexpr u32 kProductsAPiece = 1, kReadsAValue = 2, kReadsAhead = 6;
