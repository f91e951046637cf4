//! What CDNA4 has of its own for `device/`: lane swaps across rows and halves of a wave, and rounding to bfloat16.

// The value of the lane 16 further or back.
DEVICE u32 other_row(u32 value) {
    auto rows = __builtin_amdgcn_permlane16_swap(value, value, false, false);
    return lane_number() & 16 ? rows[0] : rows[1];
}

// The value of the lane 32 further or back.
DEVICE u32 other_half(u32 value) {
    auto halves = __builtin_amdgcn_permlane32_swap(value, value, false, false);
    return lane_number() & 32 ? halves[0] : halves[1];
}

// Two floats rounded to bfloat16, the first in the low half: v_cvt_pk_bf16_f32.
DEVICE u32 f32x2_to_bf16x2(float low, float high) {
    return __builtin_bit_cast(u32, __builtin_convertvector((vec<float, 2>){low, high}, vec<bfloat, 2>));
}
DEVICE u16 f32_to_bf16(float f) { return __builtin_bit_cast(u16, (bfloat)f); }

// The 8-bit formats are those of the Open Compute Project: e4m3 has no infinity, and NaN is 0x7f.
#define FP8_IS_FNUZ 0
