//! Operands of a matrix product that go straight from memory into LDS: what each load brings, where lanes read it.
//!
//! An operand whose rows run along K lies as `matmul_tile.h` says. One that is transposed keeps its rows, which run along M
//! or N: a panel is 128 bytes of them, kPanel elements, for each k of the step. A panel's row k has piece p at place
//! p ^ turn(k), so that what one read touches lies in different banks. With 16-bit elements, a panel of 64 columns:
//!
//!   k 0, 1, 4, 5     0 1 2 3 4 5 6 7
//!   k 2, 3, 6, 7     2 3 0 1 6 7 4 5
//!   k 8, 9 ..        4 5 6 7 0 1 2 3
//!   k 10, 11 ..      6 7 4 5 2 3 0 1
//!
//! A transposing read takes 8 bytes a lane: 16 lanes name kReadRows rows of 16 elements, and each gets one column's. Two of
//! them are a piece, with the same k as a piece of a row along K:
//!
//!   lane 16 g + l      row k = (4 i + g) 2 kReadRows + l / kRowLanes (+ kReadRows), bytes 8 (l % kRowLanes) of 16 elements

static_assert(DIRECT && kHasDirectLoads, "operands go straight into LDS");
static_assert(!kHasTransposed || (MMA == 16 && sizeof(In) <= 2 && !kHasBlocks), "transposing reads give columns of 16 elements of 8 or 16 bits");

/// Columns (of A: rows) of a panel, its bytes, and its tiles of 16.
constexpr u32 kPanel = kRowBytes / sizeof(In), kPanelBytes = kDepth * kRowBytes, kPanelTiles = kPanel / 16;
static_assert(!A_TRANSPOSED || BM / HALVES % kPanel == 0, "whole panels");
static_assert(!B_TRANSPOSED || BN / HALVES / (GATED && HALVES == 1 ? 2 : 1) % kPanel == 0, "whole panels of one matrix");

/// Rows of K of a transposing read, and lanes that name one of them.
constexpr u32 kReadRows = 8 / sizeof(In), kRowLanes = 16 / kReadRows;

/// Of 16-bit elements eight rows of two pieces are read at once, of bytes 16 rows of one: those whose number is even lie in
/// the same half of the banks, and differ in what is turned.
DEVICE u32 turn(u32 k) {
    if (sizeof(In) == 2) return (k >> 1 & 1) << 1 | (k >> 3 & 1) << 2;
    return (k >> 1 & 3) | (k >> 4 & 1) << 2;
}

/// Loads of 16 bytes a lane: load `i` of a wave fills the 1024 bytes i kWaves + wave of the operand's tile, eight rows.
template <bool kIsB, u32 LOADS, bool TRANSPOSED> DEVICE void set_direct_offsets(Stream<LOADS, TRANSPOSED>& stream, i64 row_stride) {
    constexpr u32 kPanels = (kIsB ? (GATED ? BN / 2 : BN) : BM) / kPanel;
    const u32 lane = lane_id(), wave = wave_id(), stride = (u32)(row_stride * sizeof(In));
#pragma unroll
    for (u32 i = 0; i < LOADS; i++) {
        const u32 row = (i * kWaves + wave) * 8 + lane / 8;
        if constexpr (TRANSPOSED) {
            const u32 k = row % kDepth, panel = row / kDepth % kPanels;
            stream.offsets[i] = k * stride + panel * kRowBytes + ((lane % 8 ^ turn(k)) << 4);
        } else {
            const u32 piece = lane % 8 ^ (row >> SWIZZLE_SHIFT & 7);
            stream.offsets[i] = (kIsB ? column_at(row) : row) * stride + piece * 16;
        }
        keep(stream.offsets[i]);
    }
}
/// Whether load `i` of `loads` of B's tile brings `up`, where HALVES is 1.
constexpr bool is_up_load(u32 i, u32 loads) { return GATED && (B_TRANSPOSED ? i >= loads / 2 : i % 2); }

/// 8 bytes a lane of the panel row that it names: see above.
DEVICE u32x2 read_transposed(Lds at) {
    if constexpr (sizeof(In) == 2) return lds_read_transposed16(at);
    else return lds_read_transposed8(at);
}

