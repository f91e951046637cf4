//! Products on the ordinary floating-point units: a block computes a tile of C = A B, with both operands read through
//! functors, so that matrices of any strides and the patches of a convolution share one loop.
//!
//! 256 threads as 16 x 16; a thread computes a TM x TN patch of the (16 TM) x (16 TN) tile, strided by 16 in both
//! directions so that neighbours read neighbouring banks.
//!
//! ```text
//!   A tile [BK][BM + 4]   column k of A, rows contiguous        accumulators of thread (ty, tx):
//!   B tile [BK][BN + 4]   row k of B, columns contiguous        rows ty * TM + i, columns tx + 16 j
//! ```

// Called and not inlined: it would be there once for each accumulator.
__device__ __noinline__ float activate(float x, u32 activation, float alpha, float beta) {
    switch (activation) {
    case ACTIVATION_RELU: return x > 0.0f || x != x ? x : 0.0f;
    case ACTIVATION_LEAKY_RELU: return x < 0.0f ? alpha * x : x;
    case ACTIVATION_CLIP: return x < alpha ? alpha : x > beta ? beta : x;
    case ACTIVATION_SIGMOID: return 1.0f / (1.0f + expf(-x));
    case ACTIVATION_TANH: return tanhf(x);
    case ACTIVATION_SILU: return x / (1.0f + expf(-x));
    case ACTIVATION_GELU: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752440f));
    case ACTIVATION_GELU_TANH:
        return 0.5f * x * (1.0f + tanhf(0.79788456080286535588f * (x + 0.044715f * x * x * x)));
    case ACTIVATION_HARD_SIGMOID: {
        float v = alpha * x + beta;
        return v < 0.0f ? 0.0f : v > 1.0f ? 1.0f : v;
    }
    case ACTIVATION_HARD_SWISH: {
        float v = x * (1.0f / 6.0f) + 0.5f;
        return x * (v < 0.0f ? 0.0f : v > 1.0f ? 1.0f : v);
    }
    case ACTIVATION_ELU: return x < 0.0f ? alpha * expm1f(x) : x;
    }
    return x;
}

// Reads A(m, k) and B(k, n); both give 0 outside. ALONG_K: neighbouring k of A (rows of B: N) are neighbours in memory.
template <int TM, int TN, class A, class B, class Store>
__device__ __forceinline__ void tile_product(const A &a, const B &b, const Store &store, u32 m_count, u32 n_count,
                                             u32 k_count, u32 m_first, u32 n_first, u32 k_first) {
    constexpr int BM = 16 * TM, BN = 16 * TN, BK = 16;
    __shared__ float a_tile[BK][BM + 4];
    __shared__ float b_tile[BK][BN + 4];
    u32 thread = threadIdx.x, tx = thread % 16, ty = thread / 16;
    float sums[TM][TN];
    _Pragma("unroll") for (int i = 0; i < TM; i++) _Pragma("unroll") for (int j = 0; j < TN; j++) sums[i][j] = 0.0f;
    typename A::Cursor a_cursor;
    typename B::Cursor b_cursor;
    for (u32 k0 = k_first; k0 < k_count; k0 += BK) {
        if (a.is_along_k()) {
            _Pragma("unroll") for (int i = 0; i < TM; i++) {
                u32 m = i * 16 + thread / 16, k = thread % 16;
                a_tile[k][m] = a.at(m_first + m, k0 + k, m_count, k_count, a_cursor);
            }
        } else {
            _Pragma("unroll") for (int i = 0; i < TM; i++) {
                u32 word = i * 256 + thread, m = word % BM, k = word / BM;
                a_tile[k][m] = a.at(m_first + m, k0 + k, m_count, k_count, a_cursor);
            }
        }
        if (b.is_along_k()) {
            _Pragma("unroll") for (int i = 0; i < TN; i++) {
                u32 n = i * 16 + thread / 16, k = thread % 16;
                b_tile[k][n] = b.at(k0 + k, n_first + n, k_count, n_count, b_cursor);
            }
        } else {
            _Pragma("unroll") for (int i = 0; i < TN; i++) {
                u32 word = i * 256 + thread, n = word % BN, k = word / BN;
                b_tile[k][n] = b.at(k0 + k, n_first + n, k_count, n_count, b_cursor);
            }
        }
        __syncthreads();
        _Pragma("unroll") for (int k = 0; k < BK; k++) {
            float left[TM], right[TN];
            _Pragma("unroll") for (int i = 0; i < TM; i++) left[i] = a_tile[k][ty * TM + i];
            _Pragma("unroll") for (int j = 0; j < TN; j++) right[j] = b_tile[k][tx + 16 * j];
            _Pragma("unroll") for (int i = 0; i < TM; i++)
                _Pragma("unroll") for (int j = 0; j < TN; j++) sums[i][j] += left[i] * right[j];
        }
        __syncthreads();
    }
    _Pragma("unroll") for (int i = 0; i < TM; i++) _Pragma("unroll") for (int j = 0; j < TN; j++) {
        u32 m = m_first + ty * TM + i, n = n_first + tx + 16 * j;
        if (m < m_count && n < n_count) store.put(m, n, sums[i][j]);
    }
}
