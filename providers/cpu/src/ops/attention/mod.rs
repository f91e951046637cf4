//! Attention: the operators of ai.onnx and com.microsoft, rotary embeddings, linear attention.

mod bert;
mod cache;
mod delta_net;
mod group_query;
mod linear;
mod multi_head;
mod onnx;
mod padding;
mod paged;
mod plain;
mod quantized_cache;
mod rotary;
mod sparse;
mod window_cache;

#[cfg(test)]
mod tests;

use super::{NEWEST, Operator};

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("Attention", 23, NEWEST, onnx::build),
    Operator::onnx("RotaryEmbedding", 23, NEWEST, rotary::build),
    Operator::of("com.microsoft", "RotaryEmbedding", rotary::build_contrib),
    Operator::of("com.microsoft", "MRotaryEmbedding", rotary::build_sectioned),
    Operator::onnx("LinearAttention", 27, NEWEST, linear::build),
    Operator::of("com.microsoft", "LinearAttention", linear::build),
    Operator::of("com.microsoft", "GroupQueryAttention", group_query::build),
    Operator::of("com.microsoft", "PagedAttention", paged::build),
    Operator::of("com.microsoft", "MultiHeadAttention", multi_head::build),
    Operator::of("com.microsoft", "Attention", bert::build),
    Operator::of("com.microsoft", "QAttention", bert::build_quantized),
    Operator::of("com.microsoft", "DecoderMaskedMultiHeadAttention", multi_head::build_decoder),
    Operator::of("com.microsoft", "SparseAttention", sparse::build),
    Operator::of("com.microsoft", "GatedDeltaNet", delta_net::build),
    Operator::of("com.microsoft", "LinearAttentionGate", delta_net::build_gate),
];
