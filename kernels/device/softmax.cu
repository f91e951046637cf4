//! Softmax and log-softmax along one axis, computed in f32 (f64 for doubles).
//!
//! Everything is read once where registers hold it. A row wider than a block is shared by blocks that wait for each other's
//! maxima and sums. Short rows that are not whole packs go through shared memory together. An axis that is not the innermost
//! is worked on in packs of neighbouring lines.

__device__ __forceinline__ float r_log(float x) { return logf(x); }
__device__ __forceinline__ double r_log(double x) { return log(x); }

template <class T> __device__ __forceinline__ T lowest() { return -(T)__uint_as_float(0x7f800000u); }

// e^x as precisely as results of type S need it.
template <class S> struct Exponential {
    static __device__ __forceinline__ float of(float x) { return sizeof(S) == 2 ? exp2f(x * 1.44269504f) : expf(x); }
    static __device__ __forceinline__ double of(double x) { return exp(x); }
};

// The largest of some elements, and the sum of exponentials of their distances to it.
template <class T> struct Mass {
    T top, sum;
};

// What distances are taken from: where there is nothing but minus infinity so far, no distance to it is a number.
template <class T> __device__ __forceinline__ T origin(T top) { return top == lowest<T>() ? (T)0 : top; }

template <class S, class T> __device__ __forceinline__ Mass<T> join(Mass<T> a, Mass<T> b) {
    T top = a.top > b.top ? a.top : b.top, from = origin(top);
    return {top, a.sum * Exponential<S>::of(a.top - from) + b.sum * Exponential<S>::of(b.top - from)};
}

// How elements become results: x * scale + shift, of exponentials of distances to the top or, for the logarithm, of distances.
template <class T> struct Share {
    T top, scale, shift;

    __device__ __forceinline__ Share(Mass<T> mass, u32 is_log) : top(mass.top) {
        T sum = mass.sum + (mass.top - mass.top); // infinities make the row NaN
        scale = is_log ? (T)1 : (T)1 / sum;
        shift = is_log ? -r_log(sum) : (T)0;
    }
    template <class S, int V> __device__ __forceinline__ void write(S *to, const T (&x)[V], u32 is_log) const {
        T y[V];
        _Pragma("unroll") for (int i = 0; i < V; i++) {
            T distance = x[i] - top;
            y[i] = (is_log ? distance : Exponential<S>::of(distance)) * scale + shift;
        }
        write_pack<T, S, V>(to, y);
    }
};

// LANES threads a row. The next row is read while one is worked on.
template <class T, class S, int V, int R, int LANES>
__device__ __forceinline__ void softmax_row(S *to, const S *from, u32 rows, u32 columns, u32 is_log) {
    constexpr u32 ROWS = LANES < 128 ? 256 / LANES : 1;
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
        T sum = (T)0;
        _Pragma("unroll") for (int r = 0; r < R; r++) {
            if (now.column(r) >= columns) continue;
            _Pragma("unroll") for (int i = 0; i < V; i++) {
                T distance = x[r][i] - top, exponential = Exponential<S>::of(distance);
                sum += exponential;
                x[r][i] = is_log ? distance : exponential;
            }
        }
        sum = joint.over(sum, Added());
        Share<T> share(Mass<T>{top, sum}, is_log);
        S *target = to + place(first);
        _Pragma("unroll") for (int r = 0; r < R; r++) {
            _Pragma("unroll") for (int i = 0; i < V; i++) x[r][i] = x[r][i] * share.scale + share.shift;
            if (now.column(r) < columns && first + own < rows) write_pack<T, S, V>(target + now.column(r), x[r]);
        }
        now = next;
    }
}

// A wave's worth of masses at a time; every wave joins them all.
template <class S> __device__ __forceinline__ Mass<float> join_parts(const Mass<float> *masses, u32 parts) {
    Mass<float> all = {lowest<float>(), 0.0f};
    for (u32 i = threadIdx.x % WAVE; i < parts; i += WAVE) all = join<S>(all, masses[i]);
    _Pragma("unroll") for (int mask = WAVE / 2; mask > 0; mask >>= 1)
        all = join<S>(all, Mass<float>{exchange(all.top, mask), exchange(all.sum, mask)});
    return all;
}

