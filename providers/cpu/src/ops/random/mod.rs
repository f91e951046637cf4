//! Random operators: Dropout, Bernoulli, RandomNormal, RandomUniform (and Like) and Multinomial. A `seed` makes a node
//! draw the same numbers in every run; without one, every run draws others.

#[cfg(test)]
mod tests;
pub mod twister;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use self::twister::Twister;
use super::cast::{converted, dtype_attribute, set_converted};
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::{Attribute, Node};
use crate::ops::real::{self, Real, with_real};
use crate::ops::{NEWEST, Operator};
use crate::tensor::{Bool, DType, Dims};

/// Where a node's random numbers come from.
#[derive(Clone, Copy)]
struct Seed(Option<u32>);

impl Seed {
    fn of(node: &Node) -> Result<Seed> {
        Ok(Seed(match node.attributes.get("seed") {
            None => None,
            Some(Attribute::Int(seed)) => Some(*seed as u32),
            Some(Attribute::Float(seed)) if seed.is_nan() => None,
            Some(Attribute::Float(seed)) => Some(*seed as i64 as u32),
            Some(_) => return Err(OpError::invalid("attribute 'seed' must be a number")),
        }))
    }

    fn generator(self) -> Twister {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        Twister::new(self.0.unwrap_or_else(|| {
            let run = RUNS.fetch_add(1, Ordering::Relaxed);
            let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
            time ^ run.wrapping_mul(0x9E37_79B1)
        }))
    }
}

/// Inputs: data, ratio (an attribute before opset 12), training mode. Outputs: data, mask.
struct Dropout {
    /// From the attribute; `None`: input 1, or 1/2.
    ratio: Option<f32>,
    seed: Seed,
    /// Never before opset 12, where models are run for inference; `None`: input 2.
    training: Option<bool>,
}

impl Kernel for Dropout {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let training = match (self.training, cx.optional(2)) {
            (Some(training), _) => training,
            (None, Some(flag)) => flag.to_scalar::<Bool>()?.0 != 0,
            (None, None) => false,
        };
        let ratio = match (self.ratio, cx.optional(1)) {
            (Some(ratio), _) => f64::from(ratio),
            (None, Some(ratio)) => converted(cx, ratio, DType::F64)?.to_scalar::<f64>()?,
            (None, None) => 0.5,
        };
        let dims: Dims = cx.input(0)?.dims().into();
        if training && ratio != 0.0 {
            return with_real!(cx.input(0)?.dtype(), T => self.drop_out::<T>(cx, ratio, &dims));
        }
        if cx.wants(1) {
            let mut mask = cx.output(1, DType::Bool, &dims)?;
            mask.as_bytes_mut().fill(1);
            cx.set(1, mask);
        }
        cx.forward(0, 0, &dims)
    }
}

impl Dropout {
    fn drop_out<T: Real>(&self, cx: &mut Context<'_>, ratio: f64, dims: &[usize]) -> Result<()> {
        if !(0.0..1.0).contains(&ratio) {
            return Err(OpError::invalid(format!("the dropout ratio must be in 0 .. 1, got {ratio}")));
        }
        let dtype = cx.input(0)?.dtype();
        let input = real::load_input::<T>(cx, 0)?;
        let mut generator = self.seed.generator();
        let scale = T::from_f64(1.0 / (1.0 - ratio));
        let mut mask = cx.output(1, DType::Bool, dims)?;
        let mut out = real::Output::new::<T>(cx, 0, dtype, dims)?;
        let flags = mask.as_mut_slice::<Bool>()?;
        for ((out, flag), &x) in out.slice::<T>()?.iter_mut().zip(flags).zip(input.as_slice::<T>()?) {
            let keep = generator.uniform() >= ratio;
            *flag = Bool(u8::from(keep));
            *out = if keep { x * scale } else { T::ZERO };
        }
        out.finish(cx)?;
        if cx.wants(1) {
            cx.set(1, mask);
        }
        Ok(())
    }
}

/// Zeros and ones with the probabilities of the input.
struct Bernoulli {
    dtype: Option<DType>,
    seed: Seed,
}

impl Kernel for Bernoulli {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let input = cx.input(0)?;
        let to = self.dtype.unwrap_or(input.dtype());
        let probabilities = converted(cx, input, DType::F64)?;
        let mut draws = cx.scratch(DType::U8, input.dims())?;
        let mut generator = self.seed.generator();
        for (draw, &probability) in draws.as_bytes_mut().iter_mut().zip(probabilities.as_slice::<f64>()?) {
            *draw = u8::from(generator.uniform() < probability);
        }
        set_converted(cx, 0, draws, to)
    }
}

#[derive(Clone, Copy)]
enum Distribution {
    Normal { mean: f64, scale: f64 },
    Uniform { low: f64, high: f64 },
}

impl Distribution {
    fn draw(self, generator: &mut Twister) -> f64 {
        match self {
            Distribution::Normal { mean, scale } => mean + scale * generator.normal(),
            Distribution::Uniform { low, high } => low + (high - low) * generator.uniform(),
        }
    }
}

