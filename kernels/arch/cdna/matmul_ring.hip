//! Matrix product on CDNA4: loads straight into a ring of LDS stages, with reads of LDS and loads laid between the products
//! of one wave a SIMD or two.
//!
//! A step has kSteps parts. While part s is multiplied, the pieces of part s + 1 are read. The last part begins with the wait
//! for the next step's data and the only barrier of a step: behind it, the next step's first pieces are read and the
//! stage just used is loaded anew, STAGES steps ahead.
//!
//!   part 0           part 1 (last)
//!   multiply 0       wait for step t + 1, barrier
//!   read 1           multiply 1, read 0 of t + 1, load step t + STAGES

static_assert(HALVES == 1 && STAGES >= 2 && STAGES * kSteps % 2 == 0, "pieces are read into two sets of registers in turn");
static_assert(SHARED_BYTES == STAGES * (kStageA + kStageB + kStageScales), "the planner counts LDS otherwise");
static_assert(kScalesA % kScaleLoad == 0 && kScalesB % kScaleLoad == 0, "a wave loads scales of one operand");
static_assert(!GATED || kWaves == 4, "a load has rows of one matrix");

/// Loads of 16 bytes a lane for an operand's tile.
constexpr u32 kLoadsA = kStageA / (kThreads * 16), kLoadsB = kStageB / (kThreads * 16);
constexpr u32 kLoads = kLoadsA + kLoadsB + kScaleLoads;
static_assert(kLoadsA * kThreads * 16 == kStageA && kLoadsB * kThreads * 16 == kStageB, "whole loads");
/// Loads that may be outstanding when the next step's data has arrived: those of the steps behind it.
constexpr u32 kOutstanding = (STAGES - 2) * kLoads;
static_assert(kOutstanding < 63, "vmcnt has six bits");

constexpr u32 kTiles = kTilesM * kTilesN, kScaleReads = kHasBlocks ? kUnitsM + kUnitsN : 0;
constexpr u32 kReads = (kTilesM + kTilesN) * kPieces + kScaleReads;

struct Loop {
    Stream<kLoadsA, A_TRANSPOSED> a;
    Stream<kLoadsB, B_TRANSPOSED> b;
    Scales scales;
    ReaderA read_a;
    ReaderB read_b;
    /// LDS address of the wave's first direct load.
    u32 target;
    u64 up_shift;
    u32x4 a_pieces[2][kTilesM][kPieces], b_pieces[2][kTilesN][kPieces];
    u32 a_scales[2][kUnitsM], b_scales[2][kUnitsN];
    Acc acc[kTilesM][kTilesN];

    template <u32 STAGE, u32 I> MEMBER void load() {
        if constexpr (I < kLoadsA) {
            load_to_lds<STAGE * kStageA + I * kThreads * 16>(a.descriptor(), a.offsets[I], target);
        } else if constexpr (I >= kLoadsA + kLoadsB) {
            scales.template load<STAGE, I - kLoadsA - kLoadsB>();
        } else {
            load_to_lds<kOffsetB + STAGE * kStageB + (I - kLoadsA) * kThreads * 16>(
                b.descriptor(is_up_load(I - kLoadsA, kLoadsB) ? up_shift : 0), b.offsets[I - kLoadsA], target);
        }
    }
    template <u32 STAGE, u32 I = 0> MEMBER void load_step() {
        if constexpr (I < kLoads) {
            load<STAGE, I>();
            load_step<STAGE, I + 1>();
        }
    }
    MEMBER void advance() {
        a.advance();
        b.advance();
        scales.advance();
    }

    /// Reads piece `I` of the kReads pieces of part `PART` into set `SET`. Scales and B come first: a piece of A then meets
    /// all of them.
    template <u32 STAGE, u32 PART, u32 SET, u32 I> MEMBER void read() {
        constexpr u32 kTile = (I - kScaleReads) / kPieces, kPiece = (I - kScaleReads) % kPieces;
        if constexpr (I < kScaleReads && I < kUnitsN) {
            b_scales[SET][I] = Scales::part<STAGE * kStageScales + I * kUnitScales>(scales.at_b, PART);
        } else if constexpr (I < kScaleReads) {
            a_scales[SET][I - kUnitsN] = Scales::part<STAGE * kStageScales + (I - kUnitsN) * kUnitScales>(scales.at_a, PART);
        } else if constexpr (kTile < kTilesN) {
            b_pieces[SET][kTile][kPiece] =
                read_b.template piece<STAGE * kStageB, kTile>(PART * kPieces + kPiece);
        } else {
            a_pieces[SET][kTile - kTilesN][kPiece] =
                read_a.template piece<STAGE * kStageA, kTile - kTilesN>(PART * kPieces + kPiece);
        }
    }
    template <u32 STAGE, u32 PART, u32 SET, u32 I = 0> MEMBER void read_part() {
        if constexpr (I < kReads) {
            read<STAGE, PART, SET, I>();
            read_part<STAGE, PART, SET, I + 1>();
        }
    }

