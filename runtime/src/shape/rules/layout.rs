//! Operators that move elements without changing them, and those that read a shape.

use smallvec::SmallVec;

use super::Rule;
use super::elementwise::{identity, same};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::graph::{Dim, DimExpr, Shape};
use crate::shape::contents::{Contents, Element};
use crate::shape::site::Site;
use crate::shape::{dim, expr};

pub const RULES: &[Rule] = &[
    Rule::onnx("CenterCropPad", 2, center_crop_pad),
    Rule::onnx("Concat", 1, concat),
    Rule::onnx("DepthToSpace", 1, depth_to_space),
    Rule::onnx("Expand", 2, expand),
    Rule::onnx("Flatten", 1, flatten),
    Rule::onnx("Pad", 1, pad),
    Rule::onnx("Reshape", 1, reshape),
    Rule::onnx("ReverseSequence", 2, same),
    Rule::onnx("Shape", 1, shape_of),
    Rule::onnx("Size", 1, size_of),
    Rule::onnx("SpaceToDepth", 1, space_to_depth),
    Rule::onnx("Split", 1, split),
    Rule::onnx("Squeeze", 1, squeeze),
    Rule::onnx("Tile", 2, tile),
    Rule::onnx("Transpose", 1, transpose),
    Rule::onnx("Trilu", 1, same),
    Rule::onnx("Unsqueeze", 1, unsqueeze),
    Rule::of("com.microsoft", "Trilu", 1, same),
    Rule::of("com.microsoft", "Identity", 1, identity),
];

/// Gives output 0, whose type is set, the elements of input 0 in the same order.
fn keep_elements(s: &mut Site<'_>) {
    let dims = s.types.first().and_then(|t| t.as_ref()?.shape()?.to_known());
    let contents = match (s.contents_of(0), dims) {
        (Some(c), Some(dims)) => Contents::new(&dims, c.elements.clone()),
        _ => None,
    };
    s.set_contents(0, contents);
}

/// Values from an attribute before version `since`, from input `i` after.
pub fn attribute_or_input(s: &Site<'_>, name: &str, since: i64, i: usize) -> Result<Option<Vec<i64>>> {
    if s.version() < since { Ok(s.ints(name)?.map(<[i64]>::to_vec)) } else { Ok(s.ints_of(i)) }
}

/// The number of elements of a rank-1 input.
pub fn length_of(s: &Site<'_>, i: usize) -> Option<usize> {
    match s.shape(i)?.dims() {
        [only] => only.known(),
        _ => None,
    }
}

fn reshape(s: &mut Site<'_>) -> Result<()> {
    let dtype = s.dtype(0);
    let wanted: Option<Vec<Element>> = if s.version() < 5 {
        s.ints("shape")?.map(|v| v.iter().copied().map(Element::int).collect())
    } else {
        if !s.has(1) {
            return Err(Error::invalid_model("Reshape needs its shape as input 1"));
        }
        s.contents_of(1).map(|c| c.elements.clone())
    };
    let Some(wanted) = wanted else {
        s.set_tensor(0, dtype, length_of(s, 1).map(dim::unknown));
        return Ok(());
    };
    let keeps_zero = s.flag("allowzero", false)?;
    let shape = reshaped(s.shape(0), &wanted, keeps_zero).map_err(|e| {
        let shown = wanted.iter().map(|e| e.to_dim_text()).collect::<Vec<_>>().join(",");
        Error::invalid_model(format!("{} cannot take shape [{shown}]: {}", s.describe(0), e.message()))
    })?;
    s.set_tensor(0, dtype, Some(shape));
    keep_elements(s);
    Ok(())
}

impl Element {
    fn to_dim_text(&self) -> String {
        self.expr().map_or_else(|| "?".into(), ToString::to_string)
    }
}

