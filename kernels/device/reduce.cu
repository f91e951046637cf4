//! Reductions over any set of axes, and the positions of extremes.
//!
//! The input is seen as kept dimensions times reduced dimensions, each with strides. Floats whose reduced elements are
//! neighbours, or whose outputs are, are read in vectors; where there are few outputs, blocks share one and its parts are
//! joined afterwards. Everything else: a block an output, or a thread an output.

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
    u32 parts, part_count; // where the elements of an output are shared by several blocks
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

// An operator as a type, so that loops over elements hold no switch.
template <class T, u32 OP> struct Reducer {
    static __device__ __forceinline__ State<T> start() { return ::start<T>(OP); }
    static __device__ __forceinline__ State<T> element(T x) { return ::element<T>(OP, x); }
    static __device__ __forceinline__ State<T> merge(State<T> a, State<T> b) { return ::merge<T>(OP, a, b); }
};

// Does BODY with R as the reducer of T for OP.
#define FOR_REDUCER(OP, T, BODY)                                                     \
    switch (OP) {                                                                    \
    case REDUCE_MAX: { typedef Reducer<T, REDUCE_MAX> R; BODY } break;               \
    case REDUCE_MIN: { typedef Reducer<T, REDUCE_MIN> R; BODY } break;               \
    case REDUCE_PRODUCT: { typedef Reducer<T, REDUCE_PRODUCT> R; BODY } break;       \
    case REDUCE_L1: { typedef Reducer<T, REDUCE_L1> R; BODY } break;                 \
    case REDUCE_LOG_SUM_EXP: { typedef Reducer<T, REDUCE_LOG_SUM_EXP> R; BODY } break; \
    case REDUCE_SUM_SQUARE:                                                          \
    case REDUCE_L2: { typedef Reducer<T, REDUCE_SUM_SQUARE> R; BODY } break;         \
    default: { typedef Reducer<T, REDUCE_SUM> R; BODY } break;                       \
    }

template <class R, int LANES, class T> __device__ __forceinline__ State<T> merge_row(State<T> mine, State<T> *space) {
    _Pragma("unroll") for (int mask = (LANES < WAVE ? LANES : WAVE) / 2; mask > 0; mask >>= 1)
        mine = R::merge(mine, State<T>{exchange(mine.s, mask), exchange(mine.m, mask)});
    if (LANES <= WAVE) return mine;
    __syncthreads();
    if (threadIdx.x % WAVE == 0) space[threadIdx.x / WAVE] = mine;
    __syncthreads();
    mine = space[0];
    for (int i = 1; i < LANES / WAVE; i++) mine = R::merge(mine, space[i]);
    return mine;
}

// The result, or where the reduction is cut into parts what later makes it.
template <class T>
__device__ __forceinline__ void put(void *to, State<T> *states, u32 output, u32 part, State<T> state,
                                    const ReduceParams &p) {
    if (p.parts > 1) {
        states[(i64)output * p.parts + part] = state;
    } else {
        store_as<T>(to, output, p.out_dtype, finish(p.op, state, p.count));
    }
}

// Reduced elements are neighbours: LANES threads an output, V elements at a time. Blocks along y: parts of the outputs.
template <class R, class T, class S, int V, int LANES>
__device__ __forceinline__ void reduce_row(void *to, State<T> *states, const S *from, const ReduceParams &p,
                                           State<T> *space) {
    u32 lane = threadIdx.x % LANES, rows = 256 / LANES;
    u32 begin = blockIdx.y * p.part_count, end = begin + p.part_count < p.count ? begin + p.part_count : p.count;
    // Lanes that exchange values stay together to the end, with or without an output.
    for (u32 first = blockIdx.x * rows; first < p.outputs; first += gridDim.x * rows) {
        u32 own = first + threadIdx.x / LANES, output = own < p.outputs ? own : p.outputs - 1;
        const S *row = from + strided_offset(output, p.kept_rank, p.kept_dims, p.kept_strides);
        State<T> states_of[V];
        _Pragma("unroll") for (int i = 0; i < V; i++) states_of[i] = R::start();
        _Pragma("unroll 4") for (u32 c = begin + lane * V; c < end; c += LANES * V) {
            Pack<S, V> pack = load_pack<S, V>(row + c);
            _Pragma("unroll") for (int i = 0; i < V; i++)
                states_of[i] = R::merge(states_of[i], R::element(widen<T>(pack.at[i])));
        }
        _Pragma("unroll") for (int i = 1; i < V; i++) states_of[0] = R::merge(states_of[0], states_of[i]);
        State<T> all = merge_row<R, LANES>(states_of[0], space);
        if (lane == 0 && own < p.outputs) put(to, states, output, blockIdx.y, all, p);
    }
}