// What thread 0 of a block finds out about the blocks that share a row.
#define PARTS_NOT_ALL 0 // some have not come: the last one writes for this one
#define PARTS_ALL 1     // each writes what it holds
#define PARTS_LAST 2    // this one is the last, and others have not waited: it writes the whole row

// The blocks of a row meet. None waits for ever: where blocks run one after the other, the last one does the writing.
// `counts`: of those that came, plus 2^16 for each that left; and of those that did not wait.
__device__ __forceinline__ u32 meet(u32 *counts, u32 parts) {
    __threadfence();
    u32 earlier = atomicAdd(counts, 1u) & 0xffff, state = PARTS_ALL;
    if (earlier + 1 == parts) {
        __threadfence();
        if (atomicAdd(counts + 1, 0u) > 0) state = PARTS_LAST;
    } else {
        u32 polls = 0;
        while ((atomicAdd(counts, 0u) & 0xffff) < parts && ++polls < 1000) {}
        if (polls == 1000) {
            atomicAdd(counts + 1, 1u);
            __threadfence();
            if ((atomicAdd(counts, 0u) & 0xffff) < parts) state = PARTS_NOT_ALL;
        }
    }
    __threadfence();
    return state;
}

// The last block to leave a row clears its counts for the next launch.
__device__ __forceinline__ void leave(u32 *counts, u32 parts) {
    if (atomicAdd(counts, 0x10000u) >> 16 == parts - 1) counts[0] = counts[1] = 0;
}

// Rows that several blocks share: PART_THREADS * R packs each. Blocks along x: parts of a row, along y: rows.
template <class S, int V, int R>
__device__ __forceinline__ void softmax_parts(S *to, Mass<float> *masses, u32 *counts, const S *from, u32 rows,
                                              u32 columns, u32 is_log) {
    __shared__ float space[2][PART_THREADS / WAVE];
    __shared__ u32 state;
    begin_kernel();
    RowJoint<float, PART_THREADS> joint = {space, 0};
    HeldRow<S, V, R, PART_THREADS> part;
    u32 begin = blockIdx.x * PART_THREADS * V * R, left = columns - begin, parts = gridDim.x;
    for (u32 row = blockIdx.y; row < rows; row += gridDim.y) {
        const S *source = from + (i64)row * columns;
        S *target = to + (i64)row * columns;
        part.read(source + begin, left);
        float x[V], top = lowest<float>(), sum = 0.0f;
        _Pragma("unroll") for (int r = 0; r < R; r++) {
            if (part.column(r) >= left) continue;
            open_pack<float, S, V>(x, part.at[r]);
            _Pragma("unroll") for (int i = 0; i < V; i++) top = x[i] > top ? x[i] : top;
        }
        top = joint.over(top, Greater());
        float zero = origin(top);
        _Pragma("unroll") for (int r = 0; r < R; r++) {
            if (part.column(r) >= left) continue;
            open_pack<float, S, V>(x, part.at[r]);
            _Pragma("unroll") for (int i = 0; i < V; i++) sum += Exponential<S>::of(x[i] - zero);
        }
        sum = joint.over(sum, Added());
        if (threadIdx.x == 0) {
            masses[(i64)row * parts + blockIdx.x] = Mass<float>{top, sum};
            state = meet(counts + row * 2, parts);
        }
        __syncthreads();
        Share<float> share(join_parts<S>(masses + (i64)row * parts, parts), is_log);
        if (state == PARTS_ALL) {
            _Pragma("unroll") for (int r = 0; r < R; r++) {
                if (part.column(r) >= left) continue;
                open_pack<float, S, V>(x, part.at[r]);
                share.write(target + begin + part.column(r), x, is_log);
            }
        } else if (state == PARTS_LAST) {
            for (u32 column = threadIdx.x * V; column < columns; column += PART_THREADS * V) {
                open_pack<float, S, V>(x, load_raw<S, V>(source + column));
                share.write(target + column, x, is_log);
            }
        }
        __syncthreads();
        if (threadIdx.x == 0) leave(counts + row * 2, parts);
    }
}