/// Where a lane reads the pieces of an operand's tiles. Of those of a wave, `RUN` lie side by side, and each further run
/// `kRunBytes` behind.
template <bool TRANSPOSED, u32 RUN, u32 kRunBytes> struct DirectReader {
    static_assert((RUN & (RUN - 1)) == 0, "a run starts where a panel does, or lies within one");
    static constexpr u32 kPlaces = RUN < kPanelTiles ? RUN : kPanelTiles;
    Lds at[kPlaces];

    /// `first`: the wave's first tile of the operand.
    static MEMBER DirectReader of(Lds base, u32 first) {
        DirectReader reader;
        const u32 lane = lane_id(), row = lane / 16 * (2 * kReadRows) + lane % 16 / kRowLanes, byte = lane % kRowLanes * 8;
#pragma unroll
        for (u32 i = 0; i < kPlaces; i++) {
            const u32 tile = first + i, piece = tile % kPanelTiles * sizeof(In) + byte / 16;
            reader.at[i] = base + tile / kPanelTiles * kPanelBytes + row * kRowBytes + ((piece ^ turn(row)) << 4) + byte % 16;
        }
        return reader;
    }
    MEMBER void move(u32 bytes) {
#pragma unroll
        for (u32 i = 0; i < kPlaces; i++) at[i] += bytes;
    }
    /// Piece `i` of the wave's tile `TILE`, `kAt` bytes on.
    template <u32 kAt, u32 TILE> MEMBER u32x4 piece(u32 i) const {
        constexpr u32 kTile = kAt + TILE / RUN * kRunBytes + TILE % RUN / kPlaces * kPanelBytes;
        const Lds from = at[TILE % kPlaces] + (kTile + i * (8 * kReadRows * kRowBytes));
        const u32x2 low = read_transposed(from), high = read_transposed(from + kReadRows * kRowBytes);
        return u32x4{low.x, low.y, high.x, high.y};
    }
};
template <u32 RUN, u32 kRunBytes> struct DirectReader<false, RUN, kRunBytes> {
    Reader rows;
    static MEMBER DirectReader of(Lds base, u32 first) { return {Reader::of(base, first * MMA)}; }
    MEMBER void move(u32 bytes) { rows.move(bytes); }
    template <u32 kAt, u32 TILE> MEMBER u32x4 piece(u32 i) const { return rows.template piece<kAt + TILE * MMA * kRowBytes>(i); }
};

/// Tiles of B side by side, the next ones being those of `up`, and the bytes between both: only where waves have both in one half.
constexpr u32 kRunN = GATED && HALVES == 1 && B_TRANSPOSED ? kHalfN / 2 : kHalfN, kRunBytesN = kStageB / 2;
typedef DirectReader<A_TRANSPOSED, kHalfM, 0> ReaderA;
typedef DirectReader<B_TRANSPOSED, kRunN, kRunBytesN> ReaderB;

template <bool IS_INTEGER> struct SumType { typedef float Type; };
template <> struct SumType<true> { typedef i32 Type; };
typedef SumType<kIsInteger>::Type Sum;
DEVICE u32 sum_bits(Sum v) { return __builtin_bit_cast(u32, v); }

/// Sums of columns in memory's order to what the end of a product takes: in pairs of tiles, 16 lanes have four columns of
/// each and give the next 16 those of one for those of the other. See `lane_column`.
DEVICE void gather_columns(Acc (&acc)[kTilesM][kTilesN]) {
    if constexpr (kHasPlainColumns) {
#pragma unroll
        for (u32 i = 0; i < kTilesM; i++) {
#pragma unroll
            for (u32 j = 0; j < kTilesN; j += 2) {
#pragma unroll
                for (u32 r = 0; r < 4; r++) {
                    u32 even = sum_bits(acc[i][j][r]), odd = sum_bits(acc[i][j + 1][r]);
                    swap_rows(even, odd);
                    acc[i][j][r] = __builtin_bit_cast(Sum, even), acc[i][j + 1][r] = __builtin_bit_cast(Sum, odd);
                }
            }
        }
    }
}
