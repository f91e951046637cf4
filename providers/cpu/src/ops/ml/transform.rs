//! Feature transforms: ArrayFeatureExtractor, Binarizer, FeatureVectorizer, Imputer, Normalizer, OneHotEncoder, Scaler.

use super::{DOMAIN, check_numeric};
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::Operator;
use crate::ops::cast::converted;
use crate::ops::layout::text::{Strings, write};
use crate::tensor::{DType, Dims, Element};

/// Picks features by index along the last axis.
struct Extract;

impl Kernel for Extract {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (x, indices) = (cx.input(0)?, cx.input(1)?.to_i64s()?);
        let width = x.dims().last().copied().unwrap_or(1);
        let picks: Vec<usize> = indices
            .iter()
            .map(|&index| usize::try_from(index).ok().filter(|&index| index < width))
            .collect::<Option<_>>()
            .ok_or_else(|| {
                OpError::invalid(format!("feature indices {indices:?} leave the {width} features"))
            })?;
        let mut dims: Dims = x.dims().into();
        match dims.last_mut() {
            Some(last) => *last = picks.len(),
            None => dims.push(picks.len()),
        }
        if dims.len() == 1 {
            dims.insert(0, 1);
        }
        let rows = x.len() / width.max(1);
        if x.dtype() == DType::String {
            let strings = Strings::new(x)?;
            let out = write(cx, 0, &dims, |i| strings.get(i / picks.len() * width + picks[i % picks.len()]))?;
            cx.set(0, out);
            return Ok(());
        }
        let size = x.dtype().bits() / 8;
        if size == 0 {
            return Err(OpError::unsupported(format!("features cannot be of element type {}", x.dtype())));
        }
        let mut out = cx.output(0, x.dtype(), &dims)?;
        let (from, to) = (x.as_bytes(), out.as_bytes_mut());
        for (i, cell) in to.chunks_exact_mut(size).enumerate().take(rows * picks.len()) {
            let at = (i / picks.len() * width + picks[i % picks.len()]) * size;
            cell.copy_from_slice(&from[at..at + size]);
        }
        cx.set(0, out);
        Ok(())
    }
}

/// 1 above the threshold, else 0.
struct Binarizer {
    threshold: f32,
}

impl Kernel for Binarizer {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let input = cx.input(0)?;
        let dtype = input.dtype();
        let wide = converted(cx, input, DType::F64)?;
        let mut bits = cx.scratch(DType::U8, wide.dims())?;
        for (bit, &x) in bits.as_bytes_mut().iter_mut().zip(wide.as_slice::<f64>()?) {
            *bit = u8::from(x > f64::from(self.threshold));
        }
        crate::ops::cast::set_converted(cx, 0, bits, dtype)
    }
}

/// Inputs side by side as f32 features.
struct Vectorizer;

impl Kernel for Vectorizer {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let mut parts = Vec::with_capacity(cx.input_count());
        for index in 0..cx.input_count() {
            let part = converted(cx, cx.input(index)?, DType::F32)?;
            let rows = if part.rank() >= 2 { part.dims()[0] } else { 1 };
            parts.push((part, rows));
        }
        let rows = parts.first().map_or(0, |part| part.1);
        if parts.iter().any(|part| part.1 != rows) {
            return Err(OpError::invalid("the inputs differ in their number of rows"));
        }
        let width: usize = parts.iter().map(|part| part.0.len() / rows.max(1)).sum();
        let mut out = cx.output(0, DType::F32, &[rows, width])?;
        let y = out.as_mut_slice::<f32>()?;
        let mut column = 0;
        for (part, _) in &parts {
            let own = part.len() / rows.max(1);
            for (row, features) in part.as_slice::<f32>()?.chunks_exact(own.max(1)).enumerate() {
                y[row * width + column..][..own].copy_from_slice(features);
            }
            column += own;
        }
        cx.set(0, out);
        Ok(())
    }
}

