//! Products of 8-bit integers with exact 32-bit sums and zero points.

use super::features::Context;
use super::matrix::Matrix;
use crate::error::{KernelError, Result};
use crate::parallel::{SharedMut, for_each_range};

/// An 8-bit matrix, signed or not.
#[derive(Clone, Copy, Debug)]
pub enum ByteMatrix<'a> {
    Unsigned(Matrix<'a, u8>),
    Signed(Matrix<'a, i8>),
}

impl ByteMatrix<'_> {
    /// (rows, columns).
    pub fn extents(&self) -> (usize, usize) {
        match self {
            ByteMatrix::Unsigned(m) => (m.rows, m.cols),
            ByteMatrix::Signed(m) => (m.rows, m.cols),
        }
    }

    fn check(&self, name: &str) -> Result<()> {
        match self {
            ByteMatrix::Unsigned(m) => m.check_at(name, 0),
            ByteMatrix::Signed(m) => m.check_at(name, 0),
        }
    }

    #[inline]
    fn at(&self, i: usize, j: usize) -> i32 {
        match self {
            ByteMatrix::Unsigned(m) => i32::from(m.data[i * m.row_stride + j * m.col_stride]),
            ByteMatrix::Signed(m) => i32::from(m.data[i * m.row_stride + j * m.col_stride]),
        }
    }
}

/// The right operand of an 8-bit product, packed once.
pub struct PackedBytes {
    k: usize,
    n: usize,
    values: Vec<i32>,
}

impl PackedBytes {
    /// Packs a `k x n` matrix.
    pub fn pack(_ctx: Context<'_>, b: ByteMatrix<'_>) -> Result<Self> {
        b.check("B")?;
        let (k, n) = b.extents();
        let values = (0..k * n).map(|at| b.at(at / n, at % n)).collect();
        Ok(Self { k, n, values })
    }

    /// Rows of the original matrix.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns of the original matrix.
    pub fn n(&self) -> usize {
        self.n
    }
}

/// Zero points of the operands: none, one, or one per row of A and per column of B.
#[derive(Clone, Copy, Debug, Default)]
pub struct ZeroPoints<'a> {
    pub a: &'a [i32],
    pub b: &'a [i32],
}

/// `C = (A - zero_a) (B - zero_b)` with wrapping i32 sums; C is row-major with `ldc` elements between rows.
pub fn gemm_bytes(
    ctx: Context<'_>,
    a: ByteMatrix<'_>,
    b: &PackedBytes,
    zero_points: ZeroPoints<'_>,
    c: &mut [i32],
    ldc: usize,
) -> Result<()> {
    let (m, k) = a.extents();
    if k != b.k {
        return Err(KernelError::shape(format!("A is {m} x {k} but B is {} x {}: the inner extents differ", b.k, b.n)));
    }
    a.check("A")?;
    super::gemm::check_c(c.len(), 0, m, b.n, ldc)?;
    for (name, zeros, extent) in [("A", zero_points.a, m), ("B", zero_points.b, b.n)] {
        if zeros.len() > 1 && zeros.len() != extent {
            return Err(KernelError::shape(format!("{} zero points of {name}, expected 1 or {extent}", zeros.len())));
        }
    }
    let zero = |zeros: &[i32], at: usize| match zeros.len() {
        0 => 0,
        1 => zeros[0],
        _ => zeros[at],
    };
    let n = b.n;
    let out = SharedMut::new(c);
    for_each_range(ctx.parallel, m, (16 * 1024 / (n * k).max(1)).max(1), 1, &|rows| {
        for i in rows {
            // SAFETY: rows are disjoint.
            let c = unsafe { out.slice(i * ldc..i * ldc + n) };
            c.fill(0);
            for kk in 0..k {
                let av = a.at(i, kk) - zero(zero_points.a, i);
                for (j, c) in c.iter_mut().enumerate() {
                    *c = c.wrapping_add(av.wrapping_mul(b.values[kk * n + j] - zero(zero_points.b, j)));
                }
            }
        }
    });
    Ok(())
}
