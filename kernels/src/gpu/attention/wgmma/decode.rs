//! The kernel for a few query rows: parameters, legality, symbol, unit and launch.

use super::{Problem, element_name, key_maps, operand, optional, piece_rows};
use crate::error::{KernelError, Result};
use crate::gpu::attention::{Meeting, Scales, mask, places};
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
    /// Key/value heads of a tile, which share its rows out: two of narrow heads that lie beside each other in memory.
    pub heads: u32,
    /// Blocks of keys with their values in shared memory.
    pub stages: u32,
    /// The cache holds e4m3 codes.
    pub is_coded: bool,
    /// Blocks of a compute unit. Two overlap the arithmetic of codes with copies where there is much to read.
    pub resident: u32,
}

impl DecodeParams {
    /// Refuses parameters that the device text is not written for, or that do not fit the chip.
    pub fn check(&self, chip: &Chip) -> Result<()> {
        let Self { head_qk, head_v, rows, stages, .. } = *self;
        let fail = |what: &str| Err(KernelError::parameter(format!("{self:?}: {what}")));
        if rows != 16 && rows != 32 {
            return fail("rows must be 16 or 32");
        }
        if self.heads == 0 || rows % (16 * self.heads) != 0 {
            return fail("each head of a tile needs 16 rows");
        }
        if head_qk % 16 != 0 || head_v % 32 != 0 || head_qk.max(head_v) > 256 || head_qk.min(head_v) == 0 {
            return fail("head_qk must be a multiple of 16 and head_v one of 32, up to 256");
        }
        if stages == 0 || self.resident == 0 {
            return fail("a stage and a block at least");
        }
        if self.is_coded && (head_qk % 32 != 0 || head_qk != head_v) {
            return fail("heads of codes must be as wide for keys and values, and multiples of 32");
        }
        let queries = if head_qk > 128 { 0 } else { head_qk / 4 };
        let registers = (queries + head_v / 2 + 88) * self.threads() * self.resident;
        if registers > chip.registers {
            return fail(&format!("about {registers} registers of {}", chip.registers));
        }
        let bytes = self.shared_bytes();
        if (bytes + 1024) * self.resident > chip.shared_bytes + 1024 {
            return fail(&format!("{bytes} bytes of shared memory of {}", chip.shared_bytes));
        }
        Ok(())
    }

    /// Shared memory of a block: the ring, joined outputs, maxima and sums, queries of wide heads, lengths, barriers.
    pub fn shared_bytes(&self) -> u32 {
        let panels = self.head_qk.div_ceil(self.panel_columns()) + self.head_v.div_ceil(self.panel_columns());
        let ring = self.stages * self.heads * panels * BN * self.row_bytes();
        let joined = self.rows * self.head_v * 4 + 2 * 4 * self.rows * 4;
        let queries = if self.head_qk > 128 { self.rows / 16 * (self.head_qk / 16) * 512 } else { 512 };
        let lengths = ((MAX_BATCH + 1) * 4).next_multiple_of(8);
        ring + joined + queries + (lengths + self.stages * 16 + 4).next_multiple_of(16)
    }

    /// Bytes of a panel's row, and the columns that they hold.
    fn row_bytes(&self) -> u32 {
        if self.is_coded && self.head_qk <= 64 { 64 } else { 128 }
    }

    fn panel_columns(&self) -> u32 {
        if self.is_coded { self.row_bytes() } else { 64 }
    }

    /// Rows of a tile that belong to one key/value head.
    pub fn head_rows(&self) -> u32 {
        self.rows / self.heads
    }

    /// True where the tile reads the cache once, or is the widest there is. Several heads of a tile are neighbours in memory.
    pub(super) fn is_for_rows(&self, problem: &Problem) -> bool {
        let packed = problem.typical_rows().saturating_mul(problem.group());
        let beside = [problem.k, problem.v].iter().all(|strides| strides.head < strides.row);
        if self.heads > 1 {
            return beside && problem.kv_heads.is_multiple_of(self.heads) && self.head_rows() >= packed;
        }
        self.rows >= packed || self.rows == 32 || self.head_v > 128
    }

    /// Consumer warps and a producer warp.
    pub fn threads(&self) -> u32 {
        32 * (self.rows / 4 + 1)
    }

    /// Name of the entry point.
    pub fn symbol(&self, arch: &str, element: Element) -> Result<String> {
        let Self { head_qk, head_v, rows, stages, .. } = *self;
        let head = if head_qk == head_v { format!("d{head_qk}") } else { format!("d{head_qk}_dv{head_v}") };
        let element = element_name(element)?;
        let codes = if self.is_coded { "_e4m3" } else { "" };
        let heads = if self.heads > 1 { format!("_h{}", self.heads) } else { String::new() };
        let resident = if self.resident > 1 { format!("_x{}", self.resident) } else { String::new() };
        Ok(format!(
            "attention_decode_{element}{codes}_{head}__{arch}__rows{rows}{heads}_st{stages}{resident}"
        ))
    }