/// Replaces one value by another, which may differ by feature.
struct Imputer {
    floats: Vec<f32>,
    ints: Vec<i64>,
    replaced_float: f32,
    replaced_int: i64,
}

impl Imputer {
    fn impute<T: Element>(&self, cx: &mut Context<'_>, values: &[T], hit: impl Fn(T) -> bool) -> Result<()> {
        let input = cx.input(0)?;
        let width = input.dims().last().copied().unwrap_or(1);
        if values.len() != 1 && values.len() != width {
            return Err(OpError::invalid(format!(
                "expected 1 or {width} imputed values, got {}",
                values.len()
            )));
        }
        let mut out = cx.output(0, T::DTYPE, input.dims())?;
        for (i, (y, &x)) in out.as_mut_slice::<T>()?.iter_mut().zip(input.as_slice::<T>()?).enumerate() {
            *y = if hit(x) { values[if values.len() == 1 { 0 } else { i % width }] } else { x };
        }
        cx.set(0, out);
        Ok(())
    }
}

impl Kernel for Imputer {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let replaced = self.replaced_float;
        match cx.input(0)?.dtype() {
            DType::F32 => {
                self.impute::<f32>(cx, &self.floats, |x| x == replaced || replaced.is_nan() && x.is_nan())
            }
            DType::F64 => {
                let values: Vec<f64> = self.floats.iter().map(|&value| f64::from(value)).collect();
                self.impute::<f64>(cx, &values, |x| {
                    x == f64::from(replaced) || replaced.is_nan() && x.is_nan()
                })
            }
            DType::I64 => self.impute::<i64>(cx, &self.ints, |x| x == self.replaced_int),
            DType::I32 => {
                let values: Vec<i32> = self.ints.iter().map(|&value| value as i32).collect();
                self.impute::<i32>(cx, &values, |x| i64::from(x) == self.replaced_int)
            }
            other => Err(OpError::unsupported(format!("Imputer is not defined for element type {other}"))),
        }
    }
}

#[derive(Clone, Copy)]
enum Norm {
    Max,
    L1,
    L2,
}

/// Divides each row by its norm.
struct Normalizer {
    norm: Norm,
}

impl Kernel for Normalizer {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let x = converted(cx, cx.input(0)?, DType::F32)?;
        let width = x.dims().last().copied().unwrap_or(1).max(1);
        let mut out = cx.output(0, DType::F32, x.dims())?;
        for (row, y) in
            x.as_slice::<f32>()?.chunks_exact(width).zip(out.as_mut_slice::<f32>()?.chunks_exact_mut(width))
        {
            let norm = match self.norm {
                Norm::Max => row.iter().copied().fold(f32::NEG_INFINITY, f32::max),
                Norm::L1 => row.iter().map(|x| x.abs()).sum(),
                Norm::L2 => row.iter().map(|x| x * x).sum::<f32>().sqrt(),
            };
            for (y, &x) in y.iter_mut().zip(row) {
                *y = if norm == 0.0 { x } else { x / norm };
            }
        }
        cx.set(0, out);
        Ok(())
    }
}

/// One column a category, appended to the shape.
struct OneHot {
    ints: Vec<i64>,
    strings: Vec<String>,
    /// Unknown categories become zeros instead of an error.
    zeros: bool,
}

impl Kernel for OneHot {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let input = cx.input(0)?;
        let found: Vec<Option<usize>> = if input.dtype() == DType::String {
            let strings = Strings::new(input)?;
            (0..strings.len())
                .map(|i| self.strings.iter().position(|category| category.as_bytes() == strings.get(i)))
                .collect()
        } else {
            let codes = converted(cx, input, DType::I64)?;
            codes
                .as_slice::<i64>()?
                .iter()
                .map(|code| self.ints.iter().position(|category| category == code))
                .collect()
        };
        let width = self.ints.len().max(self.strings.len());
        let mut dims: Dims = input.dims().into();
        dims.push(width);
        let mut out = cx.zeroed_output(0, DType::F32, &dims)?;
        let y = out.as_mut_slice::<f32>()?;
        for (row, found) in found.into_iter().enumerate() {
            match found {
                Some(column) => y[row * width + column] = 1.0,
                None if self.zeros => {}
                None => return Err(OpError::invalid(format!("the category at position {row} is not known"))),
            }
        }
        cx.set(0, out);
        Ok(())
    }
}

