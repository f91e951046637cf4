//! Products of floating-point matrices: packed once or on the fly, batched, with a fused epilogue.
//!
//! Blocks of C are tasks. A task walks the depth in blocks of `kc`; for each it packs its rows of A and multiplies
//! them with every panel of B it owns, keeping partial sums in C.

mod block;
mod epilogue;
mod generic;
pub(crate) mod micro;
mod pack;
mod strip;

pub(crate) use block::Block;
pub use epilogue::{Addend, Epilogue};
pub use generic::{Number, gemm_number};
use pack::pack_panels;
pub use pack::{PackedA, PackedB};
pub(crate) use pack::{pack_rows, tile_shape};

use std::any::TypeId;

use super::buffer::with_scratch;
use super::features::Context;
use super::float::Float;
use super::matrix::{Matrix, RowSplit};
use crate::error::{KernelError, Result};
use crate::matmul::MatmulParams;
use crate::parallel::SharedMut;
use crate::select;

/// The right operand of a product.
#[derive(Clone, Copy)]
pub enum Rhs<'a, E: Float = f32> {
    /// Any strided matrix; packed during the call where that pays.
    Plain(Matrix<'a, E>),
    /// A matrix packed beforehand.
    Packed(&'a PackedB<E>),
}

impl<E: Float> Rhs<'_, E> {
    fn extents(&self) -> (usize, usize) {
        match self {
            Rhs::Plain(b) => (b.rows, b.cols),
            Rhs::Packed(b) => (b.k(), b.n()),
        }
    }
}

/// The left operand of a product.
#[derive(Clone, Copy)]
pub enum Lhs<'a, E: Float = f32> {
    /// Any strided matrix.
    Plain(Matrix<'a, E>),
    /// A matrix packed beforehand.
    Packed(&'a PackedA),
}

impl<E: Float> Lhs<'_, E> {
    fn extents(&self) -> (usize, usize) {
        match self {
            Lhs::Plain(a) => (a.rows, a.cols),
            Lhs::Packed(a) => (a.m(), a.k()),
        }
    }
}

/// `C = epilogue(A B)` with A `m x k`, B `k x n` and C row-major with `ldc >= n` elements between rows.
///
/// Sums are kept in f32 whatever the storage types. Elements of `c` between rows are left alone.
pub fn gemm<A: Float, B: Float, C: Float>(
    ctx: Context<'_>,
    a: Lhs<'_, A>,
    b: Rhs<'_, B>,
    c: &mut [C],
    ldc: usize,
    epilogue: &Epilogue<'_>,
) -> Result<()> {
    check(ctx, &a, 0, &b, 0)?;
    let (m, _) = a.extents();
    let (_, n) = b.extents();
    check_c(c.len(), 0, m, n, ldc)?;
    epilogue.check(m, n, 0)?;
    let c = SharedMut::new(c);
    product(ctx, &a, 0, &b, 0, &c, 0, ldc, epilogue);
    Ok(())
}

/// Element offsets of one product of a batch into the operands' buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchOffsets {
    pub a: usize,
    pub b: usize,
    pub c: usize,
    /// Offset into `epilogue.residual`.
    pub residual: usize,
}

/// One product per entry of `batches`, as [`gemm`]; every entry must write a different part of `c`.
pub fn gemm_batched<A: Float, B: Float, C: Float>(
    ctx: Context<'_>,
    a: Matrix<'_, A>,
    b: Matrix<'_, B>,
    c: &mut [C],
    ldc: usize,
    batches: &[BatchOffsets],
    epilogue: &Epilogue<'_>,
) -> Result<()> {
    let (lhs, rhs) = (Lhs::Plain(a), Rhs::Plain(b));
    for batch in batches {
        check(ctx, &lhs, batch.a, &rhs, batch.b)?;
        check_c(c.len(), batch.c, a.rows, b.cols, ldc)?;
        epilogue.check(a.rows, b.cols, batch.residual)?;
    }
    check_disjoint(batches, a.rows, b.cols, ldc)?;
    let c = SharedMut::new(c);
    let one = |ctx: Context<'_>, batch: &BatchOffsets| {
        let mut epilogue = *epilogue;
        if let Some(residual) = &mut epilogue.residual {
            residual.data = &residual.data[batch.residual..];
        }
        product(ctx, &lhs, batch.a, &rhs, batch.b, &c, batch.c, ldc, &epilogue);
    };
    let threads = ctx.parallel.threads();
    if threads > 1 && batches.len() >= threads {
        let serial = Context::serial(ctx.features);
        let tasks = batches.len().min(threads * 4);
        ctx.parallel.for_each(tasks, &|task| {
            let range = task * batches.len() / tasks..(task + 1) * batches.len() / tasks;
            batches[range].iter().for_each(|batch| one(serial, batch));
        });
    } else {
        batches.iter().for_each(|batch| one(ctx, batch));
    }
    Ok(())
}

