//! Normalisation: over rows (layer and root-mean-square norms), over channels (batch, instance, group), local response.

mod channel;
mod embed;
mod group;
mod local;
mod row;
mod skip;

#[cfg(test)]
mod tests;

use super::{NEWEST, Operator};

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("BatchNormalization", 1, 13, channel::build_batch_old),
    Operator::onnx("BatchNormalization", 14, NEWEST, channel::build_batch),
    Operator::onnx("InstanceNormalization", 1, NEWEST, group::build_instance),
    Operator::onnx("GroupNormalization", 18, NEWEST, group::build_group),
    Operator::of("com.microsoft", "GroupNorm", group::build_contrib),
    Operator::of("com.microsoft", "SkipGroupNorm", group::build_skip),
    Operator::onnx("LRN", 1, NEWEST, local::build),
    Operator::onnx("LayerNormalization", 1, NEWEST, row::build_layer),
    Operator::onnx("RMSNormalization", 23, NEWEST, row::build_rms),
    Operator::onnx("SimplifiedLayerNormalization", 1, NEWEST, row::build_simplified),
    Operator::of("com.microsoft", "SimplifiedLayerNormalization", row::build_simplified),
    Operator::of("com.microsoft", "BranchwiseRMSNorm", row::build_branchwise),
    Operator::of("com.microsoft", "GatedRMSNorm", row::build_gated),
    Operator::of("com.microsoft", "SkipLayerNormalization", skip::build_layer),
    Operator::of("com.microsoft", "SkipSimplifiedLayerNormalization", skip::build_simplified),
    Operator::of("com.microsoft", "EmbedLayerNormalization", embed::build),
];
