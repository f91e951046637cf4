//! Matrix products: float and integer MatMul and Gemm with their fused forms, quantised products, block-quantised weights.

mod distance;
mod float;
mod gemm;
pub mod geometry;
mod integer;
pub mod nbits;
mod packed_q4;

#[cfg(test)]
mod tests;

use super::{NEWEST, Operator};

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("MatMul", 1, NEWEST, float::build),
    Operator::of("com.microsoft", "FusedMatMul", float::build_fused),
    Operator::of("com.microsoft", "TransposeMatMul", float::build_fused),
    Operator::of("com.microsoft", "FusedMatMulActivation", float::build_fused),
    Operator::of("tenon", "FusedMatMul", float::build_fused),
    Operator::onnx("Gemm", 1, NEWEST, gemm::build),
    Operator::of("com.microsoft", "FusedGemm", gemm::build),
    Operator::onnx("MatMulInteger", 10, NEWEST, integer::build_integer),
    Operator::onnx("QLinearMatMul", 10, NEWEST, integer::build_qlinear),
    Operator::of("com.microsoft", "DynamicQuantizeMatMul", integer::build_dynamic),
    Operator::of("com.microsoft", "MatMulIntegerToFloat", integer::build_to_float),
    Operator::of("com.microsoft", "MatMulInteger16", integer::build_integer16),
    Operator::of("com.microsoft", "QGemm", integer::build_qgemm),
    Operator::of("com.microsoft", "CDist", distance::build),
    Operator::of("com.microsoft", "MatMulNBits", nbits::build_nbits),
    Operator::of("com.microsoft", "MatMulBnb4", nbits::build_bnb4),
    Operator::of("com.microsoft", "MatMulFpQ4", packed_q4::build),
];
