//! Shapes of matrix products as batches of matrices.

use tenon_plugin_api::{Error, Result};

/// The extents of a product.
pub(super) struct Extents {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub batches: usize,
    /// Matrices that A and B have: 1 or all.
    pub a_batches: usize,
    pub b_batches: usize,
    pub dims: Vec<usize>,
}

impl Extents {
    /// The product of tensors of shapes `a` and `b`, by numpy's rules.
    pub fn new(a: &[usize], b: &[usize], transposes: (bool, bool)) -> Result<Extents> {
        let refused = || Error::invalid(format!("a product of shapes {a:?} and {b:?}"));
        let (is_row, is_column) = (a.len() == 1, b.len() == 1);
        let (mut left, mut right) = (a.to_vec(), b.to_vec());
        if is_row {
            left.insert(0, 1);
        }
        if is_column {
            right.push(1);
        }
        if left.len() < 2 || right.len() < 2 {
            return Err(refused());
        }
        let split = |dims: &[usize], is_transposed: bool| {
            let (batch, matrix) = dims.split_at(dims.len() - 2);
            let (rows, columns) = (matrix[0], matrix[1]);
            (batch.to_vec(), if is_transposed { (columns, rows) } else { (rows, columns) })
        };
        let (a_batch, (mut m, k)) = split(&left, transposes.0);
        let (b_batch, (depth, n)) = split(&right, transposes.1);
        if k != depth {
            return Err(refused());
        }
        let batch = super::elementwise::broadcast(&a_batch, &b_batch)?;
        let mut dims: Vec<usize> = batch.clone();
        if !is_row {
            dims.push(m);
        }
        if !is_column {
            dims.push(n);
        }
        let count = |dims: &[usize]| dims.iter().product::<usize>();
        let (mut batches, mut a_batches, b_batches) = (count(&batch), count(&a_batch), count(&b_batch));
        if b_batches == 1 && !transposes.0 {
            // Matrices times one matrix are one tall product.
            (m, batches, a_batches) = (m * a_batches, 1, 1);
        } else if (a_batches != 1 && a_batches != batches) || (b_batches != 1 && b_batches != batches) {
            return Err(Error::unsupported(format!(
                "batches {a_batch:?} and {b_batch:?} have no GPU kernel"
            )));
        }
        Ok(Extents { m, n, k, batches, a_batches, b_batches, dims })
    }

    pub fn is_empty(&self) -> bool {
        self.m * self.n * self.batches == 0
    }

    /// Rows, columns and matrices of the result.
    pub fn result(&self) -> [usize; 3] {
        [self.m, self.n, self.batches]
    }
}
