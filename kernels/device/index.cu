//! Elements whose place follows from their index: mirrored padding, triangles, one-hot rows, reversed sequences, and
//! slices picked by tuples of indices. A thread an element; dimensions innermost first.

#define PAD_EDGE 0
#define PAD_REFLECT 1
#define PAD_WRAP 2

struct PadParams {
    u32 total;
    u32 rank;
    u32 mode; // PAD_*
    u32 output[INDEX_RANK], input[INDEX_RANK];
    int begin[INDEX_RANK]; // negative: cut
};

// The element of an axis of `size` that stands at `at`, which may lie outside.
__device__ __forceinline__ u32 padded_from(i64 at, u32 size, u32 mode) {
    if (mode == PAD_EDGE) return at < 0 ? 0 : at >= size ? size - 1 : (u32)at;
    i64 period = mode == PAD_WRAP ? (i64)size : size > 1 ? 2 * (i64)size - 2 : 1;
    at %= period;
    if (at < 0) at += period;
    return (u32)(at < size ? at : period - at);
}

template <class W> __device__ __forceinline__ void pad_mirrored(W *to, const W *from, const PadParams &p) {
    begin_kernel();
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= p.total) return;
    u32 rest = at;
    i64 source = 0, stride = 1;
    for (u32 d = 0; d < p.rank; d++) {
        i64 position = (i64)(rest % p.output[d]) - p.begin[d];
        rest /= p.output[d];
        source += padded_from(position, p.input[d], p.mode) * stride;
        stride *= p.input[d];
    }
    to[at] = from[source];
}

// The triangle of matrices [count][rows][columns] on one side of diagonal k, which belongs to both; zero elsewhere.
template <class W>
__device__ __forceinline__ void triangle(W *to, const W *from, u32 total, u32 rows, u32 columns, int diagonal,
                                         u32 is_upper) {
    begin_kernel();
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= total) return;
    i64 distance = (i64)(at % columns) - at / columns % rows;
    bool keeps = is_upper ? distance >= diagonal : distance <= diagonal;
    to[at] = keeps ? from[at] : (W)0;
}

// Matrices [rows][columns] of `value` on diagonal k and zero elsewhere.
template <class W> __device__ __forceinline__ void diagonal(W *to, u32 total, u32 columns, int k, u64 value) {
    begin_kernel();
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at < total) to[at] = (i64)(at % columns) - at / columns == k ? (W)value : (W)0;
}

// to[o][d][n] = values[indices[o][n] == d], indices counted from the end when negative. values: off, on.
template <class W, class I>
__device__ __forceinline__ void one_hot(W *to, const I *indices, const W *values, u32 total, u32 depth, u32 inner) {
    begin_kernel();
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= total) return;
    u32 n = at % inner, d = at / inner % depth, o = at / inner / depth;
    i64 index = widen<i64>(indices[(i64)o * inner + n]);
    if (index < 0) index += depth;
    to[at] = values[index == d];
}

// to[t][b] = from[lengths[b] - 1 - t][b] inside a sequence, from[t][b] behind it; rows of `inner` elements, time and
// batch at their strides.
template <class W>
__device__ __forceinline__ void reverse_sequence(W *to, const W *from, const i64 *lengths, u32 total, u32 inner,
                                                 u32 batch, u32 steps, u32 is_time_first) {
    begin_kernel();
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= total) return;
    u32 n = at % inner, row = at / inner;
    u32 b = is_time_first ? row % batch : row / steps, t = is_time_first ? row / batch : row % steps;
    i64 length = lengths[b];
    u32 source = t < length ? (u32)(length - 1 - t) : t;
    u32 place = is_time_first ? source * batch + b : b * steps + source;
    to[at] = from[(i64)place * inner + n];
}

struct GatherNdParams {
    u32 total, inner;      // elements of the result and of a slice
    u32 rows, slices;      // tuples of indices for one batch, elements of the data for one batch
    u32 depth;             // indices of a tuple
    u32 dims[INDEX_RANK];  // of the indexed axes, outermost first
    u32 steps[INDEX_RANK]; // elements between neighbours along them
};

template <class W>
__device__ __forceinline__ void gather_nd(W *to, const W *from, const i64 *indices, const GatherNdParams &p) {
    begin_kernel();
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= p.total) return;
    u32 row = at / p.inner;
    i64 source = (i64)(row / p.rows) * p.slices + at % p.inner;
    for (u32 d = 0; d < p.depth; d++) {
        i64 index = indices[(i64)row * p.depth + d];
        if (index < 0) index += p.dims[d];
        index = index < 0 ? 0 : index >= p.dims[d] ? p.dims[d] - 1 : index;
        source += index * p.steps[d];
    }
    to[at] = from[source];
}

#define INDEX_KERNELS(BYTES, W)                                                                                   \
    extern "C" __global__ void __launch_bounds__(256)                                                             \
        pad_mirrored_b##BYTES(void *to, const void *from, const __grid_constant__ PadParams p) {                  \
        pad_mirrored((W *)to, (const W *)from, p);                                                                \
    }                                                                                                             \
    extern "C" __global__ void __launch_bounds__(256) triangle_b##BYTES(                                          \
        void *to, const void *from, u32 total, u32 rows, u32 columns, int diagonal, u32 is_upper) {               \
        triangle((W *)to, (const W *)from, total, rows, columns, diagonal, is_upper);                             \
    }                                                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                             \
        diagonal_b##BYTES(void *to, u32 total, u32 columns, int k, u64 value) {                                   \
        diagonal((W *)to, total, columns, k, value);                                                              \
    }                                                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                             \
        one_hot_b##BYTES(void *to, const void *indices, const void *values, u32 type, u32 total, u32 depth, u32 inner) { \
        FOR_DTYPE(type, one_hot((W *)to, (const S *)indices, (const W *)values, total, depth, inner);)            \
    }                                                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                             \
        reverse_sequence_b##BYTES(void *to, const void *from, const i64 *lengths, u32 total, u32 inner, u32 batch, \
                                  u32 steps, u32 is_time_first) {                                                 \
        reverse_sequence((W *)to, (const W *)from, lengths, total, inner, batch, steps, is_time_first);           \
    }                                                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                             \
        gather_nd_b##BYTES(void *to, const void *from, const i64 *indices, const __grid_constant__ GatherNdParams p) { \
        gather_nd((W *)to, (const W *)from, indices, p);                                                          \
    }

INDEX_KERNELS(1, u8)
INDEX_KERNELS(2, u16)
INDEX_KERNELS(4, u32)
INDEX_KERNELS(8, u64)
