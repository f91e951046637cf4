//! Matrix product on CDNA3, and on CDNA4 for what cannot go straight into LDS: operands of any alignment pass through
//! registers, those whose rows run along M or N are transposed there, E4M3 takes the encoding of the matrix units.
//!
//!   STAGES 2: step t   write step t + 1 to the other stage, load step t + 2, multiply t             barrier
//!   STAGES 1: step t   multiply t, barrier, write step t + 1, load step t + 2                      barrier

static_assert(HALVES == 1 && (STAGES == 1 || STAGES == 2), "one stage or two");
static_assert(!kHasBlocks, "scales go straight into LDS");
static_assert(SHARED_BYTES == STAGES * (kStageA + kStageB), "the planner counts LDS otherwise");
static_assert(sizeof(In) > 1 || (!A_TRANSPOSED && !B_TRANSPOSED), "bytes are not transposed");

/// Pieces of 16 bytes that a thread carries of each operand.
constexpr u32 kCarriedA = kStageA / (kThreads * 16), kCarriedB = kStageB / (kThreads * 16);
static_assert(kCarriedA * kThreads * 16 == kStageA && kCarriedB * kThreads * 16 == kStageB, "whole pieces");
/// Elements of a piece.
constexpr u32 kPieceElems = 16 / sizeof(In);

/// LDS row of a column of B: the inverse of `column_of`.
DEVICE u32 row_of(u32 column) {
    if (MMA == 16) return (column & ~31u) | (column >> 2 & 1) << 4 | (column >> 3 & 3) << 2 | (column & 3);
    return (column & ~15u) | (column >> 2 & 1) << 3 | (column >> 3 & 1) << 2 | (column & 3);
}

/// What a thread carries of an operand's step. `PIECES`: of 16 bytes. Rows along K: piece i is thread + i kThreads of the
/// tile. `TRANSPOSED`: a block of PIECES rows of the tile and kPieceElems along K, in memory kPieceElems rows.
template <bool IS_B, bool TRANSPOSED, u32 PIECES> struct Carrier {
    static constexpr u32 kLoads = TRANSPOSED ? kPieceElems : PIECES;
    static constexpr u32 kLoadBytes = TRANSPOSED ? PIECES * sizeof(In) : 16;
    static_assert(kLoadBytes == 4 || kLoadBytes == 8 || kLoadBytes == 16, "a load is one to four words");
    /// Bytes from the gate to what it lets through, where this wave's loads, or every other one, are of that.
    static constexpr bool kTakesTurns = GATED && IS_B && !TRANSPOSED && kWaves == 4;
    static_assert(!GATED || kWaves == 4 || kWaves == 8, "a load of a wave has rows of one matrix");
    Stream<kLoads, TRANSPOSED> stream;
    u64 up_shift;
    u32 words[kLoads][kLoadBytes / 4];

    MEMBER void start(const In* matrix, i32 first, i64 row_stride, i32 extent, i32 k, const Tile& tile, u64 shift = 0) {
        stream.start(matrix, first, row_stride, extent, k, tile);
        const u32 first_row = wave_id() * 8 * (TRANSPOSED ? PIECES : 1);
        up_shift = kTakesTurns || is_up(first_row) ? shift : 0;
        const u32 stride = (u32)(row_stride * sizeof(In));
#pragma unroll
        for (u32 i = 0; i < kLoads; i++) {
            if constexpr (TRANSPOSED) {
                const u32 first_column = threadIdx.x / 8 * PIECES;
                const u32 column = GATED && IS_B ? first_column / 64 * 32 + first_column % 32 : first_column;
                stream.offsets[i] = (threadIdx.x % 8 * kPieceElems + i) * stride + column * (u32)sizeof(In);
            } else {
                const u32 at = threadIdx.x + i * kThreads, row = at / 8;
                stream.offsets[i] = (IS_B ? column_at(row) : row) * stride + at % 8 * 16;
            }
            keep(stream.offsets[i]);
        }
    }
    /// Starts the loads of the stream's step and goes on to the next.
    MEMBER void load() {
        const Buffer buffer = buffer_of(stream.descriptor(GATED && !kTakesTurns ? up_shift : 0));
        const Buffer up = kTakesTurns ? buffer_of(stream.descriptor(up_shift)) : buffer;
#pragma unroll
        for (u32 i = 0; i < kLoads; i++) {
            buffer_load<kLoadBytes / 4>(words[i], kTakesTurns && i % 2 ? up : buffer, stream.offsets[i]);
        }
        stream.advance();
    }
    /// Word `w` of the piece of row `i` of a block: its elements from as many loads.
    MEMBER u32 transposed_word(u32 i, u32 w) const {
        if constexpr (sizeof(In) == 4) return words[w][i];
        else return pick_halves(words[2 * w][i / 2], words[2 * w + 1][i / 2], i % 2);
    }
    MEMBER void write(Lds tile) const {
#pragma unroll
        for (u32 i = 0; i < PIECES; i++) {
            u32 row, piece;
            u32x4 value;
            if constexpr (TRANSPOSED) {
                const u32 of_tile = threadIdx.x / 8 * PIECES + i;
                row = IS_B ? row_of(of_tile) : of_tile, piece = threadIdx.x % 8;
#pragma unroll
                for (u32 w = 0; w < 4; w++) value[w] = transposed_word(i, w);
            } else {
                const u32 at = threadIdx.x + i * kThreads;
                row = at / 8, piece = at % 8;
#pragma unroll
                for (u32 w = 0; w < 4; w++) value[w] = words[i][w];
            }
            *(LOCAL u32x4*)(tile + place(row, piece)) = native<IN>(value);
        }
    }
};