fn check<A: Float, B: Float>(
    ctx: Context<'_>,
    a: &Lhs<'_, A>,
    a_offset: usize,
    b: &Rhs<'_, B>,
    b_offset: usize,
) -> Result<()> {
    let ((m, ka), (kb, n)) = (a.extents(), b.extents());
    if ka != kb {
        return Err(KernelError::shape(format!(
            "A is {m} x {ka} but B is {kb} x {n}: the inner extents differ"
        )));
    }
    match a {
        Lhs::Plain(a) => a.check_at("A", a_offset)?,
        Lhs::Packed(a) => a.check(ctx.features)?,
    }
    match b {
        Rhs::Plain(b) => b.check_at("B", b_offset),
        Rhs::Packed(b) => b.check(ctx.features),
    }
}

pub(crate) fn check_c(len: usize, offset: usize, m: usize, n: usize, ldc: usize) -> Result<()> {
    if m == 0 || n == 0 {
        return Ok(());
    }
    let end = (m - 1).checked_mul(ldc).and_then(|v| v.checked_add(n)).and_then(|v| v.checked_add(offset));
    match end {
        Some(end) if end <= len && (ldc >= n || m == 1) => Ok(()),
        _ => Err(KernelError::shape(format!(
            "C of {m} x {n} with row stride {ldc} at offset {offset} does not fit its buffer of {len} elements"
        ))),
    }
}

/// Refuses batches whose blocks of C could share elements, other than interleaved columns of equal row stride.
fn check_disjoint(batches: &[BatchOffsets], m: usize, n: usize, ldc: usize) -> Result<()> {
    if m == 0 || n == 0 {
        return Ok(());
    }
    let mut starts: Vec<usize> = batches.iter().map(|batch| batch.c).collect();
    starts.sort_unstable();
    let span = (m - 1) * ldc + n;
    if starts.windows(2).all(|pair| pair[1] - pair[0] >= span) {
        return Ok(());
    }
    // Interleaved: two blocks meet only where their column ranges modulo the row stride do.
    let mut cells: Vec<(usize, usize)> =
        starts.iter().map(|&start| (start % ldc.max(1), start / ldc.max(1))).collect();
    cells.sort_unstable();
    let separate = cells.windows(2).all(|pair| {
        let ((c0, r0), (c1, r1)) = (pair[0], pair[1]);
        if c0 == c1 { r1 - r0 >= m } else { c1 - c0 >= n }
    });
    if separate && cells.iter().all(|&(column, _)| column + n <= ldc) {
        return Ok(());
    }
    Err(KernelError::shape("products of the batch overlap in C"))
}

/// How a product is cut into tasks.
struct Plan {
    split: RowSplit,
    /// Panels of A per row block.
    block_panels: usize,
    row_blocks: usize,
    /// Panels of B per column block.
    column_panels: usize,
    column_blocks: usize,
    kc: usize,
    depth_blocks: usize,
}

/// Multiply-adds below which a second thread costs more than it brings.
const TASK_WORK: usize = 64 * 1024;

