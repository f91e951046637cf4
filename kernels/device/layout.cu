//! Moves elements without looking at them: strided copies, tiled transposes, gathers, fills.
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

// to[b][c][r] = from[b][r][c] through a tile in shared memory, so that both sides are touched in rows.
template <class W>
__device__ __forceinline__ void transpose_tiles(void *to, const void *from, u32 batch, u32 rows, u32 columns) {
    __shared__ W tile[32][33];
    for (u32 b = blockIdx.z; b < batch; b += gridDim.z) {
        const W *source = (const W *)from + (i64)b * rows * columns;
        W *target = (W *)to + (i64)b * rows * columns;
        u32 c = blockIdx.x * 32 + threadIdx.x;
        for (u32 i = threadIdx.y; i < 32; i += 8) {
            u32 r = blockIdx.y * 32 + i;
            if (r < rows && c < columns) tile[i][threadIdx.x] = source[(i64)r * columns + c];
        }
        __syncthreads();
        u32 r = blockIdx.y * 32 + threadIdx.x;
        for (u32 i = threadIdx.y; i < 32; i += 8) {
            u32 column = blockIdx.x * 32 + i;
            if (r < rows && column < columns) target[(i64)column * rows + r] = tile[threadIdx.x][i];
        }
        __syncthreads();
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
    extern "C" __global__ void __launch_bounds__(256)                                                              \
        transpose_b##BYTES(void *to, const void *from, u32 batch, u32 rows, u32 columns) {                         \
        transpose_tiles<W>(to, from, batch, rows, columns);                                                        \
    }                                                                                                              \
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
