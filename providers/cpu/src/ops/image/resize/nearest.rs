//! Resampling by copying the nearest element: any element type, no arithmetic.

use tenon_kernels::parallel::{Parallel, SharedMut, for_each_range};

use super::Rounding;
use super::coordinate::AxisPlan;
use crate::error::Result;
use crate::kernel::Context;
use crate::ops::layout::cells::{cell_bytes, rearrange};
use crate::ops::layout::mover::fill;
use crate::ops::layout::number;
use crate::shape;
use crate::tensor::Dims;

/// Bytes that one thread copies at least.
const GRAIN_BYTES: usize = 64 << 10;

/// Sets output 0 to the resampled input 0.
pub fn run(
    cx: &mut Context<'_>,
    plans: &[AxisPlan],
    rounding: Rounding,
    extrapolation_value: f32,
) -> Result<()> {
    let dtype = cx.input(0)?.dtype();
    let result: Dims = plans.iter().map(|plan| plan.output).collect();
    let tables: Vec<Vec<Option<u32>>> = plans.iter().map(|plan| plan.nearest(rounding)).collect();
    let outside = if tables.iter().flatten().all(Option::is_some) {
        vec![0; cell_bytes(dtype)]
    } else {
        let mut value = cx.scratch(dtype, &[1])?;
        number::write_into(&[extrapolation_value], &mut value)?;
        value.as_bytes().to_vec()
    };
    let parallel = cx.parallel();
    rearrange(cx, &[0], 0, &result, |sources, destination, cell| {
        copy(parallel, plans, &tables, &outside, cell, sources[0], destination);
        Ok(())
    })
}

/// Rows run along the last resampled axis in steps of all the axes after it; a row that repeats the one before it is
/// copied from there.
fn copy(
    parallel: &dyn Parallel,
    plans: &[AxisPlan],
    tables: &[Vec<Option<u32>>],
    outside: &[u8],
    cell: usize,
    source: &[u8],
    destination: &mut [u8],
) {
    if destination.is_empty() {
        return;
    }
    let last = (0..plans.len()).rfind(|&axis| !plans[axis].is_identity()).unwrap_or(0);
    let step = cell * plans[last + 1..].iter().map(|plan| plan.input).product::<usize>();
    let row = plans[last].output * step;
    let inputs: Dims = plans[..=last].iter().map(|plan| plan.input).collect();
    let strides = shape::strides(&inputs);
    let rows = destination.len() / row;
    let line = Row::new(&tables[last], outside, step);
    let shared = SharedMut::new(destination);
    for_each_range(parallel, rows, GRAIN_BYTES.div_ceil(row), 1, &|range| {
        // SAFETY: ranges of rows are disjoint.
        let part = unsafe { shared.slice(range.start * row..range.end * row) };
        let mut previous = None;
        for index in range.clone() {
            let from = row_start(index, last, plans, tables, &strides);
            let (done, rest) = part.split_at_mut((index - range.start) * row);
            let to = &mut rest[..row];
            match from {
                None => fill(to, outside),
                Some(_) if previous == from => to.copy_from_slice(&done[done.len() - row..]),
                Some(from) => line.copy(&source[from * step..], to),
            }
            previous = from;
        }
    });
}

/// The input element (in steps) at which the row of output row `index` starts; `None` outside the region.
fn row_start(
    mut index: usize,
    last: usize,
    plans: &[AxisPlan],
    tables: &[Vec<Option<u32>>],
    strides: &[usize],
) -> Option<usize> {
    let mut from = 0;
    for axis in (0..last).rev() {
        from += tables[axis][index % plans[axis].output]? as usize * strides[axis];
        index /= plans[axis].output;
    }
    Some(from)
}

/// How the steps of a row are picked from a row of the input.
struct Row<'a> {
    table: &'a [Option<u32>],
    outside: &'a [u8],
    step: usize,
    /// Every input step comes twice.
    is_doubled: bool,
}

impl<'a> Row<'a> {
    fn new(table: &'a [Option<u32>], outside: &'a [u8], step: usize) -> Row<'a> {
        let is_doubled = table.iter().enumerate().all(|(i, from)| *from == Some(i as u32 / 2));
        Row { table, outside, step, is_doubled }
    }

    fn copy(&self, source: &[u8], to: &mut [u8]) {
        match self.step {
            1 => self.copy_cells::<1>(source, to),
            2 => self.copy_cells::<2>(source, to),
            4 => self.copy_cells::<4>(source, to),
            8 => self.copy_cells::<8>(source, to),
            step => {
                for (to, from) in to.chunks_exact_mut(step).zip(self.table) {
                    match from {
                        Some(from) => to.copy_from_slice(&source[*from as usize * step..][..step]),
                        None => fill(to, self.outside),
                    }
                }
            }
        }
    }

    fn copy_cells<const N: usize>(&self, source: &[u8], to: &mut [u8]) {
        let (cells, to) = (source.as_chunks::<N>().0, to.as_chunks_mut::<N>().0);
        if self.is_doubled {
            for (to, &cell) in to.as_chunks_mut::<2>().0.iter_mut().zip(cells) {
                *to = [cell; 2];
            }
            if let (Some(last), false) = (to.last_mut(), self.table.len().is_multiple_of(2)) {
                *last = cells[self.table.len() / 2];
            }
            return;
        }
        for (to, from) in to.iter_mut().zip(self.table) {
            match from {
                Some(from) => *to = cells[*from as usize],
                None => fill(to, self.outside),
            }
        }
    }
}
