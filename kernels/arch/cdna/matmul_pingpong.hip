//! Matrix product on CDNA4: eight waves in two groups, one of which multiplies while the other loads.
//!
//! HALVES is 2, waves are 2 x 4, STAGES 2. A step (128 bytes of K) has four phases, a quadrant of the wave's tile each, or two
//! (PHASES), half of it each:
//!
//!   phase   reads LDS     starts loads of          multiplies          phase   reads LDS        starts loads of      multiplies
//!   0       A0, B0 (t)    B1 (t + 1)               A0 B0               0       A0, B0, B1 (t)   A1 (t + 1)           A0 B0, A0 B1
//!   1       B1 (t)        A1 (t + 1)               A0 B1               1       A1 (t)           A0, B0, B1 (t + 2)   A1 B0, A1 B1
//!   2       A1 (t)        A0 (t + 2)               A1 B1
//!   3       -             B0 (t + 2)               A1 B0
//!
//! A phase is a memory part and a multiplying part with a barrier behind each. The second group of waves passes one barrier
//! more in front of the loop, the first one more behind it: the memory part of one meets the multiplying part of the other.
//! The reads of one of four phases end behind the barrier; those of one of two, which has time for them, in front of it, so
//! that the next phase may load anew what they read. How many loads may be outstanding at each phase follows from this table
//! at compile time.

constexpr u32 kA0 = 0, kA1 = 1, kB0 = 2, kB1 = 3, kHalvesOfStep = 4;
/// Of a half: the phase that reads it, the one that loads it, and how many steps ahead.
struct Timing { u32 read, load, ahead; };
constexpr Timing kTimings[2][kHalvesOfStep] = {{{0, 1, 2}, {1, 0, 1}, {0, 1, 2}, {0, 1, 2}},
                                               {{0, 2, 2}, {2, 1, 1}, {0, 3, 2}, {1, 0, 1}}};
constexpr Timing timing(u32 half) { return kTimings[PHASES == 4][half]; }
constexpr bool kEndsReadsFirst = PHASES == 2;

static_assert(PHASES == 2 || PHASES == 4, "two phases or four");
static_assert(HALVES == 2 && STAGES == 2 && WAVES_M == 2 && WAVES_N == 4, "the phases are made for this shape");
static_assert(SHARED_BYTES == STAGES * (kStageA + kStageB + kStageScales), "the planner counts LDS otherwise");
static_assert(kScalesA % kScaleLoad == 0 && kScalesB % kScaleLoad == 0, "a wave loads scales of one operand");

/// Loads of 16 bytes a lane for half an operand's tile.
constexpr u32 kLoadsA = kStageA / 2 / (kThreads * 16), kLoadsB = kStageB / 2 / (kThreads * 16);
static_assert(kLoadsA * kThreads * 32 == kStageA && kLoadsB * kThreads * 32 == kStageB, "whole loads");
/// Scales of a whole step come with A0.
constexpr u32 loads_of(u32 half) { return half == kA0 ? kLoadsA + kScaleLoads : half < kB0 ? kLoadsA : kLoadsB; }
/// Those that a phase starts of halves from `first` on.
constexpr u32 loads_in(u32 phase, u32 first = 0) {
    u32 loads = 0;
    for (u32 half = first; half < kHalvesOfStep; half++) loads += timing(half).load == phase ? loads_of(half) : 0;
    return loads;
}
/// Loads that may be outstanding behind the memory part of `phase`, so that what the next phase reads has arrived:
/// those started after its own. Any number (63) where the next phase reads nothing.
constexpr u32 outstanding(u32 phase) {
    u32 fewest = 63;
    for (u32 half = 0; half < kHalvesOfStep; half++) {
        if (timing(half).read != (phase + 1) % PHASES) continue;
        // Phases counted from step 0, the read being in step 8.
        const u32 now = PHASES * (phase + 1 == PHASES ? 7 : 8) + phase, loading = PHASES * (8 - timing(half).ahead) + timing(half).load;
        u32 later = loads_in(timing(half).load, half + 1);
        for (u32 at = loading + 1; at <= now; at++) later += loads_in(at % PHASES);
        if (later < fewest) fewest = later;
    }
    return fewest;
}
/// A half is overwritten two phases after its last read at the earliest, when both groups have begun to multiply with it, or
/// one phase after reads that end before a barrier.
constexpr bool is_free_when_loaded(u32 half) {
    const u32 loading = PHASES * (8 - timing(half).ahead) + timing(half).load;
    return loading >= PHASES * (8 - STAGES) + timing(half).read + (kEndsReadsFirst ? 1 : 2);
}
static_assert(is_free_when_loaded(kA0) && is_free_when_loaded(kA1) && is_free_when_loaded(kB0) && is_free_when_loaded(kB1),
              "a load overwrites what is still read");