fn reshaped(input: Option<&Shape>, wanted: &[Element], keeps_zero: bool) -> Result<Shape> {
    let mut dims: SmallVec<[Dim; 6]> = SmallVec::new();
    let (mut open, mut copied) = (Vec::new(), Vec::new());
    for (i, element) in wanted.iter().enumerate() {
        dims.push(match element.as_int() {
            Some(0) if !keeps_zero => {
                copied.push(i);
                match input {
                    Some(shape) => shape.get(i).cloned().ok_or_else(|| {
                        Error::invalid_model(format!("0 copies dimension {i}, which the input does not have"))
                    })?,
                    None => Dim::Unknown,
                }
            }
            Some(-1) => {
                open.push(i);
                Dim::Unknown
            }
            Some(c) if c < 0 => {
                return Err(Error::invalid_model(format!("{c} is no size; only -1 is inferred")));
            }
            _ => element.to_dim(),
        });
    }
    if open.len() > 1 {
        return Err(Error::invalid_model("more than one size is -1"));
    }
    if open.is_empty() {
        // One size that nothing is known of follows from the number of elements all the same.
        let unknown = |i: &usize| dims[*i] == Dim::Unknown && !copied.contains(i);
        open = (0..dims.len()).filter(unknown).collect();
    }
    let Some(input) = input else { return Ok(Shape(dims)) };
    let others = dim::product(
        dims.iter().enumerate().filter(|(i, _)| !open.contains(i) && !copied.contains(i)).map(|d| d.1),
    );
    let total = dim::product(input.iter().enumerate().filter(|(i, _)| !copied.contains(i)).map(|d| d.1));
    // A copied size of zero leaves nothing on both sides, whatever the other sizes are.
    let nothing = copied.iter().any(|i| dims[*i] == Dim::Known(0));
    match open.as_slice() {
        [] if !nothing && dim::differ(&total, &others) => Err(Error::invalid_model(format!(
            "it has {} elements, the shape {}",
            dim::product(input.iter()),
            dim::product(&dims)
        ))),
        [open] => {
            if let (Dim::Known(n), Dim::Known(m)) = (&total, &others)
                && *m > 0
                && n % m != 0
            {
                return Err(Error::invalid_model(format!("{n} elements are not divisible by {m}")));
            }
            if others != Dim::Known(0) {
                dims[*open] = dim::floor_div(&total, &others);
            }
            Ok(Shape(dims))
        }
        _ => Ok(Shape(dims)),
    }
}

fn flatten(s: &mut Site<'_>) -> Result<()> {
    let shape = match s.shape(0) {
        Some(shape) => {
            let rank = shape.rank() as i64;
            let axis = s.int("axis", 1)?;
            let at = if axis < 0 { axis + rank } else { axis };
            if at < 0 || at > rank {
                return Err(Error::invalid_model(format!("axis {axis} is outside {}", s.describe(0))));
            }
            let (outer, inner) = shape.dims().split_at(at as usize);
            [dim::product(outer), dim::product(inner)].into_iter().collect()
        }
        None => dim::unknown(2),
    };
    s.set_tensor(0, s.dtype(0), Some(shape));
    keep_elements(s);
    Ok(())
}

fn squeeze(s: &mut Site<'_>) -> Result<()> {
    let dtype = s.dtype(0);
    let given = if s.version() < 13 { s.node.attributes.contains("axes") } else { s.has(1) };
    let axes = attribute_or_input(s, "axes", 13, 1)?;
    let Some(shape) = s.shape(0) else {
        s.set_tensor(0, dtype, None);
        return Ok(());
    };
    let removed: Option<Vec<usize>> = match axes {
        Some(axes) => Some(dim::axes(&axes, shape.rank())?),
        None if given => None,
        None if shape.iter().all(|d| d.known().is_some()) => {
            Some((0..shape.rank()).filter(|i| shape[*i] == Dim::Known(1)).collect())
        }
        None => None,
    };
    let Some(removed) = removed else {
        let rank = length_of(s, 1).filter(|_| given).and_then(|n| shape.rank().checked_sub(n));
        s.set_tensor(0, dtype, rank.map(dim::unknown));
        return Ok(());
    };
    if let Some(axis) = removed.iter().find(|a| dim::differ(&shape[**a], &Dim::Known(1))) {
        return Err(Error::invalid_model(format!(
            "axis {axis} of {} has size {} and cannot be removed; only size 1 can",
            s.describe(0),
            shape[*axis]
        )));
    }
    let kept =
        shape.iter().enumerate().filter(|(i, _)| !removed.contains(i)).map(|(_, d)| d.clone()).collect();
    s.set_tensor(0, dtype, Some(kept));
    keep_elements(s);
    Ok(())
}

