//! Block-quantised weights packed for kernels that decode them in registers.
//!
//! A panel has `nr` columns. A word holds the codes of `32 / bits` successive depths of one column, arranged so that
//! masking a shifted word gives four codes in four bytes: the field at bit `8 i + bits * s` is depth `i + 4 s`.

use super::weights::{BlockWeights, BlockZeros};
use crate::cpu::buffer::AlignedBuffer;
use crate::cpu::features::{Context, Isa};
use crate::cpu::gemm::tile_shape;
use crate::error::{KernelError, Result, checked_product};
use crate::parallel::{SharedMut, for_each_range};

/// Block-quantised weights, packed once.
pub struct PackedBlocks {
    pub(super) bits: u32,
    pub(super) block: usize,
    pub(super) k: usize,
    pub(super) n: usize,
    pub(super) nr: usize,
    pub(super) blocks: usize,
    isa: Isa,
    /// `[panels][blocks * block * bits / 32][nr]`.
    words: AlignedBuffer<i32>,
    /// `[panels][blocks][nr]`.
    scales: AlignedBuffer<f32>,
    zeros: PackedZeros,
}

enum PackedZeros {
    /// The same for all.
    One(f32),
    /// `[panels][blocks][nr]`.
    Byte(AlignedBuffer<u8>),
    /// `[panels][blocks][nr]`.
    Float(AlignedBuffer<f32>),
}

/// Zero points of a panel.
#[derive(Clone, Copy)]
pub(super) enum PanelZeros<'a> {
    One(f32),
    Byte(&'a [u8]),
    Float(&'a [f32]),
}

/// One panel of packed weights.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    pub(super) words: &'a [i32],
    pub(super) scales: &'a [f32],
    pub(super) zeros: PanelZeros<'a>,
}

impl PackedBlocks {
    /// Packs the weights for the tier of `ctx`.
    pub fn pack(ctx: Context<'_>, weights: &BlockWeights<'_>) -> Result<Self> {
        weights.check()?;
        let BlockWeights { bits, block, n, k, .. } = *weights;
        let (_, nr) = tile_shape(ctx.features);
        let (panels, blocks) = (n.div_ceil(nr), weights.blocks());
        let depth_words = blocks * block * bits as usize / 32;
        let mut words = AlignedBuffer::zeroed(checked_product("packed weights", &[panels, depth_words, nr])?);
        let per_panel = blocks * nr;
        let mut scales = AlignedBuffer::zeroed(panels * per_panel);
        let (word_parts, scale_parts) = (SharedMut::new(&mut words), SharedMut::new(&mut scales));
        for_each_range(ctx.parallel, panels, (2048 / (depth_words * nr).max(1)).max(1), 1, &|range| {
            for panel in range {
                // SAFETY: panels are disjoint, in the words and in the scales.
                let (words, scales) = unsafe {
                    let words = word_parts.slice(panel * depth_words * nr..(panel + 1) * depth_words * nr);
                    (words, scale_parts.slice(panel * per_panel..(panel + 1) * per_panel))
                };
                for j in 0..nr.min(n - panel * nr) {
                    pack_column(weights, panel * nr + j, j, nr, words, scales);
                }
            }
        });
        let zeros = pack_zeros(weights, nr);
        Ok(Self { bits, block, k, n, nr, blocks, isa: ctx.features.isa(), words, scales, zeros })
    }

    /// Depth of the product.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns of the product.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        let zeros = match &self.zeros {
            PackedZeros::One(_) => 0,
            PackedZeros::Byte(zeros) => zeros.allocated_bytes(),
            PackedZeros::Float(zeros) => zeros.allocated_bytes(),
        };
        self.words.allocated_bytes() + self.scales.allocated_bytes() + zeros
    }

    pub(super) fn panels(&self) -> usize {
        self.n.div_ceil(self.nr)
    }

    /// Words of one column of a block.
    pub(super) fn block_words(&self) -> usize {
        self.block * self.bits as usize / 32
    }

    pub(super) fn panel(&self, panel: usize) -> Panel<'_> {
        let (words, records) = (self.blocks * self.block_words() * self.nr, self.blocks * self.nr);
        let part = panel * records..(panel + 1) * records;
        Panel {
            words: &self.words[panel * words..(panel + 1) * words],
            scales: &self.scales[part.clone()],
            zeros: match &self.zeros {
                PackedZeros::One(zero) => PanelZeros::One(*zero),
                PackedZeros::Byte(zeros) => PanelZeros::Byte(&zeros[part]),
                PackedZeros::Float(zeros) => PanelZeros::Float(&zeros[part]),
            },
        }
    }

    pub(super) fn check(&self, ctx: Context<'_>) -> Result<()> {
        if self.isa == ctx.features.isa() {
            return Ok(());
        }
        Err(KernelError::parameter(
            "the weights were packed for other features: pack and multiply with the same ones",
        ))
    }
}

/// Depth within a word of the field that starts at bit `field * bits`.
pub(super) fn field_depth(bits: u32, field: usize) -> usize {
    let shifts = 8 / bits as usize;
    field / shifts + 4 * (field % shifts)
}

/// One column: row `row` of the stored weights.
fn pack_column(w: &BlockWeights<'_>, row: usize, j: usize, nr: usize, words: &mut [i32], scales: &mut [f32]) {
    let bits = w.bits;
    let fields = 32 / bits as usize;
    for (index, line) in words.chunks_exact_mut(nr).enumerate() {
        let mut word = 0u32;
        for field in 0..fields {
            let depth = index * fields + field_depth(bits, field);
            word |= u32::from(w.code(row, depth)) << (field as u32 * bits);
        }
        line[j] = word as i32;
    }
    for (block, line) in scales.chunks_exact_mut(nr).enumerate() {
        line[j] = w.scales[row * w.blocks() + block];
    }
}

fn pack_zeros(w: &BlockWeights<'_>, nr: usize) -> PackedZeros {
    let (panels, blocks) = (w.n.div_ceil(nr), w.blocks());
    let at = |row: usize, block: usize| (row / nr * blocks + block) * nr + row % nr;
    let pairs = (0..w.n).flat_map(|row| (0..blocks).map(move |block| (row, block)));
    match w.zero_points {
        None => PackedZeros::One((1u32 << (w.bits - 1)) as f32),
        Some(BlockZeros::Packed(_)) => {
            let mut zeros = AlignedBuffer::zeroed(panels * blocks * nr);
            pairs.for_each(|(row, block)| zeros[at(row, block)] = w.zero(row, block) as u8);
            PackedZeros::Byte(zeros)
        }
        Some(BlockZeros::Float(_)) => {
            let mut zeros = AlignedBuffer::zeroed(panels * blocks * nr);
            pairs.for_each(|(row, block)| zeros[at(row, block)] = w.zero(row, block));
            PackedZeros::Float(zeros)
        }
    }
}
