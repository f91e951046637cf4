//! The GPU families and the texts under `kernels/arch`. Generated from the folders by `cargo xtask gen`; do not edit.

#[rustfmt::skip]
pub(super) const ARCHS: &[&str] = &[
    "sm90",
];

#[rustfmt::skip]
pub(super) const FILES: &[(&str, &str)] = &[
    ("arch/cdna/hip.h", include_str!("../../arch/cdna/hip.h")),
    ("arch/sm90/arch.toml", include_str!("../../arch/sm90/arch.toml")),
    ("arch/sm90/attention.toml", include_str!("../../arch/sm90/attention.toml")),
    ("arch/sm90/attention_deal.cuh", include_str!("../../arch/sm90/attention_deal.cuh")),
    ("arch/sm90/attention_decode.cu", include_str!("../../arch/sm90/attention_decode.cu")),
    ("arch/sm90/attention_forward.cu", include_str!("../../arch/sm90/attention_forward.cu")),
    ("arch/sm90/attention_items.cuh", include_str!("../../arch/sm90/attention_items.cuh")),
    ("arch/sm90/attention_merge.cuh", include_str!("../../arch/sm90/attention_merge.cuh")),
    ("arch/sm90/attention_shape.cuh", include_str!("../../arch/sm90/attention_shape.cuh")),
    ("arch/sm90/attention_softmax.cuh", include_str!("../../arch/sm90/attention_softmax.cuh")),
    ("arch/sm90/chips.toml", include_str!("../../arch/sm90/chips.toml")),
    ("arch/sm90/matmul.cu", include_str!("../../arch/sm90/matmul.cu")),
    ("arch/sm90/matmul.toml", include_str!("../../arch/sm90/matmul.toml")),
    ("arch/sm90/matmul_epilogue.cuh", include_str!("../../arch/sm90/matmul_epilogue.cuh")),
    ("arch/sm90/matmul_tile.cuh", include_str!("../../arch/sm90/matmul_tile.cuh")),
    ("arch/sm90/primitives.cuh", include_str!("../../arch/sm90/primitives.cuh")),
    ("arch/sm90/scalar_primitives.cuh", include_str!("../../arch/sm90/scalar_primitives.cuh")),
];
