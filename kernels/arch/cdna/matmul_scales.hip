//! Scales of blocks of 32 values, from rows as ONNX has them to the order of `matmul_blocks.h`.
//!
//! Definitions from the planner: those of `matmul_tile.h` for a tile of 32 x 32, and the symbols SCALES_A, SCALES_B.

template <bool IS_B> DEVICE void pack_scales(u32* out, const u8* in, u32 rows, u32 blocks) {
    const u32 units = (rows + 31) / 32, steps = (blocks + 4 * kSteps - 1) / (4 * kSteps);
    const u32 words = units * steps * (kUnitScales / 4), word = blockIdx.x * 256 + threadIdx.x;
    if (word >= words) return;
    const u8* matrix = in + (u64)blockIdx.y * rows * blocks;
    u32 packed = 0;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const u32 at = word % (kUnitScales / 4) * 4 + i, lane = at / kLaneScales, part = at % kLaneScales / 2;
        const u32 inside = at % 2 * 16 + lane % 16, unit = word / (kUnitScales / 4);
        const u32 row = unit % units * 32 + (IS_B ? column_of(inside) : inside);
        const u32 block = (unit / units * kSteps + part) * 4 + lane / 16;
        if (row < rows && block < blocks) packed |= (u32)matrix[(u64)row * blocks + block] << 8 * i;
    }
    out[(u64)blockIdx.y * words + word] = packed;
}

extern "C" __global__ __launch_bounds__(256) void SCALES_A(u32* out, const u8* in, u32 rows, u32 blocks) {
    pack_scales<false>(out, in, rows, blocks);
}
extern "C" __global__ __launch_bounds__(256) void SCALES_B(u32* out, const u8* in, u32 rows, u32 blocks) {
    pack_scales<true>(out, in, rows, blocks);
}
