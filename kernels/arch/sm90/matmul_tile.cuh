//! Matrix product: a persistent, warp-specialised pipeline of bulk tensor copies and warpgroup matrix products.
//!
//! The matrix units compute tiles of R = P Q^T, P with R's rows and Q with R's columns. Plain: P is the operator's A, Q its
//! B, and R is D[m][n]. Swapped (SWAP 1): P is B (the weights), Q is A (few tokens), and R is transposed on its way to D,
//! so that a product with few rows still fills the 64 rows of a matrix instruction, with weights.
//!
//! Definitions from the planner (`kernels/src/gpu/matmul`): SYMBOL; IN and OUT, element types; BM x BN, the tile of R of a
//! block; STAGES of the ring, 128 bytes along K each; CLUSTER_M x CLUSTER_N blocks that share loads; CLUSTER_K blocks
//! that split the depth of one tile; WARPGROUPS that compute, BM / WARPGROUPS rows each; PANELS, buffers of each for the
//! way out; SWAP; P_TRANSPOSED, Q_TRANSPOSED, operands whose rows run along R's rows or columns; SHARED_BYTES.
//! GATED: the weights are two matrices, gate and up, and D = activation(A gate) (A up): a thread holds both sums of an
//! element, because a tile has as many rows (swapped) or columns of one as of the other. WEIGHT_BITS 4 or 8 (swapped): P is
//! records as `nbits.cuh` describes them, decoded into registers. WINDOWS (plain): Q is an image, channels last, and the copy
//! engine gathers the windows of a convolution.
//!
//! Shared memory, every part aligned to 1024 bytes:
//!   P      STAGES x BM rows of 128 bytes along K, swizzled; transposed: BM / 64 panels of one 128-byte row for each k
//!   Q      STAGES x BN rows, the same
//!   out    WARPGROUPS x PANELS panels that bulk stores read
//!   full, empty [STAGES], sum_full, sum_empty: barriers
//! Between the tiles of a split (CLUSTER_K > 1) the ring holds the f32 tile that its blocks read from each other.
//! Example: BM 128, BN 256, bf16, 4 stages, 2 panels: 64 K + 128 K + 32 K, and 1 K for the barriers.

/// A result only, whose bits are handled as those of f32.
struct I32 { typedef float Bits; };

typedef IN::Bits In;
typedef OUT::Bits Out;
/// How elements of D are packed in pairs; never run where D is f32.
template <class T> struct Pair { typedef T Type; };
template <> struct Pair<F32> { typedef BF16 Type; };
template <> struct Pair<I32> { typedef BF16 Type; };
typedef Pair<OUT>::Type Out2;
typedef Wgmma<BN, IN, P_TRANSPOSED, Q_TRANSPOSED> Mma;

/// Exact integer sums, which have no epilogue.
template <class T> constexpr bool is_integer() { return false; }
template <> constexpr bool is_integer<I32>() { return true; }
constexpr bool kIsInteger = is_integer<OUT>();
/// Of K in one bulk copy, of which packed weights have two in a stage.
constexpr u32 kRowBytes = 128;
constexpr bool kIsPacked = WEIGHT_BITS > 0;
constexpr u32 kHalves = kIsPacked ? 2 : 1;
constexpr u32 kDepth = kRowBytes / sizeof(In);
constexpr u32 kPeers = CLUSTER_M + CLUSTER_N - 1;
constexpr u32 kCluster = CLUSTER_M * CLUSTER_N * CLUSTER_K;
constexpr u32 kConsumers = WARPGROUPS * 128;
constexpr u32 kThreads = kConsumers + 128;
/// Two blocks share a multiprocessor where they fit, so that the next kernel's loads start under this one's end.
constexpr u32 kResident = 2 * (SHARED_BYTES + 1024) <= 233472 ? 2 : 1;
/// Weights of a product with few rows are read once, its activations by every block.
constexpr u64 kPCache = SWAP ? kCacheEvictFirst : kCacheNormal, kQCache = SWAP ? kCacheEvictLast : kCacheNormal;
/// Matrix instructions stacked along R's rows in one warpgroup.
constexpr u32 kStack = BM / (64 * WARPGROUPS);
/// A record with as many groups as it can have: 16-bit scales and a zero point for every 16 codes.
constexpr u32 kRecordBytes = 64 * 128 * WEIGHT_BITS / 8 + 64 * 8 * 3;
constexpr u32 kPBytes = kIsPacked ? BM / 64 * kRecordBytes : BM * kRowBytes;
constexpr u32 kQBytes = BN * kRowBytes * kHalves;

