//! The kernel for many query rows: parameters, legality, symbol, unit and launch.

use super::{Problem, cache_shape, kind_name, operand, optional, row_bytes, scales};
use crate::error::{KernelError, Result};
use crate::gpu::attention::{Mask, mask, places, section};
use crate::gpu::chip::Chip;
use crate::gpu::launch::{Arg, Element, Launch, Plan};
use crate::gpu::unit::{Kernel, Planned, Text, Unit};

/// What a forward kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ForwardParams {
    /// Columns of queries and keys, and of values; narrower heads are padded with zeros on the way to shared memory.
    pub head_qk: u32,
    pub head_v: u32,
    pub mask: Mask,
    /// Query rows of a block.
    pub bm: u32,
    /// Keys of a block.
    pub bn: u32,
    pub warps: u32,
    /// The cache holds e4m3 codes.
    pub is_coded: bool,
}

impl ForwardParams {
    /// Refuses parameters that the device text is not written for, or that do not fit the chip.
    pub fn check(&self, chip: &Chip) -> Result<()> {
        let Self { head_qk, head_v, bm, bn, warps, .. } = *self;
        let fail = |what: &str| Err(KernelError::parameter(format!("{self:?}: {what}")));
        if warps == 0 || warps > 16 || bm == 0 || bm % (16 * warps) != 0 {
            return fail("bm must be a multiple of 16 rows for each of up to 16 warps");
        }
        if bn == 0 || bn % 16 != 0 || (bn * 8) % (32 * warps) != 0 {
            return fail("bn must be a multiple of 16, and of 4 for each warp");
        }
        if head_qk % 32 != 0 || head_v % 32 != 0 || head_qk.max(head_v) > 256 || head_qk.min(head_v) == 0 {
            return fail("heads must be multiples of 32 columns up to 256");
        }
        if self.is_coded && head_qk != head_v {
            return fail("heads of codes must be as wide for keys and values");
        }
        let tiles = bm / warps / 16;
        let queries = if tiles == 1 && head_qk <= 128 { head_qk / 4 } else { 0 };
        let from_memory = if self.mask == Mask::Memory { bn / 4 + 4 } else { 0 };
        if self.mask == Mask::Memory && bn % 32 != 0 {
            return fail("bn must be a multiple of 32 where a mask is in memory");
        }
        let registers = tiles * (bn / 2 + head_v / 2 + 8 + from_memory) + queries + 40;
        if registers > 250 || registers * 32 * warps > chip.registers {
            return fail(&format!("about {registers} registers a thread"));
        }
        let bytes = self.shared_bytes();
        if bytes > chip.shared_bytes {
            return fail(&format!("{bytes} bytes of shared memory of {}", chip.shared_bytes));
        }
        Ok(())
    }

    /// Shared memory of a block: queries, two blocks of keys and of values.
    pub fn shared_bytes(&self) -> u32 {
        let cached = row_bytes(self.head_qk, self.is_coded) + row_bytes(self.head_v, self.is_coded);
        row_bytes(self.head_qk, false) * self.bm + 2 * cached * self.bn
    }

    /// Name of the entry point.
    pub fn symbol(&self, arch: &str, element: Element) -> Result<String> {
        let Self { head_qk, head_v, bm, bn, warps, is_coded, .. } = *self;
        let (kind, mask) = (kind_name(element, is_coded, head_qk, head_v)?, self.mask.name());
        Ok(format!("attention_{kind}_{mask}__{arch}__bm{bm}_bn{bn}_w{warps}"))
    }

    pub(in crate::gpu::attention) fn unit(
        &self,
        arch: &str,
        element: Element,
        texts: &[Text],
    ) -> Result<Unit> {
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
                define("BM", self.bm.to_string()),
                define("BN", self.bn.to_string()),
                define("STAGES", "2".to_owned()),
                define("THREADS", (32 * self.warps).to_string()),
                define("SHARED_BYTES", self.shared_bytes().to_string()),
                define("MASK", self.mask.number().to_string()),
                define("KEY_LIMIT", u32::from(self.mask == Mask::Memory).to_string()),
                define("CODES", u32::from(self.is_coded).to_string()),
            ],
            kernels: vec![Kernel {
                symbol,
                threads: 32 * self.warps,
                shared_bytes: self.shared_bytes(),
                required: vec!["HMMA", "LDSM", "LDGSTS", "MUFU.EX2"],
                forbidden: Vec::new(),
                planned: Planned::default(),
            }],
        })
    }
}

pub(super) fn plan(arch: &str, problem: &Problem, params: &ForwardParams, chip: &Chip) -> Result<Plan> {
    params.check(chip)?;
    let row_tiles = problem.q_len.div_ceil(params.bm);
    let tiles = u64::from(problem.batch) * u64::from(problem.heads) * u64::from(row_tiles);
    let tiles = u32::try_from(tiles)
        .ok()
        .filter(|count| *count < 1 << 30)
        .ok_or_else(|| KernelError::shape(format!("{tiles} tiles of query rows: at most 2^30")))?;
    let shape = problem.device_shape(0, [tiles, row_tiles, section(problem, params.mask, chip)]);
    let [k_scales, v_scales, scale_step] = scales(problem);
    let [lengths, q_offsets, page_table, sinks] = places(problem);
    let [mask_shape, mask] = mask::arguments(problem);
    Ok(Plan {
        launches: vec![Launch {
            symbol: params.symbol(arch, problem.element)?,
            grid: [tiles, 1, 1],
            block: [32 * params.warps, 1, 1],
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
                k_scales,
                v_scales,
                scale_step,
                mask_shape,
                mask,
            ],
            is_dependent_launch: false,
            cost: problem.cost(),
        }],
        workspace_bytes: 0,
        zeroed_bytes: 0,
    })
}
