//! Products whose operands have a scale for each 32 values along K (MXFP8, MXFP4): where scales lie in memory and in LDS, and
//! their way to the matrix units. Other products take nothing from here but `multiply_tile`.
//!
//! A scale is a byte, E8M0. Memory holds scales as lanes need them, of each step of the main loop and each 32 rows of the
//! operand a unit of 64 lanes [step][unit][lane][part][tile]: lane l has, of part p of the step and tile t of 16 rows, the
//! scale of row 16 t + l % 16 (of B: column `column_of` that) and of its block 4 p + l / 16. `matmul_scales.hip` makes it:
//!
//!   MXFP8   a step is one part      2 bytes a lane, 128 a unit
//!   MXFP4   a step is two parts     4 bytes a lane, 256 a unit
//!
//! LDS holds behind the operands, for each stage, the units of A's tile and of B's, then what fills up whole loads.

template <class T> constexpr bool has_blocks() { return false; }
template <> constexpr bool has_blocks<MXFP8>() { return true; }
template <> constexpr bool has_blocks<MXFP4>() { return true; }
constexpr bool kHasBlocks = has_blocks<IN>();

/// Bytes of a lane for one unit and step, of a unit, and of a load by one wave.
constexpr u32 kLaneScales = 2 * kSteps, kUnitScales = 64 * kLaneScales, kScaleLoad = 256;
/// In LDS, of one stage: those of A, of B, and altogether.
constexpr u32 kScalesA = kHasBlocks ? BM / 32 * kUnitScales : 0, kScalesB = kHasBlocks ? BN / 32 * kUnitScales : 0;
constexpr u32 kScaleLoads = (kScalesA + kScalesB + kWaves * kScaleLoad - 1) / (kWaves * kScaleLoad);
constexpr u32 kStageScales = kScaleLoads * kWaves * kScaleLoad;
constexpr u32 kOffsetScales = STAGES * (kStageA + kStageB);
/// Units of a wave in one half, and at least one, for arrays.
constexpr u32 kUnitsM = kHasBlocks ? kHalfM / 2 : 1, kUnitsN = kHasBlocks ? kHalfN / 2 : 1;

static_assert(!kHasBlocks || (MMA == 16 && kHalfM % 2 == 0 && kHalfN % 2 == 0), "a wave has whole units");
static_assert(!kHasBlocks || kLaneScales <= 4, "a lane's scales of a step are one word");

/// One product of a wave. Of the scale words of both operands count the bytes numbered beside them.
template <class P = Product>
DEVICE void multiply_tile(Acc& d, const u32x4* b, const u32x4* a, u32 b_scales, u32 b_byte, u32 a_scales, u32 a_byte) {
    if constexpr (kHasBlocks) P::run_scaled(d, b, a, b_scales, b_byte, a_scales, a_byte);
    else P::run(d, b, a);
}

/// An operand's scales in memory: what one wave reads of them, moving along K.
struct ScaleStream {
    u64 base;
    /// Bytes from the base to the end, and those that loads may see.
    i32 records;
    u32 valid, step_bytes;
    i32 left;

    /// From byte `from` of the tile's row or column `first` on, `stride` steps at a time, `steps` of them.
    MEMBER void start(const u8* scales, u32 matrix, i32 first, u32 from, i32 extent, const Problem& p, u32 step, i32 steps, u32 stride) {
        const u32 bytes = ((u32)extent + 31) / 32 * kUnitScales, all = ((u32)p.k + kDepth - 1) / kDepth * bytes;
        const u32 skip = step * bytes + (u32)first / 32 * kUnitScales + from;
        base = (u64)scales + (u64)matrix * all + skip;
        base = (u64)uniform((u32)base) | (u64)uniform((u32)(base >> 32)) << 32;
        records = (i32)uniform(all - skip);
        step_bytes = uniform(bytes * stride);
        left = steps;
        see();
    }
    MEMBER void see() { valid = left > 0 && records > 0 ? (u32)records : 0; }
    MEMBER u32x4 descriptor() const { return buffer_descriptor(base, valid); }
    MEMBER void advance() {
        base += step_bytes;
        records -= (i32)step_bytes;
        left--;
        see();
    }
};

/// The scales of a tile, straight into LDS. A wave's load `i` is the wave's 256 bytes of what a stage holds.
struct Scales {
    ScaleStream streams[kScaleLoads > 0 ? kScaleLoads : 1];
    /// Where the lane reads its words of A's and B's first unit.
    Lds at_a, at_b;
    u32 target, offset;

    MEMBER void start(const u8* a, const u8* b, const Problem& p, const Tile& tile, Lds lds) {
        if constexpr (kHasBlocks) {
            const u32 wave = wave_id();
#pragma unroll
            for (u32 i = 0; i < kScaleLoads; i++) {
                const u32 from = (i * kWaves + wave) * kScaleLoad;
                const bool is_b = from >= kScalesA;
                streams[i].start(is_b ? b : a, tile.batch / (is_b ? p.b_share : p.a_share), is_b ? tile.col : tile.row,
                                 is_b ? from - kScalesA : from, is_b ? p.n : p.m, p, tile.first, (i32)(tile.end - tile.first), 1);
            }
            at_a = lds + kOffsetScales + wave / WAVES_N * (kUnitsM * kUnitScales) + lane_id() * kLaneScales;
            at_b = lds + kOffsetScales + kScalesA + wave % WAVES_N * (kUnitsN * kUnitScales) + lane_id() * kLaneScales;
            target = lds_address(lds) + wave * kScaleLoad;
            offset = lane_id() * 4;
            keep(offset);
        }
    }
    MEMBER void advance() {
#pragma unroll
        for (u32 i = 0; i < kScaleLoads; i++) streams[i].advance();
    }
    /// Starts load `I` into stage `STAGE`.
    template <u32 STAGE, u32 I> MEMBER void load() {
        load4_to_lds<kOffsetScales + STAGE * kStageScales + I * kWaves * kScaleLoad>(streams[I].descriptor(), offset, target);
    }
    template <u32 STAGE, u32 I = 0> MEMBER void load_all() {
        if constexpr (I < kScaleLoads) {
            load<STAGE, I>();
            load_all<STAGE, I + 1>();
        }
    }
    MEMBER void move(u32 bytes) {
        if constexpr (kHasBlocks) at_a += bytes, at_b += bytes;
    }
    /// The lane's word `kAt` bytes on: of a whole step, or of its part `part` in the low half.
    template <u32 kAt> static MEMBER u32 word(Lds at) {
        if constexpr (kLaneScales == 4) return *(LOCAL const u32*)(at + kAt);
        else return *(LOCAL const u16*)(at + kAt);
    }
    template <u32 kAt> static MEMBER u32 part(Lds at, u32 part) { return *(LOCAL const u16*)(at + kAt + part * 2); }
};
