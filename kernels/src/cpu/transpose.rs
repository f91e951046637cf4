//! Permuting axes and copying strided tensors, for elements of any size.

use super::features::Context;
use super::nest::Nest;
use crate::error::{KernelError, Result, checked_product, expect_len};
use crate::parallel::{SharedMut, for_each_range};

/// Elements a task should at least have.
const GRAIN: usize = 32 * 1024;
/// Side of the square moved at once by a two-dimensional transpose.
const TILE: usize = 16;

/// `y` with axis `i` taken from axis `order[i]` of the contiguous tensor `x`; `y` is contiguous.
pub fn permute<T: Copy + Send + Sync>(
    ctx: Context<'_>,
    x: &[T],
    shape: &[usize],
    order: &[usize],
    y: &mut [T],
) -> Result<()> {
    expect_len("input of the transpose", x.len(), checked_product("transpose operand", shape)?)?;
    let strides = permuted(shape, order)?;
    let target: Vec<usize> = order.iter().map(|&axis| shape[axis]).collect();
    copy_strided(ctx, x, &target, &strides, y)
}

fn permuted(shape: &[usize], order: &[usize]) -> Result<Vec<usize>> {
    let mut seen = vec![false; shape.len()];
    let valid = order.len() == shape.len()
        && order.iter().all(|&axis| axis < shape.len() && !std::mem::replace(&mut seen[axis], true));
    if !valid {
        return Err(KernelError::parameter(format!(
            "{order:?} is not a permutation of the axes of {shape:?}"
        )));
    }
    let mut strides = vec![1usize; shape.len()];
    for axis in (0..shape.len().saturating_sub(1)).rev() {
        strides[axis] = strides[axis + 1].saturating_mul(shape[axis + 1]);
    }
    Ok(order.iter().map(|&axis| strides[axis]).collect())
}

/// `y[i] = x[sum of i[d] * strides[d]]` over `shape`; `y` is contiguous. Stride 0 repeats.
pub fn copy_strided<T: Copy + Send + Sync>(
    ctx: Context<'_>,
    x: &[T],
    shape: &[usize],
    strides: &[usize],
    y: &mut [T],
) -> Result<()> {
    let nest = Nest::new(shape, [(x.len(), strides)])?;
    expect_len("output of the copy", y.len(), nest.len())?;
    if nest.is_empty() {
        return Ok(());
    }
    let out = SharedMut::new(y);
    if nest.inner_steps()[0] > 1
        && nest.shape().len() > 1
        && let Some(row_axis) = nest.strides()[..nest.shape().len() - 1].iter().position(|s| s[0] == 1)
    {
        transpose_nest(ctx, x, &nest, row_axis, &out);
        return Ok(());
    }
    let (row, [step]) = (nest.inner_len(), nest.inner_steps());
    for_each_range(ctx.parallel, nest.rows(), (GRAIN / row).max(1), 1, &|rows| {
        nest.for_rows(rows, |index, [offset]| {
            // SAFETY: rows are disjoint.
            let part = unsafe { out.slice(index * row..(index + 1) * row) };
            copy_row(&x[offset..], step, part);
        });
    });
    Ok(())
}

#[inline]
fn copy_row<T: Copy>(x: &[T], step: usize, y: &mut [T]) {
    match step {
        0 => y.fill(x[0]),
        1 => y.copy_from_slice(&x[..y.len()]),
        _ => y.iter_mut().zip(x.iter().step_by(step)).for_each(|(y, &x)| *y = x),
    }
}

/// The innermost output axis is strided in `x` and `row_axis` is contiguous there: a batch of plane transposes.
fn transpose_nest<T: Copy + Send + Sync>(
    ctx: Context<'_>,
    x: &[T],
    nest: &Nest<1>,
    row_axis: usize,
    out: &SharedMut<'_, T>,
) {
    let rank = nest.shape().len();
    let (rows, cols) = (nest.shape()[row_axis], nest.shape()[rank - 1]);
    let col_step = nest.strides()[rank - 1][0];
    let row_step: usize = nest.shape()[row_axis + 1..].iter().product();
    // The remaining axes with their strides in both tensors.
    let mut outer = Vec::new();
    let mut y_stride = 1;
    for axis in (0..rank).rev() {
        if axis != row_axis && axis != rank - 1 {
            outer.push((nest.shape()[axis], nest.strides()[axis][0], y_stride));
        }
        y_stride *= nest.shape()[axis];
    }
    let planes: usize = outer.iter().map(|axis| axis.0).product();
    let row_tiles = rows.div_ceil(TILE);
    let grain = (GRAIN / (TILE * cols)).max(1);
    for_each_range(ctx.parallel, planes * row_tiles, grain, 1, &|range| {
        for task in range {
            let (mut plane, row0) = (task / row_tiles, task % row_tiles * TILE);
            let (mut x_offset, mut y_offset) = (row0, row0 * row_step);
            for &(extent, x_stride, y_stride) in &outer {
                x_offset += plane % extent * x_stride;
                y_offset += plane % extent * y_stride;
                plane /= extent;
            }
            let tile = Strip { x: &x[x_offset..], col_step, rows: TILE.min(rows - row0), cols, row_step };
            // SAFETY: strips write disjoint elements: distinct plane or rows.
            unsafe { tile.copy(out.pointer().add(y_offset)) };
        }
    });
}

/// Up to `TILE` output rows of a plane: `y[i * row_step + j] = x[i + j * col_step]`.
struct Strip<'a, T> {
    x: &'a [T],
    col_step: usize,
    rows: usize,
    cols: usize,
    row_step: usize,
}

impl<T: Copy> Strip<'_, T> {
    /// # Safety
    /// `y` must be writable at every element of the strip.
    unsafe fn copy(&self, y: *mut T) {
        let mut j = 0;
        while j < self.cols {
            let width = TILE.min(self.cols - j);
            if self.rows == TILE && width == TILE {
                // SAFETY: a full tile inside the strip.
                unsafe { self.full_tile(j, y) };
            } else {
                for i in 0..self.rows {
                    for column in j..j + width {
                        // SAFETY: inside the strip.
                        unsafe {
                            y.add(i * self.row_step + column).write(self.x[i + column * self.col_step])
                        };
                    }
                }
            }
            j += width;
        }
    }

    /// # Safety
    /// As `copy`, with `TILE` rows and columns from `j` on.
    #[inline(always)]
    unsafe fn full_tile(&self, j: usize, y: *mut T) {
        let mut tile = [[self.x[0]; TILE]; TILE];
        for (column, line) in tile.iter_mut().enumerate() {
            line.copy_from_slice(&self.x[(j + column) * self.col_step..][..TILE]);
        }
        for i in 0..TILE {
            for (column, line) in tile.iter().enumerate() {
                // SAFETY: inside the tile.
                unsafe { y.add(i * self.row_step + j + column).write(line[i]) };
            }
        }
    }
}
