//! Moves elements without looking at them: strided copies, permutations through tiles, gathers, fills.
//!
//! Elements are opaque words of 1, 2, 4, 8 or 16 bytes; the planner picks the widest word that divides every run.

struct alignas(16) word16 {
    u64 low, high;
};

struct CopyParams {
    u32 total; // words of the result
    u32 rank;  // innermost first
    u32 dims[COPY_RANK];
    u32 magic[COPY_RANK];
    u32 shift[COPY_RANK];
    int from_strides[COPY_RANK];
    int to_strides[COPY_RANK];
    i64 from_offset;
    i64 to_offset;
};

template <class W> __device__ __forceinline__ void strided_copy(void *to, const void *from, const CopyParams &p) {
    begin_kernel();
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= p.total) return;
    i64 source = p.from_offset, target = p.to_offset;
    u32 rest = at;
    _Pragma("unroll") for (int d = 0; d < COPY_RANK; d++) {
        if (d >= p.rank) break;
        u32 position = rest;
        if (d + 1 < p.rank) {
            u32 quotient = __umulhi(rest, p.magic[d]) >> p.shift[d];
            position = rest - quotient * p.dims[d];
            rest = quotient;
        }
        source += (i64)position * p.from_strides[d];
        target += (i64)position * p.to_strides[d];
    }
    ((W *)to)[target] = ((const W *)from)[source];
}

// A permutation that exchanges which elements are neighbours: positions along `rows` are neighbours in the result,
// positions along `columns` in the source. Everything else is a batch.
struct PermuteParams {
    u32 rows, columns;
    u32 row_tiles, column_tiles;
    i64 from_row, to_column; // distances, in elements
    u32 batch_rank;          // innermost first
    u32 dims[PERMUTE_BATCH];
    i64 from_strides[PERMUTE_BATCH];
    i64 to_strides[PERMUTE_BATCH];
    i64 from_offset, to_offset;
};

// Through a tile of N x N elements in shared memory, so that both sides are touched in rows, P elements at a time.
//
//   read: a wave takes words of one row      tile [N][N + padding]      write: P elements of one column are a word
template <class W, int P, int N> __device__ __forceinline__ void permute_tiles(W *to, const W *from, const PermuteParams &p) {
    constexpr int WORDS = N / P, PITCH = N + (sizeof(W) < 4 ? 4 / (int)sizeof(W) : 1);
    __shared__ Pack<W, N * PITCH> space;
    W *tile = space.at;
    begin_kernel();
    u32 x = threadIdx.x % 32, y = threadIdx.x / 32;
    u32 column_tile = blockIdx.x % p.column_tiles, rest = blockIdx.x / p.column_tiles;
    u32 row_tile = rest % p.row_tiles, batch = rest / p.row_tiles;
    i64 source = p.from_offset, target = p.to_offset;
    for (u32 d = 0; d < p.batch_rank; d++) {
        u32 position = batch % p.dims[d];
        batch /= p.dims[d];
        source += position * p.from_strides[d];
        target += position * p.to_strides[d];
    }
    _Pragma("unroll") for (int i = 0; i < N / 8; i++) _Pragma("unroll") for (int word = 0; word < WORDS; word += 32) {
        u32 r = i * 8 + y, c = (word + x) * P, row = row_tile * N + r, column = column_tile * N + c;
        if (row < p.rows && column < p.columns)
            *(Pack<W, P> *)(tile + r * PITCH + c) = load_pack<W, P>(from + source + (i64)row * p.from_row + column);
    }
    __syncthreads();
    _Pragma("unroll") for (int i = 0; i < N / 8; i++) _Pragma("unroll") for (int word = 0; word < WORDS; word += 32) {
        u32 c = i * 8 + y, r = (word + x) * P, row = row_tile * N + r, column = column_tile * N + c;
        Pack<W, P> pack;
        _Pragma("unroll") for (int k = 0; k < P; k++) pack.at[k] = tile[(r + k) * PITCH + c];
        if (row < p.rows && column < p.columns) *(Pack<W, P> *)(to + target + (i64)column * p.to_column + row) = pack;
    }
}

// Bytes, where rows, columns and distances are multiples of 4: a thread turns squares of 4 x 4 bytes over in registers. Words
// of the tile lie [column][row / 4 ^ column / 4], so that neither side meets in a bank.
__device__ __forceinline__ void permute_bytes(u8 *to, const u8 *from, const PermuteParams &p) {
    constexpr u32 N = 128, WORDS = N / 4, SQUARES = N / 32;
    __shared__ u32 tile[N * WORDS];
    begin_kernel();
    u32 x = threadIdx.x % 32, y = threadIdx.x / 32;
    u32 column_tile = blockIdx.x % p.column_tiles, rest = blockIdx.x / p.column_tiles;
    u32 row_tile = rest % p.row_tiles, batch = rest / p.row_tiles;
    i64 source = p.from_offset, target = p.to_offset;
    for (u32 d = 0; d < p.batch_rank; d++) {
        u32 position = batch % p.dims[d];
        batch /= p.dims[d];
        source += position * p.from_strides[d];
        target += position * p.to_strides[d];
    }
    u32 words[SQUARES][4], column = column_tile * N + x * 4;
    _Pragma("unroll") for (u32 i = 0; i < SQUARES; i++) _Pragma("unroll") for (u32 k = 0; k < 4; k++) {
        u32 row = row_tile * N + (i * 8 + y) * 4 + k;
        words[i][k] = 0;
        if (row < p.rows && column < p.columns) words[i][k] = *(const u32 *)(from + source + (i64)row * p.from_row + column);
    }
    _Pragma("unroll") for (u32 i = 0; i < SQUARES; i++) _Pragma("unroll") for (u32 k = 0; k < 4; k++) {
        u32 turned = (words[i][0] >> k * 8 & 255) | (words[i][1] >> k * 8 & 255) << 8 |
                     (words[i][2] >> k * 8 & 255) << 16 | (words[i][3] >> k * 8 & 255) << 24;
        tile[(x * 4 + k) * WORDS + ((i * 8 + y) ^ x)] = turned;
    }
    __syncthreads();
    _Pragma("unroll") for (u32 i = 0; i < N / 8; i++) {
        u32 c = i * 8 + y, row = row_tile * N + x * 4, own = column_tile * N + c;
        if (row < p.rows && own < p.columns)
            *(u32 *)(to + target + (i64)own * p.to_column + row) = tile[c * WORDS + (x ^ c / 4)];
    }
}

