//! Matrix product on CDNA4: eight waves in two groups, one of which multiplies while the other loads.
//!
//! HALVES is 2, waves are 2 x 4, STAGES 2. A step (128 bytes of K) has four phases, a quadrant of the wave's tile each:
//!
//!   phase   reads LDS     starts loads of              multiplies
//!   0       A0, B0 (t)    B1 (t + 1)                   A0 B0
//!   1       B1 (t)        A1 (t + 1)                   A0 B1
//!   2       A1 (t)        A0 (t + 2)                   A1 B1
//!   3       -             B0 (t + 2)                   A1 B0
//!
//! A phase is a memory part and a multiplying part with a barrier behind each. The second group of waves passes one barrier
//! more in front of the loop, the first one more behind it: the memory part of one meets the multiplying part of the other.
//! How many loads may be outstanding at each phase follows from this table at compile time.

constexpr u32 kHalvesOfStep = 4, kA0 = 0, kA1 = 1, kB0 = 2, kB1 = 3, kNothing = 4;
/// Of each phase: the half that is loaded, how many steps ahead, and the halves that are read.
constexpr u32 kLoaded[4] = {kB1, kA1, kA0, kB0};
constexpr u32 kAhead[4] = {1, 1, 2, 2};
constexpr u32 kRead[4][2] = {{kA0, kB0}, {kB1, kNothing}, {kA1, kNothing}, {kNothing, kNothing}};

static_assert(HALVES == 2 && STAGES == 2 && WAVES_M == 2 && WAVES_N == 4, "the phases are made for this shape");
static_assert(SHARED_BYTES == STAGES * (kStageA + kStageB + kStageScales), "the planner counts LDS otherwise");
static_assert(kScalesA % kScaleLoad == 0 && kScalesB % kScaleLoad == 0, "a wave loads scales of one operand");
static_assert(kHasDirectLoads && !A_TRANSPOSED && !B_TRANSPOSED, "rows along K go straight into LDS");

/// Loads of 16 bytes a lane for half an operand's tile.
constexpr u32 kLoadsA = kStageA / 2 / (kThreads * 16), kLoadsB = kStageB / 2 / (kThreads * 16);
static_assert(kLoadsA * kThreads * 32 == kStageA && kLoadsB * kThreads * 32 == kStageB, "whole loads");
/// Scales of a whole step come with A0.
constexpr u32 loads_of(u32 half) {
    return half == kNothing ? 0 : half == kA0 ? kLoadsA + kScaleLoads : half < kB0 ? kLoadsA : kLoadsB;
}

constexpr u32 phase_loading(u32 half) {
    u32 phase = 0;
    while (kLoaded[phase] != half) phase++;
    return phase;
}
constexpr u32 phase_reading(u32 half) {
    u32 phase = 0;
    while (kRead[phase][0] != half && kRead[phase][1] != half) phase++;
    return phase;
}
/// Loads that may be outstanding behind the memory part of `phase`, so that what the next phase reads has arrived:
/// those started after its own. Any number (63) where the next phase reads nothing.
constexpr u32 outstanding(u32 phase) {
    u32 fewest = 63;
    for (u32 half : kRead[(phase + 1) % 4]) {
        if (half == kNothing) continue;
        // Phases counted from step 0, the read being in step 8.
        const u32 now = 4 * (phase == 3 ? 7 : 8) + phase, loading = phase_loading(half);
        u32 later = 0;
        for (u32 at = 4 * (8 - kAhead[loading]) + loading + 1; at <= now; at++) later += loads_of(kLoaded[at % 4]);
        if (later < fewest) fewest = later;
    }
    return fewest;
}
/// A half is overwritten two phases after its last read at the earliest: then both groups have multiplied with it.
constexpr bool is_free_when_loaded(u32 half) {
    const u32 loading = phase_loading(half);
    return 4 * (8 - kAhead[loading]) + loading >= 4 * (8 - STAGES) + phase_reading(half) + 2;
}
static_assert(is_free_when_loaded(kA0) && is_free_when_loaded(kA1) && is_free_when_loaded(kB0) && is_free_when_loaded(kB1),
              "a load overwrites what is still read");

