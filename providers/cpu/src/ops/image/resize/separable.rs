//! Linear and cubic resampling, one axis after the other.

use smallvec::SmallVec;
use tenon_kernels::parallel::{Parallel, Serial, SharedMut, for_each_range};

use super::Resize;
use super::coordinate::{AxisPlan, Taps};
use crate::error::Result;
use crate::kernel::Context;
use crate::ops::layout::number;
use crate::ops::real::Real;
use crate::tensor::{Dims, Tensor};

/// Multiply-adds that one thread does at least.
const GRAIN: usize = 16 << 10;

/// Resampling along one axis of a block `[outer, input, inner]`.
struct Pass<T> {
    outer: usize,
    inner: usize,
    input: usize,
    output: usize,
    width: usize,
    from: Vec<u32>,
    weights: Vec<T>,
    outside: Vec<bool>,
}

/// Sets output 0 to the resampled input 0, computed in `T`.
pub fn run<T: Real>(cx: &mut Context<'_>, resize: &Resize, plans: &[AxisPlan]) -> Result<()> {
    let dtype = cx.input(0)?.dtype();
    let result: Dims = plans.iter().map(|plan| plan.output).collect();
    let (lead, passes) = passes::<T>(resize, plans);
    let extrapolation = T::from_f32(resize.extrapolation_value);
    let input = cx.input(0)?;
    let converted: Vec<T>;
    let source: &[T] = if dtype == T::DTYPE {
        input.as_slice()?
    } else {
        converted = number::to_vec(input)?;
        &converted
    };
    let output: Tensor = if dtype == T::DTYPE {
        let mut output = cx.output(0, dtype, &result)?;
        resample(cx.parallel(), lead, &passes, extrapolation, source, output.as_mut_slice()?);
        output
    } else {
        let mut values = vec![T::ZERO; result.iter().product()];
        resample(cx.parallel(), lead, &passes, extrapolation, source, &mut values);
        if dtype.is_integer() {
            values.iter_mut().for_each(|value| *value = T::from_f64(value.to_f64().round_ties_even()));
        }
        number::store(cx, 0, dtype, &result, &values)?
    };
    cx.set(0, output);
    Ok(())
}

/// The number of independent blocks and the passes over each, in the cheapest order of the axes.
fn passes<T: Real>(resize: &Resize, plans: &[AxisPlan]) -> (usize, Vec<Pass<T>>) {
    let outermost_first: Order = (0..plans.len()).filter(|&axis| !plans[axis].is_identity()).collect();
    let first = outermost_first.first().copied().unwrap_or(0);
    let innermost_first: Order = outermost_first.iter().rev().copied().collect();
    let mut smallest_first = innermost_first.clone();
    smallest_first.sort_by(|&a, &b| plans[a].scale.total_cmp(&plans[b].scale));
    let orders = [smallest_first, innermost_first, outermost_first];
    let order = orders.into_iter().min_by_key(|order| cost(order, plans)).unwrap_or_default();
    let lead = plans[..first].iter().map(|plan| plan.input).product();
    let mut dims: Dims = plans.iter().map(|plan| plan.input).collect();
    let mut passes = Vec::new();
    for axis in order {
        let plan = &plans[axis];
        let Taps { width, from, weights, outside } =
            plan.taps(resize.interpolation, resize.antialias, resize.exclude_outside);
        passes.push(Pass {
            outer: dims[first..axis].iter().product(),
            inner: dims[axis + 1..].iter().product(),
            input: plan.input,
            output: plan.output,
            width,
            from,
            weights: weights.into_iter().map(T::from_f64).collect(),
            outside,
        });
        dims[axis] = plan.output;
    }
    (lead, passes)
}

type Order = SmallVec<[usize; 6]>;

/// The work of the passes in this order. Gathering single elements costs several times the blending of rows.
fn cost(order: &Order, plans: &[AxisPlan]) -> usize {
    let mut dims: Dims = plans.iter().map(|plan| plan.input).collect();
    let mut cost = 0;
    for &axis in order {
        dims[axis] = plans[axis].output;
        let inner: usize = dims[axis + 1..].iter().product();
        cost += dims.iter().product::<usize>() * if inner == 1 { 4 } else { 1 };
    }
    cost
}