impl Plan {
    fn new(threads: usize, m: usize, n: usize, k: usize, params: &MatmulParams) -> Self {
        let split = RowSplit::new(m, params.mr);
        let panels = n.div_ceil(params.nr);
        let depth_blocks = if split.panels() <= 1 { 1 } else { k.div_ceil(params.kc).max(1) };
        let kc = k.div_ceil(depth_blocks);
        let mut block_panels = (params.mc / params.mr).max(1);
        let mut column_panels = (params.nc / params.nr).max(1);
        let work = m.saturating_mul(n).saturating_mul(k);
        let wanted = if threads == 1 { 1 } else { (threads * 4).min(work / TASK_WORK).max(1) };
        let tasks = |rows: usize, columns: usize| split.panels().div_ceil(rows) * panels.div_ceil(columns);
        // Narrower column blocks first: they cost no packing of B twice.
        while tasks(block_panels, column_panels) < wanted && column_panels > 4 {
            column_panels = column_panels.min(panels).div_ceil(2);
        }
        while tasks(block_panels, column_panels) < wanted && block_panels > 1 {
            block_panels = block_panels.min(split.panels()).div_ceil(2);
        }
        while tasks(block_panels, column_panels) < wanted && column_panels > 1 {
            column_panels = column_panels.min(panels).div_ceil(2);
        }
        let row_blocks = split.panels().div_ceil(block_panels);
        let column_blocks = panels.div_ceil(column_panels);
        // Even blocks.
        let block_panels = split.panels().div_ceil(row_blocks.max(1)).max(1);
        let column_panels = panels.div_ceil(column_blocks.max(1)).max(1);
        Self {
            split,
            block_panels,
            row_blocks: split.panels().div_ceil(block_panels),
            column_panels,
            column_blocks: panels.div_ceil(column_panels),
            kc,
            depth_blocks,
        }
    }
}

/// Where panels of B lie: panel j starts at `pointer + j * panel_step`, its rows are `step` apart.
#[derive(Clone, Copy)]
struct Panels<E: Float> {
    pointer: *const E,
    step: usize,
    panel_step: usize,
}

// SAFETY: panels are only read.
unsafe impl<E: Float> Sync for Panels<E> {}

impl<E: Float> Panels<E> {
    fn starting_at(&self, first: usize) -> Self {
        Self { pointer: self.pointer.wrapping_add(first * self.panel_step), ..*self }
    }
}

/// The checked product: `c_offset` is the element of `c` where row 0 starts.
fn product<A: Float, B: Float, C: Float>(
    ctx: Context<'_>,
    a: &Lhs<'_, A>,
    a_offset: usize,
    b: &Rhs<'_, B>,
    b_offset: usize,
    c: &SharedMut<'_, C>,
    c_offset: usize,
    ldc: usize,
    epilogue: &Epilogue<'_>,
) {
    let ((m, k), (_, n)) = (a.extents(), b.extents());
    if m == 0 || n == 0 {
        return;
    }
    let params = select::matmul(ctx.features.isa(), m, n, k);
    let job = Job { ctx, a, a_offset, m, k, c, c_offset, ldc, epilogue, params };
    match b {
        Rhs::Packed(b) => {
            let nr = b.nr();
            job.run(Panels { pointer: b.data().as_ptr(), step: nr, panel_step: k * nr }, 0..n);
        }
        Rhs::Plain(b) => plain_b(&job, b, b_offset, n),
    }
}

/// Floats of packed B made at a time when B is not packed beforehand.
const PACK_CHUNK: usize = 4 << 20;

/// Multiplies with a B that was not packed: read in place for very few rows, else packed chunk by chunk.
fn plain_b<A: Float, B: Float, C: Float>(job: &Job<'_, A, C>, b: &Matrix<'_, B>, b_offset: usize, n: usize) {
    if let Lhs::Plain(a) = job.a
        && strip::covers(job, b)
    {
        return strip::multiply(job, a, b, b_offset);
    }
    let (k, nr) = (job.k, job.params.nr);
    let panel_len = k * nr;
    let chunk_panels = (PACK_CHUNK / panel_len.max(1)).max(job.ctx.parallel.threads()).max(1);
    let mut first = 0;
    while first < n {
        let columns = (chunk_panels * nr).min(n - first);
        let panels = columns.div_ceil(nr);
        with_scratch::<B, _>(panels * panel_len, |packed| {
            pack_panels(job.ctx, b, b_offset + first * b.col_stride, k, columns, nr, packed);
            job.run(
                Panels { pointer: packed.as_ptr(), step: nr, panel_step: panel_len },
                first..first + columns,
            );
        });
        first += columns;
    }
}

