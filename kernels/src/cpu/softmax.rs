//! Softmax and log-softmax over rows, and over any axis through strided columns.

use super::features::Context;
use super::math;
use super::simd::{Kernel, Simd};
use crate::error::{Result, checked_product, expect_len};
use crate::parallel::{SharedMut, for_each_range};

const GRAIN: usize = 4 * 1024;

struct SoftmaxRow<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
    log: bool,
}

impl Kernel for SoftmaxRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let len = self.x.len();
        let (x, y) = (self.x.as_ptr(), self.y.as_mut_ptr());
        // SAFETY: both rows hold `len` elements.
        unsafe {
            let max = row_max(s, x, len);
            // A row of -inf has no finite maximum: subtracting zero keeps it at exp(-inf) = 0.
            let shift = s.splat(if max == f32::NEG_INFINITY && !self.log { 0.0 } else { max });
            let sum = exp_row(s, x, y, len, shift, !self.log);
            if self.log {
                let offset = s.add(shift, math::log(s, s.splat(sum)));
                let mut i = 0;
                while i < len {
                    let n = S::LANES.min(len - i);
                    let v = s.sub(s.load_partial(x.add(i), n), offset);
                    s.store_partial(y.add(i), n, v);
                    i += S::LANES;
                }
                return;
            }
            let scale = s.splat(1.0 / sum);
            let mut i = 0;
            while i + S::LANES <= len {
                s.store(y.add(i), s.mul(s.load(y.add(i)), scale));
                i += S::LANES;
            }
            if i < len {
                let n = len - i;
                s.store_partial(y.add(i), n, s.mul(s.load_partial(y.add(i), n), scale));
            }
        }
    }
}

/// Largest element of a row; -inf for an empty one.
///
/// # Safety
/// `x` holds `len` elements.
#[inline(always)]
pub(crate) unsafe fn row_max<S: Simd>(s: S, x: *const f32, len: usize) -> f32 {
    let lowest = s.splat(f32::NEG_INFINITY);
    let mut acc = [lowest; 4];
    let mut i = 0;
    // SAFETY: the caller's contract.
    unsafe {
        while i + 4 * S::LANES <= len {
            for (u, acc) in acc.iter_mut().enumerate() {
                *acc = s.max(s.load(x.add(i + u * S::LANES)), *acc);
            }
            i += 4 * S::LANES;
        }
        while i + S::LANES <= len {
            acc[0] = s.max(s.load(x.add(i)), acc[0]);
            i += S::LANES;
        }
        let mut max = s.reduce_max(s.max(s.max(acc[0], acc[1]), s.max(acc[2], acc[3])));
        while i < len {
            max = max.max(*x.add(i));
            i += 1;
        }
        max
    }
}

/// `exp(x - shift)`, written to `y` where asked; returns the sum.
///
/// # Safety
/// `x` holds `len` elements, and so does `y` where it is written. They may be the same memory.
#[inline(always)]
pub(crate) unsafe fn exp_row<S: Simd>(
    s: S,
    x: *const f32,
    y: *mut f32,
    len: usize,
    shift: S::F,
    write: bool,
) -> f32 {
    let mut sums = [s.zero(); 2];
    let mut i = 0;
    // SAFETY: the caller's contract.
    unsafe {
        while i + 2 * S::LANES <= len {
            for (u, sum) in sums.iter_mut().enumerate() {
                let at = i + u * S::LANES;
                let e = math::exp(s, s.sub(s.load(x.add(at)), shift));
                if write {
                    s.store(y.add(at), e);
                }
                *sum = s.add(*sum, e);
            }
            i += 2 * S::LANES;
        }
        while i < len {
            let n = S::LANES.min(len - i);
            let e = math::exp(s, s.sub(s.load_partial(x.add(i), n), shift));
            let mut lanes = [0.0f32; super::float::MAX_LANES];
            s.store_partial(lanes.as_mut_ptr(), n, e);
            let e = s.load(lanes.as_ptr());
            if write {
                s.store_partial(y.add(i), n, e);
            }
            sums[0] = s.add(sums[0], e);
            i += S::LANES;
        }
    }
    s.reduce_sum(s.add(sums[0], sums[1]))
}

