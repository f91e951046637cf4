//! Products of 8-bit integers with exact 32-bit sums, zero points, and results in i32 or scaled f32.
//!
//! A is made unsigned and B signed by moving their zero points; the products of the zero points are then put right
//! with the row sums of A and the column sums of B.

pub(crate) mod dot;
mod pack;

pub use pack::{ByteMatrix, PackedBytes};

use std::ops::Range;

use super::buffer::with_scratch;
use super::features::Context;
use super::matrix::{Matrix, RowSplit};
use crate::error::{KernelError, Result, expect_len};
use crate::parallel::SharedMut;
use dot::{Dot, DotKernel};

/// Zero points of the operands: none, one, or one per row of A and per column of B.
#[derive(Clone, Copy, Debug, Default)]
pub struct ZeroPoints<'a> {
    pub a: &'a [i32],
    pub b: &'a [i32],
}

#[inline(always)]
fn entry<T: Copy>(values: &[T], at: usize, none: T) -> T {
    match values.len() {
        0 => none,
        1 => values[0],
        _ => values[at],
    }
}

/// Turns sums into f32: `sum * a * b + bias`.
#[derive(Clone, Copy, Debug)]
pub struct Dequantize<'a> {
    /// One scale, or one per row of A.
    pub a: &'a [f32],
    /// One scale, or one per column of B.
    pub b: &'a [f32],
    /// Nothing, or one per column.
    pub bias: &'a [f32],
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
    check(ctx, &a, b, zero_points, c.len(), ldc)?;
    let c = SharedMut::new(c);
    let sink = |row: usize, columns: Range<usize>, sums: &[i32]| {
        let start = row * ldc + columns.start;
        // SAFETY: parts of rows are written once each and lie inside C by the check.
        unsafe { c.slice(start..start + columns.len()) }.copy_from_slice(sums);
    };
    run(ctx, &a, b, zero_points, sink);
    Ok(())
}

/// `C = dequantize((A - zero_a) (B - zero_b))` in f32.
pub fn gemm_bytes_f32(
    ctx: Context<'_>,
    a: ByteMatrix<'_>,
    b: &PackedBytes,
    zero_points: ZeroPoints<'_>,
    scales: Dequantize<'_>,
    c: &mut [f32],
    ldc: usize,
) -> Result<()> {
    check(ctx, &a, b, zero_points, c.len(), ldc)?;
    let (m, _) = a.extents();
    for (name, part, extent) in [("A", scales.a, m), ("B", scales.b, b.n())] {
        if part.len() != 1 {
            expect_len(&format!("scale of {name}"), part.len(), extent)?;
        }
    }
    if !scales.bias.is_empty() {
        expect_len("bias", scales.bias.len(), b.n())?;
    }
    let c = SharedMut::new(c);
    let sink = |row: usize, columns: Range<usize>, sums: &[i32]| {
        let start = row * ldc + columns.start;
        // SAFETY: parts of rows are written once each and lie inside C by the check.
        let out = unsafe { c.slice(start..start + columns.len()) };
        let scale = entry(scales.a, row, 1.0);
        if let [one] = scales.b {
            let scale = scale * one;
            out.iter_mut().zip(sums).for_each(|(c, &sum)| *c = sum as f32 * scale);
        } else {
            let parts = out.iter_mut().zip(sums).zip(&scales.b[columns.clone()]);
            parts.for_each(|((c, &sum), b)| *c = sum as f32 * (scale * b));
        }
        if !scales.bias.is_empty() {
            out.iter_mut().zip(&scales.bias[columns]).for_each(|(c, b)| *c += b);
        }
    };
    run(ctx, &a, b, zero_points, sink);
    Ok(())
}

