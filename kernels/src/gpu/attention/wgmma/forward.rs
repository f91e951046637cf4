//! The kernel for many query rows: parameters, legality, symbol, unit and launch.

use super::{Problem, element_name, key_maps, operand, optional, piece_rows, tensor_map};
use crate::error::{KernelError, Result};
use crate::gpu::attention::{Mask, Queries, mask, places, section};
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
    /// Query rows of a block, 64 for each consumer warpgroup.
    pub bm: u32,
    /// Keys of a block.
    pub bn: u32,
    /// Blocks of keys, and as many of values, in shared memory.
    pub stages: u32,
    /// Warpgroups start their products in turn.
    pub ping_pong: bool,
}

impl ForwardParams {
    /// Refuses parameters that the device text is not written for, or that do not fit the chip.
    pub fn check(&self, chip: &Chip) -> Result<()> {
        let Self { head_qk, head_v, bm, bn, stages, .. } = *self;
        let fail = |what: &str| Err(KernelError::parameter(format!("{self:?}: {what}")));
        if bm % 64 != 0 || !(64..=192).contains(&bm) {
            return fail("bm must be 64, 128 or 192");
        }
        if bn % 16 != 0 || !(16..=256).contains(&bn) {
            return fail("bn must be a multiple of 16 up to 256");
        }
        if head_qk % 16 != 0 || head_v % 32 != 0 || head_qk.max(head_v) > 256 || head_qk.min(head_v) == 0 {
            return fail("head_qk must be a multiple of 16 and head_v one of 32, up to 256");
        }
        if stages == 0 || (self.ping_pong && bm == 64) {
            return fail("a stage at least, and turns only among several warpgroups");
        }
        let from_memory = if self.mask == Mask::Memory { bn / 4 + 4 } else { 0 };
        if self.mask == Mask::Memory && bn % 32 != 0 {
            return fail("bn must be a multiple of 32 where a mask is in memory");
        }
        let registers = bn / 2 + bn / 4 + head_v / 2 + from_memory;
        let limit = if bm == 192 { 160 - 28 } else { 232 - 28 };
        if registers > limit {
            return fail(&format!("scores, weights and outputs take {registers} registers of {limit}"));
        }
        let bytes = self.shared_bytes();
        if bytes > chip.shared_bytes {
            return fail(&format!("{bytes} bytes of shared memory of {}", chip.shared_bytes));
        }
        Ok(())
    }

    /// Shared memory of a block: queries, the rings of keys and values, barriers.
    pub fn shared_bytes(&self) -> u32 {
        let panels = |columns: u32| columns.div_ceil(64);
        let warpgroups = self.bm / 64;
        let queries = warpgroups * panels(self.head_qk) * 64 * 128;
        let ring = self.stages * (panels(self.head_qk) + panels(self.head_v)) * self.bn * 128;
        let barriers = 2 * warpgroups + 4 * self.stages + 2;
        queries + ring + (barriers + 1) * 8
    }

    pub fn threads(&self) -> u32 {
        128 * (self.bm / 64 + 1)
    }

    /// Name of the entry point.
    pub fn symbol(&self, arch: &str, element: Element) -> Result<String> {
        let Self { head_qk, head_v, bm, bn, stages, .. } = *self;
        let head = if head_qk == head_v { format!("d{head_qk}") } else { format!("d{head_qk}_dv{head_v}") };
        let turns = if self.ping_pong { "_pp" } else { "" };
        let (element, mask) = (element_name(element)?, self.mask.name());
        Ok(format!("attention_{element}_{head}_{mask}__{arch}__bm{bm}_bn{bn}_st{stages}{turns}"))
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
                define("BM", self.bm.to_string()),
                define("BN", self.bn.to_string()),
                define("STAGES", self.stages.to_string()),
                define("SHARED_BYTES", self.shared_bytes().to_string()),
                define("MASK", self.mask.number().to_string()),
                define("KEY_LIMIT", u32::from(self.mask == Mask::Memory).to_string()),
                define("PING_PONG", u32::from(self.ping_pong).to_string()),
            ],
            kernels: vec![Kernel {
                symbol,
                threads: self.threads(),
                shared_bytes: self.shared_bytes(),
                required: vec!["HGMMA", "UTMALDG", "USETMAXREG", "MUFU.EX2"],
                forbidden: vec!["LDL", "STL", "HMMA"],
                planned: Planned::default(),
            }],
        })
    }
}

pub(super) fn plan(arch: &str, problem: &Problem, params: &ForwardParams, chip: &Chip) -> Result<Plan> {
    params.check(chip)?;
    if problem.codes.is_some() {
        return Err(KernelError::parameter(format!("{params:?} reads caches in the element type only")));
    }
    let row_tiles = problem.q_len.div_ceil(params.bm);
    let tiles = u64::from(problem.batch) * u64::from(problem.heads) * u64::from(row_tiles);
    let tiles = u32::try_from(tiles)
        .ok()
        .filter(|count| *count < 1 << 30)
        .ok_or_else(|| KernelError::shape(format!("{tiles} tiles of query rows: at most 2^30")))?;
    let piece = piece_rows(&problem.keys, params.bn);
    let (q_rows, q_batch) = match problem.queries {
        Queries::Batched => (problem.q_len, problem.batch),
        Queries::Ragged { rows } => (rows, 1),
    };
    let q_dims = [problem.head_qk, q_rows, problem.heads, q_batch];
    let q = Arg::TensorMap(tensor_map(operand::Q, problem.element, q_dims, problem.q, [64, 64]));
    let [k, v] = key_maps(problem, piece, 64);
    let shape = problem.device_shape(piece, [tiles, row_tiles, section(problem, params.mask, chip)]);
    // Items of equal cost are dealt out beforehand, others in the order blocks become free.
    let is_uneven = params.mask != Mask::None || problem.lengths.is_some();
    let [lengths, q_offsets, page_table, sinks] = places(problem);
    let [mask_shape, mask] = mask::arguments(problem);
    let counter = if is_uneven { Arg::Workspace { offset_bytes: 0 } } else { Arg::I64(0) };
    Ok(Plan {
        launches: vec![Launch {
            symbol: params.symbol(arch, problem.element)?,
            grid: [chip.compute_units.min(tiles), 1, 1],
            block: [params.threads(), 1, 1],
            cluster: [1, 1, 1],
            shared_bytes: params.shared_bytes(),
            args: vec![
                q,
                k,
                v,
                Arg::Bytes { bytes: shape, align: 8 },
                optional(operand::OUT, true),
                lengths,
                q_offsets,
                page_table,
                sinks,
                counter,
                mask_shape,
                mask,
            ],
            is_dependent_launch: true,
            cost: problem.cost(),
        }],
        workspace_bytes: 256 * u64::from(is_uneven),
        zeroed_bytes: 4 * u64::from(is_uneven),
    })
}
