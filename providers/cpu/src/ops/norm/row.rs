//! Norms over the last dimensions: LayerNormalization, RMSNormalization and their com.microsoft relatives.

use tenon_kernels::cpu::Context as Cpu;
use tenon_kernels::cpu::norm::{RowNorm, Statistics, normalize_rows};

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::real::{self, Output, Real, with_real};
use crate::ops::rows::{Rows, for_ranges, for_rows};
use crate::ops::spread::Spread;
use crate::shape;
use crate::tensor::{DType, Dims, Tensor};

/// A float type with a row norm.
pub trait Normalize: Real {
    /// `y = (x - mean) / sqrt(variance + epsilon) * gamma + beta` for every row of `[rows, columns]`; without `centred`
    /// the mean counts as 0 and the variance is the mean square.
    fn normalize(
        cpu: &Cpu<'_>,
        norm: Norm,
        x: &[Self],
        extents: [usize; 2],
        affine: [Option<&[Self]>; 2],
        y: &mut [Self],
        statistics: [Option<&mut [Self]>; 2],
    ) -> Result<()>;
}

/// How rows are normalised.
#[derive(Clone, Copy)]
pub struct Norm {
    pub epsilon: f32,
    pub centred: bool,
}

impl Normalize for f32 {
    fn normalize(
        cpu: &Cpu<'_>,
        norm: Norm,
        x: &[f32],
        extents: [usize; 2],
        [gamma, beta]: [Option<&[f32]>; 2],
        y: &mut [f32],
        [mean, inverse_deviation]: [Option<&mut [f32]>; 2],
    ) -> Result<()> {
        let norm = RowNorm { epsilon: norm.epsilon, centred: norm.centred };
        Ok(normalize_rows(*cpu, norm, x, extents, gamma, beta, y, Statistics { mean, inverse_deviation })?)
    }
}

impl Normalize for f64 {
    fn normalize(
        cpu: &Cpu<'_>,
        norm: Norm,
        x: &[f64],
        [rows, columns]: [usize; 2],
        [gamma, beta]: [Option<&[f64]>; 2],
        y: &mut [f64],
        [means, inverses]: [Option<&mut [f64]>; 2],
    ) -> Result<()> {
        let out = Rows::new(y, columns);
        let means = means.map(|means| Rows::new(means, 1));
        let inverses = inverses.map(|inverses| Rows::new(inverses, 1));
        for_ranges(cpu.parallel, rows, columns * 4, &|range| {
            for row in range {
                let x = &x[row * columns..][..columns];
                let count = columns.max(1) as f64;
                let mean = if norm.centred { x.iter().sum::<f64>() / count } else { 0.0 };
                let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
                let inverse = 1.0 / (variance + f64::from(norm.epsilon)).sqrt();
                // SAFETY: each row is visited by one task.
                let y = unsafe { out.row(row) };
                for (column, y) in y.iter_mut().enumerate() {
                    let scaled = (x[column] - mean) * inverse * gamma.map_or(1.0, |gamma| gamma[column]);
                    *y = scaled + beta.map_or(0.0, |beta| beta[column]);
                }
                for (target, value) in [(&means, mean), (&inverses, inverse)] {
                    if let Some(target) = target {
                        // SAFETY: as above.
                        unsafe { target.row(row)[0] = value };
                    }
                }
            }
        });
        Ok(())
    }
}

/// LayerNormalization and the norms that leave the mean in.
struct RowNormalization {
    axis: i64,
    norm: Norm,
    /// Output positions of the mean and of the inverse deviation.
    statistics: [Option<usize>; 2],
    /// Type of the statistics.
    stash: DType,
    /// The result has the scale's type instead of the input's.
    typed_by_scale: bool,
}

pub fn build_layer(node: &Node) -> Result<Box<dyn Kernel>> {
    build(node, true, [Some(1), Some(2)], false)
}

pub fn build_rms(node: &Node) -> Result<Box<dyn Kernel>> {
    build(node, false, [None, None], true)
}

