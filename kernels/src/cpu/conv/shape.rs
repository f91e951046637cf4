//! Extents of a convolution and what follows it.

use crate::cpu::elementwise::Unary;
use crate::cpu::pool::Window;
use crate::error::{KernelError, Result, checked_product, expect_len};

/// A grouped convolution `[batch, in_channels, input...] -> [batch, out_channels, output...]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvShape {
    pub batch: usize,
    pub groups: usize,
    pub in_channels: usize,
    pub out_channels: usize,
    /// Spatial extents, one entry per dimension.
    pub window: Window,
}

impl ConvShape {
    /// Checks that the channels divide into the groups.
    pub fn new(
        batch: usize,
        groups: usize,
        in_channels: usize,
        out_channels: usize,
        window: Window,
    ) -> Result<Self> {
        if groups == 0 || !in_channels.is_multiple_of(groups) || !out_channels.is_multiple_of(groups) {
            return Err(KernelError::shape(format!(
                "{in_channels} input and {out_channels} output channels do not divide into {groups} groups"
            )));
        }
        Ok(Self { batch, groups, in_channels, out_channels, window })
    }

    /// Input channels of a group.
    pub fn group_in(&self) -> usize {
        self.in_channels / self.groups
    }

    /// Output channels of a group.
    pub fn group_out(&self) -> usize {
        self.out_channels / self.groups
    }

    /// Elements of an input plane.
    pub fn in_plane(&self) -> usize {
        self.window.input.iter().product()
    }

    /// Elements of an output plane.
    pub fn out_plane(&self) -> usize {
        self.window.output.iter().product()
    }

    /// Taps of the kernel.
    pub fn taps(&self) -> usize {
        self.window.kernel.iter().product()
    }

    /// Elements of the filters.
    pub fn filter_len(&self) -> Result<usize> {
        checked_product("filter", &[self.out_channels, self.group_in(), self.taps()])
    }

    /// Elements of the input.
    pub fn input_len(&self) -> Result<usize> {
        let plane = checked_product("convolution input", &self.window.input)?;
        checked_product("convolution input", &[self.batch, self.in_channels, plane])
    }

    /// Elements of the output.
    pub fn output_len(&self) -> Result<usize> {
        let plane = checked_product("convolution output", &self.window.output)?;
        checked_product("convolution output", &[self.batch, self.out_channels, plane])
    }

    pub(crate) fn check(&self, x: &[f32], epilogue: &ConvEpilogue<'_>, y: &[f32]) -> Result<()> {
        expect_len("input of the convolution", x.len(), self.input_len()?)?;
        expect_len("output of the convolution", y.len(), self.output_len()?)?;
        if let Some(bias) = epilogue.bias {
            expect_len("bias of the convolution", bias.len(), self.out_channels)?;
        }
        match epilogue.residual {
            Some(residual) => expect_len("residual of the convolution", residual.len(), y.len()),
            None => Ok(()),
        }
    }
}

/// What follows a convolution: bias per output channel, an added tensor of the output's shape, an activation.
#[derive(Clone, Copy, Debug)]
pub struct ConvEpilogue<'a> {
    pub bias: Option<&'a [f32]>,
    pub residual: Option<&'a [f32]>,
    pub activation: Unary,
}

impl Default for ConvEpilogue<'_> {
    fn default() -> Self {
        Self { bias: None, residual: None, activation: Unary::Identity }
    }
}
