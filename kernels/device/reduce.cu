//! Reductions over any set of axes, and the positions of extremes.
//!
//! The input is seen as kept dimensions times reduced dimensions, each with strides. Either a block computes one output
//! (reduced elements are neighbours) or a thread does (outputs are neighbours).

struct ReduceParams {
    u32 outputs;
    u32 count; // elements that one output is made of
    u32 kept_rank, reduced_rank;        // innermost first
    u32 kept_dims[REDUCE_RANK];
    int kept_strides[REDUCE_RANK];
    u32 reduced_dims[REDUCE_RANK];
    int reduced_strides[REDUCE_RANK];
    u32 op; // REDUCE_*
    u32 dtype, out_dtype;
    u32 is_last; // positions: the last of equals
};

__device__ __forceinline__ i64 strided_offset(u32 at, u32 rank, const u32 *dims, const int *strides) {
    i64 offset = 0;
    for (u32 d = 0; d < rank; d++) {
        u32 quotient = d + 1 < rank ? at / dims[d] : 0;
        offset += (i64)(at - quotient * dims[d]) * strides[d];
        at = quotient;
    }
    return offset;
}

__device__ __forceinline__ float r_abs(float x) { return fabsf(x); }
__device__ __forceinline__ double r_abs(double x) { return fabs(x); }
__device__ __forceinline__ i64 r_abs(i64 x) { return x < 0 ? -x : x; }
__device__ __forceinline__ float r_exp(float x) { return expf(x); }
__device__ __forceinline__ double r_exp(double x) { return exp(x); }
__device__ __forceinline__ float r_log(float x) { return logf(x); }
__device__ __forceinline__ double r_log(double x) { return log(x); }
__device__ __forceinline__ float r_sqrt(float x) { return sqrtf(x); }
__device__ __forceinline__ double r_sqrt(double x) { return sqrt(x); }
__device__ __forceinline__ i64 r_exp(i64) { return 0; }
__device__ __forceinline__ i64 r_log(i64 x) { return (i64)log((double)x); }
__device__ __forceinline__ i64 r_sqrt(i64 x) { return (i64)sqrt((double)x); }

template <class T> struct Infinity;
template <> struct Infinity<float> {
    static __device__ float value() { return __uint_as_float(0x7f800000u); }
};
template <> struct Infinity<double> {
    static __device__ double value() { return __longlong_as_double(0x7ff0000000000000ll); }
};
template <> struct Infinity<i64> {
    static __device__ i64 value() { return 0x7fffffffffffffffll; }
};

// The state of a reduction: `m` is used by log-sum-exp alone.
template <class T> struct State {
    T s, m;
};

template <class T> __device__ __forceinline__ State<T> start(u32 op) {
    if (op == REDUCE_MAX) return {-Infinity<T>::value(), (T)0};
    if (op == REDUCE_MIN) return {Infinity<T>::value(), (T)0};
    if (op == REDUCE_PRODUCT) return {(T)1, (T)0};
    if (op == REDUCE_LOG_SUM_EXP) return {(T)0, -Infinity<T>::value()};
    return {(T)0, (T)0};
}

template <class T> __device__ __forceinline__ State<T> merge(u32 op, State<T> a, State<T> b) {
    switch (op) {
    case REDUCE_MAX: return {a.s > b.s || a.s != a.s ? a.s : b.s, (T)0};
    case REDUCE_MIN: return {a.s < b.s || a.s != a.s ? a.s : b.s, (T)0};
    case REDUCE_PRODUCT: return {a.s * b.s, (T)0};
    case REDUCE_LOG_SUM_EXP: {
        T m = a.m > b.m ? a.m : b.m;
        if (m == -Infinity<T>::value()) return {(T)0, m};
        T left = a.m == m ? a.s : a.s * r_exp(a.m - m);
        T right = b.m == m ? b.s : b.s * r_exp(b.m - m);
        return {left + right, m};
    }
    default: return {a.s + b.s, (T)0};
    }
}

template <class T> __device__ __forceinline__ State<T> element(u32 op, T x) {
    switch (op) {
    case REDUCE_SUM_SQUARE:
    case REDUCE_L2: return {x * x, (T)0};
    case REDUCE_L1: return {r_abs(x), (T)0};
    case REDUCE_LOG_SUM_EXP: return {(T)1, x};
    default: return {x, (T)0};
    }
}

