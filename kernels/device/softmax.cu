//! Softmax and log-softmax along one axis, computed in f32 (f64 for doubles).
//!
//! Everything is read once where registers hold it. Short rows that are not whole packs go through shared memory together, and
//! so do short axes that are not the innermost and whose lines are not whole packs. Other axes that are not the innermost are
//! worked on in packs of neighbouring lines.

// LANES threads a row. The next row is read while one is worked on.
template <class T, class S, int V, int R, int LANES>
__device__ __forceinline__ void softmax_row(S *to, const S *from, u32 rows, u32 columns, u32 is_log) {
    constexpr u32 ROWS = LANES < 128 ? 256 / LANES : 1;
    typedef Exponential<S> E;
    __shared__ T space[2][RowJoint<T, LANES>::WAVES];
    begin_kernel();
    RowJoint<T, LANES> joint = {space, 0};
    HeldRow<S, V, R, LANES> now, next;
    u32 step = gridDim.x * ROWS, own = threadIdx.x / LANES;
    // Lanes that exchange values stay together to the end, with or without a row.
    auto place = [&](u32 first) { return (i64)(first + own < rows ? first + own : rows - 1) * columns; };
    now.read(from + place(blockIdx.x * ROWS), columns);
    for (u32 first = blockIdx.x * ROWS; first < rows; first += step) {
        if (rows - first > step) next.read(from + place(first + step), columns);
        T x[R][V], top = lowest<T>();
        _Pragma("unroll") for (int r = 0; r < R; r++) {
            open_pack<T, S, V>(x[r], now.at[r]);
            if (now.column(r) >= columns) continue;
            _Pragma("unroll") for (int i = 0; i < V; i++) top = x[r][i] > top ? x[r][i] : top;
        }
        top = joint.over(top, Greater());
        T sum = (T)0, origin = E::origin(top);
        _Pragma("unroll") for (int r = 0; r < R; r++) {
            if (now.column(r) >= columns) continue;
            _Pragma("unroll") for (int i = 0; i < V; i++) {
                T exponential = E::of(x[r][i], origin);
                sum += exponential;
                x[r][i] = is_log ? x[r][i] - top : exponential;
            }
        }
        sum = joint.over(sum, Added());
        Share<S, T> share(Mass<T>{top, sum}, is_log);
        S *target = to + place(first);
        _Pragma("unroll") for (int r = 0; r < R; r++) {
            _Pragma("unroll") for (int i = 0; i < V; i++) x[r][i] = share.end(x[r][i]);
            if (now.column(r) < columns && first + own < rows) write_pack<T, S, V>(target + now.column(r), x[r]);
        }
        now = next;
    }
}

// Rows of a tile in shared memory, LANES threads and as many times K elements a row; the last of a thread's may be missing.
template <class S, int LANES, int K>
__device__ __forceinline__ void softmax_tile_rows(S *tile, u32 count, u32 columns, u32 is_log) {
    typedef Exponential<S> E;
    u32 lane = threadIdx.x % LANES;
    bool has_last = lane + (K - 1) * LANES < columns;
    // Lanes that exchange values stay together to the end, with or without a row.
    for (u32 r = 0; r < count; r += 256 / LANES) {
        u32 own = r + threadIdx.x / LANES;
        bool has_row = own < count;
        S *row = tile + own * columns + lane;
        float x[K], top = lowest<float>(), sum = 0.0f;
        _Pragma("unroll") for (int k = 0; k < K; k++) {
            x[k] = lowest<float>();
            if (has_row && (k < K - 1 || has_last)) x[k] = widen<float>(row[k * LANES]);
            top = fmaxf(top, x[k]);
        }
        top = over_lanes<LANES>(top, Greater());
        float origin = E::origin(top);
        _Pragma("unroll") for (int k = 0; k < K; k++) {
            float exponential = E::of(x[k], origin);
            sum += exponential;
            x[k] = is_log ? x[k] - top : exponential;
        }
        sum = over_lanes<LANES>(sum, Added());
        Share<S, float> share(Mass<float>{top, sum}, is_log);
        _Pragma("unroll") for (int k = 0; k < K; k++)
            if (has_row && (k < K - 1 || has_last)) row[k * LANES] = Narrow<S>::from(share.end(x[k]));
    }
}

