//! Pooling over windows and over whole planes: MaxPool, AveragePool, LpPool, their global forms, NhwcMaxPool.

use tenon_kernels::cpu::pool as kernel;

use super::real::{self, Output, Real, with_real};
use super::rows::for_rows;
use super::window::{Geometry, Window};
use super::{NEWEST, Operator};
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::{Attribute, Node};
use crate::tensor::{DType, Dims, Element};

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("MaxPool", 1, NEWEST, build_max),
    Operator::onnx("AveragePool", 1, NEWEST, build_average),
    Operator::onnx("LpPool", 1, NEWEST, build_lp),
    Operator::onnx("GlobalMaxPool", 1, NEWEST, build_global_max),
    Operator::onnx("GlobalAveragePool", 1, NEWEST, build_global_average),
    Operator::onnx("GlobalLpPool", 1, NEWEST, build_global_lp),
    Operator::of("com.microsoft", "NhwcMaxPool", build_nhwc_max),
];

/// Splits a shape into planes and spatial sizes.
fn planes(dims: &[usize]) -> Result<(usize, &[usize])> {
    if dims.len() < 3 {
        return Err(OpError::invalid(format!(
            "pooling takes batch, channels and spatial axes, got shape {dims:?}"
        )));
    }
    Ok((dims[0] * dims[1], &dims[2..]))
}

fn output_dims(input: &[usize], geometry: &Geometry) -> Dims {
    input[..2].iter().chain(&geometry.output).copied().collect()
}

/// Folds the window of every output of row `row` into `out` with `f`.
fn fold_row<T: Copy>(geometry: &Geometry, plane: &[T], row: usize, out: &mut [T], f: impl Fn(&mut T, T)) {
    let last = geometry.input.len() - 1;
    let (width, stride) = (geometry.input[last], geometry.strides[last]);
    for kernel_row in 0..geometry.kernel_rows() {
        let Some(start) = geometry.input_row(row, kernel_row) else { continue };
        let line = &plane[start..start + width];
        for k in 0..geometry.kernel[last] {
            let (columns, first) = geometry.columns(k);
            let out = &mut out[columns];
            match stride {
                1 => out.iter_mut().zip(&line[first..]).for_each(|(out, &x)| f(out, x)),
                2 => out.iter_mut().zip(line[first..].chunks(2)).for_each(|(out, x)| f(out, x[0])),
                _ => out.iter_mut().zip(line[first..].iter().step_by(stride)).for_each(|(out, &x)| f(out, x)),
            }
        }
    }
}

/// Pools an f32, f16 or bf16 input with the vector kernel; `None` when a negative padding crops the input.
fn pool_f32(cx: &mut Context<'_>, window: &Window, kind: kernel::Pool) -> Result<Option<()>> {
    let dtype = cx.input(0)?.dtype();
    let x = real::load_input::<f32>(cx, 0)?;
    let (count, spatial) = planes(x.dims())?;
    let geometry = window.fit(spatial, &window.kernel)?;
    let Some(fitted) = geometry.kernel_window() else { return Ok(None) };
    let mut y = Output::new::<f32>(cx, 0, dtype, &output_dims(x.dims(), &geometry))?;
    let cpu = cx.cpu();
    kernel::pool(cpu, kind, &fitted, count, x.as_slice()?, y.slice::<f32>()?)?;
    y.finish(cx).map(Some)
}

// ---- MaxPool ----

struct MaxPool {
    window: Window,
    column_major: bool,
}

fn build_max(node: &Node) -> Result<Box<dyn Kernel>> {
    match node.input_dtype(0) {
        DType::I8 | DType::U8 => {}
        other => real::check(other)?,
    }
    Ok(Box::new(MaxPool { window: Window::of(node)?, column_major: node.flag("storage_order", false)? }))
}

impl Kernel for MaxPool {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        match cx.input(0)?.dtype() {
            DType::I8 => self.run_integer::<i8>(cx, i8::MIN),
            DType::U8 => self.run_integer::<u8>(cx, u8::MIN),
            DType::F64 => self.run_real::<f64>(cx),
            dtype => {
                real::check(dtype)?;
                if !cx.wants(1) && pool_f32(cx, &self.window, kernel::Pool::Max)?.is_some() {
                    return Ok(());
                }
                self.run_real::<f32>(cx)
            }
        }
    }
}

