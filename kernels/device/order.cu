//! Along one axis: running sums and products, the largest or smallest elements, division by a norm, the place of the
//! largest one. A line is what lies along the axis: elements `inner` apart.

#define SCAN_EACH 8        // elements of a thread of a running sum
#define ORDER_LIST 2048    // candidates that are sorted
#define TOP_K_THREADS 1024 // of a block at most

struct ScanParams {
    u32 lines, size, inner;
    u32 is_product, is_exclusive, is_reverse;
    u32 parts, part; // of a line; elements of one
};

template <class T> __device__ __forceinline__ T combine(T a, T b, bool is_product) { return is_product ? a * b : a + b; }
// Wrapping.
__device__ __forceinline__ i64 combine(i64 a, i64 b, bool is_product) {
    return (i64)(is_product ? (u64)a * (u64)b : (u64)a + (u64)b);
}

// A thread a line.
template <class S, class T> __device__ __forceinline__ void scan_lines(S *to, const S *from, const ScanParams &p) {
    begin_kernel();
    u32 line = blockIdx.x * blockDim.x + threadIdx.x;
    if (line >= p.lines) return;
    i64 base = (i64)(line / p.inner) * p.size * p.inner + line % p.inner;
    T total = p.is_product ? (T)1 : (T)0;
    i64 at = p.is_reverse ? base + (i64)(p.size - 1) * p.inner : base, step = p.is_reverse ? -(i64)p.inner : (i64)p.inner;
    _Pragma("unroll 4") for (u32 i = 0; i < p.size; i++, at += step) {
        T next = combine(total, widen<T>(from[at]), p.is_product);
        to[at] = Narrow<S>::from(p.is_exclusive ? total : next);
        total = next;
    }
}

// A part of a line: its total, where `to` is not written, or its running results behind those of the parts before it. A block
// a part, SCAN_EACH neighbours a thread.
template <bool WRITES, class S, class T>
__device__ __forceinline__ void scan_part(S *to, const S *from, T *totals, const ScanParams &p) {
    begin_kernel();
    __shared__ T space[256];
    auto joined = [&](T a, T b) { return combine(a, b, p.is_product); };
    u32 line = blockIdx.x / p.parts, part = blockIdx.x - line * p.parts;
    u32 begin = part * p.part, end = p.size - begin < p.part ? p.size : begin + p.part;
    i64 base = (i64)(line / p.inner) * p.size * p.inner + line % p.inner, step = p.inner;
    if (p.is_reverse) base += (p.size - 1) * step, step = -step;
    T unit = p.is_product ? (T)1 : (T)0, carry = unit;
    totals += (i64)line * p.parts;
    if (WRITES && part > 0) {
        for (u32 i = threadIdx.x; i < part; i += blockDim.x) carry = joined(carry, totals[i]);
        carry = over_row<256>(carry, space, joined);
    }
    for (u32 first = begin; first < end; first += 256 * SCAN_EACH) {
        T value[SCAN_EACH], own = unit;
        _Pragma("unroll") for (u32 j = 0; j < SCAN_EACH; j++) {
            u32 i = first + threadIdx.x * SCAN_EACH + j;
            value[j] = own = i < end ? joined(own, widen<T>(from[base + i * step])) : own;
        }
        if (!WRITES) {
            carry = joined(carry, own);
            continue;
        }
        __syncthreads();
        space[threadIdx.x] = own;
        _Pragma("unroll 1") for (u32 reach = 1; reach < 256; reach *= 2) {
            __syncthreads();
            T other = threadIdx.x >= reach ? space[threadIdx.x - reach] : unit;
            __syncthreads();
            space[threadIdx.x] = own = joined(other, own);
        }
        __syncthreads();
        T before = threadIdx.x > 0 ? joined(carry, space[threadIdx.x - 1]) : carry;
        carry = joined(carry, space[255]);
        _Pragma("unroll") for (u32 j = 0; j < SCAN_EACH; j++) {
            u32 i = first + threadIdx.x * SCAN_EACH + j;
            T next = joined(before, value[j]), last = j > 0 ? joined(before, value[j > 0 ? j - 1 : 0]) : before;
            if (i < end) to[base + i * step] = Narrow<S>::from(p.is_exclusive ? last : next);
        }
    }
    if (WRITES) return;
    carry = over_row<256>(carry, space, joined);
    if (threadIdx.x == 0) totals[part] = carry;
}

