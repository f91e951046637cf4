// C = A B^T with A [M, K] and B [N, K] in bf16, C [M, N] in bf16, sums in f32. Tiles of 128 x 128 x 64 in LDS, four
// waves of 64 x 64 each. M and N are multiples of 128, K of 64.
//
// WRONG_SWIZZLE reads chunks where they were not written; TILE_OFF_BY_ONE starts the tiles of B one row late. Tests
// compile with them to see that such mistakes are noticed.
#include "device.hpp"

constexpr u32 M_TILE = 128, N_TILE = 128, K_TILE = 64;
SHARED bf16 a_tile[M_TILE * K_TILE];
SHARED bf16 b_tile[N_TILE * K_TILE];

// The place of a chunk of 8 elements: rows of 128 bytes would put a column into few banks, so chunks move by row.
static inline u32 place(u32 row, u32 chunk) { return row * K_TILE + ((chunk ^ (row & 7)) * 8); }

#if defined(WRONG_SWIZZLE)
static inline u32 read_place(u32 row, u32 chunk) { return row * K_TILE + ((chunk ^ (row & 3)) * 8); }
#else
static inline u32 read_place(u32 row, u32 chunk) { return place(row, chunk); }
#endif

static inline void load_tile(const GLOBAL bf16* from, LOCAL bf16* to, u32 stride) {
    for (u32 i = 0; i < 4; i++) {
        u32 chunk = i * 256 + thread(), row = chunk >> 3, column = chunk & 7;
#if defined(__gfx950__)
        // A load straight into LDS puts lane l at l * 16 bytes, so the swizzle goes into the global address.
        const GLOBAL bf16* source = from + (u64)row * stride + (column ^ (row & 7)) * 8;
        __builtin_amdgcn_global_load_lds((GLOBAL void*)source, (LOCAL void*)(to + (i * 256 + wave() * 64) * 8), 16, 0, 0);
#else
        *(LOCAL vec<bf16, 8>*)(to + place(row, column)) = *(const GLOBAL vec<bf16, 8>*)(from + (u64)row * stride + column * 8);
#endif
    }
}

// One 64 x 64 part of the product of the tiles in LDS.
static inline void multiply(vec<float, 16> (&sum)[2][2], u32 row0, u32 column0) {
    u32 r = lane() & 31, half = lane() >> 5;
#if defined(__gfx950__)
#pragma unroll
    for (u32 k = 0; k < K_TILE / 16; k++) {
        vec<bf16, 8> a[2], b[2];
        for (u32 i = 0; i < 2; i++) {
            a[i] = *(LOCAL vec<bf16, 8>*)(a_tile + read_place(row0 + i * 32 + r, k * 2 + half));
            b[i] = *(LOCAL vec<bf16, 8>*)(b_tile + read_place(column0 + i * 32 + r, k * 2 + half));
        }
        for (u32 i = 0; i < 2; i++)
            for (u32 j = 0; j < 2; j++) sum[i][j] = __builtin_amdgcn_mfma_f32_32x32x16_bf16(a[i], b[j], sum[i][j], 0, 0, 0);
    }
#else
#pragma unroll
    for (u32 k = 0; k < K_TILE / 8; k++) {
        vec<short, 4> a[2], b[2];
        for (u32 i = 0; i < 2; i++) {
            a[i] = *(LOCAL vec<short, 4>*)(a_tile + read_place(row0 + i * 32 + r, k) + half * 4);
            b[i] = *(LOCAL vec<short, 4>*)(b_tile + read_place(column0 + i * 32 + r, k) + half * 4);
        }
        for (u32 i = 0; i < 2; i++)
            for (u32 j = 0; j < 2; j++) sum[i][j] = __builtin_amdgcn_mfma_f32_32x32x8bf16_1k(a[i], b[j], sum[i][j], 0, 0, 0);
    }
#endif
}

KERNEL(256) void matmul(const GLOBAL bf16* a, const GLOBAL bf16* b, GLOBAL bf16* c, u32 m, u32 n, u32 k) {
    u32 row0 = (wave() >> 1) * 64, column0 = (wave() & 1) * 64;
    a += (u64)group_y() * M_TILE * k;
#if defined(TILE_OFF_BY_ONE)
    b += k;
#endif
    b += (u64)group_x() * N_TILE * k;
    c += (u64)group_y() * M_TILE * n + group_x() * N_TILE;
    vec<float, 16> sum[2][2];
    for (auto& row : sum)
        for (auto& tile : row) tile = (vec<float, 16>)0.0f;
    for (u32 k0 = 0; k0 < k; k0 += K_TILE) {
        load_tile(a + k0, a_tile, k);
        load_tile(b + k0, b_tile, k);
        __builtin_amdgcn_s_waitcnt(0);
        barrier();
        multiply(sum, row0, column0);
        barrier();
    }
    for (u32 i = 0; i < 2; i++)
        for (u32 j = 0; j < 2; j++)
            for (u32 r = 0; r < 16; r++) {
                u32 row = row0 + i * 32 + 8 * (r / 4) + 4 * (lane() >> 5) + r % 4;
                c[(u64)row * n + column0 + j * 32 + (lane() & 31)] = (bf16)sum[i][j][r];
            }
}
