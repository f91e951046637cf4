//! The activation functions of recurrent cells, with their parameters taken from the node's lists.

use tenon_kernels::cpu::Features;

use super::rational;
use crate::error::{OpError, Result};
use crate::node::Node;
use crate::ops::epilogue::{Activate, Activation};

/// An activation of a recurrent cell.
#[derive(Clone, Copy, Debug)]
pub enum CellActivation {
    Plain(Activation),
    /// The sigmoid of quantised cells; see [`rational`].
    RationalSigmoid,
    /// The tanh of quantised cells; see [`rational`].
    RationalTanh,
    /// `alpha * tanh(beta * x)`.
    ScaledTanh {
        alpha: f32,
        beta: f32,
    },
}

impl CellActivation {
    /// Applies the activation in place.
    pub fn apply<T: Activate>(self, features: Features, values: &mut [T]) {
        match self {
            CellActivation::Plain(activation) => T::activate(features, activation, values),
            CellActivation::RationalSigmoid => {
                in_floats(values, |values| rational::sigmoid_in_place(features, values));
            }
            CellActivation::RationalTanh => {
                in_floats(values, |values| rational::tanh_in_place(features, values));
            }
            CellActivation::ScaledTanh { alpha, beta } => {
                T::activate(features, Activation::Affine { alpha: beta, beta: 0.0 }, values);
                T::activate(features, Activation::Tanh, values);
                T::activate(features, Activation::Affine { alpha, beta: 0.0 }, values);
            }
        }
    }
}

/// Applies `f` to the values as `f32`, the type of quantised cells.
fn in_floats<T: Activate>(values: &mut [T], f: impl FnOnce(&mut [f32])) {
    let mut floats: Vec<f32> = values.iter().map(|value| value.to_f64() as f32).collect();
    f(&mut floats);
    values.iter_mut().zip(floats).for_each(|(value, float)| *value = T::from_f64(f64::from(float)));
}

/// What a quantised cell applies in place of `activation`.
pub fn quantized(activation: CellActivation) -> CellActivation {
    match activation {
        CellActivation::Plain(Activation::Sigmoid) => CellActivation::RationalSigmoid,
        CellActivation::Plain(Activation::Tanh) => CellActivation::RationalTanh,
        other => other,
    }
}

/// Reads `activations` with `activation_alpha` and `activation_beta` for `directions` copies of `defaults`. Functions
/// without a parameter take none from the lists.
pub fn read(node: &Node, directions: usize, defaults: &[&str]) -> Result<Vec<CellActivation>> {
    let given = node.strings("activations")?.unwrap_or(&[]);
    let count = directions * defaults.len();
    if !given.is_empty() && given.len() != count {
        return Err(OpError::invalid(format!(
            "{} activations for {directions} directions, expected {count}",
            given.len()
        )));
    }
    let mut alphas = node.floats("activation_alpha")?.unwrap_or(&[]).iter().copied();
    let mut betas = node.floats("activation_beta")?.unwrap_or(&[]).iter().copied();
    (0..count)
        .map(|index| {
            let name = given.get(index).map_or(defaults[index % defaults.len()], String::as_str);
            let mut alpha = |default: f32| alphas.next().unwrap_or(default);
            let mut beta = |default: f32| betas.next().unwrap_or(default);
            Ok(CellActivation::Plain(match name.to_ascii_lowercase().as_str() {
                "sigmoid" => Activation::Sigmoid,
                "tanh" => Activation::Tanh,
                "relu" => Activation::Relu,
                "softsign" => Activation::Softsign,
                "softplus" => Activation::Softplus,
                "affine" => Activation::Affine { alpha: alpha(1.0), beta: beta(0.0) },
                "leakyrelu" => Activation::LeakyRelu { alpha: alpha(0.01) },
                "thresholdedrelu" => Activation::ThresholdedRelu { alpha: alpha(1.0) },
                "elu" => Activation::Elu { alpha: alpha(1.0) },
                "hardsigmoid" => Activation::HardSigmoid { alpha: alpha(0.2), beta: beta(0.5) },
                "scaledtanh" => return Ok(CellActivation::ScaledTanh { alpha: alpha(1.0), beta: beta(1.0) }),
                _ => return Err(OpError::unsupported(format!("activation '{name}' has no kernel"))),
            }))
        })
        .collect()
}
