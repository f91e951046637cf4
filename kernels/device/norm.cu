//! Layer, RMS, group and instance normalisation, with the residual addition in front where there is one.
//!
//! y = (x - mean) / sqrt(variance + epsilon) * gamma + beta, where x may be input + skip + bias (each optional). Gamma and
//! beta are indexed by (row % period) * group + column / span, so that rows can be groups of channels.
//!
//! A row that fits the registers of a wave, or of a block as wide as it needs, is read once. A longer one is cut into parts: `norm_moments`
//! finds each part's mean and sum of squares around it, `norm_apply` joins them and normalises.

struct NormParams {
    u32 rows, columns;
    u32 period, group, span;
    u32 is_centred; // 0: root mean square
    float epsilon;
    u32 parts, part_columns; // of a row that is cut
};

template <class S> struct NormOperands {
    const S *input, *skip, *bias, *gamma, *beta;
};

__device__ __forceinline__ float r_rsqrt(float x) { return 1.0f / sqrtf(x); }
__device__ __forceinline__ double r_rsqrt(double x) { return 1.0 / sqrt(x); }

template <class T, class S, int V> __device__ __forceinline__ void add_pack(T (&x)[V], const S *from) {
    Pack<S, V> pack = load_pack<S, V>(from);
    _Pragma("unroll") for (int i = 0; i < V; i++) x[i] += widen<T>(pack.at[i]);
}

template <class T, class S, int V> __device__ __forceinline__ void write_pack(S *to, const T (&x)[V]) {
    Pack<S, V> pack;
    _Pragma("unroll") for (int i = 0; i < V; i++) pack.at[i] = Narrow<S>::from(x[i]);
    *(Pack<S, V> *)to = pack;
}

template <class T, class S, int V>
__device__ __forceinline__ void read_row(T (&x)[V], const NormOperands<S> &of, i64 base, u32 column) {
    Pack<S, V> pack = load_pack<S, V>(of.input + base + column);
    _Pragma("unroll") for (int i = 0; i < V; i++) x[i] = widen<T>(pack.at[i]);
    if (of.skip) add_pack<T, S, V>(x, of.skip + base + column);
    if (of.bias) add_pack<T, S, V>(x, of.bias + column);
}

// Scales V neighbours and writes them. `first`: the row's first channel.
template <class T, class S, int V>
__device__ __forceinline__ void write_row(S *y, const T (&x)[V], T mean, T deviation, const NormOperands<S> &of,
                                          const NormParams &p, u32 first, u32 column) {
    T v[V];
    _Pragma("unroll") for (int i = 0; i < V; i++) v[i] = (x[i] - mean) * deviation;
    if (p.span == 1) {
        if (of.gamma) {
            Pack<S, V> pack = load_pack<S, V>(of.gamma + first + column);
            _Pragma("unroll") for (int i = 0; i < V; i++) v[i] *= widen<T>(pack.at[i]);
        }
        if (of.beta) add_pack<T, S, V>(v, of.beta + first + column);
    } else {
        // The planner takes V above 1 only where V divides the span.
        u32 channel = first + column / p.span;
        T scale = of.gamma ? widen<T>(of.gamma[channel]) : (T)1, shift = of.beta ? widen<T>(of.beta[channel]) : (T)0;
        _Pragma("unroll") for (int i = 0; i < V; i++) v[i] = v[i] * scale + shift;
    }
    write_pack<T, S, V>(y, v);
}

// LANES threads a row, which reads at most R packs of V elements.
template <class T, class S, int V, int R, int LANES>
__device__ __forceinline__ void normalize_row(S *y, S *sum_out, T *mean_out, T *deviation_out,
                                              const NormOperands<S> &of, const NormParams &p) {
    constexpr u32 ROWS = LANES == WAVE ? 256 / WAVE : 1;
    __shared__ T space[LANES / WAVE];
    begin_kernel();
    u32 lane = threadIdx.x % LANES;
    for (u32 row = blockIdx.x * ROWS + threadIdx.x / LANES; row < p.rows; row += gridDim.x * ROWS) {
        i64 base = (i64)row * p.columns;
        T x[R][V];
        _Pragma("unroll") for (int r = 0; r < R; r++) {
            u32 column = (r * LANES + lane) * V;
            _Pragma("unroll") for (int i = 0; i < V; i++) x[r][i] = (T)0;
            if (column < p.columns) read_row<T, S, V>(x[r], of, base, column);
        }
        T mean = (T)0;
        if (p.is_centred) {
            T total = (T)0;
            _Pragma("unroll") for (int r = 0; r < R; r++)
                _Pragma("unroll") for (int i = 0; i < V; i++) total += x[r][i];
            mean = over_row<LANES>(total, space, Added()) / (T)p.columns;
        }
        T squares = (T)0;
        _Pragma("unroll") for (int r = 0; r < R; r++) {
            bool is_inside = (r * LANES + lane) * V < p.columns;
            _Pragma("unroll") for (int i = 0; i < V; i++)
                squares += is_inside ? (x[r][i] - mean) * (x[r][i] - mean) : (T)0;
        }
        T deviation = r_rsqrt(over_row<LANES>(squares, space, Added()) / (T)p.columns + (T)p.epsilon);
        if (lane == 0) {
            if (mean_out) mean_out[row] = mean;
            if (deviation_out) deviation_out[row] = deviation;
        }
        u32 first = p.group ? (row % p.period) * p.group : 0;
        _Pragma("unroll") for (int r = 0; r < R; r++) {
            u32 column = (r * LANES + lane) * V;
            if (column >= p.columns) continue;
            if (sum_out) write_pack<T, S, V>(sum_out + base + column, x[r]);
            write_row<T, S, V>(y + base + column, x[r], mean, deviation, of, p, first, column);
        }
    }
}

