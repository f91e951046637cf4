//! Resize and its deprecated forerunner Upsample.

use super::Rule;
use super::layout::length_of;
use crate::error::{Error, Result};
use crate::graph::{Dim, Shape};
use crate::shape::contents::Element;
use crate::shape::dim;
use crate::shape::site::Site;

pub const RULES: &[Rule] = &[Rule::onnx("Resize", 1, resize), Rule::onnx("Upsample", 1, upsample)];

/// `floor(size * scale)`, in float32 as the operator defines it.
fn scaled(size: &Dim, scale: f64) -> Dim {
    if let Dim::Known(n) = size {
        let product = (*n as f32) * (scale as f32);
        return if product >= 0.0 { Dim::Known(product.floor() as usize) } else { Dim::Unknown };
    }
    if scale == 1.0 {
        return size.clone();
    }
    if scale.fract() == 0.0 && (1.0..1e6).contains(&scale) {
        return dim::times(size, scale as i64);
    }
    let inverse = 1.0 / scale;
    // Only powers of two have an exact reciprocal, so that the product is exact as well.
    if inverse.fract() == 0.0 && (1.0..1e6).contains(&inverse) && (inverse as u64).is_power_of_two() {
        return dim::over(size, inverse as i64);
    }
    Dim::Unknown
}

fn axes(s: &Site<'_>, rank: usize) -> Result<Vec<usize>> {
    match s.ints("axes")? {
        Some(axes) => dim::axes(axes, rank),
        None => Ok((0..rank).collect()),
    }
}

fn count_error(s: &Site<'_>, what: &str, found: usize, wanted: usize) -> Error {
    Error::invalid_model(format!("{found} {what} are given for {}; {wanted} are needed", s.describe(0)))
}

fn by_scales(s: &Site<'_>, shape: &Shape, scales: Option<Vec<f64>>, axes: &[usize]) -> Result<Shape> {
    let mut dims = shape.clone();
    if let Some(scales) = &scales
        && scales.len() != axes.len()
    {
        return Err(count_error(s, "scales", scales.len(), axes.len()));
    }
    for (i, axis) in axes.iter().enumerate() {
        dims.0[*axis] = scales.as_ref().map_or(Dim::Unknown, |v| scaled(&shape[*axis], v[i]));
    }
    Ok(dims)
}

/// The sizes of the output with the aspect ratio kept: one scale for all axes, the smallest or largest that fits.
fn keep_aspect(shape: &Shape, sizes: &[Dim], axes: &[usize], larger: bool) -> Vec<Dim> {
    let ratio = |(axis, size): (&usize, &Dim)| match (&shape[*axis], size) {
        (Dim::Known(n), Dim::Known(m)) if *n > 0 => Some(*m as f64 / *n as f64),
        _ => None,
    };
    let Some(ratios) = axes.iter().zip(sizes).map(ratio).collect::<Option<Vec<f64>>>() else {
        return vec![Dim::Unknown; axes.len()];
    };
    let scale = ratios.into_iter().reduce(if larger { f64::max } else { f64::min }).unwrap_or(1.0);
    let size = |axis: &usize| {
        shape[*axis].known().map_or(Dim::Unknown, |n| Dim::Known((n as f64 * scale).round() as usize))
    };
    axes.iter().map(size).collect()
}

fn by_sizes(s: &Site<'_>, shape: &Shape, i: usize, axes: &[usize]) -> Result<Shape> {
    let sizes: Vec<Dim> = match s.contents_of(i) {
        Some(c) => c.elements.iter().map(Element::to_dim).collect(),
        None => vec![Dim::Unknown; axes.len()],
    };
    if sizes.len() != axes.len() {
        return Err(count_error(s, "sizes", sizes.len(), axes.len()));
    }
    let sizes = match s.string("keep_aspect_ratio_policy", "stretch")? {
        "not_larger" => keep_aspect(shape, &sizes, axes, false),
        "not_smaller" => keep_aspect(shape, &sizes, axes, true),
        _ => sizes,
    };
    let mut dims = shape.clone();
    for (axis, size) in axes.iter().zip(sizes) {
        dims.0[*axis] = size;
    }
    Ok(dims)
}

fn resize(s: &mut Site<'_>) -> Result<()> {
    let dtype = s.dtype(0);
    let Some(shape) = s.shape(0) else {
        s.set_tensor(0, dtype, None);
        return Ok(());
    };
    let axes = axes(s, shape.rank())?;
    // Version 10 has no region of interest: its scales are input 1.
    let (scales, sizes) = if s.version() < 11 { (1, usize::MAX) } else { (2, 3) };
    let empty = |i: usize| length_of(s, i) == Some(0);
    let dims = if sizes != usize::MAX && s.has(sizes) && !empty(sizes) {
        by_sizes(s, shape, sizes, &axes)?
    } else if s.has(scales) && !empty(scales) {
        by_scales(s, shape, s.reals_of(scales), &axes)?
    } else {
        return Err(Error::invalid_model("Resize needs scales or sizes"));
    };
    s.set_tensor(0, dtype, Some(dims));
    Ok(())
}

fn upsample(s: &mut Site<'_>) -> Result<()> {
    let dtype = s.dtype(0);
    let Some(shape) = s.shape(0) else {
        s.set_tensor(0, dtype, None);
        return Ok(());
    };
    let scales = match s.version() {
        ..7 => {
            let of = |name: &str| Ok::<f64, Error>(f64::from(s.node.float_or(name, 1.0)?));
            Some(vec![1.0, 1.0, of("height_scale")?, of("width_scale")?])
        }
        7..9 => s.node.attributes.floats("scales")?.map(|v| v.iter().map(|x| f64::from(*x)).collect()),
        _ => s.reals_of(1),
    };
    let all: Vec<usize> = (0..shape.rank()).collect();
    let dims = by_scales(s, shape, scales, &all)?;
    s.set_tensor(0, dtype, Some(dims));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_scale_as_float32_floors() {
        assert_eq!(scaled(&Dim::Known(5), 1.5), Dim::Known(7));
        assert_eq!(scaled(&Dim::from("h"), 2.0).to_string(), "2*h");
        assert_eq!(scaled(&Dim::from("h"), 0.25).to_string(), "floor(h / 4)");
        assert_eq!(scaled(&Dim::from("h"), 0.3), Dim::Unknown);
        assert_eq!(scaled(&Dim::Known(5), -1.0), Dim::Unknown);
    }

    #[test]
    fn one_scale_keeps_the_aspect_ratio() {
        let shape = Shape::known(&[1, 1, 2, 4]);
        let sizes = [Dim::Known(7), Dim::Known(8)];
        assert_eq!(keep_aspect(&shape, &sizes, &[2, 3], false), [Dim::Known(4), Dim::Known(8)]);
        assert_eq!(keep_aspect(&shape, &sizes, &[2, 3], true), [Dim::Known(7), Dim::Known(14)]);
    }
}
