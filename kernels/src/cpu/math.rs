//! Elementary functions on vectors. Polynomials are minimax fits in binary64 rounded to binary32; every function is
//! accurate to about two units in the last place over its whole range and propagates NaN.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, LOG2_E, SQRT_2};

use super::simd::{Simd, max_nan};

/// ln 2 split so that small multiples of the high part are exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// Coefficients from the constant term upwards.
#[inline(always)]
pub(crate) fn polynomial<S: Simd, const N: usize>(s: S, x: S::F, c: &[f32; N]) -> S::F {
    let mut acc = s.splat(c[N - 1]);
    let mut i = N - 1;
    while i > 0 {
        i -= 1;
        acc = s.fma(acc, x, s.splat(c[i]));
    }
    acc
}

/// `a * 2^n` for integral `n` in -252..=254, correct for subnormal results.
#[inline(always)]
fn scale_by_power<S: Simd>(s: S, a: S::F, n: S::I) -> S::F {
    let half = s.sar::<1>(n);
    let rest = s.sub_i(n, half);
    let bias = s.splat_i(127);
    let first = s.of_bits(s.shl::<23>(s.add_i(half, bias)));
    let second = s.of_bits(s.shl::<23>(s.add_i(rest, bias)));
    s.mul(s.mul(a, first), second)
}

/// `x = n ln 2 + r` with |r| <= ln 2 / 2; returns (n, exp(r) - 1).
#[inline(always)]
fn reduce_exp<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
    const P: [f32; 5] = [0.5, 0.166_665_18, 0.041_666_206, 0.008_368_954, 0.001_395_06];
    let n = s.round(s.mul(x, s.splat(LOG2_E)));
    let r = s.fnma(n, s.splat(LN2_LOW), s.fnma(n, s.splat(LN2_HIGH), x));
    (n, s.fma(s.mul(r, r), polynomial(s, r, &P), r))
}

/// Keeps `x` within bounds; NaN stays NaN.
#[inline(always)]
fn clamp<S: Simd>(s: S, x: S::F, low: f32, high: f32) -> S::F {
    s.min(s.splat(high), s.max(s.splat(low), x))
}

/// e^x.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    let x = clamp(s, x, -104.0, 89.0);
    let (n, e) = reduce_exp(s, x);
    scale_by_power(s, s.add(e, s.splat(1.0)), s.to_i32(n))
}

/// e^x for `x <= 0`, flushing results below the smallest normal number to zero: the form used inside softmax.
#[inline(always)]
pub(crate) fn exp_negative<S: Simd>(s: S, x: S::F) -> S::F {
    let low = s.splat(-87.3);
    let clamped = s.max(low, x);
    let (n, e) = reduce_exp(s, clamped);
    let power = s.of_bits(s.shl::<23>(s.add_i(s.to_i32(n), s.splat_i(127))));
    let y = s.fma(e, power, power);
    s.select(s.lt(x, low), s.zero(), y)
}

/// e^x - 1 without cancellation near zero.
#[inline(always)]
pub(crate) fn expm1<S: Simd>(s: S, x: S::F) -> S::F {
    let x = clamp(s, x, -104.0, 88.7);
    let (n, e) = reduce_exp(s, x);
    // 2^n is kept representable: n = 128 only above the clamp.
    let n = s.max(n, s.splat(-126.0));
    let power = s.of_bits(s.shl::<23>(s.add_i(s.to_i32(n), s.splat_i(127))));
    let y = s.fma(e, power, s.sub(power, s.splat(1.0)));
    let y = s.select(s.lt(s.splat(88.69), x), exp(s, x), y);
    s.select(s.is_nan(x), x, y)
}

/// Natural logarithm: -inf at zero, NaN below.
#[inline(always)]
pub(crate) fn log<S: Simd>(s: S, x: S::F) -> S::F {
    const Q: [f32; 9] = [
        0.333_333_1,
        -0.249_999_87,
        0.200_022_31,
        -0.166_692_57,
        0.142_185_67,
        -0.123_841_77,
        0.118_735_34,
        -0.117_911_7,
        0.069_157_474,
    ];
    let tiny = s.lt(x, s.splat(f32::MIN_POSITIVE));
    let scaled = s.select(tiny, s.mul(x, s.splat(8_388_608.0)), x);
    let bits = s.bits(scaled);
    // Moves sqrt(1/2)..sqrt(2) around the exponent boundary.
    let shifted = s.sub_i(bits, s.splat_i(0x3f35_04f3));
    let exponent = s.to_f32(s.sar::<23>(shifted));
    let exponent = s.select(tiny, s.sub(exponent, s.splat(23.0)), exponent);
    let mantissa = s.of_bits(s.add_i(s.and_i(shifted, s.splat_i(0x007f_ffff)), s.splat_i(0x3f35_04f3)));
    let f = s.sub(mantissa, s.splat(1.0));
    let f2 = s.mul(f, f);
    let tail = s.mul(s.mul(f, f2), polynomial(s, f, &Q));
    let tail = s.fma(exponent, s.splat(LN2_LOW), s.fnma(f2, s.splat(0.5), tail));
    let y = s.fma(exponent, s.splat(LN2_HIGH), s.add(f, tail));
    let infinity = s.splat(f32::INFINITY);
    let y = s.select(s.eq(x, infinity), infinity, y);
    let y = s.select(s.eq(x, s.zero()), s.splat(f32::NEG_INFINITY), y);
    let y = s.select(s.lt(x, s.zero()), s.splat(f32::NAN), y);
    s.select(s.is_nan(x), x, y)
}

