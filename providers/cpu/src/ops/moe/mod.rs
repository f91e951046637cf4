//! Mixtures of experts: MoE and QMoE of com.microsoft.

mod layer;
mod route;
mod weights;

use super::Operator;

pub const OPERATORS: &[Operator] = &[
    Operator::of("com.microsoft", "MoE", layer::build),
    Operator::of("com.microsoft", "QMoE", layer::build_quantized),
];