/// A product without its right operand.
struct Job<'a, A: Float, C> {
    ctx: Context<'a>,
    a: &'a Lhs<'a, A>,
    a_offset: usize,
    m: usize,
    k: usize,
    c: &'a SharedMut<'a, C>,
    c_offset: usize,
    ldc: usize,
    epilogue: &'a Epilogue<'a>,
    params: MatmulParams,
}

impl<A: Float, C: Float> Job<'_, A, C> {
    /// How the rows of A are cut.
    fn split(&self) -> RowSplit {
        RowSplit::new(self.m, self.params.mr)
    }

    /// Multiplies with panels of B that cover `columns` of C.
    fn run<E: Float>(&self, b: Panels<E>, columns: std::ops::Range<usize>) {
        let width = columns.len();
        if width == 0 {
            return;
        }
        let plan = Plan::new(self.ctx.parallel.threads(), self.m, width, self.k, &self.params);
        let tasks = plan.row_blocks * plan.column_blocks;
        let body = |task: usize| {
            let (column_block, row_block) = (task / plan.row_blocks, task % plan.row_blocks);
            let panel0 = column_block * plan.column_panels;
            let start = panel0 * self.params.nr;
            let end = width.min(start + plan.column_panels * self.params.nr);
            let first = row_block * plan.block_panels;
            let panels = first..plan.split.panels().min(first + plan.block_panels);
            self.task(&plan, b.starting_at(panel0), panels, columns.start + start..columns.start + end);
        };
        if tasks == 1 {
            body(0);
        } else {
            self.ctx.parallel.for_each(tasks, &body);
        }
    }

    /// One block of C through all depth blocks.
    fn task<E: Float>(
        &self,
        plan: &Plan,
        b: Panels<E>,
        panels: std::ops::Range<usize>,
        columns: std::ops::Range<usize>,
    ) {
        let split = plan.split;
        let (row0, row1) = (split.start(panels.start), split.start(panels.end));
        let (rows, width) = (row1 - row0, columns.len());
        let in_c = TypeId::of::<C>() == TypeId::of::<f32>();
        let packed_len = if matches!(self.a, Lhs::Packed(_)) { 0 } else { rows * plan.kc };
        let partial_len = if in_c || plan.depth_blocks == 1 { 0 } else { rows * width };
        let c = self.c.pointer().wrapping_add(self.c_offset);
        with_scratch::<f32, _>(packed_len + partial_len, |scratch| {
            let (packed, sums) = scratch.split_at_mut(packed_len);
            let (partial, partial_ld) = if in_c {
                (c.cast::<f32>(), self.ldc)
            } else {
                (sums.as_mut_ptr().wrapping_sub(row0 * width + columns.start), width)
            };
            for depth in 0..plan.depth_blocks {
                let k0 = depth * plan.kc;
                let kc = plan.kc.min(self.k - k0.min(self.k));
                let (a, a_depth, a_first) = match self.a {
                    Lhs::Packed(a) => (a.data()[row0 * self.k..].as_ptr(), self.k, k0),
                    Lhs::Plain(a) => {
                        for p in panels.clone() {
                            let offset = self.a_offset + split.start(p) * a.row_stride + k0 * a.col_stride;
                            let dst = &mut packed[(split.start(p) - row0) * kc..];
                            pack_rows(a, offset, split.height(p), kc, dst);
                        }
                        (packed.as_ptr(), kc, 0)
                    }
                };
                self.ctx.features.dispatch(Block {
                    features: self.ctx.features,
                    split,
                    panels: panels.clone(),
                    a,
                    a_depth,
                    a_first,
                    kc,
                    b: b.pointer.wrapping_add(k0 * b.step),
                    b_step: b.step,
                    b_panel_step: b.panel_step,
                    columns: columns.clone(),
                    c,
                    ldc: self.ldc,
                    partial,
                    partial_ld,
                    first: depth == 0,
                    last: depth + 1 == plan.depth_blocks,
                    epilogue: *self.epilogue,
                });
            }
        });
    }
}
