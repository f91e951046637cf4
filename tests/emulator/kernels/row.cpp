// Kernels over rows: softmax, RMS normalisation, cast. One workgroup of 256 threads a row.
#include "device.hpp"

SHARED float partial[8];

KERNEL(256) void softmax(const GLOBAL bf16* x, GLOBAL bf16* y, u32 n) {
    const GLOBAL bf16* in = x + (u64)group_x() * n;
    GLOBAL bf16* out = y + (u64)group_x() * n;
    float largest = -__builtin_inff();
    for (u32 i = thread(); i < n; i += 256) largest = __builtin_fmaxf(largest, (float)in[i]);
    largest = group_reduce<false>(largest, partial);
    float sum = 0;
    for (u32 i = thread(); i < n; i += 256) sum += __builtin_amdgcn_exp2f(((float)in[i] - largest) * 1.44269504f);
    sum = group_reduce<true>(sum, partial + 4);
    for (u32 i = thread(); i < n; i += 256)
        out[i] = (bf16)(__builtin_amdgcn_exp2f(((float)in[i] - largest) * 1.44269504f) / sum);
}

// n is a multiple of 8.
KERNEL(256) void rmsnorm(const GLOBAL bf16* x, const GLOBAL bf16* weight, GLOBAL bf16* y, u32 n, float epsilon) {
    const GLOBAL bf16* in = x + (u64)group_x() * n;
    float sum = 0;
    for (u32 i = thread() * 8; i < n; i += 2048) {
        vec<bf16, 8> value = *(const GLOBAL vec<bf16, 8>*)(in + i);
        for (int j = 0; j < 8; j++) sum += (float)value[j] * (float)value[j];
    }
    sum = group_reduce<true>(sum, partial);
    float scale = __builtin_amdgcn_rsqf(sum / (float)n + epsilon);
    for (u32 i = thread() * 8; i < n; i += 2048) {
        vec<bf16, 8> value = *(const GLOBAL vec<bf16, 8>*)(in + i), w = *(const GLOBAL vec<bf16, 8>*)(weight + i), out;
        for (int j = 0; j < 8; j++) out[j] = (bf16)((float)value[j] * scale * (float)w[j]);
        *(GLOBAL vec<bf16, 8>*)(y + (u64)group_x() * n + i) = out;
    }
}

KERNEL(256) void cast_f32_bf16(const GLOBAL vec<float, 4>* x, GLOBAL vec<bf16, 4>* y, u32 count) {
    u32 i = group_x() * 256 + thread();
    if (i < count) y[i] = __builtin_convertvector(x[i], vec<bf16, 4>);
}

KERNEL(256) void cast_f32_f16(const GLOBAL float* x, GLOBAL f16* y, u32 count) {
    u32 i = group_x() * 256 + thread();
    if (i < count) y[i] = (f16)x[i];
}