// Numbers that are ordered as elements are: both zeros are one, and NaN is above everything.
__device__ __forceinline__ u64 order_of(float v) {
    if (v != v) return ~0ull;
    u32 bits = v == 0.0f ? 0 : __float_as_uint(v);
    return (u64)(bits >> 31 ? ~bits : bits | 0x80000000u) << 32;
}
__device__ __forceinline__ u64 order_of(double v) {
    if (v != v) return ~0ull;
    u64 bits = v == 0.0 ? 0 : (u64)__double_as_longlong(v);
    return bits >> 63 ? ~bits : bits | 1ull << 63;
}
__device__ __forceinline__ u64 order_of(f16 v) { return order_of(widen<float>(v)); }
__device__ __forceinline__ u64 order_of(bf16 v) { return order_of(widen<float>(v)); }
__device__ __forceinline__ u64 order_of(u64 v) { return v; }
template <class S> __device__ __forceinline__ u64 order_of(S v) { return (u64)widen<i64>(v) ^ 1ull << 63; }

struct TopKParams {
    u32 size, inner, k, is_largest, dtype, bytes; // bytes of an element
};

// The bits of an element, and what they are ordered by.
__device__ __forceinline__ u64 element_bits(const void *from, i64 at, u32 bytes) {
    return bytes == 4   ? (u64)((const u32 *)from)[at]
           : bytes == 8 ? ((const u64 *)from)[at]
           : bytes == 2 ? (u64)((const u16 *)from)[at]
                        : (u64)((const u8 *)from)[at];
}
__device__ __forceinline__ u64 order_of_bits(u64 bits, u32 dtype) {
    switch (dtype) {
    case DTYPE_F32: return order_of(__uint_as_float((u32)bits));
    case DTYPE_F16: return order_of(f16{(u16)bits});
    case DTYPE_BF16: return order_of(bf16{(u16)bits});
    case DTYPE_F64: return order_of(__longlong_as_double((i64)bits));
    case DTYPE_I64: return order_of((i64)bits);
    case DTYPE_I32: return order_of((int)(u32)bits);
    case DTYPE_I16: return order_of((i16)(u16)bits);
    case DTYPE_I8: return order_of((i8)(u8)bits);
    }
    return bits;
}

struct TopKSpace {
    u64 keys[ORDER_LIST];
    u32 positions[ORDER_LIST];
    u32 count;
};

// Sorts the first n entries, the largest keys first and equal ones by position.
__device__ __forceinline__ void sort_entries(TopKSpace &space, u32 n) {
    u32 size = 2;
    while (size < n) size *= 2;
    for (u32 i = n + threadIdx.x; i < size; i += blockDim.x) space.keys[i] = 0, space.positions[i] = ~0u;
    for (u32 run = 2; run <= size; run *= 2)
        for (u32 step = run / 2; step > 0; step /= 2) {
            __syncthreads();
            for (u32 i = threadIdx.x; i < size / 2; i += blockDim.x) {
                u32 a = 2 * i - (i & (step - 1)), b = a + step;
                u64 first = space.keys[a], second = space.keys[b];
                u32 first_at = space.positions[a], second_at = space.positions[b];
                bool is_behind = first < second || (first == second && first_at > second_at);
                if (is_behind == ((a & run) == 0)) {
                    space.keys[a] = second, space.keys[b] = first;
                    space.positions[a] = second_at, space.positions[b] = first_at;
                }
            }
        }
    __syncthreads();
}

// The best k of a line: candidates are gathered until the list is full, which then keeps its best k; what is not better
// than the last of those is passed over. A block a line.
extern "C" __global__ void __launch_bounds__(TOP_K_THREADS)
    top_k(void *values, i64 *indices, const void *from, const __grid_constant__ TopKParams p) {
    begin_kernel();
    __shared__ TopKSpace space;
    u32 line = blockIdx.x;
    i64 base = (i64)(line / p.inner) * p.size * p.inner + line % p.inner;
    u64 bound = 0;
    bool is_bounded = false;
    if (threadIdx.x == 0) space.count = 0;
    __syncthreads();
    u32 tile = blockDim.x;
    u64 next = element_bits(from, base + (i64)(threadIdx.x < p.size ? threadIdx.x : 0) * p.inner, p.bytes);
    for (u32 begin = 0; begin < p.size; begin += tile) {
        u32 count = space.count, at = begin + threadIdx.x;
        u64 own = next;
        if (at + tile < p.size) next = element_bits(from, base + (i64)(at + tile) * p.inner, p.bytes);
        if (count + tile > ORDER_LIST) {
            sort_entries(space, count);
            is_bounded = true, bound = space.keys[p.k - 1];
            if (threadIdx.x == 0) space.count = p.k;
        }
        __syncthreads();
        u64 key = order_of_bits(own, p.dtype);
        if (!p.is_largest) key = ~key;
        if (at < p.size && (!is_bounded || key > bound)) {
            u32 slot = atomic_add(&space.count, 1);
            space.keys[slot] = key, space.positions[slot] = at;
        }
        __syncthreads();
    }
    sort_entries(space, space.count);
    i64 first = (i64)(line / p.inner) * p.k * p.inner + line % p.inner;
    for (u32 i = threadIdx.x; i < p.k; i += blockDim.x) {
        i64 to = first + (i64)i * p.inner;
        u32 position = space.positions[i];
        u64 bits = element_bits(from, base + (i64)position * p.inner, p.bytes);
        if (p.bytes == 4) ((u32 *)values)[to] = (u32)bits;
        else if (p.bytes == 8) ((u64 *)values)[to] = bits;
        else if (p.bytes == 2) ((u16 *)values)[to] = (u16)bits;
        else ((u8 *)values)[to] = (u8)bits;
        indices[to] = position;
    }
}

