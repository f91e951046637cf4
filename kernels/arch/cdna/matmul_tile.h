//! Matrix product on CDNA: what its main loops share: the problem, the order of tiles, operands in memory and in LDS.
//!
//! A workgroup computes a tile of D = A B in BM x BN, K in steps of 128 bytes. Waves lie WAVES_M x WAVES_N over the tile, or,
//! where HALVES is 2, over each of its four quadrants. Columns are the rows of the matrix units' results (they compute
//! D transposed), so a lane holds neighbours along D's rows.
//!
//! Definitions from the planner (`kernels/src/gpu/matmul/mfma`): SYMBOL; IN and OUT, element types; BM, BN, WAVES_M, WAVES_N;
//! MMA, rows and columns of a matrix instruction; STAGES of LDS; HALVES; A_TRANSPOSED, B_TRANSPOSED: rows of the operand
//! in memory run along M or N and not along K; DIRECT: operands go straight from memory into LDS; SWIZZLE_SHIFT;
//! SHARED_BYTES; GATED: two matrices of B's shape are multiplied, `b`, the gate, and `up`, and a tile has BN / 2 columns of D.
//!
//! LDS holds an operand's tile as rows of 128 bytes along K, eight pieces of 16 bytes (one that goes straight there and is
//! transposed lies as `matmul_direct.h` says). Row r has piece p at place
//! p ^ (r >> SWIZZLE_SHIFT & 7), so that neither writes of rows nor reads of columns meet in a bank:
//!
//!   row 0   0 1 2 3 4 5 6 7          A   STAGES x BM rows, from 0
//!   row 1   0 1 2 3 4 5 6 7          B   STAGES x BN rows, behind; those of 32 columns in the order of `column_of`
//!   row 2   1 0 3 2 5 4 7 6   (SWIZZLE_SHIFT 1)

typedef IN::Bits In;
typedef OUT::Bits Out;
typedef Mma<IN, MMA> Product;
typedef Product::Acc Acc;

/// Whether a type is I32, the exact sums of integers, which have no epilogue.
template <class T> constexpr bool is_integer() { return false; }
template <> constexpr bool is_integer<I32>() { return true; }
constexpr bool kIsInteger = is_integer<OUT>();
/// By which products are too small because of the encoding of their operands.
template <class T> constexpr float input_scale() { return 1.f; }
template <> constexpr float input_scale<E4M3>() { return kE4M3Scale; }
constexpr float kInputScale = input_scale<IN>();

constexpr u32 kRowBytes = 128;
constexpr u32 kDepth = kRowBytes / sizeof(In);
constexpr u32 kWaves = WAVES_M * WAVES_N;
constexpr u32 kThreads = kWaves * 64;
/// Lanes along K of a matrix instruction, and pieces of a row that a lane reads.
constexpr u32 kLanesK = 64 / MMA;
constexpr u32 kRowPieces = 8 / kLanesK;
constexpr u32 kPieces = Product::kPieces;
/// Matrix instructions' worth of K in a step.
constexpr u32 kSteps = kRowPieces / kPieces;
/// Tiles of a wave in one half, and altogether.
constexpr u32 kHalfM = BM / HALVES / WAVES_M / MMA, kHalfN = BN / HALVES / WAVES_N / MMA;
constexpr u32 kTilesM = kHalfM * HALVES, kTilesN = kHalfN * HALVES;
constexpr u32 kStageA = BM * kRowBytes, kStageB = BN * kRowBytes;
constexpr u32 kOffsetB = STAGES * kStageA;

static_assert(kHalfM * MMA * WAVES_M * HALVES == BM && kHalfN * MMA * WAVES_N * HALVES == BN, "whole tiles");
static_assert(BN / HALVES / WAVES_N % 32 == 0, "a lane's columns come in eights");
static_assert(MMA == 16 || MMA == 32, "matrix instructions");

constexpr bool kHasTransposed = A_TRANSPOSED || B_TRANSPOSED;
/// Columns of B lie in LDS, and in the matrix units' results, as they lie in memory, and not as `column_of` says.
constexpr bool kHasPlainColumns = DIRECT && B_TRANSPOSED;

/// What one launch computes. Strides in elements.
struct Problem {
    i32 m, n, k;
    u32 row_tiles, col_tiles, batches;
    /// Row tiles that are walked together.
    u32 group;
    /// Dies that workgroups are dealt to in turn, and neighbours in the walk that one die gets; 0: as they come.
    u32 dies, chunk;
    /// Parts of K, each computed by a workgroup of its own.
    u32 splits;
    /// Batches that share one matrix of A, of B.
    u32 a_share, b_share;
    u32 flags;
    float alpha, beta;
    i64 a_row, a_batch, b_row, b_batch, d_row, d_batch, residual_row, residual_batch;
};
constexpr u32 kActivationMask = 7, kRelu = 1, kGeluTanh = 2, kSilu = 3, kGelu = 4;
/// The bias is f32; N is a multiple of 8, and rows of D, of the residual lie at multiples of 16 bytes.
constexpr u32 kBiasF32 = 8, kAlignedD = 16, kAlignedResidual = 32;

