//! Operators that make tensors: constants, ranges, random numbers, masks.

use smallvec::SmallVec;

use super::Rule;
use super::layout::length_of;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::graph::{Attribute, Dim, DimExpr, Shape};
use crate::shape::contents::{Contents, Element};
use crate::shape::site::Site;
use crate::shape::{dim, expr};

pub const RULES: &[Rule] = &[
    Rule::onnx("Bernoulli", 1, like),
    Rule::onnx("Constant", 0, constant),
    Rule::onnx("ConstantOfShape", 1, constant_of_shape),
    Rule::onnx("Det", 1, det),
    Rule::onnx("EyeLike", 1, like),
    Rule::onnx("Multinomial", 1, multinomial),
    Rule::onnx("RandomNormal", 0, random),
    Rule::onnx("RandomNormalLike", 1, like),
    Rule::onnx("RandomUniform", 0, random),
    Rule::onnx("RandomUniformLike", 1, like),
    Rule::onnx("Range", 3, range),
    Rule::of("com.microsoft", "Range", 2, range),
];

fn constant(s: &mut Site<'_>) -> Result<()> {
    let vector = |n: usize| Shape::known(&[n]);
    for (name, value) in s.node.attributes.iter() {
        let (dtype, shape) = match (name, value) {
            ("value", Attribute::Tensor(t)) => {
                s.set(0, t.type_info());
                s.set_contents(0, Contents::of(t));
                return Ok(());
            }
            ("sparse_value", Attribute::Tensor(t)) => (t.dtype(), Shape::known(t.dims())),
            ("value_int", Attribute::Int(v)) => {
                s.set_contents(0, Some(Contents::scalar(Element::int(*v))));
                (DType::I64, Shape::scalar())
            }
            ("value_ints", Attribute::Ints(v)) => {
                s.set_contents(0, Contents::vector(v.iter().copied().map(Element::int).collect()));
                (DType::I64, vector(v.len()))
            }
            ("value_float", Attribute::Float(_)) => (DType::F32, Shape::scalar()),
            ("value_floats", Attribute::Floats(v)) => (DType::F32, vector(v.len())),
            ("value_string", Attribute::String(_) | Attribute::Bytes(_)) => (DType::String, Shape::scalar()),
            ("value_strings", Attribute::Strings(v)) => (DType::String, vector(v.len())),
            _ => continue,
        };
        s.set_tensor(0, dtype, Some(shape));
        return Ok(());
    }
    Ok(())
}

fn constant_of_shape(s: &mut Site<'_>) -> Result<()> {
    let value = s.node.attributes.tensor("value")?;
    let dtype = value.map_or(DType::F32, |t| t.dtype());
    let shape: Option<Shape> = match s.contents_of(0) {
        Some(c) => {
            if let Some(bad) = c.elements.iter().filter_map(Element::as_int).find(|v| *v < 0) {
                return Err(Error::invalid_model(format!("{} holds {bad}, which is no size", s.name(0))));
            }
            Some(c.elements.iter().map(Element::to_dim).collect())
        }
        None => length_of(s, 0).map(dim::unknown),
    };
    let element = match value {
        Some(t) => Contents::of(t).and_then(|c| c.elements.first().cloned()),
        None => Some(Element::int(0)),
    };
    let contents = (|| {
        let dims: SmallVec<[usize; 6]> = shape.as_ref()?.to_known()?;
        let count = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
        let element = element.filter(|_| count <= crate::shape::contents::LIMIT)?;
        Contents::new(&dims, vec![element; count])
    })();
    s.set_tensor(0, dtype, shape);
    s.set_contents(0, contents);
    Ok(())
}

/// The shape of input 0 with the element type of attribute `dtype` or of the input.
fn like(s: &mut Site<'_>) -> Result<()> {
    let dtype = s.dtype_attribute("dtype")?.unwrap_or(s.dtype(0));
    s.copy_shape(0, 0, dtype);
    Ok(())
}

fn random(s: &mut Site<'_>) -> Result<()> {
    let dtype = s.dtype_attribute("dtype")?.unwrap_or(DType::F32);
    let shape = s.ints("shape")?.ok_or_else(|| s.missing("shape"))?;
    let shape = shape.iter().map(|d| usize::try_from(*d).map_or(Dim::Unknown, Dim::Known)).collect();
    s.set_tensor(0, dtype, Some(shape));
    Ok(())
}

fn multinomial(s: &mut Site<'_>) -> Result<()> {
    let dtype = s.dtype_attribute("dtype")?.unwrap_or(DType::I32);
    let samples = Dim::Known(s.size_attribute("sample_size", 1)?);
    s.set_tensor(0, dtype, Some([s.dim(0, 0), samples].into_iter().collect()));
    Ok(())
}

/// The last two dimensions, which hold matrices, go.
fn det(s: &mut Site<'_>) -> Result<()> {
    s.expect_rank_from(0, 2)?;
    let shape = s.shape(0).map(|x| x[..x.rank() - 2].iter().cloned().collect());
    s.set_tensor(0, s.dtype(0), shape);
    Ok(())
}

fn range(s: &mut Site<'_>) -> Result<()> {
    let element = |i: usize| match s.contents_of(i).as_deref().map(|c| c.elements.as_slice()) {
        Some([element]) => Some(element.clone()),
        _ => None,
    };
    let delta = if s.has(2) { element(2) } else { Some(Element::int(1)) };
    let parts = element(0).zip(element(1)).zip(delta).map(|((start, limit), delta)| (start, limit, delta));
    let (size, contents) = parts.map_or((Dim::Unknown, None), |(a, b, d)| range_of(&a, &b, &d));
    s.set_tensor(0, s.first_dtype(&[0, 1, 2]), Some([size].into_iter().collect()));
    s.set_contents(0, contents);
    Ok(())
}

/// `max(ceil((limit - start) / delta), 0)` elements, and which.
fn range_of(start: &Element, limit: &Element, delta: &Element) -> (Dim, Option<Contents>) {
    if let (Some(a), Some(b), Some(d)) = (start.as_real(), limit.as_real(), delta.as_real()) {
        let count = ((b - a) / d).ceil().max(0.0);
        if !count.is_finite() || count > 1e15 {
            return (Dim::Unknown, None);
        }
        let (count, whole) = (count as usize, start.as_int().zip(delta.as_int()));
        let contents = whole.filter(|_| count <= crate::shape::contents::LIMIT).and_then(|(a, d)| {
            Contents::vector(
                (0..count as i64).map(|k| Element::int(a.saturating_add(k.saturating_mul(d)))).collect(),
            )
        });
        return (Dim::Known(count), contents);
    }
    let size = (|| {
        let (start, limit) = (start.expr()?, limit.expr()?);
        let step = delta.as_int().filter(|d| *d > 0)?;
        let length = expr::max(&expr::sub(limit, start)?, &DimExpr::Const(0))?;
        expr::ceil_div(&length, &DimExpr::Const(step))
    })();
    (size.map_or(Dim::Unknown, Dim::from_expr), None)
}
