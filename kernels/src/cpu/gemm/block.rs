//! The inner loops of a product: packed panels of A times packed panels of B into a block of C.

use std::ops::Range;

use super::epilogue::{Addend, Epilogue};
use super::micro::{MAX_TILE, TILE_VECTORS, Tile, accumulate_tile};
use crate::cpu::elementwise::{Unary, unary_raw};
use crate::cpu::features::Features;
use crate::cpu::float::{Float, MAX_LANES};
use crate::cpu::matrix::RowSplit;
use crate::cpu::simd::{Kernel, Simd};

/// A block of C and what to do with it. Rows and columns are indices into the whole product.
pub(crate) struct Block<'a, E, C> {
    pub(crate) features: Features,
    /// How the rows of A are cut into panels.
    pub(crate) split: RowSplit,
    /// Panels of A to multiply.
    pub(crate) panels: Range<usize>,
    /// Panel p starts at `a + (start(p) - start(panels.start)) * a_depth + a_first * height`.
    pub(crate) a: *const f32,
    /// Columns each A panel was packed with.
    pub(crate) a_depth: usize,
    /// First of them to use.
    pub(crate) a_first: usize,
    /// Depth of this block.
    pub(crate) kc: usize,
    /// First panel of B at its first row of this block.
    pub(crate) b: *const E,
    /// Elements between rows of a B panel.
    pub(crate) b_step: usize,
    /// Elements between B panels.
    pub(crate) b_panel_step: usize,
    /// Columns of C; the first is a multiple of the panel width away from the first B panel.
    pub(crate) columns: Range<usize>,
    /// Element (0, 0) of the whole product.
    pub(crate) c: *mut C,
    pub(crate) ldc: usize,
    /// Where sums live between depth blocks: element (0, 0) of the whole product.
    pub(crate) partial: *mut f32,
    pub(crate) partial_ld: usize,
    /// Whether this is the first and the last depth block.
    pub(crate) first: bool,
    pub(crate) last: bool,
    pub(crate) epilogue: Epilogue<'a>,
}

impl<E: Float, C: Float> Kernel for Block<'_, E, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: whoever builds a block vouches for its pointers and extents.
        unsafe { multiply(s, &self) }
    }
}

#[inline(always)]
unsafe fn multiply<S: Simd, E: Float, C: Float>(s: S, block: &Block<'_, E, C>) {
    let nr = TILE_VECTORS * S::LANES;
    let row0 = block.split.start(block.panels.start);
    let mut tile = Tile([0.0; MAX_TILE]);
    let out = tile.0.as_mut_ptr();
    let mut column = block.columns.start;
    let mut b = block.b;
    while column < block.columns.end {
        let width = nr.min(block.columns.end - column);
        for p in block.panels.clone() {
            let height = block.split.height(p);
            let row = block.split.start(p);
            // SAFETY: the block's contract; a tile holds any height and width.
            unsafe {
                let a = block.a.add((row - row0) * block.a_depth + block.a_first * height);
                if width > S::LANES {
                    accumulate_tile::<S, E, TILE_VECTORS>(
                        s,
                        height,
                        block.kc,
                        a,
                        height,
                        b,
                        block.b_step,
                        out,
                    );
                } else {
                    accumulate_tile::<S, E, 1>(s, height, block.kc, a, height, b, block.b_step, out);
                }
                finish(s, block, out, row, height, column, width);
            }
        }
        column += nr;
        // SAFETY: one panel further; never read past the last.
        b = unsafe { b.add(block.b_panel_step) };
    }
}

/// An addend positioned on a tile.
#[derive(Clone, Copy)]
struct TileAddend {
    data: *const f32,
    row_stride: usize,
    col_stride: usize,
    scale: f32,
}

impl TileAddend {
    #[inline(always)]
    fn new(addend: &Addend<'_>, row: usize, column: usize) -> Self {
        let Addend { data, row_stride, col_stride, scale } = *addend;
        let data = data[row * row_stride + column * col_stride..].as_ptr();
        Self { data, row_stride, col_stride, scale }
    }

