//! Elements computed from those around a place: grid sampling, resampling with wide kernels, local response normalisation,
//! blocks summed back into images. The kernels are `device/window.cu`.

use super::launch::{Arg, Plan};
use super::pool::ResizeDim;
use super::scalar::{self, Scalar, Structure, blocks, kernel, launch, overlapping, pointer};
use super::unit::{Text, Unit};
use crate::error::{KernelError, Result};
use crate::estimate::Cost;

/// Checks that a kernel computes `total` elements of `scalar`; gives them as a number.
fn check(name: &str, scalar: Scalar, total: usize) -> Result<u32> {
    if !scalar.is_float() {
        return Err(KernelError::parameter(format!("{name} of type {}", scalar.suffix())));
    }
    match i32::try_from(total) {
        Ok(total) => Ok(total as u32),
        Err(_) => Err(KernelError::shape(format!("{name} of {total} elements: at most 2^31 - 1"))),
    }
}

/// How the value between pixels is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum GridMode {
    Nearest,
    Linear,
    Cubic,
}

/// What lies around an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum GridPadding {
    Zeros,
    Border,
    Reflection,
}

/// Sampling of images `[batch, channels, spatial..]` at points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GridSample {
    pub scalar: Scalar,
    /// f32, f16 or bf16.
    pub grid: Scalar,
    pub batch: usize,
    pub channels: usize,
    /// One to three dimensions, outermost first.
    pub spatial: Vec<usize>,
    /// Of one image.
    pub points: usize,
    pub mode: GridMode,
    pub padding: GridPadding,
    pub aligns_corners: bool,
}

impl GridSample {
    /// Operands: 0 the result `[batch, channels, points]`, 1 the images, 2 the grid `[batch, points, rank]`, innermost
    /// dimension first.
    pub fn plan(&self) -> Result<Plan> {
        let total = self.batch * self.channels * self.points;
        let count = check("grid sampling", self.scalar, total)?;
        check("a grid", self.grid, self.batch * self.points * 3)?;
        let rank = self.spatial.len();
        let area: usize = self.spatial.iter().product();
        if !(1..=3).contains(&rank)
            || (total > 0 && area == 0)
            || self.spatial.iter().any(|&size| size >= 1 << 23)
        {
            return Err(KernelError::shape(format!("sampling of images of {:?}", self.spatial)));
        }
        if total == 0 {
            return Ok(Plan::default());
        }
        let parameters = Structure::default()
            .u32s::<3>([count, self.channels as u32, self.points as u32], 0)
            .u32s::<3>(self.spatial.iter().rev().map(|&size| size as u32), 1)
            .u32s::<3>([rank as u32, self.mode as u32, self.padding as u32], 0)
            .u32(self.aligns_corners.into())
            .u32(self.grid as u32)
            .finish();
        let images = self.batch * self.channels * area;
        let bytes = ((total + images) * self.scalar.bytes() + total * rank * self.grid.bytes()) as f64;
        let args = [0, 1, 2].map(pointer).into_iter().chain([parameters]).collect();
        let symbol = format!("grid_sample_{}_r{rank}", self.scalar.suffix());
        let cost = Cost { flops: 60.0 * total as f64, bytes };
        Ok(overlapping(launch(symbol, [blocks(total), 1, 1], args, cost)))
    }
}

/// The kernel of a resampling: triangular, or cubic with a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Filter {
    pub cubic: Option<f32>,
    /// Pixels outside count nothing instead of as the border.
    pub excludes_outside: bool,
    /// The kernel is as wide as the pixels of the result.
    pub is_antialiased: bool,
}

/// One axis of `[outer, dim.input, inner]` resampled. `scale`: pixels of the result for one of the input. Operands: 0 the
/// result of type `to`, 1 the input of type `from`; two different types have f32 among them.
pub fn resample(
    (from, to): (Scalar, Scalar),
    outer: usize,
    dim: ResizeDim,
    inner: usize,
    scale: f32,
    filter: Filter,
) -> Result<Plan> {
    let total = outer * dim.output * inner;
    let count = check("resampling", to, total)?;
    check("resampling", from, outer * dim.input * inner)?;
    let shrink = if filter.is_antialiased { scale.min(1.0) } else { 1.0 };
    let is_positive = shrink > 0.0;
    if total > 0 && (dim.input == 0 || !is_positive) {
        return Err(KernelError::shape(format!("resampling of {} pixels by {scale}", dim.input)));
    }
    if total == 0 {
        return Ok(Plan::default());
    }
    let parameters = Structure::default()
        .u32s::<4>([count, dim.input as u32, dim.output as u32, inner as u32], 0)
        .f32s::<4>([dim.times, dim.over, dim.shift, dim.offset])
        .f32(shrink)
        .f32(filter.cubic.unwrap_or(0.0))
        .u32(filter.cubic.is_some().into())
        .u32(filter.excludes_outside.into())
        .u32((filter.excludes_outside || filter.is_antialiased).into())
        .finish();
    let bytes = total * to.bytes() + outer * dim.input * inner * from.bytes();
    let cost = Cost { flops: 40.0 * total as f64 / f64::from(shrink), bytes: bytes as f64 };
    let symbol = format!("resample_{}_{}", from.suffix(), to.suffix());
    Ok(overlapping(launch(symbol, [blocks(total), 1, 1], vec![pointer(0), pointer(1), parameters], cost)))
}