impl MaxPool {
    fn run_real<T: Real>(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        let x = real::load_input::<T>(cx, 0)?;
        let (_, spatial) = planes(x.dims())?;
        let geometry = self.window.fit(spatial, &self.window.kernel)?;
        let dims = output_dims(x.dims(), &geometry);
        let mut y = Output::new::<T>(cx, 0, dtype, &dims)?;
        self.pool(cx, &geometry, x.as_slice::<T>()?, y.slice::<T>()?, -T::INFINITY, &dims)?;
        y.finish(cx)
    }

    fn run_integer<T: Element + PartialOrd>(&self, cx: &mut Context<'_>, lowest: T) -> Result<()> {
        let x = cx.input(0)?.clone();
        let (_, spatial) = planes(x.dims())?;
        let geometry = self.window.fit(spatial, &self.window.kernel)?;
        let dims = output_dims(x.dims(), &geometry);
        let mut y = cx.output(0, T::DTYPE, &dims)?;
        self.pool(cx, &geometry, x.as_slice::<T>()?, y.as_mut_slice::<T>()?, lowest, &dims)?;
        cx.set(0, y);
        Ok(())
    }

    /// Pools every plane, and finds the positions of the maxima where the model asks for them.
    fn pool<T: Element + PartialOrd>(
        &self,
        cx: &mut Context<'_>,
        geometry: &Geometry,
        x: &[T],
        y: &mut [T],
        lowest: T,
        dims: &[usize],
    ) -> Result<()> {
        let (input_len, output_len) = (geometry.input_len(), geometry.output_len());
        let width = geometry.output[geometry.output.len() - 1];
        let work = output_len * geometry.kernel_len();
        if !cx.wants(1) {
            for_rows(cx.parallel(), y, output_len, work, &|index, y| {
                let plane = &x[index * input_len..][..input_len];
                for (row, out) in y.chunks_exact_mut(width).enumerate() {
                    out.fill(lowest);
                    fold_row(geometry, plane, row, out, |out, x| {
                        if x > *out {
                            *out = x;
                        }
                    });
                }
            });
            return Ok(());
        }
        let Some(fitted) = geometry.kernel_window() else {
            return Err(OpError::unsupported("MaxPool with indices has no kernel for negative padding"));
        };
        let mut indices = cx.output(1, DType::I64, dims)?;
        let cpu = cx.cpu();
        let at = indices.as_mut_slice::<i64>()?;
        kernel::max_pool_indices(cpu, &fitted, dims[0] * dims[1], x, lowest, self.column_major, y, at)?;
        cx.set(1, indices);
        Ok(())
    }
}

// ---- AveragePool and LpPool ----

/// What is done with the elements of a window.
#[derive(Clone, Copy)]
enum Mean {
    /// The sum divided by the count; the padding counts where `with_padding`.
    Average { with_padding: bool },
    /// `(sum of |x|^p)^(1/p)`.
    Norm { p: f64 },
}

struct MeanPool {
    window: Window,
    mean: Mean,
}

fn build_average(node: &Node) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(0))?;
    let mean = Mean::Average { with_padding: node.flag("count_include_pad", false)? };
    Ok(Box::new(MeanPool { window: Window::of(node)?, mean }))
}

fn build_lp(node: &Node) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(0))?;
    Ok(Box::new(MeanPool { window: Window::of(node)?, mean: Mean::Norm { p: norm_order(node)? } }))
}

/// The attribute `p`: a float in version 1, an integer since.
fn norm_order(node: &Node) -> Result<f64> {
    let p = match node.attributes.get("p") {
        None => 2.0,
        Some(Attribute::Int(p)) => *p as f64,
        Some(Attribute::Float(p)) => f64::from(*p),
        Some(other) => {
            return Err(OpError::invalid(format!("attribute 'p' must be a number, got {other:?}")));
        }
    };
    if p > 0.0 {
        Ok(p)
    } else {
        Err(OpError::invalid(format!("attribute 'p' is {p}, expected a positive number")))
    }
}