    /// `n` lanes of row `i` from column `j` added to `v`.
    #[inline(always)]
    unsafe fn add<S: Simd>(&self, s: S, i: usize, j: usize, n: usize, v: S::F) -> S::F {
        // SAFETY: `Epilogue::check` covers every row and column of the product.
        let lanes = unsafe {
            let p = self.data.add(i * self.row_stride + j * self.col_stride);
            match self.col_stride {
                0 => s.splat(*p),
                1 if n == S::LANES => s.load(p),
                1 => s.load_partial(p, n),
                step => {
                    let mut lanes = [0.0; MAX_LANES];
                    for (lane, value) in lanes.iter_mut().enumerate().take(n) {
                        *value = *p.add(lane * step);
                    }
                    s.load(lanes.as_ptr())
                }
            }
        };
        s.fma(lanes, s.splat(self.scale), v)
    }
}

/// Stores a tile of sums at (row, column), applying the epilogue when they are complete.
#[inline(always)]
unsafe fn finish<S: Simd, E: Float, C: Float>(
    s: S,
    block: &Block<'_, E, C>,
    tile: *mut f32,
    row: usize,
    height: usize,
    column: usize,
    width: usize,
) {
    let nr = TILE_VECTORS * S::LANES;
    let epilogue = &block.epilogue;
    let last = block.last;
    let bias = if last { epilogue.bias.as_ref().map(|a| TileAddend::new(a, row, column)) } else { None };
    let residual =
        if last { epilogue.residual.as_ref().map(|a| TileAddend::new(a, row, column)) } else { None };
    let clamps = epilogue.activation.bounds();
    let separate = last && clamps.is_none();
    let bounds = clamps.filter(|_| last && epilogue.activation != Unary::Identity);
    let alpha = s.splat(epilogue.alpha);
    for i in 0..height {
        let mut j = 0;
        while j < width {
            let n = S::LANES.min(width - j);
            // SAFETY: rows and columns lie inside the product; the tile holds them all.
            unsafe {
                let sums = tile.add(i * nr + j);
                let c = block.c.wrapping_add((row + i) * block.ldc + column + j);
                let partial = block.partial.wrapping_add((row + i) * block.partial_ld + column + j);
                let mut v = s.mul(s.load(sums), alpha);
                if !block.first {
                    v = s.add(v, if n == S::LANES { s.load(partial) } else { s.load_partial(partial, n) });
                } else if epilogue.beta != 0.0 {
                    let old = if n == S::LANES { C::load(s, c) } else { C::load_partial(s, c, n) };
                    v = s.fma(old, s.splat(epilogue.beta), v);
                }
                if let Some(bias) = &bias {
                    v = bias.add(s, i, j, n, v);
                }
                if let Some(residual) = &residual {
                    v = residual.add(s, i, j, n, v);
                }
                if let Some((min, max)) = bounds {
                    v = s.min(s.splat(max), s.max(s.splat(min), v));
                }
                if !last {
                    if n == S::LANES { s.store(partial, v) } else { s.store_partial(partial, n, v) }
                } else if separate {
                    s.store(sums, v);
                } else if n == S::LANES {
                    C::store(s, c, v);
                } else {
                    C::store_partial(s, c, n, v);
                }
            }
            j += S::LANES;
        }
    }
    if separate {
        // SAFETY: the tile and the block of C as above.
        unsafe { activate(s, block, tile, row, height, column, width) };
    }
}

/// Applies an activation that is not a clamp to a finished tile and stores it.
#[inline(always)]
unsafe fn activate<S: Simd, E: Float, C: Float>(
    s: S,
    block: &Block<'_, E, C>,
    tile: *mut f32,
    row: usize,
    height: usize,
    column: usize,
    width: usize,
) {
    let nr = TILE_VECTORS * S::LANES;
    // SAFETY: the whole tile is initialised.
    unsafe { unary_raw(block.features, block.epilogue.activation, tile, tile, height * nr) };
    for i in 0..height {
        let mut j = 0;
        while j < width {
            let n = S::LANES.min(width - j);
            // SAFETY: as in `finish`.
            unsafe {
                let v = s.load(tile.add(i * nr + j));
                let c = block.c.add((row + i) * block.ldc + column + j);
                if n == S::LANES { C::store(s, c, v) } else { C::store_partial(s, c, n, v) }
            }
            j += S::LANES;
        }
    }
}
