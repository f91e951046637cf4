//! Activations after a bias that runs along the last axis (com.microsoft): BiasGelu, FastGelu, BiasSplitGelu, BiasAdd.

use tenon_kernels::cpu::elementwise::{Binary, Unary};

use super::row::{BinaryLoop, UnaryLoop, fill_binary, run_unary};
use super::unary::Special;
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::cast::set_converted;
use crate::ops::real::{self, Real, with_real};
use crate::ops::{NEWEST, Operator};
use crate::tensor::{DType, Dims, Tensor};

/// `function(x + bias)`; the bias may be absent.
struct BiasActivation {
    function: Unary,
}

impl Kernel for BiasActivation {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        real::check(dtype)?;
        if dtype == DType::F64 {
            return self.run_f64(cx);
        }
        if cx.optional(1).is_none() {
            return run_unary(cx, UnaryLoop::Vector(self.function), [0.0; 2], dtype);
        }
        let mut sum = add_bias(cx)?;
        let machine = tenon_kernels::cpu::Context::new(cx.features(), cx.parallel());
        tenon_kernels::cpu::elementwise::unary_in_place(machine, self.function, sum.as_mut_slice::<f32>()?);
        if dtype == DType::F32 {
            cx.set(0, sum);
            return Ok(());
        }
        set_converted(cx, 0, sum, dtype)
    }
}

impl BiasActivation {
    fn run_f64(&self, cx: &mut Context<'_>) -> Result<()> {
        let x = cx.input(0)?;
        let bias = cx.optional(1).map(Tensor::as_slice::<f64>).transpose()?;
        let width = x.dims().last().copied().unwrap_or(1);
        if let Some(bias) = bias.filter(|bias| bias.len() != width) {
            return Err(OpError::invalid(format!("expected a bias of {width} elements, got {}", bias.len())));
        }
        let function = if self.function == Unary::GeluTanh { f64::gelu_tanh } else { f64::gelu };
        let mut out = cx.output(0, DType::F64, x.dims())?;
        for (i, (y, &x)) in out.as_mut_slice::<f64>()?.iter_mut().zip(x.as_slice::<f64>()?).enumerate() {
            *y = function(x + bias.map_or(0.0, |bias| bias[i % width]));
        }
        cx.set(0, out);
        Ok(())
    }
}

/// Input 0 plus input 1 in f32; memory of output 0 when that is its type.
fn add_bias(cx: &Context<'_>) -> Result<Tensor> {
    let dtype = cx.input(0)?.dtype();
    let (x, bias) = (real::load_input::<f32>(cx, 0)?, real::load_input::<f32>(cx, 1)?);
    let mut sum =
        if dtype == DType::F32 { cx.output(0, dtype, x.dims())? } else { cx.scratch(DType::F32, x.dims())? };
    let shapes = [x.dims(), bias.dims()];
    fill_binary(cx, BinaryLoop::Vector(Binary::Add), [0.0; 2], [&x, &bias], shapes, &mut sum)?;
    Ok(sum)
}

/// The left half of the last axis times the Gelu of the right half, after the bias.
struct BiasSplitGelu;

impl Kernel for BiasSplitGelu {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        with_real!(dtype, T => split_gelu::<T>(cx, dtype))
    }
}

fn split_gelu<T: Real + Special>(cx: &mut Context<'_>, dtype: DType) -> Result<()> {
    let (x, bias) = (real::load_input::<T>(cx, 0)?, real::load_input::<T>(cx, 1)?);
    let mut dims: Dims = x.dims().into();
    let width = dims.last().copied().unwrap_or(0);
    if width % 2 != 0 || bias.dims() != [width] {
        return Err(OpError::invalid(format!(
            "expected a last axis of even length and a bias of that length, got {:?} and {:?}",
            x.dims(),
            bias.dims()
        )));
    }
    let half = width / 2;
    if let Some(last) = dims.last_mut() {
        *last = half;
    }
    let mut out = real::Output::new::<T>(cx, 0, dtype, &dims)?;
    let (x, bias) = (x.as_slice::<T>()?, bias.as_slice::<T>()?);
    if half > 0 {
        for (row, out) in x.chunks_exact(width).zip(out.slice::<T>()?.chunks_exact_mut(half)) {
            for (i, out) in out.iter_mut().enumerate() {
                *out = (row[i] + bias[i]) * (row[half + i] + bias[half + i]).gelu();
            }
        }
    }
    out.finish(cx)
}