struct Loop {
    Stream<2 * kLoadsA, A_TRANSPOSED> a;
    Stream<2 * kLoadsB, B_TRANSPOSED> b;
    Scales scales;
    ReaderA read_a;
    ReaderB read_b;
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
    /// Starts those of `PHASE` of a step in stage `STAGE`. A stream goes on with the first half of a step.
    template <u32 PHASE, u32 STAGE, u32 HALF = 0> MEMBER void start_loads() {
        if constexpr (HALF < kHalvesOfStep) {
            if constexpr (timing(HALF).load == PHASE) {
                if constexpr (HALF == kA0) a.advance(), scales.advance();
                if constexpr (HALF == kB0) b.advance();
                load<(STAGE + timing(HALF).ahead) % STAGES, HALF>();
            }
            start_loads<PHASE, STAGE, HALF + 1>();
        }
    }
    /// Those of the second step that are started before the first step begins.
    template <u32 HALF = 0> MEMBER void load_ahead() {
        if constexpr (HALF < kHalvesOfStep) {
            if constexpr (HALF == kA0) a.advance(), scales.advance();
            if constexpr (HALF == kB0) b.advance();
            if constexpr (timing(HALF).ahead == 2) load<1, HALF>();
            load_ahead<HALF + 1>();
        }
    }
    template <u32 FIRST, u32 AT, u32 COUNT, class S> MEMBER void load_all(S& stream, u64 shift = 0) {
        if constexpr (COUNT > 0) {
            load_to_lds<AT>(stream.descriptor(shift), stream.offsets[FIRST], target);
            load_all<FIRST + 1, AT + kThreads * 16, COUNT - 1>(stream, shift);
        }
    }

    template <u32 STAGE, u32 HALF> MEMBER void read() {
        if constexpr (HALF < kB0) read_tiles<STAGE * kStageA + HALF * (kStageA / 2), kHalfM>(read_a, a_pieces);
        else read_tiles<STAGE * kStageB + (HALF - kB0) * (kStageB / 2), kHalfN>(read_b, b_pieces[HALF - kB0]);
        if constexpr (kHasBlocks && HALF == kA0) {
            read_scales<STAGE * kStageScales, BM / 64 * kUnitScales, kUnitsM>(scales.at_a, a_scales);
            read_scales<STAGE * kStageScales, BN / 64 * kUnitScales, kUnitsN>(scales.at_b, b_scales);
        }
    }
    /// Reads the halves of `PHASE`.
    template <u32 PHASE, u32 STAGE, u32 HALF = 0> MEMBER void read_in() {
        if constexpr (HALF < kHalvesOfStep) {
            if constexpr (timing(HALF).read == PHASE) read<STAGE, HALF>();
            read_in<PHASE, STAGE, HALF + 1>();
        }
    }
    template <u32 AT, u32 HALF_BYTES, u32 UNITS, u32 I = 0> MEMBER void read_scales(Lds at, u32 (&words)[2][UNITS]) {
        if constexpr (I < 2 * UNITS) {
            words[I / UNITS][I % UNITS] = Scales::word<AT + I / UNITS * HALF_BYTES + I % UNITS * kUnitScales>(at);
            read_scales<AT, HALF_BYTES, UNITS, I + 1>(at, words);
        }
    }
    template <u32 AT, u32 TILES, u32 TILE = 0, class R> MEMBER void read_tiles(const R& reader, u32x4 (&pieces)[TILES][kRowPieces]) {
        if constexpr (TILE < TILES) {
#pragma unroll
            for (u32 i = 0; i < kRowPieces; i++) pieces[TILE][i] = reader.template piece<AT, TILE>(i);
            read_tiles<AT, TILES, TILE + 1>(reader, pieces);
        }
    }

