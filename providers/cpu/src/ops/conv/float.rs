//! Conv over float types, with an optional residual and activation.

use std::sync::OnceLock;

use tenon_kernels::cpu::conv::{ConvEpilogue, ConvShape, PackedFilter, conv};
use tenon_kernels::cpu::{Context as Cpu, pool};

use super::plain::{Finish, convolve};
use super::shape::{Shape, group};
use crate::error::{OpError, Result};
use crate::kernel::{Constants, Context, Kernel, Released};
use crate::node::Node;
use crate::ops::epilogue::Activation;
use crate::ops::gemm::Dense;
use crate::ops::real::{self, Output, Real};
use crate::ops::rows::for_rows;
use crate::ops::window::Window;
use crate::tensor::{DType, Dims, Tensor};

struct Conv {
    window: Window,
    group: usize,
    activation: Activation,
    channels_last: bool,
    filter: OnceLock<Filter>,
    /// The convolution fitted to the input shape that was seen first.
    fitted: OnceLock<Fitted>,
}

/// A constant filter, packed once.
struct Filter {
    packed: PackedFilter,
    dims: Dims,
}

/// A convolution fitted to one input shape.
struct Fitted {
    x_dims: Dims,
    dims: Dims,
    shape: ConvShape,
}

pub fn build(node: &Node) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(Conv::of(node, false)?))
}

pub fn build_nhwc(node: &Node) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(Conv::of(node, true)?))
}

impl Conv {
    fn of(node: &Node, channels_last: bool) -> Result<Conv> {
        real::check(node.input_dtype(0))?;
        Ok(Conv {
            window: Window::of(node)?,
            group: group(node)?,
            activation: Activation::of(node)?,
            channels_last,
            filter: OnceLock::new(),
            fitted: OnceLock::new(),
        })
    }
}

impl Kernel for Conv {
    fn pack(&self, constants: &Constants<'_>) -> Result<Released> {
        let Some(w) = constants.input(1).filter(|w| w.dtype() != DType::F64) else {
            return Ok(Released::NONE);
        };
        // The plain loops that crop the input read the filter as it is.
        if self.window.crops() || w.rank() < 3 {
            return Ok(Released::NONE);
        }
        let cpu = constants.cpu();
        let packed = self.pack_filter(&cpu, w)?;
        let _ = self.filter.set(Filter { packed, dims: w.dims().into() });
        Ok(Released::NONE.with(1))
    }

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        match cx.input(0)?.dtype() {
            DType::F64 => self.run_plain::<f64>(cx),
            dtype => {
                real::check(dtype)?;
                self.run_packed(cx, dtype)
            }
        }
    }
}

impl Conv {
    /// Packs a filter, whatever the input's size will be.
    fn pack_filter(&self, cpu: &Cpu<'_>, w: &Tensor) -> Result<PackedFilter> {
        let dims = w.dims();
        let ones = vec![1; dims.len() - 2];
        let zeros = vec![0; dims.len() - 2];
        let window = pool::Window::new(&dims[2..], &dims[2..], &ones, &ones, &zeros, &zeros, false)?;
        let shape = ConvShape::new(1, self.group, dims[1] * self.group, dims[0], window)?;
        let converted;
        let weights = match w.dtype() {
            DType::F32 => w.as_slice::<f32>()?,
            _ => {
                converted = real::to_vec::<f32>(w)?;
                &converted
            }
        };
        Ok(PackedFilter::pack(*cpu, &shape, weights)?)
    }

    /// Fits the convolution to an input shape; `None` when a negative padding crops the input.
    fn fit(&self, x_dims: &[usize], w_dims: &[usize]) -> Result<Option<Fitted>> {
        let shape = Shape::new(&self.window, self.group, x_dims, w_dims)?;
        let Some(window) = shape.geometry.kernel_window() else { return Ok(None) };
        let dims = shape.output_dims();
        let shape = ConvShape::new(shape.batch, self.group, x_dims[1], dims[1], window)?;
        Ok(Some(Fitted { x_dims: x_dims.into(), dims, shape }))
    }

    fn run_packed(&self, cx: &mut Context<'_>, dtype: DType) -> Result<()> {
        let cpu = cx.cpu();
        let mut x = real::load_input::<f32>(cx, 0)?;
        if self.channels_last {
            x = channels_first::<f32>(cx, &x)?;
        }
        let (constant, fresh, w_dims): (_, _, Dims);
        match self.filter.get() {
            Some(filter) => (constant, fresh, w_dims) = (Some(&filter.packed), None, filter.dims.clone()),
            None => {
                let w = cx.input(1)?;
                // The shapes are checked before the filter is packed by them.
                if self.fit(x.dims(), w.dims())?.is_none() {
                    return self.run_plain::<f32>(cx);
                }
                (constant, fresh, w_dims) = (None, Some(self.pack_filter(&cpu, w)?), w.dims().into());
            }
        }
        let Some(filter) = constant.or(fresh.as_ref()) else { return self.run_plain::<f32>(cx) };
        if let Some(fitted) =
            self.fitted.get().filter(|fitted| &fitted.x_dims[..] == x.dims() && constant.is_some())
        {
            return self.finish_packed(cx, dtype, &x, filter, fitted);
        }
        let Some(fitted) = self.fit(x.dims(), &w_dims)? else { return self.run_plain::<f32>(cx) };
        self.finish_packed(cx, dtype, &x, filter, &fitted)?;
        let _ = self.fitted.set(fitted);
        Ok(())
    }