fn resample<T: Real>(
    parallel: &dyn Parallel,
    lead: usize,
    passes: &[Pass<T>],
    extrapolation: T,
    source: &[T],
    output: &mut [T],
) {
    let (Some(first), Some(last)) = (passes.first(), passes.last()) else {
        return;
    };
    if output.is_empty() {
        return;
    }
    let (block_in, block_out) =
        (first.outer * first.input * first.inner, last.outer * last.output * last.inner);
    let work = passes.iter().map(Pass::work).sum::<usize>().max(1);
    // Whole blocks go to threads where there are enough of them; otherwise each pass is split.
    let (blocks, within): (&dyn Parallel, &dyn Parallel) =
        if lead >= parallel.threads() { (parallel, &Serial) } else { (&Serial, parallel) };
    let shared = SharedMut::new(output);
    for_each_range(blocks, lead, GRAIN.div_ceil(work), 1, &|range| {
        let mut buffers = [Vec::new(), Vec::new()];
        for block in range {
            let source = &source[block * block_in..][..block_in];
            // SAFETY: blocks are disjoint.
            let target = unsafe { shared.slice(block * block_out..(block + 1) * block_out) };
            run_passes(within, passes, extrapolation, source, target, &mut buffers);
        }
    });
}

fn run_passes<T: Real>(
    parallel: &dyn Parallel,
    passes: &[Pass<T>],
    extrapolation: T,
    source: &[T],
    target: &mut [T],
    [held, next]: &mut [Vec<T>; 2],
) {
    let (last, earlier) = passes.split_last().expect("a resampling has a pass");
    for (i, pass) in earlier.iter().enumerate() {
        next.resize(pass.outer * pass.output * pass.inner, T::ZERO);
        pass.run(parallel, extrapolation, if i == 0 { source } else { held }, next);
        std::mem::swap(held, next);
    }
    last.run(parallel, extrapolation, if earlier.is_empty() { source } else { held }, target);
}

impl<T: Real> Pass<T> {
    /// Multiply-adds of the pass.
    fn work(&self) -> usize {
        self.outer * self.output * self.inner * self.width
    }

    fn run(&self, parallel: &dyn Parallel, extrapolation: T, source: &[T], target: &mut [T]) {
        let (from_block, to_block) = (self.input * self.inner, self.output * self.inner);
        if self.inner == 1 {
            let shared = SharedMut::new(target);
            let grain = GRAIN.div_ceil((self.output * self.width).max(1));
            for_each_range(parallel, self.outer, grain, 1, &|range| {
                for row in range {
                    // SAFETY: rows are disjoint.
                    let to = unsafe { shared.slice(row * to_block..(row + 1) * to_block) };
                    self.gather(extrapolation, &source[row * from_block..][..from_block], to);
                }
            });
            return;
        }
        let shared = SharedMut::new(target);
        let grain = GRAIN.div_ceil((self.inner * self.width).max(1));
        for_each_range(parallel, self.outer * self.output, grain, 1, &|range| {
            for row in range {
                let (outer, x) = (row / self.output, row % self.output);
                // SAFETY: rows are disjoint.
                let to = unsafe { shared.slice(row * self.inner..(row + 1) * self.inner) };
                self.blend(extrapolation, x, &source[outer * from_block..][..from_block], to);
            }
        });
    }

    /// One line of single elements.
    fn gather(&self, extrapolation: T, source: &[T], to: &mut [T]) {
        if self.width == 2 {
            let (from, weights) = (self.from.as_chunks::<2>().0, self.weights.as_chunks::<2>().0);
            for ((to, from), weights) in to.iter_mut().zip(from).zip(weights) {
                *to = source[from[0] as usize] * weights[0] + source[from[1] as usize] * weights[1];
            }
        } else {
            let taps = self.from.chunks_exact(self.width).zip(self.weights.chunks_exact(self.width));
            for (to, (from, weights)) in to.iter_mut().zip(taps) {
                *to = from.iter().zip(weights).map(|(&from, &weight)| source[from as usize] * weight).sum();
            }
        }
        for (to, _) in to.iter_mut().zip(&self.outside).filter(|(_, outside)| **outside) {
            *to = extrapolation;
        }
    }

    /// Output row `x` as a weighted sum of input rows of `inner` elements.
    fn blend(&self, extrapolation: T, x: usize, source: &[T], to: &mut [T]) {
        if self.outside[x] {
            return to.fill(extrapolation);
        }
        let from = &self.from[x * self.width..][..self.width];
        let weights = &self.weights[x * self.width..][..self.width];
        let row = |i: usize| &source[from[i] as usize * self.inner..][..self.inner];
        for (to, (&a, &b)) in to.iter_mut().zip(row(0).iter().zip(row(1))) {
            *to = a * weights[0] + b * weights[1];
        }
        for (i, &weight) in weights.iter().enumerate().skip(2) {
            for (to, &value) in to.iter_mut().zip(row(i)) {
                *to += value * weight;
            }
        }
    }
}