fn check(
    ctx: Context<'_>,
    a: &ByteMatrix<'_>,
    b: &PackedBytes,
    zero_points: ZeroPoints<'_>,
    c_len: usize,
    ldc: usize,
) -> Result<()> {
    let (m, k) = a.extents();
    if k != b.k() {
        return Err(KernelError::shape(format!(
            "A is {m} x {k} but B is {} x {}: the inner extents differ",
            b.k(),
            b.n()
        )));
    }
    a.check("A")?;
    b.check(ctx.features)?;
    for (name, zeros, extent) in [("A", zero_points.a, m), ("B", zero_points.b, b.n())] {
        if zeros.len() > 1 {
            expect_len(&format!("zero points of {name}"), zeros.len(), extent)?;
        }
    }
    super::gemm::check_c(c_len, 0, m, b.n(), ldc)
}

/// Words of packed A that a task holds at once: they stay in the second cache level.
const A_WORDS: usize = 96 * 1024;
/// Multiply-adds of a task, at least.
const TASK_WORK: usize = 256 * 1024;

/// Computes all sums and hands parts of rows to `sink(row, columns, sums)`.
fn run(
    ctx: Context<'_>,
    a: &ByteMatrix<'_>,
    b: &PackedBytes,
    zero_points: ZeroPoints<'_>,
    sink: impl Fn(usize, Range<usize>, &[i32]) + Sync,
) {
    let ((m, k), n) = (a.extents(), b.n());
    if m == 0 || n == 0 {
        return;
    }
    let (group, nr, rows) = dot::shape(ctx.features);
    let split = RowSplit::new(m, rows);
    let steps = k.div_ceil(group);
    let panels = n.div_ceil(nr);
    let threads = ctx.parallel.threads();
    let block_panels = (A_WORDS / (steps * rows).max(1)).clamp(1, split.panels());
    let row_blocks = split.panels().div_ceil(block_panels);
    let wanted = if threads == 1 { 1 } else { (threads * 4).min(m * n * k / TASK_WORK).max(1) };
    let column_blocks = wanted.div_ceil(row_blocks).min(panels);
    let column_panels = panels.div_ceil(column_blocks);
    let column_blocks = panels.div_ceil(column_panels);
    let job = Job { bits: a.bits(), signed: a.is_signed(), b, zero_points, split, group, steps };
    ctx.parallel.for_each(row_blocks * column_blocks, &|task| {
        let (row_block, column_block) = (task % row_blocks, task / row_blocks);
        let first = row_block * block_panels;
        let rows = first..split.panels().min(first + block_panels);
        let first = column_block * column_panels;
        let columns = first..panels.min(first + column_panels);
        job.task(ctx, rows, columns, &sink);
    });
}

struct Job<'a> {
    bits: Matrix<'a, u8>,
    signed: bool,
    b: &'a PackedBytes,
    zero_points: ZeroPoints<'a>,
    split: RowSplit,
    group: usize,
    steps: usize,
}

impl Job<'_> {
    /// Row panels times column panels.
    fn task(
        &self,
        ctx: Context<'_>,
        rows: Range<usize>,
        columns: Range<usize>,
        sink: &(impl Fn(usize, Range<usize>, &[i32]) + Sync),
    ) {
        let split = self.split;
        let (row0, row1) = (split.start(rows.start), split.start(rows.end));
        let count = row1 - row0;
        with_scratch::<i32, _>(count * self.steps + count, |scratch| {
            let (words, sums) = scratch.split_at_mut(count * self.steps);
            for p in rows.clone() {
                let (start, height) = (split.start(p), split.height(p));
                let at = start - row0;
                let words = &mut words[at * self.steps..(at + height) * self.steps];
                pack::pack_rows(&self.bits, self.signed, start, height, self.group, words, &mut sums[at..]);
            }
            dot::dispatch(ctx.features, Panels { job: self, rows, columns, words, sums, sink });
        });
    }
}

struct Panels<'a, 'b, F> {
    job: &'a Job<'b>,
    rows: Range<usize>,
    columns: Range<usize>,
    words: &'a [i32],
    sums: &'a [i32],
    sink: &'a F,
}

impl<F: Fn(usize, Range<usize>, &[i32])> DotKernel for Panels<'_, '_, F> {
    type Output = ();

