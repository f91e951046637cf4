//! Sequences and optionals.

use super::Rule;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::graph::{Dim, Shape, TensorType, TypeInfo};
use crate::shape::contents::{Contents, Element};
use crate::shape::site::Site;
use crate::shape::{dim, merge};

pub const RULES: &[Rule] = &[
    Rule::onnx("ConcatFromSequence", 1, concat),
    Rule::onnx("Optional", 0, optional),
    Rule::onnx("OptionalGetElement", 1, get_element),
    Rule::onnx("OptionalHasElement", 0, has_element),
    Rule::onnx("SequenceAt", 2, at),
    Rule::onnx("SequenceConstruct", 1, construct),
    Rule::onnx("SequenceEmpty", 0, empty),
    Rule::onnx("SequenceErase", 1, erase),
    Rule::onnx("SequenceInsert", 2, insert),
    Rule::onnx("SequenceLength", 1, length),
    Rule::onnx("SplitToSequence", 1, split),
];

/// The element type of the sequence at input `i`; an error when it is something else.
fn element<'a>(s: &Site<'a>, i: usize) -> Result<Option<&'a TypeInfo>> {
    match s.input(i) {
        Some(TypeInfo::Sequence(element)) => Ok(Some(element)),
        Some(_) => Err(Error::invalid_model(format!("{} must be a sequence", s.describe(i)))),
        None => Ok(None),
    }
}

fn concat(s: &mut Site<'_>) -> Result<()> {
    let new_axis = s.flag("new_axis", false)?;
    let axis = s.required_int("axis")?;
    let Some(TypeInfo::Tensor(t)) = element(s, 0)? else { return Ok(()) };
    let shape = match &t.shape {
        Some(shape) => {
            let rank = shape.rank() + usize::from(new_axis);
            let axis = dim::axis(axis, rank)?;
            let mut dims = shape.clone();
            if new_axis {
                dims.0.insert(axis, Dim::Unknown);
            } else {
                dims.0[axis] = Dim::Unknown;
            }
            Some(dims)
        }
        None => None,
    };
    s.set_tensor(0, t.dtype, shape);
    Ok(())
}

fn at(s: &mut Site<'_>) -> Result<()> {
    if let Some(element) = element(s, 0)? {
        s.set(0, element.clone());
    }
    Ok(())
}

fn construct(s: &mut Site<'_>) -> Result<()> {
    let mut total: Option<TypeInfo> = None;
    for i in 0..s.input_count() {
        let Some(ty) = s.input(i) else { return Ok(()) };
        total = match total {
            None => Some(ty.clone()),
            Some(t) => Some(merge::join(&t, ty).ok_or_else(|| {
                Error::invalid_model(format!(
                    "{} differs from the inputs before it, of type {t}",
                    s.describe(i)
                ))
            })?),
        };
    }
    if let Some(ty) = total {
        s.set(0, TypeInfo::Sequence(Box::new(ty)));
    }
    Ok(())
}

fn empty(s: &mut Site<'_>) -> Result<()> {
    let dtype = s.dtype_attribute("dtype")?.unwrap_or(DType::F32);
    s.set(0, TypeInfo::Sequence(Box::new(TypeInfo::unranked(dtype))));
    Ok(())
}

fn erase(s: &mut Site<'_>) -> Result<()> {
    element(s, 0)?;
    s.copy(0, 0);
    Ok(())
}

fn insert(s: &mut Site<'_>) -> Result<()> {
    let old = element(s, 0)?;
    let joined = match (old, s.input(1)) {
        (Some(old), Some(new)) => Some(merge::join(old, new).ok_or_else(|| {
            Error::invalid_model(format!("{} does not fit {}", s.describe(1), s.describe(0)))
        })?),
        (Some(TypeInfo::Tensor(t)), None) => {
            Some(TypeInfo::Tensor(TensorType { dtype: t.dtype, shape: None }))
        }
        (None, Some(TypeInfo::Tensor(t))) => {
            Some(TypeInfo::Tensor(TensorType { dtype: t.dtype, shape: None }))
        }
        _ => None,
    };
    if let Some(ty) = joined {
        s.set(0, TypeInfo::Sequence(Box::new(ty)));
    }
    Ok(())
}

fn length(s: &mut Site<'_>) -> Result<()> {
    element(s, 0)?;
    s.set_tensor(0, DType::I64, Some(Shape::scalar()));
    Ok(())
}

fn split(s: &mut Site<'_>) -> Result<()> {
    let keep = s.has(1) || s.flag("keepdims", true)?;
    let shape = match s.shape(0) {
        Some(shape) => {
            let axis = dim::axis(s.int("axis", 0)?, shape.rank())?;
            let mut dims = shape.clone();
            if keep {
                dims.0[axis] = match (s.has(1), s.rank(1), s.size_of(1)) {
                    (false, ..) => Dim::Known(1),
                    (true, Some(0), part) if dim::differ(&Dim::Known(0), &part) => {
                        match (&shape[axis], &part) {
                            (Dim::Known(n), Dim::Known(p)) if n % p == 0 => part,
                            _ => Dim::Unknown,
                        }
                    }
                    _ => Dim::Unknown,
                };
            } else {
                dims.0.remove(axis);
            }
            Some(dims)
        }
        None => None,
    };
    if s.dtype(0) != DType::Undefined || shape.is_some() {
        let part = TypeInfo::Tensor(TensorType { dtype: s.dtype(0), shape });
        s.set(0, TypeInfo::Sequence(Box::new(part)));
    }
    Ok(())
}

fn optional(s: &mut Site<'_>) -> Result<()> {
    let inner = match s.input(0) {
        Some(ty) => Some(ty),
        None => s.node.attributes.type_info("type")?,
    };
    if let Some(ty) = inner {
        s.set(0, TypeInfo::Optional(Box::new(ty.clone())));
    }
    Ok(())
}

fn get_element(s: &mut Site<'_>) -> Result<()> {
    match s.input(0) {
        Some(TypeInfo::Optional(inner)) => s.set(0, (**inner).clone()),
        Some(other) => s.set(0, other.clone()),
        None => {}
    }
    Ok(())
}

fn has_element(s: &mut Site<'_>) -> Result<()> {
    s.set_tensor(0, DType::Bool, Some(Shape::scalar()));
    let known = match s.input(0) {
        _ if !s.has(0) => Some(false),
        Some(TypeInfo::Tensor(_) | TypeInfo::Sequence(_)) => Some(true),
        _ => None,
    };
    s.set_contents(0, known.map(|k| Contents::scalar(Element::bool(k))));
    Ok(())
}