// Short rows, `tile_rows` of them a block: whole packs between global and shared memory.
template <class S, int V, int LANES>
__device__ __forceinline__ void softmax_tile(S *to, const S *from, u32 rows, u32 columns, u32 tile_rows, u32 is_log) {
    __shared__ Pack<S, TILE_BYTES / sizeof(S)> tile;
    begin_kernel();
    u32 first = blockIdx.x * tile_rows, count = rows - first < tile_rows ? rows - first : tile_rows;
    i64 base = (i64)first * columns;
    move_tile<S, V>(tile.at, from + base, count * columns);
    __syncthreads();
    switch ((columns + LANES - 1) / LANES) {
    case 1: softmax_tile_rows<S, LANES, 1>(tile.at, count, columns, is_log); break;
    case 2: softmax_tile_rows<S, LANES, 2>(tile.at, count, columns, is_log); break;
    case 3: softmax_tile_rows<S, LANES, 3>(tile.at, count, columns, is_log); break;
    case 4: softmax_tile_rows<S, LANES, 4>(tile.at, count, columns, is_log); break;
    case 5: softmax_tile_rows<S, LANES, 5>(tile.at, count, columns, is_log); break;
    case 6: softmax_tile_rows<S, LANES, 6>(tile.at, count, columns, is_log); break;
    case 7: softmax_tile_rows<S, LANES, 7>(tile.at, count, columns, is_log); break;
    default: softmax_tile_rows<S, LANES, 8>(tile.at, count, columns, is_log);
    }
    __syncthreads();
    move_tile<S, V>(to + base, tile.at, count * columns);
}

// A short axis that is not the innermost: `slabs` whole [axis, inner] a block, in shared memory. As many threads work on a line
// as there are for all.
template <class S, int V>
__device__ __forceinline__ void softmax_slab(S *to, const S *from, u32 outer, u32 axis, u32 inner, u32 slabs, u32 is_log) {
    typedef Exponential<S> E;
    __shared__ Pack<S, TILE_BYTES / sizeof(S)> tile;
    __shared__ float tops[256], sums[256];
    begin_kernel();
    u32 first = blockIdx.x * slabs, count = outer - first < slabs ? outer - first : slabs;
    u32 slab = axis * inner, lines = count * inner, parts = 256 / lines, step = parts * inner;
    i64 base = (i64)first * slab;
    move_tile<S, V>(tile.at, from + base, count * slab);
    __syncthreads();
    u32 part = threadIdx.x / lines, line = threadIdx.x - part * lines, own = line / inner;
    S *begin = tile.at + own * slab + (line - own * inner) + part * inner;
    S *end = part < parts ? tile.at + (own + 1) * slab : begin;
    float top = lowest<float>(), sum = 0.0f;
    _Pragma("unroll 4") for (S *at = begin; at < end; at += step) top = fmaxf(top, widen<float>(*at));
    tops[threadIdx.x] = top;
    __syncthreads();
    for (u32 p = 0; p < parts; p++) top = fmaxf(top, tops[p * lines + line]);
    float origin = E::origin(top);
    _Pragma("unroll 4") for (S *at = begin; at < end; at += step) sum += E::of(widen<float>(*at), origin);
    sums[threadIdx.x] = sum;
    __syncthreads();
    sum = 0.0f;
    for (u32 p = 0; p < parts; p++) sum += sums[p * lines + line];
    Share<S, float> share(Mass<float>{top, sum}, is_log);
    if (is_log) {
        for (S *at = begin; at < end; at += step) *at = Narrow<S>::from(widen<float>(*at) - top + share.rest);
    } else {
        _Pragma("unroll 4") for (S *at = begin; at < end; at += step)
            *at = Narrow<S>::from(E::of(widen<float>(*at), origin) * share.rest);
    }
    __syncthreads();
    move_tile<S, V>(to + base, tile.at, count * slab);
}

// Values of V lines, combined over the THREADS / X threads that work on them.
template <class T, int V, int X, int THREADS> struct LineSpace {
    T of[THREADS / WAVE][X * V], all[X * V];
};
template <class T, int V, int X, int THREADS, class F>
__device__ __forceinline__ void over_lines(T (&v)[V], LineSpace<T, V, X, THREADS> &space, F combine) {
    _Pragma("unroll") for (int i = 0; i < V; i++)
        _Pragma("unroll") for (int mask = WAVE / 2; mask >= X; mask >>= 1) v[i] = combine(v[i], exchange(v[i], mask));
    u32 x = threadIdx.x % X;
    if (threadIdx.x % WAVE < X)
        _Pragma("unroll") for (int i = 0; i < V; i++) space.of[threadIdx.x / WAVE][x * V + i] = v[i];
    __syncthreads();
    for (u32 line = threadIdx.x; line < X * V; line += THREADS) {
        T all = space.of[0][line];
        for (int w = 1; w < THREADS / WAVE; w++) all = combine(all, space.of[w][line]);
        space.all[line] = all;
    }
    __syncthreads();
    _Pragma("unroll") for (int i = 0; i < V; i++) v[i] = space.all[x * V + i];
}

