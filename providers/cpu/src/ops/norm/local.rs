//! LRN: each element divided by a power of the squares in its neighbouring channels.

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::real::{self, Output, Real, with_real};
use crate::ops::rows::for_rows;

struct LocalResponse {
    size: usize,
    alpha: f64,
    beta: f64,
    bias: f64,
}

pub fn build(node: &Node) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(0))?;
    let size = node.required_int("size")?;
    if size < 1 {
        return Err(OpError::invalid(format!("attribute 'size' is {size}, expected at least 1")));
    }
    Ok(Box::new(LocalResponse {
        size: size as usize,
        alpha: f64::from(node.float("alpha", 1e-4)?),
        beta: f64::from(node.float("beta", 0.75)?),
        bias: f64::from(node.float("bias", 1.0)?),
    }))
}

impl Kernel for LocalResponse {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        with_real!(cx.input(0)?.dtype(), T => self.run_typed::<T>(cx))
    }
}

impl LocalResponse {
    fn run_typed<T: Real>(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        let x = real::load_input::<T>(cx, 0)?;
        let dims = x.dims();
        if dims.len() < 2 {
            return Err(OpError::invalid(format!("LRN takes batch and channels, got shape {dims:?}")));
        }
        let (channels, len) = (dims[1], dims[2..].iter().product::<usize>());
        let mut y = Output::new::<T>(cx, 0, dtype, dims)?;
        let x = x.as_slice::<T>()?;
        let (alpha, bias) = (T::from_f64(self.alpha / self.size as f64), T::from_f64(self.bias));
        let (before, after) = ((self.size - 1) / 2, self.size / 2);
        for_rows(cx.parallel(), y.slice::<T>()?, len, len * (self.size + 8), &|index, out| {
            let (image, channel) = (index / channels, index % channels);
            out.fill(T::ZERO);
            for neighbour in channel.saturating_sub(before)..(channel + after + 1).min(channels) {
                let plane = &x[(image * channels + neighbour) * len..][..len];
                out.iter_mut().zip(plane).for_each(|(sum, &x)| *sum += x * x);
            }
            let plane = &x[index * len..][..len];
            let divided = out.iter_mut().zip(plane);
            if self.beta == 0.75 {
                divided.for_each(|(sum, &x)| {
                    let root = (bias + alpha * *sum).sqrt();
                    *sum = x / (root * root.sqrt());
                });
            } else {
                let exponent = T::from_f64(-self.beta);
                divided.for_each(|(sum, &x)| *sum = x * (bias + alpha * *sum).powf(exponent));
            }
        });
        y.finish(cx)
    }
}