/// `(x - offset) * scale`, by feature.
struct Scaler {
    offset: Vec<f32>,
    scale: Vec<f32>,
}

impl Kernel for Scaler {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let input = cx.input(0)?;
        let width = input.dims().last().copied().unwrap_or(1);
        for (name, values) in [("offset", &self.offset), ("scale", &self.scale)] {
            if values.len() != 1 && values.len() != width {
                return Err(OpError::invalid(format!(
                    "'{name}' needs 1 or {width} values, got {}",
                    values.len()
                )));
            }
        }
        let x = converted(cx, input, DType::F32)?;
        let pick = |values: &[f32], i: usize| values[if values.len() == 1 { 0 } else { i % width }];
        let mut out = cx.output(0, DType::F32, x.dims())?;
        for (i, (y, &x)) in out.as_mut_slice::<f32>()?.iter_mut().zip(x.as_slice::<f32>()?).enumerate() {
            *y = (x - pick(&self.offset, i)) * pick(&self.scale, i);
        }
        cx.set(0, out);
        Ok(())
    }
}

fn build_imputer(node: &Node) -> Result<Box<dyn Kernel>> {
    check_numeric(node)?;
    Ok(Box::new(Imputer {
        floats: node.floats("imputed_value_floats")?.unwrap_or(&[]).to_vec(),
        ints: node.ints("imputed_value_int64s")?.unwrap_or(&[]).to_vec(),
        replaced_float: node.float("replaced_value_float", 0.0)?,
        replaced_int: node.int("replaced_value_int64", 0)?,
    }))
}

fn build_normalizer(node: &Node) -> Result<Box<dyn Kernel>> {
    check_numeric(node)?;
    let norm = match node.string("norm", "MAX")? {
        "MAX" => Norm::Max,
        "L1" => Norm::L1,
        "L2" => Norm::L2,
        other => {
            return Err(OpError::invalid(format!("attribute 'norm' must be MAX, L1 or L2, got '{other}'")));
        }
    };
    Ok(Box::new(Normalizer { norm }))
}

fn build_one_hot(node: &Node) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(OneHot {
        ints: node.ints("cats_int64s")?.unwrap_or(&[]).to_vec(),
        strings: node.strings("cats_strings")?.unwrap_or(&[]).to_vec(),
        zeros: node.flag("zeros", true)?,
    }))
}

fn build_scaler(node: &Node) -> Result<Box<dyn Kernel>> {
    check_numeric(node)?;
    Ok(Box::new(Scaler {
        offset: node.floats("offset")?.unwrap_or(&[0.0]).to_vec(),
        scale: node.floats("scale")?.unwrap_or(&[1.0]).to_vec(),
    }))
}

pub const OPERATORS: &[Operator] = &[
    Operator::of(DOMAIN, "ArrayFeatureExtractor", |_| Ok(Box::new(Extract))),
    Operator::of(DOMAIN, "Binarizer", |node| {
        check_numeric(node)?;
        Ok(Box::new(Binarizer { threshold: node.float("threshold", 0.0)? }))
    }),
    Operator::of(DOMAIN, "FeatureVectorizer", |node| {
        check_numeric(node)?;
        Ok(Box::new(Vectorizer))
    }),
    Operator::of(DOMAIN, "Imputer", build_imputer),
    Operator::of(DOMAIN, "Normalizer", build_normalizer),
    Operator::of(DOMAIN, "OneHotEncoder", build_one_hot),
    Operator::of(DOMAIN, "Scaler", build_scaler),
];