impl Kernel for MeanPool {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let kind = match self.mean {
            Mean::Average { with_padding } => kernel::Pool::Average { count_include_pad: with_padding },
            Mean::Norm { p } if p == f64::from(p as i32) => kernel::Pool::Lp { p: p as i32 },
            Mean::Norm { .. } => return with_real!(cx.input(0)?.dtype(), T => self.run_typed::<T>(cx)),
        };
        match cx.input(0)?.dtype() {
            DType::F64 => self.run_typed::<f64>(cx),
            dtype => {
                real::check(dtype)?;
                match pool_f32(cx, &self.window, kind)? {
                    Some(()) => Ok(()),
                    None => self.run_typed::<f32>(cx),
                }
            }
        }
    }
}

impl MeanPool {
    fn run_typed<T: Real>(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        let x = real::load_input::<T>(cx, 0)?;
        let (_, spatial) = planes(x.dims())?;
        let geometry = self.window.fit(spatial, &self.window.kernel)?;
        let dims = output_dims(x.dims(), &geometry);
        let mut y = Output::new::<T>(cx, 0, dtype, &dims)?;
        let x = x.as_slice::<T>()?;
        let (input_len, output_len) = (geometry.input_len(), geometry.output_len());
        let width = geometry.output[geometry.output.len() - 1];
        let divisors = match self.mean {
            Mean::Average { with_padding } => divisors::<T>(&geometry, with_padding),
            Mean::Norm { .. } => Vec::new(),
        };
        let work = output_len * geometry.kernel_len();
        for_rows(cx.parallel(), y.slice::<T>()?, output_len, work, &|index, y| {
            let plane = &x[index * input_len..][..input_len];
            for (row, out) in y.chunks_exact_mut(width).enumerate() {
                out.fill(T::ZERO);
                match self.mean {
                    Mean::Average { .. } => {
                        fold_row(&geometry, plane, row, out, |out, x| *out += x);
                        out.iter_mut().zip(&divisors[row * width..]).for_each(|(out, &n)| *out = *out / n);
                    }
                    Mean::Norm { p } => {
                        fold_row(&geometry, plane, row, out, |out, x| *out += power(x, p));
                        out.iter_mut().for_each(|out| *out = root(*out, p));
                    }
                }
            }
        });
        y.finish(cx)
    }
}

/// How many elements the window of each output covers.
fn divisors<T: Real>(geometry: &Geometry, with_padding: bool) -> Vec<T> {
    let mut counts = vec![1usize];
    for axis in 0..geometry.output.len() {
        let along: Vec<usize> =
            (0..geometry.output[axis]).map(|o| geometry.covered(axis, o, with_padding)).collect();
        counts = counts.iter().flat_map(|&outer| along.iter().map(move |&inner| outer * inner)).collect();
    }
    counts.into_iter().map(|count| T::from_f64(count.max(1) as f64)).collect()
}

fn power<T: Real>(x: T, p: f64) -> T {
    if p == 2.0 {
        x * x
    } else if p == 1.0 {
        x.abs()
    } else {
        x.abs().powf(T::from_f64(p))
    }
}

fn root<T: Real>(x: T, p: f64) -> T {
    if p == 2.0 {
        x.sqrt()
    } else if p == 1.0 {
        x
    } else {
        x.powf(T::from_f64(1.0 / p))
    }
}

// ---- Global pools ----

#[derive(Clone, Copy)]
enum Whole {
    Max,
    Average,
    Norm(f64),
}

struct GlobalPool(Whole);

fn build_global_max(node: &Node) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(0))?;
    Ok(Box::new(GlobalPool(Whole::Max)))
}

fn build_global_average(node: &Node) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(0))?;
    Ok(Box::new(GlobalPool(Whole::Average)))
}

fn build_global_lp(node: &Node) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(0))?;
    Ok(Box::new(GlobalPool(Whole::Norm(norm_order(node)?))))
}

impl Kernel for GlobalPool {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        with_real!(cx.input(0)?.dtype(), T => self.run_typed::<T>(cx))
    }
}