    pub(super) fn unit(&self, arch: &str, element: Element, texts: &[Text]) -> Result<Unit> {
        let symbol = self.symbol(arch, element)?;
        let define = |name: &str, value: String| (name.to_owned(), value);
        Ok(Unit {
            name: symbol.clone(),
            texts: texts.to_vec(),
            defines: vec![
                define("SYMBOL", symbol.clone()),
                define("ELEMENT", element_name(element)?.to_uppercase()),
                define("HEAD_QK", self.head_qk.to_string()),
                define("HEAD_V", self.head_v.to_string()),
                define("ROWS", self.rows.to_string()),
                define("HEADS", self.heads.to_string()),
                define("STAGES", self.stages.to_string()),
                define("KEY_LIMIT", "1".to_owned()),
                define("RESIDENT", self.resident.to_string()),
                define("CODES", u32::from(self.is_coded).to_string()),
                define("SHARED_BYTES", self.shared_bytes().to_string()),
            ],
            kernels: vec![Kernel {
                symbol,
                threads: self.threads(),
                shared_bytes: self.shared_bytes(),
                required: vec!["HMMA", "LDSM", "UTMALDG", "MUFU.EX2"],
                forbidden: vec!["LDL", "STL"],
                planned: Planned::default(),
            }],
        })
    }
}

/// Blocks of keys that a problem with few rows reads.
pub(super) fn key_blocks(problem: &Problem) -> u64 {
    let tiles = problem.typical_rows().saturating_mul(problem.group()).div_ceil(16);
    [problem.batch, problem.kv_heads, tiles, problem.kv_len.div_ceil(BN)].map(u64::from).iter().product()
}

/// Thread blocks for `items` (sequence, head, row tile) triples: as many as the chip has compute units, or fewer where
/// that gives every block whole items and keeps nearly all units busy.
fn blocks(problem: &Problem, params: &DecodeParams, items: u64, chip: &Chip) -> u32 {
    let units = u64::from(chip.compute_units * params.resident);
    let whole = items.div_ceil(items.div_ceil(units));
    let count = if problem.lengths.is_none() && whole * 100 >= units * 95 { whole } else { units };
    let most = items * u64::from(problem.kv_len.div_ceil(BN).max(1));
    count.min(most) as u32
}

pub(super) fn plan(arch: &str, problem: &Problem, params: &DecodeParams, chip: &Chip) -> Result<Plan> {
    params.check(chip)?;
    mask::check_places(problem)?;
    if params.is_coded != problem.codes.is_some() {
        return Err(KernelError::parameter(format!("{params:?} for a cache of {:?}", problem.codes)));
    }
    if problem.batch > MAX_BATCH {
        return Err(KernelError::shape(format!("{} sequences: at most {MAX_BATCH}", problem.batch)));
    }
    if !problem.kv_heads.is_multiple_of(params.heads) {
        return Err(KernelError::parameter(format!("{params:?} for {} key/value heads", problem.kv_heads)));
    }
    let row_tiles = (problem.q_len * problem.group()).div_ceil(params.head_rows());
    let runs = problem.kv_heads / params.heads;
    let items = u64::from(problem.batch) * u64::from(runs) * u64::from(row_tiles);
    if items * u64::from(problem.kv_len.div_ceil(BN).max(1)) >= 1 << 31 {
        return Err(KernelError::shape("2^31 blocks of keys or more"));
    }
    let blocks = blocks(problem, params, items, chip);
    let piece = piece_rows(&problem.keys, BN);
    let [k, v] = key_maps(problem, piece, params.panel_columns());
    let shape = problem.device_shape(piece, [0, row_tiles, 0]);
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
                k,
                v,
                Arg::Bytes { bytes: shape, align: 8 },
                optional(operand::Q, true),
                optional(operand::OUT, true),
                lengths,
                q_offsets,
                page_table,
                sinks,
                tickets,
                outputs,
                states,
                optional(operand::K_SCALES, params.is_coded),
                optional(operand::V_SCALES, params.is_coded),
                Arg::I32(problem.codes.is_some_and(|codes| codes.scales == Scales::Head).into()),
                mask_shape,
                mask,
            ],
            is_dependent_launch: true,
            cost: problem.cost(),
        }],
        workspace_bytes: meeting.workspace_bytes,
        zeroed_bytes: meeting.tickets_bytes,
    })
}
