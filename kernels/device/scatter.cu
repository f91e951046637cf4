//! Updates put into a copy of a tensor at positions that indices name. An update is a slice of `inner` elements; slices of
//! the result are numbered likewise. Indices count from the end when negative; an update outside the tensor is left out.
//!
//! Of several updates of one place the last one stays: first each place learns the number of its last update, then that
//! one writes. Reductions combine in the updates' order: one thread does all updates that can meet.

#define SCATTER_ADD 1
#define SCATTER_MULTIPLY 2
#define SCATTER_MAX 3
#define SCATTER_MIN 4

struct ScatterParams {
    u32 total; // slices of updates
    u32 inner;
    u32 depth; // indices of a tuple; 0: one index for each element, along `axis`
    u32 is_wide;
    // Of tuples: sizes of the indexed axes, outermost first, and slices between neighbours along them. Of elements:
    // dimensions of the updates, innermost first, and elements of the result between neighbours.
    u32 dims[INDEX_RANK];
    u32 steps[INDEX_RANK];
    u32 rank, axis, size; // of elements: the axis counted from the innermost, its elements in the result
};

__device__ __forceinline__ i64 index_at(const void *indices, u32 is_wide, i64 at) {
    return is_wide ? ((const i64 *)indices)[at] : (i64)((const int *)indices)[at];
}

// The slice of the result that slice `at` of the updates belongs to; ~0 outside.
__device__ __forceinline__ u32 target_of(u32 at, const void *indices, const ScatterParams &p) {
    i64 to = 0;
    if (p.depth > 0) {
        for (u32 d = 0; d < p.depth; d++) {
            i64 index = index_at(indices, p.is_wide, (i64)at * p.depth + d);
            if (index < 0) index += p.dims[d];
            if (index < 0 || index >= p.dims[d]) return ~0u;
            to += index * p.steps[d];
        }
        return (u32)to;
    }
    u32 rest = at;
    for (u32 d = 0; d < p.rank; d++) {
        i64 position = rest % p.dims[d];
        rest /= p.dims[d];
        if (d == p.axis) {
            position = index_at(indices, p.is_wide, at);
            if (position < 0) position += p.size;
            if (position < 0 || position >= p.size) return ~0u;
        }
        to += position * p.steps[d];
    }
    return (u32)to;
}

extern "C" __global__ void __launch_bounds__(256)
    scatter_mark(void *marks, const void *indices, const __grid_constant__ ScatterParams p) {
    begin_kernel();
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= p.total) return;
    u32 to = target_of(at, indices, p);
    if (to != ~0u) atomic_max((u32 *)marks + to, at + 1);
}

template <class W>
__device__ __forceinline__ void scatter_write(W *out, const u32 *marks, const void *indices, const W *updates,
                                              const ScatterParams &p) {
    begin_kernel();
    u32 element = blockIdx.x * blockDim.x + threadIdx.x;
    if (element >= p.total * p.inner) return;
    u32 at = element / p.inner, to = target_of(at, indices, p);
    if (to != ~0u && marks[to] == at + 1) out[(i64)to * p.inner + element % p.inner] = updates[element];
}

template <class T> __device__ __forceinline__ T reduced(T a, T b, u32 op) {
    switch (op) {
    case SCATTER_ADD: return a + b;
    case SCATTER_MULTIPLY: return a * b;
    case SCATTER_MAX: return b > a || b != b ? b : a;
    default: return b < a || b != b ? b : a;
    }
}
__device__ __forceinline__ i64 reduced(i64 a, i64 b, u32 op) {
    switch (op) {
    case SCATTER_ADD: return (i64)((u64)a + (u64)b);
    case SCATTER_MULTIPLY: return (i64)((u64)a * (u64)b);
    case SCATTER_MAX: return b > a ? b : a;
    default: return b < a ? b : a;
    }
}

