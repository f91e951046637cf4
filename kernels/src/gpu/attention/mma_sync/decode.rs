//! The kernel for a few query rows: parameters, legality, symbol, unit and launch.

use super::{Problem, cache_shape, kind_name, operand, optional, row_bytes, scales};
use crate::error::{KernelError, Result};
use crate::gpu::attention::{Meeting, mask, places};
use crate::gpu::chip::Chip;
use crate::gpu::launch::{Arg, Element, Launch, Plan};
use crate::gpu::unit::{Kernel, Planned, Text, Unit};

/// Keys of a block.
const BN: u32 = 64;
/// Sequences whose lengths a block keeps in shared memory.
pub(super) const MAX_BATCH: u32 = 1024;

/// What a decode kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DecodeParams {
    /// Columns of queries and keys, and of values; narrower heads are padded with zeros.
    pub head_qk: u32,
    pub head_v: u32,
    /// Rows of a tile: query rows times query heads of a key/value head, packed.
    pub rows: u32,
    /// Blocks of keys with their values in shared memory.
    pub stages: u32,
    /// The cache holds e4m3 codes.
    pub is_coded: bool,
}

impl DecodeParams {
    /// Refuses parameters that the device text is not written for, or that do not fit the chip.
    pub fn check(&self, chip: &Chip) -> Result<()> {
        let Self { head_qk, head_v, rows, stages, .. } = *self;
        let fail = |what: &str| Err(KernelError::parameter(format!("{self:?}: {what}")));
        if rows != 16 && rows != 32 {
            return fail("rows must be 16 or 32");
        }
        if head_qk % 32 != 0 || head_v % 32 != 0 || head_qk.max(head_v) > 256 || head_qk.min(head_v) == 0 {
            return fail("heads must be multiples of 32 columns up to 256");
        }
        if self.is_coded && head_qk != head_v {
            return fail("heads of codes must be as wide for keys and values");
        }
        if stages < 2 {
            return fail("two stages at least");
        }
        let queries = if head_qk > 128 { 0 } else { head_qk / 4 };
        let registers = (queries + head_v / 2 + 88) * self.threads();
        if registers > chip.registers {
            return fail(&format!("about {registers} registers of {}", chip.registers));
        }
        let bytes = self.shared_bytes();
        if bytes > chip.shared_bytes {
            return fail(&format!("{bytes} bytes of shared memory of {}", chip.shared_bytes));
        }
        Ok(())
    }

    /// Shared memory of a block: the ring, joined outputs, maxima and sums, queries of wide heads, lengths, barriers.
    pub fn shared_bytes(&self) -> u32 {
        let row = row_bytes(self.head_qk, self.is_coded) + row_bytes(self.head_v, self.is_coded);
        let ring = self.stages * row * BN;
        let joined = self.rows * self.head_v * 4 + 2 * 4 * self.rows * 4;
        let queries = if self.head_qk > 128 { self.rows / 16 * (self.head_qk / 16) * 512 } else { 512 };
        let lengths = ((MAX_BATCH + 1) * 4).next_multiple_of(8);
        ring + joined + queries + (lengths + 4).next_multiple_of(16)
    }

    /// Four warps for each 16 rows.
    pub fn threads(&self) -> u32 {
        8 * self.rows
    }

    /// Name of the entry point.
    pub fn symbol(&self, arch: &str, element: Element) -> Result<String> {
        let Self { head_qk, head_v, rows, stages, .. } = *self;
        let kind = kind_name(element, self.is_coded, head_qk, head_v)?;
        Ok(format!("attention_decode_{kind}__{arch}__rows{rows}_st{stages}"))
    }

    pub(super) fn unit(&self, arch: &str, element: Element, texts: &[Text]) -> Result<Unit> {
        let symbol = self.symbol(arch, element)?;
        let define = |name: &str, value: String| (name.to_owned(), value);
        Ok(Unit {
            name: symbol.clone(),
            texts: texts.to_vec(),
            defines: vec![
                define("SYMBOL", symbol.clone()),
                define("ELEMENT", super::element_name(element)?.to_uppercase()),
                define("HEAD_QK", self.head_qk.to_string()),
                define("HEAD_V", self.head_v.to_string()),
                define("ROWS", self.rows.to_string()),
                define("HEADS", "1".to_owned()),
                define("STAGES", self.stages.to_string()),
                define("KEY_LIMIT", "1".to_owned()),
                define("CODES", u32::from(self.is_coded).to_string()),
                define("THREADS", self.threads().to_string()),
                define("SHARED_BYTES", self.shared_bytes().to_string()),
            ],
            kernels: vec![Kernel {
                symbol,
                threads: self.threads(),
                shared_bytes: self.shared_bytes(),
                required: vec!["HMMA", "LDSM", "LDGSTS", "MUFU.EX2"],
                forbidden: Vec::new(),
                planned: Planned::default(),
            }],
        })
    }
}

/// Thread blocks: as many as the chip runs at once, at most one for each block of keys.
fn blocks(problem: &Problem, params: &DecodeParams, items: u64, chip: &Chip) -> u32 {
    let resident = ((chip.shared_bytes + 1024) / (params.shared_bytes() + 1024)).clamp(1, 2);
    let most = items * u64::from(problem.kv_len.div_ceil(BN).max(1));
    most.min(u64::from(chip.compute_units * resident)) as u32
}

pub(super) fn plan(arch: &str, problem: &Problem, params: &DecodeParams, chip: &Chip) -> Result<Plan> {
    params.check(chip)?;
    mask::check_places(problem)?;
    if problem.batch > MAX_BATCH {
        return Err(KernelError::shape(format!("{} sequences: at most {MAX_BATCH}", problem.batch)));
    }
    let row_tiles = (problem.q_len * problem.group()).div_ceil(params.rows);
    let items = u64::from(problem.batch) * u64::from(problem.kv_heads) * u64::from(row_tiles);
    if items * u64::from(problem.kv_len.div_ceil(BN).max(1)) >= 1 << 31 {
        return Err(KernelError::shape("2^31 blocks of keys or more"));
    }
    let blocks = blocks(problem, params, items, chip);
    let shape = problem.device_shape(0, [0, row_tiles, 0]);
    let [k_scales, v_scales, scale_step] = scales(problem);
    let [lengths, q_offsets, page_table, sinks] = places(problem);
    let [mask_shape, mask] = mask::arguments(problem);
    let meeting = Meeting::new(items, blocks, params.rows, params.head_v);
    let [tickets, outputs, states] = meeting.arguments();
    Ok(Plan {
        launches: vec![Launch {
            symbol: params.symbol(arch, problem.element)?,
            grid: [blocks, 1, 1],
            block: [params.threads(), 1, 1],
            cluster: [1, 1, 1],
            shared_bytes: params.shared_bytes(),
            args: vec![
                Arg::Bytes { bytes: shape, align: 8 },
                cache_shape(problem),
                optional(operand::Q, true),
                optional(operand::K, true),
                optional(operand::V, true),
                optional(operand::OUT, true),
                lengths,
                q_offsets,
                page_table,
                sinks,
                tickets,
                outputs,
                states,
                k_scales,
                v_scales,
                scale_step,
                mask_shape,
                mask,
            ],
            is_dependent_launch: false,
            cost: problem.cost(),
        }],
        workspace_bytes: meeting.workspace_bytes,
        zeroed_bytes: meeting.tickets_bytes,
    })
}
