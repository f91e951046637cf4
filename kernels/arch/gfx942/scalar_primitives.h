//! What CDNA3 has of its own for `device/`: exchanges across rows and halves of a wave, and rounding to bfloat16.

// The value of the lane 16 further or back.
DEVICE u32 other_row(u32 value) {
    // Groups of 32 lanes: a lane reads the one whose number differs in bit 4.
    constexpr int XOR_16 = 0x401f;
    return (u32)__builtin_amdgcn_ds_swizzle((int)value, XOR_16);
}

// The value of the lane 32 further or back.
DEVICE u32 other_half(u32 value) {
    return (u32)__builtin_amdgcn_ds_bpermute((int)((lane_number() ^ 32) * 4), (int)value);
}

// To the nearest, ties to even; a NaN keeps its sign and becomes quiet. There is no instruction for it.
DEVICE u16 f32_to_bf16(float f) {
    u32 bits = __builtin_bit_cast(u32, f);
    u32 rounded = bits + 0x7fff + (bits >> 16 & 1);
    return (u16)((f != f ? bits | 0x400000 : rounded) >> 16);
}

// Two floats rounded to bfloat16, the first in the low half.
DEVICE u32 f32x2_to_bf16x2(float low, float high) { return f32_to_bf16(low) | (u32)f32_to_bf16(high) << 16; }

// The 8-bit formats have one zero and no infinity, NaN is 0x80, and exponents are biased by one more than elsewhere.
#define FP8_IS_FNUZ 1
