//! Matrix product of few rows on CDNA: weights go straight from memory into the registers that multiply them.
//!
//! K_WAVES waves compute the same tile, each every K_WAVES-th step of K, and their sums meet in LDS. Loads are STAGES steps
//! ahead. For the tile, the order of columns and the end of a product WAVES_M and WAVES_N are 1.

static_assert(HALVES == 1 && WAVES_M == 1 && WAVES_N == 1, "waves split K");
static_assert(!A_TRANSPOSED && !B_TRANSPOSED, "rows along K");
static_assert(SHARED_BYTES == K_WAVES * BM * BN * 4, "the planner counts LDS otherwise");

/// Row tiles of A and B, each with kRowPieces pieces a lane.
template <u32 TILES> struct Rows {
    Stream<TILES> stream;
    u32x4 pieces[STAGES][TILES][kRowPieces];
    static constexpr u32 kUnits = kHasBlocks ? TILES / 2 : 1;
    ScaleStream scale_stream;
    u32 scales[STAGES][kUnits];

    MEMBER void start_scales(const u8* packed, u32 matrix, i32 first, i32 extent, const Problem& p, const Tile& tile, u32 wave) {
        if constexpr (kHasBlocks) {
            scale_stream.start(packed, matrix, first, 0, extent, p, min(tile.first + wave, tile.end - 1), stream.left, K_WAVES);
        }
    }
    u64 up_shift;

    template <bool IS_B> MEMBER void start(const In* matrix, i32 first, i64 row_stride, i32 extent, i32 k, const Tile& tile, u32 wave) {
        Tile own = tile;
        own.first = min(tile.first + wave, tile.end - 1);
        stream.start(matrix, first, row_stride, extent, k, own);
        stream.left = (i32)((tile.end - tile.first + K_WAVES - 1 - wave) / K_WAVES);
        if (stream.left <= 0) stream.valid = 0;
        stream.step_bytes = kRowBytes * K_WAVES;
#pragma unroll
        for (u32 t = 0; t < TILES; t++) {
            const u32 row = t * MMA + lane_id() % MMA;
            stream.offsets[t] = (IS_B ? column_at(row) : row) * (u32)(row_stride * sizeof(In)) + lane_id() / MMA * 16;
            keep(stream.offsets[t]);
        }
    }
    /// Two tiles of each 32 rows, every other of them of `up`.
    template <u32 SLOT, bool IS_B> MEMBER void load() {
        const Buffer buffer = buffer_of(stream.descriptor()), up = IS_B ? buffer_of(stream.descriptor(up_shift)) : buffer;
#pragma unroll
        for (u32 t = 0; t < TILES; t++) {
#pragma unroll
            for (u32 i = 0; i < kRowPieces; i++) {
                pieces[SLOT][t][i] = buffer_load16(GATED && IS_B && t / 2 % 2 ? up : buffer, stream.offsets[t] + i * kLanesK * 16);
            }
        }
        stream.advance();
        if constexpr (kHasBlocks) {
            const Buffer packed = buffer_of(scale_stream.descriptor());
#pragma unroll
            for (u32 u = 0; u < kUnits; u++) {
                const u32 at = u * kUnitScales + lane_id() * kLaneScales;
                if constexpr (kLaneScales == 4) scales[SLOT][u] = buffer_load4(packed, at);
                else scales[SLOT][u] = buffer_load2(packed, at);
            }
            scale_stream.advance();
        }
    }
    template <u32 SLOT> MEMBER void cut(i32 bytes) {
#pragma unroll
        for (u32 t = 0; t < TILES; t++) {
#pragma unroll
            for (u32 i = 0; i < kRowPieces; i++) pieces[SLOT][t][i] = in_depth(pieces[SLOT][t][i], i, bytes);
        }
    }
    template <u32 SLOT> MEMBER void convert() {
#pragma unroll
        for (u32 t = 0; t < TILES; t++) {
#pragma unroll
            for (u32 i = 0; i < kRowPieces; i++) pieces[SLOT][t][i] = native<IN>(pieces[SLOT][t][i]);
        }
    }
};

struct Loop {
    Rows<kTilesM> a;
    Rows<kTilesN> b;
    Acc acc[kTilesM][kTilesN];