// Count, mean and sum of squares around the mean of some elements; joined by the parallel form of Chan, Golub and LeVeque.
template <class T> struct Moments {
    T count, mean, squares;
};

template <class T> __device__ __forceinline__ Moments<T> join(Moments<T> a, Moments<T> b) {
    T count = a.count + b.count;
    if (count == (T)0) return a;
    T delta = b.mean - a.mean, share = b.count / count;
    return {count, a.mean + delta * share, a.squares + b.squares + delta * delta * a.count * share};
}

template <class T> __device__ __forceinline__ Moments<T> join_block(Moments<T> mine) {
    __shared__ T space[3][256 / WAVE];
    _Pragma("unroll") for (int mask = WAVE / 2; mask > 0; mask >>= 1) {
        Moments<T> other = {exchange(mine.count, mask), exchange(mine.mean, mask), exchange(mine.squares, mask)};
        mine = join(mine, other);
    }
    u32 wave = threadIdx.x / WAVE;
    if (threadIdx.x % WAVE == 0) {
        space[0][wave] = mine.count;
        space[1][wave] = mine.mean;
        space[2][wave] = mine.squares;
    }
    __syncthreads();
    Moments<T> all = {(T)0, (T)0, (T)0};
    for (int i = 0; i < 256 / WAVE; i++) all = join(all, Moments<T>{space[0][i], space[1][i], space[2][i]});
    return all;
}

// Blocks along x: parts of a row, along y: rows. `parts`: mean and squares of each.
template <class T, class S, int V>
__device__ __forceinline__ void norm_moments(T *parts, const NormOperands<S> &of, const NormParams &p) {
    begin_kernel();
    for (u32 row = blockIdx.y; row < p.rows; row += gridDim.y) {
        i64 base = (i64)row * p.columns;
        u32 end = (blockIdx.x + 1) * p.part_columns;
        end = end < p.columns ? end : p.columns;
        Moments<T> mine = {(T)0, (T)0, (T)0};
        for (u32 column = blockIdx.x * p.part_columns + threadIdx.x * V; column < end; column += 256 * V) {
            T x[V], total = (T)0, squares = (T)0;
            read_row<T, S, V>(x, of, base, column);
            if (p.is_centred) {
                _Pragma("unroll") for (int i = 0; i < V; i++) total += x[i];
                total /= (T)V;
            }
            _Pragma("unroll") for (int i = 0; i < V; i++) squares += (x[i] - total) * (x[i] - total);
            mine = join(mine, Moments<T>{(T)V, total, squares});
        }
        mine = join_block(mine);
        if (threadIdx.x == 0) {
            T *out = parts + ((i64)row * p.parts + blockIdx.x) * 2;
            out[0] = mine.mean;
            out[1] = mine.squares;
        }
        __syncthreads();
    }
}

template <class T, class S, int V>
__device__ __forceinline__ void norm_apply(S *y, S *sum_out, T *mean_out, T *deviation_out, const T *parts,
                                           const NormOperands<S> &of, const NormParams &p) {
    begin_kernel();
    // What was read last by `norm_moments` is read first: it may still be in the cache.
    u32 part = p.parts - 1 - blockIdx.x;
    for (u32 at = blockIdx.y; at < p.rows; at += gridDim.y) {
        u32 row = p.rows - 1 - at;
        Moments<T> all = {(T)0, (T)0, (T)0};
        for (u32 i = threadIdx.x; i < p.parts; i += 256) {
            const T *from = parts + ((i64)row * p.parts + i) * 2;
            u32 left = p.columns - i * p.part_columns;
            all = join(all, Moments<T>{(T)(left < p.part_columns ? left : p.part_columns), from[0], from[1]});
        }
        all = join_block(all);
        T mean = all.mean, deviation = r_rsqrt(all.squares / (T)p.columns + (T)p.epsilon);
        if (threadIdx.x == 0 && part == 0) {
            if (mean_out) mean_out[row] = mean;
            if (deviation_out) deviation_out[row] = deviation;
        }
        i64 base = (i64)row * p.columns;
        u32 first = (row % p.period) * p.group;
        u32 end = (part + 1) * p.part_columns;
        end = end < p.columns ? end : p.columns;
        for (u32 column = part * p.part_columns + threadIdx.x * V; column < end; column += 256 * V) {
            T x[V];
            read_row<T, S, V>(x, of, base, column);
            if (sum_out) write_pack<T, S, V>(sum_out + base + column, x);
            write_row<T, S, V>(y + base + column, x, mean, deviation, of, p, first, column);
        }
        __syncthreads();
    }
}

