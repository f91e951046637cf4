//! Reductions of f32: over contiguous rows, over columns, and over any set of axes.

use super::features::Context;
use super::math;
use super::simd::{Kernel, Simd, max_nan, min_nan};
use crate::error::{KernelError, Result, checked_product, expect_len};
use crate::parallel::{SharedMut, for_each_range};

const GRAIN: usize = 16 * 1024;

/// What a reduction computes. Names are ONNX's without the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
    SumSquare,
    L1,
    L2,
    LogSum,
    LogSumExp,
}

impl Reduce {
    /// Value of the accumulator before the first element.
    fn start(self) -> f32 {
        match self {
            Reduce::Max | Reduce::LogSumExp => f32::NEG_INFINITY,
            Reduce::Min => f32::INFINITY,
            Reduce::Prod => 1.0,
            _ => 0.0,
        }
    }

    /// Turns the accumulator over `count` elements into the result.
    fn finish(self, acc: f32, count: usize) -> f32 {
        match self {
            Reduce::Mean => acc / count as f32,
            Reduce::L2 => acc.sqrt(),
            Reduce::LogSum => acc.ln(),
            _ => acc,
        }
    }
}

/// One step of the accumulation, on vectors.
#[inline(always)]
fn step<S: Simd>(s: S, op: Reduce, acc: S::F, x: S::F) -> S::F {
    match op {
        Reduce::Sum | Reduce::Mean | Reduce::LogSum => s.add(acc, x),
        Reduce::Max | Reduce::LogSumExp => max_nan(s, acc, x),
        Reduce::Min => min_nan(s, acc, x),
        Reduce::Prod => s.mul(acc, x),
        Reduce::SumSquare | Reduce::L2 => s.fma(x, x, acc),
        Reduce::L1 => s.add(acc, s.abs(x)),
    }
}

/// Joins two accumulators.
#[inline(always)]
fn join<S: Simd>(s: S, op: Reduce, a: S::F, b: S::F) -> S::F {
    match op {
        Reduce::Max | Reduce::LogSumExp => max_nan(s, a, b),
        Reduce::Min => min_nan(s, a, b),
        Reduce::Prod => s.mul(a, b),
        _ => s.add(a, b),
    }
}

struct ReduceRow<'a> {
    op: Reduce,
    x: &'a [f32],
}

/// Elements summed in one register before a partial sum is put aside: bounds the growth of rounding errors.
const RUN: usize = 2048;

impl Kernel for ReduceRow<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        match self.op {
            Reduce::Sum | Reduce::Mean | Reduce::LogSum => row::<S, 0>(s, self.x),
            Reduce::Max => row::<S, 1>(s, self.x),
            Reduce::Min => row::<S, 2>(s, self.x),
            Reduce::Prod => row::<S, 3>(s, self.x),
            Reduce::SumSquare | Reduce::L2 => row::<S, 4>(s, self.x),
            Reduce::L1 => row::<S, 5>(s, self.x),
            Reduce::LogSumExp => log_sum_exp(s, self.x),
        }
    }
}

#[inline(always)]
fn log_sum_exp<S: Simd>(s: S, x: &[f32]) -> f32 {
    let max = row::<S, 1>(s, x);
    if !max.is_finite() {
        return max;
    }
    let out = std::ptr::null_mut();
    // SAFETY: nothing is written.
    let sum = unsafe { super::softmax::exp_row(s, x.as_ptr(), out, x.len(), s.splat(max), false) };
    max + sum.ln()
}

const OPS: [Reduce; 6] = [Reduce::Sum, Reduce::Max, Reduce::Min, Reduce::Prod, Reduce::SumSquare, Reduce::L1];

