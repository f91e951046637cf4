//! Elementary functions of the types that element-wise programs compute in, and the operators that need few registers.

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
__device__ __forceinline__ float r_max(float x, float y) { return maximum(x, y); }
__device__ __forceinline__ float r_min(float x, float y) { return minimum(x, y); }
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

// The same as precisely as 16 bits of a result need them, in few instructions and without a branch.
__device__ __forceinline__ float short_exp(float x) { return exp2_normal(x * 1.44269504f); }
// x / (1 + 2^power)
__device__ __forceinline__ float short_share(float x, float power) {
    float root = rsqrtf(1.0f + exp2_normal(power));
    return x * root * root;
}
__device__ __forceinline__ float short_sigmoid(float x) { return short_share(1.0f, x * -1.44269504f); }
__device__ __forceinline__ float short_silu(float x, float slope) { return short_share(x, x * slope * -1.44269504f); }
__device__ __forceinline__ float short_gelu_tanh(float x) {
    return short_share(x, x * (-2.30220819f - 0.102943241f * x * x));
}
// x times the normal distribution, whose odds are 2^(x q(x^2)); q is fitted up to |x| = 5.6, to a relative error of the
// result below 2^-14 where f16 has all its bits, and 2^-11 beyond.
__device__ __forceinline__ float short_gelu(float x) {
    float t = x * x;
    t = t > 31.36f ? 31.36f : t;
    float q = -5.14354666e-11f;
    q = q * t + 6.65987043e-9f;
    q = q * t - 3.56123763e-7f;
    q = q * t + 9.96037397e-6f;
    q = q * t - 1.39301512e-4f;
    q = q * t - 2.10022088e-4f;
    q = q * t + 1.05102308e-1f;
    q = q * t + 2.30203772f;
    return short_share(x, -x * q);
}

#define EACH(EXPRESSION)                         \
    _Pragma("unroll") for (int i = 0; i < V; i++) { \
        T a = acc[i], b = src[i];                \
        (void)a;                                 \
        (void)b;                                 \
        acc[i] = (T)(EXPRESSION);                \
    }                                            \
    break;

// The operators of light programs, which need few registers and no temporary. HAS_SLOW: there are those that need more than
// others. The last operator of a switch is its default: else the accumulator would be copied around the others.
template <int V> __device__ __forceinline__ void apply_quotient(u32 op, float (&acc)[V], const float (&src)[V]) {
    typedef float T;
    switch (op) {
    case MAP_DIVIDE: EACH(r_divide(a, b))
    default: EACH(r_divide(b, a)) // MAP_REVERSE_DIVIDE
    }
}
template <int V> __device__ __forceinline__ void apply_slow(u32 op, float (&acc)[V], const float (&src)[V]) {
    typedef float T;
    switch (op) {
    case MAP_RECIPROCAL: EACH(1.0f / a)
    case MAP_SQRT: EACH(r_sqrt(a))
    case MAP_LOG: EACH(r_log(a))
    case MAP_TANH: EACH(r_tanh(a))
    default: EACH(r_erf(a)) // MAP_ERF
    }
}
// Those of two arguments, which come first among the numbers of operators.
template <bool HAS_SLOW, int V>
__device__ __forceinline__ void apply_pairs(u32 op, float (&acc)[V], const float (&src)[V]) {
    typedef float T;
    switch (op) {
    case MAP_ADD: EACH(a + b)
    case MAP_SUBTRACT: EACH(a - b)
    case MAP_REVERSE_SUBTRACT: EACH(b - a)
    case MAP_MULTIPLY: EACH(a * b)
    case MAP_MAX: EACH(r_max(a, b))
    default:
        if (HAS_SLOW && op != MAP_MIN) return apply_quotient(op, acc, src);
        EACH(r_min(a, b))
    }
}
// All. IS_SHORT: results have 16 bits.
template <bool IS_SHORT, bool HAS_SLOW = true, int V>
__device__ __forceinline__ void apply_light(u32 op, float (&acc)[V], const float (&src)[V]) {
    typedef float T;
    if (op <= MAP_MIN) return apply_pairs<HAS_SLOW>(op, acc, src);
    switch (op) {
    case MAP_NEGATE: EACH(-a)
    case MAP_EXP: EACH(IS_SHORT ? short_exp(a) : r_exp(a))
    case MAP_SIGMOID: EACH(IS_SHORT ? short_sigmoid(a) : r_sigmoid(a))
    case MAP_SILU: EACH(IS_SHORT ? short_silu(a, b) : a * r_sigmoid(a * b))
    case MAP_GELU: EACH(IS_SHORT ? short_gelu(a) : r_gelu(a))
    case MAP_GELU_TANH: EACH(IS_SHORT ? short_gelu_tanh(a) : r_gelu_tanh(a))
    case MAP_TO_F16: EACH(f16_to_f32(Narrow<f16>::from(a).bits))
    case MAP_TO_BF16: EACH(bf16_to_f32(Narrow<bf16>::from(a).bits))
    default:
        if (HAS_SLOW && op != MAP_ABSOLUTE) return apply_slow(op, acc, src);
        EACH(a < 0.0f ? -a : a == 0.0f ? 0.0f : a)
    }
}
