//! What a wave of the kernel for many query rows does with one block of keys.

use super::table::Instructions;
use super::{ForwardParams, stored_bytes};
use crate::gpu::launch::Element;

/// Instructions of one wave for one block of keys, where all of its rows see all of the keys and no maximum grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockCounts {
    /// Matrix instructions, and their operations: a multiply-add counts two.
    pub matrix: u32,
    pub matrix_flops: u64,
    /// Exponentials, which a SIMD does at a quarter of the rate of other vector instructions.
    pub exponentials: u32,
    /// Other vector instructions: maxima, scaling, sums, conversions of weights and of the wave's share of codes; half as
    /// many registers of 32 bits as values where an instruction takes two.
    pub vector: u32,
    /// Reads of LDS, and their bytes.
    pub lds_reads: u32,
    pub lds_read_bytes: u64,
    /// Loads of a wave's share of keys and values, and their bytes.
    pub loads: u32,
    pub load_bytes: u64,
    /// Waits for those loads.
    pub load_waits: u32,
    pub barriers: u32,
}

impl ForwardParams {
    /// The counts of a block of keys; `has` says what a family's instructions do.
    pub fn block_counts(&self, element: Element, has: &Instructions) -> BlockCounts {
        let Self { head_qk, head_v, bn, waves, .. } = *self;
        let bytes = element.bytes() as u32;
        // Products of 32 rows and columns whose operands are 16 bytes a lane.
        let depth = 32 / bytes;
        let pieces = bn / 32 * (head_qk / depth) + head_v / 32 * (bn / depth);
        // Scores of a lane.
        let scores = bn / 2;
        let packs = if bytes == 4 { 0 } else { scores / 2 * has.vector_a_pack };
        let tile_bytes = u64::from(bn * (head_qk + head_v) * bytes);
        let stored_bytes = u64::from(bn * (head_qk + head_v) * stored_bytes(element, self.code));
        let converted = if self.code.is_some() { bn * (head_qk + head_v) / (waves * 256) } else { 0 };
        let values = head_v / 32 * (bn / depth);
        BlockCounts {
            matrix: pieces * has.products_a_piece,
            matrix_flops: 2 * 32 * u64::from(bn * (head_qk + head_v)),
            exponentials: scores,
            // Maximum of three, scaling of two, sum of two, and the exchange with the other half of the row.
            vector: 3 * scores / 2 + packs + 8 + converted * has.vector_a_code_word,
            lds_reads: bn / 32 * (head_qk / depth) + values * has.reads_a_value_piece,
            lds_read_bytes: tile_bytes,
            loads: (stored_bytes / u64::from(waves) / 1024) as u32,
            load_bytes: stored_bytes / u64::from(waves),
            load_waits: 1,
            barriers: if waves == 8 { 2 } else { 1 },
        }
    }
}