// An axis that is not the innermost: X threads side by side, V lines each, and THREADS / X along the axis, which hold R packs.
// A longer axis is read again, what was read last first.
template <class T, class S, int V, int R, int X, int THREADS>
__device__ __forceinline__ void softmax_lines(S *to, const S *from, u32 outer, u32 axis, u32 inner, u32 is_log) {
    constexpr u32 Y = THREADS / X;
    typedef Exponential<S> E;
    __shared__ LineSpace<T, V, X, THREADS> tops, sums;
    begin_kernel();
    u32 pack = blockIdx.x * X + threadIdx.x % X, y = threadIdx.x / X, across = inner / V;
    bool is_inside = pack < outer * across;
    i64 base = is_inside ? (i64)(pack / across) * axis * inner + pack % across * V : 0;
    u32 turns = (axis + R * Y - 1) / (R * Y);
    Raw<S, V> held[R];
    auto row_of = [&](u32 turn, int r) { return (turn * R + r) * Y + y; };
    auto has = [&](u32 turn, int r) { return is_inside && row_of(turn, r) < axis; };
    auto read = [&](u32 turn) {
        _Pragma("unroll") for (int r = 0; r < R; r++) {
            held[r] = repeated<S, V>(Narrow<S>::from(lowest<T>()));
            if (has(turn, r)) held[r] = load_raw<S, V>(from + base + (i64)row_of(turn, r) * inner);
        }
    };
    T top[V], sum[V], all[V];
    _Pragma("unroll") for (int i = 0; i < V; i++) top[i] = lowest<T>(), sum[i] = (T)0;
    for (u32 turn = 0; turn < turns; turn++) {
        read(turn);
        _Pragma("unroll") for (int i = 0; i < V; i++) {
            T before = top[i];
            _Pragma("unroll") for (int r = 0; r < R; r++) {
                T v = widen<T>(held[r].at(i));
                top[i] = v > top[i] ? v : top[i];
            }
            T origin = E::origin(top[i]);
            if (turn > 0) sum[i] *= E::of(before, origin);
            _Pragma("unroll") for (int r = 0; r < R; r++) sum[i] += E::of(widen<T>(held[r].at(i)), origin);
        }
    }
    _Pragma("unroll") for (int i = 0; i < V; i++) all[i] = top[i];
    over_lines<T, V, X, THREADS>(all, tops, Greater());
    _Pragma("unroll") for (int i = 0; i < V; i++) sum[i] *= E::of(top[i], E::origin(all[i]));
    over_lines<T, V, X, THREADS>(sum, sums, Added());
    _Pragma("unroll") for (int i = 0; i < V; i++) {
        Share<S, T> share(Mass<T>{all[i], sum[i]}, is_log);
        top[i] = is_log ? share.top : share.origin, sum[i] = share.rest;
    }
    for (u32 turn = turns; turn-- > 0;) {
        if (turn + 1 < turns) read(turn);
        _Pragma("unroll") for (int r = 0; r < R; r++) {
            T x[V];
            open_pack<T, S, V>(x, held[r]);
            if (is_log) {
                _Pragma("unroll") for (int i = 0; i < V; i++) x[i] = x[i] - top[i] + sum[i];
            } else {
                _Pragma("unroll") for (int i = 0; i < V; i++) x[i] = E::of(x[i], top[i]) * sum[i];
            }
            if (has(turn, r)) write_pack<T, S, V>(to + base + (i64)row_of(turn, r) * inner, x);
        }
    }
}

#define SOFTMAX_ROW(SUFFIX, T, S, V, R, LANES, THREADS)                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS, V == 1 ? 1 : 1024 / THREADS)                                        \
        softmax_row##LANES##_##SUFFIX##_v##V##x##R(void *to, const void *from, u32 rows, u32 columns, u32 is_log) { \
        softmax_row<T, S, V, R, LANES>((S *)to, (const S *)from, rows, columns, is_log);                         \
    }
#define SOFTMAX_TILE(SUFFIX, S, V, LANES)                                                                        \
    extern "C" __global__ void __launch_bounds__(256)                                                            \
        softmax_tile##LANES##_##SUFFIX(void *to, const void *from, u32 rows, u32 columns, u32 tile_rows,         \
                                       u32 is_log) {                                                             \
        softmax_tile<S, V, LANES>((S *)to, (const S *)from, rows, columns, tile_rows, is_log);                   \
    }
