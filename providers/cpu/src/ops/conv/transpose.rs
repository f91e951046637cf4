//! ConvTranspose: every input element spreads its weighted window over the output.

use tenon_kernels::cpu::Context as Cpu;
use tenon_kernels::cpu::conv_transpose::{ConvTransposeShape, conv_transpose};
use tenon_kernels::cpu::elementwise::Unary;

use super::columns;
use super::shape::group;
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::gemm::{After, Dense, Matrix};
use crate::ops::real::{self, Output};
use crate::ops::rows::for_rows;
use crate::ops::window::{AutoPad, Geometry};
use crate::tensor::{DType, Dims};

struct ConvTranspose {
    kernel: Vec<i64>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    pads: Vec<i64>,
    output_padding: Vec<i64>,
    output_shape: Vec<i64>,
    auto_pad: AutoPad,
    group: usize,
    /// Input 2 holds the pads and input 3 the bias.
    dynamic_pads: bool,
}

pub fn build(node: &Node) -> Result<Box<dyn Kernel>> {
    of(node, false)
}

/// ConvTransposeWithDynamicPads.
pub fn build_dynamic(node: &Node) -> Result<Box<dyn Kernel>> {
    of(node, true)
}

fn of(node: &Node, dynamic_pads: bool) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(0))?;
    let ints = |name: &str| -> Result<Vec<i64>> { Ok(node.ints(name)?.unwrap_or(&[]).to_vec()) };
    Ok(Box::new(ConvTranspose {
        kernel: ints("kernel_shape")?,
        strides: ints("strides")?,
        dilations: ints("dilations")?,
        pads: ints("pads")?,
        output_padding: ints("output_padding")?,
        output_shape: ints("output_shape")?,
        auto_pad: AutoPad::of(node)?,
        group: group(node)?,
        dynamic_pads,
    }))
}

impl Kernel for ConvTranspose {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        match cx.input(0)?.dtype() {
            DType::F64 => self.run_typed::<f64>(cx),
            dtype => {
                real::check(dtype)?;
                self.run_typed::<f32>(cx)
            }
        }
    }
}

/// A type that may have a kernel for the whole operator.
trait Spread: Sized {
    /// Computes `y` of `[batch, groups, input channels, output channels]`; false when there is no kernel for it.
    fn spread(
        _cpu: &Cpu<'_>,
        _extents: [usize; 4],
        _geometry: &Geometry,
        _x: &[Self],
        _w: &[Self],
        _bias: Option<&[Self]>,
        _y: &mut [Self],
    ) -> Result<bool> {
        Ok(false)
    }
}

impl Spread for f64 {}

impl Spread for f32 {
    fn spread(
        cpu: &Cpu<'_>,
        [batch, groups, in_channels, out_channels]: [usize; 4],
        geometry: &Geometry,
        x: &[f32],
        w: &[f32],
        bias: Option<&[f32]>,
        y: &mut [f32],
    ) -> Result<bool> {
        let Some(window) = geometry.kernel_window() else { return Ok(false) };
        let shape = ConvTransposeShape { batch, groups, in_channels, out_channels, window };
        conv_transpose(*cpu, &shape, x, w, bias, Unary::Identity, y)?;
        Ok(true)
    }
}

impl ConvTranspose {
    /// The window as a convolution from the output back to the input has it.
    fn geometry(&self, input: &[usize], kernel: &[usize], pads: &[i64]) -> Result<Geometry> {
        let rank = input.len();
        let expand = |values: &[i64], default: i64, name: &str, least: i64| -> Result<Vec<i64>> {
            if let Some(value) = values.iter().find(|&&value| value < least) {
                return Err(OpError::invalid(format!(
                    "attribute '{name}' holds {value}, expected at least {least}"
                )));
            }
            match values.len() {
                0 => Ok(vec![default; rank]),
                len if len == rank => Ok(values.to_vec()),
                len => Err(OpError::invalid(format!(
                    "attribute '{name}' has {len} values for {rank} spatial axes"
                ))),
            }
        };
        let strides = expand(&self.strides, 1, "strides", 1)?;
        let dilations = expand(&self.dilations, 1, "dilations", 1)?;
        let extra = expand(&self.output_padding, 0, "output_padding", 0)?;
        if !pads.is_empty() && pads.len() != 2 * rank {
            return Err(OpError::invalid(format!(
                "attribute 'pads' has {} values, expected {}",
                pads.len(),
                2 * rank
            )));
        }
        // Some exporters write batch and channels into output_shape too.
        let wanted = &self.output_shape[self.output_shape.len().saturating_sub(rank)..];
        if !wanted.is_empty() && wanted.len() != rank {
            return Err(OpError::invalid(format!(
                "output_shape {wanted:?} does not fit {rank} spatial axes"
            )));
        }
        let mut geometry = Geometry {
            input: Dims::new(),
            output: input.into(),
            kernel: kernel.into(),
            strides: strides.iter().map(|&s| s as usize).collect(),
            dilations: dilations.iter().map(|&d| d as usize).collect(),
            begins: Vec::with_capacity(rank),
            ends: Vec::with_capacity(rank),
        };
        for axis in 0..rank {
            let full = strides[axis] * (input[axis] as i64 - 1)
                + extra[axis]
                + (kernel[axis] as i64 - 1) * dilations[axis]
                + 1;
            let size = match (wanted.get(axis), self.auto_pad) {
                (Some(&size), _) => Some(size),
                (None, AutoPad::SameUpper | AutoPad::SameLower) => Some(input[axis] as i64 * strides[axis]),
                (None, _) => None,
            };
            let (begin, size) = match size {
                Some(size) => {
                    let total = (full - size).max(0);
                    let begin =
                        if self.auto_pad == AutoPad::SameUpper { total / 2 } else { total - total / 2 };
                    (begin, size)
                }
                None if pads.is_empty() || self.auto_pad == AutoPad::Valid => (0, full),
                None => (pads[axis], full - pads[axis] - pads[axis + rank]),
            };
            if size < 0 {
                return Err(OpError::invalid(format!(
                    "the output would have size {size} on spatial axis {axis}"
                )));
            }
            geometry.input.push(size as usize);
            geometry.begins.push(begin);
            geometry.ends.push(0);
        }
        Ok(geometry)
    }

