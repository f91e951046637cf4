//! Softmax and log-softmax along one axis, computed in f32 (f64 for doubles).
//!
//! A row that fits the registers of a wave or of a block is read once; a longer one, or an axis that is not the innermost,
//! is read twice: for its maximum and the sum of exponentials together, then for the result.

__device__ __forceinline__ float r_exp(float x) { return expf(x); }
__device__ __forceinline__ double r_exp(double x) { return exp(x); }
__device__ __forceinline__ float r_log(float x) { return logf(x); }
__device__ __forceinline__ double r_log(double x) { return log(x); }

template <class T> __device__ __forceinline__ T lowest() { return -(T)__uint_as_float(0x7f800000u); }

// The largest of some elements, and the sum of exponentials of their distances to it.
template <class T> struct Mass {
    T top, sum;
};

template <class T> __device__ __forceinline__ Mass<T> join(Mass<T> a, Mass<T> b) {
    T top = a.top > b.top ? a.top : b.top;
    // Nothing but minus infinity so far: no distance is a number.
    T left = a.top == top ? a.sum : a.sum * r_exp(a.top - top);
    T right = b.top == top ? b.sum : b.sum * r_exp(b.top - top);
    return {top, left + right};
}

template <class T> __device__ __forceinline__ T share(T v, Mass<T> mass, T scale, T shift, u32 is_log) {
    return is_log ? v - mass.top - shift : r_exp(v - mass.top) * scale;
}

// LANES threads a row of at most R packs of V elements each.
template <class T, class S, int V, int R, int LANES>
__device__ __forceinline__ void softmax_row(S *to, const S *from, u32 rows, u32 columns, u32 is_log) {
    constexpr u32 ROWS = LANES == WAVE ? 256 / WAVE : 1;
    __shared__ T space[LANES / WAVE];
    begin_kernel();
    u32 lane = threadIdx.x % LANES;
    for (u32 row = blockIdx.x * ROWS + threadIdx.x / LANES; row < rows; row += gridDim.x * ROWS) {
        i64 base = (i64)row * columns;
        T x[R][V];
        T top = lowest<T>();
        _Pragma("unroll") for (int r = 0; r < R; r++) {
            u32 column = (r * LANES + lane) * V;
            if (column < columns) {
                Pack<S, V> pack = load_pack<S, V>(from + base + column);
                _Pragma("unroll") for (int i = 0; i < V; i++) x[r][i] = widen<T>(pack.at[i]);
            } else {
                _Pragma("unroll") for (int i = 0; i < V; i++) x[r][i] = lowest<T>();
            }
        }
        _Pragma("unroll") for (int r = 0; r < R; r++)
            _Pragma("unroll") for (int i = 0; i < V; i++) top = x[r][i] > top ? x[r][i] : top;
        top = over_row<LANES>(top, space, Greater());
        T sum = (T)0;
        _Pragma("unroll") for (int r = 0; r < R; r++) {
            if ((r * LANES + lane) * V >= columns) continue;
            _Pragma("unroll") for (int i = 0; i < V; i++) {
                T distance = x[r][i] - top, exponential = r_exp(distance);
                sum += exponential;
                x[r][i] = is_log ? distance : exponential;
            }
        }
        sum = over_row<LANES>(sum, space, Added());
        T scale = (T)1 / sum, shift = r_log(sum);
        _Pragma("unroll") for (int r = 0; r < R; r++) {
            u32 column = (r * LANES + lane) * V;
            Pack<S, V> pack;
            _Pragma("unroll") for (int i = 0; i < V; i++)
                pack.at[i] = Narrow<S>::from(is_log ? x[r][i] - shift : x[r][i] * scale);
            if (column < columns) *(Pack<S, V> *)(to + base + column) = pack;
        }
    }
}

// A block of 1024 threads a row: so few rows are under way at a time that the second reading finds the cache.
template <class T, class S, int V>
__device__ __forceinline__ void softmax_long(S *to, const S *from, u32 rows, u32 columns, u32 is_log) {
    __shared__ T tops[1024 / WAVE], sums[1024 / WAVE];
    begin_kernel();
    for (u32 row = blockIdx.x; row < rows; row += gridDim.x) {
        const S *source = from + (i64)row * columns;
        S *target = to + (i64)row * columns;
        Mass<T> mass = {lowest<T>(), (T)0};
        _Pragma("unroll 2") for (u32 column = threadIdx.x * V; column < columns; column += 1024 * V) {
            Pack<S, V> pack = load_pack<S, V>(source + column);
            T top = mass.top;
            _Pragma("unroll") for (int i = 0; i < V; i++) {
                T v = widen<T>(pack.at[i]);
                top = v > top ? v : top;
            }
            T sum = mass.top == top ? mass.sum : mass.sum * r_exp(mass.top - top);
            _Pragma("unroll") for (int i = 0; i < V; i++) {
                T v = widen<T>(pack.at[i]);
                sum += v == top ? (T)1 : r_exp(v - top);
            }
            mass = Mass<T>{top, sum};
        }
        _Pragma("unroll") for (int mask = WAVE / 2; mask > 0; mask >>= 1)
            mass = join(mass, Mass<T>{exchange(mass.top, mask), exchange(mass.sum, mask)});
        __syncthreads();
        if (threadIdx.x % WAVE == 0) {
            tops[threadIdx.x / WAVE] = mass.top;
            sums[threadIdx.x / WAVE] = mass.sum;
        }
        __syncthreads();
        mass = Mass<T>{tops[0], sums[0]};
        for (int i = 1; i < 1024 / WAVE; i++) mass = join(mass, Mass<T>{tops[i], sums[i]});
        mass.sum += mass.top - mass.top; // infinities make the row NaN
        T scale = (T)1 / mass.sum, shift = r_log(mass.sum);
        _Pragma("unroll 2") for (u32 column = threadIdx.x * V; column < columns; column += 1024 * V) {
            Pack<S, V> pack = load_pack<S, V>(source + column);
            _Pragma("unroll") for (int i = 0; i < V; i++)
                pack.at[i] = Narrow<S>::from(share(widen<T>(pack.at[i]), mass, scale, shift, is_log));
            *(Pack<S, V> *)(target + column) = pack;
        }
    }
}