    template <u32 SLOT = 0> MEMBER void fill() {
        if constexpr (SLOT < STAGES) {
            a.template load<SLOT, false>();
            b.template load<SLOT, true>();
            fill<SLOT + 1>();
        }
    }
    /// `bytes`: of K in the last step, 0 for all.
    template <u32 SLOT> MEMBER void step(bool is_last, i32 bytes) {
        if (is_last && bytes > 0) {
            a.template cut<SLOT>(bytes);
            b.template cut<SLOT>(bytes);
        }
        a.template convert<SLOT>();
        b.template convert<SLOT>();
#pragma unroll
        for (u32 s = 0; s < kSteps; s++) {
#pragma unroll
            for (u32 i = 0; i < kTilesM; i++) {
#pragma unroll
                for (u32 j = 0; j < kTilesN; j++) {
                    multiply_tile(acc[i][j], &b.pieces[SLOT][j][s * kPieces], &a.pieces[SLOT][i][s * kPieces],
                                  b.scales[SLOT][j / 2 % b.kUnits], j % 2 + 2 * s, a.scales[SLOT][i / 2 % a.kUnits], i % 2 + 2 * s);
                }
            }
        }
        a.template load<SLOT, false>();
        b.template load<SLOT, true>();
    }
    template <u32 SLOT = 0> MEMBER void round(i32& left, i32 bytes) {
        if constexpr (SLOT < STAGES) {
            if (left <= 0) return;
            left--;
            step<SLOT>(left == 0, bytes);
            round<SLOT + 1>(left, bytes);
        }
    }
    /// Adds up the waves' sums, in order, in the first wave.
    MEMBER void gather(Lds lds, u32 wave) {
        LOCAL Acc* sums = (LOCAL Acc*)lds;
#pragma unroll
        for (u32 t = 0; t < kTilesM * kTilesN; t++) sums[(wave * (kTilesM * kTilesN) + t) * 64 + lane_id()] = acc[t / kTilesN][t % kTilesN];
        lds_barrier();
        if (wave != 0) return;
#pragma unroll
        for (u32 other = 1; other < K_WAVES; other++) {
#pragma unroll
            for (u32 t = 0; t < kTilesM * kTilesN; t++) acc[t / kTilesN][t % kTilesN] += sums[(other * (kTilesM * kTilesN) + t) * 64 + lane_id()];
        }
        wait_lds();
    }
};

extern "C" __global__ __attribute__((amdgpu_flat_work_group_size(K_WAVES * 64, K_WAVES * 64), amdgpu_waves_per_eu(WAVES_PER_SIMD, WAVES_PER_SIMD)))
KERNEL_ARGUMENTS {
    __shared__ __attribute__((aligned(1024))) u8 shared[SHARED_BYTES];
    const Tile tile = tile_at(problem, blockIdx.x);
    const u32 wave = wave_id();
    Loop loop;
    loop.a.start<false>(a + tile.batch / problem.a_share * problem.a_batch, tile.row, problem.a_row, problem.m - tile.row,
                        problem.k, tile, wave);
    loop.b.start<true>(b + tile.batch / problem.b_share * problem.b_batch, tile.col, problem.b_row, problem.n - tile.col,
                       problem.k, tile, wave);
    loop.b.up_shift = shift_between(b, up);
    loop.a.start_scales(a_blocks, tile.batch / problem.a_share, tile.row, problem.m, problem, tile, wave);
    loop.b.start_scales(b_blocks, tile.batch / problem.b_share, tile.col, problem.n, problem, tile, wave);
    clear(loop.acc);
    i32 left = loop.a.stream.left;
    // The last step of the tile is the last one of one wave.
    const bool has_last = (tile.end - tile.first - 1) % K_WAVES == wave;
    loop.fill();
#pragma unroll 1
    while (left > 0) loop.round(left, has_last ? rest_bytes(problem, tile) : 0);
    loop.gather((Lds)shared, wave);
    if (wave == 0) write_tile(loop.acc, {d, bias, residual, m_scale, n_scale}, problem, tile, {parts, arrivals}, (Lds)shared);
}