// Short rows, `tile_rows` of them a block: whole packs between global and shared memory, LANES threads a row in between.
template <class S, int V, int LANES>
__device__ __forceinline__ void softmax_tile(S *to, const S *from, u32 rows, u32 columns, u32 tile_rows, u32 is_log) {
    constexpr int K = 8;
    __shared__ Pack<S, TILE_BYTES / sizeof(S)> tile;
    begin_kernel();
    u32 first = blockIdx.x * tile_rows, count = rows - first < tile_rows ? rows - first : tile_rows;
    i64 base = (i64)first * columns;
    move_tile<S, V>(tile.at, from + base, count * columns);
    __syncthreads();
    u32 lane = threadIdx.x % LANES;
    // Lanes that exchange values stay together to the end, with or without a row.
    for (u32 r = 0; r < count; r += 256 / LANES) {
        u32 own = r + threadIdx.x / LANES;
        S *row = tile.at + (own < count ? own : 0) * columns + lane;
        float x[K], top = lowest<float>(), sum = 0.0f;
        _Pragma("unroll") for (int k = 0; k < K; k++) {
            x[k] = lowest<float>();
            if (own < count && lane + k * LANES < columns) x[k] = widen<float>(row[k * LANES]);
            top = x[k] > top ? x[k] : top;
        }
        top = over_lanes<LANES>(top, Greater());
        _Pragma("unroll") for (int k = 0; k < K; k++) {
            if (k * LANES >= columns) continue;
            float distance = x[k] - top, exponential = Exponential<S>::of(distance);
            sum += lane + k * LANES < columns ? exponential : 0.0f;
            x[k] = is_log ? distance : exponential;
        }
        sum = over_lanes<LANES>(sum, Added());
        Share<float> share(Mass<float>{top, sum}, is_log);
        _Pragma("unroll") for (int k = 0; k < K; k++)
            if (own < count && lane + k * LANES < columns)
                row[k * LANES] = Narrow<S>::from(x[k] * share.scale + share.shift);
    }
    __syncthreads();
    move_tile<S, V>(to + base, tile.at, count * columns);
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
            T zero = origin(top[i]);
            if (turn > 0) sum[i] *= Exponential<S>::of(before - zero);
            _Pragma("unroll") for (int r = 0; r < R; r++) sum[i] += Exponential<S>::of(widen<T>(held[r].at(i)) - zero);
        }
    }
    _Pragma("unroll") for (int i = 0; i < V; i++) all[i] = top[i];
    over_lines<T, V, X, THREADS>(all, tops, Greater());
    _Pragma("unroll") for (int i = 0; i < V; i++) sum[i] *= Exponential<S>::of(top[i] - origin(all[i]));
    over_lines<T, V, X, THREADS>(sum, sums, Added());
    _Pragma("unroll") for (int i = 0; i < V; i++) {
        Share<T> share(Mass<T>{all[i], sum[i]}, is_log);
        top[i] = share.top, sum[i] = is_log ? share.shift : share.scale;
    }
    for (u32 turn = turns; turn-- > 0;) {
        if (turn + 1 < turns) read(turn);
        _Pragma("unroll") for (int r = 0; r < R; r++) {
            T x[V];
            open_pack<T, S, V>(x, held[r]);
            _Pragma("unroll") for (int i = 0; i < V; i++)
                x[i] = is_log ? x[i] - top[i] + sum[i] : Exponential<S>::of(x[i] - top[i]) * sum[i];
            if (has(turn, r)) write_pack<T, S, V>(to + base + (i64)row_of(turn, r) * inner, x);
        }
    }
}

#define SOFTMAX_ROW(SUFFIX, T, S, V, R, LANES, THREADS)                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS, V == 1 ? 1 : 1024 / THREADS)                                        \
        softmax_row##LANES##_##SUFFIX##_v##V##x##R(void *to, const void *from, u32 rows, u32 columns, u32 is_log) { \
        softmax_row<T, S, V, R, LANES>((S *)to, (const S *)from, rows, columns, is_log);                         \
    }
#define SOFTMAX_PARTS(SUFFIX, S, V, R)                                                                           \
    extern "C" __global__ void __launch_bounds__(PART_THREADS, 1024 / PART_THREADS)                              \
        softmax_parts_##SUFFIX##_v##V##x##R(void *to, void *masses, void *counts, const void *from, u32 rows,    \
                                      u32 columns, u32 is_log) {                                                 \
        softmax_parts<S, V, R>((S *)to, (Mass<float> *)masses, (u32 *)counts, (const S *)from, rows, columns,    \
                               is_log);                                                                          \
    }