#define SOFTMAX_SLAB(SUFFIX, S, V)                                                                               \
    extern "C" __global__ void __launch_bounds__(256)                                                            \
        softmax_slab_##SUFFIX(void *to, const void *from, u32 outer, u32 axis, u32 inner, u32 slabs, u32 is_log) { \
        softmax_slab<S, V>((S *)to, (const S *)from, outer, axis, inner, slabs, is_log);                         \
    }
// BOUNDS: threads of a block and, where that helps, the blocks that a processor should hold at once.
#define SOFTMAX_LINE(SUFFIX, T, S, V, R, X, THREADS, BOUNDS)                                                     \
    extern "C" __global__ void __launch_bounds__ BOUNDS                                                          \
        softmax_lines##X##x##THREADS##_##SUFFIX##_v##V##x##R(void *to, const void *from, u32 outer, u32 axis,    \
                                                             u32 inner, u32 is_log) {                            \
        softmax_lines<T, S, V, R, X, THREADS>((S *)to, (const S *)from, outer, axis, inner, is_log);             \
    }

// ONE, TWO: packs of V elements that a thread of a row reads.
#define SOFTMAX_WIDE(SUFFIX, S, V, ONE, TWO)              \
    SOFTMAX_ROW(SUFFIX, float, S, V, ONE, 8, 256)         \
    SOFTMAX_ROW(SUFFIX, float, S, V, TWO, 8, 256)         \
    SOFTMAX_ROW(SUFFIX, float, S, V, ONE, 32, 256)        \
    SOFTMAX_ROW(SUFFIX, float, S, V, TWO, 32, 256)        \
    SOFTMAX_ROW(SUFFIX, float, S, V, ONE, 128, 128)       \
    SOFTMAX_ROW(SUFFIX, float, S, V, TWO, 128, 128)       \
    SOFTMAX_ROW(SUFFIX, float, S, V, TWO, 256, 256)       \
    SOFTMAX_ROW(SUFFIX, float, S, V, TWO, 512, 512)       \
    SOFTMAX_ROW(SUFFIX, float, S, V, TWO, 1024, 1024)     \
    SOFTMAX_TILE(SUFFIX, S, V, 8)                         \
    SOFTMAX_TILE(SUFFIX, S, V, 32)                        \
    SOFTMAX_SLAB(SUFFIX, S, V)                            \
    SOFTMAX_LINE(SUFFIX, float, S, V, 8, 32, 128, (128))  \
    SOFTMAX_LINE(SUFFIX, float, S, V, 8, 8, 128, (128))   \
    SOFTMAX_LINE(SUFFIX, float, S, V, 8, 8, 256, (256))   \
    SOFTMAX_LINE(SUFFIX, float, S, V, 8, 8, 512, (512))
#define SOFTMAX_ODD(SUFFIX, T, S)                         \
    SOFTMAX_ROW(SUFFIX, T, S, 1, 4, 128, 128)             \
    SOFTMAX_ROW(SUFFIX, T, S, 1, 8, 256, 256)             \
    SOFTMAX_LINE(SUFFIX, T, S, 1, 8, 32, 256, (256))      \
    SOFTMAX_LINE(SUFFIX, T, S, 1, 8, 32, 1024, (1024))

SOFTMAX_WIDE(f32, float, 4, 2, 4)
SOFTMAX_WIDE(f16, f16, 8, 1, 2)
SOFTMAX_WIDE(bf16, bf16, 8, 1, 2)
SOFTMAX_LINE(f32, float, float, 4, 4, 8, 128, (128))
SOFTMAX_LINE(f16, float, f16, 8, 4, 16, 256, (256, 4))
SOFTMAX_LINE(bf16, float, bf16, 8, 4, 16, 256, (256, 4))
SOFTMAX_LINE(f32, float, float, 4, 8, 8, 1024, (1024))
SOFTMAX_LINE(f16, float, f16, 8, 4, 8, 1024, (1024))
SOFTMAX_LINE(bf16, float, bf16, 8, 4, 8, 1024, (1024))
SOFTMAX_ODD(f32, float, float)
SOFTMAX_ODD(f16, float, f16)
SOFTMAX_ODD(bf16, float, bf16)
SOFTMAX_ODD(f64, double, double)
SOFTMAX_ROW(f64, double, double, 1, 4, 32, 256)