/// Softmax of each of `rows` contiguous rows of `cols` elements.
pub fn softmax(ctx: Context<'_>, x: &[f32], rows: usize, cols: usize, y: &mut [f32]) -> Result<()> {
    rows_of(ctx, x, rows, cols, y, false)
}

/// Logarithm of the softmax of each row.
pub fn log_softmax(ctx: Context<'_>, x: &[f32], rows: usize, cols: usize, y: &mut [f32]) -> Result<()> {
    rows_of(ctx, x, rows, cols, y, true)
}

fn rows_of(ctx: Context<'_>, x: &[f32], rows: usize, cols: usize, y: &mut [f32], log: bool) -> Result<()> {
    let len = checked_product("softmax operand", &[rows, cols])?;
    expect_len("input of softmax", x.len(), len)?;
    expect_len("output of softmax", y.len(), len)?;
    if len == 0 {
        return Ok(());
    }
    let out = SharedMut::new(y);
    for_each_range(ctx.parallel, rows, (GRAIN / cols).max(1), 1, &|range| {
        for row in range {
            let span = row * cols..(row + 1) * cols;
            // SAFETY: rows are disjoint.
            let y = unsafe { out.slice(span.clone()) };
            ctx.features.dispatch(SoftmaxRow { x: &x[span], y, log });
        }
    });
    Ok(())
}

/// Softmax (or its logarithm) along the middle of `[outer, axis, inner]`.
pub fn softmax_axis(
    ctx: Context<'_>,
    x: &[f32],
    [outer, axis, inner]: [usize; 3],
    log: bool,
    y: &mut [f32],
) -> Result<()> {
    if inner == 1 {
        return rows_of(ctx, x, outer, axis, y, log);
    }
    let len = checked_product("softmax operand", &[outer, axis, inner])?;
    expect_len("input of softmax", x.len(), len)?;
    expect_len("output of softmax", y.len(), len)?;
    if len == 0 {
        return Ok(());
    }
    const WIDTH: usize = 64;
    let strips = inner.div_ceil(WIDTH);
    let out = SharedMut::new(y);
    let grain = (GRAIN / (axis * WIDTH.min(inner))).max(1);
    for_each_range(ctx.parallel, outer * strips, grain, 1, &|range| {
        for strip in range {
            let (o, first) = (strip / strips, strip % strips * WIDTH);
            let width = WIDTH.min(inner - first);
            let offset = o * axis * inner + first;
            let columns = SoftmaxColumns {
                x: x[offset..].as_ptr(),
                y: out.pointer().wrapping_add(offset),
                axis,
                inner,
                width,
                log,
            };
            ctx.features.dispatch(columns);
        }
    });
    Ok(())
}

/// A strip of `width` columns of an `axis x inner` matrix.
struct SoftmaxColumns {
    x: *const f32,
    y: *mut f32,
    axis: usize,
    inner: usize,
    width: usize,
    log: bool,
}

impl Kernel for SoftmaxColumns {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, y, axis, inner, width, log } = self;
        let mut j = 0;
        while j < width {
            let n = S::LANES.min(width - j);
            // SAFETY: strips are disjoint and lie inside both buffers.
            unsafe {
                let mut max = s.splat(f32::NEG_INFINITY);
                for i in 0..axis {
                    max = s.max(s.load_partial(x.add(i * inner + j), n), max);
                }
                let empty = s.eq(max, s.splat(f32::NEG_INFINITY));
                let shift = if log { max } else { s.select(empty, s.zero(), max) };
                let mut sum = s.zero();
                for i in 0..axis {
                    let e = math::exp(s, s.sub(s.load_partial(x.add(i * inner + j), n), shift));
                    sum = s.add(sum, e);
                    if !log {
                        s.store_partial(y.add(i * inner + j), n, e);
                    }
                }
                let scale = s.div(s.splat(1.0), sum);
                let offset = s.add(shift, math::log(s, sum));
                for i in 0..axis {
                    let at = i * inner + j;
                    let v = if log {
                        s.sub(s.load_partial(x.add(at), n), offset)
                    } else {
                        s.mul(s.load_partial(y.add(at), n), scale)
                    };
                    s.store_partial(y.add(at), n, v);
                }
            }
            j += S::LANES;
        }
    }
}