/// Operands of the end of a product; each but D may be NULL.
struct Epilogue {
    Out* d;
    const void* bias;
    const Out* residual;
    const float* m_scale;
    const float* n_scale;
};

/// Bytes from a gate to what it lets through.
DEVICE u64 shift_between(const In* gate, const In* up) {
    const u64 bytes = (u64)up - (u64)gate;
    return GATED ? (u64)uniform((u32)bytes) | (u64)uniform((u32)(bytes >> 32)) << 32 : 0;
}

/// Declares the kernel. `a_blocks` and `b_blocks`: scales of blocks, see `matmul_blocks.h`. `parts` and `arrivals`: where workgroups that share a tile meet, see `add_parts`.
#define KERNEL_ARGUMENTS                                                                                        \
    void SYMBOL(const In* a, const In* b, Out* d, const void* bias, const Out* residual, const float* m_scale,   \
                const float* n_scale, const u8* a_blocks, const u8* b_blocks, const In* up, f32x4* parts,       \
                u32* arrivals, Problem problem)

/// Columns of D in a tile. The rows of B's tile in LDS are those of the gate and those of what it lets through: halves of
/// the tile where HALVES is 2, else groups of 32 in turn, so that a wave has both for the same columns.
constexpr u32 kColumns = GATED ? BN / 2 : BN;
static_assert(!GATED || (MMA == 16 && !kIsInteger && (HALVES == 2 || BN / WAVES_N % 64 == 0)), "a wave has both of each column");

struct Tile {
    /// Number in the launch without splits; first row and column; first and end of K in steps.
    u32 number;
    i32 row, col;
    u32 batch, split, first, end;
};

DEVICE u32 step_of(const Problem& p, u32 split) {
    const u32 steps = ((u32)p.k + kDepth - 1) / kDepth;
    return (u32)((u64)steps * split / p.splits);
}

/// The tile of a workgroup. Dies are dealt workgroups in turn: each gets runs of neighbours, which share what its cache holds.
DEVICE Tile tile_at(const Problem& p, u32 id) {
    const u32 plane = p.row_tiles * p.col_tiles * p.splits;
    if (p.chunk != 0) {
        const u32 round = p.dies * p.chunk;
        if (id < plane * p.batches / round * round) {
            const u32 die = id % p.dies, local = id / p.dies;
            id = local / p.chunk * round + die * p.chunk + local % p.chunk;
        }
    }
    const u32 number = id / p.splits, split = id - number * p.splits;
    const u32 tiles = p.row_tiles * p.col_tiles, batch = number / tiles, inside = number - batch * tiles;
    const u32 span = p.group * p.col_tiles, strip = inside / span, first = strip * p.group;
    const u32 height = min(p.row_tiles - first, p.group), at = inside - strip * span;
    const u32 col = at / height, row = first + at - col * height;
    // Quotients are computed in lanes' registers; loops count with them, and descriptors are made of them.
    return {scalar(number), (i32)scalar(row * BM), (i32)scalar(col * kColumns), scalar(batch), scalar(split),
            scalar(step_of(p, split)), scalar(step_of(p, split + 1))};
}

// ---- Operands ---------------------------------------------------------------------------------------------------

/// Where row `row` has piece `piece` of 16 bytes.
DEVICE u32 place(u32 row, u32 piece) { return row * kRowBytes + ((piece ^ (row >> SWIZZLE_SHIFT & 7)) << 4); }

/// Column of the tile that LDS row `row` of B holds. A lane's registers then are eight neighbours: bits of the rows of a
/// matrix result are permuted, inside 32 columns.
DEVICE u32 column_of(u32 row) {
    if (MMA == 16) return (row & ~31u) | (row >> 2 & 3) << 3 | (row >> 4 & 1) << 2 | (row & 3);
    return (row & ~15u) | (row >> 2 & 1) << 3 | (row >> 3 & 1) << 2 | (row & 3);
}

/// Column of D's tile that LDS row `row` of B belongs to, and whether it is a row of `up`.
DEVICE u32 column_at(u32 row) {
    if (!GATED) return column_of(row);
    return HALVES == 2 ? column_of(row % (BN / 2)) : row / 64 * 32 + column_of(row % 32);
}
DEVICE bool is_up(u32 row) { return GATED && (HALVES == 2 ? row >= BN / 2 : row / 32 % 2); }