/// Input 0 plus the bias (input 1) plus a skip connection of the same shape (input 2).
struct BiasAdd;

impl Kernel for BiasAdd {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        with_real!(dtype, T => bias_add::<T>(cx, dtype))
    }
}

fn bias_add<T: Real>(cx: &mut Context<'_>, dtype: DType) -> Result<()> {
    let x = real::load_input::<T>(cx, 0)?;
    let (bias, skip) = (real::load_input::<T>(cx, 1)?, real::load_input::<T>(cx, 2)?);
    let width = x.dims().last().copied().unwrap_or(0);
    if bias.dims() != [width] || skip.dims() != x.dims() {
        return Err(OpError::invalid(format!(
            "expected a bias of {width} elements and a skip of shape {:?}, got {:?} and {:?}",
            x.dims(),
            bias.dims(),
            skip.dims()
        )));
    }
    let mut out = real::Output::new::<T>(cx, 0, dtype, x.dims())?;
    let (x, bias, skip) = (x.as_slice::<T>()?, bias.as_slice::<T>()?, skip.as_slice::<T>()?);
    for (i, out) in out.slice::<T>()?.iter_mut().enumerate() {
        *out = x[i] + bias[i % width] + skip[i];
    }
    out.finish(cx)
}

/// `scale * x + bias[channel]` over `[N, C, ...]` (ImageScaler, an experiment of opset 1).
struct ImageScaler {
    scale: f64,
    bias: Vec<f32>,
}

impl Kernel for ImageScaler {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        with_real!(dtype, T => self.run_typed::<T>(cx, dtype))
    }
}

impl ImageScaler {
    fn run_typed<T: Real>(&self, cx: &mut Context<'_>, dtype: DType) -> Result<()> {
        let x = real::load_input::<T>(cx, 0)?;
        let channels = x.dims().get(1).copied().unwrap_or(0);
        if channels != self.bias.len() {
            return Err(OpError::invalid(format!("expected {} channels, got {channels}", self.bias.len())));
        }
        let plane: usize = x.dims()[2..].iter().product();
        let mut out = real::Output::new::<T>(cx, 0, dtype, x.dims())?;
        for (i, (y, &x)) in out.slice::<T>()?.iter_mut().zip(x.as_slice::<T>()?).enumerate() {
            *y = x * T::from_f64(self.scale) + T::from_f32(self.bias[i / plane % channels]);
        }
        out.finish(cx)
    }
}

fn build_image_scaler(node: &Node) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(0))?;
    let bias = node.floats("bias")?.unwrap_or(&[]).to_vec();
    Ok(Box::new(ImageScaler { scale: f64::from(node.float("scale", 1.0)?), bias }))
}

fn build(node: &Node, function: Unary) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(0))?;
    Ok(Box::new(BiasActivation { function }))
}

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("ImageScaler", 1, NEWEST, build_image_scaler),
    Operator::of("com.microsoft", "BiasGelu", |node| build(node, Unary::Gelu)),
    Operator::of("com.microsoft", "FastGelu", |node| build(node, Unary::GeluTanh)),
    Operator::of("com.microsoft", "BiasSplitGelu", |node| {
        real::check(node.input_dtype(0))?;
        Ok(Box::new(BiasSplitGelu))
    }),
    Operator::of("com.microsoft", "BiasAdd", |node| {
        real::check(node.input_dtype(0))?;
        Ok(Box::new(BiasAdd))
    }),
];
