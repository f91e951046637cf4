//! Operators that read or write at indices: gather, scatter, slice, selection by contents.

use super::Rule;
use super::elementwise::same;
use super::layout::{attribute_or_input, length_of};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::graph::{Dim, DimExpr, Shape};
use crate::shape::contents::{Contents, Element};
use crate::shape::site::Site;
use crate::shape::{dim, expr};

pub const RULES: &[Rule] = &[
    Rule::onnx("Compress", 2, compress),
    Rule::onnx("Gather", 2, gather),
    Rule::onnx("GatherElements", 2, gather_elements),
    Rule::onnx("GatherND", 2, gather_nd),
    Rule::onnx("NonZero", 1, non_zero),
    Rule::onnx("OneHot", 3, one_hot),
    Rule::onnx("Scatter", 3, same),
    Rule::onnx("ScatterElements", 3, same),
    Rule::onnx("ScatterND", 3, same),
    Rule::onnx("Slice", 1, slice),
    Rule::onnx("TensorScatter", 2, same),
    Rule::onnx("TopK", 1, top_k),
    Rule::onnx("Unique", 1, unique),
    Rule::of("com.microsoft", "GatherND", 2, gather_nd),
];

fn gather(s: &mut Site<'_>) -> Result<()> {
    let dtype = s.dtype(0);
    let (Some(data), Some(indices)) = (s.shape(0), s.shape(1)) else {
        s.set_tensor(0, dtype, None);
        return Ok(());
    };
    s.expect_rank_from(0, 1)?;
    let axis = dim::axis(s.int("axis", 0)?, data.rank())?;
    let (before, after) = (&data[..axis], &data[axis + 1..]);
    s.set_tensor(0, dtype, Some(before.iter().chain(indices.iter()).chain(after).cloned().collect()));
    let contents = match (s.contents_of(0), s.contents_of(1)) {
        (Some(data), Some(indices)) if data.dims.len() == 1 => Some(pick(&data, &indices)?),
        (Some(data), Some(indices)) => pick_slices(&data, &indices, axis),
        _ => None,
    };
    s.set_contents(0, contents);
    Ok(())
}

fn pick_slices(data: &Contents, indices: &Contents, axis: usize) -> Option<Contents> {
    let size = i64::try_from(*data.dims.get(axis)?).ok()?;
    let wrap = |i: &i64| usize::try_from(if *i < 0 { i + size } else { *i }).ok();
    let taken = data.take(axis, &indices.ints()?.iter().map(wrap).collect::<Option<Vec<_>>>()?)?;
    let dims = [&data.dims[..axis], &indices.dims, &data.dims[axis + 1..]].concat();
    Contents::new(&dims, taken.elements)
}

fn pick(data: &Contents, indices: &Contents) -> Result<Contents> {
    let size = data.elements.len() as i64;
    let element = |index: &Element| match index.as_int() {
        Some(i) if i >= size || i < -size => Err(Error::invalid_model(format!(
            "index {i} is outside the {size} elements that are gathered from"
        ))),
        Some(i) => Ok(data.elements[(if i < 0 { i + size } else { i }) as usize].clone()),
        None => Ok(Element::Unknown),
    };
    let elements = indices.elements.iter().map(element).collect::<Result<_>>()?;
    Ok(Contents { dims: indices.dims.clone(), elements })
}

fn gather_elements(s: &mut Site<'_>) -> Result<()> {
    s.copy_shape(1, 0, s.dtype(0));
    Ok(())
}