/// Where a lane reads its pieces of an operand: of LDS row `first` + lane % MMA.
struct Reader {
    Lds at[kRowPieces];
    static MEMBER Reader of(Lds base, u32 first) {
        Reader reader;
        const u32 lane = lane_id(), row = first + lane % MMA;
#pragma unroll
        for (u32 i = 0; i < kRowPieces; i++) reader.at[i] = base + place(row, i * kLanesK + lane / MMA);
        return reader;
    }
    MEMBER void move(u32 bytes) {
#pragma unroll
        for (u32 i = 0; i < kRowPieces; i++) at[i] += bytes;
    }
    /// Piece `i` of the row `kAt` bytes on.
    template <u32 kAt> MEMBER u32x4 piece(u32 i) const { return *(LOCAL const u32x4*)(at[i] + kAt); }
};

/// The first `bytes` of a piece, the rest 0.
DEVICE u32x4 first_bytes(u32x4 piece, i32 bytes) {
#pragma unroll
    for (i32 i = 0; i < 4; i++) {
        const i32 behind = min(max(32 - 8 * (bytes - 4 * i), 0), 32);
        piece[i] &= (u32)(0xffffffffull >> behind);
    }
    return piece;
}

/// The pieces of a lane that lie in front of the end of K, of which `left` bytes are in this step.
DEVICE u32x4 in_depth(u32x4 piece, u32 i, i32 left) {
    return first_bytes(piece, left - (i32)(i * kLanesK + lane_id() / MMA) * 16);
}

/// Bytes to an operand's end: rows along K are seen from a tile's first one on, all of K's rows from the first one on.
template <bool TRANSPOSED> struct Extent { typedef u32 Bytes; };
template <> struct Extent<true> { typedef u64 Bytes; };

/// An operand in memory as a buffer that moves along K, over rows (with K along them) or, `TRANSPOSED`, over rows along M
/// or N. `LOADS`: loads of 16 bytes a lane for one step.
template <u32 LOADS, bool TRANSPOSED = false> struct Stream {
    typedef typename Extent<TRANSPOSED>::Bytes Bytes;
    static constexpr u32 kMost = 0xfffffff0;
    u64 base;
    /// Bytes from the base to the operand's end, and those that loads may see.
    Bytes records;
    u32 valid;
    /// Steps not yet loaded, the current one included; behind the last one loads give 0 and cost no memory.
    i32 left;
    u32 step_bytes;
    u32 offsets[LOADS];

    /// `extent`: of M or N from `first` on.
    MEMBER void start(const In* matrix, u64 first, i64 row_stride, i32 extent, i32 k, const Tile& tile) {
        const u64 stride = (u64)row_stride * sizeof(In);
        const u64 skip = TRANSPOSED ? first * sizeof(In) + tile.first * kDepth * stride
                                    : first * stride + tile.first * kRowBytes;
        const u64 rows = TRANSPOSED ? k : (u32)extent, columns = TRANSPOSED ? (u32)extent : k;
        const u64 all = (rows - 1) * stride + columns * sizeof(In) - tile.first * (TRANSPOSED ? kDepth * stride : kRowBytes);
        const u64 words = (all + 3) & ~(u64)3;
        if constexpr (TRANSPOSED) records = same_in_lanes(words);
        else records = uniform(words > kMost ? kMost : (u32)words);
        step_bytes = TRANSPOSED ? uniform((u32)(kDepth * stride)) : kRowBytes;
        left = (i32)(tile.end - tile.first);
        base = same_in_lanes((u64)matrix + skip);
        see();
    }
    static MEMBER u64 same_in_lanes(u64 v) { return (u64)uniform((u32)v) | (u64)uniform((u32)(v >> 32)) << 32; }
    MEMBER void see() {
        u32 seen = (u32)records;
        if constexpr (TRANSPOSED) seen = records >> 32 != 0 ? kMost : seen;
        valid = left > 0 ? seen : 0;
    }
    /// Put together where it is used: as one value the compiler may keep it where loads cannot read it.
    /// `shift`: bytes from the matrix to another of its shape.
    MEMBER u32x4 descriptor(u64 shift = 0) const { return buffer_descriptor(base + shift, valid); }

    /// To the next step.
    MEMBER void advance() {
        base += step_bytes;
        records -= step_bytes;
        left--;
        see();
    }
};

template <class T> DEVICE void clear(T (&acc)[kTilesM][kTilesN]) {
#pragma unroll
    for (u32 i = 0; i < kTilesM; i++) {
#pragma unroll
        for (u32 j = 0; j < kTilesN; j++) acc[i][j] = (T)0;
    }
}

/// Steps of a tile that lie in front of the end of K, and the bytes along K of the one that does not, or 0.
DEVICE i32 rest_bytes(const Problem& p, const Tile& tile) {
    return tile.split == p.splits - 1 ? (i32)((u32)p.k % kDepth * sizeof(In)) : 0;
}
DEVICE u32 whole_steps(const Problem& p, const Tile& tile) { return tile.end - tile.first - (rest_bytes(p, tile) > 0); }

/// A piece as the matrix units take it.
template <class T> DEVICE u32x4 native(u32x4 piece) { return piece; }
template <> __device__ __forceinline__ u32x4 native<E4M3>(u32x4 piece) { return to_native_e4m3(piece); }
