//! Strided views of matrices.

use crate::error::{KernelError, Result};

/// A read-only matrix: element (i, j) is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a, T> {
    pub data: &'a [T],
    pub rows: usize,
    pub cols: usize,
    /// Elements between rows.
    pub row_stride: usize,
    /// Elements between columns.
    pub col_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// A contiguous row-major matrix.
    pub fn row_major(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// The same elements with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Elements of `data` needed from offset 0, or `None` on overflow.
    pub(crate) fn span(&self) -> Option<usize> {
        if self.rows == 0 || self.cols == 0 {
            return Some(0);
        }
        let last = (self.rows - 1)
            .checked_mul(self.row_stride)?
            .checked_add((self.cols - 1).checked_mul(self.col_stride)?)?;
        last.checked_add(1)
    }

    /// Refuses a view that leaves its buffer when it starts at `offset`.
    pub(crate) fn check_at(&self, name: &str, offset: usize) -> Result<()> {
        match self.span().and_then(|span| span.checked_add(offset)) {
            Some(end) if end <= self.data.len() || self.span() == Some(0) => Ok(()),
            _ => Err(KernelError::shape(format!(
                "matrix {name} of {} x {} with strides {} and {} at offset {offset} does not fit its buffer of {} elements",
                self.rows,
                self.cols,
                self.row_stride,
                self.col_stride,
                self.data.len()
            ))),
        }
    }
}

/// Rows cut into panels of nearly equal height, at most `limit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowSplit {
    base: usize,
    taller: usize,
    panels: usize,
}

impl RowSplit {
    pub(crate) fn new(rows: usize, limit: usize) -> Self {
        let panels = rows.div_ceil(limit);
        if panels == 0 {
            return Self { base: 0, taller: 0, panels };
        }
        Self { base: rows / panels, taller: rows % panels, panels }
    }

    /// Number of panels.
    pub(crate) fn panels(&self) -> usize {
        self.panels
    }

    /// Rows of panel `p`.
    #[inline(always)]
    pub(crate) fn height(&self, p: usize) -> usize {
        self.base + usize::from(p < self.taller)
    }

    /// First row of panel `p`; `p == panels` gives the number of rows.
    #[inline(always)]
    pub(crate) fn start(&self, p: usize) -> usize {
        p * self.base + p.min(self.taller)
    }
}
