//! The kernel for a few query rows: parameters, legality, symbol, unit and launch.

use super::table::Instructions;
use super::{
    Problem, Sizes, cache_shape, check_codes, element_name, kind_name, operands, scales, stored_bytes,
    tile_bytes, unit,
};
use crate::error::{KernelError, Result};
use crate::gpu::attention::{Code, mask};
use crate::gpu::chip::Chip;
use crate::gpu::launch::{Arg, Element, Launch, Plan};
use crate::gpu::unit::{Text, Unit};

/// Keys that a wave takes at once.
const BN: u32 = 32;
/// Workgroups that a compute unit holds when memory is to be busy.
const GROUPS_A_UNIT: u64 = 2;

/// What a decode kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DecodeParams {
    /// Columns of queries and keys, and of values; narrower heads are padded with zeros.
    pub head_qk: u32,
    pub head_v: u32,
    /// Rows of a tile: query rows times query heads of a key/value head, packed.
    pub rows: u32,
    /// Waves of a workgroup, each on keys of its own.
    pub waves: u32,
    /// Tiles of values a wave has in LDS.
    pub stages: u32,
    /// Reads a mask in memory.
    pub has_mask: bool,
    /// What the cache holds instead of elements.
    pub code: Option<Code>,
}

impl DecodeParams {
    /// Refuses parameters that the device text is not written for, or that do not fit the chip.
    pub fn check(&self, element: Element, chip: &Chip) -> Result<()> {
        let Self { head_qk, head_v, rows, waves, stages, .. } = *self;
        let fail = |what: &str| Err(KernelError::parameter(format!("{self:?} of {element:?}: {what}")));
        element_name(element)?;
        if rows != 16 && rows != 32 {
            return fail("rows must be 16 or 32");
        }
        if head_qk % 32 != 0 || head_v % 64 != 0 || head_qk.max(head_v) > 256 || head_qk.min(head_v) == 0 {
            return fail("head_qk must be a multiple of 32 and head_v one of 64, up to 256");
        }
        if !(1..=8).contains(&waves) || !(1..=2).contains(&stages) {
            return fail("1 to 8 waves, 1 or 2 stages");
        }
        if let Some(what) = check_codes(element, self.code, self.has_mask, [head_qk, head_v]) {
            return fail(what);
        }
        let registers = self.registers(element) * self.threads();
        if registers > chip.registers {
            return fail(&format!("about {registers} registers of {}", chip.registers));
        }
        let bytes = self.shared_bytes(element);
        if bytes > chip.shared_bytes {
            return fail(&format!("{bytes} bytes of shared memory of {}", chip.shared_bytes));
        }
        Ok(())
    }

    /// Registers of a lane: queries, keys of a block, values on their way, outputs, scores. An estimate from above.
    pub fn registers(&self, element: Element) -> u32 {
        let (words, stored) = (element.bytes() as u32, stored_bytes(element, self.code));
        let tiles = self.rows / 16;
        let queries = tiles * self.head_qk * words / 16;
        let keys = BN * self.head_qk * stored / 256;
        let values = if self.stages == 1 { BN * self.head_v * stored / 256 } else { 0 };
        (queries + keys + values + tiles * (self.head_v / 4 + 12) + 56).next_multiple_of(8)
    }

    /// LDS of a workgroup: for every wave its tiles of values, where its outputs lie at last; maxima and sums; a flag.
    pub fn shared_bytes(&self, element: Element) -> u32 {
        let values = self.stages * tile_bytes(self.head_v, BN, element);
        let outputs = self.rows * self.head_v * 4;
        self.waves * (values.max(outputs) + 2 * 4 * self.rows) + 16
    }

    pub fn threads(&self) -> u32 {
        64 * self.waves
    }

    /// Name of the entry point.
    pub fn symbol(&self, arch: &str, element: Element) -> Result<String> {
        let kind = kind_name(element, self.code, [self.head_qk, self.head_v])?;
        let Self { rows, waves, stages, .. } = *self;
        let mask = if self.has_mask { "_memory" } else { "" };
        Ok(format!("attention_decode_{kind}{mask}__{arch}__rows{rows}_w{waves}_st{stages}"))
    }

