//! What is done to the result of a matrix product or a convolution before it is stored: activation functions.

use tenon_kernels::cpu::elementwise::{Unary, unary_in_place};
use tenon_kernels::cpu::{Context as Cpu, Features};

use super::real::Real;
use crate::error::{OpError, Result};
use crate::node::Node;

/// An activation that can follow a product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    None,
    Relu,
    Clip {
        min: f32,
        max: f32,
    },
    Sigmoid,
    Tanh,
    LeakyRelu {
        alpha: f32,
    },
    HardSigmoid {
        alpha: f32,
        beta: f32,
    },
    HardSwish,
    Silu,
    /// With the error function.
    Gelu,
    /// With the hyperbolic tangent.
    GeluTanh,
    Softplus,
    Softsign,
    Elu {
        alpha: f32,
    },
    ThresholdedRelu {
        alpha: f32,
    },
    /// `alpha * x + beta`.
    Affine {
        alpha: f32,
        beta: f32,
    },
}

impl Activation {
    /// The activation of a fused node: attribute `activation` and its parameters, given either as the list
    /// `activation_params` or as `activation_alpha` and `activation_beta`.
    pub fn of(node: &Node) -> Result<Activation> {
        let params = node.floats("activation_params")?.unwrap_or(&[]);
        let first = params.first().copied().or(node.optional_float("activation_alpha")?);
        let second = params.get(1).copied().or(node.optional_float("activation_beta")?);
        Ok(match node.string("activation", "")?.to_ascii_lowercase().as_str() {
            "" | "none" | "identity" => Activation::None,
            "relu" => Activation::Relu,
            "clip" => Activation::Clip { min: first.unwrap_or(f32::MIN), max: second.unwrap_or(f32::MAX) },
            "sigmoid" => Activation::Sigmoid,
            "tanh" => Activation::Tanh,
            "leakyrelu" => Activation::LeakyRelu { alpha: first.unwrap_or(0.01) },
            "hardsigmoid" => {
                Activation::HardSigmoid { alpha: first.unwrap_or(0.2), beta: second.unwrap_or(0.5) }
            }
            "hardswish" => Activation::HardSwish,
            "silu" | "swish" => Activation::Silu,
            "gelu" => Activation::Gelu,
            "softplus" => Activation::Softplus,
            "elu" => Activation::Elu { alpha: first.unwrap_or(1.0) },
            other => return Err(OpError::unsupported(format!("activation '{other}' has no kernel"))),
        })
    }

    /// The same function as the kernels name it.
    pub fn unary(self) -> Unary {
        match self {
            Activation::None => Unary::Identity,
            Activation::Relu => Unary::Relu,
            Activation::Clip { min, max } => Unary::Clip { min, max },
            Activation::Sigmoid => Unary::Sigmoid,
            Activation::Tanh => Unary::Tanh,
            Activation::LeakyRelu { alpha } => Unary::LeakyRelu { alpha },
            Activation::HardSigmoid { alpha, beta } => Unary::HardSigmoid { alpha, beta },
            Activation::HardSwish => Unary::HardSwish,
            Activation::Silu => Unary::Silu,
            Activation::Gelu => Unary::Gelu,
            Activation::GeluTanh => Unary::GeluTanh,
            Activation::Softplus => Unary::Softplus,
            Activation::Softsign => Unary::Softsign,
            Activation::Elu { alpha } => Unary::Elu { alpha },
            Activation::ThresholdedRelu { alpha } => Unary::ThresholdedRelu { alpha },
            Activation::Affine { alpha, beta } => Unary::Affine { scale: alpha, shift: beta },
        }
    }

