//! Matrix product: a multistage pipeline of asynchronous copies and warp matrix products.
//!
//! A block computes a BM x BN tile of D[m][n] = A B in WARPS_M x WARPS_N warps. Definitions from the planner
//! (`kernels/src/gpu/matmul/mma_sync`): SYMBOL; IN and OUT, element types; BM, BN; STAGES of the ring, 128 bytes along K
//! each; WARPS_M, WARPS_N; A_TRANSPOSED (A is k x m), B_TRANSPOSED (B is k x n), 16-bit types; SPLIT: parts of the depth
//! along the grid's z, whose f32 sums go to a workspace; SHARED_BYTES.
//!
//! Shared memory: STAGES x (tile of A, tile of B). A tile: a row of 128 bytes along K for each row, or, transposed, for each
//! panel of 64 rows a row of 128 bytes for each k. The 16-byte piece c of row r lies at c ^ (r & 7). The end of a tile
//! takes the ring: rows of BN sums and 16 bytes.

/// A result only.
struct I32 { typedef i32 Bits; };

typedef IN::Bits In;
typedef OUT::Bits Out;
/// How elements of D are packed in pairs; never run where D has 32 bits.
template <class T> struct Pair { typedef T Type; };
template <> struct Pair<F32> { typedef BF16 Type; };
template <> struct Pair<I32> { typedef BF16 Type; };
typedef Pair<OUT>::Type Out2;
template <class T> struct Accumulator { typedef float Type; };
template <> struct Accumulator<S8> { typedef i32 Type; };
typedef Accumulator<IN>::Type Acc;
template <class T> constexpr bool kIsSum = false;
template <> constexpr bool kIsSum<I32> = true;

constexpr u32 kRowBytes = 128, kDepth = kRowBytes / sizeof(In), kPiece = 16 / sizeof(In);
constexpr u32 kThreads = WARPS_M * WARPS_N * 32;
constexpr u32 kWarpM = BM / WARPS_M, kWarpN = BN / WARPS_N;
constexpr u32 kTilesM = kWarpM / 16, kTilesN = kWarpN / 8;
constexpr u32 kABytes = BM * kRowBytes, kStageBytes = (BM + BN) * kRowBytes;
constexpr u32 kSumRow = BN * 4 + 16;
constexpr u32 kResident = 2 * (SHARED_BYTES + 1024) <= 166912 && kThreads <= 128 ? 2 : 1;

static_assert(kWarpM % 16 == 0 && kWarpN % 16 == 0, "warps take whole matrix instructions");
static_assert((BM * 8) % kThreads == 0 && (BN * 8) % kThreads == 0 && kThreads % 64 == 0, "threads copy as many pieces each");
static_assert((!A_TRANSPOSED && !B_TRANSPOSED) || kDepth % (kThreads / 8) == 0, "a thread stays at its k of a panel");
static_assert(!A_TRANSPOSED || BM % 64 == 0, "panels");
static_assert(!B_TRANSPOSED || BN % 64 == 0, "panels");
static_assert(sizeof(In) == 2 || (!A_TRANSPOSED && !B_TRANSPOSED), "only 16-bit operands can be transposed");
static_assert(SHARED_BYTES == STAGES * kStageBytes && BM * kSumRow <= SHARED_BYTES, "shared memory");

/// What one launch computes. Distances in elements.
struct Problem {
    i32 m, n, k;
    u32 row_tiles, col_tiles;
    /// Row tiles that are walked together.
    u32 group;
    /// Stages of depth in a part of the split.
    u32 part_blocks;
    u32 batches, a_share, b_share;
    u32 flags;
    float alpha, beta;
    u32 reserved;
    i64 a_row, a_batch, b_row, b_batch, d_row, d_batch, residual_row, residual_batch;
};
constexpr u32 kBiasF32 = 8, kStoreElements = 64, kPartial = 256;

/// Operands of the epilogue; each may be NULL.
struct Epilogue {
    const void* bias;
    const Out* residual;
    const float* m_scale;
    const float* n_scale;
};

/// A block's first element of D, and a warp's in the tile.
struct Tile {
    i32 row, col, batch;
    u32 warp_row, warp_col;
};
