//! ConvInteger and QLinearConv: patches of bytes, channels last, multiplied with packed weights.

use tenon_kernels::cpu::Context as Cpu;
use tenon_kernels::parallel::Serial;

use super::shape::{Shape, group};
use crate::error::{OpError, Result};
use crate::kernel::{Constants, Context, Kernel, Released};
use crate::node::Node;
use crate::ops::quantized::{Bytes, PackedBytes, ZeroPoints, check, is_signed, multiply, saturate};
use crate::ops::rows::Rows;
use crate::ops::window::Window;
use crate::prepacked::Prepacked;
use crate::tensor::{DType, Dims, Tensor};

/// Output positions that one task multiplies at a time.
const POSITIONS: usize = 64;

/// Weights packed group by group as `(kernel element, input channel) × output channel` matrices.
struct Weights {
    groups: Vec<PackedBytes>,
    dims: Dims,
}

impl Weights {
    fn pack(cpu: &Cpu<'_>, w: &Tensor, group: usize) -> Result<Weights> {
        let dims = w.dims();
        if dims.len() < 3 || !dims[0].is_multiple_of(group) {
            return Err(OpError::invalid(format!("weight shape {dims:?} does not fit {group} groups")));
        }
        let signed = is_signed(w.dtype())?;
        let (outputs, inputs) = (dims[0] / group, dims[1]);
        let kernel_len: usize = dims[2..].iter().product();
        let bytes = w.as_bytes();
        let mut groups = Vec::with_capacity(group);
        for index in 0..group {
            let mut matrix = vec![0u8; kernel_len * inputs * outputs];
            for (row, line) in matrix.chunks_exact_mut(outputs.max(1)).enumerate() {
                let (element, input) = (row / inputs, row % inputs);
                for (output, byte) in line.iter_mut().enumerate() {
                    *byte = bytes[((index * outputs + output) * inputs + input) * kernel_len + element];
                }
            }
            groups.push(PackedBytes::new(cpu, &matrix, signed, kernel_len * inputs, outputs, false)?);
        }
        Ok(Weights { groups, dims: dims.into() })
    }
}

/// One integer convolution: `(x - x_zero) * (w - w_zero)` summed in i32, handed over position by position.
struct IntegerConv {
    window: Window,
    group: usize,
    channels_last: bool,
    weights: Prepacked<Weights>,
}

impl IntegerConv {
    fn of(node: &Node, w: usize) -> Result<IntegerConv> {
        check(node.input_dtype(0))?;
        check(node.input_dtype(w))?;
        Ok(IntegerConv {
            window: Window::of(node)?,
            group: group(node)?,
            channels_last: node.flag("channels_last", false)?,
            weights: Prepacked::default(),
        })
    }

    fn pack(&self, constants: &Constants<'_>, index: usize) -> Result<Released> {
        let Some(w) = constants.input(index).filter(|w| check(w.dtype()).is_ok()) else {
            return Ok(Released::NONE);
        };
        let cpu = constants.cpu();
        self.weights.keep(Weights::pack(&cpu, w, self.group)?);
        Ok(Released::NONE.with(index))
    }

    /// The shapes, and the shape of the result.
    fn shape(&self, x: &[usize], w: &[usize]) -> Result<(Shape, Dims)> {
        let mut first: Dims = x.into();
        if self.channels_last && x.len() > 2 {
            first[1..].rotate_right(1);
        }
        let shape = Shape::new(&self.window, self.group, &first, w)?;
        let mut dims = shape.output_dims();
        if self.channels_last {
            dims[1..].rotate_left(1);
        }
        Ok((shape, dims))
    }

