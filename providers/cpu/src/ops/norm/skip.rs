//! SkipLayerNormalization and SkipSimplifiedLayerNormalization: a residual sum, then a row norm of it.

use super::row::{Norm, Normalize};
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::real::{self, Output, with_real};
use crate::ops::rows::for_rows;
use crate::tensor::{DType, Dims};

struct SkipNorm(Norm);

pub fn build_layer(node: &Node) -> Result<Box<dyn Kernel>> {
    build(node, true)
}

pub fn build_simplified(node: &Node) -> Result<Box<dyn Kernel>> {
    build(node, false)
}

fn build(node: &Node, centred: bool) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(0))?;
    Ok(Box::new(SkipNorm(Norm { epsilon: node.float("epsilon", 1e-12)?, centred })))
}

impl Kernel for SkipNorm {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        with_real!(cx.input(0)?.dtype(), T => self.run_typed::<T>(cx))
    }
}

impl SkipNorm {
    fn run_typed<T: Normalize>(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        let x = real::load_input::<T>(cx, 0)?;
        let skip = real::load_input::<T>(cx, 1)?;
        let gamma = real::load_input::<T>(cx, 2)?;
        let (beta, bias) = if self.0.centred { (Some(3), 4) } else { (None, 3) };
        let beta = beta.map(|index| real::load_optional::<T>(cx, index)).transpose()?.flatten();
        let bias = real::load_optional::<T>(cx, bias)?;
        let dims = x.dims();
        let width = dims.last().copied().unwrap_or(0);
        let short = [&beta, &bias].into_iter().flatten().chain([&gamma]).find(|part| part.len() != width);
        if let Some(part) = short {
            return Err(OpError::invalid(format!(
                "a parameter has shape {:?} for rows of {width}",
                part.dims()
            )));
        }
        if skip.dims().last() != Some(&width)
            || skip.is_empty() != x.is_empty()
            || x.len() % skip.len().max(1) != 0
        {
            return Err(OpError::invalid(format!("input {dims:?} and skip {:?} do not fit", skip.dims())));
        }
        let mut sum = Output::new::<T>(cx, 3, dtype, dims)?;
        let mut y = Output::new::<T>(cx, 0, dtype, dims)?;
        let (x_data, skip) = (x.as_slice::<T>()?, skip.as_slice::<T>()?);
        let bias = bias.as_ref().map(|bias| bias.as_slice::<T>()).transpose()?;
        for_rows(cx.parallel(), sum.slice::<T>()?, width, width, &|index, row| {
            let start = index * width;
            let skip = &skip[start % skip.len()..][..width];
            for ((sum, &x), &skip) in row.iter_mut().zip(&x_data[start..]).zip(skip) {
                *sum = x + skip;
            }
            if let Some(bias) = bias {
                row.iter_mut().zip(bias).for_each(|(sum, &bias)| *sum += bias);
            }
        });
        let stat_dims: Dims = dims[..dims.len().max(1) - 1].iter().copied().chain([1]).collect();
        let mut statistics: [Option<Output>; 2] = [None, None];
        for (index, slot) in statistics.iter_mut().enumerate() {
            if cx.wants(index + 1) {
                *slot = Some(Output::new::<T>(cx, index + 1, DType::F32, &stat_dims)?);
            }
        }
        let [mean, inverse] = &mut statistics;
        let mean = mean.as_mut().map(Output::slice::<T>).transpose()?;
        let inverse = inverse.as_mut().map(Output::slice::<T>).transpose()?;
        let cpu = cx.cpu();
        let extents = [x.len().checked_div(width).unwrap_or(0), width];
        let beta = beta.as_ref().map(|beta| beta.as_slice::<T>()).transpose()?;
        let affine = [Some(gamma.as_slice::<T>()?), beta];
        T::normalize(&cpu, self.0, sum.slice::<T>()?, extents, affine, y.slice::<T>()?, [mean, inverse])?;
        y.finish(cx)?;
        statistics.into_iter().flatten().try_for_each(|output| output.finish(cx))?;
        if cx.wants(3) { sum.finish(cx) } else { Ok(()) }
    }
}
