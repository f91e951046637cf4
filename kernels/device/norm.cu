//! Layer, RMS, group and instance normalisation, with the residual addition in front where there is one.
//!
//! y = (x - mean) / sqrt(variance + epsilon) * gamma + beta, where x may be input + skip + bias (each optional). Gamma and
//! beta are indexed by (row % period) * group + column / span, so that rows can be groups of channels.
//!
//! A row that fits the registers of a block is read once, while the row before it or other blocks' rows are worked on. A
//! longer row is cut into parts: `norm_moments` finds each part's mean and sum of squares around it, `norm_apply` joins them
//! and normalises.

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

template <class T, class S, int V> __device__ __forceinline__ void add_pack(T (&x)[V], const Raw<S, V> &raw) {
    _Pragma("unroll") for (int i = 0; i < V; i++) x[i] += widen<T>(raw.at(i));
}

template <class T, class S, int V>
__device__ __forceinline__ void read_row(T (&x)[V], const NormOperands<S> &of, i64 base, u32 column) {
    open_pack<T, S, V>(x, load_raw<S, V>(of.input + base + column));
    if (of.skip) add_pack<T, S, V>(x, load_raw<S, V>(of.skip + base + column));
    if (of.bias) add_pack<T, S, V>(x, load_raw<S, V>(of.bias + column));
}

// Scales V neighbours and writes them. `first`: the row's first channel.
template <class T, class S, int V>
__device__ __forceinline__ void write_row(S *y, const T (&x)[V], T mean, T deviation, const NormOperands<S> &of,
                                          const NormParams &p, u32 first, u32 column) {
    T v[V];
    _Pragma("unroll") for (int i = 0; i < V; i++) v[i] = (x[i] - mean) * deviation;
    if (p.span == 1) {
        if (of.gamma) {
            Raw<S, V> gamma = load_raw<S, V>(of.gamma + first + column);
            _Pragma("unroll") for (int i = 0; i < V; i++) v[i] *= widen<T>(gamma.at(i));
        }
        if (of.beta) add_pack<T, S, V>(v, load_raw<S, V>(of.beta + first + column));
    } else {
        // The planner takes V above 1 only where V divides the span.
        u32 channel = first + column / p.span;
        T scale = of.gamma ? widen<T>(of.gamma[channel]) : (T)1, shift = of.beta ? widen<T>(of.beta[channel]) : (T)0;
        _Pragma("unroll") for (int i = 0; i < V; i++) v[i] = v[i] * scale + shift;
    }
    write_pack<T, S, V>(y, v);
}

// LANES threads a row. ADDS: there may be a skip and a bias. The next row is read while one is worked on.
template <class T, class S, int V, int R, int LANES, bool ADDS>
__device__ __forceinline__ void normalize_row(S *y, S *sum_out, T *mean_out, T *deviation_out,
                                              const NormOperands<S> &of, const NormParams &p) {
    constexpr u32 ROWS = LANES < 128 ? 256 / LANES : 1;
    __shared__ T space[2][RowJoint<T, LANES>::WAVES];
    begin_kernel();
    RowJoint<T, LANES> joint = {space, 0};
    HeldRow<S, V, R, LANES> now, next;
    u32 step = gridDim.x * ROWS, own = threadIdx.x / LANES;
    // Lanes that exchange values stay together to the end, with or without a row.
    auto row_of = [&](u32 first) { return first + own < p.rows ? first + own : p.rows - 1; };
    now.read(of.input + (i64)row_of(blockIdx.x * ROWS) * p.columns, p.columns);
    for (u32 first = blockIdx.x * ROWS; first < p.rows; first += step) {
        u32 row = row_of(first);
        bool is_own = first + own < p.rows;
        i64 base = (i64)row * p.columns;
        if (p.rows - first > step) next.read(of.input + (i64)row_of(first + step) * p.columns, p.columns);
        T x[R][V], mean = (T)0, squares = (T)0;
        _Pragma("unroll") for (int r = 0; r < R; r++) {
            u32 column = now.column(r);
            open_pack<T, S, V>(x[r], now.at[r]);
            if (column >= p.columns) continue;
            if (ADDS && of.skip) add_pack<T, S, V>(x[r], load_raw<S, V>(of.skip + base + column));
            if (ADDS && of.bias) add_pack<T, S, V>(x[r], load_raw<S, V>(of.bias + column));
            _Pragma("unroll") for (int i = 0; i < V; i++) mean += x[r][i];
        }
        mean = p.is_centred ? joint.over(mean, Added()) / (T)p.columns : (T)0;
        _Pragma("unroll") for (int r = 0; r < R; r++)
            _Pragma("unroll") for (int i = 0; i < V; i++)
                squares += now.column(r) < p.columns ? (x[r][i] - mean) * (x[r][i] - mean) : (T)0;
        T deviation = r_rsqrt(joint.over(squares, Added()) / (T)p.columns + (T)p.epsilon);
        if (is_own && threadIdx.x % LANES == 0) {
            if (mean_out) mean_out[row] = mean;
            if (deviation_out) deviation_out[row] = deviation;
        }
        u32 channel = p.group ? (row % p.period) * p.group : 0;
        _Pragma("unroll") for (int r = 0; r < R; r++) {
            u32 column = now.column(r);
            if (column >= p.columns || !is_own) continue;
            if (ADDS && sum_out) write_pack<T, S, V>(sum_out + base + column, x[r]);
            write_row<T, S, V>(y + base + column, x[r], mean, deviation, of, p, channel, column);
        }
        now = next;
    }
}