    /// Applies the activation in place.
    pub fn apply<T: Real>(self, values: &mut [T]) {
        let real = T::from_f32;
        match self {
            Activation::None => {}
            Activation::Relu => map(values, |x| if x < T::ZERO { T::ZERO } else { x }),
            Activation::Clip { min, max } => map(values, |x| {
                let x = if x < real(min) { real(min) } else { x };
                if x > real(max) { real(max) } else { x }
            }),
            Activation::Sigmoid => map(values, T::sigmoid),
            Activation::Tanh => map(values, T::tanh),
            Activation::LeakyRelu { alpha } => map(values, |x| if x < T::ZERO { x * real(alpha) } else { x }),
            Activation::HardSigmoid { alpha, beta } => {
                map(values, |x| hard_sigmoid(x, real(alpha), real(beta)))
            }
            Activation::HardSwish => map(values, |x| x * hard_sigmoid(x, T::ONE / real(6.0), real(0.5))),
            Activation::Silu => map(values, |x| x * x.sigmoid()),
            Activation::Gelu => map(values, |x| gelu(x)),
            Activation::GeluTanh => map(values, gelu_tanh),
            Activation::Softplus => map(values, softplus),
            Activation::Softsign => map(values, |x| x / (T::ONE + x.abs())),
            Activation::ThresholdedRelu { alpha } => {
                map(values, |x| if x > real(alpha) { x } else { T::ZERO })
            }
            Activation::Affine { alpha, beta } => map(values, |x| real(alpha) * x + real(beta)),
            Activation::Elu { alpha } => {
                map(values, |x| if x < T::ZERO { real(alpha) * (x.exp() - T::ONE) } else { x })
            }
        }
    }
}

/// A float type with activations over slices.
pub trait Activate: Real {
    /// Applies `activation` in place, on the calling thread.
    fn activate(features: Features, activation: Activation, values: &mut [Self]);
}

impl Activate for f32 {
    fn activate(features: Features, activation: Activation, values: &mut [f32]) {
        unary_in_place(Cpu::serial(features), activation.unary(), values);
    }
}

impl Activate for f64 {
    fn activate(_features: Features, activation: Activation, values: &mut [f64]) {
        activation.apply(values);
    }
}

fn map<T: Copy>(values: &mut [T], f: impl Fn(T) -> T) {
    for value in values {
        *value = f(*value);
    }
}

/// `clamp(alpha * x + beta, 0, 1)`.
pub fn hard_sigmoid<T: Real>(x: T, alpha: T, beta: T) -> T {
    (alpha * x + beta).maximum(T::ZERO).minimum(T::ONE)
}

/// `ln(1 + exp(x))` without overflow.
pub fn softplus<T: Real>(x: T) -> T {
    if x > T::ZERO { x + (T::ONE + (-x).exp()).ln() } else { (T::ONE + x.exp()).ln() }
}

/// `x / 2 * (1 + erf(x / sqrt(2)))`.
pub fn gelu<T: Real>(x: T) -> T {
    let half = 0.5 * (1.0 + erf(x.to_f64() * std::f64::consts::FRAC_1_SQRT_2));
    x * T::from_f64(half)
}

/// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x³)))`.
pub fn gelu_tanh<T: Real>(x: T) -> T {
    let inner = x.to_f64();
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (inner + 0.044_715 * inner * inner * inner);
    x * T::from_f64(0.5 * (1.0 + inner.tanh()))
}

/// The error function, to double precision: its power series near zero, the continued fraction of its complement
/// beyond (Abramowitz and Stegun 7.1.6 and 7.1.14).
pub fn erf(x: f64) -> f64 {
    let size = x.abs();
    if x.is_nan() {
        return x;
    }
    if size > 6.0 {
        return x.signum();
    }
    let gauss = (-x * x).exp();
    if size < 2.5 {
        let (mut term, mut sum, mut n) = (size, size, 0.0);
        while term > sum * 1e-17 && term > 0.0 {
            n += 1.0;
            term *= 2.0 * x * x / (2.0 * n + 1.0);
            sum += term;
        }
        return (std::f64::consts::FRAC_2_SQRT_PI * gauss * sum).copysign(x);
    }
    let mut fraction = size;
    for n in (1..=60).rev() {
        fraction = size + f64::from(n) / 2.0 / fraction;
    }
    (1.0 - gauss / (fraction * std::f64::consts::PI.sqrt())).copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_has_its_known_values() {
        for (x, expected) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (2.4, 0.999_311_486_103_354_9),
            (2.6, 0.999_763_965_583_470_7),
            (4.0, 0.999_999_984_582_742_1),
        ] {
            assert!((erf(x) - expected).abs() < 1e-15, "{x}: {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
    }

    #[test]
    fn activations_keep_nan() {
        for activation in [
            Activation::Relu,
            Activation::Clip { min: 0.0, max: 6.0 },
            Activation::HardSwish,
            Activation::LeakyRelu { alpha: 0.1 },
        ] {
            let mut value = [f32::NAN];
            activation.apply(&mut value);
            assert!(value[0].is_nan(), "{activation:?}");
        }
    }
}
