//! Attention on a GPU: what a problem is, which kernel serves it, and its launches.
//!
//! Two kernels share the work. `forward` is for many query rows and is bound by the matrix units; `decode` is for a few
//! query rows over a long cache and is bound by memory. Both take every mask, layout and length described by
//! [`Problem`]. Their parameters come from `attention.toml`.

mod decode;
mod forward;
mod shape;
mod table;

pub use decode::DecodeParams;
pub use forward::{ForwardParams, Mask};
pub use shape::{Causal, Keys, Lengths, Problem, Queries, Strides};
pub use table::{Row, rows, units};

use super::chip::Chip;
use super::launch::{Arg, Element, Plan, TensorMap};
use crate::error::{KernelError, Result};

/// Operand numbers of a plan. Those that the problem does not mention are not read.
pub mod operand {
    /// The result, `[batch, q rows, heads, v columns]` by its strides; ragged: `[q rows, heads, v columns]`.
    pub const OUT: usize = 0;
    /// Queries, laid out as the result with the q columns.
    pub const Q: usize = 1;
    /// Keys, `[batch, k rows, k/v heads, q columns]` by strides; paged: `[pages, page rows, k/v heads, q columns]`.
    pub const K: usize = 2;
    /// Values, laid out as the keys with the v columns.
    pub const V: usize = 3;
    /// Numbers of keys, `[batch]` of i32 or i64.
    pub const LENGTHS: usize = 4;
    /// Ragged queries: i32 `[batch + 1]`, where the rows of a sequence begin and end.
    pub const Q_OFFSETS: usize = 5;
    /// Paged keys: i32 `[batch, columns]`, the pages of a sequence in order.
    pub const PAGE_TABLE: usize = 6;
    /// f32 `[heads]`: the score of a key without value that every row sees besides the others.
    pub const SINKS: usize = 7;
}

/// The launches of a problem on a chip of the `sm90` family.
///
/// The queries' rows, the keys' rows and all strides start at multiples of 16 bytes. Scores, sums and outputs are
/// accumulated in f32; weights are rounded to the element type before they meet the values. A row that sees no key
/// gives zeros. What lies in the caches past a sequence's length is not used, whatever its bits are.
pub fn plan(problem: &Problem, chip: &Chip) -> Result<Plan> {
    problem.check()?;
    if problem.batch == 0 || problem.q_rows() == 0 {
        return Ok(Plan::default());
    }
    match table::select(problem)? {
        Row::Forward(params) => forward::plan(problem, &params, chip),
        Row::Decode(params) => decode::plan(problem, &params, chip),
    }
}

/// The launches with parameters of the caller's choice, for measuring them.
pub fn plan_with(problem: &Problem, row: &Row, chip: &Chip) -> Result<Plan> {
    problem.check()?;
    match row {
        Row::Forward(params) => forward::plan(problem, params, chip),
        Row::Decode(params) => decode::plan(problem, params, chip),
    }
}

/// Part of a symbol that names an element type.
fn element_name(element: Element) -> Result<&'static str> {
    match element {
        Element::BF16 => Ok("bf16"),
        Element::F16 => Ok("f16"),
        other => Err(KernelError::parameter(format!("attention of {other:?}: bf16 and f16 only"))),
    }
}

/// A pointer to an operand, or NULL where the problem has none.
fn optional(operand: usize, is_present: bool) -> Arg {
    if is_present { Arg::Pointer { operand, offset_bytes: 0 } } else { Arg::I64(0) }
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
        swizzle: super::launch::Swizzle::Bytes128,
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
