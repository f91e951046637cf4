//! Softmax and log-softmax along one axis, computed in f32 (f64 for doubles).

__device__ __forceinline__ float r_exp(float x) { return expf(x); }
__device__ __forceinline__ double r_exp(double x) { return exp(x); }
__device__ __forceinline__ float r_log(float x) { return logf(x); }
__device__ __forceinline__ double r_log(double x) { return log(x); }

// The value of `mine` reduced over the block of 256 threads, known to all of them.
template <class T, class F> __device__ __forceinline__ T over_block(T mine, T *space, F combine) {
    __syncthreads();
    space[threadIdx.x] = mine;
    for (u32 half = 128; half > 0; half >>= 1) {
        __syncthreads();
        if (threadIdx.x < half) space[threadIdx.x] = combine(space[threadIdx.x], space[threadIdx.x + half]);
    }
    __syncthreads();
    return space[0];
}

template <class T> struct Larger {
    __device__ T operator()(T a, T b) const { return a > b ? a : b; }
};
template <class T> struct Sum {
    __device__ T operator()(T a, T b) const { return a + b; }
};

// A row a block.
template <class T, class S> __device__ __forceinline__ void softmax_row(S *to, const S *from, u32 columns, u32 is_log) {
    __shared__ T space[256];
    const S *row = from + (i64)blockIdx.x * columns;
    S *result = to + (i64)blockIdx.x * columns;
    T top = -(T)__uint_as_float(0x7f800000u);
    for (u32 c = threadIdx.x; c < columns; c += 256) {
        T v = widen<T>(row[c]);
        top = v > top ? v : top;
    }
    top = over_block(top, space, Larger<T>());
    T sum = (T)0;
    for (u32 c = threadIdx.x; c < columns; c += 256) sum += r_exp(widen<T>(row[c]) - top);
    sum = over_block(sum, space, Sum<T>());
    T scale = (T)1 / sum, shift = r_log(sum);
    for (u32 c = threadIdx.x; c < columns; c += 256) {
        T v = widen<T>(row[c]) - top;
        result[c] = Narrow<S>::from(is_log ? v - shift : r_exp(v) * scale);
    }
}

// Neighbouring threads work on neighbouring lines: for an axis that is not the innermost.
template <class T, class S>
__device__ __forceinline__ void softmax_line(S *to, const S *from, u32 outer, u32 axis, u32 inner, u32 is_log) {
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= outer * inner) return;
    i64 base = (i64)(at / inner) * axis * inner + at % inner;
    T top = widen<T>(from[base]);
    for (u32 i = 1; i < axis; i++) {
        T v = widen<T>(from[base + (i64)i * inner]);
        top = v > top ? v : top;
    }
    T sum = (T)0;
    for (u32 i = 0; i < axis; i++) sum += r_exp(widen<T>(from[base + (i64)i * inner]) - top);
    T scale = (T)1 / sum, shift = r_log(sum);
    for (u32 i = 0; i < axis; i++) {
        T v = widen<T>(from[base + (i64)i * inner]) - top;
        to[base + (i64)i * inner] = Narrow<S>::from(is_log ? v - shift : r_exp(v) * scale);
    }
}

#define SOFTMAX_KERNELS(SUFFIX, T, S)                                                                            \
    extern "C" __global__ void __launch_bounds__(256)                                                            \
        softmax_row_##SUFFIX(void *to, const void *from, u32 columns, u32 is_log) {                              \
        softmax_row<T, S>((S *)to, (const S *)from, columns, is_log);                                            \
    }                                                                                                            \
    extern "C" __global__ void __launch_bounds__(256)                                                            \
        softmax_line_##SUFFIX(void *to, const void *from, u32 outer, u32 axis, u32 inner, u32 is_log) {          \
        softmax_line<T, S>((S *)to, (const S *)from, outer, axis, inner, is_log);                                \
    }

SOFTMAX_KERNELS(f32, float, float)
SOFTMAX_KERNELS(f16, float, f16)
SOFTMAX_KERNELS(bf16, float, bf16)
SOFTMAX_KERNELS(f64, double, double)