fn unsqueeze(s: &mut Site<'_>) -> Result<()> {
    let dtype = s.dtype(0);
    let axes = attribute_or_input(s, "axes", 13, 1)?;
    let (Some(shape), Some(axes)) = (s.shape(0), axes) else {
        let rank = match (s.rank(0), length_of(s, 1)) {
            (Some(rank), Some(more)) => Some(rank + more),
            _ => None,
        };
        s.set_tensor(0, dtype, rank.map(dim::unknown));
        return Ok(());
    };
    let rank = shape.rank() + axes.len();
    let added = dim::axes(&axes, rank)?;
    let mut old = shape.iter();
    let dims = (0..rank)
        .map(|i| if added.contains(&i) { Dim::Known(1) } else { old.next().cloned().unwrap_or_default() });
    s.set_tensor(0, dtype, Some(dims.collect()));
    keep_elements(s);
    Ok(())
}

fn transpose(s: &mut Site<'_>) -> Result<()> {
    let perm = s.ints("perm")?;
    let Some(shape) = s.shape(0) else {
        s.set_tensor(0, s.dtype(0), perm.map(|p| dim::unknown(p.len())));
        return Ok(());
    };
    let rank = shape.rank();
    let order: Vec<usize> = match perm {
        None => (0..rank).rev().collect(),
        Some(perm) => {
            if perm.len() != rank {
                return Err(Error::invalid_model(format!(
                    "perm has {} axes, but {} has rank {rank}",
                    perm.len(),
                    s.describe(0)
                )));
            }
            dim::axes(perm, rank)?
        }
    };
    s.set_tensor(0, s.dtype(0), Some(order.iter().map(|i| shape[*i].clone()).collect()));
    let contents = s.contents_of(0).filter(|c| c.dims.len() == rank).and_then(|c| c.transposed(&order));
    s.set_contents(0, contents);
    Ok(())
}

fn expand(s: &mut Site<'_>) -> Result<()> {
    let dtype = s.dtype(0);
    let target: Option<Shape> = match s.contents_of(1) {
        Some(c) => Some(c.elements.iter().map(Element::to_dim).collect()),
        None => length_of(s, 1).map(dim::unknown),
    };
    let (Some(input), Some(target)) = (s.shape(0), target) else {
        s.set_tensor(0, dtype, None);
        return Ok(());
    };
    let rank = input.rank().max(target.rank());
    let at = |t: &Shape, i: usize| (i + t.rank()).checked_sub(rank).map_or(Dim::Known(1), |i| t[i].clone());
    let mut dims = SmallVec::new();
    for i in 0..rank {
        let dim = dim::broadcast(&at(input, i), &at(&target, i)).map_err(|e| {
            Error::invalid_model(format!("{} expanded to {target}: {}", s.describe(0), e.message()))
        })?;
        dims.push(dim.unwrap_or_default());
    }
    s.set_tensor(0, dtype, Some(Shape(dims)));
    let known = s.types.first().and_then(|t| t.as_ref()?.shape()?.to_known());
    let contents = match (s.contents_of(0), known) {
        (Some(c), Some(dims)) => c.broadcast_to(&dims),
        _ => None,
    };
    s.set_contents(0, contents);
    Ok(())
}

fn tile(s: &mut Site<'_>) -> Result<()> {
    let dtype = s.dtype(0);
    let Some(shape) = s.shape(0) else {
        s.set_tensor(0, dtype, length_of(s, 1).filter(|_| s.version() >= 6).map(dim::unknown));
        return Ok(());
    };
    let mut dims = shape.clone();
    if s.version() < 6 {
        match (s.int_of(1), s.int_of(2)) {
            (Some(tiles), Some(axis)) => {
                let axis = dim::axis(axis, shape.rank())?;
                dims.0[axis] = dim::times(&shape[axis], tiles);
            }
            _ => dims = dim::unknown(shape.rank()),
        }
    } else {
        if let Some(n) = length_of(s, 1).filter(|n| *n != shape.rank()) {
            return Err(Error::invalid_model(format!(
                "{n} repeats are given for {}; one an axis is needed",
                s.describe(0)
            )));
        }
        let repeats = s.contents_of(1);
        for (i, dim) in dims.0.iter_mut().enumerate() {
            let factor =
                repeats.as_ref().and_then(|c| c.elements.get(i)).map_or(Dim::Unknown, Element::to_dim);
            *dim = dim::mul(dim, &factor);
        }
    }
    s.set_tensor(0, dtype, Some(dims));
    Ok(())
}