pub fn build_simplified(node: &Node) -> Result<Box<dyn Kernel>> {
    build(node, false, [None, Some(1)], true)
}

fn build(
    node: &Node,
    centred: bool,
    statistics: [Option<usize>; 2],
    typed_by_scale: bool,
) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(0))?;
    real::check(node.input_dtype(1))?;
    let stash = match node.int("stash_type", 1)? {
        16 => DType::BF16,
        10 => DType::F16,
        11 => DType::F64,
        _ => DType::F32,
    };
    let norm = Norm { epsilon: node.float("epsilon", 1e-5)?, centred };
    Ok(Box::new(RowNormalization { axis: node.int("axis", -1)?, norm, statistics, stash, typed_by_scale }))
}

impl Kernel for RowNormalization {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        with_real!(cx.input(0)?.dtype(), T => self.run_typed::<T>(cx))
    }
}

impl RowNormalization {
    fn run_typed<T: Normalize>(&self, cx: &mut Context<'_>) -> Result<()> {
        let cpu = cx.cpu();
        let (input_type, scale_type) = (cx.input(0)?.dtype(), cx.input(1)?.dtype());
        let x = real::load_input::<T>(cx, 0)?;
        let scale = real::load_input::<T>(cx, 1)?;
        let bias = if self.norm.centred { real::load_optional::<T>(cx, 2)? } else { None };
        let axis = shape::axis(self.axis, x.rank())?;
        let extents = [x.dims()[..axis].iter().product(), x.dims()[axis..].iter().product()];
        let stat_dims: Dims =
            x.dims().iter().enumerate().map(|(i, &dim)| if i < axis { dim } else { 1 }).collect();
        let mut statistics: [Option<Output>; 2] = [None, None];
        for (slot, index) in statistics.iter_mut().zip(self.statistics) {
            if let Some(index) = index.filter(|&index| cx.wants(index)) {
                *slot = Some(Output::new::<T>(cx, index, self.stash, &stat_dims)?);
            }
        }
        let dtype = if self.typed_by_scale { scale_type } else { input_type };
        let mut y = Output::new::<T>(cx, 0, dtype, x.dims())?;
        let [mean, inverse] = &mut statistics;
        let mean = mean.as_mut().map(Output::slice::<T>).transpose()?;
        let inverse = inverse.as_mut().map(Output::slice::<T>).transpose()?;
        let whole = |tensor: &Tensor| tensor.len() == extents[1] && x.dims()[axis..].ends_with(tensor.dims());
        let direct = whole(&scale) && bias.as_ref().is_none_or(&whole);
        let x_data = x.as_slice::<T>()?;
        if direct {
            let bias = bias.as_ref().map(|bias| bias.as_slice::<T>()).transpose()?;
            let affine = [Some(scale.as_slice::<T>()?), bias];
            T::normalize(&cpu, self.norm, x_data, extents, affine, y.slice::<T>()?, [mean, inverse])?;
        } else {
            T::normalize(&cpu, self.norm, x_data, extents, [None, None], y.slice::<T>()?, [mean, inverse])?;
            let scale = Spread::new(scale.as_slice::<T>()?, scale.dims(), x.dims())?;
            let bias =
                bias.as_ref().map(|b| Spread::new(b.as_slice::<T>()?, b.dims(), x.dims())).transpose()?;
            let columns = x.dims()[x.rank() - 1];
            for_rows(cx.parallel(), y.slice::<T>()?, columns, columns * 2, &|index, row| {
                scale.zip(index, row, |value, scale| *value *= scale);
                if let Some(bias) = &bias {
                    bias.zip(index, row, |value, bias| *value += bias);
                }
            });
        }
        y.finish(cx)?;
        statistics.into_iter().flatten().try_for_each(|output| output.finish(cx))
    }
}

/// BranchwiseRMSNorm: root-mean-square norms over the last `H` elements of branches `C`.
struct Branchwise {
    branches: usize,
    epsilon: f32,
}