// Outputs are neighbours, one dimension is reduced: 32 threads side by side, V outputs each, and 8 that share the reduced
// elements. Blocks: x along outputs, y along parts, z along what lies outside.
template <class R, class T, class S, int V>
__device__ __forceinline__ void reduce_column(void *to, State<T> *states, const S *from, const ReduceParams &p,
                                              T *sums, T *maxima) {
    constexpr int PITCH = 32 * V + 1;
    u32 x = threadIdx.x % 32, y = threadIdx.x / 32;
    u32 inner = p.kept_dims[0], outer = p.outputs / inner, column = (blockIdx.x * 32 + x) * V;
    u32 begin = blockIdx.y * p.part_count, end = begin + p.part_count < p.count ? begin + p.part_count : p.count;
    for (u32 o = blockIdx.z; o < outer; o += gridDim.z) {
        State<T> mine[V];
        _Pragma("unroll") for (int i = 0; i < V; i++) mine[i] = R::start();
        if (column < inner) {
            const S *top = from + (i64)o * p.kept_strides[1] + column;
            _Pragma("unroll 2") for (u32 r = begin + y; r < end; r += 8) {
                Pack<S, V> pack = load_pack<S, V>(top + (i64)r * p.reduced_strides[0]);
                _Pragma("unroll") for (int i = 0; i < V; i++)
                    mine[i] = R::merge(mine[i], R::element(widen<T>(pack.at[i])));
            }
        }
        __syncthreads();
        _Pragma("unroll") for (int i = 0; i < V; i++) {
            sums[y * PITCH + x * V + i] = mine[i].s;
            maxima[y * PITCH + x * V + i] = mine[i].m;
        }
        __syncthreads();
        u32 own = blockIdx.x * 32 * V + threadIdx.x;
        if (threadIdx.x < 32 * V && own < inner) {
            State<T> all = R::start();
            for (u32 at = threadIdx.x; at < 8 * PITCH; at += PITCH)
                all = R::merge(all, State<T>{sums[at], maxima[at]});
            put(to, states, o * inner + own, blockIdx.y, all, p);
        }
    }
}

// Joins the parts of each output: a wave an output.
template <class T>
__device__ __forceinline__ void reduce_parts(void *to, const State<T> *states, const ReduceParams &p) {
    begin_kernel();
    u32 lane = threadIdx.x % WAVE;
    for (u32 output = blockIdx.x * (256 / WAVE) + threadIdx.x / WAVE; output < p.outputs;
         output += gridDim.x * (256 / WAVE)) {
        State<T> mine = start<T>(p.op);
        for (u32 i = lane; i < p.parts; i += WAVE) mine = merge(p.op, mine, states[(i64)output * p.parts + i]);
        for (int mask = WAVE / 2; mask > 0; mask >>= 1)
            mine = merge(p.op, mine, State<T>{exchange(mine.s, mask), exchange(mine.m, mask)});
        if (lane == 0) store_as<T>(to, output, p.out_dtype, finish(p.op, mine, p.count));
    }
}

