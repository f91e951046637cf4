//! Chains of element-wise operators in one kernel: an interpreter of a short program that is uniform over the grid.
//!
//! A thread computes V neighbouring elements of the output. The program works on an accumulator, four temporaries and
//! a source (an operand read at its broadcast position, a temporary or a constant). Registers are named, never indexed,
//! so nothing spills. Parameters come by value, so the program sits in constant memory.

struct MapCode {
    u8 op;     // MAP_*
    u8 source; // kind of the source: SOURCE_*
    u8 index;  // which operand, temporary or constant
    u8 temp;   // the temporary that MAP_STORE and MAP_SELECT name
};

#define SOURCE_NONE 0
#define SOURCE_OPERAND 1
#define SOURCE_TEMP 2
#define SOURCE_CONSTANT 3

struct MapParams {
    u32 total;                              // elements of the output
    u32 rank;                               // dimensions, innermost first
    u32 dims[MAP_RANK];
    u32 magic[MAP_RANK];                    // division by dims: (n * magic) >> (32 + shift)
    u32 shift[MAP_RANK];
    int strides[MAP_OPERANDS][MAP_RANK];    // elements of the operand
    u64 constants[MAP_CONSTANTS];           // bits of T
    u8 dtypes[MAP_OPERANDS];
    u8 is_vector[MAP_OPERANDS];             // V neighbours can be read at once
    u8 out_dtype;
    u8 length;                              // instructions
    MapCode code[MAP_LENGTH];
};

template <class T> __device__ __forceinline__ T constant_of(u64 bits);
template <> __device__ __forceinline__ float constant_of<float>(u64 bits) { return __uint_as_float((u32)bits); }
template <> __device__ __forceinline__ double constant_of<double>(u64 bits) { return __longlong_as_double((i64)bits); }
template <> __device__ __forceinline__ i64 constant_of<i64>(u64 bits) { return (i64)bits; }

