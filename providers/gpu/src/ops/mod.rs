//! The operators, one file a family. To add one: lower it in its family's file and add its name to that file's table.

mod activation;
mod attention;
mod conv;
mod conv_matrix;
mod einsum;
mod elementwise;
mod extents;
mod gather;
mod generate;
mod index;
mod integer;
mod layout;
mod loss;
mod matmul;
mod microscaling;
mod narrow;
mod nbits;
mod norm;
mod order;
mod pool;
mod quantize;
mod quantized;
mod recurrent;
mod reduce;
mod region;
mod scatter;
mod signal;
mod softmax;
mod state;
mod tail;
mod tensor;
mod view;
mod window;

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
    order::FAMILIES,
    scatter::FAMILIES,
    signal::FAMILIES,
    state::FAMILIES,
    window::FAMILIES,
    generate::FAMILIES,
    loss::FAMILIES,
    layout::FAMILIES,
    gather::FAMILIES,
    recurrent::FAMILIES,
    reduce::FAMILIES,
    region::FAMILIES,
    softmax::FAMILIES,
    norm::FAMILIES,
    matmul::FAMILIES,
    nbits::FAMILIES,
    quantize::FAMILIES,
    quantized::FAMILIES,
    quantized::scaled::FAMILIES,
    integer::product::FAMILIES,
    integer::conv::FAMILIES,
    einsum::FAMILIES,
    conv::FAMILIES,
    pool::FAMILIES,
    attention::group_query::FAMILIES,
    attention::multi_head::FAMILIES,
    attention::onnx::FAMILIES,
    attention::paged::FAMILIES,
    attention::projected::FAMILIES,
    attention::rotary::FAMILIES,
];

/// The operator of a node, or why there is none.
pub(crate) fn lower(lowering: &Lowering<'_>) -> Lowered {
    let node = lowering.node;
    narrow::check(lowering)?;
    if node.domain().is_empty() && narrow::is_cast(lowering) {
        return narrow::cast(lowering);
    }
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
