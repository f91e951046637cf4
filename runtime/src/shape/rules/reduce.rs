//! Reductions over axes, ArgMax and ArgMin, and the softmax family, which keeps shapes.

use super::Rule;
use super::elementwise::same;
use super::layout::{attribute_or_input, length_of};
use crate::dtype::DType;
use crate::error::Result;
use crate::graph::{Dim, Shape};
use crate::shape::contents::{Arithmetic, Contents, Element, arithmetic};
use crate::shape::dim;
use crate::shape::site::Site;

pub const RULES: &[Rule] = &[
    Rule::onnx("ArgMax", 1, arg),
    Rule::onnx("ArgMin", 1, arg),
    Rule::onnx("CumProd", 2, same),
    Rule::onnx("CumSum", 2, same),
    Rule::onnx("Hardmax", 1, checked_axis),
    Rule::onnx("LogSoftmax", 1, checked_axis),
    Rule::onnx("ReduceL1", 1, reduce),
    Rule::onnx("ReduceL2", 1, reduce),
    Rule::onnx("ReduceLogSum", 1, reduce),
    Rule::onnx("ReduceLogSumExp", 1, reduce),
    Rule::onnx("ReduceMax", 1, reduce_max),
    Rule::onnx("ReduceMean", 1, reduce),
    Rule::onnx("ReduceMin", 1, reduce_min),
    Rule::onnx("ReduceProd", 1, reduce_prod),
    Rule::onnx("ReduceSum", 1, reduce_sum),
    Rule::onnx("ReduceSumSquare", 1, reduce),
    Rule::onnx("Softmax", 1, checked_axis),
    Rule::of("com.microsoft", "ReduceSumInteger", 1, reduce_integer),
];

/// Keeps the type of input 0, whose rank `axis` must fit.
pub fn checked_axis(s: &mut Site<'_>) -> Result<()> {
    if let Some(rank) = s.rank(0).filter(|r| *r > 0)
        && let Some(axis) = s.node.attributes.int("axis")?
        // Before version 13 an axis equal to the rank flattens everything into rows.
        && !(s.version() < 13 && axis == rank as i64)
    {
        dim::axis(axis, rank)?;
    }
    same(s)
}

fn arg(s: &mut Site<'_>) -> Result<()> {
    let axis = s.int("axis", 0)?;
    let shape = match s.shape(0) {
        Some(shape) if !shape.is_empty() => Some(reduced(shape, &[axis], s.flag("keepdims", true)?)?),
        other => other.cloned(),
    };
    s.set_tensor(0, DType::I64, shape);
    Ok(())
}

fn reduced(shape: &Shape, axes: &[i64], keep: bool) -> Result<Shape> {
    let axes = if shape.is_empty() { Vec::new() } else { dim::axes(axes, shape.rank())? };
    let dims = shape.iter().enumerate().filter_map(|(i, d)| match (axes.contains(&i), keep) {
        (false, _) => Some(d.clone()),
        (true, true) => Some(Dim::Known(1)),
        (true, false) => None,
    });
    Ok(dims.collect())
}

fn reduce(s: &mut Site<'_>) -> Result<()> {
    let dtype = s.dtype(0);
    shape_reduced(s, dtype)
}

fn reduce_integer(s: &mut Site<'_>) -> Result<()> {
    shape_reduced(s, DType::I32)
}

/// The version from which axes are an input.
fn axes_input_since(s: &Site<'_>) -> i64 {
    match &*s.node.op_type {
        "ReduceSum" => 13,
        "ReduceSumInteger" => i64::MAX,
        _ => 18,
    }
}

fn shape_reduced(s: &mut Site<'_>, dtype: DType) -> Result<()> {
    let since = axes_input_since(s);
    let keep = s.flag("keepdims", true)?;
    let given = if s.version() < since { s.node.attributes.contains("axes") } else { s.has(1) };
    let axes = attribute_or_input(s, "axes", since, 1)?;
    let Some(shape) = s.shape(0) else {
        let all = !given && !keep && !s.flag("noop_with_empty_axes", false)?;
        s.set_tensor(0, dtype, all.then(Shape::scalar));
        return Ok(());
    };
    let all: Vec<i64> = (0..shape.rank() as i64).collect();
    let axes = match axes {
        Some(axes) if axes.is_empty() => None,
        None if given && length_of(s, 1) != Some(0) => {
            let rank = if keep {
                Some(shape.rank())
            } else {
                length_of(s, 1).and_then(|n| shape.rank().checked_sub(n))
            };
            s.set_tensor(0, dtype, rank.map(dim::unknown));
            return Ok(());
        }
        other => other,
    };
    let result = match axes {
        Some(axes) => reduced(shape, &axes, keep)?,
        None if s.flag("noop_with_empty_axes", false)? => shape.clone(),
        None => reduced(shape, &all, keep)?,
    };
    s.set_tensor(0, dtype, Some(result));
    Ok(())
}

/// Follows contents of rank 1 that are reduced to one element.
fn follow(s: &mut Site<'_>, op: Arithmetic, start: Option<i64>) -> Result<()> {
    reduce(s)?;
    let Some(contents) = s.contents_of(0).filter(|c| c.dims.len() == 1 && !c.elements.is_empty()) else {
        return Ok(());
    };
    let Some(dims) = s.types.first().and_then(|t| t.as_ref()?.shape()?.to_known()) else { return Ok(()) };
    if dims.iter().any(|d| *d != 1) {
        return Ok(());
    }
    let dtype = s.dtype(0);
    let mut elements = contents.elements.iter().cloned();
    let first = start.map(Element::int).or_else(|| elements.next()).unwrap_or_default();
    let total = elements.fold(first, |a, b| arithmetic(op, dtype, &a, &b));
    s.set_contents(0, Contents::new(&dims, vec![total]));
    Ok(())
}

fn reduce_sum(s: &mut Site<'_>) -> Result<()> {
    follow(s, Arithmetic::Add, Some(0))
}

fn reduce_prod(s: &mut Site<'_>) -> Result<()> {
    follow(s, Arithmetic::Mul, Some(1))
}

fn reduce_max(s: &mut Site<'_>) -> Result<()> {
    follow(s, Arithmetic::Max, None)
}

fn reduce_min(s: &mut Site<'_>) -> Result<()> {
    follow(s, Arithmetic::Min, None)
}