pub fn build_branchwise(node: &Node) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(0))?;
    let branches = node.int("num_branches", 0)?;
    if branches < 0 {
        return Err(OpError::invalid(format!("num_branches is {branches}, expected at least 0")));
    }
    Ok(Box::new(Branchwise { branches: branches as usize, epsilon: node.float("epsilon", 1e-5)? }))
}

impl Kernel for Branchwise {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        let x = real::load_input::<f32>(cx, 0)?;
        let scale = real::load_optional::<f32>(cx, 1)?;
        let dims = x.dims();
        let last = dims.last().copied().unwrap_or(0);
        let (branches, width) = match self.branches {
            0 if dims.len() > 1 => (dims[dims.len() - 2], last),
            0 => {
                return Err(OpError::invalid(format!(
                    "BranchwiseRMSNorm takes two axes, got shape {dims:?}"
                )));
            }
            branches if last.is_multiple_of(branches) => (branches, last / branches),
            branches => {
                return Err(OpError::invalid(format!(
                    "{last} elements do not divide into {branches} branches"
                )));
            }
        };
        let cpu = cx.cpu();
        let mut y = Output::new::<f32>(cx, 0, dtype, dims)?;
        let extents = [x.len().checked_div(width).unwrap_or(0), width];
        let norm = Norm { epsilon: self.epsilon, centred: false };
        let scale = scale.as_ref().map(|scale| scale.as_slice::<f32>()).transpose()?;
        if let Some(scale) = scale.filter(|scale| scale.len() != width && scale.len() != width * branches) {
            return Err(OpError::invalid(format!(
                "the scale has {} values for {branches} × {width}",
                scale.len()
            )));
        }
        let shared = scale.filter(|scale| scale.len() == width);
        f32::normalize(&cpu, norm, x.as_slice()?, extents, [shared, None], y.slice::<f32>()?, [None, None])?;
        if let (Some(scale), None) = (scale, shared) {
            for_rows(cx.parallel(), y.slice::<f32>()?, width, width, &|index, row| {
                let scale = &scale[index % branches * width..];
                row.iter_mut().zip(scale).for_each(|(value, scale)| *value *= scale);
            });
        }
        y.finish(cx)
    }
}

/// GatedRMSNorm: a root-mean-square norm times an activated gate.
struct Gated {
    epsilon: f32,
    sigmoid: bool,
}

pub fn build_gated(node: &Node) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(0))?;
    let sigmoid = match node.string("activation", "silu")? {
        "silu" | "swish" => false,
        "sigmoid" => true,
        other => {
            return Err(OpError::invalid(format!("activation '{other}' is none of silu, swish, sigmoid")));
        }
    };
    Ok(Box::new(Gated { epsilon: node.float("epsilon", 1e-5)?, sigmoid }))
}

impl Kernel for Gated {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        let x = real::load_input::<f32>(cx, 0)?;
        let scale = real::load_input::<f32>(cx, 1)?;
        let gate = real::load_input::<f32>(cx, 2)?;
        let width = scale.len();
        let last = x.dims().last().copied().unwrap_or(0);
        if width == 0 || !last.is_multiple_of(width) || gate.dims() != x.dims() {
            return Err(OpError::invalid(format!(
                "input {:?}, scale {:?} and gate {:?} do not fit each other",
                x.dims(),
                scale.dims(),
                gate.dims()
            )));
        }
        let cpu = cx.cpu();
        let mut y = Output::new::<f32>(cx, 0, dtype, x.dims())?;
        let norm = Norm { epsilon: self.epsilon, centred: false };
        let affine = [Some(scale.as_slice::<f32>()?), None];
        f32::normalize(
            &cpu,
            norm,
            x.as_slice()?,
            [x.len() / width, width],
            affine,
            y.slice::<f32>()?,
            [None, None],
        )?;
        let gate = gate.as_slice::<f32>()?;
        for_rows(cx.parallel(), y.slice::<f32>()?, width, width * 16, &|index, row| {
            for (value, &gate) in row.iter_mut().zip(&gate[index * width..]) {
                *value *= if self.sigmoid { gate.sigmoid() } else { gate * gate.sigmoid() };
            }
        });
        y.finish(cx)
    }
}
