//! Block-quantised weights as they are stored in a model.

use crate::cpu::features::Context;
use crate::error::{KernelError, Result, checked_product, expect_len};
use crate::parallel::{SharedMut, for_each_range};

/// Block-quantised weights of an `n x k` matrix (one row per output): weight = (code - zero point) * scale.
#[derive(Clone, Copy, Debug)]
pub struct BlockWeights<'a> {
    /// 2, 4 or 8.
    pub bits: u32,
    /// Weights that share a scale; a power of two, at least 16.
    pub block: usize,
    pub n: usize,
    pub k: usize,
    /// `[n, ceil(k / block), block * bits / 8]`, the first code in the lowest bits.
    pub codes: &'a [u8],
    /// `[n, ceil(k / block)]`.
    pub scales: &'a [f32],
    /// `None` is `1 << (bits - 1)`.
    pub zero_points: Option<BlockZeros<'a>>,
}

/// Zero points of blocks.
#[derive(Clone, Copy, Debug)]
pub enum BlockZeros<'a> {
    /// Codes packed like the weights: `[n, ceil(ceil(k / block) * bits / 8)]`.
    Packed(&'a [u8]),
    /// `[n, ceil(k / block)]` in the weights' units.
    Float(&'a [f32]),
}

impl BlockWeights<'_> {
    /// Blocks of a row.
    pub fn blocks(&self) -> usize {
        self.k.div_ceil(self.block)
    }

    pub(super) fn check(&self) -> Result<()> {
        if !matches!(self.bits, 2 | 4 | 8) {
            return Err(KernelError::parameter(format!("{} bits per weight, expected 2, 4 or 8", self.bits)));
        }
        if !self.block.is_power_of_two() || self.block < 16 {
            return Err(KernelError::parameter(format!(
                "block of {}, expected a power of two from 16",
                self.block
            )));
        }
        let (blocks, bits) = (self.blocks(), self.bits as usize);
        expect_len(
            "codes",
            self.codes.len(),
            checked_product("codes", &[self.n, blocks, self.block * bits / 8])?,
        )?;
        expect_len("scales", self.scales.len(), checked_product("scales", &[self.n, blocks])?)?;
        match self.zero_points {
            None => Ok(()),
            Some(BlockZeros::Packed(zeros)) => {
                expect_len("zero points", zeros.len(), self.n * (blocks * bits).div_ceil(8))
            }
            Some(BlockZeros::Float(zeros)) => expect_len("zero points", zeros.len(), self.n * blocks),
        }
    }

    /// Zero point of a block, in code units.
    pub(crate) fn zero(&self, row: usize, block: usize) -> f32 {
        let bits = self.bits as usize;
        match self.zero_points {
            None => (1u32 << (self.bits - 1)) as f32,
            Some(BlockZeros::Float(zeros)) => zeros[row * self.blocks() + block],
            Some(BlockZeros::Packed(zeros)) => {
                let row_bytes = (self.blocks() * bits).div_ceil(8);
                let byte = zeros[row * row_bytes + block * bits / 8];
                f32::from(byte >> (block * bits % 8) & (((1u32 << bits) - 1) as u8))
            }
        }
    }

    /// Code of a weight.
    pub(crate) fn code(&self, row: usize, at: usize) -> u8 {
        let bits = self.bits as usize;
        let row_bytes = self.blocks() * self.block * bits / 8;
        let byte = self.codes[row * row_bytes + at * bits / 8];
        byte >> (at * bits % 8) & (((1u32 << bits) - 1) as u8)
    }

    /// Writes all weights in f32 as a row-major `n x k` matrix.
    pub fn dequantize(&self, ctx: Context<'_>, y: &mut [f32]) -> Result<()> {
        self.check()?;
        expect_len("weights", y.len(), self.n * self.k)?;
        let out = SharedMut::new(y);
        for_each_range(ctx.parallel, self.n, (8192 / self.k.max(1)).max(1), 1, &|rows| {
            for row in rows {
                // SAFETY: rows are disjoint.
                let y = unsafe { out.slice(row * self.k..(row + 1) * self.k) };
                for (block, y) in y.chunks_mut(self.block).enumerate() {
                    let (scale, zero) = (self.scales[row * self.blocks() + block], self.zero(row, block));
                    for (i, y) in y.iter_mut().enumerate() {
                        *y = (f32::from(self.code(row, block * self.block + i)) - zero) * scale;
                    }
                }
            }
        });
        Ok(())
    }
}