#define SOFTMAX_TILE(SUFFIX, S, V, LANES)                                                                        \
    extern "C" __global__ void __launch_bounds__(256)                                                            \
        softmax_tile##LANES##_##SUFFIX(void *to, const void *from, u32 rows, u32 columns, u32 tile_rows,         \
                                       u32 is_log) {                                                             \
        softmax_tile<S, V, LANES>((S *)to, (const S *)from, rows, columns, tile_rows, is_log);                   \
    }
#define SOFTMAX_LINE(SUFFIX, T, S, V, R, X, THREADS)                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                        \
        softmax_lines##X##x##THREADS##_##SUFFIX##_v##V##x##R(void *to, const void *from, u32 outer, u32 axis,          \
                                                       u32 inner, u32 is_log) {                                  \
        softmax_lines<T, S, V, R, X, THREADS>((S *)to, (const S *)from, outer, axis, inner, is_log);             \
    }

// ONE, TWO: packs of V elements that a thread of a row reads. LAST: what one of the longest lines does.
#define SOFTMAX_WIDE(SUFFIX, S, V, ONE, TWO, LAST)        \
    SOFTMAX_ROW(SUFFIX, float, S, V, ONE, 8, 256)         \
    SOFTMAX_ROW(SUFFIX, float, S, V, TWO, 8, 256)         \
    SOFTMAX_ROW(SUFFIX, float, S, V, ONE, 32, 256)        \
    SOFTMAX_ROW(SUFFIX, float, S, V, TWO, 32, 256)        \
    SOFTMAX_ROW(SUFFIX, float, S, V, ONE, 128, 128)       \
    SOFTMAX_ROW(SUFFIX, float, S, V, TWO, 128, 128)       \
    SOFTMAX_ROW(SUFFIX, float, S, V, TWO, 256, 256)       \
    SOFTMAX_ROW(SUFFIX, float, S, V, TWO, 512, 512)       \
    SOFTMAX_ROW(SUFFIX, float, S, V, TWO, 1024, 1024)     \
    SOFTMAX_PARTS(SUFFIX, S, V, 2)                        \
    SOFTMAX_PARTS(SUFFIX, S, V, 8)                        \
    SOFTMAX_PARTS(SUFFIX, S, 1, 8)                        \
    SOFTMAX_TILE(SUFFIX, S, V, 8)                         \
    SOFTMAX_TILE(SUFFIX, S, V, 32)                        \
    SOFTMAX_LINE(SUFFIX, float, S, V, 8, 32, 128)         \
    SOFTMAX_LINE(SUFFIX, float, S, V, 4, 8, 128)          \
    SOFTMAX_LINE(SUFFIX, float, S, V, 8, 8, 128)          \
    SOFTMAX_LINE(SUFFIX, float, S, V, 8, 8, 256)          \
    SOFTMAX_LINE(SUFFIX, float, S, V, 8, 8, 512)          \
    SOFTMAX_LINE(SUFFIX, float, S, V, LAST, 8, 1024)
#define SOFTMAX_ODD(SUFFIX, T, S)                         \
    SOFTMAX_ROW(SUFFIX, T, S, 1, 4, 32, 256)              \
    SOFTMAX_ROW(SUFFIX, T, S, 1, 4, 128, 128)             \
    SOFTMAX_ROW(SUFFIX, T, S, 1, 8, 256, 256)             \
    SOFTMAX_LINE(SUFFIX, T, S, 1, 8, 32, 256)             \
    SOFTMAX_LINE(SUFFIX, T, S, 1, 8, 32, 1024)

SOFTMAX_WIDE(f32, float, 4, 2, 4, 8)
SOFTMAX_WIDE(f16, f16, 8, 1, 2, 4)
SOFTMAX_WIDE(bf16, bf16, 8, 1, 2, 4)
SOFTMAX_ODD(f32, float, float)
SOFTMAX_ODD(f16, float, f16)
SOFTMAX_ODD(bf16, float, bf16)
SOFTMAX_ODD(f64, double, double)