/// Rows (swapped) or columns of R that a tile takes from one of two weight matrices before it takes as many from the other.
constexpr u32 kPiece = SWAP ? kStack * 32 : BN / 2;
constexpr u32 kPPiece = GATED && SWAP ? kPiece : 0, kQPiece = GATED && !SWAP ? kPiece : 0;
/// What a tile is of D: matrix instructions of a warpgroup, columns, and rows of R.
constexpr u32 kOutStack = GATED && SWAP ? kStack / 2 : kStack;
constexpr u32 kOutCols = GATED && !SWAP ? BN / 2 : BN;
constexpr u32 kOutRows = GATED && SWAP ? BM / 2 : BM;

/// Elements of D along the rows of a panel: 128 bytes of them, or fewer where the tile's width is no multiple.
constexpr u32 panel_width() {
    u32 width = 128 / sizeof(Out);
    if (!SWAP) while (kOutCols % width) width /= 2;
    return width;
}
constexpr u32 kPanelWidth = panel_width();
constexpr u32 kPanelRowBytes = kPanelWidth * sizeof(Out);
constexpr u32 kPanelBytes = (SWAP ? BN : 64) * kPanelRowBytes;
/// Panels of one 64-row slab of R.
constexpr u32 kSlabPanels = (SWAP ? 64 : kOutCols) / kPanelWidth;
constexpr u32 kTilePanels = kOutStack * kSlabPanels;
constexpr u32 kOutBytes = CLUSTER_K > 1 ? 0 : WARPGROUPS * PANELS * kPanelBytes;

/// The split's f32 tile lies as D does; the padding spreads a warp's writes over all banks.
constexpr u32 kSumRows = SWAP ? BN : BM;
constexpr u32 kSumCols = SWAP ? BM : BN;
constexpr u32 kSumStride = kSumCols + (SWAP ? 4 : 8);

constexpr u32 kQOffset = (STAGES * kPBytes + 1023) / 1024 * 1024;
constexpr u32 kOutOffset = kQOffset + STAGES * kQBytes;
constexpr u32 kBarrierOffset = kOutOffset + kOutBytes;

static_assert(kBarrierOffset + 1024 == SHARED_BYTES, "the planner counts shared memory otherwise");
static_assert(BM % (64 * WARPGROUPS) == 0 && BN % (SWAP ? 8 : 16) == 0, "tile");
static_assert((2 * STAGES + 2) * 8 <= 1024, "barriers");
static_assert(CLUSTER_K == 1 || (kPeers == 1 && kSumRows * kSumStride * 4 <= kOutOffset), "split");
static_assert(kQOffset % 1024 == 0 && kOutOffset % 1024 == 0 && kPBytes % 512 == 0 && kQBytes % 512 == 0, "alignment");
static_assert(CLUSTER_K > 1 || kTilePanels % PANELS == 0, "panels");
static_assert(BM / CLUSTER_N % (P_TRANSPOSED ? 64 : 8) == 0 && BN / CLUSTER_M % (Q_TRANSPOSED ? 64 : 8) == 0, "shares");
static_assert(!kIsInteger || CLUSTER_K == 1, "parts are summed as f32");
static_assert(sizeof(In) == 2 || (!P_TRANSPOSED && !Q_TRANSPOSED), "only 16-bit operands can be transposed");
static_assert(!GATED || (CLUSTER_K == 1 && !kIsInteger && (!SWAP || kStack % 2 == 0)), "gated");
static_assert(!WINDOWS || (!SWAP && !GATED && !kIsPacked && kPeers == 1 && !P_TRANSPOSED && !Q_TRANSPOSED), "windows");
static_assert(!kIsPacked || (SWAP && !GATED && !P_TRANSPOSED && !Q_TRANSPOSED && CLUSTER_N == 1 && sizeof(In) == 2), "packed");