#define NORM_INPUTS const void *input, const void *skip, const void *bias, const void *gamma, const void *beta
#define NORM_OPERANDS(S) \
    NormOperands<S> { (const S *)input, (const S *)skip, (const S *)bias, (const S *)gamma, (const S *)beta }
#define NORM_RESULTS void *y, void *sum_out, void *mean_out, void *deviation_out

#define NORM_ROWS(SUFFIX, T, S, V, R, NAME, LANES, THREADS)                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                             \
        normalize_##NAME##_##SUFFIX##_v##V##x##R(NORM_RESULTS, NORM_INPUTS, const __grid_constant__ NormParams p) {   \
        normalize_row<T, S, V, R, LANES>((S *)y, (S *)sum_out, (T *)mean_out, (T *)deviation_out, NORM_OPERANDS(S),   \
                                         p);                                                                          \
    }
#define NORM_PARTS(SUFFIX, T, S, V)                                                                                   \
    extern "C" __global__ void __launch_bounds__(256)                                                                 \
        norm_moments_##SUFFIX##_v##V(void *parts, NORM_INPUTS, const __grid_constant__ NormParams p) {                \
        norm_moments<T, S, V>((T *)parts, NORM_OPERANDS(S), p);                                                       \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256) norm_apply_##SUFFIX##_v##V(                                     \
        NORM_RESULTS, const void *parts, NORM_INPUTS, const __grid_constant__ NormParams p) {                         \
        norm_apply<T, S, V>((S *)y, (S *)sum_out, (T *)mean_out, (T *)deviation_out, (const T *)parts,                \
                            NORM_OPERANDS(S), p);                                                                     \
    }

#define NORM_SINGLES(SUFFIX, T, S)                    \
    NORM_ROWS(SUFFIX, T, S, 4, 2, wave, WAVE, 256)    \
    NORM_ROWS(SUFFIX, T, S, 4, 4, wave, WAVE, 256)    \
    NORM_ROWS(SUFFIX, T, S, 4, 2, block128, 128, 128) \
    NORM_ROWS(SUFFIX, T, S, 4, 4, block128, 128, 128) \
    NORM_ROWS(SUFFIX, T, S, 4, 4, block256, 256, 256) \
    NORM_ROWS(SUFFIX, T, S, 4, 8, block256, 256, 256)
#define NORM_HALVES(SUFFIX, T, S)                     \
    NORM_ROWS(SUFFIX, T, S, 8, 1, wave, WAVE, 256)    \
    NORM_ROWS(SUFFIX, T, S, 8, 2, wave, WAVE, 256)    \
    NORM_ROWS(SUFFIX, T, S, 8, 1, block128, 128, 128) \
    NORM_ROWS(SUFFIX, T, S, 8, 2, block128, 128, 128) \
    NORM_ROWS(SUFFIX, T, S, 8, 2, block256, 256, 256) \
    NORM_ROWS(SUFFIX, T, S, 8, 2, block512, 512, 512)
#define NORM_ODD(SUFFIX, T, S)                        \
    NORM_ROWS(SUFFIX, T, S, 1, 4, wave, WAVE, 256)    \
    NORM_ROWS(SUFFIX, T, S, 1, 4, block128, 128, 128) \
    NORM_ROWS(SUFFIX, T, S, 1, 8, block256, 256, 256)

NORM_SINGLES(f32, float, float)
NORM_HALVES(f16, float, f16)
NORM_HALVES(bf16, float, bf16)
NORM_ODD(f32, float, float)
NORM_ODD(f16, float, f16)
NORM_ODD(bf16, float, bf16)
NORM_ODD(f64, double, double)
NORM_PARTS(f32, float, float, 4)
NORM_PARTS(f16, float, f16, 8)
NORM_PARTS(bf16, float, bf16, 8)
NORM_PARTS(f32, float, float, 1)
NORM_PARTS(f16, float, f16, 1)
NORM_PARTS(bf16, float, bf16, 1)
NORM_PARTS(f64, double, double, 1)