/// log(1 + x) for `x >= 0`.
#[inline(always)]
fn log1p_positive<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    let w = s.add(one, x);
    let rounded = s.sub(w, one);
    let y = s.mul(log(s, w), s.div(x, s.select(s.eq(rounded, s.zero()), one, rounded)));
    s.select(s.eq(rounded, s.zero()), x, y)
}

/// Hyperbolic tangent.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    const T: [f32; 5] = [-0.333_332_8, 0.133_313_83, -0.053_734_016, 0.020_618_168, -0.005_679_349_4];
    let a = s.abs(x);
    let z = s.mul(x, x);
    let small = s.fma(s.mul(x, z), polynomial(s, z, &T), x);
    let capped = s.min(s.splat(10.0), a);
    let e = exp(s, s.add(capped, capped));
    let large = s.sub(s.splat(1.0), s.div(s.splat(2.0), s.add(e, s.splat(1.0))));
    let large = copy_sign(s, large, x);
    s.select(s.lt(a, s.splat(0.625)), small, s.select(s.is_nan(x), x, large))
}

/// The magnitude of `magnitude` with the sign of `sign`.
#[inline(always)]
fn copy_sign<S: Simd>(s: S, magnitude: S::F, sign: S::F) -> S::F {
    let sign_bit = s.and_i(s.bits(sign), s.splat_i(i32::MIN));
    s.of_bits(s.or_i(s.bits(s.abs(magnitude)), sign_bit))
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    let e = exp(s, s.neg(s.abs(x)));
    let one = s.splat(1.0);
    let numerator = s.select(s.lt(x, s.zero()), e, one);
    s.div(numerator, s.add(one, e))
}

/// erfc(t) for `t >= 0`.
#[inline(always)]
fn erfc_positive<S: Simd>(s: S, t: S::F) -> S::F {
    // (1 + 2t) e^(t^2) erfc(t) as a polynomial in (t - 2) / (t + 2).
    const G: [f32; 10] = [
        1.276_978_4,
        -0.092_763_99,
        -0.166_031_5,
        0.164_055_5,
        -0.054_203_466,
        -0.008_060_4,
        0.008_628_514,
        0.001_313_079,
        -0.001_226_094_9,
        -0.000_398_327_7,
    ];
    let t = s.min(s.splat(10.3), t);
    let two = s.splat(2.0);
    let u = s.div(s.sub(t, two), s.add(t, two));
    let g = polynomial(s, u, &G);
    let square = s.mul(t, t);
    let gaussian = exp(s, s.neg(square));
    // The rounding error of the square, where a fused multiply-add can see it.
    let gaussian = if S::FUSED { s.fnma(gaussian, s.fma(t, t, s.neg(square)), gaussian) } else { gaussian };
    s.div(s.mul(gaussian, g), s.fma(two, t, s.splat(1.0)))
}

/// Error function.
#[inline(always)]
pub(crate) fn erf<S: Simd>(s: S, x: S::F) -> S::F {
    const E: [f32; 7] = [
        0.128_379_17,
        -0.376_126_32,
        0.112_836_72,
        -0.026_858_104,
        0.005_197_797,
        -0.000_810_596_5,
        8.215_423e-5,
    ];
    let a = s.abs(x);
    let z = s.mul(x, x);
    let small = s.fma(x, polynomial(s, z, &E), x);
    let large = copy_sign(s, s.sub(s.splat(1.0), erfc_positive(s, a)), x);
    s.select(s.lt(a, s.splat(0.9)), small, s.select(s.is_nan(x), x, large))
}

/// x Φ(x) with the normal distribution function Φ.
#[inline(always)]
pub(crate) fn gelu<S: Simd>(s: S, x: S::F) -> S::F {
    let tail = s.mul(s.splat(0.5), erfc_positive(s, s.mul(s.abs(x), s.splat(FRAC_1_SQRT_2))));
    let phi = s.select(s.lt(x, s.zero()), tail, s.sub(s.splat(1.0), tail));
    let y = s.mul(x, phi);
    // -inf times a vanished tail is the limit zero.
    let y = s.select(s.eq(x, s.splat(f32::NEG_INFINITY)), s.zero(), y);
    s.select(s.is_nan(x), x, y)
}

/// 0.5 x (1 + tanh(sqrt(2 / π) (x + 0.044715 x³))), which equals x sigmoid of twice the argument.
#[inline(always)]
pub(crate) fn gelu_tanh<S: Simd>(s: S, x: S::F) -> S::F {
    const TWICE_SQRT_2_OVER_PI: f32 = FRAC_2_SQRT_PI * SQRT_2;
    let inner = s.fma(s.mul(s.mul(x, x), x), s.splat(0.044_715), x);
    let y = s.mul(x, sigmoid(s, s.mul(inner, s.splat(TWICE_SQRT_2_OVER_PI))));
    s.select(s.eq(x, s.splat(f32::NEG_INFINITY)), s.zero(), y)
}

/// x sigmoid(alpha x).
#[inline(always)]
pub(crate) fn swish<S: Simd>(s: S, x: S::F, alpha: f32) -> S::F {
    let y = s.mul(x, sigmoid(s, s.mul(x, s.splat(alpha))));
    s.select(s.eq(x, s.splat(f32::NEG_INFINITY)), s.zero(), y)
}

/// log(1 + e^x).
#[inline(always)]
pub(crate) fn softplus<S: Simd>(s: S, x: S::F) -> S::F {
    let e = exp(s, s.neg(s.abs(x)));
    s.add(max_nan(s, x, s.zero()), log1p_positive(s, e))
}
