//! Transposed convolution: a product per image, scattered into the output.

use super::elementwise::Unary;
use super::features::Context;
use super::gemm::{Epilogue, Lhs, PackedA, Rhs, gemm};
use super::matrix::Matrix;
use super::pool::Window;
use crate::error::{KernelError, Result, checked_product, expect_len};
use crate::parallel::SharedMut;

/// A transposed convolution. `window` describes the forward convolution that it is the gradient of: its `input` is
/// the spatial output here and its `output` the spatial input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvTransposeShape {
    pub batch: usize,
    pub groups: usize,
    pub in_channels: usize,
    pub out_channels: usize,
    pub window: Window,
}

impl ConvTransposeShape {
    /// `input` are the spatial extents read, `output` those written; pads are ONNX's begin pads.
    pub fn new(
        batch: usize,
        groups: usize,
        in_channels: usize,
        out_channels: usize,
        input: &[usize],
        output: &[usize],
        kernel: &[usize],
        strides: &[usize],
        dilations: &[usize],
        pads_begin: &[usize],
    ) -> Result<Self> {
        let rank = input.len();
        if [output, kernel, strides, dilations, pads_begin].iter().any(|part| part.len() != rank) {
            return Err(KernelError::shape(format!("window attributes must have {rank} entries each")));
        }
        if kernel.iter().chain(strides).chain(dilations).any(|&v| v == 0) {
            return Err(KernelError::parameter("kernel, strides and dilations must be positive"));
        }
        if groups == 0 || !in_channels.is_multiple_of(groups) || !out_channels.is_multiple_of(groups) {
            return Err(KernelError::shape(format!(
                "{in_channels} input and {out_channels} output channels do not divide into {groups} groups"
            )));
        }
        let window = Window {
            input: output.to_vec(),
            kernel: kernel.to_vec(),
            strides: strides.to_vec(),
            dilations: dilations.to_vec(),
            pads_begin: pads_begin.to_vec(),
            pads_end: vec![0; rank],
            output: input.to_vec(),
        };
        Ok(Self { batch, groups, in_channels, out_channels, window })
    }
}

/// `y = activation(conv_transpose(x, filter) + bias)` with filters `[in_channels, out_channels / groups, kernel...]`.
pub fn conv_transpose(
    ctx: Context<'_>,
    shape: &ConvTransposeShape,
    x: &[f32],
    filter: &[f32],
    bias: Option<&[f32]>,
    activation: Unary,
    y: &mut [f32],
) -> Result<()> {
    let window = &shape.window;
    let in_plane = checked_product("input plane", &window.output)?;
    let out_plane = checked_product("output plane", &window.input)?;
    let taps = checked_product("kernel", &window.kernel)?;
    let (group_in, group_out) = (shape.in_channels / shape.groups, shape.out_channels / shape.groups);
    expect_len("input", x.len(), checked_product("input", &[shape.batch, shape.in_channels, in_plane])?)?;
    expect_len("output", y.len(), checked_product("output", &[shape.batch, shape.out_channels, out_plane])?)?;
    expect_len("filter", filter.len(), checked_product("filter", &[shape.in_channels, group_out, taps])?)?;
    if let Some(bias) = bias {
        expect_len("bias", bias.len(), shape.out_channels)?;
    }
    let depth = group_out * taps;
    // Columns of one image and group: [group_out * taps, in_plane] = filterᵀ x.
    let mut columns =
        super::buffer::AlignedBuffer::<f32>::zeroed(checked_product("columns", &[depth, in_plane])?);
    for group in 0..shape.groups {
        let weights = &filter[group * group_in * depth..(group + 1) * group_in * depth];
        let packed = PackedA::pack(ctx, Matrix::row_major(weights, group_in, depth).transposed())?;
        for n in 0..shape.batch {
            let start = (n * shape.in_channels + group * group_in) * in_plane;
            let image = Matrix::row_major(&x[start..start + group_in * in_plane], group_in, in_plane);
            let lhs = Lhs::<f32>::Packed(&packed);
            gemm(ctx, lhs, Rhs::Plain(image), &mut columns, in_plane.max(1), &Epilogue::default())?;
            let start = (n * shape.out_channels + group * group_out) * out_plane;
            let y = &mut y[start..start + group_out * out_plane];
            let bias = bias.map(|bias| &bias[group * group_out..(group + 1) * group_out]);
            scatter(ctx, window, &columns, bias, y);
        }
    }
    super::elementwise::unary_in_place(ctx, activation, y);
    Ok(())
}

/// Adds columns `[channels * taps, window.output]` into planes `[channels, window.input]` that start as the bias.
fn scatter(ctx: Context<'_>, window: &Window, columns: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    let out_plane: usize = window.input.iter().product();
    let in_plane: usize = window.output.iter().product();
    let taps: usize = window.kernel.iter().product();
    if out_plane == 0 {
        return;
    }
    let channels = y.len() / out_plane;
    let out = SharedMut::new(y);
    ctx.parallel.for_each(channels, &|channel| {
        // SAFETY: planes are disjoint.
        let y = unsafe { out.slice(channel * out_plane..(channel + 1) * out_plane) };
        y.fill(bias.map_or(0.0, |bias| bias[channel]));
        for tap in 0..taps {
            let at = (channel * taps + tap) * in_plane;
            scatter_tap(window, tap, &columns[at..at + in_plane], y);
        }
    });
}

/// Adds the values of one tap: input position i goes to output position `i * stride + tap * dilation - pad`.
fn scatter_tap(window: &Window, tap: usize, values: &[f32], y: &mut [f32]) {
    let rank = window.rank();
    if rank == 0 {
        y[0] += values[0];
        return;
    }
    let mut offsets = vec![0isize; rank];
    let mut rest = tap;
    for d in (0..rank).rev() {
        offsets[d] = (rest % window.kernel[d] * window.dilations[d]) as isize - window.pads_begin[d] as isize;
        rest /= window.kernel[d];
    }
    let last = rank - 1;
    let (stride, offset) = (window.strides[last] as isize, offsets[last]);
    let (inner, width) = (window.output[last], window.input[last] as isize);
    // Positions whose target lies inside the row.
    let first = if offset >= 0 { 0 } else { (-offset + stride - 1) / stride };
    let end = if width <= offset { 0 } else { ((width - offset + stride - 1) / stride).min(inner as isize) };
    if inner == 0 || first >= end {
        return;
    }
    let mut index = vec![0usize; last];
    for row in values.chunks_exact(inner) {
        let mut base = Some(0isize);
        for d in 0..last {
            let at = (index[d] * window.strides[d]) as isize + offsets[d];
            let inside = at >= 0 && at < window.input[d] as isize;
            base = if inside { base.map(|base| base * window.input[d] as isize + at) } else { None };
        }
        if let Some(base) = base {
            let start = (base * width + offset + first * stride) as usize;
            let targets = y[start..].iter_mut().step_by(stride as usize);
            for (y, v) in targets.zip(&row[first as usize..end as usize]) {
                *y += v;
            }
        }
        for d in (0..last).rev() {
            index[d] += 1;
            if index[d] < window.output[d] {
                break;
            }
            index[d] = 0;
        }
    }
}