__device__ __forceinline__ float square_root(float v) { return sqrtf(v); }
__device__ __forceinline__ double square_root(double v) { return sqrt(v); }

// Division by the norm of order 1 or 2; a line of zeros stays as it is. A thread a line.
template <class S, class T>
__device__ __forceinline__ void normalize_lp(S *to, const S *from, u32 lines, u32 size, u32 inner, u32 order) {
    begin_kernel();
    u32 line = blockIdx.x * blockDim.x + threadIdx.x;
    if (line >= lines) return;
    i64 base = (i64)(line / inner) * size * inner + line % inner;
    T norm = 0;
    _Pragma("unroll 4") for (u32 i = 0; i < size; i++) {
        T v = widen<T>(from[base + (i64)i * inner]);
        norm += order == 1 ? (v < 0 ? -v : v) : v * v;
    }
    if (order == 2) norm = square_root(norm);
    _Pragma("unroll 2") for (u32 i = 0; i < size; i++) {
        i64 at = base + (i64)i * inner;
        to[at] = Narrow<S>::from(norm == 0 ? (T)0 : widen<T>(from[at]) / norm);
    }
}

// 1 at the first of the largest elements of a line, 0 elsewhere. A thread a line.
template <class S, class T>
__device__ __forceinline__ void hardmax(S *to, const S *from, u32 lines, u32 size, u32 inner) {
    begin_kernel();
    u32 line = blockIdx.x * blockDim.x + threadIdx.x;
    if (line >= lines) return;
    i64 base = (i64)(line / inner) * size * inner + line % inner;
    T best = widen<T>(from[base]);
    u32 place = 0;
    for (u32 i = 1; i < size; i++) {
        T v = widen<T>(from[base + (i64)i * inner]);
        if (v > best) best = v, place = i;
    }
    for (u32 i = 0; i < size; i++) to[base + (i64)i * inner] = Narrow<S>::from((T)(i == place ? 1 : 0));
}

#define SCAN_KERNELS(SUFFIX, S, T)                                                                           \
    extern "C" __global__ void __launch_bounds__(256)                                                        \
        scan_lines_##SUFFIX(void *to, const void *from, const __grid_constant__ ScanParams p) {              \
        scan_lines<S, T>((S *)to, (const S *)from, p);                                                       \
    }                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256)                                                        \
        scan_totals_##SUFFIX(const void *from, void *totals, const __grid_constant__ ScanParams p) {         \
        scan_part<false, S, T>((S *)0, (const S *)from, (T *)totals, p);                                     \
    }                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256)                                                        \
        scan_rows_##SUFFIX(void *to, const void *from, void *totals, const __grid_constant__ ScanParams p) { \
        scan_part<true, S, T>((S *)to, (const S *)from, (T *)totals, p);                                     \
    }
#define LINE_KERNELS(SUFFIX, S, T)                                                                           \
    extern "C" __global__ void __launch_bounds__(256)                                                        \
        normalize_lp_##SUFFIX(void *to, const void *from, u32 lines, u32 size, u32 inner, u32 order) {       \
        normalize_lp<S, T>((S *)to, (const S *)from, lines, size, inner, order);                             \
    }                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256)                                                        \
        hardmax_##SUFFIX(void *to, const void *from, u32 lines, u32 size, u32 inner) {                       \
        hardmax<S, T>((S *)to, (const S *)from, lines, size, inner);                                         \
    }

SCAN_KERNELS(f32, float, float)
SCAN_KERNELS(f16, f16, float)
SCAN_KERNELS(bf16, bf16, float)
SCAN_KERNELS(f64, double, double)
SCAN_KERNELS(i32, int, i64)
SCAN_KERNELS(i64, i64, i64)
SCAN_KERNELS(u32, u32, i64)
SCAN_KERNELS(u64, u64, i64)
LINE_KERNELS(f32, float, float)
LINE_KERNELS(f16, f16, float)
LINE_KERNELS(bf16, bf16, float)
LINE_KERNELS(f64, double, double)
