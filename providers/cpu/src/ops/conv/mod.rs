//! Convolutions: Conv with its fused and channels-last forms, ConvTranspose, integer forms, the stateful causal one.

mod causal;
mod columns;
mod float;
mod integer;
mod plain;
mod shape;
mod transpose;

#[cfg(test)]
mod tests;

use super::{NEWEST, Operator};

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("Conv", 1, NEWEST, float::build),
    Operator::of("com.microsoft", "FusedConv", float::build),
    Operator::of("tenon", "FusedConv", float::build),
    Operator::of("com.microsoft", "NhwcConv", float::build_nhwc),
    Operator::of("com.microsoft", "NhwcFusedConv", float::build_nhwc),
    Operator::onnx("ConvTranspose", 1, NEWEST, transpose::build),
    Operator::of("com.microsoft", "ConvTransposeWithDynamicPads", transpose::build_dynamic),
    Operator::onnx("ConvInteger", 10, NEWEST, integer::build_integer),
    Operator::onnx("QLinearConv", 10, NEWEST, integer::build_qlinear),
    Operator::of("com.microsoft", "QLinearConv", integer::build_qlinear),
    Operator::onnx("CausalConvWithState", 27, NEWEST, causal::build),
    Operator::of("com.microsoft", "CausalConvWithState", causal::build),
];
