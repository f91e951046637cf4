// Attention forward for one head of 64: Q [n, 64], K [n, 64], V [n, 64] and O in bf16. Four waves of 32 query rows;
// each step takes 32 keys, with running maximum and sum. Probabilities go through LDS. n is a multiple of 128.
#include "device.hpp"

SHARED bf16 probability[4 * 32 * 32];
SHARED bf16 v_transposed[64 * 32];

static inline vec<float, 16> dot(vec<short, 4> a, vec<short, 4> b, vec<float, 16> c) {
    return __builtin_amdgcn_mfma_f32_32x32x8bf16_1k(a, b, c, 0, 0, 0);
}

static inline u32 row_of(u32 r) { return 8 * (r / 4) + 4 * (lane() >> 5) + r % 4; }

KERNEL(256) void attention(const GLOBAL bf16* q, const GLOBAL bf16* k, const GLOBAL bf16* v, GLOBAL bf16* o, u32 n, float scale) {
    u32 row = lane() & 31, half = lane() >> 5, q0 = (group_x() * 4 + wave()) * 32;
    vec<float, 16> out[2] = {(vec<float, 16>)0.0f, (vec<float, 16>)0.0f};
    float largest[16], sum[16];
    for (u32 r = 0; r < 16; r++) largest[r] = -1e30f, sum[r] = 0;
    for (u32 k0 = 0; k0 < n; k0 += 32) {
        for (u32 i = thread(); i < 64 * 32; i += 256) v_transposed[(i & 63) * 32 + (i >> 6)] = v[(u64)(k0 + (i >> 6)) * 64 + (i & 63)];
        vec<float, 16> score = (vec<float, 16>)0.0f;
#pragma unroll
        for (u32 d = 0; d < 8; d++) {
            auto a = *(const GLOBAL vec<short, 4>*)(q + (u64)(q0 + row) * 64 + d * 8 + half * 4);
            auto b = *(const GLOBAL vec<short, 4>*)(k + (u64)(k0 + row) * 64 + d * 8 + half * 4);
            score = dot(a, b, score);
        }
        for (u32 r = 0; r < 16; r++) {
            float value = score[r] * scale, top = value;
            for (u32 step = 16; step; step >>= 1) top = __builtin_fmaxf(top, from_lane(top, lane() ^ step));
            top = __builtin_fmaxf(top, largest[r]);
            float keep = __builtin_amdgcn_exp2f(largest[r] - top), p = __builtin_amdgcn_exp2f(value - top), total = p;
            for (u32 step = 16; step; step >>= 1) total += from_lane(total, lane() ^ step);
            largest[r] = top;
            sum[r] = sum[r] * keep + total;
            out[0][r] *= keep;
            out[1][r] *= keep;
            probability[wave() * 1024 + row_of(r) * 32 + row] = (bf16)p;
        }
        barrier();
        for (u32 d = 0; d < 4; d++) {
            auto a = *(LOCAL vec<short, 4>*)(probability + wave() * 1024 + row * 32 + d * 8 + half * 4);
            for (u32 j = 0; j < 2; j++)
                out[j] = dot(a, *(LOCAL vec<short, 4>*)(v_transposed + (j * 32 + row) * 32 + d * 8 + half * 4), out[j]);
        }
        barrier();
    }
    for (u32 j = 0; j < 2; j++)
        for (u32 r = 0; r < 16; r++) o[(u64)(q0 + row_of(r)) * 64 + j * 32 + row] = (bf16)(out[j][r] / sum[r]);
}
