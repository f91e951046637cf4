// What only gfx950 has: transposed LDS reads, row swaps, block-scaled products. One wave each.
#include "device.hpp"

SHARED u16 tile[16 * 16];

// Y [16, 16] is X [16, 16] transposed in groups of 16 lanes: a lane reads 4 of a row and receives 4 of a column.
KERNEL(64) void transpose(const GLOBAL u16* x, GLOBAL u16* y) {
    *(LOCAL vec<u16, 4>*)(tile + lane() * 4) = *(const GLOBAL vec<u16, 4>*)(x + lane() * 4);
    barrier();
    // Group g of 16 lanes takes rows 4 g to 4 g + 3.
    auto column = __builtin_amdgcn_ds_read_tr16_b64_v4i16((LOCAL vec<short, 4>*)(tile + lane() * 4));
    u32 row0 = lane() / 16 * 4, at = lane() & 15;
    for (u32 j = 0; j < 4; j++) y[at * 16 + row0 + j] = (u16)column[j];
}

// Swaps the upper half of a with the lower half of b, then the odd groups of 16 lanes of a with the even ones of b.
KERNEL(64) void swaps(const GLOBAL u32* a, const GLOBAL u32* b, GLOBAL u32* y) {
    auto halves = __builtin_amdgcn_permlane32_swap(a[lane()], b[lane()], false, false);
    auto rows = __builtin_amdgcn_permlane16_swap(a[lane()], b[lane()], false, false);
    y[lane()] = halves[0], y[64 + lane()] = halves[1], y[128 + lane()] = rows[0], y[192 + lane()] = rows[1];
}

// C [16, 16] = (A 2^sa) (B 2^sb)^T with A and B [16, 128] in E2M1 (64 bytes a row) and a scale byte for each 32 k.
KERNEL(64) void mxfp4_16(const GLOBAL u8* a, const GLOBAL u8* b, const GLOBAL u8* sa, const GLOBAL u8* sb, GLOBAL float* c) {
    u32 row = lane() & 15, group = lane() >> 4;
    vec<int, 8> x = {}, y = {};
    for (u32 i = 0; i < 4; i++) x[i] = ((const GLOBAL int*)(a + row * 64 + group * 16))[i], y[i] = ((const GLOBAL int*)(b + row * 64 + group * 16))[i];
    vec<float, 4> out = __builtin_amdgcn_mfma_scale_f32_16x16x128_f8f6f4(x, y, (vec<float, 4>)0.0f, 4, 4, 0, sa[row * 4 + group], 0, sb[row * 4 + group]);
    for (u32 r = 0; r < 4; r++) c[(4 * group + r) * 16 + row] = out[r];
}

// C [32, 32] = (A 2^sa) (B 2^sb)^T with A [32, 64] in E4M3 and B [32, 64] in E5M2: an operand's 32 bytes are two runs
// of 16 along k.
KERNEL(64) void mxfp8_32(const GLOBAL u8* a, const GLOBAL u8* b, const GLOBAL u8* sa, const GLOBAL u8* sb, GLOBAL float* c) {
    u32 row = lane() & 31, group = lane() >> 5;
    vec<int, 8> x = {}, y = {};
    for (u32 i = 0; i < 8; i++) {
        u32 k = i / 4 * 32 + group * 16 + i % 4 * 4;
        x[i] = *(const GLOBAL int*)(a + row * 64 + k), y[i] = *(const GLOBAL int*)(b + row * 64 + k);
    }
    vec<float, 16> out = __builtin_amdgcn_mfma_scale_f32_32x32x64_f8f6f4(x, y, (vec<float, 16>)0.0f, 0, 1, 0, sa[row * 2 + group], 0, sb[row * 2 + group]);
    for (u32 r = 0; r < 16; r++) c[(8 * (r / 4) + 4 * group + r % 4) * 32 + row] = out[r];
}
