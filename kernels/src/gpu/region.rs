//! Values at places that tensors name: regions of interest, windows moved by offsets, grids of an affine transformation.
//! The kernels are `device/region.cu`.

use super::launch::Plan;
use super::scalar::{self, Scalar, Structure, blocks, kernel, launch, overlapping, pointer};
use super::unit::{Text, Unit};
use crate::error::{KernelError, Result};
use crate::estimate::Cost;

/// Blocks that go over columns, at most.
const MOST_BLOCKS: u32 = 1 << 16;

fn check(name: &str, scalar: Scalar, total: usize) -> Result<u32> {
    if !scalar.is_float() {
        return Err(KernelError::parameter(format!("{name} of type {}", scalar.suffix())));
    }
    match i32::try_from(total) {
        Ok(total) => Ok(total as u32),
        Err(_) => Err(KernelError::shape(format!("{name} of {total} elements: at most 2^31 - 1"))),
    }
}

/// What a bin of a region becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of bilinear samples, or the largest of their weighted pixels; `samples` along each side of a bin, 0 for as
    /// many as it has pixels.
    Align { samples: u32, is_max: bool, half_pixel: bool },
    /// The largest pixel.
    Max,
}

/// Regions of images `[images, channels, height, width]`, each pooled to `[rows, columns]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Regions {
    pub scalar: Scalar,
    pub count: usize,
    pub images: [usize; 4],
    pub bins: [usize; 2],
    pub scale: f32,
    pub pooling: Pooling,
}

impl Regions {
    /// Operands: 0 the result `[count, channels, rows, columns]`, 1 the images, 2 the regions, 3 the number of each
    /// region's image as i64. Without operand 3 (`Max`) the number comes before a region's corners. A region of no image
    /// gives NaN.
    pub fn plan(&self) -> Result<Plan> {
        let [images, channels, height, width] = self.images;
        let [rows, columns] = self.bins;
        let total = check("regions", self.scalar, self.count * channels * rows * columns)?;
        if height * width >= 1 << 31 || (total > 0 && images * height * width == 0) {
            return Err(KernelError::shape(format!("regions of images {:?}", self.images)));
        }
        if total == 0 {
            return Ok(Plan::default());
        }
        let (samples, is_max, half_pixel) = match self.pooling {
            Pooling::Align { samples, is_max, half_pixel } => (samples, is_max, half_pixel),
            Pooling::Max => (0, true, false),
        };
        let sizes = [images, channels, height, width, rows, columns].map(|size| size as u32);
        let parameters = Structure::default()
            .u32(self.scalar as u32)
            .u32(total)
            .u32s::<6>(sizes, 0)
            .u32s::<3>([samples, is_max.into(), half_pixel.into()], 0)
            .f32(self.scale)
            .finish();
        let reads = 4.0 * f64::from(samples.max(2)).powi(2) * f64::from(total);
        let cost = Cost { flops: 8.0 * reads, bytes: reads * self.scalar.bytes() as f64 };
        let (symbol, count) = match self.pooling {
            Pooling::Align { .. } => ("region_align", 4),
            Pooling::Max => ("region_max", 3),
        };
        let args = (0..count).map(pointer).chain([parameters]).collect();
        Ok(overlapping(launch(symbol.into(), [blocks(total as usize), 1, 1], args, cost)))
    }
}

/// Windows over images `[images, channels, height, width]` whose elements are moved. Pairs are rows, then columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deform {
    pub scalar: Scalar,
    pub images: [usize; 4],
    pub kernel: [usize; 2],
    pub strides: [usize; 2],
    pub dilations: [usize; 2],
    /// In front.
    pub pads: [i64; 2],
    /// Windows.
    pub output: [usize; 2],
    /// Offsets that neighbouring channels share count once.
    pub offset_groups: usize,
    pub has_mask: bool,
}

impl Deform {
    /// Elements of the columns.
    pub fn columns(&self) -> usize {
        self.images[0] * self.images[1] * self.taps() * self.points()
    }

    fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    fn points(&self) -> usize {
        self.output.iter().product()
    }

