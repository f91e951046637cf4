//! Layer, RMS, group and instance normalisation, with the residual addition in front where there is one.
//!
//! A block of 256 threads normalises a row: y = (x - mean) / sqrt(variance + epsilon) * gamma + beta, where x may be
//! input + skip + bias (each optional). Gamma and beta are indexed by (row % period) * group + column / span, so that
//! rows can be groups of channels.

struct NormParams {
    u32 columns;
    u32 period, group, span;
    u32 is_centred; // 0: root mean square
    float epsilon;
};

__device__ __forceinline__ float r_rsqrt(float x) { return 1.0f / sqrtf(x); }
__device__ __forceinline__ double r_rsqrt(double x) { return 1.0 / sqrt(x); }

template <class T> __device__ __forceinline__ T sum_over_block(T mine, T *space) {
    __syncthreads();
    space[threadIdx.x] = mine;
    for (u32 half = 128; half > 0; half >>= 1) {
        __syncthreads();
        if (threadIdx.x < half) space[threadIdx.x] += space[threadIdx.x + half];
    }
    __syncthreads();
    return space[0];
}

template <class T, class S>
__device__ __forceinline__ void normalize_row(S *y, S *sum_out, T *mean_out, T *deviation_out, const S *input,
                                              const S *skip, const S *bias, const S *gamma, const S *beta,
                                              const NormParams &p) {
    __shared__ T space[256];
    i64 base = (i64)blockIdx.x * p.columns;
    T total = (T)0;
    for (u32 c = threadIdx.x; c < p.columns; c += 256) {
        T x = widen<T>(input[base + c]);
        if (skip) x += widen<T>(skip[base + c]);
        if (bias) x += widen<T>(bias[c]);
        if (sum_out) sum_out[base + c] = Narrow<S>::from(x);
        total += x;
    }
    T mean = p.is_centred ? sum_over_block(total, space) / (T)p.columns : (T)0;
    T squares = (T)0;
    for (u32 c = threadIdx.x; c < p.columns; c += 256) {
        T x = widen<T>(input[base + c]);
        if (skip) x += widen<T>(skip[base + c]);
        if (bias) x += widen<T>(bias[c]);
        squares += (x - mean) * (x - mean);
    }
    T deviation = r_rsqrt(sum_over_block(squares, space) / (T)p.columns + (T)p.epsilon);
    if (threadIdx.x == 0) {
        if (mean_out) mean_out[blockIdx.x] = mean;
        if (deviation_out) deviation_out[blockIdx.x] = deviation;
    }
    u32 first = (blockIdx.x % p.period) * p.group;
    for (u32 c = threadIdx.x; c < p.columns; c += 256) {
        T x = widen<T>(input[base + c]);
        if (skip) x += widen<T>(skip[base + c]);
        if (bias) x += widen<T>(bias[c]);
        T v = (x - mean) * deviation;
        u32 channel = first + c / p.span;
        if (gamma) v *= widen<T>(gamma[channel]);
        if (beta) v += widen<T>(beta[channel]);
        y[base + c] = Narrow<S>::from(v);
    }
}

#define NORM_KERNEL(SUFFIX, T, S)                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                              \
        normalize_##SUFFIX(void *y, void *sum_out, void *mean_out, void *deviation_out, const void *input,         \
                           const void *skip, const void *bias, const void *gamma, const void *beta,                \
                           const __grid_constant__ NormParams p) {                                                 \
        normalize_row<T, S>((S *)y, (S *)sum_out, (T *)mean_out, (T *)deviation_out, (const S *)input,             \
                            (const S *)skip, (const S *)bias, (const S *)gamma, (const S *)beta, p);               \
    }

NORM_KERNEL(f32, float, float)
NORM_KERNEL(f16, float, f16)
NORM_KERNEL(bf16, float, bf16)
NORM_KERNEL(f64, double, double)