fn concat(s: &mut Site<'_>) -> Result<()> {
    let inputs: Vec<usize> = (0..s.input_count()).filter(|i| s.has(*i)).collect();
    for &i in &inputs[1..] {
        s.expect_same_dtype(0, i)?;
    }
    let dtype = s.first_dtype(&inputs);
    let axis = match s.node.attributes.int("axis")? {
        Some(axis) => axis,
        None if s.version() < 4 => 1,
        None => return Err(s.missing("axis")),
    };
    let Some(first) = inputs.iter().find_map(|i| s.shape(*i)) else {
        s.set_tensor(0, dtype, None);
        return Ok(());
    };
    let rank = first.rank();
    let axis = dim::axis(axis, rank)?;
    let mut dims = dim::unknown(rank);
    let mut total = Dim::Known(0);
    for &i in &inputs {
        s.expect_rank(i, rank)?;
        total = dim::add(&total, &s.dim(i, axis));
        for other in (0..rank).filter(|d| *d != axis) {
            let (found, size) = (s.dim(i, other), &mut dims.0[other]);
            if dim::differ(size, &found) {
                return Err(Error::invalid_model(format!(
                    "dimension {other} of {} is {found}, of the inputs before it {size}; only axis {axis} may differ",
                    s.describe(i)
                )));
            }
            *size = dim::tighter(size, &found);
        }
    }
    dims.0[axis] = total;
    s.set_tensor(0, dtype, Some(dims));
    if rank == 1 && inputs.iter().any(|i| s.contents_of(*i).is_some()) {
        let mut elements = Some(Vec::new());
        for &i in &inputs {
            let part = match (s.contents_of(i), length_of(s, i)) {
                (Some(c), _) => Some(c.elements.clone()),
                (None, Some(n)) if n <= crate::shape::contents::LIMIT => Some(vec![Element::Unknown; n]),
                _ => None,
            };
            elements = elements.zip(part).map(|(mut all, part)| {
                all.extend(part);
                all
            });
        }
        s.set_contents(0, elements.and_then(Contents::vector));
    }
    Ok(())
}

fn split(s: &mut Site<'_>) -> Result<()> {
    let outputs = s.node.outputs().len();
    let dtype = s.dtype(0);
    let Some(shape) = s.shape(0) else {
        (0..outputs).for_each(|o| s.set_tensor(o, dtype, None));
        return Ok(());
    };
    let axis = dim::axis(s.int("axis", 0)?, shape.rank())?;
    let given = if s.version() < 13 { s.node.attributes.contains("split") || s.has(1) } else { s.has(1) };
    let sizes: Option<Vec<Element>> = match s.ints("split")? {
        Some(sizes) if s.version() < 13 => Some(sizes.iter().copied().map(Element::int).collect()),
        _ => s.contents_of(1).map(|c| c.elements.clone()),
    };
    let sizes: Vec<Dim> = match sizes {
        Some(sizes) => {
            if sizes.len() < outputs {
                return Err(Error::invalid_model(format!(
                    "{} sizes are given for {outputs} outputs",
                    sizes.len()
                )));
            }
            let dims: Vec<Dim> = sizes.iter().map(Element::to_dim).collect();
            let total = dims.iter().fold(Dim::Known(0), |a, b| dim::add(&a, b));
            if dim::differ(&total, &shape[axis]) {
                return Err(Error::invalid_model(format!(
                    "the sizes add up to {total}, but axis {axis} of {} is {}",
                    s.describe(0),
                    shape[axis]
                )));
            }
            dims
        }
        None if given => vec![Dim::Unknown; outputs],
        None => even_split(s, &shape[axis], outputs)?,
    };
    let contents = s.contents_of(0).filter(|_| shape.rank() == 1);
    let mut start = 0;
    for (o, size) in sizes.into_iter().enumerate().take(outputs) {
        if let (Some(c), Dim::Known(n)) = (&contents, &size)
            && let Some(part) = c.elements.get(start..start + n)
        {
            s.set_contents(o, Contents::vector(part.to_vec()));
            start += n;
        }
        let mut dims = shape.clone();
        dims.0[axis] = size;
        s.set_tensor(o, dtype, Some(dims));
    }
    Ok(())
}

