//! Attention on NVIDIA GPUs since Ampere: asynchronous copies into shared memory, products by warps.

mod decode;
mod forward;
mod table;

pub use decode::DecodeParams;
pub use forward::ForwardParams;
pub(super) use table::read_forward;
pub use table::{Row, rows, units};

use super::{Keys, Problem, Scales, cached_bytes, element_name, operand, optional};
use crate::error::{KernelError, Result};
use crate::gpu::chip::Chip;
use crate::gpu::launch::{Arg, Element, Plan};

/// The launches of a checked problem with the parameters that the family's table gives it.
pub(super) fn plan(arch: &str, problem: &Problem, chip: &Chip) -> Result<Plan> {
    plan_with(arch, problem, &table::select(arch, problem, chip)?, chip)
}

/// The launches with parameters of the caller's choice, for measuring them.
pub fn plan_with(arch: &str, problem: &Problem, row: &Row, chip: &Chip) -> Result<Plan> {
    problem.check()?;
    super::check_e4m3(problem)?;
    check_cache(problem)?;
    let is_coded = match row {
        Row::Forward(params) => params.is_coded,
        Row::Decode(params) => params.is_coded,
    };
    if is_coded != problem.codes.is_some() {
        return Err(KernelError::parameter(format!("{row:?} for a cache of {:?}", problem.codes)));
    }
    match row {
        Row::Forward(params) => forward::plan(arch, problem, params, chip),
        Row::Decode(params) => decode::plan(arch, problem, params, chip),
    }
}

/// Part of a symbol: element type, codes and columns of a head.
fn kind_name(element: Element, is_coded: bool, head_qk: u32, head_v: u32) -> Result<String> {
    let head = if head_qk == head_v { format!("d{head_qk}") } else { format!("d{head_qk}_dv{head_v}") };
    let codes = if is_coded { "_e4m3" } else { "" };
    Ok(format!("{}{codes}_{head}", element_name(element)?))
}

/// Bytes that a row of so many columns of a cache takes in panels of 128-byte rows, or of 64 where codes are no more.
fn row_bytes(columns: u32, is_coded: bool) -> u32 {
    match is_coded {
        true if columns <= 64 => 64,
        true => columns.next_multiple_of(128),
        false => columns.next_multiple_of(64) * 2,
    }
}

/// Refuses caches whose rows the device text's 32-bit distances do not reach.
fn check_cache(problem: &Problem) -> Result<()> {
    for (what, strides) in [("k", problem.k), ("v", problem.v)] {
        if strides.row * cached_bytes(problem) >= 1 << 31 {
            return Err(KernelError::shape(format!("{what} has {strides:?}: rows of less than 2 GiB only")));
        }
    }
    if let Keys::Paged { page_rows, .. } = problem.keys
        && u64::from(problem.kv_len) * u64::from(page_rows) >= 1 << 38
    {
        return Err(KernelError::shape(format!(
            "{} keys in pages of {page_rows} rows: the product must be below 2^38",
            problem.kv_len
        )));
    }
    Ok(())
}

/// `CacheShape` of the device text.
fn cache_shape(problem: &Problem) -> Arg {
    let strides = [problem.k, problem.v].into_iter().flat_map(|s| [s.batch, s.row, s.head]);
    let mut bytes: Vec<u8> =
        strides.flat_map(|stride| (stride * cached_bytes(problem)).to_le_bytes()).collect();
    let (pages, magic) = match problem.keys {
        Keys::Contiguous => (0, 0),
        Keys::Paged { pages, page_rows, .. } => (pages, (1u32 << 31).div_ceil(page_rows / 16)),
    };
    bytes.extend([pages, magic].into_iter().flat_map(u32::to_le_bytes));
    Arg::Bytes { bytes, align: 8 }
}

/// Scales of keys and values, and the distance between those of neighbouring heads.
fn scales(problem: &Problem) -> [Arg; 3] {
    let is_coded = problem.codes.is_some();
    [
        optional(operand::K_SCALES, is_coded),
        optional(operand::V_SCALES, is_coded),
        Arg::I32(problem.codes.is_some_and(|codes| codes.scales == Scales::Head).into()),
    ]
}
