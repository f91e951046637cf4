//! The operators, one file a family. To add one: lower it in its family's file and add its name to that file's table.

mod activation;
mod attention;
mod conv;
mod einsum;
mod elementwise;
mod gather;
mod index;
mod layout;
mod matmul;
mod nbits;
mod norm;
mod pool;
mod quantize;
mod recurrent;
mod reduce;
mod softmax;
mod tensor;
mod view;

use crate::operator::{Decline, Lowered, Lowering};

/// Operators of a domain that one function lowers.
pub(crate) struct Family {
    /// `""` is `ai.onnx`.
    pub domain: &'static str,
    pub op_types: &'static [&'static str],
    pub lower: fn(&Lowering<'_>) -> Lowered,
}

const FAMILIES: &[&[Family]] = &[
    elementwise::FAMILIES,
    activation::FAMILIES,
    view::FAMILIES,
    index::FAMILIES,
    layout::FAMILIES,
    gather::FAMILIES,
    recurrent::FAMILIES,
    reduce::FAMILIES,
    softmax::FAMILIES,
    norm::FAMILIES,
    matmul::FAMILIES,
    nbits::FAMILIES,
    quantize::FAMILIES,
    einsum::FAMILIES,
    conv::FAMILIES,
    pool::FAMILIES,
    attention::group_query::FAMILIES,
    attention::onnx::FAMILIES,
    attention::rotary::FAMILIES,
];

/// The operator of a node, or why there is none.
pub(crate) fn lower(lowering: &Lowering<'_>) -> Lowered {
    let node = lowering.node;
    let mut families = FAMILIES.iter().copied().flatten();
    let found = families
        .find(|family| family.domain == node.domain() && family.op_types.contains(&node.op_type()))
        .ok_or_else(|| Decline(format!("{} has no GPU kernel", node.op_type())))?;
    (found.lower)(lowering)
}

/// `axis` counted from the front; errors outside `-rank .. rank`.
fn axis_of(axis: i64, rank: usize) -> Result<usize, Decline> {
    let counted = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(counted)
        .ok()
        .filter(|&axis| axis < rank.max(1))
        .ok_or_else(|| Decline(format!("axis {axis} is outside a tensor of {rank} dimensions")))
}
