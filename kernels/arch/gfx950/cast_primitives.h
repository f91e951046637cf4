//! CDNA4's packed conversions of floats of 8 and 4 bits, in the formats of the Open Compute Project.

#define HAS_SMALL_FLOATS

struct E5M2 { typedef u8 Bits; };
struct E2M1 { typedef u8 Bits; };

/// `v` within the largest numbers of both signs; NaN stays.
DEVICE float saturate(float v, float largest) { return v != v ? v : __builtin_amdgcn_fmed3f(v, -largest, largest); }

/// Four floats to four bytes, to nearest even.
template <class T> DEVICE u32 pack8(float a, float b, float c, float d);
template <> __device__ __forceinline__ u32 pack8<E4M3>(float a, float b, float c, float d) {
    const i32 low = __builtin_amdgcn_cvt_pk_fp8_f32(saturate(a, 448.f), saturate(b, 448.f), 0, false);
    return __builtin_amdgcn_cvt_pk_fp8_f32(saturate(c, 448.f), saturate(d, 448.f), low, true);
}
template <> __device__ __forceinline__ u32 pack8<E5M2>(float a, float b, float c, float d) {
    const i32 low = __builtin_amdgcn_cvt_pk_bf8_f32(saturate(a, 57344.f), saturate(b, 57344.f), 0, false);
    return __builtin_amdgcn_cvt_pk_bf8_f32(saturate(c, 57344.f), saturate(d, 57344.f), low, true);
}
/// The two bytes of the low or, `HIGH`, the upper half of a word.
template <class T, bool HIGH> DEVICE f32x2 widen8(u32 word) {
    if constexpr (__is_same(T, E4M3)) return __builtin_amdgcn_cvt_pk_f32_fp8(word, HIGH);
    else return __builtin_amdgcn_cvt_pk_f32_bf8(word, HIGH);
}

/// Eight floats to E2M1, the first in the lowest bits; a NaN becomes a zero of its sign.
DEVICE u32 pack4(const float (&v)[8]) {
    float x[8];
#pragma unroll
    for (u32 i = 0; i < 8; i++) x[i] = v[i] != v[i] ? __builtin_copysignf(0.f, v[i]) : v[i];
    u32 word = __builtin_amdgcn_cvt_scalef32_pk_fp4_f32(0, x[0], x[1], 1.f, 0);
    word = __builtin_amdgcn_cvt_scalef32_pk_fp4_f32(word, x[2], x[3], 1.f, 1);
    word = __builtin_amdgcn_cvt_scalef32_pk_fp4_f32(word, x[4], x[5], 1.f, 2);
    return __builtin_amdgcn_cvt_scalef32_pk_fp4_f32(word, x[6], x[7], 1.f, 3);
}
DEVICE void widen4(float (&v)[8], u32 word) {
    const f32x2 two[4] = {
        __builtin_amdgcn_cvt_scalef32_pk_f32_fp4(word, 1.f, 0), __builtin_amdgcn_cvt_scalef32_pk_f32_fp4(word, 1.f, 1),
        __builtin_amdgcn_cvt_scalef32_pk_f32_fp4(word, 1.f, 2), __builtin_amdgcn_cvt_scalef32_pk_f32_fp4(word, 1.f, 3)};
#pragma unroll
    for (u32 i = 0; i < 8; i++) v[i] = two[i / 2][i % 2];
}
