//! Attention on Hopper: bulk copies into rings, products by warpgroups.

mod decode;
mod forward;
mod table;

pub use decode::DecodeParams;
pub use forward::{ForwardParams, Mask};
pub use table::{Row, rows, units};

use super::{Keys, Problem, Strides, element_name, operand, optional};
use crate::error::Result;
use crate::gpu::chip::Chip;
use crate::gpu::launch::{Arg, Element, Plan, Swizzle, TensorMap};

/// The launches of a checked problem with the parameters that the family's table gives it.
pub(super) fn plan(arch: &str, problem: &Problem, chip: &Chip) -> Result<Plan> {
    plan_with(arch, problem, &table::select(arch, problem)?, chip)
}

/// The launches with parameters of the caller's choice, for measuring them.
pub fn plan_with(arch: &str, problem: &Problem, row: &Row, chip: &Chip) -> Result<Plan> {
    problem.check()?;
    match row {
        Row::Forward(params) => forward::plan(arch, problem, params, chip),
        Row::Decode(params) => decode::plan(arch, problem, params, chip),
    }
}

/// A view for the copy engine: boxes of `rows` rows and 64 columns of one head, 128-byte swizzle.
fn tensor_map(
    operand: usize,
    element: Element,
    [columns, row_count, heads, batch]: [u32; 4],
    strides: Strides,
    rows: u32,
) -> TensorMap {
    // The distance along an extent of one is free, but must be one that the copy engine takes.
    let distance =
        |stride: u64, extent: u32| if extent > 1 { stride } else { stride.max(8) } * element.bytes();
    let strides_bytes =
        [distance(strides.row, row_count), distance(strides.head, heads), distance(strides.batch, batch)];
    TensorMap {
        operand,
        offset_bytes: 0,
        element,
        dims: [columns, row_count, heads, batch].map(|extent| u64::from(extent.max(1))).to_vec(),
        strides_bytes: strides_bytes.to_vec(),
        box_dims: vec![64, rows, 1, 1],
        swizzle: Swizzle::Bytes128,
    }
}

/// Rows that one copy moves so that every block of `block` keys is whole pieces, none across two pages.
fn piece_rows(keys: &Keys, block: u32) -> u32 {
    let Keys::Paged { page_rows, .. } = *keys else {
        return block;
    };
    let (mut a, mut b) = (block, page_rows);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Tensor maps of keys and values.
fn key_maps(problem: &Problem, piece: u32) -> [Arg; 2] {
    let (rows, batch) = match problem.keys {
        Keys::Contiguous => (problem.kv_len, problem.batch),
        Keys::Paged { pages, page_rows, .. } => (page_rows, pages),
    };
    let map = |operand, columns, strides| {
        Arg::TensorMap(tensor_map(
            operand,
            problem.element,
            [columns, rows, problem.kv_heads, batch],
            strides,
            piece,
        ))
    };
    [map(operand::K, problem.head_qk, problem.k), map(operand::V, problem.head_v, problem.v)]
}
