//! Few rows times a right operand that was not packed: its rows are read in long runs and added up in a strip of
//! sums that stays in the first cache level.

use std::ops::Range;

use super::block::Block;
use super::{Job, Lhs};
use crate::cpu::buffer::with_scratch;
use crate::cpu::float::Float;
use crate::cpu::matrix::Matrix;
use crate::cpu::simd::{Kernel, Simd};
use crate::parallel::for_each_range;

/// Rows of A up to which the strip is used.
pub(super) const ROWS: usize = 4;
/// Columns of a strip.
const COLUMNS: usize = 512;
/// Rows of B added at a time.
const DEPTH: usize = 4;
/// Multiply-adds of a task, at least.
const TASK_WORK: usize = 64 * 1024;

/// All columns of C; the columns of `b` must be contiguous and the former C unused.
pub(super) fn multiply<A: Float, B: Float, C: Float>(
    job: &Job<'_, A, C>,
    a: &Matrix<'_, A>,
    b: &Matrix<'_, B>,
    b_offset: usize,
) {
    let (m, k) = (job.m, job.k);
    with_scratch::<f32, _>(m * k, |rows| {
        for (i, row) in rows.chunks_exact_mut(k.max(1)).enumerate().take(m) {
            for (at, v) in row.iter_mut().enumerate() {
                let offset = job.a_offset + i * a.row_stride + at * a.col_stride;
                *v = a.data[offset].to_f32() * job.epilogue.alpha;
            }
        }
        let rows = &*rows;
        let strips = b.cols.div_ceil(COLUMNS);
        let grain = (TASK_WORK / (m * k * COLUMNS).max(1)).max(1);
        for_each_range(job.ctx.parallel, strips, grain, 1, &|range| {
            for strip in range {
                let columns = strip * COLUMNS..b.cols.min((strip + 1) * COLUMNS);
                let src = if k == 0 { &[] } else { &b.data[b_offset + columns.start..] };
                one_strip(job, rows, src, b.row_stride, columns);
            }
        });
    });
}

fn one_strip<A: Float, B: Float, C: Float>(
    job: &Job<'_, A, C>,
    rows: &[f32],
    b: &[B],
    b_step: usize,
    columns: Range<usize>,
) {
    let features = job.ctx.features;
    with_scratch::<f32, _>(job.m * COLUMNS, |sums| {
        sums.fill(0.0);
        let width = columns.len();
        features.dispatch(Strip { m: job.m, k: job.k, rows, b, b_step, width, sums });
        // An empty product on top of the sums applies the epilogue.
        features.dispatch(Block {
            features,
            split: job.split(),
            panels: 0..job.split().panels(),
            a: rows.as_ptr(),
            a_depth: 0,
            a_first: 0,
            kc: 0,
            b: b.as_ptr(),
            b_step: 0,
            b_panel_step: 0,
            columns: columns.clone(),
            c: job.c.pointer().wrapping_add(job.c_offset),
            ldc: job.ldc,
            partial: sums.as_mut_ptr().wrapping_sub(columns.start),
            partial_ld: COLUMNS,
            first: false,
            last: true,
            epilogue: *job.epilogue,
        });
    });
}

/// Whether the strip covers a product.
pub(super) fn covers<A: Float, B: Float, C: Float>(job: &Job<'_, A, C>, b: &Matrix<'_, B>) -> bool {
    matches!(job.a, Lhs::Plain(_)) && job.m <= ROWS && b.col_stride == 1 && job.epilogue.beta == 0.0
}

struct Strip<'a, B> {
    m: usize,
    k: usize,
    rows: &'a [f32],
    b: &'a [B],
    b_step: usize,
    width: usize,
    sums: &'a mut [f32],
}

impl<B: Float> Kernel for Strip<'_, B> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { m, k, rows, b, b_step, width, sums } = self;
        if k == 0 {
            return;
        }
        assert!(rows.len() >= m * k && sums.len() >= m * COLUMNS && width <= COLUMNS);
        assert!(b.len() >= (k - 1) * b_step + width);
        let mut first = 0;
        while first < k {
            let depth = DEPTH.min(k - first);
            // SAFETY: the lengths were asserted above.
            unsafe {
                let b = b.as_ptr().add(first * b_step);
                let a = rows.as_ptr().add(first);
                match (m, depth == DEPTH) {
                    (1, true) => add_rows::<S, B, 1, DEPTH>(s, a, k, b, b_step, width, sums),
                    (2, true) => add_rows::<S, B, 2, DEPTH>(s, a, k, b, b_step, width, sums),
                    (3, true) => add_rows::<S, B, 3, DEPTH>(s, a, k, b, b_step, width, sums),
                    (_, true) => add_rows::<S, B, ROWS, DEPTH>(s, a, k, b, b_step, width, sums),
                    _ => {
                        for i in 0..m {
                            for d in 0..depth {
                                let (a, sums) = (a.add(i * k + d), &mut sums[i * COLUMNS..]);
                                add_rows::<S, B, 1, 1>(s, a, k, b.add(d * b_step), b_step, width, sums);
                            }
                        }
                    }
                }
            }
            first += depth;
        }
    }
}

/// `sums[i][j] += sum over d of a[i * a_step + d] * b[d * b_step + j]` for `M` rows and `D` depths.
#[inline(always)]
unsafe fn add_rows<S: Simd, B: Float, const M: usize, const D: usize>(
    s: S,
    a: *const f32,
    a_step: usize,
    b: *const B,
    b_step: usize,
    width: usize,
    sums: &mut [f32],
) {
    let sums = sums.as_mut_ptr();
    let mut factors = [[s.zero(); D]; M];
    // SAFETY: the caller vouches for the operands; sums hold `COLUMNS` values per row.
    unsafe {
        for (i, row) in factors.iter_mut().enumerate() {
            for (d, factor) in row.iter_mut().enumerate() {
                *factor = s.splat(*a.add(i * a_step + d));
            }
        }
        let mut j = 0;
        while j + S::LANES <= width {
            let mut columns = [s.zero(); D];
            for (d, column) in columns.iter_mut().enumerate() {
                *column = B::load(s, b.add(d * b_step + j));
            }
            for (i, row) in factors.iter().enumerate() {
                let p = sums.add(i * COLUMNS + j);
                let sum = row.iter().zip(columns).fold(s.load(p), |sum, (&f, column)| s.fma(f, column, sum));
                s.store(p, sum);
            }
            j += S::LANES;
        }
        if j < width {
            let n = width - j;
            for (i, row) in factors.iter().enumerate() {
                let p = sums.add(i * COLUMNS + j);
                let mut sum = s.load(p);
                for (d, &factor) in row.iter().enumerate() {
                    sum = s.fma(factor, B::load_partial(s, b.add(d * b_step + j), n), sum);
                }
                s.store(p, sum);
            }
        }
    }
}
