//! Attention on Hopper: bulk copies into rings, products by warpgroups.

mod decode;
mod forward;
mod table;

pub use decode::DecodeParams;
pub use forward::ForwardParams;
pub use table::{Row, rows, units};

use super::{Keys, Problem, Strides, element_name, operand, optional};
use crate::error::Result;
use crate::gpu::chip::Chip;
use crate::gpu::launch::{Arg, Element, Plan, Swizzle, TensorMap};

/// The launches of a checked problem with the parameters that the family's table gives it.
pub(super) fn plan(arch: &str, problem: &Problem, chip: &Chip) -> Result<Plan> {
    plan_with(arch, problem, &table::select(arch, problem, chip)?, chip)
}

/// The launches with parameters of the caller's choice, for measuring them.
pub fn plan_with(arch: &str, problem: &Problem, row: &Row, chip: &Chip) -> Result<Plan> {
    problem.check()?;
    super::check_e4m3(problem)?;
    match row {
        Row::Forward(params) => forward::plan(arch, problem, params, chip),
        Row::Decode(params) => decode::plan(arch, problem, params, chip),
        Row::CodedForward(params) => {
            super::mma_sync::plan_with(arch, problem, &super::mma_sync::Row::Forward(*params), chip)
        }
    }
}

/// A view for the copy engine: boxes of some columns and rows of one head, swizzled by their 64 or 128 bytes.
fn tensor_map(
    operand: usize,
    element: Element,
    [columns, row_count, heads, batch]: [u32; 4],
    strides: Strides,
    box_dims: [u32; 2],
) -> TensorMap {
    // The distance along an extent of one is free, but must be one that the copy engine takes.
    let distance =
        |stride: u64, extent: u32| if extent > 1 { stride } else { stride.max(16) } * element.bytes();
    let strides_bytes =
        [distance(strides.row, row_count), distance(strides.head, heads), distance(strides.batch, batch)];
    TensorMap {
        operand,
        offset_bytes: 0,
        element,
        dims: [columns, row_count, heads, batch].map(|extent| u64::from(extent.max(1))).to_vec(),
        strides_bytes: strides_bytes.to_vec(),
        box_dims: vec![box_dims[0], box_dims[1], 1, 1],
        swizzle: if u64::from(box_dims[0]) * element.bytes() <= 64 {
            Swizzle::Bytes64
        } else {
            Swizzle::Bytes128
        },
        windows: None,
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

/// Tensor maps of keys and values: pieces of `piece` rows and `box_columns` columns.
fn key_maps(problem: &Problem, piece: u32, box_columns: u32) -> [Arg; 2] {
    let element = if problem.codes.is_some() { Element::U8 } else { problem.element };
    let (rows, batch) = match problem.keys {
        Keys::Contiguous => (problem.kv_len, problem.batch),
        Keys::Paged { pages, page_rows, .. } => (page_rows, pages),
    };
    let map = |operand, columns, strides| {
        Arg::TensorMap(tensor_map(
            operand,
            element,
            [columns, rows, problem.kv_heads, batch],
            strides,
            [box_columns, piece],
        ))
    };
    [map(operand::K, problem.head_qk, problem.k), map(operand::V, problem.head_v, problem.v)]
}
