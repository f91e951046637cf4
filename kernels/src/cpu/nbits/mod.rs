//! Products with block-quantised weights of 2, 4 or 8 bits (the layout of MatMulNBits).
//!
//! Few rows: weights are decoded in registers and multiplied at once. Many rows: panels are decoded into f32 once for
//! all rows. With [`Activations::Int8`] rows are quantised by block and multiplied in integers at any count.

mod direct;
mod expand;
mod integer;
mod pack;
mod weights;

pub use pack::PackedBlocks;
pub use weights::{BlockWeights, BlockZeros};

use super::elementwise::{Unary, unary_raw};
use super::features::Context;
use super::gemm::{Addend, Epilogue};
use crate::error::{Result, checked_product, expect_len};
use crate::parallel::SharedMut;

/// Rows up to which weights are decoded for every use.
const DIRECT_ROWS: usize = 4;

/// How the left operand enters the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    /// As it is, in f32.
    Float,
    /// Quantised to 8 bits with one scale per row and block, where the processor has byte dot products.
    Int8,
}

/// `C = activation(A Wᵀ + bias)` with A row-major `m x k`, C row-major `m x n`, and a bias of `n` elements.
pub fn matmul_blocks(
    ctx: Context<'_>,
    a: &[f32],
    m: usize,
    weights: &PackedBlocks,
    bias: Option<&[f32]>,
    activation: Unary,
    c: &mut [f32],
) -> Result<()> {
    matmul_blocks_with(ctx, Activations::Float, a, m, weights, bias, activation, c)
}

/// [`matmul_blocks`] with a choice of how A is used.
pub fn matmul_blocks_with(
    ctx: Context<'_>,
    activations: Activations,
    a: &[f32],
    m: usize,
    weights: &PackedBlocks,
    bias: Option<&[f32]>,
    activation: Unary,
    c: &mut [f32],
) -> Result<()> {
    let (k, n) = (weights.k(), weights.n());
    expect_len("A", a.len(), checked_product("A", &[m, k])?)?;
    expect_len("C", c.len(), checked_product("C", &[m, n])?)?;
    if let Some(bias) = bias {
        expect_len("bias", bias.len(), n)?;
    }
    weights.check(ctx)?;
    if m == 0 || n == 0 {
        return Ok(());
    }
    let product = Product { ctx, a, m, weights, c: SharedMut::new(c) };
    if activations == Activations::Int8 && ctx.features.vnni() && weights.block <= integer::MAX_BLOCK {
        integer::run(&product, bias, activation);
    } else if m <= DIRECT_ROWS {
        direct::run(&product, bias, activation);
    } else {
        let epilogue = Epilogue { bias: bias.map(Addend::per_column), activation, ..Epilogue::default() };
        expand::run(&product, &epilogue);
    }
    Ok(())
}

/// The checked operands.
struct Product<'a> {
    ctx: Context<'a>,
    a: &'a [f32],
    m: usize,
    weights: &'a PackedBlocks,
    c: SharedMut<'a, f32>,
}

impl Product<'_> {
    /// Panels that a task should at least have.
    fn grain(&self, work: usize) -> usize {
        (work / (self.m * self.weights.k() * self.weights.nr).max(1)).max(1)
    }

    /// Writes `sums` to columns `first..` of a row, adding the bias and applying the activation.
    ///
    /// # Safety
    /// No other task may write the same columns.
    unsafe fn store(&self, row: usize, first: usize, sums: &[f32], bias: Option<&[f32]>, activation: Unary) {
        let start = row * self.weights.n() + first;
        // SAFETY: the caller's contract.
        let c = unsafe { self.c.slice(start..start + sums.len()) };
        match bias {
            Some(bias) => c.iter_mut().zip(sums).zip(&bias[first..]).for_each(|((c, s), b)| *c = s + b),
            None => c.copy_from_slice(sums),
        }
        // SAFETY: one slice, read and written in place.
        unsafe { unary_raw(self.ctx.features, activation, c.as_ptr(), c.as_mut_ptr(), c.len()) };
    }
}