    #[inline(always)]
    fn run<D: Dot>(self, d: D) {
        let Self { job, rows, columns, words, sums, sink } = self;
        let b = job.b;
        let nr = b.nr();
        let row0 = job.split.start(rows.start);
        let mut tile = [0i32; 14 * 32];
        for panel in columns {
            let (first, width) = (panel * nr, nr.min(b.n() - panel * nr));
            let panel_words = &b.words()[panel * job.steps * nr..(panel + 1) * job.steps * nr];
            for p in rows.clone() {
                let (row, height) = (job.split.start(p), job.split.height(p));
                let a = &words[(row - row0) * job.steps..(row - row0 + height) * job.steps];
                accumulate_rows(d, height, job.steps, a, panel_words, &mut tile);
                for i in 0..height {
                    let line = &mut tile[i * nr..i * nr + width];
                    job.correct(row + i, sums[row - row0 + i], first, line);
                    sink(row + i, first..first + width, line);
                }
            }
        }
    }
}

impl Job<'_> {
    /// Takes the zero points out of the raw sums of one row.
    #[inline(always)]
    fn correct(&self, row: usize, row_sum: i32, first: usize, line: &mut [i32]) {
        let zero_a = entry(self.zero_points.a, row, 0).wrapping_add(if self.signed { 128 } else { 0 });
        let zeros_b = self.zero_points.b;
        let sums = &self.b.sums()[first..first + line.len()];
        let depth = (self.bits.cols as i32).wrapping_mul(zero_a);
        if zeros_b.len() <= 1 {
            let zero_b = entry(zeros_b, 0, 0).wrapping_sub(self.b.shift());
            let constant = depth.wrapping_sub(row_sum).wrapping_mul(zero_b);
            for (v, &sum) in line.iter_mut().zip(sums) {
                *v = v.wrapping_sub(zero_a.wrapping_mul(sum)).wrapping_add(constant);
            }
            return;
        }
        for ((v, &sum), &zero) in line.iter_mut().zip(sums).zip(&zeros_b[first..]) {
            let zero_b = zero.wrapping_sub(self.b.shift());
            let constant = depth.wrapping_sub(row_sum).wrapping_mul(zero_b);
            *v = v.wrapping_sub(zero_a.wrapping_mul(sum)).wrapping_add(constant);
        }
    }
}

/// `tile[i][j] = sum over steps of a[step][i] . b[step][j]`.
#[inline(always)]
fn accumulate_rows<D: Dot>(d: D, rows: usize, steps: usize, a: &[i32], b: &[i32], tile: &mut [i32; 14 * 32]) {
    assert!(a.len() == steps * rows && b.len() == steps * 2 * D::LANES);
    macro_rules! heights {
        ($($h:literal)*) => {
            match rows {
                // SAFETY: both operands hold `steps` steps, the tile fourteen rows of two vectors.
                $( $h if $h <= D::ROWS => unsafe { accumulate::<D, $h>(d, steps, a.as_ptr(), b.as_ptr(), tile) }, )*
                _ => {}
            }
        };
    }
    heights!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}

/// # Safety
/// `a` holds `steps * R` words and `b` `steps * 2 * LANES`.
#[inline(always)]
unsafe fn accumulate<D: Dot, const R: usize>(
    d: D,
    steps: usize,
    mut a: *const i32,
    mut b: *const i32,
    tile: &mut [i32; 14 * 32],
) {
    let mut acc = [[d.zero(); 2]; R];
    // SAFETY: the caller's contract.
    unsafe {
        for _ in 0..steps {
            let columns = [d.load(b), d.load(b.add(D::LANES))];
            for (i, sums) in acc.iter_mut().enumerate() {
                let value = d.splat(*a.add(i));
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = d.dot(*sum, value, column);
                }
            }
            a = a.add(R);
            b = b.add(2 * D::LANES);
        }
        for (i, sums) in acc.iter().enumerate() {
            for (j, &sum) in sums.iter().enumerate() {
                d.store(tile.as_mut_ptr().add((i * 2 + j) * D::LANES), sum);
            }
        }
    }
}
