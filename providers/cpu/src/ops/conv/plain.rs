//! Convolution over any float type and any padding, by plain loops and column matrices.

use tenon_kernels::cpu::Context as Cpu;
use tenon_kernels::parallel::Serial;

use super::columns;
use super::shape::Shape;
use crate::error::Result;
use crate::kernel::Context;
use crate::ops::epilogue::Activation;
use crate::ops::gemm::{After, Dense, Matrix};
use crate::ops::real::Real;
use crate::ops::rows::{Rows, for_rows};

/// Elements of the column matrix that one task works on at a time: half of a second-level cache of f32.
const COLUMN_ELEMENTS: usize = 128 * 1024;

/// What is done to each value of the result.
pub struct Finish<'a, T> {
    pub bias: Option<&'a [T]>,
    pub residual: Option<&'a [T]>,
    pub activation: Activation,
}

impl<T: Real> Finish<'_, T> {
    /// Finishes a run of values of channel `channel` that starts at `start` in the result.
    fn apply(&self, channel: usize, start: usize, values: &mut [T]) {
        if let Some(bias) = self.bias {
            let bias = bias[channel];
            values.iter_mut().for_each(|value| *value += bias);
        }
        if let Some(residual) = self.residual {
            values.iter_mut().zip(&residual[start..]).for_each(|(value, &z)| *value += z);
        }
        self.activation.apply(values);
    }
}

/// `y = activation(x * w + bias + residual)`, channels first.
pub fn convolve<T: Dense>(
    cx: &Context<'_>,
    shape: &Shape,
    x: &[T],
    w: &[T],
    finish: &Finish<'_, T>,
    y: &mut [T],
) -> Result<()> {
    if y.is_empty() {
        return Ok(());
    }
    if shape.inputs == 1 {
        depthwise(cx, shape, x, w, finish, y);
        return Ok(());
    }
    by_columns(cx, shape, x, w, finish, y)
}

/// Every output channel sees one input channel: the window slides over the plane itself.
fn depthwise<T: Real>(
    cx: &Context<'_>,
    shape: &Shape,
    x: &[T],
    w: &[T],
    finish: &Finish<'_, T>,
    y: &mut [T],
) {
    let geometry = &shape.geometry;
    let (input_len, output_len, kernel_len) =
        (geometry.input_len(), geometry.output_len(), geometry.kernel_len());
    let channels = shape.outputs * shape.group;
    let last = geometry.input.len() - 1;
    let (size, width, stride) = (geometry.input[last], geometry.output[last], geometry.strides[last]);
    for_rows(cx.parallel(), y, output_len, output_len * kernel_len, &|index, out| {
        let (image, channel) = (index / channels, index % channels);
        let plane = &x[(image * shape.group + channel / shape.outputs) * input_len..][..input_len];
        let weights = &w[channel * kernel_len..][..kernel_len];
        for (row, line) in out.chunks_exact_mut(width).enumerate() {
            line.fill(T::ZERO);
            for kernel_row in 0..geometry.kernel_rows() {
                let Some(start) = geometry.input_row(row, kernel_row) else { continue };
                let input = &plane[start..start + size];
                for k in 0..geometry.kernel[last] {
                    let weight = weights[kernel_row * geometry.kernel[last] + k];
                    let (columns, first) = geometry.columns(k);
                    let line = &mut line[columns];
                    match stride {
                        1 => line.iter_mut().zip(&input[first..]).for_each(|(y, &x)| *y += weight * x),
                        2 => line
                            .iter_mut()
                            .zip(input[first..].chunks(2))
                            .for_each(|(y, x)| *y += weight * x[0]),
                        _ => line
                            .iter_mut()
                            .zip(input[first..].iter().step_by(stride))
                            .for_each(|(y, &x)| *y += weight * x),
                    }
                }
            }
        }
        finish.apply(channel, index * output_len, out);
    });
}

/// Convolution as products of the weights with parts of the column matrix.
fn by_columns<T: Dense>(
    cx: &Context<'_>,
    shape: &Shape,
    x: &[T],
    w: &[T],
    finish: &Finish<'_, T>,
    y: &mut [T],
) -> Result<()> {
    let geometry = &shape.geometry;
    let (input_len, output_len) = (geometry.input_len(), geometry.output_len());
    let depth = shape.inputs * geometry.kernel_len();
    let pointwise = geometry.kernel_len() == 1
        && geometry.input == geometry.output
        && geometry.strides.iter().all(|&stride| stride == 1)
        && geometry.begins.iter().all(|&pad| pad == 0);
    let images = shape.batch * shape.group;
    let threads = cx.parallel().threads();
    let mut columns = (COLUMN_ELEMENTS / depth.max(shape.outputs).max(1)).clamp(16, output_len.max(16));
    if threads > 1 && images * output_len.div_ceil(columns) < threads {
        columns = output_len.div_ceil(threads.div_ceil(images)).max(16);
    }
    let columns = columns.min(output_len);
    let parts = output_len.div_ceil(columns);
    let tasks = (images * parts).min(threads.max(1) * 4);
    let tile_len = if pointwise { 0 } else { depth * columns };
    let mut scratch = cx.scratch(T::DTYPE, &[tasks, tile_len + shape.outputs * columns])?;
    let scratch = Rows::new(scratch.as_mut_slice::<T>()?, tile_len + shape.outputs * columns);
    let out = Rows::new(y, 1);
    let cpu = Cpu::new(cx.features(), &Serial);
    cx.parallel().for_each(tasks, &|task| {
        // SAFETY: each task has its own row of the scratch memory.
        let (tile, product) = unsafe { scratch.row(task) }.split_at_mut(tile_len);
        for item in (task * images * parts / tasks)..((task + 1) * images * parts / tasks) {
            let (image, from) = (item / parts, item % parts * columns);
            let count = columns.min(output_len - from);
            let (batch, group) = (image / shape.group, image % shape.group);
            let planes = &x[image * shape.inputs * input_len..][..shape.inputs * input_len];
            let right = if pointwise {
                Matrix::strided(&planes[from..], depth, count, input_len)
            } else {
                columns::gather(geometry, planes, shape.inputs, from, count, tile);
                Matrix::new(&tile[..depth * count], depth, count)
            };
            let left = Matrix::new(&w[group * shape.outputs * depth..], shape.outputs, depth);
            let product = &mut product[..shape.outputs * count];
            T::multiply(&cpu, left, right, product, count, &After::default())
                .expect("the views fit their memory by construction");
            for (output, values) in product.chunks_exact_mut(count).enumerate() {
                let channel = group * shape.outputs + output;
                let start = (batch * shape.outputs * shape.group + channel) * output_len + from;
                finish.apply(channel, start, values);
                // SAFETY: each item writes its own columns of its own planes.
                unsafe { out.span(start, count) }.copy_from_slice(values);
            }
        }
    });
    Ok(())
}
