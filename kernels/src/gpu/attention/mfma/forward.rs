//! The kernel for many query rows: parameters, legality, symbol, unit and launch.

use super::table::Instructions;
use super::{
    Problem, Sizes, cache_shape, check_codes, element_name, kind_name, operands, scales, stored_bytes,
    tile_bytes, unit,
};
use crate::error::{KernelError, Result};
use crate::gpu::attention::{Code, cached_bytes, mask};
use crate::gpu::chip::Chip;
use crate::gpu::launch::{Arg, Element, Launch, Plan};
use crate::gpu::unit::{Text, Unit};

/// What a forward kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ForwardParams {
    /// Columns of queries and keys, and of values; narrower heads are padded with zeros on the way.
    pub head_qk: u32,
    pub head_v: u32,
    /// Keys of a block.
    pub bn: u32,
    /// Waves of a workgroup, 32 query rows each: 4, or 8 that take turns on the SIMDs.
    pub waves: u32,
    /// Reads a mask in memory.
    pub has_mask: bool,
    /// What the cache holds instead of elements.
    pub code: Option<Code>,
}

impl ForwardParams {
    /// Refuses parameters that the device text is not written for, or that do not fit the chip.
    pub fn check(&self, element: Element, chip: &Chip) -> Result<()> {
        let Self { head_qk, head_v, bn, waves, .. } = *self;
        let fail = |what: &str| Err(KernelError::parameter(format!("{self:?} of {element:?}: {what}")));
        element_name(element)?;
        if waves != 4 && waves != 8 {
            return fail("waves must be 4 or 8");
        }
        if bn != 32 && bn != 64 && bn != 128 {
            return fail("bn must be 32, 64 or 128");
        }
        if head_qk % 32 != 0 || head_v % 32 != 0 || head_qk.max(head_v) > 256 || head_qk.min(head_v) == 0 {
            return fail("head_qk and head_v must be multiples of 32 up to 256");
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

    /// Registers of a lane: queries, scores, outputs, weights, operands on their way, addresses. An estimate from above.
    pub fn registers(&self, element: Element) -> u32 {
        let Self { head_qk, head_v, bn, waves, .. } = *self;
        let words = element.bytes() as u32;
        let queries = head_qk * words / 8;
        let weights = if words == 4 { 0 } else { bn / 4 };
        let staged = (head_qk + head_v) * bn * stored_bytes(element, self.code) / (waves * 64 * 4);
        (queries + bn / 2 + weights + head_v / 2 + staged + 64).next_multiple_of(8)
    }

    /// LDS of a workgroup: two tiles of keys, two of values.
    pub fn shared_bytes(&self, element: Element) -> u32 {
        2 * (tile_bytes(self.head_qk, self.bn, element) + tile_bytes(self.head_v, self.bn, element))
    }

    pub fn threads(&self) -> u32 {
        64 * self.waves
    }

    /// Query rows of a workgroup.
    pub fn bm(&self) -> u32 {
        32 * self.waves
    }

    /// Name of the entry point.
    pub fn symbol(&self, arch: &str, element: Element) -> Result<String> {
        let kind = kind_name(element, self.code, [self.head_qk, self.head_v])?;
        let mask = if self.has_mask { "_memory" } else { "" };
        Ok(format!("attention_{kind}{mask}__{arch}__bm{}_bn{}", self.bm(), self.bn))
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
            ("BN", self.bn),
            ("WAVES", self.waves),
            ("MASK", self.has_mask.into()),
            ("KEY_LIMIT", self.has_mask.into()),
        ];
        let sizes = Sizes {
            element,
            code: self.code,
            numbers: &numbers,
            threads: self.threads(),
            shared_bytes: self.shared_bytes(element),
            waves_per_simd: Some(self.waves / 4),
        };
        unit(self.symbol(arch, element)?, texts, &sizes, has)
    }
}

/// Query heads whose keys and values stay in a die's second-level cache together: a power of two, which divides most
/// head counts. Where all rows see as many keys, rows of one head after the other share best.
fn section(problem: &Problem, chip: &Chip) -> u32 {
    let heads = problem.batch * problem.heads;
    if problem.causal.is_none() {
        return 1;
    }
    let columns = u64::from(problem.head_qk + problem.head_v);
    let head_bytes = u64::from(problem.kv_len) * columns * cached_bytes(problem);
    let kv_heads = (chip.l2_bytes * 2 / 3 / head_bytes.max(1)).max(1);
    let fitting = u32::try_from(kv_heads * u64::from(problem.group())).unwrap_or(heads).clamp(1, heads);
    1 << fitting.ilog2()
}

pub(super) fn plan(arch: &str, problem: &Problem, params: &ForwardParams, chip: &Chip) -> Result<Plan> {
    params.check(problem.element, chip)?;
    if problem.mask.is_some() != params.has_mask {
        return Err(KernelError::parameter(format!("{params:?} for a mask {:?}", problem.mask)));
    }
    let row_tiles = problem.q_len.div_ceil(params.bm());
    let tiles = u64::from(problem.batch) * u64::from(problem.heads) * u64::from(row_tiles);
    let tiles = u32::try_from(tiles)
        .ok()
        .filter(|count| *count < 1 << 30)
        .ok_or_else(|| KernelError::shape(format!("{tiles} tiles of query rows: at most 2^30")))?;
    let shape = problem.device_shape(0, [tiles, row_tiles, section(problem, chip)]);
    let mut args = vec![Arg::Bytes { bytes: shape, align: 8 }, cache_shape(problem)];
    args.extend(operands(problem));
    args.push(Arg::U32(chip.dies));
    args.extend(mask::arguments(problem));
    args.extend(scales(problem));
    Ok(Plan {
        launches: vec![Launch {
            symbol: params.symbol(arch, problem.element)?,
            grid: [tiles, 1, 1],
            block: [params.threads(), 1, 1],
            cluster: [1, 1, 1],
            shared_bytes: 0,
            args,
            is_dependent_launch: false,
            cost: problem.cost(),
        }],
        workspace_bytes: 0,
        zeroed_bytes: 0,
    })
}
