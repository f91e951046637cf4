//! Fourier transforms of lines, whole or as one of the passes that a longer transform is made of.
//!
//! A signal of `whole` samples is transformed at once (`parts` 1), or as `parts` lines of `size` samples twice over: sample
//! `t = line + at * parts`, then, weighted by turns of `line * bin`, the other way round. A block has as many lines as
//! fit its shared memory, each in two buffers between which Stockham's stages go to and fro.

#define SIGNAL_TENSOR 0  // samples or bins of the operator
#define SIGNAL_WORK 1    // complex numbers of an earlier or for a later pass
#define SIGNAL_PRODUCT 2 // of those and the transformed chirp
#define SIGNAL_CHIRP 3   // the chirp itself, as the filter of a convolution
#define STAGES 12

template <class T> struct Complex {
    T re, im;
};
template <class T> __device__ __forceinline__ Complex<T> operator+(Complex<T> a, Complex<T> b) {
    return {a.re + b.re, a.im + b.im};
}
template <class T> __device__ __forceinline__ Complex<T> operator-(Complex<T> a, Complex<T> b) {
    return {a.re - b.re, a.im - b.im};
}
template <class T> __device__ __forceinline__ Complex<T> operator*(Complex<T> a, Complex<T> b) {
    return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
template <class T> __device__ __forceinline__ Complex<T> scaled(Complex<T> a, T by) { return {a.re * by, a.im * by}; }
template <class T> __device__ __forceinline__ Complex<T> swapped(Complex<T> a) { return {a.im, a.re}; }

// exp(-2 pi i k / n) for k below n: the angle is brought below an eighth of a turn in whole numbers.
template <class T> __device__ __forceinline__ Complex<T> turn(u64 k, u64 n) {
    bool is_lower = 2 * k > n;
    if (is_lower) k = n - k;
    bool is_left = 4 * k > n;
    if (is_left) k = n - 2 * k; // twice the distance to the half turn
    else k = 2 * k;
    bool is_steep = 4 * k > n;
    if (is_steep) k = n - 2 * k; // four times the distance to the quarter turn
    else k = 2 * k;
    double x = 1.57079632679489661923 * ((double)k / (double)n), y = x * x;
    double s = -7.6471637318198164759e-13;
    s = s * y + 1.6059043836821614599e-10;
    s = s * y - 2.5052108385441718775e-8;
    s = s * y + 2.7557319223985890653e-6;
    s = s * y - 1.9841269841269841270e-4;
    s = s * y + 8.3333333333333333333e-3;
    s = s * y - 1.6666666666666666667e-1;
    double sine = s * y * x + x;
    double c = 4.7794773323873852974e-14;
    c = c * y - 1.1470745597729724714e-11;
    c = c * y + 2.0876756987868098979e-9;
    c = c * y - 2.7557319223985890653e-7;
    c = c * y + 2.4801587301587301587e-5;
    c = c * y - 1.3888888888888888889e-3;
    c = c * y + 4.1666666666666666667e-2;
    c = c * y - 0.5;
    double cosine = c * y + 1.0;
    double re = is_steep ? sine : cosine, im = is_steep ? cosine : sine;
    return {(T)(is_left ? -re : re), (T)(is_lower ? im : -im)};
}

// exp(-pi i t^2 / n), for t and n below 2^24.
template <class T> __device__ __forceinline__ Complex<T> chirp(u32 t, u32 n) {
    i64 square = (i64)((u64)t * t), period = 2 * (i64)n;
    i64 rest = square - (i64)((double)square / (double)period) * period; // off by one period at most
    rest += rest < 0 ? period : rest >= period ? -period : 0;
    return turn<T>((u64)rest, (u64)period);
}

// Where the elements of a signal are in a tensor, in samples: signals / group and % group, elements of one.
struct SignalPlace {
    i64 outer, inner, step;
    u32 group, parts, count, dtype; // parts: 1 real, 2 complex; count: elements of a signal that there are
};

struct FourierParams {
    SignalPlace from, to;
    double scale;
    u32 signals, parts, size, whole; // lines of a signal; samples of a line, of a signal
    u32 block_lines, stages;
    u32 radix[STAGES];
    u32 load, store; // SIGNAL_
    u32 chirp;       // samples of a signal that is convolved with a chirp; 0: it is not
    u32 is_second;   // of two passes
    u32 turns;       // multiply by turns of line * bin, as the first of two passes does
    u32 swaps_load, swaps_store, swaps_tensor, mirrors;
    u32 load_by_line, store_by_line; // neighbouring threads have neighbouring lines
};

template <class T, class S>
__device__ __forceinline__ Complex<T> read_sample(const S *from, const S *window, i64 base, u32 t, const FourierParams &p) {
    const SignalPlace &place = p.from;
    u32 length = p.chirp ? p.chirp : p.whole;
    bool is_mirrored = p.mirrors && 2 * t > length;
    u32 at = is_mirrored ? length - t : t;
    Complex<T> v = {(T)0, (T)0};
    if (at >= place.count) return v;
    i64 element = (base + at * place.step) * place.parts;
    v.re = widen<T>(from[element]);
    if (place.parts == 2) v.im = widen<T>(from[element + 1]);
    if (p.mirrors && (t == 0 || 2 * t == length)) v.im = (T)0;
    if (is_mirrored) v.im = -v.im;
    if (window) v = scaled(v, widen<T>(window[t]));
    return p.swaps_tensor ? swapped(v) : v;
}

template <class S, class T>
__device__ __forceinline__ void write_bin(S *to, i64 base, u32 k, Complex<T> v, const FourierParams &p) {
    if (k >= p.to.count) return;
    if (p.swaps_tensor) v = swapped(v);
    i64 element = (base + k * p.to.step) * p.to.parts;
    to[element] = Narrow<S>::from(v.re);
    if (p.to.parts == 2) to[element + 1] = Narrow<S>::from(v.im);
}

#define FOR_REAL(DTYPE, BODY)                        \
    switch (DTYPE) {                                 \
    case DTYPE_F32: { typedef float S; BODY } break; \
    case DTYPE_F16: { typedef f16 S; BODY } break;   \
    case DTYPE_BF16: { typedef bf16 S; BODY } break; \
    case DTYPE_F64: { typedef double S; BODY } break; \
    }

__device__ __forceinline__ i64 signal_base(const SignalPlace &place, u32 signal) {
    return signal / place.group * place.outer + signal % place.group * place.inner;
}

template <class T>
__device__ __forceinline__ Complex<T> load_sample(const void *from, const void *window, const Complex<T> *filter,
                                                  u32 signal, u32 t, const FourierParams &p) {
    Complex<T> v = {(T)0, (T)0};
    u32 place = p.load == SIGNAL_CHIRP && t > p.whole - t ? p.whole - t : t;
    if (p.load == SIGNAL_TENSOR || p.load == SIGNAL_CHIRP) {
        if (p.chirp && place >= p.chirp) return v;
        if (p.load == SIGNAL_TENSOR) {
            i64 base = signal_base(p.from, signal);
            FOR_REAL(p.from.dtype, v = read_sample<T>((const S *)from, (const S *)window, base, t, p);)
        } else v.re = (T)1;
        if (p.chirp) v = v * chirp<T>(place, p.chirp);
        if (p.load == SIGNAL_CHIRP) v.im = -v.im;
    } else {
        v = ((const Complex<T> *)from)[(i64)signal * p.whole + t];
        if (p.load == SIGNAL_PRODUCT) v = v * filter[t];
    }
    return p.swaps_load ? swapped(v) : v;
}

// Bin k, which `turns` of the whole weight.
template <class T>
__device__ __forceinline__ void store_bin(void *to, u32 signal, u32 k, u32 turns, Complex<T> v, const FourierParams &p) {
    if (p.swaps_store) v = swapped(v);
    bool is_last = p.store == SIGNAL_TENSOR;
    if (is_last && p.chirp && k >= p.chirp) return;
    if (is_last && p.chirp) v = v * chirp<T>(k, p.chirp);
    if (!is_last && p.turns) v = v * turn<T>(turns, p.whole);
    if (!is_last) {
        ((Complex<T> *)to)[(i64)signal * p.whole + k] = v;
        return;
    }
    v = scaled(v, (T)p.scale);
    i64 base = signal_base(p.to, signal);
    FOR_REAL(p.to.dtype, write_bin((S *)to, base, k, v, p);)
}

template <class T> __device__ __forceinline__ void butterfly(Complex<T> (&v)[2], const Complex<T> *, u32) {
    Complex<T> a = v[0];
    v[0] = a + v[1], v[1] = a - v[1];
}
template <class T> __device__ __forceinline__ void butterfly(Complex<T> (&v)[4], const Complex<T> *, u32) {
    Complex<T> a = v[0] + v[2], b = v[0] - v[2], c = v[1] + v[3], d = v[1] - v[3];
    v[0] = a + c, v[2] = a - c;
    v[1] = {b.re + d.im, b.im - d.re}, v[3] = {b.re - d.im, b.im + d.re};
}
// An odd number of samples: sums and differences of those equally far from the first. `turns` are those of a line, an
// R-th of which is `width`.
template <int R, class T>
__device__ __forceinline__ void butterfly(Complex<T> (&v)[R], const Complex<T> *turns, u32 width) {
    Complex<T> sum[R / 2], difference[R / 2], unit[R / 2], first = v[0];
    _Pragma("unroll") for (int i = 0; i < R / 2; i++) {
        sum[i] = v[i + 1] + v[R - 1 - i], difference[i] = v[i + 1] - v[R - 1 - i], unit[i] = turns[(i + 1) * width];
        v[0] = v[0] + sum[i];
    }
    _Pragma("unroll") for (int k = 1; k <= R / 2; k++) {
        Complex<T> even = first, odd = {(T)0, (T)0};
        _Pragma("unroll") for (int i = 1; i <= R / 2; i++) {
            const int count = i * k % R, place = (count > R / 2 ? R - count : count) - 1;
            even = even + scaled(sum[i - 1], unit[place].re);
            odd = odd + scaled(difference[i - 1], count > R / 2 ? -unit[place].im : unit[place].im);
        }
        v[k] = {even.re - odd.im, even.im + odd.re};
        v[R - k] = {even.re + odd.im, even.im - odd.re};
    }
}

// One stage of every line of the block: behind runs of `run` elements each, runs of R times as many.
template <int R, class T>
__device__ __forceinline__ void stage(Complex<T> *to, const Complex<T> *from, const Complex<T> *turns, u32 size, u32 run,
                                      u32 lines) {
    u32 width = size / R, stride = width / run;
    for (u32 i = threadIdx.x; i < lines * width; i += blockDim.x) {
        u32 line = i / width, j = i - line * width, block = j / run, k = j - block * run;
        Complex<T> v[R];
        _Pragma("unroll") for (int r = 0; r < R; r++) {
            v[r] = from[line * size + j + r * width];
            if (r > 0) v[r] = v[r] * turns[r * k * stride];
        }
        butterfly(v, turns, width);
        _Pragma("unroll") for (int r = 0; r < R; r++) to[line * size + block * run * R + k + r * run] = v[r];
    }
}

// ELEMENTS: complex numbers of a block.
template <class T, int ELEMENTS>
__device__ __forceinline__ void fourier(void *to, const void *from, const void *window, const void *filter,
                                        const FourierParams &p) {
    begin_kernel();
    __shared__ Complex<T> buffers[2][ELEMENTS], turns[ELEMENTS];
    u32 total = p.signals * p.parts, first = blockIdx.x * p.block_lines;
    u32 lines = total - first < p.block_lines ? total - first : p.block_lines, count = lines * p.size;
    for (u32 i = threadIdx.x; i < p.size; i += blockDim.x) turns[i] = turn<T>(i, p.size);
    for (u32 i = threadIdx.x; i < count; i += blockDim.x) {
        u32 line = p.load_by_line ? i % lines : i / p.size, at = p.load_by_line ? i / lines : i - line * p.size;
        u32 signal = (first + line) / p.parts, part = (first + line) % p.parts;
        u32 t = p.is_second ? part * p.size + at : part + at * p.parts;
        buffers[0][line * p.size + at] = load_sample<T>(from, window, (const Complex<T> *)filter, signal, t, p);
    }
    u32 own = 0, run = 1;
    for (u32 s = 0; s < p.stages; s++) {
        __syncthreads();
        Complex<T> *next = buffers[1 - own];
        const Complex<T> *last = buffers[own];
        switch (p.radix[s]) {
        case 2: stage<2>(next, last, turns, p.size, run, lines); break;
        case 3: stage<3>(next, last, turns, p.size, run, lines); break;
        case 4: stage<4>(next, last, turns, p.size, run, lines); break;
        case 5: stage<5>(next, last, turns, p.size, run, lines); break;
        case 7: stage<7>(next, last, turns, p.size, run, lines); break;
        }
        own = 1 - own, run *= p.radix[s];
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < count; i += blockDim.x) {
        u32 line = p.store_by_line ? i % lines : i / p.size, at = p.store_by_line ? i / lines : i - line * p.size;
        u32 signal = (first + line) / p.parts, part = (first + line) % p.parts;
        Complex<T> v = buffers[own][line * p.size + at];
        store_bin(to, signal, at * p.parts + part, part * at, v, p);
    }
}

extern "C" __global__ void __launch_bounds__(256) fourier_f32(void *to, const void *from, const void *window,
                                                              const void *filter, const __grid_constant__ FourierParams p) {
    fourier<float, 2048>(to, from, window, filter, p);
}
extern "C" __global__ void __launch_bounds__(256) fourier_f64(void *to, const void *from, const void *window,
                                                              const void *filter, const __grid_constant__ FourierParams p) {
    fourier<double, 1024>(to, from, window, filter, p);
}