__device__ __forceinline__ float r_exp(float x) { return expf(x); }
__device__ __forceinline__ double r_exp(double x) { return exp(x); }
__device__ __forceinline__ float r_log(float x) { return logf(x); }
__device__ __forceinline__ double r_log(double x) { return log(x); }
__device__ __forceinline__ float r_log1p(float x) { return log1pf(x); }
__device__ __forceinline__ double r_log1p(double x) { return log1p(x); }
__device__ __forceinline__ float r_expm1(float x) { return expm1f(x); }
__device__ __forceinline__ double r_expm1(double x) { return expm1(x); }
__device__ __forceinline__ float r_tanh(float x) { return tanhf(x); }
__device__ __forceinline__ double r_tanh(double x) { return tanh(x); }
__device__ __forceinline__ float r_sqrt(float x) { return sqrtf(x); }
__device__ __forceinline__ double r_sqrt(double x) { return sqrt(x); }
__device__ __forceinline__ float r_erf(float x) { return erff(x); }
__device__ __forceinline__ double r_erf(double x) { return erf(x); }
// Trigonometric functions by way of half turns: x / pi in two parts, so that no reduction of large arguments through
// local memory is needed.
__device__ __forceinline__ void half_turns(double x, double &turns, double &rest) {
    turns = x * 0.31830988618379067154;
    rest = 3.14159265358979323846 * (fma(x, 0.31830988618379067154, -turns) + x * -1.9678676675182485e-17);
}
__device__ __forceinline__ double r_sin(double x) {
    double turns, rest;
    half_turns(x, turns, rest);
    return x == 0.0 ? x : sinpi(turns) + cospi(turns) * rest;
}
__device__ __forceinline__ double r_cos(double x) {
    double turns, rest;
    half_turns(x, turns, rest);
    return cospi(turns) - sinpi(turns) * rest;
}
__device__ __forceinline__ double r_tan(double x) { return x == 0.0 ? x : r_sin(x) / r_cos(x); }
__device__ __forceinline__ float sine_of_half_turns(double turns) {
    double whole = rint(turns);
    float sine = sinpif((float)(turns - whole));
    return ((i64)whole & 1) ? -sine : sine;
}
__device__ __forceinline__ float r_sin(float x) { return sine_of_half_turns(x * 0.31830988618379067154); }
__device__ __forceinline__ float r_cos(float x) { return sine_of_half_turns(x * 0.31830988618379067154 + 0.5); }
__device__ __forceinline__ float r_tan(float x) { return r_sin(x) / r_cos(x); }
__device__ __forceinline__ float r_asin(float x) { return asinf(x); }
__device__ __forceinline__ double r_asin(double x) { return asin(x); }
__device__ __forceinline__ float r_acos(float x) { return acosf(x); }
__device__ __forceinline__ double r_acos(double x) { return acos(x); }
__device__ __forceinline__ float r_atan(float x) { return atanf(x); }
__device__ __forceinline__ double r_atan(double x) { return atan(x); }
__device__ __forceinline__ float r_sinh(float x) { return sinhf(x); }
__device__ __forceinline__ double r_sinh(double x) { return sinh(x); }
__device__ __forceinline__ float r_cosh(float x) { return coshf(x); }
__device__ __forceinline__ double r_cosh(double x) { return cosh(x); }
__device__ __forceinline__ float r_asinh(float x) { return asinhf(x); }
__device__ __forceinline__ double r_asinh(double x) { return asinh(x); }
__device__ __forceinline__ float r_acosh(float x) { return acoshf(x); }
__device__ __forceinline__ double r_acosh(double x) { return acosh(x); }
__device__ __forceinline__ float r_atanh(float x) { return atanhf(x); }
__device__ __forceinline__ double r_atanh(double x) { return atanh(x); }
__device__ __forceinline__ float r_floor(float x) { return floorf(x); }
__device__ __forceinline__ double r_floor(double x) { return floor(x); }
__device__ __forceinline__ float r_ceil(float x) { return ceilf(x); }
__device__ __forceinline__ double r_ceil(double x) { return ceil(x); }
__device__ __forceinline__ float r_rint(float x) { return rintf(x); }
__device__ __forceinline__ double r_rint(double x) { return rint(x); }
__device__ __forceinline__ float r_pow(float x, float y) { return powf(x, y); }
__device__ __forceinline__ double r_pow(double x, double y) { return pow(x, y); }
__device__ __forceinline__ float r_fmod(float x, float y) { return fmodf(x, y); }
__device__ __forceinline__ double r_fmod(double x, double y) { return fmod(x, y); }

// Exact powers of integers by squaring; a negative exponent of anything but 1 and -1 gives 0.
__device__ __forceinline__ i64 r_pow(i64 base, i64 exponent) {
    if (exponent < 0) return base == 1 ? 1 : base == -1 ? ((exponent & 1) ? -1 : 1) : 0;
    u64 result = 1, square = (u64)base;
    for (; exponent; exponent >>= 1, square *= square)
        if (exponent & 1) result *= square;
    return (i64)result;
}
__device__ __forceinline__ i64 r_fmod(i64 x, i64 y) { return y == 0 ? 0 : y == -1 ? 0 : x % y; }
__device__ __forceinline__ i64 r_divide(i64 x, i64 y) { return y == 0 ? 0 : y == -1 ? (i64)(0 - (u64)x) : x / y; }
__device__ __forceinline__ float r_divide(float x, float y) { return x / y; }
__device__ __forceinline__ double r_divide(double x, double y) { return x / y; }
// The remainder with the sign of the divisor.
template <class T> __device__ __forceinline__ T r_mod(T x, T y) {
    T r = r_fmod(x, y);
    return (r != (T)0 && ((r < (T)0) != (y < (T)0))) ? r + y : r;
}
// NaN in either argument is the result, as in ONNX.
template <class T> __device__ __forceinline__ T r_max(T x, T y) { return (x > y || x != x) ? x : y; }
template <class T> __device__ __forceinline__ T r_min(T x, T y) { return (x < y || x != x) ? x : y; }
template <class T> __device__ __forceinline__ T r_sigmoid(T x) { return (T)1 / ((T)1 + r_exp(-x)); }
template <class T> __device__ __forceinline__ T r_softplus(T x) {
    return (x > (T)0 ? x : (T)0) + r_log1p(r_exp(x > (T)0 ? -x : x));
}
template <class T> __device__ __forceinline__ T r_gelu(T x) {
    return (T)0.5 * x * ((T)1 + r_erf(x * (T)0.70710678118654752440));
}
template <class T> __device__ __forceinline__ T r_gelu_tanh(T x) {
    return (T)0.5 * x * ((T)1 + r_tanh((T)0.79788456080286535588 * (x + (T)0.044715 * x * x * x)));
}

