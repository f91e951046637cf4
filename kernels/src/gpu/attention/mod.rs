//! Attention on a GPU: what a problem is, which kernel serves it, and its launches.
//!
//! Two kernels share the work. `forward` is for many query rows and is bound by the matrix units; `decode` is for a few
//! query rows over a long cache and is bound by memory. Both take every mask, layout and length described by
//! [`Problem`]. Their parameters come from the family's `attention.toml`; there is one planner for each kind of main loop.

pub mod append;
mod mask;
pub mod mfma;
pub mod mma_sync;
pub mod plain;
mod shape;
mod table;
pub mod wgmma;

pub use mask::{Mask, MaskKind, MaskOperand};
pub use shape::{Causal, Code, Codes, Keys, Lengths, Problem, Queries, Scales, Strides};

use super::arch::{self, Mainloop};
use super::chip::Chip;
use super::launch::{Arg, Element, Plan};
use super::unit::Unit;
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
    /// What is added to the scores, or booleans: where a row may look.
    pub const MASK: usize = 8;
    /// f32: what the codes of keys are multiplied by.
    pub const K_SCALES: usize = 9;
    /// The same of values.
    pub const V_SCALES: usize = 10;
    /// i32: what [`super::plain`] takes for paddings.
    pub const PADDING: usize = 11;
}

/// The launches of a problem on a chip of the family `arch`.
///
/// The queries' rows, the keys' rows and all strides start at multiples of 16 bytes. Scores, sums and outputs are
/// accumulated in f32; weights are rounded to the element type before they meet the values, as are queries
/// that were multiplied by the scales of single columns of keys. A row that sees no key
/// gives zeros. A mask in memory starts at a multiple of 16 bytes; caches of codes have none. What lies in the caches past
/// a sequence's length is not used, whatever its bits are.
pub fn plan(arch: &str, problem: &Problem, chip: &Chip) -> Result<Plan> {
    problem.check()?;
    let mainloop = mainloop(arch)?;
    if problem.batch == 0 || problem.q_rows() == 0 {
        return Ok(Plan::default());
    }
    match mainloop {
        Mainloop::Wgmma => wgmma::plan(arch, problem, chip),
        Mainloop::Mfma => mfma::plan(arch, problem, chip),
        Mainloop::MmaSync => mma_sync::plan(arch, problem, chip),
    }
}

/// What the build compiles: every row of the family's table for every element type.
pub fn units(arch: &str) -> Result<Vec<Unit>> {
    match mainloop(arch)? {
        Mainloop::Wgmma => wgmma::units(arch),
        Mainloop::Mfma => mfma::units(arch),
        Mainloop::MmaSync => mma_sync::units(arch),
    }
}

fn mainloop(arch: &str) -> Result<Mainloop> {
    Ok(arch::find(arch)?.operator("attention")?.mainloop)
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

/// Lengths, offsets of ragged queries, the page table and sinks: what all forward and decode kernels take in this order.
fn places(problem: &Problem) -> [Arg; 4] {
    [
        optional(operand::LENGTHS, problem.lengths.is_some()),
        optional(operand::Q_OFFSETS, problem.queries != Queries::Batched),
        optional(operand::PAGE_TABLE, problem.keys != Keys::Contiguous),
        optional(operand::SINKS, problem.has_sinks),
    ]
}

/// Refuses codes that kernels for E4M3 with scales of heads do not read.
fn check_e4m3(problem: &Problem) -> Result<()> {
    match problem.codes {
        Some(codes) if codes.code != Code::E4M3 || codes.scales == Scales::Channel => {
            let what = format!("a cache of {codes:?}: e4m3 with a scale for each head at most");
            Err(KernelError::parameter(what))
        }
        _ => Ok(()),
    }
}

/// Bytes of an element of the caches.
fn cached_bytes(problem: &Problem) -> u64 {
    if problem.codes.is_some() { 1 } else { problem.element.bytes() }
}

/// Query heads whose keys and values stay in the second-level cache together: a power of two, which divides most head
/// counts.
fn section(problem: &Problem, mask: Mask, chip: &Chip) -> u32 {
    if mask == Mask::None {
        return 1;
    }
    let heads = problem.batch * problem.heads;
    let columns = u64::from(problem.head_qk + problem.head_v);
    let head_bytes = u64::from(problem.kv_len) * columns * cached_bytes(problem);
    let kv_heads = (chip.l2_bytes * 2 / 3 / head_bytes.max(1)).max(1);
    let fitting = u32::try_from(kv_heads * u64::from(problem.group())).unwrap_or(heads).clamp(1, heads);
    1 << fitting.ilog2()
}

/// The workspace in which blocks that share a tile of rows meet: a ticket for each tile, then the outputs and the states
/// (maximum and sum) of the two pieces that a block can leave unfinished.
struct Meeting {
    tickets_bytes: u64,
    out_offset: u64,
    state_offset: u64,
    workspace_bytes: u64,
}

impl Meeting {
    fn new(tiles: u64, blocks: u32, rows: u32, head_v: u32) -> Meeting {
        let piece_rows = u64::from(blocks) * 2 * u64::from(rows);
        let tickets_bytes = tiles * 4;
        let out_offset = tickets_bytes.next_multiple_of(256);
        let state_offset = out_offset + (piece_rows * u64::from(head_v) * 4).next_multiple_of(256);
        Meeting { tickets_bytes, out_offset, state_offset, workspace_bytes: state_offset + piece_rows * 8 }
    }

    /// Tickets, outputs, states.
    fn arguments(&self) -> [Arg; 3] {
        [0, self.out_offset, self.state_offset].map(|offset_bytes| Arg::Workspace { offset_bytes })
    }
}
