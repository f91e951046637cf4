//! The shapes of a matrix product by numpy's rules: leading dimensions broadcast, vectors count as one row or column.

use crate::error::{OpError, Result};
use crate::shape::{broadcast, broadcast_strides, strides};
use crate::tensor::Dims;

/// How one operand is to be read before the product.
#[derive(Clone, Copy, Debug, Default)]
pub struct Order {
    /// Exchange the last two dimensions.
    pub transpose: bool,
    /// The first dimension is the rows, the dimensions between it and the last are the batch.
    pub transpose_batch: bool,
}

/// One operand: its batch dimensions and the matrices inside, all with strides in elements.
#[derive(Clone, Debug)]
pub struct Operand {
    pub rows: usize,
    pub columns: usize,
    pub row_stride: usize,
    pub column_stride: usize,
    batch: Dims,
    batch_strides: Dims,
}

impl Operand {
    fn new(dims: &[usize], order: Order) -> Operand {
        let mut dims: Dims = dims.into();
        let mut steps = strides(&dims);
        let rank = dims.len();
        if order.transpose_batch && rank > 2 {
            dims[..rank - 1].rotate_left(1);
            steps[..rank - 1].rotate_left(1);
        }
        if order.transpose {
            dims.swap(rank - 1, rank - 2);
            steps.swap(rank - 1, rank - 2);
        }
        Operand {
            rows: dims[rank - 2],
            columns: dims[rank - 1],
            row_stride: steps[rank - 2],
            column_stride: steps[rank - 1],
            batch: dims[..rank - 2].into(),
            batch_strides: steps[..rank - 2].into(),
        }
    }
}

/// The geometry of one product.
#[derive(Clone, Debug)]
pub struct Product {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// Shape of the result.
    pub dims: Dims,
    pub a: Operand,
    pub b: Operand,
    batch: Dims,
    a_steps: Dims,
    b_steps: Dims,
}

impl Product {
    /// Checks that the shapes agree.
    pub fn new(a_dims: &[usize], b_dims: &[usize], a_order: Order, b_order: Order) -> Result<Product> {
        if a_dims.is_empty() || b_dims.is_empty() {
            return Err(OpError::invalid("a matrix product takes no scalars"));
        }
        let (a_vector, b_vector) = (a_dims.len() == 1, b_dims.len() == 1);
        let a = if a_vector {
            Operand::new(&[1, a_dims[0]], Order::default())
        } else {
            Operand::new(a_dims, a_order)
        };
        let b = if b_vector {
            Operand::new(&[b_dims[0], 1], Order::default())
        } else {
            Operand::new(b_dims, b_order)
        };
        if a.columns != b.rows {
            return Err(OpError::invalid(format!(
                "shapes {a_dims:?} and {b_dims:?} do not multiply: inner dimensions {} and {}",
                a.columns, b.rows
            )));
        }
        let batch = broadcast(&a.batch, &b.batch)?;
        let spread = |operand: &Operand| -> Dims {
            let lead = batch.len() - operand.batch.len();
            let repeated = broadcast_strides(&operand.batch, &batch);
            (0..batch.len())
                .map(|i| if i < lead || repeated[i] == 0 { 0 } else { operand.batch_strides[i - lead] })
                .collect()
        };
        let mut dims = batch.clone();
        if !a_vector {
            dims.push(a.rows);
        }
        if !b_vector {
            dims.push(b.columns);
        }
        let (a_steps, b_steps) = (spread(&a), spread(&b));
        let mut product =
            Product { m: a.rows, n: b.columns, k: a.columns, dims, a, b, batch, a_steps, b_steps };
        product.merge_batch();
        Ok(product)
    }

    /// One tall matrix instead of a batch where the right-hand side is shared and the rows of `a` follow each other.
    fn merge_batch(&mut self) {
        let contiguous = self.a.column_stride == 1
            && self.a.row_stride == self.k
            && self.a.batch == self.batch
            && self.a.batch_strides
                == strides(&self.batch).iter().map(|s| s * self.m * self.k).collect::<Dims>();
        if self.batch.is_empty() || !contiguous || self.b_steps.iter().any(|&step| step != 0) {
            return;
        }
        self.m *= self.batch.iter().product::<usize>();
        self.a.rows = self.m;
        self.batch.clear();
        self.a_steps.clear();
        self.b_steps.clear();
    }

    /// Number of matrix products.
    pub fn batches(&self) -> usize {
        self.batch.iter().product()
    }

    /// Where the operands of product `index` start.
    pub fn offsets(&self, mut index: usize) -> (usize, usize) {
        let (mut a, mut b) = (0, 0);
        for axis in (0..self.batch.len()).rev() {
            let position = index % self.batch[axis];
            index /= self.batch[axis];
            a += position * self.a_steps[axis];
            b += position * self.b_steps[axis];
        }
        (a, b)
    }
}