// Neighbouring threads work on neighbouring lines: for an axis that is not the innermost.
template <class T, class S>
__device__ __forceinline__ void softmax_line(S *to, const S *from, u32 outer, u32 axis, u32 inner, u32 is_log) {
    begin_kernel();
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= outer * inner) return;
    i64 base = (i64)(at / inner) * axis * inner + at % inner;
    Mass<T> mass = {widen<T>(from[base]), (T)1};
    _Pragma("unroll 4") for (u32 i = 1; i < axis; i++)
        mass = join(mass, Mass<T>{widen<T>(from[base + (i64)i * inner]), (T)1});
    mass.sum += mass.top - mass.top;
    T scale = (T)1 / mass.sum, shift = r_log(mass.sum);
    _Pragma("unroll 4") for (u32 i = 0; i < axis; i++) {
        T v = widen<T>(from[base + (i64)i * inner]);
        to[base + (i64)i * inner] = Narrow<S>::from(share(v, mass, scale, shift, is_log));
    }
}

#define SOFTMAX_ROWS(SUFFIX, T, S, V, R, NAME, LANES, THREADS)                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                        \
        softmax_##NAME##_##SUFFIX##_v##V##x##R(void *to, const void *from, u32 rows, u32 columns, u32 is_log) {  \
        softmax_row<T, S, V, R, LANES>((S *)to, (const S *)from, rows, columns, is_log);                         \
    }
#define SOFTMAX_LONG(SUFFIX, T, S, V)                                                                            \
    extern "C" __global__ void __launch_bounds__(1024)                                                           \
        softmax_long_##SUFFIX##_v##V(void *to, const void *from, u32 rows, u32 columns, u32 is_log) {            \
        softmax_long<T, S, V>((S *)to, (const S *)from, rows, columns, is_log);                                  \
    }

#define SOFTMAX_LINES(SUFFIX, T, S)                                                                              \
    extern "C" __global__ void __launch_bounds__(256)                                                            \
        softmax_line_##SUFFIX(void *to, const void *from, u32 outer, u32 axis, u32 inner, u32 is_log) {          \
        softmax_line<T, S>((S *)to, (const S *)from, outer, axis, inner, is_log);                                \
    }

#define SOFTMAX_SINGLES(SUFFIX, T, S)                    \
    SOFTMAX_ROWS(SUFFIX, T, S, 4, 2, wave, WAVE, 256)    \
    SOFTMAX_ROWS(SUFFIX, T, S, 4, 4, wave, WAVE, 256)    \
    SOFTMAX_ROWS(SUFFIX, T, S, 4, 2, block128, 128, 128) \
    SOFTMAX_ROWS(SUFFIX, T, S, 4, 4, block128, 128, 128) \
    SOFTMAX_ROWS(SUFFIX, T, S, 4, 4, block256, 256, 256) \
    SOFTMAX_ROWS(SUFFIX, T, S, 4, 8, block256, 256, 256)
#define SOFTMAX_HALVES(SUFFIX, T, S)                     \
    SOFTMAX_ROWS(SUFFIX, T, S, 8, 1, wave, WAVE, 256)    \
    SOFTMAX_ROWS(SUFFIX, T, S, 8, 2, wave, WAVE, 256)    \
    SOFTMAX_ROWS(SUFFIX, T, S, 8, 1, block128, 128, 128) \
    SOFTMAX_ROWS(SUFFIX, T, S, 8, 2, block128, 128, 128) \
    SOFTMAX_ROWS(SUFFIX, T, S, 8, 2, block256, 256, 256) \
    SOFTMAX_ROWS(SUFFIX, T, S, 8, 2, block512, 512, 512)
#define SOFTMAX_ODD(SUFFIX, T, S)                        \
    SOFTMAX_ROWS(SUFFIX, T, S, 1, 4, wave, WAVE, 256)    \
    SOFTMAX_ROWS(SUFFIX, T, S, 1, 4, block128, 128, 128) \
    SOFTMAX_ROWS(SUFFIX, T, S, 1, 8, block256, 256, 256)

SOFTMAX_SINGLES(f32, float, float)
SOFTMAX_HALVES(f16, float, f16)
SOFTMAX_HALVES(bf16, float, bf16)
SOFTMAX_ODD(f32, float, float)
SOFTMAX_ODD(f16, float, f16)
SOFTMAX_ODD(bf16, float, bf16)
SOFTMAX_ODD(f64, double, double)
SOFTMAX_LONG(f32, float, float, 4)
SOFTMAX_LONG(f16, float, f16, 8)
SOFTMAX_LONG(bf16, float, bf16, 8)
SOFTMAX_LONG(f32, float, float, 1)
SOFTMAX_LONG(f16, float, f16, 1)
SOFTMAX_LONG(bf16, float, bf16, 1)
SOFTMAX_LINES(f32, float, float)
SOFTMAX_LINES(f16, float, f16)
SOFTMAX_LINES(bf16, float, bf16)
SOFTMAX_LINES(f64, double, double)
