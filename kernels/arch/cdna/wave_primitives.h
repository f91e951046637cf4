//! What `device/` asks of an arch, as far as all CDNA generations agree: waves of 64, exchanges between their lanes,
//! conversions of half types, and the order of kernels, which never overlap.

#define WAVE 64

// The value of lane PATTERN(lane) of the same row of 16 lanes.
template <int PATTERN> DEVICE u32 dpp(u32 value) {
    return (u32)__builtin_amdgcn_update_dpp(0, (int)value, PATTERN, 15, 15, true);
}
constexpr int DPP_QUAD_XOR_1 = 0xb1, DPP_QUAD_XOR_2 = 0x4e, DPP_QUAD_XOR_3 = 0x1b;
constexpr int DPP_ROW_ROTATE_8 = 0x128, DPP_HALF_ROW_MIRROR = 0x141;

// The value of the lane whose number differs in the bits of `mask`; a mask that is one constant bit needs no address.
DEVICE unsigned wave_xor(unsigned value, int mask) {
    switch (mask) {
    case 1: return dpp<DPP_QUAD_XOR_1>(value);
    case 2: return dpp<DPP_QUAD_XOR_2>(value);
    case 4: return dpp<DPP_QUAD_XOR_3>(dpp<DPP_HALF_ROW_MIRROR>(value));
    case 8: return dpp<DPP_ROW_ROTATE_8>(value);
    case 16: return other_row(value);
    case 32: return other_half(value);
    }
    return (u32)__builtin_amdgcn_ds_bpermute((int)((lane_number() ^ (u32)mask) * 4), (int)value);
}

DEVICE float f16_to_f32(u16 h) { return (float)__builtin_bit_cast(half, h); }
DEVICE u16 f32_to_f16(float f) { return __builtin_bit_cast(u16, (half)f); }
DEVICE u16 f64_to_f16(double f) { return __builtin_bit_cast(u16, (half)f); }

// Adds to a word that other workgroups add to as well; what it was before.
DEVICE u32 atomicAdd(u32 *at, u32 value) {
    return __scoped_atomic_fetch_add(at, value, __ATOMIC_RELAXED, __MEMORY_SCOPE_DEVICE);
}

// Every kernel starts when the ones before it in the stream have ended.
DEVICE void dependency_wait() {}
DEVICE void dependency_launch() {}
