//! The functions of C's math library that device texts call, for CDNA without AMD's device library.
//!
//! Float functions that the hardware has are the compiler's expansions; seldom used ones go through double. The rest is
//! argument reduction and a series whose terms are written as formulas. Errors are a few units in the last place.
//!
//! Functions of doubles, and what goes through them, are called: inlined, their constants would fill the scalar registers
//! of a kernel that has a choice of functions. They call nothing themselves, so that they need no stack.

DEVICE float fabsf(float x) { return __builtin_fabsf(x); }
DEVICE double fabs(double x) { return __builtin_fabs(x); }
DEVICE float floorf(float x) { return __builtin_floorf(x); }
DEVICE double floor(double x) { return __builtin_floor(x); }
DEVICE float ceilf(float x) { return __builtin_ceilf(x); }
DEVICE double ceil(double x) { return __builtin_ceil(x); }
DEVICE float truncf(float x) { return __builtin_truncf(x); }
DEVICE double trunc(double x) { return __builtin_trunc(x); }
DEVICE float rintf(float x) { return __builtin_rintf(x); }
DEVICE double rint(double x) { return __builtin_rint(x); }
DEVICE float fmaf(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
DEVICE double fma(double x, double y, double z) { return __builtin_fma(x, y, z); }
DEVICE float fmaxf(float x, float y) { return __builtin_fmaxf(x, y); }
DEVICE double fmax(double x, double y) { return __builtin_fmax(x, y); }
DEVICE float fminf(float x, float y) { return __builtin_fminf(x, y); }
DEVICE double fmin(double x, double y) { return __builtin_fmin(x, y); }
DEVICE float sqrtf(float x) { return __builtin_sqrtf(x); }
DEVICE double sqrt(double x) { return __builtin_sqrt(x); }
DEVICE float rsqrtf(float x) { return __builtin_amdgcn_rsqf(x); }
DEVICE float exp2f(float x) { return __builtin_exp2f(x); }
DEVICE float logf(float x) { return __builtin_logf(x); }
DEVICE float log2f(float x) { return __builtin_log2f(x); }
DEVICE float copysignf(float x, float sign) { return __builtin_copysignf(x, sign); }
DEVICE double copysign(double x, double sign) { return __builtin_copysign(x, sign); }
DEVICE double ldexp(double x, int exponent) { return __builtin_amdgcn_ldexp(x, exponent); }
DEVICE float ldexpf(float x, int exponent) { return __builtin_amdgcn_ldexpf(x, exponent); }

constexpr double MATH_INFINITY = __builtin_huge_val();
constexpr double MATH_NAN = __builtin_nan("");
constexpr double PI = 3.14159265358979323846;
// ln 2 in two parts, the first with few enough bits that a multiple by an exponent is exact.
constexpr double LN2_HIGH = 6.93147180369123816490e-01, LN2_LOW = 1.90821492927058770002e-10;

// 2^(x / ln 2) with the quotient's rounding error made good; results below the normal numbers are 0.
DEVICE float expf(float x) {
    x = x > 89.0f ? 89.0f : x < -104.0f ? -104.0f : x;
    float quotient = x * 1.44269502f, rest = fmaf(x, 1.44269502f, -quotient) + x * 1.92596303e-8f;
    float power = __builtin_amdgcn_exp2f(quotient);
    return power < __builtin_huge_valf() ? fmaf(power, rest * 0.693147181f, power) : power;
}

template <class T, int N> struct Series {
    T at[N];
};

constexpr double factorial(int n) { return n < 2 ? 1.0 : n * factorial(n - 1); }
constexpr double power_of(double x, int n) { return n == 0 ? 1.0 : x * power_of(x, n - 1); }
constexpr double alternating(int n) { return n % 2 ? -1.0 : 1.0; }

// N terms TERM(0), TERM(1), .. of a series, as a constant.
#define SERIES(NAME, TERM)                                          \
    template <class T, int N> constexpr Series<T, N> NAME() {       \
        Series<T, N> s = {};                                        \
        for (int n = 0; n < N; n++) s.at[n] = (T)(TERM);            \
        return s;                                                   \
    }

SERIES(exponential, 1.0 / factorial(n))                                              // e^x
SERIES(exponential_tail, 1.0 / factorial(n + 2))                                     // (e^x - 1 - x) / x^2
SERIES(logarithm_tail, 2.0 / (2 * n + 3))                                            // (2 atanh s - 2 s) / s^3 in s^2
SERIES(arc_tangent, alternating(n) / (2 * n + 1))                                    // atan(x) / x in x^2
SERIES(error_function, alternating(n) * 1.12837916709551257390 / (factorial(n) * (2 * n + 1))) // erf(x) / x in x^2
SERIES(sine_of_turns, alternating(n) * power_of(PI, 2 * n + 1) / factorial(2 * n + 1)) // sin(pi x) / x in x^2
SERIES(cosine_of_turns, alternating(n) * power_of(PI, 2 * n) / factorial(2 * n))       // cos(pi x) in x^2

template <class T, int N> DEVICE T horner(const Series<T, N> &series, T x) {
    T sum = series.at[N - 1];
    _Pragma("unroll") for (int n = N - 2; n >= 0; n--) sum = __builtin_elementwise_fma(sum, x, series.at[n]);
    return sum;
}

namespace inlined {
DEVICE double exp(double x) {
    x = x > 720.0 ? 720.0 : x < -760.0 ? -760.0 : x;
    double k = rint(x * 1.44269504088896340736);
    double r = fma(k, -LN2_LOW, fma(k, -LN2_HIGH, x));
    constexpr auto series = exponential<double, 14>();
    return ldexp(horner(series, r), (int)k);
}

DEVICE double expm1(double x) {
    double bounded = x > 720.0 ? 720.0 : x < -50.0 ? -50.0 : x;
    double k = rint(bounded * 1.44269504088896340736);
    double r = fma(k, -LN2_LOW, fma(k, -LN2_HIGH, bounded));
    constexpr auto series = exponential_tail<double, 13>();
    double small = fma(r * r, horner(series, r), r);
    // 2^k is split, since it overflows before the result does.
    double half_scale = ldexp(1.0, (int)k - 1);
    return k == 0.0 ? small : 2.0 * (half_scale * small + (half_scale - 0.5));
}

} // namespace inlined

DEVICE float expm1f(float x) {
    float bounded = x > 100.0f ? 100.0f : x < -20.0f ? -20.0f : x;
    float k = rintf(bounded * 1.44269504f);
    float r = fmaf(k, 2.12194440e-4f, fmaf(k, -0.693359375f, bounded));
    constexpr auto series = exponential_tail<float, 7>();
    float small = fmaf(r * r, horner(series, r), r);
    float half_scale = ldexpf(1.0f, (int)k - 1);
    return k == 0.0f ? small : 2.0f * (half_scale * small + (half_scale - 0.5f));
}

namespace inlined {
// x = mantissa * 2^exponent with a mantissa between sqrt(1/2) and sqrt(2).
DEVICE double split_exponent(double x, double &exponent) {
    double mantissa = __builtin_amdgcn_frexp_mant(x);
    int e = __builtin_amdgcn_frexp_exp(x);
    bool is_low = mantissa < 0.70710678118654752440;
    exponent = (double)(is_low ? e - 1 : e);
    return is_low ? 2.0 * mantissa : mantissa;
}

// What the logarithm is where the series does not hold.
DEVICE double log_or_special(double x, double value) {
    if (x == 0.0) return -MATH_INFINITY;
    if (x < 0.0) return MATH_NAN;
    return x < MATH_INFINITY ? value : x;
}

DEVICE double log(double x) {
    double exponent, m = split_exponent(x, exponent);
    double f = m - 1.0, s = f / (2.0 + f), z = s * s;
    constexpr auto series = logarithm_tail<double, 11>();
    double fraction = f - s * (f - z * horner(series, z));
    return log_or_special(x, fma(exponent, LN2_HIGH, fma(exponent, LN2_LOW, fraction)));
}

DEVICE double log1p(double x) {
    if (x > -0.29 && x < 0.41) {
        double s = x / (2.0 + x), z = s * s;
        constexpr auto series = logarithm_tail<double, 11>();
        return x - s * (x - z * horner(series, z));
    }
    return log(1.0 + x);
}
} // namespace inlined

DEVICE float log1pf(float x) {
    if (x > -0.29f && x < 0.41f) {
        float s = x / (2.0f + x), z = s * s;
        constexpr auto series = logarithm_tail<float, 5>();
        return x - s * (x - z * horner(series, z));
    }
    return logf(1.0f + x);
}

DEVICE float tanhf(float x) {
    float a = fabsf(x), t = expm1f(2.0f * (a > 12.0f ? 12.0f : a));
    return copysignf(t / (t + 2.0f), x);
}

namespace inlined {
DEVICE double tanh(double x) {
    double a = fabs(x), t = expm1(2.0 * (a > 30.0 ? 30.0 : a));
    return copysign(t / (t + 2.0), x);
}
DEVICE double sinh(double x) {
    double a = fabs(x), half = exp(0.5 * a);
    double t = expm1(a);
    return copysign(a > 20.0 ? 0.5 * half * half : 0.5 * (t + t / (t + 1.0)), x);
}
DEVICE double cosh(double x) {
    double half = exp(0.5 * fabs(x));
    return 0.5 * half * half + 0.5 / half / half;
}
DEVICE double asinh(double x) {
    double a = fabs(x), square = a * a;
    double value = a > 1e150 ? log(a) + (LN2_HIGH + LN2_LOW) : log1p(a + square / (1.0 + sqrt(square + 1.0)));
    return copysign(value, x);
}
DEVICE double acosh(double x) {
    double t = x - 1.0;
    return x > 1e150 ? log(x) + (LN2_HIGH + LN2_LOW) : log1p(t + sqrt(2.0 * t + t * t));
}
DEVICE double atanh(double x) {
    double a = fabs(x);
    return copysign(0.5 * log1p(2.0 * a / (1.0 - a)), x);
}

DEVICE double atan(double x) {
    double a = fabs(x), t = a > 1.0 ? 1.0 / a : a;
    double near = t > 0.75 ? 1.0 : t > 0.25 ? 0.5 : 0.0;
    double known = t > 0.75 ? 0.78539816339744830962 : t > 0.25 ? 0.46364760900080611621 : 0.0;
    double u = (t - near) / fma(near, t, 1.0);
    constexpr auto series = arc_tangent<double, 14>();
    double value = known + u * horner(series, u * u);
    return copysign(a > 1.0 ? 1.57079632679489661923 - value : value, x);
}
DEVICE double asin(double x) { return atan(x / sqrt((1.0 - x) * (1.0 + x))); }
DEVICE double acos(double x) { return 2.0 * atan(sqrt((1.0 - x) / (1.0 + x))); }

// erfc(x) e^(x^2) for x from 1 to 6, in (x - 2) / (x + 2); fitted.
constexpr Series<double, 18> ERFCX = {
    {0.2553956763105058,     -0.4271858474139618,    0.2416581942424828,    -0.07897858101511575,  0.003732892400980593,
     0.006997461701496609,   -0.0008471430526133105, -0.0009819759995518705, 4.355021344219537e-05, 0.0001743473042929248,
     2.7603926623355764e-05, -2.7491762453127257e-05, -1.4606644406897525e-05, 1.2679812727278997e-06, 6.556405592347192e-06,
     -7.759899412590839e-08, -5.553479473664395e-06, 4.27611535063492e-06}};
DEVICE double erf(double x) {
    double a = fabs(x);
    if (a < 1.0) {
        constexpr auto series = error_function<double, 19>();
        return x * horner(series, x * x);
    }
    a = a > 6.0 ? 6.0 : a;
    return x != x ? x : copysign(1.0 - exp(-a * a) * horner(ERFCX, (a - 2.0) / (a + 2.0)), x);
}
// sin(pi x) and cos(pi x) from the nearest quarter turn.
DEVICE double sine_of_quarters(double rest, int quarters) {
    constexpr auto sine = sine_of_turns<double, 10>();
    constexpr auto cosine = cosine_of_turns<double, 10>();
    double z = rest * rest;
    double value = quarters & 1 ? horner(cosine, z) : rest * horner(sine, z);
    return quarters & 2 ? -value : value;
}
DEVICE double sinpi(double x) {
    double turn = x - 2.0 * rint(0.5 * x), quarters = rint(2.0 * turn);
    return sine_of_quarters(fma(-0.5, quarters, turn), (int)quarters);
}
DEVICE double cospi(double x) {
    double turn = x - 2.0 * rint(0.5 * x), quarters = rint(2.0 * turn);
    return sine_of_quarters(fma(-0.5, quarters, turn), (int)quarters + 1);
}
// x^y for a positive finite x other than 0: the logarithm carries twice the bits.
DEVICE double power_of_positive(double x, double y) {
    double exponent, m = split_exponent(x, exponent);
    double f = m - 1.0, sum = m + 1.0, sum_low = m - (sum - 1.0);
    double s = f / sum, s_low = (fma(-s, sum, f) - s * sum_low) / sum, z = s * s;
    constexpr auto series = logarithm_tail<double, 11>();
    double low = fma(exponent, LN2_LOW, fma(s * z, horner(series, z), 2.0 * s_low));
    double first = exponent * LN2_HIGH, second = 2.0 * s;
    double high = first + second, back = high - first;
    low += (first - (high - back)) + (second - back);
    double log_high = high + low, log_low = (high - log_high) + low;
    double product = y * log_high, product_low = fma(y, log_high, -product) + y * log_low;
    double power = exp(product);
    return power > 0.0 && power < MATH_INFINITY ? fma(power, product_low, power) : power;
}

DEVICE double pow_of_magnitude(double a, double y) {
    if (a != a || y != y) return MATH_NAN;
    if (fabs(y) == MATH_INFINITY) return a == 1.0 ? 1.0 : (a > 1.0) == (y > 0.0) ? MATH_INFINITY : 0.0;
    if (a == 0.0 || a == MATH_INFINITY) return (a == 0.0) == (y > 0.0) ? 0.0 : MATH_INFINITY;
    return power_of_positive(a, y);
}
// The sign of the base, and the results that hold whatever the other argument is.
DEVICE double pow_with_sign(double x, double y, double magnitude) {
    if (x == 1.0 || y == 0.0) return 1.0;
    if (!__builtin_signbit(x)) return magnitude;
    bool is_whole = trunc(y) == y, is_odd = is_whole && fabs(y) < 9007199254740992.0 && ((i64)y & 1);
    if (!is_whole && x < 0.0 && x > -MATH_INFINITY) return MATH_NAN;
    return is_odd ? -magnitude : magnitude;
}
DEVICE double pow(double x, double y) { return pow_with_sign(x, y, pow_of_magnitude(fabs(x), y)); }
} // namespace inlined

constexpr Series<float, 9> ERFCX_FLOAT = {{0.25539568f, -0.42718585f, 0.24165813f, -0.07897865f, 0.0037352465f, 0.0069974325f,
                                           -0.00087808819f, -0.00095779067f, 0.00017726387f}};

DEVICE float erff(float x) {
    float a = fabsf(x);
    if (a < 1.0f) {
        constexpr auto series = error_function<float, 11>();
        return x * horner(series, x * x);
    }
    a = a > 5.0f ? 5.0f : a;
    return x != x ? x : copysignf(1.0f - expf(-a * a) * horner(ERFCX_FLOAT, (a - 2.0f) / (a + 2.0f)), x);
}
DEVICE float sinpif(float x) {
    float turn = x - 2.0f * rintf(0.5f * x), quarters = rintf(2.0f * turn);
    float rest = fmaf(-0.5f, quarters, turn), z = rest * rest;
    constexpr auto sine = sine_of_turns<float, 6>();
    constexpr auto cosine = cosine_of_turns<float, 6>();
    float value = (int)quarters & 1 ? horner(cosine, z) : rest * horner(sine, z);
    return (int)quarters & 2 ? -value : value;
}

#define CALLED static __device__ __attribute__((noinline))
#define CALLED_OF_ONE(NAME)                                             \
    CALLED double NAME(double x) { return inlined::NAME(x); }           \
    CALLED float NAME##f(float x) { return (float)inlined::NAME((double)x); }

CALLED_OF_ONE(sinh)
CALLED_OF_ONE(cosh)
CALLED_OF_ONE(asinh)
CALLED_OF_ONE(acosh)
CALLED_OF_ONE(atanh)
CALLED_OF_ONE(asin)
CALLED_OF_ONE(acos)
CALLED_OF_ONE(atan)
CALLED double exp(double x) { return inlined::exp(x); }
CALLED double expm1(double x) { return inlined::expm1(x); }
CALLED double log(double x) { return inlined::log(x); }
CALLED double log1p(double x) { return inlined::log1p(x); }
CALLED double tanh(double x) { return inlined::tanh(x); }
CALLED double erf(double x) { return inlined::erf(x); }
CALLED double sinpi(double x) { return inlined::sinpi(x); }
CALLED double cospi(double x) { return inlined::cospi(x); }
CALLED double pow(double x, double y) { return inlined::pow(x, y); }
CALLED double fmod(double x, double y) { return __builtin_fmod(x, y); }
CALLED float fmodf(float x, float y) { return __builtin_fmodf(x, y); }
CALLED float powf(float x, float y) {
    double a = fabs((double)x);
    double magnitude = a == 1.0 && y == y ? 1.0 : inlined::exp((double)y * inlined::log(a));
    return (float)inlined::pow_with_sign(x, y, magnitude);
}