    /// Work `I` of those laid between the products of part `PART`: reads, then, in the last part, loads.
    template <u32 STAGE, u32 PART, u32 SET, u32 I> MEMBER void work() {
        constexpr bool kIsLast = PART + 1 == kSteps;
        if constexpr (I < kReads) read<kIsLast ? (STAGE + 1) % STAGES : STAGE, (PART + 1) % kSteps, SET ^ 1, I>();
        else load<STAGE, I - kReads>();
    }
    template <u32 STAGE, u32 PART, u32 SET, u32 FROM, u32 TO> MEMBER void work_all() {
        if constexpr (FROM < TO) {
            work<STAGE, PART, SET, FROM>();
            work_all<STAGE, PART, SET, FROM + 1, TO>();
        }
    }
    template <u32 STAGE, u32 PART, u32 SET, u32 TILE = 0> MEMBER void multiply() {
        if constexpr (TILE < kTiles) {
            constexpr u32 kWork = kReads + (PART + 1 == kSteps ? kLoads : 0);
            constexpr u32 i = TILE / kTilesN, j = TILE % kTilesN;
            multiply_tile(acc[i][j], b_pieces[SET][j], a_pieces[SET][i], b_scales[SET][j / 2 % kUnitsN], j % 2,
                          a_scales[SET][i / 2 % kUnitsM], i % 2);
            if constexpr (TILE * kWork / kTiles < (TILE + 1) * kWork / kTiles) {
                work_all<STAGE, PART, SET, TILE * kWork / kTiles, (TILE + 1) * kWork / kTiles>();
                part_schedule();
            }
            multiply<STAGE, PART, SET, TILE + 1>();
        }
    }
    template <u32 STAGE, u32 PART = 0> MEMBER void step() {
        if constexpr (PART < kSteps) {
            if constexpr (PART + 1 == kSteps) {
                wait_lds();
                wait_loads<kOutstanding>();
                wave_barrier();
                advance();
            }
            multiply<STAGE, PART, (STAGE * kSteps + PART) % 2>();
            step<STAGE, PART + 1>();
        }
    }
    /// Steps in turn over the stages, until none is left. Gives the stage of the step behind.
    template <u32 STAGE = 0> MEMBER u32 round(u32& left) {
        if constexpr (STAGE < STAGES) {
            if (left == 0) return STAGE;
            step<STAGE>();
            left--;
            return round<STAGE + 1>(left);
        } else {
            return 0;
        }
    }
    template <u32 STAGE = 0> MEMBER void fill() {
        if constexpr (STAGE < STAGES) {
            if constexpr (STAGE > 0) advance();
            load_step<STAGE>();
            fill<STAGE + 1>();
        }
    }
    /// The last step, of which `bytes` lie in front of the end of K.
    template <u32 PART = 0> MEMBER void last(i32 bytes) {
        if constexpr (PART < kSteps) {
            read_part<0, PART, 0>();
#pragma unroll
            for (u32 p = 0; p < kPieces; p++) {
#pragma unroll
                for (u32 i = 0; i < kTilesM; i++) a_pieces[0][i][p] = in_depth(a_pieces[0][i][p], PART * kPieces + p, bytes);
#pragma unroll
                for (u32 j = 0; j < kTilesN; j++) b_pieces[0][j][p] = in_depth(b_pieces[0][j][p], PART * kPieces + p, bytes);
            }
#pragma unroll
            for (u32 t = 0; t < kTiles; t++) {
                const u32 i = t / kTilesN, j = t % kTilesN;
                multiply_tile(acc[i][j], b_pieces[0][j], a_pieces[0][i], b_scales[0][j / 2 % kUnitsN], j % 2,
                              a_scales[0][i / 2 % kUnitsM], i % 2);
            }
            last<PART + 1>(bytes);
        }
    }

    MEMBER void run(u32 whole, i32 bytes) {
        fill();
        wait_loads<kOutstanding + kLoads>();
        wave_barrier();
        read_part<0, 0, 0>();
        u32 stage = 0, left = whole;
#pragma unroll 1
        while (left > 0) stage = round(left);
        if (bytes > 0) {
            read_a.move(stage * kStageA);
            read_b.move(stage * kStageB);
            scales.move(stage * kStageScales);
            last(bytes);
        }
        wait_loads<0>();
        wave_barrier();
    }
};

extern "C" __global__ __attribute__((amdgpu_flat_work_group_size(kThreads, kThreads), amdgpu_waves_per_eu(WAVES_PER_SIMD, WAVES_PER_SIMD)))
KERNEL_ARGUMENTS {
    __shared__ __attribute__((aligned(1024))) u8 shared[SHARED_BYTES];
    const Lds lds = (Lds)shared;
    const Tile tile = tile_at(problem, blockIdx.x);
    const u32 wave = wave_id();
    Loop loop;
    loop.a.start(a + tile.batch / problem.a_share * problem.a_batch, tile.row, problem.a_row,
                 problem.m - tile.row, problem.k, tile);
    loop.b.start(b + tile.batch / problem.b_share * problem.b_batch, tile.col, problem.b_row,
                 problem.n - tile.col, problem.k, tile);
    set_direct_offsets<false>(loop.a, problem.a_row);
    set_direct_offsets<true>(loop.b, problem.b_row);
    loop.up_shift = shift_between(b, up);
    loop.scales.start(a_blocks, b_blocks, problem, tile, lds);
    loop.read_a = ReaderA::of(lds, wave / WAVES_N * kTilesM);
    loop.read_b = ReaderB::of(lds + kOffsetB, wave % WAVES_N * kRunN);
    loop.target = lds_address(lds) + wave * 1024;
    clear(loop.acc);
    loop.run(scalar(whole_steps(problem, tile)), (i32)scalar(rest_bytes(problem, tile)));
    gather_columns(loop.acc);
    write_tile(loop.acc, {d, bias, residual, m_scale, n_scale}, problem, tile, {parts, arrivals}, lds);
}
