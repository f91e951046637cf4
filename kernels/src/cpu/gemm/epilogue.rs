//! What happens to a product before it is stored: scale, accumulate, bias, residual, activation.

use crate::cpu::elementwise::Unary;
use crate::error::{KernelError, Result};

/// A matrix added to a product; a stride of 0 repeats a row, a column or a scalar.
#[derive(Clone, Copy, Debug)]
pub struct Addend<'a> {
    pub data: &'a [f32],
    pub row_stride: usize,
    pub col_stride: usize,
    /// Factor applied to every element.
    pub scale: f32,
}

impl<'a> Addend<'a> {
    /// One value per row of the product.
    pub fn per_row(data: &'a [f32]) -> Self {
        Self { data, row_stride: 1, col_stride: 0, scale: 1.0 }
    }

    /// One value per column of the product.
    pub fn per_column(data: &'a [f32]) -> Self {
        Self { data, row_stride: 0, col_stride: 1, scale: 1.0 }
    }

    /// One value for every element; `data` has one element.
    pub fn scalar(data: &'a [f32]) -> Self {
        Self { data, row_stride: 0, col_stride: 0, scale: 1.0 }
    }

    /// A contiguous matrix of the product's shape with `cols` columns.
    pub fn full(data: &'a [f32], cols: usize) -> Self {
        Self { data, row_stride: cols, col_stride: 1, scale: 1.0 }
    }

    fn check(&self, name: &str, offset: usize, rows: usize, cols: usize) -> Result<()> {
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        let span = |extent: usize, stride: usize| (extent as u128 - 1).saturating_mul(stride as u128);
        let end =
            span(rows, self.row_stride).saturating_add(span(cols, self.col_stride)) + offset as u128 + 1;
        if end <= self.data.len() as u128 {
            return Ok(());
        }
        Err(KernelError::shape(format!(
            "{name} has {} elements, {end} are needed for a product of {rows} x {cols}",
            self.data.len()
        )))
    }
}

/// `C = activation(alpha * A B + beta * C + bias + residual)`.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a> {
    pub alpha: f32,
    /// Factor of the former contents of C, which are not read when it is zero.
    pub beta: f32,
    pub bias: Option<Addend<'a>>,
    pub residual: Option<Addend<'a>>,
    pub activation: Unary,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Self { alpha: 1.0, beta: 0.0, bias: None, residual: None, activation: Unary::Identity }
    }
}

impl<'a> Epilogue<'a> {
    /// The product plus a bias.
    pub fn with_bias(bias: Addend<'a>) -> Self {
        Self { bias: Some(bias), ..Self::default() }
    }

    /// The same with an activation.
    pub fn activated(self, activation: Unary) -> Self {
        Self { activation, ..self }
    }

    pub(crate) fn check(&self, rows: usize, cols: usize, residual_offset: usize) -> Result<()> {
        if let Some(bias) = &self.bias {
            bias.check("bias", 0, rows, cols)?;
        }
        if let Some(residual) = &self.residual {
            residual.check("residual", residual_offset, rows, cols)?;
        }
        Ok(())
    }
}