#[inline(always)]
fn row<S: Simd, const OP: usize>(s: S, x: &[f32]) -> f32 {
    let op = OPS[OP];
    let start = s.splat(op.start());
    let mut total = start;
    for run in x.chunks(RUN) {
        let mut acc = [start; 4];
        let wide = 4 * S::LANES;
        let mut blocks = run.chunks_exact(wide);
        for block in &mut blocks {
            for (u, acc) in acc.iter_mut().enumerate() {
                // SAFETY: the block holds four vectors.
                *acc = step(s, op, *acc, unsafe { s.load(block.as_ptr().add(u * S::LANES)) });
            }
        }
        let rest = blocks.remainder();
        let mut vectors = rest.chunks_exact(S::LANES);
        for (vector, acc) in (&mut vectors).zip(acc.iter_mut()) {
            // SAFETY: the chunk holds one vector.
            *acc = step(s, op, *acc, unsafe { s.load(vector.as_ptr()) });
        }
        let tail = vectors.remainder();
        if !tail.is_empty() {
            let mut lanes = [op.start(); super::float::MAX_LANES];
            let neutral = if matches!(op, Reduce::SumSquare | Reduce::L1) { 0.0 } else { op.start() };
            lanes.fill(neutral);
            lanes[..tail.len()].copy_from_slice(tail);
            // SAFETY: MAX_LANES values.
            acc[3] = step(s, op, acc[3], unsafe { s.load(lanes.as_ptr()) });
        }
        let joined = join(s, op, join(s, op, acc[0], acc[1]), join(s, op, acc[2], acc[3]));
        total = join(s, op, total, joined);
    }
    let mut lanes = [0.0; super::float::MAX_LANES];
    // SAFETY: MAX_LANES values.
    unsafe { s.store(lanes.as_mut_ptr(), total) };
    let scalar = super::scalar::Scalar;
    lanes[..S::LANES].iter().fold(op.start(), |acc, &v| join(scalar, op, [acc; 4], [v; 4])[0])
}

/// Reduces each of `rows` contiguous rows of `cols` elements.
pub fn reduce_rows(
    ctx: Context<'_>,
    op: Reduce,
    x: &[f32],
    rows: usize,
    cols: usize,
    y: &mut [f32],
) -> Result<()> {
    expect_len("input of the reduction", x.len(), checked_product("reduction operand", &[rows, cols])?)?;
    expect_len("output of the reduction", y.len(), rows)?;
    let out = SharedMut::new(y);
    for_each_range(ctx.parallel, rows, (GRAIN / cols.max(1)).max(1), 16, &|range| {
        // SAFETY: ranges are disjoint.
        let part = unsafe { out.slice(range.clone()) };
        for (y, row) in part.iter_mut().zip(range) {
            let x = &x[row * cols..(row + 1) * cols];
            *y = op.finish(ctx.features.dispatch(ReduceRow { op, x }), cols);
        }
    });
    Ok(())
}

/// Reduces the middle of `[outer, axis, inner]`.
pub fn reduce_axis(
    ctx: Context<'_>,
    op: Reduce,
    x: &[f32],
    [outer, axis, inner]: [usize; 3],
    y: &mut [f32],
) -> Result<()> {
    if inner == 1 {
        return reduce_rows(ctx, op, x, outer, axis, y);
    }
    expect_len(
        "input of the reduction",
        x.len(),
        checked_product("reduction operand", &[outer, axis, inner])?,
    )?;
    expect_len("output of the reduction", y.len(), checked_product("reduction result", &[outer, inner])?)?;
    if outer * inner == 0 {
        return Ok(());
    }
    const WIDTH: usize = 256;
    let strips = inner.div_ceil(WIDTH);
    let out = SharedMut::new(y);
    let grain = (GRAIN / (axis * WIDTH.min(inner)).max(1)).max(1);
    for_each_range(ctx.parallel, outer * strips, grain, 1, &|range| {
        for strip in range {
            let (o, first) = (strip / strips, strip % strips * WIDTH);
            let width = WIDTH.min(inner - first);
            // SAFETY: strips are disjoint.
            let y = unsafe { out.slice(o * inner + first..o * inner + first + width) };
            let x = x.get(o * axis * inner + first..).unwrap_or(&[]);
            ctx.features.dispatch(ReduceColumns { op, x, axis, inner, y });
        }
    });
    Ok(())
}

