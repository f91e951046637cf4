// Matrix results that are used as operands of the next product without leaving their registers: E = P (A B^T), where
// the first product is rounded to bf16. Right only when rows of D lie where operands expect k. One wave.
#include "device.hpp"

static inline vec<short, 4> rounded(float a, float b, float c, float d) {
    vec<bf16, 4> value = {(bf16)a, (bf16)b, (bf16)c, (bf16)d};
    return __builtin_bit_cast(vec<short, 4>, value);
}

// A [32, 8], B [32, 8], P [32, 32], E [32, 32].
KERNEL(64) void chain_32(const GLOBAL bf16* a, const GLOBAL bf16* b, const GLOBAL bf16* p, GLOBAL float* e) {
    u32 row = lane() & 31, group = lane() >> 5;
    auto x = *(const GLOBAL vec<short, 4>*)(a + row * 8 + group * 4);
    auto y = *(const GLOBAL vec<short, 4>*)(b + row * 8 + group * 4);
    vec<float, 16> s = __builtin_amdgcn_mfma_f32_32x32x8bf16_1k(x, y, (vec<float, 16>)0.0f, 0, 0, 0), out = (vec<float, 16>)0.0f;
#pragma unroll
    for (u32 k = 0; k < 4; k++) {
        auto left = *(const GLOBAL vec<short, 4>*)(p + row * 32 + k * 8 + group * 4);
        auto right = rounded(s[k * 4], s[k * 4 + 1], s[k * 4 + 2], s[k * 4 + 3]);
        out = __builtin_amdgcn_mfma_f32_32x32x8bf16_1k(left, right, out, 0, 0, 0);
    }
    for (u32 r = 0; r < 16; r++) e[(8 * (r / 4) + 4 * group + r % 4) * 32 + row] = out[r];
}

// A [16, 16], B [16, 16], P [16, 16], E [16, 16].
KERNEL(64) void chain_16(const GLOBAL bf16* a, const GLOBAL bf16* b, const GLOBAL bf16* p, GLOBAL float* e) {
    u32 row = lane() & 15, group = lane() >> 4;
    auto load = [&](const GLOBAL bf16* from) { return *(const GLOBAL vec<short, 4>*)(from + row * 16 + group * 4); };
    vec<float, 4> zero = (vec<float, 4>)0.0f;
    vec<float, 4> s = __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(load(a), load(b), zero, 0, 0, 0);
    vec<float, 4> out = __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(load(p), rounded(s[0], s[1], s[2], s[3]), zero, 0, 0, 0);
    for (u32 r = 0; r < 4; r++) e[(4 * group + r) * 16 + row] = out[r];
}