#define EACH(EXPRESSION)                         \
    _Pragma("unroll") for (int i = 0; i < V; i++) { \
        T a = acc[i], b = src[i];                \
        (void)a;                                 \
        (void)b;                                 \
        acc[i] = (T)(EXPRESSION);                \
    }                                            \
    break;

// Operators of real numbers only.
template <class T, int V> __device__ __forceinline__ void apply_real(u32 op, T (&acc)[V], const T (&src)[V]) {
    switch (op) {
    case MAP_RECIPROCAL: EACH((T)1 / a)
    case MAP_SQRT: EACH(r_sqrt(a))
    case MAP_EXP: EACH(r_exp(a))
    case MAP_LOG: EACH(r_log(a))
    case MAP_LOG1P: EACH(r_log1p(a))
    case MAP_EXPM1: EACH(r_expm1(a))
    case MAP_TANH: EACH(r_tanh(a))
    case MAP_SIGMOID: EACH(r_sigmoid(a))
    case MAP_SILU: EACH(a * r_sigmoid(a * b))
    case MAP_ERF: EACH(r_erf(a))
    case MAP_GELU: EACH(r_gelu(a))
    case MAP_GELU_TANH: EACH(r_gelu_tanh(a))
    case MAP_SOFTPLUS: EACH(r_softplus(a))
    case MAP_FLOOR: EACH(r_floor(a))
    case MAP_CEIL: EACH(r_ceil(a))
    case MAP_ROUND: EACH(r_rint(a))
    case MAP_SIN: EACH(r_sin(a))
    case MAP_COS: EACH(r_cos(a))
    case MAP_TAN: EACH(r_tan(a))
    case MAP_ASIN: EACH(r_asin(a))
    case MAP_ACOS: EACH(r_acos(a))
    case MAP_ATAN: EACH(r_atan(a))
    case MAP_SINH: EACH(r_sinh(a))
    case MAP_COSH: EACH(r_cosh(a))
    case MAP_ASINH: EACH(r_asinh(a))
    case MAP_ACOSH: EACH(r_acosh(a))
    case MAP_ATANH: EACH(r_atanh(a))
    case MAP_IS_NAN: EACH(a != a)
    case MAP_IS_POSITIVE_INFINITY: EACH(a > (T)0 && a == a + a && a * (T)0 != a * (T)0)
    case MAP_IS_NEGATIVE_INFINITY: EACH(a < (T)0 && a == a + a && a * (T)0 != a * (T)0)
    case MAP_TO_F16: EACH(f16_to_f32(Narrow<f16>::from(a).bits))
    case MAP_TO_BF16: EACH(bf16_to_f32(Narrow<bf16>::from(a).bits))
    case MAP_TO_F32: EACH((float)a)
    case MAP_TRUNCATE: EACH(a < (T)0 ? r_ceil(a) : r_floor(a))
    }
}