    template <u32 TILES> static MEMBER void cut(u32x4 (&pieces)[TILES][kRowPieces], i32 bytes) {
#pragma unroll
        for (u32 t = 0; t < TILES; t++) {
#pragma unroll
            for (u32 i = 0; i < kRowPieces; i++) pieces[t][i] = in_depth(pieces[t][i], i, bytes);
        }
    }

    /// Multiplies a quadrant of the wave's tile.
    template <u32 M, u32 N> MEMBER void multiply() {
#pragma unroll
        for (u32 s = 0; s < kSteps; s++) {
#pragma unroll
            for (u32 i = 0; i < kHalfM; i++) {
#pragma unroll
                for (u32 j = 0; j < kHalfN; j++) {
                    multiply_tile(acc[M * kHalfM + i][N * kHalfN + j], &b_pieces[N][j][s * kPieces], &a_pieces[i][s * kPieces],
                                  b_scales[N][j / 2 % kUnitsN], j % 2 + 2 * s, a_scales[M][i / 2 % kUnitsM], i % 2 + 2 * s);
                }
            }
        }
    }

    /// `bytes`: of K in the step, where CUT.
    template <u32 PHASE, u32 STAGE, bool CUT> MEMBER void phase(i32 bytes) {
        read_in<PHASE, STAGE>();
        if constexpr (!CUT) {
            start_loads<PHASE, STAGE>();
            if constexpr (outstanding(PHASE) < 63) wait_loads<outstanding(PHASE)>();
        } else if constexpr (PHASE == 0) {
            // The last step: nothing follows.
            wait_loads<0>();
        }
        if constexpr (kEndsReadsFirst) {
            lds_barrier();
        } else {
            wave_barrier();
            wait_lds();
            order();
        }
        if constexpr (CUT) {
            if constexpr (PHASE == timing(kA0).read || PHASE == timing(kA1).read) cut(a_pieces, bytes);
            if constexpr (PHASE == timing(kB0).read) cut(b_pieces[0], bytes);
            if constexpr (PHASE == timing(kB1).read) cut(b_pieces[1], bytes);
        }
        priority<1>();
        if constexpr (PHASES == 2) {
            multiply<PHASE, 0>();
            multiply<PHASE, 1>();
        } else {
            multiply<PHASE / 2, PHASE == 1 || PHASE == 2>();
        }
        priority<0>();
        wave_barrier();
    }
    template <u32 STAGE, bool CUT, u32 PHASE = 0> MEMBER void step(i32 bytes) {
        if constexpr (PHASE < PHASES) {
            phase<PHASE, STAGE, CUT>(bytes);
            step<STAGE, CUT, PHASE + 1>(bytes);
        }
    }

    MEMBER void run(u32 whole, i32 bytes, u32 group) {
        load<0, kA0>();
        load<0, kB0>();
        load<0, kB1>();
        load<0, kA1>();
        load_ahead();
        wait_loads<outstanding(PHASES - 1)>();
        wave_barrier();
        if (group == 1) wave_barrier();
#pragma unroll 1
        for (u32 pairs = whole / 2; pairs > 0; pairs--) {
            step<0, false>(0);
            step<1, false>(0);
        }
        const u32 stage = whole % 2;
        if (stage == 1) step<0, false>(0);
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
    loop.a.start(a + tile.batch / problem.a_share * problem.a_batch, tile.row, problem.a_row,
                 problem.m - tile.row, problem.k, tile);
    loop.b.start(b + tile.batch / problem.b_share * problem.b_batch, tile.col, problem.b_row,
                 problem.n - tile.col, problem.k, tile);
    set_direct_offsets<false>(loop.a, problem.a_row);
    set_direct_offsets<true>(loop.b, problem.b_row);
    loop.up_shift = shift_between(b, up);
    loop.scales.start(a_blocks, b_blocks, problem, tile, lds);
    const u32 wave = wave_id();
    loop.read_a = ReaderA::of(lds, wave / WAVES_N * kHalfM);
    loop.read_b = ReaderB::of(lds + kOffsetB, wave % WAVES_N * kRunN);
    loop.target = lds_address(lds) + wave * 1024;
    clear(loop.acc);
    loop.run(scalar(whole_steps(problem, tile)), (i32)scalar(rest_bytes(problem, tile)), wave / WAVES_N);
    gather_columns(loop.acc);
    write_tile(loop.acc, {d, bias, residual, m_scale, n_scale}, problem, tile, {parts, arrivals}, lds);
}