fn gather_nd(s: &mut Site<'_>) -> Result<()> {
    let dtype = s.dtype(0);
    let batch =
        if s.version() < 12 && s.node.domain.is_empty() { 0 } else { s.size_attribute("batch_dims", 0)? };
    let (Some(data), Some(indices)) = (s.shape(0), s.shape(1)) else {
        s.set_tensor(0, dtype, None);
        return Ok(());
    };
    let Some((depth, outer)) = indices.split_last() else {
        return Err(Error::invalid_model(format!("{} must have rank 1 or more", s.describe(1))));
    };
    let Dim::Known(depth) = depth else {
        s.set_tensor(0, dtype, None);
        return Ok(());
    };
    let Some(rest) = data.get(batch + depth..) else {
        return Err(Error::invalid_model(format!(
            "indices of {depth} dimensions after {batch} batch dimensions do not fit {}",
            s.describe(0)
        )));
    };
    s.set_tensor(0, dtype, Some(outer.iter().chain(rest).cloned().collect()));
    Ok(())
}

fn non_zero(s: &mut Site<'_>) -> Result<()> {
    let rank = s.rank(0).map_or(Dim::Unknown, |r| Dim::Known(r.max(1)));
    s.set_tensor(0, DType::I64, Some([rank, Dim::Unknown].into_iter().collect()));
    Ok(())
}

fn one_hot(s: &mut Site<'_>) -> Result<()> {
    let dtype = s.dtype(2);
    let Some(shape) = s.shape(0) else {
        s.set_tensor(0, dtype, None);
        return Ok(());
    };
    let mut dims = shape.clone();
    dims.0.insert(dim::axis(s.int("axis", -1)?, shape.rank() + 1)?, s.size_of(1));
    s.set_tensor(0, dtype, Some(dims));
    Ok(())
}

fn compress(s: &mut Site<'_>) -> Result<()> {
    let dtype = s.dtype(0);
    let kept = match s.contents_of(1).and_then(|c| c.ints()) {
        Some(flags) => Dim::Known(flags.iter().filter(|f| **f != 0).count()),
        None => Dim::Unknown,
    };
    let shape = match (s.node.attributes.int("axis")?, s.shape(0)) {
        (None, _) => Some([kept].into_iter().collect()),
        (Some(axis), Some(shape)) => {
            let mut dims = shape.clone();
            dims.0[dim::axis(axis, shape.rank())?] = kept;
            Some(dims)
        }
        (Some(_), None) => None,
    };
    s.set_tensor(0, dtype, shape);
    Ok(())
}

fn top_k(s: &mut Site<'_>) -> Result<()> {
    let dtype = s.dtype(0);
    let k = if s.version() < 10 { Dim::Known(s.size_attribute("k", -1)?) } else { s.size_of(1) };
    let shape = match s.shape(0) {
        Some(shape) => {
            let mut dims = shape.clone();
            let axis = dim::axis(s.int("axis", -1)?, shape.rank())?;
            if let (Dim::Known(k), Dim::Known(n)) = (&k, &shape[axis])
                && k > n
            {
                return Err(Error::invalid_model(format!(
                    "k is {k}, but axis {axis} of {} has {n}",
                    s.describe(0)
                )));
            }
            dims.0[axis] = k;
            Some(dims)
        }
        None => None,
    };
    s.set_tensor(0, dtype, shape.clone());
    s.set_tensor(1, DType::I64, shape);
    Ok(())
}

fn unique(s: &mut Site<'_>) -> Result<()> {
    let dtype = s.dtype(0);
    let shape = match (s.node.attributes.int("axis")?, s.shape(0)) {
        (None, _) => Some(dim::unknown(1)),
        (Some(axis), Some(shape)) => {
            let mut dims = shape.clone();
            dims.0[dim::axis(axis, shape.rank())?] = Dim::Unknown;
            Some(dims)
        }
        (Some(_), None) => None,
    };
    s.set_tensor(0, dtype, shape);
    for output in 1..4 {
        s.set_tensor(output, DType::I64, Some(dim::unknown(1)));
    }
    Ok(())
}

/// One sliced axis; `None` where a bound is not known.
struct Cut {
    start: Option<DimExpr>,
    end: Option<DimExpr>,
    step: Option<i64>,
}

