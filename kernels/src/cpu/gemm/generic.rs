//! Products of f64 and of integers of any width: one register-blocked loop that the compiler vectorises per tier.

use crate::cpu::features::Context;
use crate::cpu::matrix::Matrix;
use crate::cpu::simd::{Kernel, Simd};
use crate::error::{KernelError, Result};
use crate::parallel::{SharedMut, for_each_range};

/// A number with a multiply-add; integers wrap.
pub trait Number: Copy + Send + Sync + 'static {
    const ZERO: Self;
    const ONE: Self;
    /// `a * b + self`; fused where `FUSED`.
    fn multiply_add<const FUSED: bool>(self, a: Self, b: Self) -> Self;
}

macro_rules! integers {
    ($($t:ty),*) => { $(
        impl Number for $t {
            const ZERO: Self = 0;
            const ONE: Self = 1;
            #[inline(always)]
            fn multiply_add<const FUSED: bool>(self, a: Self, b: Self) -> Self {
                self.wrapping_add(a.wrapping_mul(b))
            }
        }
    )* };
}
integers!(u8, i8, u16, i16, u32, i32, u64, i64);

macro_rules! floats {
    ($($t:ty),*) => { $(
        impl Number for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            #[inline(always)]
            fn multiply_add<const FUSED: bool>(self, a: Self, b: Self) -> Self {
                if FUSED { a.mul_add(b, self) } else { a * b + self }
            }
        }
    )* };
}
floats!(f32, f64);

const ROWS: usize = 6;
const COLS: usize = 16;
/// Depth of a packed block of B.
const DEPTH: usize = 256;

/// `C = A B` with C row-major, `ldc` elements between rows; sums are kept in `T`.
pub fn gemm_number<T: Number>(
    ctx: Context<'_>,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    c: &mut [T],
    ldc: usize,
) -> Result<()> {
    if a.cols != b.rows {
        return Err(KernelError::shape(format!(
            "A is {} x {} but B is {} x {}: the inner extents differ",
            a.rows, a.cols, b.rows, b.cols
        )));
    }
    a.check_at("A", 0)?;
    b.check_at("B", 0)?;
    super::check_c(c.len(), 0, a.rows, b.cols, ldc)?;
    if a.rows == 0 || b.cols == 0 {
        return Ok(());
    }
    let out = SharedMut::new(c);
    let panels = b.cols.div_ceil(COLS);
    let grain = (16 * 1024 / (a.rows * a.cols * COLS).max(1)).max(1);
    for_each_range(ctx.parallel, panels, grain, 1, &|range| {
        let mut packed = vec![[T::ZERO; COLS]; DEPTH.min(a.cols)];
        for panel in range {
            let (j0, width) = (panel * COLS, COLS.min(b.cols - panel * COLS));
            for k0 in (0..a.cols.max(1)).step_by(DEPTH) {
                let kc = DEPTH.min(a.cols - k0);
                for (k, row) in packed.iter_mut().enumerate().take(kc) {
                    for (j, v) in row.iter_mut().enumerate() {
                        let at = (k0 + k) * b.row_stride + (j0 + j) * b.col_stride;
                        *v = if j < width { b.data[at] } else { T::ZERO };
                    }
                }
                let c = out.pointer().wrapping_add(j0);
                ctx.features.dispatch(Panel { a: &a, k0, b: &packed[..kc], c, ldc, width });
            }
        }
    });
    Ok(())
}

/// All rows of A times one packed panel, added to C (stored when `k0` is 0).
struct Panel<'a, 'b, T> {
    a: &'a Matrix<'b, T>,
    k0: usize,
    b: &'a [[T; COLS]],
    c: *mut T,
    ldc: usize,
    width: usize,
}

impl<T: Number> Kernel for Panel<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let mut i = 0;
        while i < self.a.rows {
            let rows = ROWS.min(self.a.rows - i);
            if S::FUSED {
                self.tile::<true>(i, rows)
            } else {
                self.tile::<false>(i, rows)
            }
            i += rows;
        }
    }
}

impl<T: Number> Panel<'_, '_, T> {
    #[inline(always)]
    fn tile<const FUSED: bool>(&self, i: usize, rows: usize) {
        let mut acc = [[T::ZERO; COLS]; ROWS];
        if rows == ROWS {
            self.accumulate::<FUSED>(i, ROWS, &mut acc);
        } else {
            self.accumulate::<FUSED>(i, rows, &mut acc);
        }
        for (r, sums) in acc.iter().enumerate().take(rows) {
            for (j, &sum) in sums.iter().enumerate().take(self.width) {
                // SAFETY: columns of this panel are written by this task only and lie inside C.
                unsafe {
                    let c = self.c.add((i + r) * self.ldc + j);
                    c.write(if self.k0 == 0 { sum } else { (*c).multiply_add::<false>(sum, T::ONE) });
                }
            }
        }
    }

    #[inline(always)]
    fn accumulate<const FUSED: bool>(&self, i: usize, rows: usize, acc: &mut [[T; COLS]; ROWS]) {
        let a = self.a;
        for (k, b) in self.b.iter().enumerate() {
            let column = &a.data[i * a.row_stride + (self.k0 + k) * a.col_stride..];
            for (r, sums) in acc.iter_mut().enumerate().take(rows) {
                let value = column[r * a.row_stride];
                for (sum, &b) in sums.iter_mut().zip(b) {
                    *sum = sum.multiply_add::<FUSED>(value, b);
                }
            }
        }
    }
}