    fn finish_packed(
        &self,
        cx: &mut Context<'_>,
        dtype: DType,
        x: &Tensor,
        filter: &PackedFilter,
        fitted: &Fitted,
    ) -> Result<()> {
        let cpu = cx.cpu();
        let bias = real::load_optional::<f32>(cx, 2)?;
        let mut residual = real::load_optional::<f32>(cx, 3)?;
        if self.channels_last {
            residual = residual.map(|z| channels_first::<f32>(cx, &z)).transpose()?;
        }
        let dims = &fitted.dims;
        let epilogue = ConvEpilogue {
            bias: bias.as_ref().map(|b| checked_bias::<f32>(b, dims[1])).transpose()?,
            residual: residual.as_ref().map(|z| checked_residual::<f32>(z, dims)).transpose()?,
            activation: self.activation.unary(),
        };
        let x = x.as_slice::<f32>()?;
        if self.channels_last {
            let mut first = cx.scratch(DType::F32, dims)?;
            conv(cpu, &fitted.shape, x, filter, &epilogue, first.as_mut_slice()?)?;
            return store_channels_last::<f32>(cx, dtype, dims, first.as_slice()?);
        }
        let mut y = Output::new::<f32>(cx, 0, dtype, dims)?;
        conv(cpu, &fitted.shape, x, filter, &epilogue, y.slice::<f32>()?)?;
        y.finish(cx)
    }

    fn run_plain<T: Dense>(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype: DType = cx.input(0)?.dtype();
        let mut x = real::load_input::<T>(cx, 0)?;
        let w = real::load_input::<T>(cx, 1)?;
        let bias = real::load_optional::<T>(cx, 2)?;
        let mut residual = real::load_optional::<T>(cx, 3)?;
        if self.channels_last {
            x = channels_first::<T>(cx, &x)?;
            residual = residual.map(|z| channels_first::<T>(cx, &z)).transpose()?;
        }
        let shape = Shape::new(&self.window, self.group, x.dims(), w.dims())?;
        let dims = shape.output_dims();
        let finish = Finish {
            bias: bias.as_ref().map(|b| checked_bias::<T>(b, dims[1])).transpose()?,
            residual: residual.as_ref().map(|z| checked_residual::<T>(z, &dims)).transpose()?,
            activation: self.activation,
        };
        let (x, w) = (x.as_slice::<T>()?, w.as_slice::<T>()?);
        if self.channels_last {
            let mut first = cx.scratch(T::DTYPE, &dims)?;
            convolve(cx, &shape, x, w, &finish, first.as_mut_slice::<T>()?)?;
            return store_channels_last::<T>(cx, dtype, &dims, first.as_slice::<T>()?);
        }
        let mut y = Output::new::<T>(cx, 0, dtype, &dims)?;
        convolve(cx, &shape, x, w, &finish, y.slice::<T>()?)?;
        y.finish(cx)
    }
}

/// Stores a channels-first result of shape `dims` with its channels last.
fn store_channels_last<T: Real>(
    cx: &mut Context<'_>,
    dtype: DType,
    dims: &[usize],
    first: &[T],
) -> Result<()> {
    let mut last_dims: Dims = dims.into();
    last_dims[1..].rotate_left(1);
    let mut y = Output::new::<T>(cx, 0, dtype, &last_dims)?;
    let (channels, len) = (dims[1], dims[2..].iter().product::<usize>());
    for_rows(cx.parallel(), y.slice::<T>()?, channels, channels * 4, &|index, pixel| {
        let (image, position) = (index / len, index % len);
        for (channel, out) in pixel.iter_mut().enumerate() {
            *out = first[(image * channels + channel) * len + position];
        }
    });
    y.finish(cx)
}

/// A channels-last tensor with its channels moved to the second axis.
fn channels_first<T: Real>(cx: &Context<'_>, x: &Tensor) -> Result<Tensor> {
    if x.rank() < 3 {
        return Err(OpError::invalid(format!("convolution takes at least 3 axes, got shape {:?}", x.dims())));
    }
    let mut dims: Dims = x.dims().into();
    dims[1..].rotate_right(1);
    let (channels, len) = (dims[1], dims[2..].iter().product::<usize>());
    let mut first = cx.scratch(T::DTYPE, &dims)?;
    let from = x.as_slice::<T>()?;
    for_rows(cx.parallel(), first.as_mut_slice::<T>()?, len, len * 4, &|index, plane| {
        let (image, channel) = (index / channels, index % channels);
        for (position, out) in plane.iter_mut().enumerate() {
            *out = from[(image * len + position) * channels + channel];
        }
    });
    Ok(first)
}

fn checked_bias<T: Real>(bias: &Tensor, channels: usize) -> Result<&[T]> {
    let values = bias.as_slice::<T>()?;
    if values.len() == channels {
        return Ok(values);
    }
    Err(OpError::invalid(format!("the bias has {} values for {channels} output channels", values.len())))
}

fn checked_residual<'a, T: Real>(residual: &'a Tensor, dims: &[usize]) -> Result<&'a [T]> {
    if residual.dims() == dims {
        return residual.as_slice::<T>();
    }
    Err(OpError::invalid(format!("the residual has shape {:?}, the result {dims:?}", residual.dims())))
}