fn slice(s: &mut Site<'_>) -> Result<()> {
    let dtype = s.dtype(0);
    let Some(shape) = s.shape(0) else {
        s.set_tensor(0, dtype, None);
        return Ok(());
    };
    let rank = shape.rank();
    let bounds = |name: &str, i: usize| -> Result<Option<Vec<Element>>> {
        if s.version() < 10 {
            return Ok(s.ints(name)?.map(|v| v.iter().copied().map(Element::int).collect()));
        }
        Ok(match s.contents_of(i) {
            Some(c) => Some(c.elements.clone()),
            None => length_of(s, i).filter(|n| *n <= rank).map(|n| vec![Element::Unknown; n]),
        })
    };
    let (starts, ends) = (bounds("starts", 1)?, bounds("ends", 2)?);
    let count = starts.as_ref().or(ends.as_ref()).map(Vec::len);
    let has_axes = if s.version() < 10 { s.node.attributes.contains("axes") } else { s.has(3) };
    let axes =
        if has_axes { attribute_or_input(s, "axes", 10, 3)? } else { count.map(|n| (0..n as i64).collect()) };
    let steps = if s.version() >= 10 && s.has(4) { s.ints_of(4) } else { count.map(|n| vec![1; n]) };
    let Some(axes) = axes else {
        s.set_tensor(0, dtype, Some(dim::unknown(rank)));
        return Ok(());
    };
    let axes = dim::axes(&axes, rank)?;
    let mut dims = shape.clone();
    let mut cuts = Vec::new();
    for (i, &axis) in axes.iter().enumerate() {
        let at = |v: &Option<Vec<Element>>| v.as_ref().and_then(|v| v.get(i)?.expr().cloned());
        let cut =
            Cut { start: at(&starts), end: at(&ends), step: steps.as_ref().and_then(|v| v.get(i).copied()) };
        if cut.step == Some(0) {
            return Err(Error::invalid_model(format!("the step of axis {axis} is 0")));
        }
        dims.0[axis] = cut_size(&shape[axis], &cut);
        cuts.push(cut);
    }
    s.set_tensor(0, dtype, Some(dims));
    let mut contents = s.contents_of(0).filter(|c| c.dims.len() == rank).map(|c| c.into_owned());
    for (axis, cut) in axes.into_iter().zip(&cuts) {
        contents = contents.and_then(|c| c.take(axis, &cut_indices(c.dims[axis], cut)?));
    }
    s.set_contents(0, contents);
    Ok(())
}

/// First index, one past the last in the direction of the step, and the step, clamped to `size`.
fn clamp_range(size: i64, cut: &Cut) -> Option<(i64, i64, i64)> {
    let (Some(DimExpr::Const(start)), Some(DimExpr::Const(end)), Some(step)) =
        (&cut.start, &cut.end, cut.step)
    else {
        return None;
    };
    let wrap = |v: i64| if v < 0 { v.saturating_add(size) } else { v };
    Some(if step > 0 {
        (wrap(*start).clamp(0, size), wrap(*end).clamp(0, size), step)
    } else {
        // A start before the first element is the first, an end before it leaves none out.
        let start = wrap(*start).min(size - 1).max(if size > 0 { 0 } else { -1 });
        (start, wrap(*end).clamp(-1, size - 1), step)
    })
}

fn range_len(start: i64, end: i64, step: i64) -> i64 {
    let span = if step > 0 { end - start } else { start - end };
    let step = step.unsigned_abs().min(i64::MAX as u64) as i64;
    if span <= 0 { 0 } else { (span - 1) / step + 1 }
}

fn cut_indices(size: usize, cut: &Cut) -> Option<Vec<usize>> {
    let (start, end, step) = clamp_range(i64::try_from(size).ok()?, cut)?;
    (0..range_len(start, end, step)).map(|k| usize::try_from(start + k * step).ok()).collect()
}