    fn run_typed<T: Dense + Spread>(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        let x = real::load_input::<T>(cx, 0)?;
        let w = real::load_input::<T>(cx, 1)?;
        let bias = real::load_optional::<T>(cx, if self.dynamic_pads { 3 } else { 2 })?;
        let (x_dims, w_dims) = (x.dims(), w.dims());
        if x_dims.len() < 3
            || x_dims.len() != w_dims.len()
            || x_dims[1] != w_dims[0]
            || w_dims[0] % self.group != 0
        {
            return Err(OpError::invalid(format!(
                "input shape {x_dims:?} and weight shape {w_dims:?} do not fit {} groups of channels",
                self.group
            )));
        }
        if !self.kernel.is_empty() && !self.kernel.iter().map(|&k| k as usize).eq(w_dims[2..].iter().copied())
        {
            return Err(OpError::invalid(format!(
                "kernel_shape {:?} differs from the weights' {w_dims:?}",
                self.kernel
            )));
        }
        let pads = match cx.optional(2).filter(|_| self.dynamic_pads) {
            Some(pads) => pads.to_i64s()?.to_vec(),
            None => self.pads.clone(),
        };
        let geometry = self.geometry(&x_dims[2..], &w_dims[2..], &pads)?;
        let (inputs, outputs) = (x_dims[1] / self.group, w_dims[1]);
        let channels = outputs * self.group;
        let dims: Dims = [x_dims[0], channels].into_iter().chain(geometry.input.iter().copied()).collect();
        let mut y = Output::new::<T>(cx, 0, dtype, &dims)?;
        let bias = bias.as_ref().map(|bias| bias.as_slice::<T>()).transpose()?;
        if bias.is_some_and(|bias| bias.len() != channels) {
            return Err(OpError::invalid(format!(
                "the bias does not have {channels} values, one an output channel"
            )));
        }
        let (x, w) = (x.as_slice::<T>()?, w.as_slice::<T>()?);
        let (positions, plane_len) = (geometry.output_len(), geometry.input_len());
        let cpu = cx.cpu();
        let extents = [x_dims[0], self.group, inputs * self.group, channels];
        if T::spread(&cpu, extents, &geometry, x, w, bias, y.slice::<T>()?)? {
            return y.finish(cx);
        }
        let depth = outputs * geometry.kernel_len();
        let mut scratch = cx.scratch(T::DTYPE, &[depth, positions])?;
        let columns = scratch.as_mut_slice::<T>()?;
        let out = y.slice::<T>()?;
        if outputs * plane_len == 0 {
            return y.finish(cx);
        }
        for (index, planes) in out.chunks_exact_mut(outputs * plane_len).enumerate() {
            let first = index % self.group * outputs;
            let weights = Matrix::new(&w[index % self.group * inputs * depth..], inputs, depth).transposed();
            let image = Matrix::new(&x[index * inputs * positions..], inputs, positions);
            if positions > 0 {
                T::multiply(&cpu, weights, image, columns, positions, &After::default())?;
            }
            let columns = &*columns;
            let work = geometry.kernel_len() * positions;
            for_rows(cx.parallel(), planes, plane_len, work, &|channel, plane| {
                plane.fill(bias.map_or(T::ZERO, |bias| bias[first + channel]));
                if positions > 0 {
                    let len = geometry.kernel_len() * positions;
                    columns::scatter(&geometry, &columns[channel * len..][..len], plane);
                }
            });
        }
        y.finish(cx)
    }
}