// Tuples: a thread an element of a slice, which takes all updates. Elements: a thread a line of the updates along the axis.
template <class S, class T>
__device__ __forceinline__ void scatter_reduce(S *out, const void *indices, const S *updates, const ScatterParams &p,
                                               u32 op) {
    begin_kernel();
    u32 thread = blockIdx.x * blockDim.x + threadIdx.x, first = 0, count = p.total, step = 1, column = thread;
    if (p.depth > 0) {
        if (thread >= p.inner) return;
    } else {
        count = p.dims[p.axis], column = 0;
        for (u32 d = 0; d < p.axis; d++) step *= p.dims[d];
        if (count == 0 || thread >= p.total / count) return;
        first = thread / step * step * count + thread % step;
    }
    for (u32 i = 0; i < count; i++) {
        u32 at = first + i * step, to = target_of(at, indices, p);
        if (to == ~0u) continue;
        S *place = out + (i64)to * p.inner + column;
        *place = Narrow<S>::from(reduced(widen<T>(*place), widen<T>(updates[(i64)at * p.inner + column]), op));
    }
}

struct TensorScatterParams {
    u32 total, row;             // elements of the update, and of a row behind the axis
    u32 length, capacity, rows; // rows of the update and of the cache along the axis; lines of them in a batch
    u32 is_circular;
};

// Rows of an update go into a cache behind the start of their batch.
template <class W>
__device__ __forceinline__ void tensor_scatter(W *cache, const W *update, const i64 *starts,
                                               const TensorScatterParams &p) {
    begin_kernel();
    u32 element = blockIdx.x * blockDim.x + threadIdx.x;
    if (element >= p.total) return;
    u32 column = element % p.row, line = element / p.row, outer = line / p.length;
    i64 at = (starts ? starts[outer / p.rows] : 0) + line % p.length;
    if (p.is_circular) at %= p.capacity;
    if (at >= 0 && at < p.capacity) cache[((i64)outer * p.capacity + at) * p.row + column] = update[element];
}

#define MOVE_KERNELS(BYTES, W)                                                                                 \
    extern "C" __global__ void __launch_bounds__(256)                                                          \
        scatter_write_b##BYTES(void *out, const void *marks, const void *indices, const void *updates,         \
                               const __grid_constant__ ScatterParams p) {                                      \
        scatter_write((W *)out, (const u32 *)marks, indices, (const W *)updates, p);                           \
    }                                                                                                          \
    extern "C" __global__ void __launch_bounds__(256) tensor_scatter_b##BYTES(                                 \
        void *cache, const void *update, const i64 *starts, const __grid_constant__ TensorScatterParams p) {   \
        tensor_scatter((W *)cache, (const W *)update, starts, p);                                              \
    }
#define REDUCE_KERNEL(SUFFIX, S, T)                                                                            \
    extern "C" __global__ void __launch_bounds__(256) scatter_reduce_##SUFFIX(                                 \
        void *out, const void *indices, const void *updates, const __grid_constant__ ScatterParams p, u32 op) { \
        scatter_reduce<S, T>((S *)out, indices, (const S *)updates, p, op);                                    \
    }

MOVE_KERNELS(1, u8)
MOVE_KERNELS(2, u16)
MOVE_KERNELS(4, u32)
MOVE_KERNELS(8, u64)
REDUCE_KERNEL(f32, float, float)
REDUCE_KERNEL(f16, f16, float)
REDUCE_KERNEL(bf16, bf16, float)
REDUCE_KERNEL(f64, double, double)
REDUCE_KERNEL(i64, i64, i64)
REDUCE_KERNEL(i32, int, i64)
REDUCE_KERNEL(i16, i16, i64)
REDUCE_KERNEL(i8, i8, i64)
REDUCE_KERNEL(u32, u32, i64)
REDUCE_KERNEL(u16, u16, i64)
REDUCE_KERNEL(u8, u8, i64)
REDUCE_KERNEL(bool, boolean, i64)
