//! Arithmetic and broadcasting of dimensions; what is unknown stays unknown.

use super::expr;
use crate::error::{Error, Result};
use crate::graph::{Dim, DimExpr, Shape};

type Binary = fn(&DimExpr, &DimExpr) -> Option<DimExpr>;

fn combine(a: &Dim, b: &Dim, f: Binary) -> Dim {
    match (a.to_expr(), b.to_expr()) {
        (Some(a), Some(b)) => f(&a, &b).map_or(Dim::Unknown, Dim::from_expr),
        _ => Dim::Unknown,
    }
}

fn with_constant(a: &Dim, c: i64, f: Binary) -> Dim {
    a.to_expr().and_then(|a| f(&a, &DimExpr::Const(c))).map_or(Dim::Unknown, Dim::from_expr)
}

/// `a + b`.
pub fn add(a: &Dim, b: &Dim) -> Dim {
    combine(a, b, expr::add)
}

/// `a - b`.
pub fn sub(a: &Dim, b: &Dim) -> Dim {
    combine(a, b, expr::sub)
}

/// `a * b`.
pub fn mul(a: &Dim, b: &Dim) -> Dim {
    if matches!(a, Dim::Known(0)) || matches!(b, Dim::Known(0)) {
        Dim::Known(0)
    } else {
        combine(a, b, expr::mul)
    }
}

/// `floor(a / b)`.
pub fn floor_div(a: &Dim, b: &Dim) -> Dim {
    combine(a, b, expr::floor_div)
}

/// `a + c`; `c` may be negative.
pub fn plus(a: &Dim, c: i64) -> Dim {
    with_constant(a, c, expr::add)
}

/// `a * c`.
pub fn times(a: &Dim, c: i64) -> Dim {
    with_constant(a, c, expr::mul)
}

/// `floor(a / c)`.
pub fn over(a: &Dim, c: i64) -> Dim {
    with_constant(a, c, expr::floor_div)
}

/// `ceil(a / c)`.
pub fn over_up(a: &Dim, c: i64) -> Dim {
    with_constant(a, c, expr::ceil_div)
}

/// The number of elements of `dims`.
pub fn product<'d>(dims: impl IntoIterator<Item = &'d Dim>) -> Dim {
    let mut total = Dim::Known(1);
    for dim in dims {
        total = mul(&total, dim);
    }
    total
}

/// True when both are known and different.
pub fn differ(a: &Dim, b: &Dim) -> bool {
    matches!((a, b), (Dim::Known(x), Dim::Known(y)) if x != y)
}

/// The more specific of two dimensions that are equal in every valid run.
pub fn tighter(a: &Dim, b: &Dim) -> Dim {
    let rank = |d: &Dim| match d {
        Dim::Known(_) => 0,
        Dim::Symbol(name) if !is_made_up(name) => 1,
        Dim::Expr(_) => 2,
        Dim::Symbol(_) => 3,
        Dim::Unknown => 4,
    };
    if rank(b) < rank(a) { b.clone() } else { a.clone() }
}

/// True for the name of a size that only the run decides.
pub fn is_made_up(name: &str) -> bool {
    name.contains('#')
}

/// The dimension that two dimensions broadcast to: `Ok(None)` when it depends on the run.
pub fn broadcast(a: &Dim, b: &Dim) -> Result<Option<Dim>> {
    match (a, b) {
        (Dim::Known(1), other) | (other, Dim::Known(1)) => Ok(Some(other.clone())),
        (Dim::Known(x), Dim::Known(y)) if x != y => Err(Error::invalid_model(format!(
            "sizes {x} and {y} do not broadcast; they must be equal or one of them 1"
        ))),
        (Dim::Known(n), _) | (_, Dim::Known(n)) => Ok(Some(Dim::Known(*n))),
        (Dim::Unknown, _) | (_, Dim::Unknown) => Ok(None),
        (x, y) if x == y => Ok(Some(x.clone())),
        // In a valid run `min(y, ..)` beside `y` is `y`, and so is `y` beside `max(y, ..)` the maximum.
        (x, y) if extreme_of(x, y, false) || extreme_of(y, x, true) => Ok(Some(y.clone())),
        (x, y) if extreme_of(y, x, false) || extreme_of(x, y, true) => Ok(Some(x.clone())),
        _ => Ok(None),
    }
}

/// True when `a` is a minimum, or with `largest` a maximum, of `b` and other sizes.
fn extreme_of(a: &Dim, b: &Dim, largest: bool) -> bool {
    let (Dim::Expr(a), Some(b)) = (a, b.to_expr()) else { return false };
    match &**a {
        DimExpr::Min(items) => !largest && items.contains(&b),
        DimExpr::Max(items) => largest && items.contains(&b),
        _ => false,
    }
}

/// `axis` of a tensor of `rank`, counted from the end when negative.
pub fn axis(axis: i64, rank: usize) -> Result<usize> {
    let index = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
    usize::try_from(index).ok().filter(|i| *i < rank).ok_or_else(|| {
        Error::invalid_model(format!(
            "axis {axis} is outside a tensor of rank {rank}; it must be at least -{rank} and less than {rank}"
        ))
    })
}

/// The axes, normalised, without repeats.
pub fn axes(values: &[i64], rank: usize) -> Result<Vec<usize>> {
    let mut axes = Vec::with_capacity(values.len());
    for &value in values {
        let index = axis(value, rank)?;
        if axes.contains(&index) {
            return Err(Error::invalid_model(format!("axis {value} appears twice in {values:?}")));
        }
        axes.push(index);
    }
    Ok(axes)
}

/// A shape of `rank` unknown dimensions.
pub fn unknown(rank: usize) -> Shape {
    (0..rank).map(|_| Dim::Unknown).collect()
}