impl GlobalPool {
    fn run_typed<T: Real>(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        let x = real::load_input::<T>(cx, 0)?;
        let (_, spatial) = planes(x.dims())?;
        let len: usize = spatial.iter().product();
        let dims: Dims = x.dims()[..2].iter().copied().chain(std::iter::repeat_n(1, spatial.len())).collect();
        let mut y = Output::new::<T>(cx, 0, dtype, &dims)?;
        let x = x.as_slice::<T>()?;
        for_rows(cx.parallel(), y.slice::<T>()?, 1, len, &|index, y| {
            let plane = &x[index * len..][..len];
            y[0] = match self.0 {
                Whole::Max => plane.iter().fold(-T::INFINITY, |best, &x| best.maximum(x)),
                Whole::Average => sum(plane, |x| x) / T::from_f64(len as f64),
                Whole::Norm(p) => root(sum(plane, |x| power(x, p)), p),
            };
        });
        y.finish(cx)
    }
}

/// Elements that are summed in their own precision; the sums of blocks are added in `f64`.
const SUM_BLOCK: usize = 512;

/// A sum that neither loses precision on long planes nor serialises.
fn sum<T: Real>(values: &[T], f: impl Fn(T) -> T) -> T {
    let blocks = values.chunks(SUM_BLOCK).map(|block| sum_in_lanes(block, &f).to_f64());
    T::from_f64(blocks.sum())
}

/// A sum in eight lanes.
fn sum_in_lanes<T: Real>(values: &[T], f: impl Fn(T) -> T) -> T {
    let mut lanes = [T::ZERO; 8];
    let mut blocks = values.chunks_exact(8);
    for block in &mut blocks {
        for (lane, &value) in lanes.iter_mut().zip(block) {
            *lane += f(value);
        }
    }
    lanes.into_iter().sum::<T>() + blocks.remainder().iter().map(|&value| f(value)).sum::<T>()
}

// ---- NhwcMaxPool ----

struct NhwcMaxPool {
    window: Window,
}

fn build_nhwc_max(node: &Node) -> Result<Box<dyn Kernel>> {
    match node.input_dtype(0) {
        DType::I8 | DType::U8 | DType::Undefined => {}
        other => return Err(OpError::unsupported(format!("NhwcMaxPool takes int8 or uint8, got {other}"))),
    }
    Ok(Box::new(NhwcMaxPool { window: Window::of(node)? }))
}

impl Kernel for NhwcMaxPool {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        match cx.input(0)?.dtype() {
            DType::I8 => self.run_typed::<i8>(cx, i8::MIN),
            DType::U8 => self.run_typed::<u8>(cx, u8::MIN),
            other => Err(OpError::unsupported(format!("NhwcMaxPool takes int8 or uint8, got {other}"))),
        }
    }
}

impl NhwcMaxPool {
    fn run_typed<T: Element + Ord>(&self, cx: &mut Context<'_>, lowest: T) -> Result<()> {
        let x = cx.input(0)?.clone();
        let dims = x.dims();
        if dims.len() < 3 {
            return Err(OpError::invalid(format!(
                "pooling takes batch, spatial axes and channels, got shape {dims:?}"
            )));
        }
        let channels = dims[dims.len() - 1];
        let geometry = self.window.fit(&dims[1..dims.len() - 1], &self.window.kernel)?;
        let mut out_dims: Dims = dims.into();
        out_dims[1..dims.len() - 1].copy_from_slice(&geometry.output);
        let mut y = cx.output(0, T::DTYPE, &out_dims)?;
        let x = x.as_slice::<T>()?;
        let last = geometry.input.len() - 1;
        let (width, image) = (geometry.output[last], geometry.input_len() * channels);
        let rows = geometry.output_rows();
        let work = width * channels * geometry.kernel_len();
        for_rows(cx.parallel(), y.as_mut_slice::<T>()?, width * channels, work, &|index, out| {
            let image = &x[index / rows * image..][..image];
            out.fill(lowest);
            for kernel_row in 0..geometry.kernel_rows() {
                let Some(start) = geometry.input_row(index % rows, kernel_row) else { continue };
                for k in 0..geometry.kernel[last] {
                    let (columns, first) = geometry.columns(k);
                    for (i, column) in columns.enumerate() {
                        let pixel =
                            &image[(start + first + i * geometry.strides[last]) * channels..][..channels];
                        let out = &mut out[column * channels..][..channels];
                        out.iter_mut().zip(pixel).for_each(|(out, &x)| *out = (*out).max(x));
                    }
                }
            }
        });
        cx.set(0, y);
        Ok(())
    }
}
