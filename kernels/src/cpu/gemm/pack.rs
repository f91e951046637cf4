//! Packing: operands rearranged into the panels that register tiles read in order.

use super::micro::{TILE_VECTORS, tile_rows};
use crate::cpu::buffer::AlignedBuffer;
use crate::cpu::features::{Context, Features, Isa};
use crate::cpu::float::Float;
use crate::cpu::matrix::{Matrix, RowSplit};
use crate::cpu::simd::{Kernel, Simd};
use crate::error::{KernelError, Result};
use crate::parallel::{SharedMut, for_each_range};

struct TileShape;

impl Kernel for TileShape {
    type Output = (usize, usize);

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> (usize, usize) {
        (tile_rows::<S>(), TILE_VECTORS * S::LANES)
    }
}

/// (rows, columns) of the register tile of the tier.
pub(crate) fn tile_shape(features: Features) -> (usize, usize) {
    features.dispatch(TileShape)
}

/// The right operand of a product, packed once: panels of `nr` columns, each `[k][nr]`, zero-padded.
pub struct PackedB<E: Float = f32> {
    data: AlignedBuffer<E>,
    k: usize,
    n: usize,
    nr: usize,
    isa: Isa,
}

impl<E: Float> PackedB<E> {
    /// Packs a `k x n` matrix for the tier of `ctx`.
    pub fn pack(ctx: Context<'_>, b: Matrix<'_, E>) -> Result<Self> {
        b.check_at("B", 0)?;
        let (k, n) = (b.rows, b.cols);
        let (_, nr) = tile_shape(ctx.features);
        let panels = n.div_ceil(nr);
        let len = panels
            .checked_mul(nr)
            .and_then(|columns| columns.checked_mul(k))
            .ok_or_else(|| KernelError::shape(format!("B of {k} x {n} is too large to pack")))?;
        let mut data = AlignedBuffer::zeroed(len);
        pack_panels(ctx, &b, 0, k, n, nr, &mut data);
        Ok(Self { data, k, n, nr, isa: ctx.features.isa() })
    }

    /// Rows of the original matrix.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns of the original matrix.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        self.data.allocated_bytes()
    }

    pub(crate) fn nr(&self) -> usize {
        self.nr
    }

    pub(crate) fn data(&self) -> &[E] {
        &self.data
    }

    pub(crate) fn check(&self, features: Features) -> Result<()> {
        if self.isa == features.isa() {
            return Ok(());
        }
        Err(KernelError::parameter(format!(
            "B was packed for {:?} but the call uses {:?}: pack and multiply with the same features",
            self.isa,
            features.isa()
        )))
    }
}

/// Panels packed side by side, so that rows are read in long runs.
const PANEL_GROUP: usize = 8;

/// Packs `columns` columns of `k` rows from element `offset` of `b` into zero-padded panels of `nr`.
pub(crate) fn pack_panels<E: Float>(
    ctx: Context<'_>,
    b: &Matrix<'_, E>,
    offset: usize,
    k: usize,
    columns: usize,
    nr: usize,
    packed: &mut [E],
) {
    if k == 0 || columns == 0 {
        return;
    }
    let panel_len = k * nr;
    let out = SharedMut::new(packed);
    let panels = columns.div_ceil(nr);
    let grain = (32 * 1024 / panel_len).max(1);
    for_each_range(ctx.parallel, panels, grain, PANEL_GROUP, &|range| {
        for first in range.clone().step_by(PANEL_GROUP) {
            let end = range.end.min(first + PANEL_GROUP);
            // SAFETY: panels are disjoint.
            let dst = unsafe { out.slice(first * panel_len..end * panel_len) };
            let columns = columns.min(end * nr) - first * nr;
            let src = &b.data[offset + first * nr * b.col_stride..];
            ctx.features.dispatch(PackGroup { b, src, k, columns, nr, dst });
        }
    });
}

/// Copies `k` rows of `columns` columns into panels `[k][nr]`; the padding is zeroed.
struct PackGroup<'a, 'b, E> {
    b: &'a Matrix<'b, E>,
    /// Elements from the first row and column on.
    src: &'a [E],
    k: usize,
    columns: usize,
    nr: usize,
    dst: &'a mut [E],
}

impl<E: Float> Kernel for PackGroup<'_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { b, src, k, columns, nr, dst } = self;
        let zero = E::from_f32(0.0);
        let panel_len = k * nr;
        if columns % nr != 0 {
            let used = columns % nr;
            let last = columns / nr * panel_len;
            dst[last..last + panel_len].chunks_exact_mut(nr).for_each(|row| row[used..].fill(zero));
        }
        if b.col_stride == 1 {
            for row in 0..k {
                let src = &src[row * b.row_stride..][..columns];
                for (panel, part) in src.chunks(nr).enumerate() {
                    copy_run(s, part, &mut dst[panel * panel_len + row * nr..]);
                }
            }
            return;
        }
        for (panel, dst) in dst.chunks_exact_mut(panel_len).enumerate() {
            let first = panel * nr;
            pack_strided(b, &src[first * b.col_stride..], k, nr.min(columns - first), nr, dst);
        }
    }
}