// Any strides and types: a block of 256 threads an output, or a thread an output.
template <class T> __device__ __forceinline__ void reduce_by_block(void *to, const void *from, const ReduceParams &p) {
    __shared__ T sums[256];
    __shared__ T maxima[256];
    begin_kernel();
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
    begin_kernel();
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

// Whether `value` at `position` goes before `best` at `at`; of equals the first, or the last.
template <class T>
__device__ __forceinline__ bool goes_before(T value, u32 position, T best, u32 at, const ReduceParams &p) {
    if (value == best) return p.is_last ? position > at : position < at;
    return p.op == REDUCE_MAX ? value > best : value < best;
}

// The position (int64) of the largest or smallest element along one axis: a block an output.
template <class T> __device__ __forceinline__ void find_extreme(i64 *to, const void *from, const ReduceParams &p) {
    __shared__ T values[256];
    __shared__ u32 positions[256];
    begin_kernel();
    for (u32 output = blockIdx.x; output < p.outputs; output += gridDim.x) {
        i64 base = strided_offset(output, p.kept_rank, p.kept_dims, p.kept_strides);
        T best = load_as<T>(from, base, p.dtype);
        u32 at = 0;
        for (u32 i = threadIdx.x; i < p.count; i += 256) {
            T value = load_as<T>(from, base + (i64)i * p.reduced_strides[0], p.dtype);
            if (goes_before(value, i, best, at, p)) {
                best = value;
                at = i;
            }
        }
        __syncthreads();
        values[threadIdx.x] = best;
        positions[threadIdx.x] = at;
        for (u32 half = 128; half > 0; half >>= 1) {
            __syncthreads();
            if (threadIdx.x >= half) continue;
            u32 other = threadIdx.x + half;
            if (goes_before(values[other], positions[other], values[threadIdx.x], positions[threadIdx.x], p)) {
                values[threadIdx.x] = values[other];
                positions[threadIdx.x] = positions[other];
            }
        }
        if (threadIdx.x == 0) to[output] = positions[0];
    }
}

// The extreme of every EXTREME_THREADS-th pack of a row, as the largest of values whose sign FLIP turns, and where it is. Positions grow,
// so of equals the first one stays, or IS_LAST the last one.
template <class S, int V, bool FLIP, bool IS_LAST>
__device__ __forceinline__ void scan_row(const S *row, u32 count, float &best, u32 &at) {
    _Pragma("unroll 4") for (u32 i = threadIdx.x * V; i < count; i += EXTREME_THREADS * V) {
        Pack<S, V> pack = load_pack<S, V>(row + i);
        _Pragma("unroll") for (int k = 0; k < V; k++) {
            float value = FLIP ? -widen<float>(pack.at[k]) : widen<float>(pack.at[k]);
            bool wins = IS_LAST ? value >= best : value > best;
            best = wins ? value : best;
            at = wins ? i + k : at;
        }
    }
}

// The same for floats that are neighbours, V at a time.
template <class S, int V> __device__ __forceinline__ void find_extreme_row(i64 *to, const S *from, const ReduceParams &p) {
    __shared__ float values[EXTREME_THREADS / WAVE];
    __shared__ u32 positions[EXTREME_THREADS / WAVE];
    begin_kernel();
    for (u32 output = blockIdx.x; output < p.outputs; output += gridDim.x) {
        const S *row = from + (i64)output * p.count;
        float best = widen<float>(row[0]);
        u32 at = 0;
        if (p.op == REDUCE_MIN) {
            best = -best;
            if (p.is_last) scan_row<S, V, true, true>(row, p.count, best, at);
            else scan_row<S, V, true, false>(row, p.count, best, at);
            best = -best;
        } else {
            if (p.is_last) scan_row<S, V, false, true>(row, p.count, best, at);
            else scan_row<S, V, false, false>(row, p.count, best, at);
        }
        _Pragma("unroll") for (int mask = WAVE / 2; mask > 0; mask >>= 1) {
            float value = exchange(best, mask);
            u32 position = wave_xor(at, mask);
            if (goes_before(value, position, best, at, p)) {
                best = value;
                at = position;
            }
        }
        __syncthreads();
        if (threadIdx.x % WAVE == 0) {
            values[threadIdx.x / WAVE] = best;
            positions[threadIdx.x / WAVE] = at;
        }
        __syncthreads();
        if (threadIdx.x != 0) continue;
        for (int i = 1; i < EXTREME_THREADS / WAVE; i++)
            if (goes_before(values[i], positions[i], best, at, p)) {
                best = values[i];
                at = positions[i];
            }
        to[output] = at;
    }
}

// The same, a thread an output: where outputs are neighbours or the axis is short.
template <class T>
__device__ __forceinline__ void find_extreme_by_thread(i64 *to, const void *from, const ReduceParams &p) {
    begin_kernel();
    u32 output = blockIdx.x * blockDim.x + threadIdx.x;
    if (output >= p.outputs) return;
    i64 base = strided_offset(output, p.kept_rank, p.kept_dims, p.kept_strides);
    T best = load_as<T>(from, base, p.dtype);
    u32 at = 0;
    for (u32 i = 1; i < p.count; i++) {
        T value = load_as<T>(from, base + (i64)i * p.reduced_strides[0], p.dtype);
        if (goes_before(value, i, best, at, p)) {
            best = value;
            at = i;
        }
    }
    to[output] = at;
}

#define REDUCE_ARGUMENTS void *to, void *states, const void *from, const __grid_constant__ ReduceParams p

#define REDUCE_FLOATS(SUFFIX, S, V)                                                                          \
    extern "C" __global__ void __launch_bounds__(256) reduce_wave_##SUFFIX##_v##V(REDUCE_ARGUMENTS) {        \
        begin_kernel();                                                                                      \
        State<float> *parts = (State<float> *)states;                                                        \
        FOR_REDUCER(p.op, float, (reduce_row<R, float, S, V, WAVE>(to, parts, (const S *)from, p, parts));)  \
    }                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256) reduce_row_##SUFFIX##_v##V(REDUCE_ARGUMENTS) {         \
        __shared__ State<float> space[256 / WAVE];                                                           \
        begin_kernel();                                                                                      \
        State<float> *parts = (State<float> *)states;                                                        \
        FOR_REDUCER(p.op, float, (reduce_row<R, float, S, V, 256>(to, parts, (const S *)from, p, space));)   \
    }                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256) reduce_column_##SUFFIX##_v##V(REDUCE_ARGUMENTS) {      \
        __shared__ float sums[8 * (32 * V + 1)], maxima[8 * (32 * V + 1)];                                   \
        begin_kernel();                                                                                      \
        State<float> *parts = (State<float> *)states;                                                        \
        FOR_REDUCER(p.op, float, (reduce_column<R, float, S, V>(to, parts, (const S *)from, p, sums, maxima));) \
    }

