//! Grouped convolution over any number of spatial dimensions, NCHW in and out, with a fused epilogue.

mod depthwise;
mod direct;
mod implicit;
mod patch;
mod reference;
mod shape;

pub use reference::conv_reference;
pub use shape::{ConvEpilogue, ConvShape};

use super::features::Context;
use super::gemm::PackedA;
use super::matrix::Matrix;
use crate::error::{KernelError, Result, expect_len};

/// Filters packed once. They serve any batch and spatial extents with the same channels, groups and kernel.
pub struct PackedFilter {
    groups: usize,
    in_channels: usize,
    out_channels: usize,
    taps: usize,
    form: Form,
}

enum Form {
    /// A filter matrix per group.
    Product(Vec<PackedA>),
    /// Filters as they are, applied plane by plane.
    Depthwise(Vec<f32>),
    /// No spatial dimension: filters as they are.
    Plain(Vec<f32>),
}

impl PackedFilter {
    /// Packs filters `[out_channels, in_channels / groups, kernel...]`.
    pub fn pack(ctx: Context<'_>, shape: &ConvShape, filter: &[f32]) -> Result<Self> {
        expect_len("filter", filter.len(), shape.filter_len()?)?;
        let (rows, depth) = (shape.group_out(), shape.group_in() * shape.taps());
        let form = if shape.window.rank() == 0 {
            Form::Plain(filter.to_vec())
        } else if depthwise::covers(shape.groups, shape.in_channels, &shape.window) {
            Form::Depthwise(filter.to_vec())
        } else {
            let group = |g: usize| {
                let part = &filter[g * rows * depth..(g + 1) * rows * depth];
                PackedA::pack(ctx, Matrix::row_major(part, rows, depth))
            };
            Form::Product((0..shape.groups).map(group).collect::<Result<_>>()?)
        };
        Ok(Self {
            groups: shape.groups,
            in_channels: shape.in_channels,
            out_channels: shape.out_channels,
            taps: shape.taps(),
            form,
        })
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        match &self.form {
            Form::Product(groups) => groups.iter().map(PackedA::bytes).sum(),
            Form::Depthwise(filter) | Form::Plain(filter) => size_of_val(&filter[..]),
        }
    }

    fn check(&self, ctx: Context<'_>, shape: &ConvShape) -> Result<()> {
        let own = [self.groups, self.in_channels, self.out_channels, self.taps];
        let asked = [shape.groups, shape.in_channels, shape.out_channels, shape.taps()];
        if own != asked {
            return Err(KernelError::shape(format!(
                "the filter was packed for groups, input channels, output channels, taps {own:?}, not {asked:?}"
            )));
        }
        match &self.form {
            Form::Product(groups) => groups.iter().try_for_each(|group| group.check(ctx.features)),
            Form::Depthwise(_) | Form::Plain(_) => Ok(()),
        }
    }
}

/// `y = activation(conv(x, filter) + bias + residual)`.
pub fn conv(
    ctx: Context<'_>,
    shape: &ConvShape,
    x: &[f32],
    filter: &PackedFilter,
    epilogue: &ConvEpilogue<'_>,
    y: &mut [f32],
) -> Result<()> {
    shape.check(x, epilogue, y)?;
    filter.check(ctx, shape)?;
    match &filter.form {
        Form::Product(groups) => match direct::Layout::new(shape) {
            Some(layout) => direct::convolve(ctx, shape, &layout, x, groups, epilogue, y),
            None => implicit::convolve(ctx, shape, x, groups, epilogue, y),
        },
        Form::Depthwise(filter) => depthwise::convolve(ctx, shape, x, filter, epilogue, y),
        Form::Plain(filter) => return conv_reference(ctx, shape, x, filter, epilogue, y),
    }
    Ok(())
}