/// Copies a run of at most one panel row.
#[inline(always)]
fn copy_run<S: Simd, E: Float>(_: S, src: &[E], dst: &mut [E]) {
    // The usual width is known to the compiler as whole vectors.
    if src.len() == 2 * S::LANES {
        dst[..2 * S::LANES].copy_from_slice(&src[..2 * S::LANES]);
    } else {
        dst[..src.len()].copy_from_slice(src);
    }
}

/// One panel whose columns are contiguous or strided: squares are moved so that both sides stay in cache.
#[inline(always)]
fn pack_strided<E: Float>(b: &Matrix<'_, E>, src: &[E], k: usize, columns: usize, nr: usize, dst: &mut [E]) {
    const ROWS: usize = 16;
    for row0 in (0..k).step_by(ROWS) {
        let rows = ROWS.min(k - row0);
        let block = &mut dst[row0 * nr..(row0 + rows) * nr];
        for j in 0..columns {
            let column = &src[row0 * b.row_stride + j * b.col_stride..];
            if rows == ROWS && b.row_stride == 1 {
                let column = &column[..ROWS];
                for i in 0..ROWS {
                    block[i * nr + j] = column[i];
                }
            } else {
                for i in 0..rows {
                    block[i * nr + j] = column[i * b.row_stride];
                }
            }
        }
    }
}

/// The left operand of a product in f32, packed once: panels of nearly equal height, each `[k][height]`.
pub struct PackedA {
    data: AlignedBuffer<f32>,
    m: usize,
    k: usize,
    isa: Isa,
}

impl PackedA {
    /// Packs an `m x k` matrix for the tier of `ctx`.
    pub fn pack<T: Float>(ctx: Context<'_>, a: Matrix<'_, T>) -> Result<Self> {
        a.check_at("A", 0)?;
        let (m, k) = (a.rows, a.cols);
        let len = m
            .checked_mul(k)
            .ok_or_else(|| KernelError::shape(format!("A of {m} x {k} is too large to pack")))?;
        let split = RowSplit::new(m, tile_shape(ctx.features).0);
        let mut data = AlignedBuffer::zeroed(len);
        let out = SharedMut::new(&mut data);
        for_each_range(ctx.parallel, split.panels(), (4096 / k.max(1)).max(1), 1, &|range| {
            for p in range {
                // SAFETY: panels are disjoint.
                let dst = unsafe { out.slice(split.start(p) * k..split.start(p + 1) * k) };
                pack_rows(&a, split.start(p) * a.row_stride, split.height(p), k, dst);
            }
        });
        Ok(Self { data, m, k, isa: ctx.features.isa() })
    }

    /// Rows of the original matrix.
    pub fn m(&self) -> usize {
        self.m
    }

    /// Columns of the original matrix.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        self.data.allocated_bytes()
    }

    pub(crate) fn data(&self) -> &[f32] {
        &self.data
    }

    pub(crate) fn check(&self, features: Features) -> Result<()> {
        if self.isa == features.isa() {
            return Ok(());
        }
        Err(KernelError::parameter(format!(
            "A was packed for {:?} but the call uses {:?}: pack and multiply with the same features",
            self.isa,
            features.isa()
        )))
    }
}

/// Copies a panel of `height` rows and `k` columns starting at element `offset` into `[k][height]`.
#[inline(always)]
pub(crate) fn pack_rows<T: Float>(
    a: &Matrix<'_, T>,
    offset: usize,
    height: usize,
    k: usize,
    dst: &mut [f32],
) {
    if k == 0 || height == 0 {
        return;
    }
    let src = &a.data[offset..];
    if a.row_stride == 1 {
        for (column, dst) in dst.chunks_exact_mut(height).enumerate().take(k) {
            let src = &src[column * a.col_stride..][..height];
            for (d, v) in dst.iter_mut().zip(src) {
                *d = v.to_f32();
            }
        }
        return;
    }
    // Short runs of columns keep the written lines in the first-level cache.
    const COLUMNS: usize = 64;
    for k0 in (0..k).step_by(COLUMNS) {
        let columns = COLUMNS.min(k - k0);
        for i in 0..height {
            let row = &src[i * a.row_stride + k0 * a.col_stride..];
            let dst = &mut dst[k0 * height + i..];
            for j in 0..columns {
                dst[j * height] = row[j * a.col_stride].to_f32();
            }
        }
    }
}
