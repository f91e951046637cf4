//! The register tile: `MR` rows by `NV` vectors of columns, accumulated over a block of k.
//!
//! ```text
//!            b: [kc][b_step]   NV vectors per k
//!            ┌──────┬──────┐
//! a: [kc][MR]│ acc0 │ acc1 │   one broadcast of a[k][i] feeds NV multiply-adds
//!   i = 0    ├──────┼──────┤
//!   i = 1    │      │      │
//! ```

use crate::cpu::float::Float;
use crate::cpu::simd::Simd;

/// Rows of the tallest register tile of any tier.
pub(crate) const MAX_TILE_ROWS: usize = 14;
/// Vectors of columns of a register tile.
pub(crate) const TILE_VECTORS: usize = 2;
/// Elements of the largest tile.
pub(crate) const MAX_TILE: usize = MAX_TILE_ROWS * TILE_VECTORS * 16;

/// Rows of B that are fetched ahead of their use.
const PREFETCH_ROWS: usize = 12;

/// Tallest register tile whose accumulators, operands and one broadcast fit the register file.
#[inline(always)]
pub(crate) const fn tile_rows<S: Simd>() -> usize {
    match S::LANES {
        16 => 14,
        8 => 6,
        _ => 4,
    }
}

/// A tile of results in f32, row-major with `TILE_VECTORS * LANES` columns.
#[repr(align(64))]
pub(crate) struct Tile(pub(crate) [f32; MAX_TILE]);

/// Accumulates one tile: `out[i][j] = sum over k < kc of a[k * a_step + i] * b[k * b_step + j]`.
#[inline(always)]
unsafe fn accumulate<S: Simd, E: Float, const MR: usize, const NV: usize>(
    s: S,
    kc: usize,
    mut a: *const f32,
    a_step: usize,
    mut b: *const E,
    b_step: usize,
    out: *mut f32,
) {
    let mut acc = [[s.zero(); NV]; MR];
    // SAFETY: the caller provides kc steps of MR and NV * LANES elements and a tile to write.
    unsafe {
        for _ in 0..kc {
            let mut columns = [s.zero(); NV];
            for (j, column) in columns.iter_mut().enumerate() {
                *column = E::load(s, b.add(j * S::LANES));
                s.prefetch(b.wrapping_add(PREFETCH_ROWS * b_step + j * S::LANES));
            }
            for (i, row) in acc.iter_mut().enumerate() {
                let value = s.splat(*a.add(i));
                for (sum, column) in row.iter_mut().zip(columns) {
                    *sum = s.fma(value, column, *sum);
                }
            }
            a = a.add(a_step);
            b = b.add(b_step);
        }
        for (i, row) in acc.iter().enumerate() {
            for (j, sum) in row.iter().enumerate() {
                s.store(out.add((i * TILE_VECTORS + j) * S::LANES), *sum);
            }
        }
    }
}

/// One row: k is unrolled so that the latency of the multiply-adds is hidden.
#[inline(always)]
unsafe fn accumulate_row<S: Simd, E: Float, const NV: usize>(
    s: S,
    kc: usize,
    a: *const f32,
    a_step: usize,
    b: *const E,
    b_step: usize,
    out: *mut f32,
) {
    const UNROLL: usize = 4;
    let mut acc = [[s.zero(); NV]; UNROLL];
    let mut k = 0;
    // SAFETY: as for `accumulate`.
    unsafe {
        while k + UNROLL <= kc {
            for (u, sums) in acc.iter_mut().enumerate() {
                let value = s.splat(*a.add((k + u) * a_step));
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = s.fma(value, E::load(s, b.add((k + u) * b_step + j * S::LANES)), *sum);
                }
            }
            k += UNROLL;
        }
        while k < kc {
            let value = s.splat(*a.add(k * a_step));
            for (j, sum) in acc[0].iter_mut().enumerate() {
                *sum = s.fma(value, E::load(s, b.add(k * b_step + j * S::LANES)), *sum);
            }
            k += 1;
        }
        let [first, second, third, fourth] = acc;
        for j in 0..NV {
            let sum = s.add(s.add(first[j], second[j]), s.add(third[j], fourth[j]));
            s.store(out.add(j * S::LANES), sum);
        }
    }
}

/// Accumulates a tile of `rows <= tile_rows` rows and `NV` vectors of columns.
///
/// # Safety
/// `a` holds `kc` groups of `rows` values `a_step` apart, `b` holds `kc` rows of `NV * LANES` elements `b_step` apart, `out` is a whole tile.
#[inline(always)]
pub(crate) unsafe fn accumulate_tile<S: Simd, E: Float, const NV: usize>(
    s: S,
    rows: usize,
    kc: usize,
    a: *const f32,
    a_step: usize,
    b: *const E,
    b_step: usize,
    out: *mut f32,
) {
    let limit = tile_rows::<S>();
    debug_assert!(rows <= limit);
    macro_rules! heights {
        ($($h:literal)*) => {
            match rows {
                // SAFETY: the caller's contract.
                1 => unsafe { accumulate_row::<S, E, NV>(s, kc, a, a_step, b, b_step, out) },
                // SAFETY: the caller's contract.
                $( $h if $h <= limit => unsafe { accumulate::<S, E, $h, NV>(s, kc, a, a_step, b, b_step, out) }, )*
                _ => {}
            }
        };
    }
    heights!(2 3 4 5 6 7 8 9 10 11 12 13 14);
}