/// Parts of equal size, the last one smaller where the size does not divide.
fn even_split(s: &Site<'_>, size: &Dim, outputs: usize) -> Result<Vec<Dim>> {
    let parts = s.size_attribute("num_outputs", outputs as i64)?.max(1);
    let part = dim::over_up(size, parts as i64);
    let last = match size {
        Dim::Known(n) => {
            let each = n.div_ceil(parts);
            Dim::Known(n.saturating_sub(each * (parts - 1)))
        }
        _ if dim::times(&part, parts as i64) == *size => part.clone(),
        _ if s.version() < 18 => return Ok(vec![dim::over(size, parts as i64); outputs]),
        _ => Dim::Unknown,
    };
    Ok((0..outputs).map(|o| if o + 1 == parts { last.clone() } else { part.clone() }).collect())
}

fn pad(s: &mut Site<'_>) -> Result<()> {
    let dtype = s.dtype(0);
    let Some(shape) = s.shape(0) else {
        s.set_tensor(0, dtype, None);
        return Ok(());
    };
    let rank = shape.rank();
    let pads: Option<Vec<Element>> = match s.version() {
        ..2 => s.ints("paddings")?.map(|v| v.iter().copied().map(Element::int).collect()),
        2..11 => s.ints("pads")?.map(|v| v.iter().copied().map(Element::int).collect()),
        _ => s.contents_of(1).map(|c| c.elements.clone()),
    };
    let axes = if s.has(3) { s.ints_of(3) } else { Some((0..rank as i64).collect()) };
    let (Some(pads), Some(axes)) = (pads, axes) else {
        s.set_tensor(0, dtype, Some(dim::unknown(rank)));
        return Ok(());
    };
    let axes = dim::axes(&axes, rank)?;
    if pads.len() != 2 * axes.len() {
        return Err(Error::invalid_model(format!(
            "{} pads are given for {} axes; two an axis are needed",
            pads.len(),
            axes.len()
        )));
    }
    let mut dims = shape.clone();
    for (i, &axis) in axes.iter().enumerate() {
        let sum = match (&shape[axis].to_expr(), pads[i].expr(), pads[i + axes.len()].expr()) {
            (Some(d), Some(b), Some(e)) => expr::add(d, b).and_then(|d| expr::add(&d, e)),
            _ => None,
        };
        if let Some(DimExpr::Const(c)) = sum
            && c < 0
        {
            return Err(Error::invalid_model(format!(
                "axis {axis} of {} is cropped below zero",
                s.describe(0)
            )));
        }
        dims.0[axis] = sum.map_or(Dim::Unknown, Dim::from_expr);
    }
    s.set_tensor(0, dtype, Some(dims));
    Ok(())
}

fn shape_of(s: &mut Site<'_>) -> Result<()> {
    let Some(shape) = s.shape(0) else {
        s.set_tensor(0, DType::I64, Some(dim::unknown(1)));
        return Ok(());
    };
    let rank = shape.rank() as i64;
    let clamp = |v: i64| (if v < 0 { v.saturating_add(rank) } else { v }).clamp(0, rank) as usize;
    let (start, end) = (clamp(s.int("start", 0)?), clamp(s.int("end", rank)?));
    let part = shape.dims().get(start..end).unwrap_or(&[]);
    s.set_tensor(0, DType::I64, Some(Shape::known(&[part.len()])));
    s.set_contents(0, Contents::vector(part.iter().map(Element::from_dim).collect()));
    Ok(())
}

