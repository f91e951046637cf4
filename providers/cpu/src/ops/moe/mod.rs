//! Mixtures of experts: MoE, QMoE and MoEGroupRouter of com.microsoft.

mod layer;
mod route;
mod router;
mod weights;

use super::Operator;

pub const OPERATORS: &[Operator] = &[
    Operator::of("com.microsoft", "MoE", layer::build),
    Operator::of("com.microsoft", "QMoE", layer::build_quantized),
    Operator::of("com.microsoft", "MoEGroupRouter", router::build),
];