    /// Operands: 0 the columns `[images, channels, taps, points]`, 1 the images, 2 the offsets `[images, offset_groups,
    /// taps, 2, points]`, 3 the mask `[images, offset_groups, taps, points]`.
    pub fn plan(&self) -> Result<Plan> {
        let [images, channels, height, width] = self.images;
        let rows = images * channels * self.taps();
        check("moved windows", self.scalar, height.max(1) * width.max(1))?;
        let lists = [self.kernel, self.strides, self.dilations, self.output];
        let fits = lists.iter().flatten().all(|&size| size < 1 << 24)
            && self.pads.iter().all(|&pad| (0..1 << 24).contains(&pad));
        if !fits || rows >= 1 << 31 || self.points() >= 1 << 31 {
            return Err(KernelError::shape(format!("{rows} rows of {} moved windows", self.points())));
        }
        if self.offset_groups == 0 || !channels.is_multiple_of(self.offset_groups) {
            return Err(KernelError::shape(format!(
                "{} offsets for {channels} channels",
                self.offset_groups
            )));
        }
        let total = self.columns();
        if total == 0 {
            return Ok(Plan::default());
        }
        let pair = |pair: [usize; 2]| pair.map(|size| size as u32);
        let parameters = Structure::default()
            .u32s::<4>([self.scalar as usize, images, channels, self.points()].map(|size| size as u32), 0)
            .u32s::<2>(pair([height, width]), 1)
            .u32s::<2>(pair(self.kernel), 1)
            .u32s::<2>(pair(self.strides), 1)
            .u32s::<2>(pair(self.dilations), 1)
            .i32s::<2>(self.pads.map(|pad| pad as i32))
            .u32s::<2>(pair([self.output[1], channels / self.offset_groups]), 1)
            .finish();
        let cost = Cost { flops: 16.0 * total as f64, bytes: 2.0 * (total * self.scalar.bytes()) as f64 };
        let mask = pointer(if self.has_mask { 3 } else { 4 });
        let args = vec![pointer(0), pointer(1), pointer(2), mask, parameters];
        let grid = [blocks(total).min(MOST_BLOCKS), 1, 1];
        Ok(overlapping(launch("deform_columns".into(), grid, args, cost)))
    }
}

/// Positions `[grids, spatial.., rank]` that matrices `[grids, rank, rank + 1]` move; `spatial` outermost first, one to
/// three. Types are f32, f16, bf16 and f64. Operands: 0 the positions, 1 the matrices.
pub fn affine_grid(scalar: Scalar, grids: usize, spatial: &[usize], aligns_corners: bool) -> Result<Plan> {
    let (rank, points) = (spatial.len(), spatial.iter().product::<usize>());
    let real = if scalar == Scalar::F64 { Scalar::F32 } else { scalar };
    let total = check("grids", real, grids * points)?;
    if !(1..=3).contains(&rank) {
        return Err(KernelError::shape(format!("grids of {rank} dimensions")));
    }
    if total == 0 {
        return Ok(Plan::default());
    }
    let parameters = Structure::default()
        .u32s::<4>([scalar as u32, total, rank as u32, aligns_corners.into()], 0)
        .u32(points as u32)
        .u32s::<3>(spatial.iter().rev().map(|&size| size as u32), 1)
        .finish();
    let cost =
        Cost { flops: 10.0 * f64::from(total), bytes: (grids * points * rank * scalar.bytes()) as f64 };
    let args = vec![pointer(0), pointer(1), parameters];
    Ok(overlapping(launch("affine_grid".into(), [blocks(total as usize), 1, 1], args, cost)))
}

/// What the build compiles.
pub fn unit(arch: Text) -> Unit {
    let own = Text { path: "device/region.cu", text: include_str!("../../device/region.cu") };
    Unit {
        name: "region".into(),
        texts: vec![arch, scalar::TEXT, own],
        defines: Vec::new(),
        kernels: ["region_align", "region_max", "deform_columns", "affine_grid"].map(kernel).into(),
    }
}
