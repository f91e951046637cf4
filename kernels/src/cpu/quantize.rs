//! Linear quantisation between f32 and 8-bit, 16-bit and 32-bit integers, and requantisation of i32 sums.

use super::features::Context;
use super::simd::{Kernel, Simd};
use crate::error::{KernelError, Result, checked_product, expect_len};
use crate::parallel::{SharedMut, for_each_range};

const GRAIN: usize = 32 * 1024;

/// An integer type that f32 is quantised to.
pub trait Quantized: Copy + Send + Sync + 'static {
    /// Smallest and largest value.
    const RANGE: (i32, i32);
    /// Whether a vector of lanes can be loaded and stored as bytes.
    const BYTE: bool;
    fn from_i32(v: i32) -> Self;
    fn to_i32(self) -> i32;
}

macro_rules! quantized {
    ($($t:ty, $byte:literal;)*) => { $(
        impl Quantized for $t {
            const RANGE: (i32, i32) = (<$t>::MIN as i32, <$t>::MAX as i32);
            const BYTE: bool = $byte;
            #[inline(always)]
            fn from_i32(v: i32) -> Self {
                v as $t
            }
            #[inline(always)]
            fn to_i32(self) -> i32 {
                self as i32
            }
        }
    )* };
}
quantized! { u8, true; i8, true; u16, false; i16, false; }

/// `saturate(round_half_even(x / scale) + zero_point)` over a run with one scale.
struct QuantizeRun<T> {
    x: *const f32,
    y: *mut T,
    len: usize,
    scale: f32,
    zero_point: i32,
}

/// One vector: divided, rounded, shifted and clamped; NaN becomes the zero point.
#[inline(always)]
fn quantize_vector<S: Simd>(s: S, x: S::F, scale: S::F, zero_point: S::I, range: (i32, i32)) -> S::I {
    // Bounds keep the conversion inside i32; every quotient beyond them saturates anyway.
    const FAR: f32 = 1.0e6;
    let q = s.div(x, scale);
    let q = s.select(s.is_nan(q), s.zero(), q);
    let q = s.min(s.splat(FAR), s.max(s.splat(-FAR), q));
    let v = s.add_i(s.to_i32(q), zero_point);
    s.min_i(s.max_i(v, s.splat_i(range.0)), s.splat_i(range.1))
}

impl<T: Quantized> Kernel for QuantizeRun<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, y, len, scale, zero_point } = self;
        let (scale, zero_point) = (s.splat(scale), s.splat_i(zero_point));
        let mut i = 0;
        // SAFETY: both runs hold `len` elements; a byte type is stored as bytes.
        unsafe {
            while i < len {
                let n = S::LANES.min(len - i);
                let full = n == S::LANES;
                let v = if full { s.load(x.add(i)) } else { s.load_partial(x.add(i), n) };
                let q = quantize_vector(s, v, scale, zero_point, T::RANGE);
                if full && T::BYTE {
                    s.store_low_u8(y.add(i).cast(), q);
                } else {
                    let mut lanes = [0i32; super::float::MAX_LANES];
                    s.store_i32(lanes.as_mut_ptr(), q);
                    for (lane, &v) in lanes.iter().enumerate().take(n) {
                        y.add(i + lane).write(T::from_i32(v));
                    }
                }
                i += S::LANES;
            }
        }
    }
}

/// `(x - zero_point) * scale` over a run with one scale.
struct DequantizeRun<T> {
    x: *const T,
    y: *mut f32,
    len: usize,
    scale: f32,
    zero_point: i32,
}

impl<T: Quantized> Kernel for DequantizeRun<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, y, len, scale, zero_point } = self;
        let (scale_v, zero_v) = (s.splat(scale), s.splat_i(zero_point));
        let mut i = 0;
        // SAFETY: both runs hold `len` elements; a byte type is loaded as bytes.
        unsafe {
            if T::BYTE {
                while i + S::LANES <= len {
                    let q =
                        if T::RANGE.0 < 0 { s.load_i8(x.add(i).cast()) } else { s.load_u8(x.add(i).cast()) };
                    s.store(y.add(i), s.mul(s.to_f32(s.sub_i(q, zero_v)), scale_v));
                    i += S::LANES;
                }
            }
            while i < len {
                y.add(i).write(((*x.add(i)).to_i32() - zero_point) as f32 * scale);
                i += 1;
            }
        }
    }
}

/// One (scale, zero point) for each index of the middle of `[outer, axis, inner]`; a tensor with a single scale is
/// `[1, 1, len]`. No zero points means zero.
#[derive(Clone, Copy, Debug)]
pub struct Scales<'a, T> {
    pub extents: [usize; 3],
    pub scale: &'a [f32],
    pub zero_point: Option<&'a [T]>,
}

impl<'a, T: Quantized> Scales<'a, T> {
    /// One scale for `len` elements.
    pub fn tensor(len: usize, scale: &'a [f32], zero_point: Option<&'a [T]>) -> Self {
        Self { extents: [1, 1, len], scale, zero_point }
    }

    fn check(&self, x: usize, y: usize) -> Result<()> {
        let len = checked_product("quantised operand", &self.extents)?;
        expect_len("input of the quantisation", x, len)?;
        expect_len("output of the quantisation", y, len)?;
        expect_len("scale", self.scale.len(), self.extents[1])?;
        match self.zero_point {
            Some(zero_point) => expect_len("zero point", zero_point.len(), self.extents[1]),
            None => Ok(()),
        }
    }

    fn zero_at(&self, index: usize) -> i32 {
        self.zero_point.map_or(0, |zero_point| zero_point[index].to_i32())
    }