/// A tensor of draws.
struct Draw {
    distribution: Distribution,
    /// `None`: that of input 0.
    shape: Option<Dims>,
    /// `None`: that of input 0.
    dtype: Option<DType>,
    seed: Seed,
}

impl Kernel for Draw {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dims: Dims = match &self.shape {
            Some(shape) => shape.clone(),
            None => cx.input(0)?.dims().into(),
        };
        let dtype = match self.dtype {
            Some(dtype) => dtype,
            None => cx.input(0)?.dtype(),
        };
        if !dtype.is_float() {
            return Err(OpError::unsupported(format!("random numbers cannot be of element type {dtype}")));
        }
        let mut draws = cx.scratch(DType::F64, &dims)?;
        let mut generator = self.seed.generator();
        draws
            .as_mut_slice::<f64>()?
            .iter_mut()
            .for_each(|draw| *draw = self.distribution.draw(&mut generator));
        set_converted(cx, 0, draws, dtype)
    }
}

/// Class indices drawn with unnormalised log probabilities `[batch, classes]`.
struct Multinomial {
    samples: usize,
    dtype: DType,
    seed: Seed,
}

impl Kernel for Multinomial {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let input = cx.input(0)?;
        let &[batch, classes] = input.dims() else {
            return Err(OpError::invalid(format!("expected shape [batch, classes], got {:?}", input.dims())));
        };
        if classes == 0 {
            return Err(OpError::invalid("there are no classes to draw from"));
        }
        let logits = converted(cx, input, DType::F64)?;
        let mut draws = cx.scratch(DType::I64, &[batch, self.samples])?;
        let mut generator = self.seed.generator();
        let rows = logits.as_slice::<f64>()?.chunks_exact(classes);
        for (row, draws) in rows.zip(draws.as_mut_slice::<i64>()?.chunks_exact_mut(self.samples.max(1))) {
            let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let mut total = 0.0;
            let sums: Vec<f64> = row
                .iter()
                .map(|logit| {
                    total += (logit - max).exp();
                    total
                })
                .collect();
            for draw in draws {
                let at = generator.uniform() * total;
                *draw = sums.partition_point(|&sum| sum <= at).min(classes - 1) as i64;
            }
        }
        set_converted(cx, 0, draws, self.dtype)
    }
}

fn build_dropout(node: &Node) -> Result<Box<dyn Kernel>> {
    let from_input = node.version >= 12;
    let training = if from_input { None } else { Some(false) };
    let ratio = if from_input { None } else { Some(node.float("ratio", 0.5)?) };
    Ok(Box::new(Dropout { ratio, seed: Seed::of(node)?, training }))
}

fn build_draw(node: &Node, normal: bool, like: bool) -> Result<Box<dyn Kernel>> {
    let number = |name: &str, default: f32| node.float(name, default).map(f64::from);
    let distribution = if normal {
        Distribution::Normal { mean: number("mean", 0.0)?, scale: number("scale", 1.0)? }
    } else {
        Distribution::Uniform { low: number("low", 0.0)?, high: number("high", 1.0)? }
    };
    let shape = if like {
        None
    } else {
        let sizes = node.ints("shape")?.ok_or_else(|| OpError::invalid("attribute 'shape' is missing"))?;
        let size = |&size: &i64| usize::try_from(size).ok();
        let shape: Option<Dims> = sizes.iter().map(size).collect();
        Some(
            shape.ok_or_else(|| {
                OpError::invalid(format!("attribute 'shape' holds a negative size: {sizes:?}"))
            })?,
        )
    };
    let dtype = dtype_attribute(node, "dtype")?.or(if like { None } else { Some(DType::F32) });
    Ok(Box::new(Draw { distribution, shape, dtype, seed: Seed::of(node)? }))
}

fn build_multinomial(node: &Node) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(0))?;
    let samples = node.int("sample_size", 1)?;
    let samples = usize::try_from(samples).map_err(|_| {
        OpError::invalid(format!("attribute 'sample_size' must not be negative, got {samples}"))
    })?;
    let dtype = dtype_attribute(node, "dtype")?.unwrap_or(DType::I32);
    Ok(Box::new(Multinomial { samples, dtype, seed: Seed::of(node)? }))
}

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("Dropout", 1, NEWEST, build_dropout),
    Operator::onnx("Bernoulli", 15, NEWEST, |node| {
        Ok(Box::new(Bernoulli { dtype: dtype_attribute(node, "dtype")?, seed: Seed::of(node)? }))
    }),
    Operator::onnx("RandomNormal", 1, NEWEST, |node| build_draw(node, true, false)),
    Operator::onnx("RandomNormalLike", 1, NEWEST, |node| build_draw(node, true, true)),
    Operator::onnx("RandomUniform", 1, NEWEST, |node| build_draw(node, false, false)),
    Operator::onnx("RandomUniformLike", 1, NEWEST, |node| build_draw(node, false, true)),
    Operator::onnx("Multinomial", 7, NEWEST, build_multinomial),
];