    /// Computes all sums. `store(image, position, sums)` gets the sums of all channels of an output position.
    fn run(
        &self,
        cx: &Context<'_>,
        x: &Tensor,
        shape: &Shape,
        weights: &Weights,
        zeros: (&ZeroPoints, &ZeroPoints),
        store: &(dyn Fn(usize, usize, &[i32]) + Sync),
    ) -> Result<()> {
        let (x_zero, w_zero) = zeros;
        let geometry = &shape.geometry;
        let (input_len, positions, kernel_len) =
            (geometry.input_len(), geometry.output_len(), geometry.kernel_len());
        let channels = shape.inputs * shape.group;
        let outputs = shape.outputs * shape.group;
        let signed = is_signed(x.dtype())?;
        let padding = x_zero.of(0, 1)?[0] as u8;
        let all_zeros = w_zero.of(0, outputs)?;
        let zero_of = |index: usize| match all_zeros.len() {
            1 => ZeroPoints::from(all_zeros),
            _ => ZeroPoints::from(&all_zeros[index * shape.outputs..][..shape.outputs]),
        };
        let w_zeros: Vec<ZeroPoints> = (0..shape.group).map(zero_of).collect();
        let image = self.channels_last_image(cx, x, channels, input_len)?;
        let image = image.as_bytes();
        let depth = kernel_len * shape.inputs;
        let parts = positions.div_ceil(POSITIONS);
        let items = shape.batch * parts;
        let tasks = items.min(cx.parallel().threads().max(1) * 4).max(1);
        let mut patches = cx.scratch(DType::U8, &[tasks, POSITIONS * depth])?;
        let mut sums = cx.scratch(DType::I32, &[tasks, POSITIONS * (shape.outputs + outputs)])?;
        let patches = Rows::new(patches.as_mut_slice::<u8>()?, POSITIONS * depth);
        let sums = Rows::new(sums.as_mut_slice::<i32>()?, POSITIONS * (shape.outputs + outputs));
        let cpu = Cpu::new(cx.features(), &Serial);
        cx.parallel().for_each(tasks, &|task| {
            // SAFETY: each task has its own rows of the scratch memory.
            let (patch, sums) = unsafe { (patches.row(task), sums.row(task)) };
            let (product, all) = sums.split_at_mut(POSITIONS * shape.outputs);
            for item in (task * items / tasks)..((task + 1) * items / tasks) {
                let (batch, from) = (item / parts, item % parts * POSITIONS);
                let count = POSITIONS.min(positions - from);
                let pixels = &image[batch * input_len * channels..][..input_len * channels];
                for (index, packed) in weights.groups.iter().enumerate() {
                    let slice = (channels, index * shape.inputs, shape.inputs);
                    gather(geometry, pixels, slice, from, padding, &mut patch[..count * depth]);
                    let bytes = Bytes { data: patch, signed, m: count };
                    let c = &mut product[..count * shape.outputs];
                    multiply(&cpu, bytes, x_zero, packed, &w_zeros[index], (0, 0), c)
                        .expect("one input zero point, and one a column or one in all for the weights");
                    for (position, values) in c.chunks_exact(shape.outputs.max(1)).enumerate() {
                        all[position * outputs + index * shape.outputs..][..shape.outputs]
                            .copy_from_slice(values);
                    }
                }
                for (position, values) in all[..count * outputs].chunks_exact(outputs.max(1)).enumerate() {
                    store(batch, from + position, values);
                }
            }
        });
        Ok(())
    }

    /// The input with its channels last.
    fn channels_last_image(
        &self,
        cx: &Context<'_>,
        x: &Tensor,
        channels: usize,
        len: usize,
    ) -> Result<Tensor> {
        if self.channels_last || channels == 1 {
            return Ok(x.clone());
        }
        let mut turned = cx.scratch(x.dtype(), x.dims())?;
        let (from, to) = (x.as_bytes(), turned.as_bytes_mut());
        for (from, to) in
            from.chunks_exact((channels * len).max(1)).zip(to.chunks_exact_mut((channels * len).max(1)))
        {
            for (channel, plane) in from.chunks_exact(len).enumerate() {
                plane
                    .iter()
                    .enumerate()
                    .for_each(|(position, &byte)| to[position * channels + channel] = byte);
            }
        }
        Ok(turned)
    }
}

/// Writes the window elements of the output positions from `from` on, one row a position. `slice` is the number of
/// channels of a pixel, the first channel to take and how many.
fn gather(
    geometry: &crate::ops::window::Geometry,
    pixels: &[u8],
    slice: (usize, usize, usize),
    from: usize,
    padding: u8,
    out: &mut [u8],
) {
    let (channels, first_channel, inputs) = slice;
    let last = geometry.input.len() - 1;
    let (width, size) = (geometry.output[last], geometry.input[last] as i64);
    let kernel_width = geometry.kernel[last];
    let row_len = geometry.kernel_len() * inputs;
    if row_len == 0 {
        return;
    }
    for (index, row) in out.chunks_exact_mut(row_len).enumerate() {
        let (line, column) = ((from + index) / width, (from + index) % width);
        for (element, part) in row.chunks_exact_mut(inputs).enumerate() {
            let x = geometry.position(last, column, element % kernel_width);
            match geometry.input_row(line, element / kernel_width) {
                Some(start) if (0..size).contains(&x) => {
                    let pixel = (start + x as usize) * channels + first_channel;
                    part.copy_from_slice(&pixels[pixel..pixel + inputs]);
                }
                _ => part.fill(padding),
            }
        }
    }
}

