//! Sigmoid and tanh as quotients of polynomials, bit for bit as ONNX Runtime evaluates them.
//!
//! A quantised recurrence rounds its state to 8 bits at every step. A last-bit difference before that rounding moves some
//! states by a whole step and grows to several percent of the output, so the models that were quantised with ONNX Runtime
//! reproduce their outputs only with its activations. The coefficients are the minimax fits published with Eigen.

use tenon_kernels::cpu::{Features, Kernel, Simd};

/// Coefficients of the odd numerator, highest power first.
#[expect(clippy::excessive_precision, reason = "the digits as published")]
const SIGMOID_NUMERATOR: [f32; 5] =
    [4.370_310_1e-11, 1.156_273_25e-7, 6.085_749e-5, 8.513_771e-3, 2.482_879_5e-1];
#[expect(clippy::excessive_precision, reason = "the digits as published")]
const SIGMOID_DENOMINATOR: [f32; 6] =
    [6.102_473_7e-13, 5.761_021_5e-9, 6.291_068e-6, 1.701_988_2e-3, 1.168_176_56e-1, 9.931_519e-1];
const TANH_NUMERATOR: [f32; 7] = [
    -2.760_768_4e-16,
    2.000_188e-13,
    -8.604_672e-11,
    5.122_297_3e-8,
    1.485_722_35e-5,
    6.372_619_4e-4,
    4.893_524_6e-3,
];
const TANH_DENOMINATOR: [f32; 4] = [1.198_258_4e-6, 1.185_347_1e-4, 2.268_434_7e-3, 4.893_525e-3];

/// `1 / (1 + exp(-x))` in place, within 2e-7.
pub fn sigmoid_in_place(features: Features, values: &mut [f32]) {
    features.dispatch(Sigmoid(values));
}

/// `tanh(x)` in place, within 5e-7.
pub fn tanh_in_place(features: Features, values: &mut [f32]) {
    features.dispatch(Tanh(values));
}

struct Sigmoid<'a>(&'a mut [f32]);

impl Kernel for Sigmoid<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let done = map_vectors(s, self.0, |x| {
            let x = s.max(s.splat(-18.0), s.min(s.splat(18.0), x));
            let quotient = quotient(s, &SIGMOID_NUMERATOR, &SIGMOID_DENOMINATOR, x);
            s.max(s.zero(), s.min(s.splat(1.0), s.add(quotient, s.splat(0.5))))
        });
        self.0[done..].iter_mut().for_each(|value| *value = sigmoid(*value));
    }
}

struct Tanh<'a>(&'a mut [f32]);

impl Kernel for Tanh<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let done = map_vectors(s, self.0, |x| {
            let x = s.max(s.splat(-9.0), s.min(s.splat(9.0), x));
            quotient(s, &TANH_NUMERATOR, &TANH_DENOMINATOR, x)
        });
        self.0[done..].iter_mut().for_each(|value| *value = tanh(*value));
    }
}

/// Applies `f` to whole vectors where the tier's multiply-add rounds once; returns how many values that were.
#[inline(always)]
fn map_vectors<S: Simd>(s: S, values: &mut [f32], f: impl Fn(S::F) -> S::F) -> usize {
    if !S::FUSED {
        return 0;
    }
    let whole = values.len() / S::LANES * S::LANES;
    for vector in values[..whole].chunks_exact_mut(S::LANES) {
        // SAFETY: the chunk holds one vector.
        unsafe { s.store(vector.as_mut_ptr(), f(s.load(vector.as_ptr()))) };
    }
    whole
}

/// `numerator(x²) · x / denominator(x²)`.
#[inline(always)]
fn quotient<S: Simd>(s: S, numerator: &[f32], denominator: &[f32], x: S::F) -> S::F {
    let square = s.mul(x, x);
    let horner = |coefficients: &[f32]| {
        let (first, rest) = coefficients.split_at(1);
        rest.iter().fold(s.splat(first[0]), |sum, &c| s.fma(sum, square, s.splat(c)))
    };
    s.div(s.mul(horner(numerator), x), horner(denominator))
}

/// `1 / (1 + exp(-x))` of one value.
fn sigmoid(x: f32) -> f32 {
    let x = x.clamp(-18.0, 18.0);
    let square = x * x;
    let quotient = polynomial(&SIGMOID_NUMERATOR, square) * x / polynomial(&SIGMOID_DENOMINATOR, square);
    (quotient + 0.5).clamp(0.0, 1.0)
}

/// `tanh(x)` of one value.
fn tanh(x: f32) -> f32 {
    let x = x.clamp(-9.0, 9.0);
    let square = x * x;
    polynomial(&TANH_NUMERATOR, square) * x / polynomial(&TANH_DENOMINATOR, square)
}

/// Horner's rule with fused steps. The product of two floats is exact in `f64`, which spares machines without a fused
/// instruction a library call.
fn polynomial(coefficients: &[f32], x: f32) -> f32 {
    let x = f64::from(x);
    coefficients.iter().skip(1).fold(coefficients[0], |sum, c| (f64::from(sum) * x + f64::from(*c)) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_near_the_functions_they_stand_for() {
        for i in -4000..=4000 {
            let x = i as f32 * 0.005;
            let exact = f64::from(x);
            let error = f64::from(sigmoid(x)) - 1.0 / (1.0 + (-exact).exp());
            assert!(error.abs() < 2e-7, "sigmoid({x}) is off by {error}");
            let error = f64::from(tanh(x)) - exact.tanh();
            assert!(error.abs() < 5e-7, "tanh({x}) is off by {error}");
        }
    }

    #[test]
    fn vectors_agree_with_single_values_bit_for_bit() {
        let mut values: Vec<f32> = (-30_000..=30_000).map(|i| i as f32 * 0.000_731).collect();
        values.extend([f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 1e-30, -1e-40, 3.4e38]);
        let (mut squashed, mut tangents) = (values.clone(), values.clone());
        sigmoid_in_place(Features::detect(), &mut squashed);
        tanh_in_place(Features::detect(), &mut tangents);
        for (index, &x) in values.iter().enumerate() {
            let expected = [sigmoid(x), tanh(x)];
            for (actual, expected) in [squashed[index], tangents[index]].into_iter().zip(expected) {
                let same = actual == expected || (actual.is_nan() && expected.is_nan());
                assert!(same, "at {x}: {actual}, one by one {expected}");
            }
        }
    }

    #[test]
    fn extremes_saturate_and_nan_stays() {
        assert!((0.0..1e-7).contains(&sigmoid(f32::NEG_INFINITY)));
        assert!((1.0 - 1e-7..=1.0).contains(&sigmoid(1e30)));
        assert!((tanh(f32::INFINITY) - 1.0).abs() < 1e-6);
        assert!(sigmoid(f32::NAN).is_nan() && tanh(f32::NAN).is_nan());
    }
}