/// What one launch computes. `rows`, `cols`: extents of R; `depth_blocks`: ceil(K / kDepth).
struct Problem {
    i32 rows, cols;
    u32 depth_blocks, row_tiles, col_tiles, batches;
    /// Row tiles (of clusters) that are walked together.
    u32 group;
    /// Batches that share one matrix of P, of Q.
    u32 p_share, q_share;
    u32 flags;
    float alpha, beta;
    /// Distances in elements.
    i64 d_row, d_batch, residual_row, residual_batch;
};
constexpr u32 kActivationMask = 7, kRelu = 1, kGeluTanh = 2, kSilu = 3, kGelu = 4;
constexpr u32 kBiasF32 = 8, kPConstant = 16, kQConstant = 32, kStoreElements = 64, kLaunchEarly = 128;
/// The bias is along D's rows; the residual is added before the activation.
constexpr u32 kBiasRows = 256, kResidualFirst = 512;

/// Windows over images, whose positions are R's columns: a row of Q is one window, tap after tap, `channel_blocks` blocks
/// of depth each.
struct Window {
    u32 out_width, kernel_width, channel_blocks;
    i32 step_x, step_y, first_x, first_y;
    u32 dilation_x, dilation_y;
};

/// Operands of the epilogue; each may be NULL.
struct Epilogue {
    const void* bias;
    const Out* residual;
    const float* m_scale;
    const float* n_scale;
};

/// Records: `slabs` of 64 rows, each `depth_blocks` of `record_bytes` with `groups` scales for a row.
struct Packed {
    u32 slabs, record_bytes, groups, has_zeros;
};

#if WEIGHT_BITS
#define P_PARAMETER const u8* p_source
#define PACKED_PARAMETER , const __grid_constant__ Packed packed
#else
#define P_PARAMETER const __grid_constant__ TensorMap p_source
#define PACKED_PARAMETER
#endif
#if GATED
#define UP_PARAMETER , const __grid_constant__ TensorMap up_map
#else
#define UP_PARAMETER
#endif
#if WINDOWS
#define WINDOW_PARAMETER , const __grid_constant__ Window window
#else
#define WINDOW_PARAMETER
#endif

struct Tile {
    i32 row, col, batch;
};

struct Place {
    u32 rank, m, n, k;
};

DEVICE Place place() {
    const u32 rank = kCluster > 1 ? cluster_rank() : 0;
    return {rank, rank % CLUSTER_M, rank / CLUSTER_M % CLUSTER_N, rank / (CLUSTER_M * CLUSTER_N)};
}

/// First element of R that a block computes in cluster tile `index`.
DEVICE Tile tile_at(const Problem& p, const Place& at, u32 index) {
    const u32 plane = p.row_tiles * p.col_tiles, batch = index / plane;
    index -= batch * plane;
    const u32 span = p.group * p.col_tiles, strip = index / span, first = strip * p.group;
    const u32 height = min(p.row_tiles - first, p.group), inside = index - strip * span;
    const u32 col = inside / height, row = first + inside - col * height;
    return {(i32)((row * CLUSTER_M + at.m) * kOutRows), (i32)((col * CLUSTER_N + at.n) * kOutCols), (i32)batch};
}

DEVICE u32 depth_begin(const Problem& p, u32 part) { return p.depth_blocks * part / CLUSTER_K; }