struct Loop {
    Carrier<false, A_TRANSPOSED, kCarriedA> a;
    Carrier<true, B_TRANSPOSED, kCarriedB> b;
    Reader read_a, read_b;
    Acc acc[kTilesM][kTilesN];

    MEMBER void load() {
        a.load();
        b.load();
    }
    template <u32 STAGE> MEMBER void write(Lds lds) const {
        a.write(lds + STAGE * kStageA);
        b.write(lds + kOffsetB + STAGE * kStageB);
    }
    template <u32 AT, u32 TILES, u32 TILE = 0> static MEMBER void read(const Reader& reader, u32x4 (&pieces)[TILES][kPieces], u32 part) {
        if constexpr (TILE < TILES) {
#pragma unroll
            for (u32 p = 0; p < kPieces; p++) pieces[TILE][p] = reader.template piece<AT + TILE * MMA * kRowBytes>(part * kPieces + p);
            read<AT, TILES, TILE + 1>(reader, pieces, part);
        }
    }
    template <u32 STAGE, bool CUT> MEMBER void multiply(i32 bytes) {
#pragma unroll
        for (u32 s = 0; s < kSteps; s++) {
            u32x4 a_pieces[kTilesM][kPieces], b_pieces[kTilesN][kPieces];
            read<STAGE * kStageB>(read_b, b_pieces, s);
            read<STAGE * kStageA>(read_a, a_pieces, s);
            if constexpr (CUT) {
#pragma unroll
                for (u32 p = 0; p < kPieces; p++) {
#pragma unroll
                    for (u32 i = 0; i < kTilesM; i++) a_pieces[i][p] = in_depth(a_pieces[i][p], s * kPieces + p, bytes);
#pragma unroll
                    for (u32 j = 0; j < kTilesN; j++) b_pieces[j][p] = in_depth(b_pieces[j][p], s * kPieces + p, bytes);
                }
            }
#pragma unroll
            for (u32 i = 0; i < kTilesM; i++) {
#pragma unroll
                for (u32 j = 0; j < kTilesN; j++) Product::run(acc[i][j], b_pieces[j], a_pieces[i]);
            }
        }
    }
    template <u32 STAGE> MEMBER void step(Lds lds) {
        if constexpr (STAGES == 2) {
            write<STAGE ^ 1>(lds);
            load();
            multiply<STAGE, false>(0);
            spread<kTilesM * kTilesN * kSteps>();
            lds_barrier();
        } else {
            multiply<0, false>(0);
            lds_barrier();
            write<0>(lds);
            load();
            lds_barrier();
        }
    }
    /// Lays the LDS accesses and loads of a step evenly between its products.
    template <u32 PRODUCTS> static MEMBER void spread() {
        constexpr u32 kReads = (kTilesM + kTilesN) * kPieces * kSteps, kWrites = kCarriedA + kCarriedB;
        constexpr u32 kEach = PRODUCTS / (kReads + 2 * kWrites) > 0 ? PRODUCTS / (kReads + 2 * kWrites) : 1;
        interleave<kGroupLdsRead, (kTilesM + kTilesN) * kPieces>();
#pragma unroll
        for (u32 i = 0; i < kWrites; i++) {
            interleave<kGroupLdsWrite, 1>();
            interleave<kGroupMma, kEach>();
            interleave<kGroupLoad, 1>();
            interleave<kGroupMma, kEach>();
        }
#pragma unroll
        for (u32 i = 0; i < kReads - (kTilesM + kTilesN) * kPieces; i++) {
            interleave<kGroupLdsRead, 1>();
            interleave<kGroupMma, kEach>();
        }
    }

    MEMBER void run(Lds lds, u32 whole, i32 bytes) {
        load();
        write<0>(lds);
        load();
        lds_barrier();
        u32 stage = 0;
#pragma unroll 1
        for (u32 left = whole; left > 0; left--) {
            step<0>(lds);
            if constexpr (STAGES == 2) {
                stage = 1;
                if (--left == 0) break;
                step<1>(lds);
                stage = 0;
            }
        }
        if (bytes > 0) {
            read_a.move(stage * kStageA);
            read_b.move(stage * kStageB);
            multiply<0, true>(bytes);
        }
        lds_barrier();
    }
};

extern "C" __global__ __attribute__((amdgpu_flat_work_group_size(kThreads, kThreads), amdgpu_waves_per_eu(WAVES_PER_SIMD, WAVES_PER_SIMD)))
KERNEL_ARGUMENTS {
    __shared__ __attribute__((aligned(1024))) u8 shared[SHARED_BYTES];
    const Lds lds = (Lds)shared;
    const Tile tile = tile_at(problem, blockIdx.x);
    const u32 wave = wave_id();
    Loop loop;
    loop.a.start(a + tile.batch / problem.a_share * problem.a_batch, tile.row, problem.a_row, problem.m - tile.row, problem.k, tile);
    loop.b.start(b + tile.batch / problem.b_share * problem.b_batch, tile.col, problem.b_row, problem.n - tile.col, problem.k, tile,
                 shift_between(b, up));
    loop.read_a = Reader::of(lds, wave / WAVES_N * (kTilesM * MMA));
    loop.read_b = Reader::of(lds + kOffsetB, wave % WAVES_N * (kTilesN * MMA));
    clear(loop.acc);
    loop.run(lds, whole_steps(problem, tile), rest_bytes(problem, tile));
    write_tile(loop.acc, {d, bias, residual, m_scale, n_scale}, problem, tile, {parts, arrivals}, lds);
}