// ---- ConvInteger ----

struct ConvInteger(IntegerConv);

pub fn build_integer(node: &Node) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(ConvInteger(IntegerConv::of(node, 1)?)))
}

impl Kernel for ConvInteger {
    fn pack(&self, constants: &Constants<'_>) -> Result<Released> {
        self.0.pack(constants, 1)
    }

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let x = cx.input(0)?;
        let pack = || Weights::pack(&cx.cpu(), cx.input(1)?, self.0.group);
        let weights = &*self.0.weights.get_or_pack(pack)?;
        let (x_zero, w_zero) = (ZeroPoints::read(cx.optional(2))?, ZeroPoints::read(cx.optional(3))?);
        let (shape, dims) = self.0.shape(x.dims(), &weights.dims)?;
        let mut y = cx.output(0, DType::I32, &dims)?;
        let (channels, len) = (shape.outputs * shape.group, shape.geometry.output_len());
        let out = Rows::new(y.as_mut_slice::<i32>()?, 1);
        self.0.run(cx, x, &shape, weights, (&x_zero, &w_zero), &|image, position, sums| {
            for (channel, &sum) in sums.iter().enumerate() {
                // SAFETY: every position of every plane is stored once.
                unsafe { out.row((image * channels + channel) * len + position)[0] = sum };
            }
        })?;
        cx.set(0, y);
        Ok(())
    }
}

// ---- QLinearConv ----

struct QLinearConv(IntegerConv);

pub fn build_qlinear(node: &Node) -> Result<Box<dyn Kernel>> {
    check(node.input_dtype(7))?;
    Ok(Box::new(QLinearConv(IntegerConv::of(node, 3)?)))
}

impl Kernel for QLinearConv {
    fn pack(&self, constants: &Constants<'_>) -> Result<Released> {
        self.0.pack(constants, 3)
    }

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let x = cx.input(0)?;
        let pack = || Weights::pack(&cx.cpu(), cx.input(3)?, self.0.group);
        let weights = &*self.0.weights.get_or_pack(pack)?;
        let (shape, dims) = self.0.shape(x.dims(), &weights.dims)?;
        let (channels, len) = (shape.outputs * shape.group, shape.geometry.output_len());
        let (x_zero, w_zero) = (ZeroPoints::read(cx.optional(2))?, ZeroPoints::read(cx.optional(5))?);
        let x_scale = cx.input(1)?.to_scalar::<f32>()?;
        let w_scale = cx.input(4)?.as_slice::<f32>()?;
        let y_scale = cx.input(6)?.to_scalar::<f32>()?;
        let bias = cx.optional(8).map(|bias| bias.as_slice::<i32>()).transpose()?;
        if w_scale.len() != 1 && w_scale.len() != channels || bias.is_some_and(|bias| bias.len() != channels)
        {
            return Err(OpError::invalid(format!(
                "weight scale or bias do not fit {channels} output channels"
            )));
        }
        let scales: Vec<f32> = (0..channels)
            .map(|c| x_scale * w_scale[if w_scale.len() == 1 { 0 } else { c }] / y_scale)
            .collect();
        let dtype = cx.input(7)?.dtype();
        let signed = is_signed(dtype)?;
        let zero = ZeroPoints::read(cx.optional(7))?.of(0, 1)?[0];
        let mut y = cx.output(0, dtype, &dims)?;
        let out = Rows::new(y.as_bytes_mut(), 1);
        let last = self.0.channels_last;
        self.0.run(cx, x, &shape, weights, (&x_zero, &w_zero), &|image, position, sums| {
            for (channel, &sum) in sums.iter().enumerate() {
                let sum = bias.map_or(sum, |bias| sum.wrapping_add(bias[channel]));
                let index = if last {
                    (image * len + position) * channels + channel
                } else {
                    (image * channels + channel) * len + position
                };
                // SAFETY: every position of every plane is stored once.
                unsafe { out.row(index)[0] = saturate(sum as f32 * scales[channel], zero, signed) };
            }
        })?;
        cx.set(0, y);
        Ok(())
    }
}
