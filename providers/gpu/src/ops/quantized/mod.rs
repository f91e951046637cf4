//! Products whose operands are codes: `tenon.QuantizedMatMul`, which stands for DequantizeLinear in front of a product.

pub(super) mod scaled;
mod weights;

use tenon_kernels::gpu::scalar::Scalar;

use super::integer::product::{IntegerProduct, PLAIN, Product};
use super::tail::Tail;
use super::{Family, axis_of};
use crate::operator::{Decline, Lowered, Lowering};

pub(super) const FAMILIES: &[Family] = &[Family { domain: "tenon", op_types: &["QuantizedMatMul"], lower }];

/// Inputs of the node, behind A, B, bias and residual.
const A_SCALE: usize = 4;
const A_ZERO: usize = 5;
const B_SCALE: usize = 6;
const B_ZERO: usize = 7;

fn lower(l: &Lowering<'_>) -> Lowered {
    let (a, b) = (l.scalar(0)?, l.scalar(1)?);
    let transposes = (l.node.int_or("transA", 0)? != 0, l.node.int_or("transB", 0)? != 0);
    if a.is_float() {
        return weights::lower(l, transposes);
    }
    if l.has_input(B_SCALE) && l.scalar(B_SCALE)? == Scalar::F8E8M0 {
        return super::microscaling::lower(l, transposes);
    }
    if a == Scalar::F8E4M3FN && b == Scalar::F8E4M3FN {
        return scaled::floats(l, transposes);
    }
    if a.is_narrow() {
        return Err(Decline(format!("products of {} by {} have no GPU kernel", a.suffix(), b.suffix())));
    }
    scales_lie_across(l, 0, A_SCALE, transposes.0)?;
    scales_lie_across(l, 1, B_SCALE, !transposes.1)?;
    let product = IntegerProduct::read(l, (0, A_ZERO), (1, B_ZERO), transposes)?;
    let product = Product {
        product,
        a_scale: Some(A_SCALE),
        b_scale: Some(B_SCALE),
        alpha: l.node.float_or("alpha", 1.0)?,
        output: l.output_scalar(0)?,
        tail: Tail::read(l)?,
        ..PLAIN
    };
    match product.product.is_centred() {
        true => scaled::integers(l, transposes, product),
        false => Ok(Box::new(product)),
    }
}

/// Declines scales of operand `index` that are neither one number nor one for each of its rows (B: columns), whose axis is
/// the last one where `is_last`. True when there is one for each.
fn scales_lie_across(
    l: &Lowering<'_>,
    index: usize,
    scale: usize,
    is_last: bool,
) -> std::result::Result<bool, Decline> {
    let (rank, dims) = (l.rank(index)?, l.input(scale)?.dims());
    let dims = dims.ok_or_else(|| Decline::new("the shape of the scales is not known"))?;
    let prefix = if index == 0 { "a" } else { "b" };
    if dims.iter().all(|&dim| dim == 1) {
        return Ok(false);
    }
    let axis = axis_of(l.node.int_or(&format!("{prefix}_axis"), 1)?, rank)?;
    let wanted = if is_last { rank - 1 } else { rank.saturating_sub(2) };
    if dims.len() != 1
        || l.node.int_or(&format!("{prefix}_block_size"), 0)? != 0
        || rank != 2
        || axis != wanted
    {
        return Err(Decline(format!("scales of operand {index} along or within sums have no GPU kernel")));
    }
    Ok(true)
}