/// Local response normalisation of `[batch, channels, inner]` over `size` channels. Operands: 0 the result, 1 the input.
pub fn local_response(
    scalar: Scalar,
    [batch, channels, inner]: [usize; 3],
    size: usize,
    [alpha, beta, bias]: [f32; 3],
) -> Result<Plan> {
    let total = batch * channels * inner;
    let count = check("response normalisation", scalar, total)?;
    if total == 0 {
        return Ok(Plan::default());
    }
    let sizes = [count, channels as u32, inner as u32, size as u32].map(Arg::U32);
    let args = [pointer(0), pointer(1)].into_iter().chain(sizes).chain([alpha, beta, bias].map(Arg::F32));
    let cost = Cost { flops: (2 * size * total) as f64, bytes: (2 * total * scalar.bytes()) as f64 };
    let symbol = format!("local_response_{}", scalar.suffix());
    Ok(overlapping(launch(symbol, [blocks(total), 1, 1], args.collect(), cost)))
}

/// One dimension of blocks that are summed into an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoldDim {
    pub image: usize,
    pub block: usize,
    /// Blocks along it.
    pub count: usize,
    pub stride: usize,
    pub dilation: usize,
    /// In front.
    pub pad: usize,
}

/// Blocks `[planes, block.., count..]` summed into images `[planes, image..]`; `dims` outermost first, one to three.
/// Operands: 0 the images, 1 the blocks.
pub fn fold_blocks(scalar: Scalar, planes: usize, dims: &[FoldDim]) -> Result<Plan> {
    let product = |size: fn(&FoldDim) -> usize| dims.iter().map(size).product::<usize>();
    let area = product(|dim| dim.image);
    let blocks_elements = planes * product(|dim| dim.block) * product(|dim| dim.count);
    let total = check("summed blocks", scalar, planes * area)?;
    check("blocks", scalar, blocks_elements)?;
    if dims.is_empty() || dims.len() > 3 || dims.iter().any(|dim| dim.stride == 0) {
        return Err(KernelError::shape(format!("blocks of {} dimensions", dims.len())));
    }
    if total == 0 {
        return Ok(Plan::default());
    }
    let inner_first = |size: fn(&FoldDim) -> usize| dims.iter().rev().map(move |dim| size(dim) as u32);
    let parameters = Structure::default()
        .u32(total)
        .u32(area as u32)
        .u32s::<3>(inner_first(|dim| dim.image), 1)
        .u32s::<3>(inner_first(|dim| dim.block), 1)
        .u32s::<3>(inner_first(|dim| dim.count), 1)
        .u32s::<3>(inner_first(|dim| dim.stride), 1)
        .u32s::<3>(inner_first(|dim| dim.dilation), 1)
        .u32s::<3>(inner_first(|dim| dim.pad), 0)
        .finish();
    let bytes = ((planes * area + blocks_elements) * scalar.bytes()) as f64;
    let cost = Cost { flops: blocks_elements as f64, bytes };
    let symbol = format!("fold_blocks_{}", scalar.suffix());
    let args = vec![pointer(0), pointer(1), parameters];
    Ok(overlapping(launch(symbol, [blocks(planes * area), 1, 1], args, cost)))
}

/// What the build compiles.
pub fn unit(arch: Text) -> Unit {
    let own = Text { path: "device/window.cu", text: include_str!("../../device/window.cu") };
    let mut symbols = Vec::new();
    for suffix in ["f32", "f16", "bf16"] {
        symbols.extend([1, 2, 3].map(|rank| format!("grid_sample_{suffix}_r{rank}")));
        symbols.extend(["local_response", "fold_blocks"].map(|name| format!("{name}_{suffix}")));
        symbols.push(format!("resample_{suffix}_{suffix}"));
        if suffix != "f32" {
            symbols.extend([format!("resample_{suffix}_f32"), format!("resample_f32_{suffix}")]);
        }
    }
    Unit {
        name: "window".into(),
        texts: vec![arch, scalar::TEXT, own],
        defines: Vec::new(),
        kernels: symbols.into_iter().map(kernel).collect(),
    }
}