template <class T> __device__ __forceinline__ T finish(u32 op, State<T> a, u32 count) {
    switch (op) {
    case REDUCE_MEAN: return a.s / (T)count;
    case REDUCE_L2: return r_sqrt(a.s);
    case REDUCE_LOG_SUM: return r_log(a.s);
    case REDUCE_LOG_SUM_EXP: return a.m == -Infinity<T>::value() ? a.m : r_log(a.s) + a.m;
    default: return a.s;
    }
}

template <class T>
__device__ __forceinline__ T load_as(const void *from, i64 offset, u32 dtype) {
    T value = (T)0;
    FOR_DTYPE(dtype, value = widen<T>(((const S *)from)[offset]);)
    return value;
}

template <class T> __device__ __forceinline__ void store_as(void *to, i64 offset, u32 dtype, T value) {
    FOR_DTYPE(dtype, ((S *)to)[offset] = Narrow<S>::from(value);)
}

// A block of 256 threads an output.
template <class T> __device__ __forceinline__ void reduce_by_block(void *to, const void *from, const ReduceParams &p) {
    __shared__ T sums[256];
    __shared__ T maxima[256];
    u32 output = blockIdx.x;
    i64 base = strided_offset(output, p.kept_rank, p.kept_dims, p.kept_strides);
    State<T> state = start<T>(p.op);
    for (u32 i = threadIdx.x; i < p.count; i += 256) {
        i64 offset = base + strided_offset(i, p.reduced_rank, p.reduced_dims, p.reduced_strides);
        state = merge(p.op, state, element(p.op, load_as<T>(from, offset, p.dtype)));
    }
    sums[threadIdx.x] = state.s;
    maxima[threadIdx.x] = state.m;
    for (u32 half = 128; half > 0; half >>= 1) {
        __syncthreads();
        if (threadIdx.x < half) {
            State<T> a = {sums[threadIdx.x], maxima[threadIdx.x]};
            State<T> b = {sums[threadIdx.x + half], maxima[threadIdx.x + half]};
            State<T> both = merge(p.op, a, b);
            sums[threadIdx.x] = both.s;
            maxima[threadIdx.x] = both.m;
        }
    }
    if (threadIdx.x == 0) {
        State<T> all = {sums[0], maxima[0]};
        store_as<T>(to, output, p.out_dtype, finish(p.op, all, p.count));
    }
}

template <class T> __device__ __forceinline__ void reduce_by_thread(void *to, const void *from, const ReduceParams &p) {
    u32 output = blockIdx.x * blockDim.x + threadIdx.x;
    if (output >= p.outputs) return;
    i64 base = strided_offset(output, p.kept_rank, p.kept_dims, p.kept_strides);
    State<T> state = start<T>(p.op);
    for (u32 i = 0; i < p.count; i++) {
        i64 offset = base + strided_offset(i, p.reduced_rank, p.reduced_dims, p.reduced_strides);
        state = merge(p.op, state, element(p.op, load_as<T>(from, offset, p.dtype)));
    }
    store_as<T>(to, output, p.out_dtype, finish(p.op, state, p.count));
}

// The position (int64) of the largest or smallest element along one axis.
template <class T> __device__ __forceinline__ void find_extreme(i64 *to, const void *from, const ReduceParams &p) {
    u32 output = blockIdx.x * blockDim.x + threadIdx.x;
    if (output >= p.outputs) return;
    i64 base = strided_offset(output, p.kept_rank, p.kept_dims, p.kept_strides);
    T best = load_as<T>(from, base, p.dtype);
    u32 position = 0;
    for (u32 i = 1; i < p.count; i++) {
        T value = load_as<T>(from, base + (i64)i * p.reduced_strides[0], p.dtype);
        bool better = p.op == REDUCE_MAX ? value > best : value < best;
        if (better || (p.is_last && value == best)) {
            best = value;
            position = i;
        }
    }
    to[output] = position;
}

#define REDUCE_KERNELS(SUFFIX, T)                                                                            \
    extern "C" __global__ void __launch_bounds__(256)                                                        \
        reduce_block_##SUFFIX(void *to, const void *from, const __grid_constant__ ReduceParams p) {          \
        reduce_by_block<T>(to, from, p);                                                                     \
    }                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256)                                                        \
        reduce_thread_##SUFFIX(void *to, const void *from, const __grid_constant__ ReduceParams p) {         \
        reduce_by_thread<T>(to, from, p);                                                                    \
    }                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256)                                                        \
        find_extreme_##SUFFIX(void *to, const void *from, const __grid_constant__ ReduceParams p) {          \
        find_extreme<T>((i64 *)to, from, p);                                                                 \
    }

REDUCE_KERNELS(f32, float)
REDUCE_KERNELS(f64, double)
REDUCE_KERNELS(i64, i64)