struct Loop {
    Stream<2 * kLoadsA> a;
    Stream<2 * kLoadsB> b;
    Scales scales;
    Reader read_a, read_b;
    /// LDS address of the wave's first direct load.
    u32 target;
    u64 up_shift;
    u32x4 a_pieces[kHalfM][kRowPieces], b_pieces[2][kHalfN][kRowPieces];
    u32 a_scales[2][kUnitsM], b_scales[2][kUnitsN];
    Acc acc[kTilesM][kTilesN];

    /// Starts the loads of a half into stage `STAGE`.
    template <u32 STAGE, u32 HALF> MEMBER void load() {
        if constexpr (HALF < kB0) {
            load_all<HALF * kLoadsA, STAGE * kStageA + HALF * (kStageA / 2), kLoadsA>(a);
            if constexpr (HALF == kA0) scales.template load_all<STAGE>();
        } else {
            load_all<(HALF - kB0) * kLoadsB, kOffsetB + STAGE * kStageB + (HALF - kB0) * (kStageB / 2), kLoadsB>(
                b, HALF == kB1 ? up_shift : 0);
        }
    }
    template <u32 FIRST, u32 AT, u32 COUNT, class S> MEMBER void load_all(S& stream, u64 shift = 0) {
        if constexpr (COUNT > 0) {
            load_to_lds<AT>(stream.descriptor(shift), stream.offsets[FIRST], target);
            load_all<FIRST + 1, AT + kThreads * 16, COUNT - 1>(stream, shift);
        }
    }

    template <u32 STAGE, u32 HALF> MEMBER void read() {
        if constexpr (HALF < kB0) read_rows<STAGE * kStageA + HALF * (kStageA / 2), kHalfM>(read_a, a_pieces);
        else if constexpr (HALF < kNothing) read_rows<STAGE * kStageB + (HALF - kB0) * (kStageB / 2), kHalfN>(read_b, b_pieces[HALF - kB0]);
        if constexpr (kHasBlocks && HALF == kA0) {
            read_scales<STAGE * kStageScales, BM / 64 * kUnitScales, kUnitsM>(scales.at_a, a_scales);
            read_scales<STAGE * kStageScales, BN / 64 * kUnitScales, kUnitsN>(scales.at_b, b_scales);
        }
    }
    template <u32 AT, u32 HALF_BYTES, u32 UNITS, u32 I = 0> MEMBER void read_scales(Lds at, u32 (&words)[2][UNITS]) {
        if constexpr (I < 2 * UNITS) {
            words[I / UNITS][I % UNITS] = Scales::word<AT + I / UNITS * HALF_BYTES + I % UNITS * kUnitScales>(at);
            read_scales<AT, HALF_BYTES, UNITS, I + 1>(at, words);
        }
    }
    template <u32 AT, u32 TILES, u32 TILE = 0> MEMBER void read_rows(const Reader& reader, u32x4 (&pieces)[TILES][kRowPieces]) {
        if constexpr (TILE < TILES) {
#pragma unroll
            for (u32 i = 0; i < kRowPieces; i++) pieces[TILE][i] = reader.template piece<AT + TILE * MMA * kRowBytes>(i);
            read_rows<AT, TILES, TILE + 1>(reader, pieces);
        }
    }

    template <u32 TILES> static MEMBER void cut(u32x4 (&pieces)[TILES][kRowPieces], i32 bytes) {
#pragma unroll
        for (u32 t = 0; t < TILES; t++) {
#pragma unroll
            for (u32 i = 0; i < kRowPieces; i++) pieces[t][i] = in_depth(pieces[t][i], i, bytes);
        }
    }