// Operators of integers only.
template <int V> __device__ __forceinline__ void apply_integer(u32 op, i64 (&acc)[V], const i64 (&src)[V]) {
    typedef i64 T;
    switch (op) {
    case MAP_BIT_AND: EACH(a & b)
    case MAP_BIT_OR: EACH(a | b)
    case MAP_BIT_XOR: EACH(a ^ b)
    case MAP_BIT_NOT: EACH(~a)
    case MAP_SHIFT_LEFT: EACH(b > 63 ? 0 : (u64)a << b)
    case MAP_SHIFT_RIGHT: EACH(b > 63 ? 0 : (u64)a >> b)
    }
}
template <int V> __device__ __forceinline__ void apply_own(u32 op, float (&acc)[V], const float (&src)[V]) {
    apply_real<float, V>(op, acc, src);
}
template <int V> __device__ __forceinline__ void apply_own(u32 op, double (&acc)[V], const double (&src)[V]) {
    apply_real<double, V>(op, acc, src);
}
template <int V> __device__ __forceinline__ void apply_own(u32 op, i64 (&acc)[V], const i64 (&src)[V]) {
    apply_integer<V>(op, acc, src);
}

template <class T, int V>
__device__ __forceinline__ void apply(u32 op, T (&acc)[V], const T (&src)[V], const T (&other)[V]) {
    switch (op) {
    case MAP_MOVE: EACH(b)
    case MAP_ADD: EACH(a + b)
    case MAP_SUBTRACT: EACH(a - b)
    case MAP_REVERSE_SUBTRACT: EACH(b - a)
    case MAP_MULTIPLY: EACH(a * b)
    case MAP_DIVIDE: EACH(r_divide(a, b))
    case MAP_REVERSE_DIVIDE: EACH(r_divide(b, a))
    case MAP_MAX: EACH(r_max(a, b))
    case MAP_MIN: EACH(r_min(a, b))
    case MAP_POWER: EACH(r_pow(a, b))
    case MAP_REVERSE_POWER: EACH(r_pow(b, a))
    case MAP_FMOD: EACH(r_fmod(a, b))
    case MAP_REVERSE_FMOD: EACH(r_fmod(b, a))
    case MAP_MOD: EACH(r_mod(a, b))
    case MAP_REVERSE_MOD: EACH(r_mod(b, a))
    case MAP_EQUAL: EACH(a == b)
    case MAP_LESS: EACH(a < b)
    case MAP_LESS_OR_EQUAL: EACH(a <= b)
    case MAP_GREATER: EACH(a > b)
    case MAP_GREATER_OR_EQUAL: EACH(a >= b)
    case MAP_AND: EACH(a != (T)0 && b != (T)0)
    case MAP_OR: EACH(a != (T)0 || b != (T)0)
    case MAP_XOR: EACH((a != (T)0) != (b != (T)0))
    case MAP_NOT: EACH(a == (T)0)
    case MAP_NEGATE: EACH(-a)
    case MAP_ABSOLUTE: EACH(a < (T)0 ? -a : a == (T)0 ? (T)0 : a)
    case MAP_SIGN: EACH(a > (T)0 ? (T)1 : a < (T)0 ? (T)-1 : a)
    case MAP_SELECT:
        _Pragma("unroll") for (int i = 0; i < V; i++) acc[i] = acc[i] != (T)0 ? src[i] : other[i];
        break;
    default: apply_own<V>(op, acc, src);
    }
}

template <class T, class S, int V>
__device__ __forceinline__ void read(T (&to)[V], const S *from, i64 offset, int step, bool is_vector) {
    if (V > 1 && is_vector) {
        Pack<S, V> pack = *(const Pack<S, V> *)(from + offset);
        _Pragma("unroll") for (int i = 0; i < V; i++) to[i] = widen<T>(pack.at[i]);
    } else if (V > 1 && step == 0) {
        T one = widen<T>(from[offset]);
        _Pragma("unroll") for (int i = 0; i < V; i++) to[i] = one;
    } else {
        _Pragma("unroll") for (int i = 0; i < V; i++) to[i] = widen<T>(from[offset + (i64)i * step]);
    }
}

template <class S, class T, int V> __device__ __forceinline__ void write(S *to, const T (&from)[V]) {
    Pack<S, V> pack;
    _Pragma("unroll") for (int i = 0; i < V; i++) pack.at[i] = Narrow<S>::from(from[i]);
    *(Pack<S, V> *)to = pack;
}

