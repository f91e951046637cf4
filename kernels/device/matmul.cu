//! Matrix products of any strides and any batch broadcast: tiles for float types, one thread an element for the rest.

struct MatmulParams {
    u32 m, n, k;
    u32 batch_dims[MATMUL_BATCH_RANK]; // innermost first; 1 where unused
    i64 a_batch[MATMUL_BATCH_RANK], b_batch[MATMUL_BATCH_RANK], bias_batch[MATMUL_BATCH_RANK];
    i64 a_m, a_k, b_k, b_n, bias_m, bias_n; // strides in elements
    float alpha, beta;                      // alpha * A B + beta * bias
    u32 activation;
    float activation_alpha, activation_beta;
};

__device__ __forceinline__ i64 batch_offset(u32 batch, const u32 *dims, const i64 *strides) {
    i64 offset = 0;
    for (u32 d = 0; d < MATMUL_BATCH_RANK; d++) {
        offset += (i64)(batch % dims[d]) * strides[d];
        batch /= dims[d];
    }
    return offset;
}

template <class S> struct LeftMatrix {
    const S *data;
    i64 m_stride, k_stride;
    struct Cursor {};
    __device__ __forceinline__ bool is_along_k() const { return k_stride == 1; }
    __device__ __forceinline__ float at(u32 m, u32 k, u32 m_count, u32 k_count, Cursor &) const {
        return m < m_count && k < k_count ? widen<float>(data[m * m_stride + k * k_stride]) : 0.0f;
    }
};

template <class S> struct RightMatrix {
    const S *data;
    i64 k_stride, n_stride;
    struct Cursor {};
    __device__ __forceinline__ bool is_along_k() const { return k_stride == 1 && n_stride != 1; }
    __device__ __forceinline__ float at(u32 k, u32 n, u32 k_count, u32 n_count, Cursor &) const {
        return k < k_count && n < n_count ? widen<float>(data[k * k_stride + n * n_stride]) : 0.0f;
    }
};

template <class S> struct MatrixStore {
    S *data;
    const S *bias;
    const MatmulParams &p;
    __device__ __forceinline__ void put(u32 m, u32 n, float sum) const {
        float value = p.alpha * sum;
        if (bias) value += p.beta * widen<float>(bias[m * p.bias_m + n * p.bias_n]);
        data[(i64)m * p.n + n] = Narrow<S>::from(activate(value, p.activation, p.activation_alpha, p.activation_beta));
    }
};

// Tiles along x (columns, then rows of tiles), products of the batch along z.
template <class S, int TM, int TN>
__device__ __forceinline__ void matmul_tile(S *c, const S *a, const S *b, const S *bias, const MatmulParams &p) {
    begin_kernel();
    u32 batch = blockIdx.z;
    LeftMatrix<S> left = {a + batch_offset(batch, p.batch_dims, p.a_batch), p.a_m, p.a_k};
    RightMatrix<S> right = {b + batch_offset(batch, p.batch_dims, p.b_batch), p.b_k, p.b_n};
    const S *addend = bias ? bias + batch_offset(batch, p.batch_dims, p.bias_batch) : bias;
    MatrixStore<S> store = {c + (i64)batch * p.m * p.n, addend, p};
    tile_product<TM, TN>(left, right, store, p.m, p.n, p.k, blockIdx.y * (16 * TM), blockIdx.x * (16 * TN), 0);
}

// A wave an element of C: for products with few rows, where k is long. Grid: columns over waves, rows along y.
template <class S>
__device__ __forceinline__ void matmul_wave(S *c, const S *a, const S *b, const S *bias, const MatmulParams &p) {
    begin_kernel();
    u32 batch = blockIdx.z, lane = threadIdx.x % WAVE;
    u32 n = blockIdx.x * (256 / WAVE) + threadIdx.x / WAVE, m = blockIdx.y;
    const S *left = a + batch_offset(batch, p.batch_dims, p.a_batch) + m * p.a_m;
    const S *right = b + batch_offset(batch, p.batch_dims, p.b_batch) + n * p.b_n;
    float sum = 0.0f;
    if (n < p.n)
        for (u32 k = lane; k < p.k; k += WAVE) sum += widen<float>(left[k * p.a_k]) * widen<float>(right[k * p.b_k]);
    for (int mask = WAVE / 2; mask > 0; mask >>= 1) sum += wave_xor_f32(sum, mask);
    if (lane != 0 || n >= p.n) return;
    const S *addend = bias ? bias + batch_offset(batch, p.batch_dims, p.bias_batch) : bias;
    MatrixStore<S> store = {c + (i64)batch * p.m * p.n, addend, p};
    store.put(m, n, sum);
}

// A thread an element of C, in the element's own arithmetic.
template <class S, class T>
__device__ __forceinline__ void matmul_exact(S *c, const S *a, const S *b, const S *bias, const MatmulParams &p) {
    begin_kernel();
    u32 batch = blockIdx.z;
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= p.m * p.n) return;
    u32 m = at / p.n, n = at % p.n;
    const S *left = a + batch_offset(batch, p.batch_dims, p.a_batch) + m * p.a_m;
    const S *right = b + batch_offset(batch, p.batch_dims, p.b_batch) + n * p.b_n;
    T sum = (T)0;
    for (u32 k = 0; k < p.k; k++) sum += widen<T>(left[k * p.a_k]) * widen<T>(right[k * p.b_k]);
    if (p.alpha != 1.0f) sum = (T)((double)p.alpha * (double)sum);
    if (bias) {
        T addend = widen<T>(bias[batch_offset(batch, p.batch_dims, p.bias_batch) + m * p.bias_m + n * p.bias_n]);
        sum += p.beta == 1.0f ? addend : (T)((double)p.beta * (double)addend);
    }
    c[((i64)batch * p.m + m) * p.n + n] = Narrow<S>::from(sum);
}

#define MATMUL_ARGUMENTS \
    void *c, const void *a, const void *b, const void *bias, const __grid_constant__ MatmulParams p

#define MATMUL_TILES(SUFFIX, S, T)                                                                                   \
    extern "C" __global__ void __launch_bounds__(256) matmul_tile##T##_##SUFFIX(MATMUL_ARGUMENTS) {                  \
        matmul_tile<S, T / 16, T / 16>((S *)c, (const S *)a, (const S *)b, (const S *)bias, p);                      \
    }

#define MATMUL_WAVES(SUFFIX, S)                                                                                      \
    MATMUL_TILES(SUFFIX, S, 32)                                                                                      \
    MATMUL_TILES(SUFFIX, S, 64)                                                                                      \
    MATMUL_TILES(SUFFIX, S, 128)                                                                                     \
    extern "C" __global__ void __launch_bounds__(256) matmul_wave_##SUFFIX(MATMUL_ARGUMENTS) {                       \
        matmul_wave<S>((S *)c, (const S *)a, (const S *)b, (const S *)bias, p);                                      \
    }

#define MATMUL_EXACT(SUFFIX, S, T)                                                                                   \
    extern "C" __global__ void __launch_bounds__(256) matmul_exact_##SUFFIX(MATMUL_ARGUMENTS) {                      \
        matmul_exact<S, T>((S *)c, (const S *)a, (const S *)b, (const S *)bias, p);                                  \
    }

MATMUL_WAVES(f32, float)
MATMUL_WAVES(f16, f16)
MATMUL_WAVES(bf16, bf16)
MATMUL_EXACT(f64, double, double)
MATMUL_EXACT(i32, int, i64)
MATMUL_EXACT(u32, u32, i64)
MATMUL_EXACT(i64, i64, i64)
MATMUL_EXACT(u64, u64, i64)