    /// `bytes`: of K in the step, where CUT.
    template <u32 PHASE, u32 STAGE, bool CUT> MEMBER void phase(i32 bytes) {
        read<STAGE, kRead[PHASE][0]>();
        read<STAGE, kRead[PHASE][1]>();
        if constexpr (!CUT) {
            if constexpr (kLoaded[PHASE] == kA0) a.advance(), scales.advance();
            if constexpr (kLoaded[PHASE] == kB0) b.advance();
            load<(STAGE + kAhead[PHASE]) % STAGES, kLoaded[PHASE]>();
            if constexpr (outstanding(PHASE) < 63) wait_loads<outstanding(PHASE)>();
        } else if constexpr (PHASE == 0) {
            // The last step: nothing follows.
            wait_loads<0>();
        }
        wave_barrier();
        wait_lds();
        order();
        if constexpr (CUT && PHASE == 0) cut(a_pieces, bytes), cut(b_pieces[0], bytes);
        if constexpr (CUT && PHASE == 1) cut(b_pieces[1], bytes);
        if constexpr (CUT && PHASE == 2) cut(a_pieces, bytes);
        constexpr u32 kQuadrantM = PHASE / 2, kQuadrantN = PHASE == 1 || PHASE == 2;
        priority<1>();
#pragma unroll
        for (u32 s = 0; s < kSteps; s++) {
#pragma unroll
            for (u32 i = 0; i < kHalfM; i++) {
#pragma unroll
                for (u32 j = 0; j < kHalfN; j++) {
                    multiply_tile(acc[kQuadrantM * kHalfM + i][kQuadrantN * kHalfN + j],
                                  &b_pieces[kQuadrantN][j][s * kPieces], &a_pieces[i][s * kPieces],
                                  b_scales[kQuadrantN][j / 2 % kUnitsN], j % 2 + 2 * s, a_scales[kQuadrantM][i / 2 % kUnitsM], i % 2 + 2 * s);
                }
            }
        }
        priority<0>();
        wave_barrier();
    }
    template <u32 STAGE, bool CUT> MEMBER void step(i32 bytes) {
        phase<0, STAGE, CUT>(bytes);
        phase<1, STAGE, CUT>(bytes);
        phase<2, STAGE, CUT>(bytes);
        phase<3, STAGE, CUT>(bytes);
    }

    MEMBER void run(u32 whole, i32 bytes, u32 group) {
        load<0, kA0>();
        load<0, kB0>();
        load<0, kB1>();
        load<0, kA1>();
        a.advance(), scales.advance();
        load<1, kA0>();
        b.advance();
        load<1, kB0>();
        wait_loads<outstanding(3)>();
        wave_barrier();
        if (group == 1) wave_barrier();
        u32 stage = 0;
#pragma unroll 1
        for (u32 left = whole; left > 0; left--) {
            step<0, false>(0);
            stage = 1;
            if (--left == 0) break;
            step<1, false>(0);
            stage = 0;
        }
        if (bytes > 0) {
            read_a.move(stage * kStageA);
            read_b.move(stage * kStageB);
            scales.move(stage * kStageScales);
            step<0, true>(bytes);
        }
        if (group == 0) wave_barrier();
        wait_loads<0>();
    }
};

extern "C" __global__ __attribute__((amdgpu_flat_work_group_size(kThreads, kThreads), amdgpu_waves_per_eu(2, 2)))
KERNEL_ARGUMENTS {
    __shared__ __attribute__((aligned(1024))) u8 shared[SHARED_BYTES];
    const Lds lds = (Lds)shared;
    const Tile tile = tile_at(problem, blockIdx.x);
    Loop loop;
    loop.a.template start<false>(a + tile.batch / problem.a_share * problem.a_batch, tile.row, problem.a_row,
                                 problem.m - tile.row, problem.k, tile);
    loop.b.template start<false>(b + tile.batch / problem.b_share * problem.b_batch, tile.col, problem.b_row,
                                 problem.n - tile.col, problem.k, tile);
    set_direct_offsets<false>(loop.a, problem.a_row);
    set_direct_offsets<true>(loop.b, problem.b_row);
    loop.up_shift = shift_between(b, up);
    loop.scales.start(a_blocks, b_blocks, problem, tile, lds);
    const u32 wave = wave_id();
    loop.read_a = Reader::of(lds, wave / WAVES_N * (kHalfM * MMA));
    loop.read_b = Reader::of(lds + kOffsetB, wave % WAVES_N * (kHalfN * MMA));
    loop.target = lds_address(lds) + wave * 1024;
    clear(loop.acc);
    loop.run(whole_steps(problem, tile), rest_bytes(problem, tile), wave / WAVES_N);
    write_tile(loop.acc, {d, bias, residual, m_scale, n_scale}, problem, tile, {parts, arrivals}, lds);
}