struct ReduceColumns<'a> {
    op: Reduce,
    x: &'a [f32],
    axis: usize,
    inner: usize,
    y: &'a mut [f32],
}

impl Kernel for ReduceColumns<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { op, x, axis, inner, y } = self;
        let width = y.len();
        let mut j = 0;
        while j < width {
            let n = S::LANES.min(width - j);
            let load = |i: usize| {
                let part = &x[i * inner + j..][..n];
                // SAFETY: the part holds n elements.
                unsafe { s.load_partial(part.as_ptr(), n) }
            };
            let mut acc = s.splat(op.start());
            for i in 0..axis {
                acc = step(s, op, acc, load(i));
            }
            if op == Reduce::LogSumExp {
                let shift = s.select(s.lt(s.abs(acc), s.splat(f32::INFINITY)), acc, s.zero());
                let mut sum = s.zero();
                for i in 0..axis {
                    sum = s.add(sum, math::exp(s, s.sub(load(i), shift)));
                }
                acc = s.add(shift, math::log(s, sum));
            }
            let part = &mut y[j..j + n];
            // SAFETY: the part holds n elements.
            unsafe { s.store_partial(part.as_mut_ptr(), n, acc) };
            for v in part {
                *v = op.finish(*v, axis);
            }
            j += S::LANES;
        }
    }
}

/// Reduces `axes` (strictly increasing) of a contiguous tensor; the result is contiguous over the other axes.
pub fn reduce(
    ctx: Context<'_>,
    op: Reduce,
    x: &[f32],
    shape: &[usize],
    axes: &[usize],
    y: &mut [f32],
) -> Result<()> {
    let len = checked_product("reduction operand", shape)?;
    expect_len("input of the reduction", x.len(), len)?;
    let increasing = axes.windows(2).all(|pair| pair[0] < pair[1]);
    if !increasing || axes.last().is_some_and(|&axis| axis >= shape.len()) {
        return Err(KernelError::parameter(format!("axes {axes:?} are not increasing axes of {shape:?}")));
    }
    // Runs of kept and reduced axes become one extent each.
    let mut groups: Vec<(bool, usize)> = Vec::new();
    for (axis, &extent) in shape.iter().enumerate() {
        let reduced = axes.contains(&axis);
        match groups.last_mut() {
            Some(last) if last.0 == reduced => last.1 *= extent,
            _ => groups.push((reduced, extent)),
        }
    }
    let kept: usize = groups.iter().filter(|group| !group.0).map(|group| group.1).product();
    expect_len("output of the reduction", y.len(), kept)?;
    let reduced: Vec<usize> = (0..groups.len()).filter(|&i| groups[i].0).collect();
    let extents = |i: usize| -> [usize; 3] {
        let product = |part: &[(bool, usize)]| part.iter().map(|group| group.1).product();
        [product(&groups[..i]), groups[i].1, product(&groups[i + 1..])]
    };
    match reduced[..] {
        [] => reduce_axis(ctx, op, x, [len, 1, 1], y),
        [only] => reduce_axis(ctx, op, x, extents(only), y),
        _ => reduce_gathered(ctx, op, x, shape, axes, y),
    }
}

/// Several separate reduced axes: the reduced elements are moved innermost first.
fn reduce_gathered(
    ctx: Context<'_>,
    op: Reduce,
    x: &[f32],
    shape: &[usize],
    axes: &[usize],
    y: &mut [f32],
) -> Result<()> {
    let kept = (0..shape.len()).filter(|axis| !axes.contains(axis));
    let order: Vec<usize> = kept.chain(axes.iter().copied()).collect();
    let count: usize = axes.iter().map(|&axis| shape[axis]).product();
    super::buffer::with_scratch::<f32, _>(x.len(), |moved| {
        super::transpose::permute(ctx, x, shape, &order, moved)?;
        reduce_rows(ctx, op, moved, y.len(), count, y)
    })
}