// A block a row, which it holds as it lies in memory: that leaves registers for other blocks.
template <class T, class S, int V, int R, int LANES>
__device__ __forceinline__ void normalize_packed(S *y, T *mean_out, T *deviation_out, const NormOperands<S> &of,
                                                 const NormParams &p) {
    __shared__ T space[2][RowJoint<T, LANES>::WAVES];
    begin_kernel();
    RowJoint<T, LANES> joint = {space, 0};
    HeldRow<S, V, R, LANES> held;
    for (u32 row = blockIdx.x; row < p.rows; row += gridDim.x) {
        i64 base = (i64)row * p.columns;
        held.read(of.input + base, p.columns);
        T x[V], mean = (T)0, squares = (T)0;
        _Pragma("unroll") for (int r = 0; r < R; r++) {
            if (held.column(r) >= p.columns) continue;
            open_pack<T, S, V>(x, held.at[r]);
            _Pragma("unroll") for (int i = 0; i < V; i++) mean += x[i];
        }
        mean = p.is_centred ? joint.over(mean, Added()) / (T)p.columns : (T)0;
        _Pragma("unroll") for (int r = 0; r < R; r++) {
            if (held.column(r) >= p.columns) continue;
            open_pack<T, S, V>(x, held.at[r]);
            _Pragma("unroll") for (int i = 0; i < V; i++) squares += (x[i] - mean) * (x[i] - mean);
        }
        T deviation = r_rsqrt(joint.over(squares, Added()) / (T)p.columns + (T)p.epsilon);
        if (threadIdx.x == 0) {
            if (mean_out) mean_out[row] = mean;
            if (deviation_out) deviation_out[row] = deviation;
        }
        u32 channel = p.group ? (row % p.period) * p.group : 0;
        _Pragma("unroll") for (int r = 0; r < R; r++) {
            u32 column = held.column(r);
            if (column >= p.columns) continue;
            open_pack<T, S, V>(x, held.at[r]);
            write_row<T, S, V>(y + base + column, x, mean, deviation, of, p, channel, column);
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

#define NORM_ROW(SUFFIX, T, S, V, R, LANES, THREADS, NAME, ADDS)                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS, V == 1 ? 1 : 1024 / THREADS)                                             \
        NAME##_row##LANES##_##SUFFIX##_v##V##x##R(NORM_RESULTS, NORM_INPUTS, const __grid_constant__ NormParams p) {  \
        normalize_row<T, S, V, R, LANES, ADDS>((S *)y, (S *)sum_out, (T *)mean_out, (T *)deviation_out,               \
                                               NORM_OPERANDS(S), p);                                                  \
    }
#define NORM_ROWS(SUFFIX, T, S, V, R, LANES, THREADS)                  \
    NORM_ROW(SUFFIX, T, S, V, R, LANES, THREADS, normalize, false)     \
    NORM_ROW(SUFFIX, T, S, V, R, LANES, THREADS, add_normalize, true)
// Many of the longest rows, where there is neither a skip nor a bias.
#define NORM_PACKED(SUFFIX, T, S, V, R, LANES, BLOCKS)                                                                \
    extern "C" __global__ void __launch_bounds__(LANES, BLOCKS)                                                       \
        normalize_row##LANES##_##SUFFIX##_v##V##x##R(NORM_RESULTS, NORM_INPUTS, const __grid_constant__ NormParams p) { \
        normalize_packed<T, S, V, R, LANES>((S *)y, (T *)mean_out, (T *)deviation_out, NORM_OPERANDS(S), p);          \
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

// Elements of packs of V, packs that a thread reads.
#define NORM_WIDE(SUFFIX, S, V, ONE, TWO)             \
    NORM_ROWS(SUFFIX, float, S, V, ONE, 8, 256)       \
    NORM_ROWS(SUFFIX, float, S, V, TWO, 8, 256)       \
    NORM_ROWS(SUFFIX, float, S, V, ONE, 32, 256)      \
    NORM_ROWS(SUFFIX, float, S, V, TWO, 32, 256)      \
    NORM_ROWS(SUFFIX, float, S, V, ONE, 128, 128)     \
    NORM_ROWS(SUFFIX, float, S, V, TWO, 128, 128)     \
    NORM_ROWS(SUFFIX, float, S, V, TWO, 256, 256)     \
    NORM_ROWS(SUFFIX, float, S, V, TWO, 512, 512)     \
    NORM_ROWS(SUFFIX, float, S, V, TWO, 1024, 1024)   \
    NORM_PARTS(SUFFIX, float, S, V)
#define NORM_ODD(SUFFIX, T, S)                        \
    NORM_ROWS(SUFFIX, T, S, 1, 4, 32, 256)            \
    NORM_ROWS(SUFFIX, T, S, 1, 4, 128, 128)           \
    NORM_ROWS(SUFFIX, T, S, 1, 8, 256, 256)           \
    NORM_PARTS(SUFFIX, T, S, 1)

NORM_WIDE(f32, float, 4, 2, 4)
NORM_WIDE(f16, f16, 8, 1, 2)
NORM_WIDE(bf16, bf16, 8, 1, 2)
NORM_PACKED(f16, float, f16, 8, 8, 256, 3)
NORM_PACKED(bf16, float, bf16, 8, 8, 256, 3)
NORM_ODD(f32, float, float)
NORM_ODD(f16, float, f16)
NORM_ODD(bf16, float, bf16)
NORM_ODD(f64, double, double)
