//! Static types of values: element type, shape of known and symbolic dimensions, and the sequence, optional and map types.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::dtype::DType;

/// One dimension of a static shape.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Dim {
    /// A size known before the run.
    Known(usize),
    /// A named size; equal names in one model are equal sizes.
    Symbol(Arc<str>),
    /// An expression over symbols; never a plain constant or symbol.
    Expr(Arc<DimExpr>),
    /// Nothing is known.
    #[default]
    Unknown,
}

/// Integer arithmetic over symbolic dimensions. The shape stage keeps it in a normal form; here it is only data.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DimExpr {
    Const(i64),
    Symbol(Arc<str>),
    Add(Vec<DimExpr>),
    Mul(Vec<DimExpr>),
    /// Quotient rounded towards negative infinity.
    FloorDiv(Box<DimExpr>, Box<DimExpr>),
    /// Quotient rounded towards positive infinity.
    CeilDiv(Box<DimExpr>, Box<DimExpr>),
    /// Remainder with the sign of the divisor.
    Mod(Box<DimExpr>, Box<DimExpr>),
    Min(Vec<DimExpr>),
    Max(Vec<DimExpr>),
}

/// The sizes of symbols in one run.
pub type Bindings = HashMap<Arc<str>, i64>;

impl DimExpr {
    /// The value under `bindings`; `None` when a symbol is unbound, a divisor is zero, or the result overflows.
    pub fn eval(&self, bindings: &Bindings) -> Option<i64> {
        let each = |items: &[DimExpr]| items.iter().map(|e| e.eval(bindings)).collect::<Option<Vec<_>>>();
        match self {
            DimExpr::Const(c) => Some(*c),
            DimExpr::Symbol(s) => bindings.get(s).copied(),
            DimExpr::Add(items) => each(items)?.into_iter().try_fold(0i64, i64::checked_add),
            DimExpr::Mul(items) => each(items)?.into_iter().try_fold(1i64, i64::checked_mul),
            DimExpr::FloorDiv(a, b) => floor_div(a.eval(bindings)?, b.eval(bindings)?),
            DimExpr::CeilDiv(a, b) => {
                floor_div(a.eval(bindings)?.checked_neg()?, b.eval(bindings)?)?.checked_neg()
            }
            DimExpr::Mod(a, b) => {
                let (a, b) = (a.eval(bindings)?, b.eval(bindings)?);
                a.checked_sub(floor_div(a, b)?.checked_mul(b)?)
            }
            DimExpr::Min(items) => each(items)?.into_iter().min(),
            DimExpr::Max(items) => each(items)?.into_iter().max(),
        }
    }
}

fn floor_div(a: i64, b: i64) -> Option<i64> {
    let q = a.checked_div(b)?;
    Some(if a % b != 0 && (a < 0) != (b < 0) { q - 1 } else { q })
}

impl fmt::Display for DimExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, items: &[DimExpr], separator: &str| {
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    f.write_str(separator)?;
                }
                write!(f, "{item}")?;
            }
            Ok(())
        };
        match self {
            DimExpr::Const(c) => write!(f, "{c}"),
            DimExpr::Symbol(s) => f.write_str(s),
            DimExpr::Add(items) => {
                f.write_str("(")?;
                list(f, items, " + ")?;
                f.write_str(")")
            }
            DimExpr::Mul(items) => list(f, items, "*"),
            DimExpr::FloorDiv(a, b) => write!(f, "floor({a} / {b})"),
            DimExpr::CeilDiv(a, b) => write!(f, "ceil({a} / {b})"),
            DimExpr::Mod(a, b) => write!(f, "({a} mod {b})"),
            DimExpr::Min(items) => {
                f.write_str("min(")?;
                list(f, items, ", ")?;
                f.write_str(")")
            }
            DimExpr::Max(items) => {
                f.write_str("max(")?;
                list(f, items, ", ")?;
                f.write_str(")")
            }
        }
    }
}

impl Dim {
    /// The size, when it is known before the run.
    pub fn known(&self) -> Option<usize> {
        match self {
            Dim::Known(n) => Some(*n),
            _ => None,
        }
    }

    /// A named dimension.
    pub fn symbol(name: impl Into<Arc<str>>) -> Self {
        Dim::Symbol(name.into())
    }

    /// The expression this dimension is, unless it is unknown.
    pub fn to_expr(&self) -> Option<DimExpr> {
        match self {
            Dim::Known(n) => i64::try_from(*n).ok().map(DimExpr::Const),
            Dim::Symbol(s) => Some(DimExpr::Symbol(s.clone())),
            Dim::Expr(e) => Some((**e).clone()),
            Dim::Unknown => None,
        }
    }

    /// The dimension that an expression is: a non-negative constant becomes known, a negative one unknown.
    pub fn from_expr(expr: DimExpr) -> Self {
        match expr {
            DimExpr::Const(c) => usize::try_from(c).map_or(Dim::Unknown, Dim::Known),
            DimExpr::Symbol(s) => Dim::Symbol(s),
            other => Dim::Expr(Arc::new(other)),
        }
    }

    /// The size under `bindings`; `None` when it is unknown, unbound or negative.
    pub fn eval(&self, bindings: &Bindings) -> Option<usize> {
        match self {
            Dim::Known(n) => Some(*n),
            Dim::Symbol(s) => usize::try_from(*bindings.get(s)?).ok(),
            Dim::Expr(e) => usize::try_from(e.eval(bindings)?).ok(),
            Dim::Unknown => None,
        }
    }
}