    pub(super) fn unit(
        &self,
        arch: &str,
        element: Element,
        texts: &[Text],
        has: &Instructions,
    ) -> Result<Unit> {
        let numbers = [
            ("HEAD_QK", self.head_qk),
            ("HEAD_V", self.head_v),
            ("ROWS", self.rows),
            ("BN", BN),
            ("WAVES", self.waves),
            ("STAGES", self.stages),
            ("MASK", self.has_mask.into()),
            ("KEY_LIMIT", self.has_mask.into()),
        ];
        let sizes = Sizes {
            element,
            code: self.code,
            numbers: &numbers,
            threads: self.threads(),
            shared_bytes: self.shared_bytes(element),
            waves_per_simd: (self.waves >= 4).then_some(self.waves / 4),
        };
        unit(self.symbol(arch, element)?, texts, &sizes, has)
    }
}

/// Keys of a workgroup: few enough that all compute units have work, as many as that allows.
fn chunk(params: &DecodeParams, items: u64, span: u32, chip: &Chip) -> u32 {
    let step = params.waves * BN;
    let wanted = u64::from(chip.compute_units) * GROUPS_A_UNIT;
    let keys = (u64::from(span) * items).div_ceil(wanted);
    u32::try_from(keys).unwrap_or(u32::MAX >> 1).max(2 * step).next_multiple_of(step)
}

pub(super) fn plan(arch: &str, problem: &Problem, params: &DecodeParams, chip: &Chip) -> Result<Plan> {
    params.check(problem.element, chip)?;
    if problem.mask.is_some() != params.has_mask {
        return Err(KernelError::parameter(format!("{params:?} for a mask {:?}", problem.mask)));
    }
    let row_tiles = problem.q_len.saturating_mul(problem.group()).div_ceil(params.rows);
    let items = u64::from(problem.batch) * u64::from(problem.kv_heads) * u64::from(row_tiles);
    // What the rows of a tile see of the keys at most.
    let span = match problem.window_left {
        Some(left) => left.saturating_add(problem.q_len).saturating_add(BN).min(problem.kv_len),
        None => problem.kv_len,
    };
    // Ragged sequences have fewer tiles than the longest could.
    let typical = problem.typical_rows().saturating_mul(problem.group()).div_ceil(params.rows);
    let busy = u64::from(problem.batch) * u64::from(problem.kv_heads) * u64::from(typical);
    let chunk = chunk(params, busy, span, chip);
    let splits = span.div_ceil(chunk).max(1);
    let groups = items * u64::from(splits);
    let groups = u32::try_from(groups)
        .ok()
        .filter(|count| *count < 1 << 30)
        .ok_or_else(|| KernelError::shape(format!("{groups} pieces of keys: at most 2^30")))?;
    let shape = problem.device_shape(0, [groups, row_tiles, splits]);
    // Sequences that are not split need no room in the workspace.
    let slots = if splits == 1 { 0 } else { u64::from(groups) * u64::from(params.rows) };
    let tickets_bytes = if splits == 1 { 0 } else { items * 4 };
    let state_offset = tickets_bytes.next_multiple_of(256);
    let out_offset = state_offset + (slots * 8).next_multiple_of(256);
    let mut args = vec![Arg::Bytes { bytes: shape, align: 8 }, cache_shape(problem)];
    args.extend(operands(problem));
    args.push(Arg::U32(chunk));
    args.extend([0, state_offset, out_offset].map(|offset_bytes| match splits {
        1 => Arg::I64(0),
        _ => Arg::Workspace { offset_bytes },
    }));
    args.extend(mask::arguments(problem));
    args.extend(scales(problem));
    Ok(Plan {
        launches: vec![Launch {
            symbol: params.symbol(arch, problem.element)?,
            grid: [groups, 1, 1],
            block: [params.threads(), 1, 1],
            cluster: [1, 1, 1],
            shared_bytes: 0,
            args,
            is_dependent_launch: false,
            cost: problem.cost(),
        }],
        workspace_bytes: out_offset + slots * u64::from(params.head_v) * 4,
        zeroed_bytes: tickets_bytes,
    })
}