    /// Calls `body(run, scale, zero point)` for runs of elements that share a scale.
    fn for_each(&self, ctx: Context<'_>, body: &(dyn Fn(std::ops::Range<usize>, f32, i32) + Sync)) {
        let [outer, axis, inner] = self.extents;
        if outer * axis == 1 {
            for_each_range(ctx.parallel, inner, GRAIN, 64, &|range| {
                body(range, self.scale[0], self.zero_at(0))
            });
            return;
        }
        for_each_range(ctx.parallel, outer * axis, (GRAIN / inner.max(1)).max(1), 1, &|range| {
            for run in range {
                let index = run % axis;
                body(run * inner..(run + 1) * inner, self.scale[index], self.zero_at(index));
            }
        });
    }
}

/// QuantizeLinear.
pub fn quantize<T: Quantized>(ctx: Context<'_>, x: &[f32], scales: Scales<'_, T>, y: &mut [T]) -> Result<()> {
    scales.check(x.len(), y.len())?;
    let out = SharedMut::new(y);
    scales.for_each(ctx, &|run, scale, zero_point| {
        // SAFETY: runs are disjoint.
        let y = unsafe { out.slice(run.clone()) };
        let x = x[run].as_ptr();
        ctx.features.dispatch(QuantizeRun { x, y: y.as_mut_ptr(), len: y.len(), scale, zero_point });
    });
    Ok(())
}

/// DequantizeLinear.
pub fn dequantize<T: Quantized>(
    ctx: Context<'_>,
    x: &[T],
    scales: Scales<'_, T>,
    y: &mut [f32],
) -> Result<()> {
    scales.check(x.len(), y.len())?;
    let out = SharedMut::new(y);
    scales.for_each(ctx, &|run, scale, zero_point| {
        // SAFETY: runs are disjoint.
        let y = unsafe { out.slice(run.clone()) };
        let x = x[run].as_ptr();
        ctx.features.dispatch(DequantizeRun { x, y: y.as_mut_ptr(), len: y.len(), scale, zero_point });
    });
    Ok(())
}

struct Range<'a>(&'a [f32]);

impl Kernel for Range<'_> {
    type Output = (f32, f32);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f32, f32) {
        let mut vectors = self.0.chunks_exact(S::LANES);
        let (mut low, mut high) = (s.zero(), s.zero());
        for vector in &mut vectors {
            // SAFETY: the chunk holds one vector.
            let v = unsafe { s.load(vector.as_ptr()) };
            low = s.min(v, low);
            high = s.max(v, high);
        }
        let start = (s.reduce_min(low), s.reduce_max(high));
        vectors.remainder().iter().fold(start, |(low, high), &v| (low.min(v), high.max(v)))
    }
}

/// (smallest, largest) value, both including zero. NaN is passed over.
pub fn range_with_zero(ctx: Context<'_>, x: &[f32]) -> (f32, f32) {
    const CHUNK: usize = 64 * 1024;
    let chunks = x.len().div_ceil(CHUNK);
    if chunks <= 1 || ctx.parallel.threads() == 1 {
        return ctx.features.dispatch(Range(x));
    }
    let mut parts = vec![(0.0f32, 0.0f32); chunks];
    let out = SharedMut::new(&mut parts);
    ctx.parallel.for_each(chunks, &|chunk| {
        let part = &x[chunk * CHUNK..x.len().min((chunk + 1) * CHUNK)];
        // SAFETY: one entry per task.
        let slot = unsafe { out.slice(chunk..chunk + 1) };
        slot[0] = ctx.features.dispatch(Range(part));
    });
    parts.iter().fold((0.0, 0.0), |(low, high), part| (low.min(part.0), high.max(part.1)))
}

/// Scale and zero point of DynamicQuantizeLinear for u8.
pub fn dynamic_parameters(ctx: Context<'_>, x: &[f32]) -> (f32, u8) {
    let (low, high) = range_with_zero(ctx, x);
    let scale = (high - low) / 255.0;
    if scale == 0.0 || !scale.is_finite() {
        return (if scale == 0.0 { 1.0 } else { scale }, 0);
    }
    let zero_point = (-low / scale).clamp(0.0, 255.0).round_ties_even();
    (scale, zero_point as u8)
}

/// `y = saturate(round(x * scale[j or 0]) + zero_point)` over rows of `cols` i32 sums: the end of a quantised product.
pub fn requantize<T: Quantized>(
    ctx: Context<'_>,
    x: &[i32],
    cols: usize,
    scale: &[f32],
    zero_point: T,
    y: &mut [T],
) -> Result<()> {
    expect_len("output of the requantisation", y.len(), x.len())?;
    if cols == 0 || !x.len().is_multiple_of(cols) {
        return Err(KernelError::shape(format!("{} sums do not divide into rows of {cols}", x.len())));
    }
    if scale.len() != 1 && scale.len() != cols {
        return Err(KernelError::shape(format!("{} scales, expected 1 or {cols}", scale.len())));
    }
    let (low, high) = T::RANGE;
    let zero = zero_point.to_i32() as f32;
    let out = SharedMut::new(y);
    for_each_range(ctx.parallel, x.len() / cols, (GRAIN / cols).max(1), 1, &|rows| {
        for row in rows {
            let span = row * cols..(row + 1) * cols;
            // SAFETY: rows are disjoint.
            let y = unsafe { out.slice(span.clone()) };
            for (j, (y, &x)) in y.iter_mut().zip(&x[span]).enumerate() {
                let scale = scale[if scale.len() == 1 { 0 } else { j }];
                let v = (x as f32 * scale).round_ties_even() + zero;
                *y = T::from_i32(v.clamp(low as f32, high as f32) as i32);
            }
        }
    });
    Ok(())
}