// The index at `at`, counted from the end when negative and kept inside the axis.
__device__ __forceinline__ u32 index_at(const void *indices, u32 at, u32 is_wide, u32 axis) {
    i64 index = is_wide ? ((const i64 *)indices)[at] : (i64)((const int *)indices)[at];
    if (index < 0) index += axis;
    return index < 0 ? 0 : index >= axis ? axis - 1 : (u32)index;
}

// to[o][i][n] = from[o][indices[i]][n], in words.
template <class W>
__device__ __forceinline__ void gather_rows(void *to, const void *from, const void *indices, u32 is_wide, u32 outer,
                                            u32 axis, u32 count, u32 inner) {
    begin_kernel();
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= outer * count * inner) return;
    u32 n = at % inner, row = at / inner;
    u32 i = row % count, o = row / count;
    u32 index = index_at(indices, i, is_wide, axis);
    ((W *)to)[at] = ((const W *)from)[((i64)o * axis + index) * inner + n];
}

struct GatherElementsParams {
    u32 total;
    u32 rank;            // innermost first
    u32 dims[COPY_RANK]; // of the indices and the result
    int strides[COPY_RANK]; // of the data
    u32 axis;            // counted from the innermost
    u32 axis_dim;        // of the data
    u32 is_wide;
};

template <class W>
__device__ __forceinline__ void gather_elements(void *to, const void *from, const void *indices,
                                                const GatherElementsParams &p) {
    begin_kernel();
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= p.total) return;
    i64 source = 0;
    u32 rest = at;
    for (u32 d = 0; d < p.rank; d++) {
        u32 position = rest % p.dims[d];
        rest /= p.dims[d];
        if (d == p.axis) position = index_at(indices, at, p.is_wide, p.axis_dim);
        source += (i64)position * p.strides[d];
    }
    ((W *)to)[at] = ((const W *)from)[source];
}

template <class W> __device__ __forceinline__ void fill(void *to, u32 count, u64 bits) {
    begin_kernel();
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at < count) ((W *)to)[at] = (W)bits;
}

#define COPY_KERNELS(BYTES, W)                                                                                     \
    extern "C" __global__ void __launch_bounds__(256)                                                              \
        strided_copy_b##BYTES(void *to, const void *from, const __grid_constant__ CopyParams p) {                  \
        strided_copy<W>(to, from, p);                                                                              \
    }                                                                                                              \
    extern "C" __global__ void __launch_bounds__(256)                                                              \
        gather_rows_b##BYTES(void *to, const void *from, const void *indices, u32 is_wide, u32 outer, u32 axis,    \
                             u32 count, u32 inner) {                                                               \
        gather_rows<W>(to, from, indices, is_wide, outer, axis, count, inner);                                     \
    }

#define ELEMENT_KERNELS(BYTES, W)                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) gather_elements_b##BYTES(                                    \
        void *to, const void *from, const void *indices, const __grid_constant__ GatherElementsParams p) {         \
        gather_elements<W>(to, from, indices, p);                                                                  \
    }                                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) fill_b##BYTES(void *to, u32 count, i64 bits) {               \
        fill<W>(to, count, (u64)bits);                                                                             \
    }

COPY_KERNELS(1, u8)
COPY_KERNELS(2, u16)
COPY_KERNELS(4, u32)
COPY_KERNELS(8, u64)
COPY_KERNELS(16, word16)
ELEMENT_KERNELS(1, u8)
ELEMENT_KERNELS(2, u16)
ELEMENT_KERNELS(4, u32)
ELEMENT_KERNELS(8, u64)

#define PERMUTE_KERNEL(NAME, W, P, N)                                                                              \
    extern "C" __global__ void __launch_bounds__(256)                                                              \
        NAME(void *to, const void *from, const __grid_constant__ PermuteParams p) {                                \
        permute_tiles<W, P, N>((W *)to, (const W *)from, p);                                                       \
    }

PERMUTE_KERNEL(permute_b1, u8, 1, 64)
extern "C" __global__ void __launch_bounds__(256)
    permute_b1_x4(void *to, const void *from, const __grid_constant__ PermuteParams p) {
    permute_bytes((u8 *)to, (const u8 *)from, p);
}
PERMUTE_KERNEL(permute_b2, u16, 1, 64)
PERMUTE_KERNEL(permute_b2_x2, u16, 2, 64)
PERMUTE_KERNEL(permute_b4, u32, 1, 64)
PERMUTE_KERNEL(permute_b8, u64, 1, 32)