impl From<usize> for Dim {
    fn from(n: usize) -> Self {
        Dim::Known(n)
    }
}

impl From<&str> for Dim {
    fn from(name: &str) -> Self {
        Dim::Symbol(name.into())
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Known(n) => write!(f, "{n}"),
            Dim::Symbol(s) => f.write_str(s),
            Dim::Expr(e) => write!(f, "{e}"),
            Dim::Unknown => f.write_str("?"),
        }
    }
}

/// A shape of known rank; outermost dimension first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shape(pub SmallVec<[Dim; 6]>);

impl Shape {
    /// The shape of a scalar.
    pub fn scalar() -> Self {
        Shape::default()
    }

    /// A fully known shape.
    pub fn known(dims: &[usize]) -> Self {
        dims.iter().copied().collect()
    }

    /// The number of dimensions.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// The dimensions, outermost first.
    pub fn dims(&self) -> &[Dim] {
        &self.0
    }

    /// The sizes, when every one is known.
    pub fn to_known(&self) -> Option<SmallVec<[usize; 6]>> {
        self.0.iter().map(Dim::known).collect()
    }

    /// The sizes under `bindings`, when every one can be evaluated.
    pub fn eval(&self, bindings: &Bindings) -> Option<SmallVec<[usize; 6]>> {
        self.0.iter().map(|d| d.eval(bindings)).collect()
    }
}

impl<D: Into<Dim>> FromIterator<D> for Shape {
    fn from_iter<I: IntoIterator<Item = D>>(dims: I) -> Self {
        Shape(dims.into_iter().map(Into::into).collect())
    }
}

impl std::ops::Deref for Shape {
    type Target = [Dim];

    fn deref(&self) -> &[Dim] {
        &self.0
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, dim) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{dim}")?;
        }
        f.write_str("]")
    }
}

/// A tensor's element type and, when the rank is known, its shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// `DType::Undefined` when only the shape is known.
    pub dtype: DType,
    /// `None` when the rank is unknown.
    pub shape: Option<Shape>,
}

/// The static type of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TypeInfo {
    Tensor(TensorType),
    /// A list of values of one type.
    Sequence(Box<TypeInfo>),
    /// A value or nothing.
    Optional(Box<TypeInfo>),
    /// A dictionary; keys are integers or strings.
    Map {
        key: DType,
        value: Box<TypeInfo>,
    },
}

impl TypeInfo {
    /// A tensor of known rank.
    pub fn tensor(dtype: DType, shape: Shape) -> Self {
        TypeInfo::Tensor(TensorType { dtype, shape: Some(shape) })
    }

    /// A tensor of unknown rank.
    pub fn unranked(dtype: DType) -> Self {
        TypeInfo::Tensor(TensorType { dtype, shape: None })
    }

    /// The tensor type, if this is one.
    pub fn as_tensor(&self) -> Option<&TensorType> {
        match self {
            TypeInfo::Tensor(t) => Some(t),
            _ => None,
        }
    }

    /// The element type, if this is a tensor with a known one.
    pub fn dtype(&self) -> Option<DType> {
        self.as_tensor().map(|t| t.dtype).filter(|d| *d != DType::Undefined)
    }

    /// The shape, if this is a tensor of known rank.
    pub fn shape(&self) -> Option<&Shape> {
        self.as_tensor()?.shape.as_ref()
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.dtype.name())?;
        match &self.shape {
            Some(shape) => write!(f, "{shape}"),
            None => f.write_str("[..]"),
        }
    }
}

impl fmt::Display for TypeInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TypeInfo::Tensor(t) => write!(f, "{t}"),
            TypeInfo::Sequence(t) => write!(f, "seq({t})"),
            TypeInfo::Optional(t) => write!(f, "optional({t})"),
            TypeInfo::Map { key, value } => write!(f, "map({}, {value})", key.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_evaluate_with_floor_semantics() {
        let n = || DimExpr::Symbol("n".into());
        let c = DimExpr::Const;
        let at = |e: &DimExpr, v: i64| e.eval(&Bindings::from([("n".into(), v)]));
        assert_eq!(at(&DimExpr::FloorDiv(n().into(), c(2).into()), -3), Some(-2));
        assert_eq!(at(&DimExpr::CeilDiv(n().into(), c(2).into()), 3), Some(2));
        assert_eq!(at(&DimExpr::Mod(n().into(), c(4).into()), -1), Some(3));
        assert_eq!(at(&DimExpr::FloorDiv(n().into(), c(0).into()), 1), None);
        assert_eq!(at(&DimExpr::Mul(vec![n(), n()]), i64::MAX), None);
        assert_eq!(at(&DimExpr::Max(vec![n(), c(7)]), 3), Some(7));
        assert_eq!(n().eval(&Bindings::new()), None);
    }

    #[test]
    fn types_print_in_one_line() {
        let t = TypeInfo::tensor(DType::F32, [Dim::from("N"), 3.into(), Dim::Unknown].into_iter().collect());
        assert_eq!(TypeInfo::Sequence(Box::new(t)).to_string(), "seq(float[N,3,?])");
        assert_eq!(TypeInfo::unranked(DType::I64).to_string(), "int64[..]");
    }
}
