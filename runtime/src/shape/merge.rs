//! Types against types: inferred with declared, branch with branch, iteration with iteration.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{dim, expr};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::graph::{Dim, Shape, TensorType, TypeInfo};

/// The inferred type of value `name` with what only its declaration says. An error when the element types or the kinds
/// of type differ.
pub fn refine(
    name: &str,
    inferred: Option<TypeInfo>,
    declared: Option<&TypeInfo>,
) -> Result<Option<TypeInfo>> {
    let (inferred, declared) = match (inferred, declared) {
        (None, declared) => return Ok(declared.cloned()),
        (inferred, None) => return Ok(inferred),
        (Some(i), Some(d)) => (i, d),
    };
    match combine(&inferred, declared) {
        Some(ty) => Ok(Some(ty)),
        None => Err(Error::invalid_model(format!(
            "output '{name}' is declared as {declared}, but the operator computes {inferred}"
        ))),
    }
}

fn combine(inferred: &TypeInfo, declared: &TypeInfo) -> Option<TypeInfo> {
    Some(match (inferred, declared) {
        (TypeInfo::Tensor(i), TypeInfo::Tensor(d)) => TypeInfo::Tensor(TensorType {
            dtype: same_dtype(i.dtype, d.dtype)?,
            shape: combine_shapes(i.shape.as_ref(), d.shape.as_ref()),
        }),
        (TypeInfo::Sequence(i), TypeInfo::Sequence(d)) => TypeInfo::Sequence(Box::new(combine(i, d)?)),
        (TypeInfo::Optional(i), TypeInfo::Optional(d)) => TypeInfo::Optional(Box::new(combine(i, d)?)),
        (TypeInfo::Map { key: k, value: v }, TypeInfo::Map { key, value }) => {
            TypeInfo::Map { key: same_dtype(*k, *key)?, value: Box::new(combine(v, value)?) }
        }
        _ => return None,
    })
}

fn same_dtype(a: DType, b: DType) -> Option<DType> {
    match (a, b) {
        (DType::Undefined, other) | (other, DType::Undefined) => Some(other),
        (a, b) => (a == b).then_some(a),
    }
}

/// Inferred sizes win; a declared known size fills in where inference leaves the size to the run.
fn combine_shapes(inferred: Option<&Shape>, declared: Option<&Shape>) -> Option<Shape> {
    let (Some(i), Some(d)) = (inferred, declared) else { return inferred.or(declared).cloned() };
    if i.rank() != d.rank() {
        return Some(i.clone());
    }
    let fill = |(i, d): (&Dim, &Dim)| match d {
        Dim::Known(_) if depends_on_run(i) => d.clone(),
        _ => i.clone(),
    };
    Some(i.iter().zip(d.iter()).map(fill).collect())
}

fn depends_on_run(dim: &Dim) -> bool {
    any_symbol(dim, dim::is_made_up).unwrap_or(true)
}

/// Whether `test` holds for a symbol of the dimension; `None` when it is unknown.
fn any_symbol(dim: &Dim, test: impl Fn(&str) -> bool) -> Option<bool> {
    match dim {
        Dim::Known(_) => Some(false),
        Dim::Symbol(s) => Some(test(s)),
        Dim::Expr(e) => {
            let mut symbols = Default::default();
            expr::collect_symbols(e, &mut symbols);
            Some(symbols.iter().any(|s| test(s)))
        }
        Dim::Unknown => None,
    }
}

/// The type that covers both; `None` when they are of different kinds.
pub fn join(a: &TypeInfo, b: &TypeInfo) -> Option<TypeInfo> {
    Some(match (a, b) {
        (TypeInfo::Tensor(x), TypeInfo::Tensor(y)) => TypeInfo::Tensor(TensorType {
            dtype: same_dtype(x.dtype, y.dtype)?,
            shape: match (&x.shape, &y.shape) {
                (Some(x), Some(y)) => join_shapes(x, y),
                _ => None,
            },
        }),
        (TypeInfo::Sequence(x), TypeInfo::Sequence(y)) => TypeInfo::Sequence(Box::new(join(x, y)?)),
        (TypeInfo::Optional(x), TypeInfo::Optional(y)) => TypeInfo::Optional(Box::new(join(x, y)?)),
        (TypeInfo::Map { key: k, value: v }, TypeInfo::Map { key, value }) => {
            TypeInfo::Map { key: same_dtype(*k, *key)?, value: Box::new(join(v, value)?) }
        }
        _ => return None,
    })
}

/// The dimensions that both share; `None` when the ranks differ.
pub fn join_shapes(a: &Shape, b: &Shape) -> Option<Shape> {
    if a.rank() != b.rank() {
        return None;
    }
    Some(a.iter().zip(b.iter()).map(|(x, y)| if x == y { x.clone() } else { Dim::Unknown }).collect())
}

/// `ty` with every tensor dimension changed by `f`.
pub fn map_dims(ty: &TypeInfo, f: &mut dyn FnMut(&Dim) -> Dim) -> TypeInfo {
    match ty {
        TypeInfo::Tensor(t) => TypeInfo::Tensor(TensorType {
            dtype: t.dtype,
            shape: t.shape.as_ref().map(|s| s.iter().map(&mut *f).collect()),
        }),
        TypeInfo::Sequence(t) => TypeInfo::Sequence(Box::new(map_dims(t, f))),
        TypeInfo::Optional(t) => TypeInfo::Optional(Box::new(map_dims(t, f))),
        TypeInfo::Map { key, value } => TypeInfo::Map { key: *key, value: Box::new(map_dims(value, f)) },
    }
}

/// `ty` outside a body at `depth`: sizes made up inside it become unknown.
pub fn leave_body(ty: &TypeInfo, depth: usize) -> TypeInfo {
    map_dims(ty, &mut |d| match any_symbol(d, |s| made_up_depth(s) >= depth) {
        Some(false) => d.clone(),
        _ => Dim::Unknown,
    })
}

/// The name of the size of `axis` of `value` in a body at `depth` that only the run decides.
pub fn made_up_name(value: &str, axis: usize, depth: usize) -> Arc<str> {
    format!("{value}#{axis}{}", "'".repeat(depth)).into()
}

fn made_up_depth(name: &str) -> usize {
    if dim::is_made_up(name) { name.len() - name.trim_end_matches('\'').len() } else { 0 }
}

/// `ty` with symbols replaced by `values`.
pub fn bind(ty: &TypeInfo, values: &BTreeMap<Arc<str>, i64>) -> TypeInfo {
    map_dims(ty, &mut |d| match d {
        Dim::Symbol(_) | Dim::Expr(_) => {
            let bound = d.to_expr().and_then(|e| expr::substitute(&e, values));
            bound.map_or(Dim::Unknown, Dim::from_expr)
        }
        other => other.clone(),
    })
}

/// True when the element type is known (of every part of a composite type).
pub fn is_typed(ty: &TypeInfo) -> bool {
    match ty {
        TypeInfo::Tensor(t) => t.dtype != DType::Undefined,
        TypeInfo::Sequence(t) | TypeInfo::Optional(t) => is_typed(t),
        TypeInfo::Map { value, .. } => is_typed(value),
    }
}