template <class T, int V> __device__ __forceinline__ void copy_to(T (&to)[V], const T (&from)[V]) {
    _Pragma("unroll") for (int i = 0; i < V; i++) to[i] = from[i];
}

template <class T, int V>
__device__ __forceinline__ void map_elements(void *out, const void *p0, const void *p1, const void *p2, const void *p3,
                                             const void *p4, const void *p5, const void *p6, const void *p7,
                                             const MapParams &p) {
    u32 at = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (at >= p.total) return;
    u32 position[MAP_RANK];
    u32 rest = at;
    _Pragma("unroll") for (int d = 0; d < MAP_RANK; d++) {
        position[d] = 0;
        if (d + 1 < p.rank) {
            u32 quotient = __umulhi(rest, p.magic[d]) >> p.shift[d];
            position[d] = rest - quotient * p.dims[d];
            rest = quotient;
        } else if (d + 1 == p.rank) {
            position[d] = rest;
        }
    }
    T acc[V], t0[V], t1[V], t2[V], t3[V];
    _Pragma("unroll") for (int i = 0; i < V; i++) acc[i] = t0[i] = t1[i] = t2[i] = t3[i] = (T)0;
    for (u32 step = 0; step < p.length; step++) {
        MapCode code = p.code[step];
        T src[V];
        if (code.source == SOURCE_OPERAND) {
            u32 k = code.index;
            const void *from = k < 4 ? (k < 2 ? (k == 0 ? p0 : p1) : (k == 2 ? p2 : p3))
                                     : (k < 6 ? (k == 4 ? p4 : p5) : (k == 6 ? p6 : p7));
            i64 offset = 0;
            _Pragma("unroll") for (int d = 0; d < MAP_RANK; d++)
                if (d < p.rank) offset += (i64)position[d] * p.strides[k][d];
            int inner = p.strides[k][0];
            bool is_vector = p.is_vector[k];
            FOR_DTYPE(p.dtypes[k], read(src, (const S *)from, offset, inner, is_vector);)
        } else if (code.source == SOURCE_TEMP) {
            if (code.index == 0) copy_to(src, t0);
            else if (code.index == 1) copy_to(src, t1);
            else if (code.index == 2) copy_to(src, t2);
            else copy_to(src, t3);
        } else {
            T value = code.source == SOURCE_CONSTANT ? constant_of<T>(p.constants[code.index]) : (T)0;
            _Pragma("unroll") for (int i = 0; i < V; i++) src[i] = value;
        }
        if (code.op == MAP_STORE) {
            if (code.temp == 0) copy_to(t0, acc);
            else if (code.temp == 1) copy_to(t1, acc);
            else if (code.temp == 2) copy_to(t2, acc);
            else copy_to(t3, acc);
        } else if (code.op == MAP_SELECT) {
            T other[V];
            if (code.temp == 0) copy_to(other, t0);
            else if (code.temp == 1) copy_to(other, t1);
            else if (code.temp == 2) copy_to(other, t2);
            else copy_to(other, t3);
            apply<T, V>(code.op, acc, src, other);
        } else {
            apply<T, V>(code.op, acc, src, src);
        }
    }
    FOR_DTYPE(p.out_dtype, write((S *)out + at, acc);)
}

#define MAP_KERNEL(NAME, T, V)                                                                                      \
    extern "C" __global__ void __launch_bounds__(256)                                                               \
        NAME(void *out, const void *p0, const void *p1, const void *p2, const void *p3, const void *p4,             \
             const void *p5, const void *p6, const void *p7, const __grid_constant__ MapParams p) {                 \
        map_elements<T, V>(out, p0, p1, p2, p3, p4, p5, p6, p7, p);                                                 \
    }

MAP_KERNEL(elementwise_f32_v1, float, 1)
MAP_KERNEL(elementwise_f32_v4, float, 4)
MAP_KERNEL(elementwise_f64_v1, double, 1)
MAP_KERNEL(elementwise_i64_v1, i64, 1)