fn cut_size(size: &Dim, cut: &Cut) -> Dim {
    if let Dim::Known(n) = size
        && let Ok(n) = i64::try_from(*n)
        && let Some((start, end, step)) = clamp_range(n, cut)
    {
        return Dim::Known(range_len(start, end, step) as usize);
    }
    let length = (|| {
        let size = size.to_expr()?;
        match cut.step? {
            step if step > 0 => {
                let start = clamp_bound(cut.start.as_ref()?, &size, false)?;
                let end = clamp_bound(cut.end.as_ref()?, &size, true)?;
                let length = expr::max(&expr::sub(&end, &start)?, &DimExpr::Const(0))?;
                expr::ceil_div(&length, &DimExpr::Const(step))
            }
            step => match (cut.start.as_ref()?, cut.end.as_ref()?) {
                (DimExpr::Const(start), DimExpr::Const(end))
                    if *end <= -FAR && (*start == -1 || *start >= FAR) =>
                {
                    expr::ceil_div(&size, &DimExpr::Const(step.checked_neg()?))
                }
                _ => None,
            },
        }
    })();
    length.map_or(Dim::Unknown, Dim::from_expr)
}

/// Bounds from here on mean "to the end" of an axis whose size is not known to exceed them: some exporters write a billion
/// for it.
const FAR: i64 = 1_000_000_000;

/// A bound as an index from 0 on, at most `size` where `above` says so.
fn clamp_bound(bound: &DimExpr, size: &DimExpr, above: bool) -> Option<DimExpr> {
    match bound {
        DimExpr::Const(c) if *c >= FAR && !matches!(size, DimExpr::Const(known) if known > c) => {
            Some(size.clone())
        }
        DimExpr::Const(c) if *c <= -FAR => Some(DimExpr::Const(0)),
        DimExpr::Const(c) if *c < 0 => expr::max(&expr::add(size, bound)?, &DimExpr::Const(0)),
        other if expr::is_non_negative(other) && above => expr::min(other, size),
        other if expr::is_non_negative(other) => Some(other.clone()),
        _ => None,
    }
}

/// The shape of data indexed along its first axis.
pub fn rows(s: &Site<'_>, data: usize, indices: usize) -> Option<Shape> {
    let (data, indices) = (s.shape(data)?, s.shape(indices)?);
    Some(indices.iter().chain(data.iter().skip(1)).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(start: i64, end: i64, step: i64) -> Cut {
        Cut { start: Some(DimExpr::Const(start)), end: Some(DimExpr::Const(end)), step: Some(step) }
    }

    #[test]
    fn known_sizes_are_cut_as_python_cuts() {
        let size = |n: usize, c: Cut| cut_size(&Dim::Known(n), &c).known();
        assert_eq!(size(10, cut(2, -1, 3)), Some(3));
        assert_eq!(size(10, cut(-100, 100, 1)), Some(10));
        assert_eq!(size(10, cut(-1, i64::MIN + 1, -1)), Some(10));
        assert_eq!(size(10, cut(20, 0, -4)), Some(3));
        assert_eq!(size(0, cut(0, 5, 1)), Some(0));
    }

    #[test]
    fn symbolic_sizes_are_cut_without_guessing() {
        let n = Dim::from("n");
        let text = |c: Cut| cut_size(&n, &c).to_string();
        assert_eq!(text(cut(0, i64::MAX, 1)), "n");
        assert_eq!(text(cut(0, 1_000_000_000, 1)), "n");
        assert_eq!(text(cut(0, 999, 1)), "min(999, n)");
        assert_eq!(text(cut(0, i64::MAX, 2)), "floor((n + 1) / 2)");
        assert_eq!(text(cut(-1, -i64::MAX, -1)), "n");
        assert_eq!(text(cut(1, i64::MAX, 1)), "max(0, (n + -1))");
        assert_eq!(text(cut(0, -1, 1)), "max(0, (n + -1))");
        let to_n = Cut { start: Some(DimExpr::Const(0)), end: n.to_expr(), step: Some(1) };
        assert_eq!(cut_size(&dim::plus(&n, 3), &to_n), n);
    }
}