#define FIND_EXTREME_ROWS(SUFFIX, S, V)                                                                      \
    extern "C" __global__ void __launch_bounds__(EXTREME_THREADS)                                                      \
        find_extreme_row_##SUFFIX##_v##V(void *to, const void *from, const __grid_constant__ ReduceParams p) { \
        find_extreme_row<S, V>((i64 *)to, (const S *)from, p);                                               \
    }

FIND_EXTREME_ROWS(f32, float, 4)
FIND_EXTREME_ROWS(f16, f16, 8)
FIND_EXTREME_ROWS(bf16, bf16, 8)

extern "C" __global__ void __launch_bounds__(256)
    reduce_parts_f32(void *to, const void *states, const __grid_constant__ ReduceParams p) {
    reduce_parts(to, (const State<float> *)states, p);
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
        find_extreme_block_##SUFFIX(void *to, const void *from, const __grid_constant__ ReduceParams p) {    \
        find_extreme<T>((i64 *)to, from, p);                                                                 \
    }                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256)                                                        \
        find_extreme_thread_##SUFFIX(void *to, const void *from, const __grid_constant__ ReduceParams p) {   \
        find_extreme_by_thread<T>((i64 *)to, from, p);                                                       \
    }

// Rows of few elements, `part_count` of them a block: whole packs to shared memory, then 8 threads an output.
template <class R, class S, int V>
__device__ __forceinline__ void reduce_tile(void *to, const S *from, const ReduceParams &p, S *tile) {
    u32 first = blockIdx.x * p.part_count, rows = p.outputs - first < p.part_count ? p.outputs - first : p.part_count;
    move_tile<S, V>(tile, from + (i64)first * p.count, rows * p.count);
    __syncthreads();
    // Lanes that exchange values stay together to the end, with or without an output.
    for (u32 r = 0; r < rows; r += 256 / 8) {
        u32 own = r + threadIdx.x / 8, row = own < rows ? own : rows - 1;
        State<float> mine = R::start();
        _Pragma("unroll 8") for (u32 c = threadIdx.x % 8; c < p.count; c += 8)
            mine = R::merge(mine, R::element(widen<float>(tile[row * p.count + c])));
        mine = merge_row<R, 8>(mine, (State<float> *)0);
        if (threadIdx.x % 8 == 0 && own < rows)
            store_as<float>(to, first + own, p.out_dtype, finish(p.op, mine, p.count));
    }
}

#define REDUCE_TILE(SUFFIX, S, V)                                                                            \
    extern "C" __global__ void __launch_bounds__(256) reduce_tile_##SUFFIX(REDUCE_ARGUMENTS) {               \
        __shared__ Pack<S, TILE_BYTES / sizeof(S)> tile;                                                     \
        begin_kernel();                                                                                      \
        FOR_REDUCER(p.op, float, (reduce_tile<R, S, V>(to, (const S *)from, p, tile.at));)                   \
    }

REDUCE_TILE(f32, float, 4)
REDUCE_TILE(f16, f16, 8)
REDUCE_TILE(bf16, bf16, 8)

#define REDUCE_FEW(SUFFIX, S)                                                                                \
    extern "C" __global__ void __launch_bounds__(256) reduce_few_##SUFFIX##_v1(REDUCE_ARGUMENTS) {           \
        begin_kernel();                                                                                      \
        State<float> *parts = (State<float> *)states;                                                        \
        FOR_REDUCER(p.op, float, (reduce_row<R, float, S, 1, 8>(to, parts, (const S *)from, p, parts));)     \
    }

REDUCE_FEW(f32, float)
REDUCE_FEW(f16, f16)
REDUCE_FEW(bf16, bf16)
REDUCE_FLOATS(f32, float, 4)
REDUCE_FLOATS(f16, f16, 8)
REDUCE_FLOATS(bf16, bf16, 8)
REDUCE_FLOATS(f32, float, 1)
REDUCE_FLOATS(f16, f16, 1)
REDUCE_FLOATS(bf16, bf16, 1)
REDUCE_KERNELS(f32, float)
REDUCE_KERNELS(f64, double)
REDUCE_KERNELS(i64, i64)