fn size_of(s: &mut Site<'_>) -> Result<()> {
    s.set_tensor(0, DType::I64, Some(Shape::scalar()));
    if let Some(shape) = s.shape(0) {
        let size = Element::from_dim(&dim::product(shape.iter()));
        s.set_contents(0, Some(Contents::scalar(size)));
    }
    Ok(())
}

/// Edge and area of the blocks that move between depth and space.
fn block_of(s: &mut Site<'_>) -> Result<(i64, i64)> {
    s.expect_rank(0, 4)?;
    let block = s.required_int("blocksize")?;
    if block < 1 {
        return Err(Error::invalid_model(format!("blocksize is {block}; it must be positive")));
    }
    Ok((block, block.saturating_mul(block)))
}

fn depth_to_space(s: &mut Site<'_>) -> Result<()> {
    let (block, area) = block_of(s)?;
    let shape = [
        s.dim(0, 0),
        dim::over(&s.dim(0, 1), area),
        dim::times(&s.dim(0, 2), block),
        dim::times(&s.dim(0, 3), block),
    ];
    s.set_tensor(0, s.dtype(0), Some(shape.into_iter().collect()));
    Ok(())
}

fn space_to_depth(s: &mut Site<'_>) -> Result<()> {
    let (block, area) = block_of(s)?;
    let shape = [
        s.dim(0, 0),
        dim::times(&s.dim(0, 1), area),
        dim::over(&s.dim(0, 2), block),
        dim::over(&s.dim(0, 3), block),
    ];
    s.set_tensor(0, s.dtype(0), Some(shape.into_iter().collect()));
    Ok(())
}

fn center_crop_pad(s: &mut Site<'_>) -> Result<()> {
    let dtype = s.dtype(0);
    let Some(shape) = s.shape(0) else {
        s.set_tensor(0, dtype, None);
        return Ok(());
    };
    let axes = match s.ints("axes")? {
        Some(axes) => dim::axes(axes, shape.rank())?,
        None => (0..shape.rank()).collect(),
    };
    let sizes = s.contents_of(1);
    let mut dims = shape.clone();
    for (i, axis) in axes.into_iter().enumerate() {
        dims.0[axis] = sizes.as_ref().and_then(|c| c.elements.get(i)).map_or(Dim::Unknown, Element::to_dim);
    }
    s.set_tensor(0, dtype, Some(dims));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reshape(input: &[Dim], wanted: &[i64]) -> Result<Shape> {
        let wanted: Vec<Element> = wanted.iter().copied().map(Element::int).collect();
        reshaped(Some(&input.iter().cloned().collect()), &wanted, false)
    }

    #[test]
    fn reshape_copies_zeros_and_infers_minus_one() {
        let n = || Dim::from("n");
        assert_eq!(reshape(&[n(), 12.into(), 64.into()], &[0, -1]).unwrap().to_string(), "[n,768]");
        assert_eq!(
            reshape(&[n(), 7.into(), 768.into()], &[-1, 7, 12, 64]).unwrap().to_string(),
            "[n,7,12,64]"
        );
        assert_eq!(reshape(&[n(), 6.into()], &[-1, 4]).unwrap().to_string(), "[floor(3*n / 2),4]");
        assert_eq!(reshape(&[Dim::Unknown, 6.into()], &[0, 2, -1]).unwrap().to_string(), "[?,2,3]");
    }

    #[test]
    fn reshape_reports_what_cannot_fit() {
        let message =
            |input: &[Dim], wanted: &[i64]| reshape(input, wanted).unwrap_err().message().to_owned();
        assert_eq!(message(&[6.into()], &[4, -1]), "6 elements are not divisible by 4");
        assert_eq!(message(&[6.into()], &[4]), "it has 6 elements, the shape 4");
        assert_eq!(message(&[6.into()], &[-1, -1]), "more than one size is -1");
        assert_eq!(message(&[6.into()], &[6, 0]), "0 copies dimension 1, which the input does not have");
        assert_eq!(message(&[6.into()], &[-2]), "-2 is no size; only -1 is inferred");
    }
}
