//! Contents of small tensors that are known, in part or as expressions, before the run.

use smallvec::SmallVec;

use super::expr;
use crate::dtype::DType;
use crate::error::Result;
use crate::graph::{Dim, DimExpr};
use crate::tensor::{Dims, Tensor};

/// Tensors with more elements are not followed.
pub const LIMIT: usize = 256;

/// One element.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Element {
    #[default]
    Unknown,
    /// A whole number, of an integer, boolean or float tensor.
    Int(DimExpr),
    /// A number with a fraction, or one that is not finite.
    Real(f64),
}

impl Element {
    /// An integer.
    pub fn int(value: i64) -> Self {
        Element::Int(DimExpr::Const(value))
    }

    /// A truth value.
    pub fn bool(value: bool) -> Self {
        Self::int(i64::from(value))
    }

    /// A number, as a whole one where it is.
    pub fn real(value: f64) -> Self {
        const EXACT: f64 = 9_007_199_254_740_992.0;
        if value.fract() == 0.0 && value.abs() < EXACT {
            Self::int(value as i64)
        } else {
            Element::Real(value)
        }
    }

    /// What an expression that may have overflowed is.
    pub fn from_expr(expr: Option<DimExpr>) -> Self {
        expr.map_or(Element::Unknown, Element::Int)
    }

    /// The expression, when it is a whole number.
    pub fn expr(&self) -> Option<&DimExpr> {
        match self {
            Element::Int(e) => Some(e),
            _ => None,
        }
    }

    /// The integer, when it is one known before the run.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Element::Int(DimExpr::Const(c)) => Some(*c),
            _ => None,
        }
    }

    /// The number, when it is known before the run.
    pub fn as_real(&self) -> Option<f64> {
        match self {
            Element::Int(DimExpr::Const(c)) => Some(*c as f64),
            Element::Real(r) => Some(*r),
            _ => None,
        }
    }

    /// The size this element gives a dimension.
    pub fn to_dim(&self) -> Dim {
        match self {
            Element::Int(e) => Dim::from_expr(e.clone()),
            _ => Dim::Unknown,
        }
    }

    /// The element that holds the size of a dimension.
    pub fn from_dim(dim: &Dim) -> Self {
        dim.to_expr().map_or(Element::Unknown, Element::Int)
    }
}

/// The elements of a tensor of known shape, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Contents {
    pub dims: Dims,
    pub elements: Vec<Element>,
}

impl Contents {
    /// `elements` in shape `dims`; `None` when they are too many or their count is not that of `dims`.
    pub fn new(dims: &[usize], elements: Vec<Element>) -> Option<Self> {
        let count = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
        (count == elements.len() && count <= LIMIT)
            .then(|| Contents { dims: SmallVec::from_slice(dims), elements })
    }

    /// One element of rank 0.
    pub fn scalar(element: Element) -> Self {
        Contents { dims: Dims::new(), elements: vec![element] }
    }

    /// Elements of rank 1.
    pub fn vector(elements: Vec<Element>) -> Option<Self> {
        Self::new(&[elements.len()], elements)
    }

    /// The contents of a constant, when it is small and numeric.
    pub fn of(tensor: &Tensor) -> Option<Self> {
        if tensor.len() > LIMIT {
            return None;
        }
        let dtype = tensor.dtype();
        let elements = if dtype == DType::Bool || dtype.is_integer() {
            tensor.to_i64_vec().ok()?.into_iter().map(Element::int).collect()
        } else if dtype.is_float() {
            tensor.to_f64_vec().ok()?.into_iter().map(Element::real).collect()
        } else {
            return None;
        };
        Self::new(tensor.dims(), elements)
    }

    /// The integers, when every element is one known before the run.
    pub fn ints(&self) -> Option<Vec<i64>> {
        self.elements.iter().map(Element::as_int).collect()
    }

    /// The numbers, when every element is known before the run.
    pub fn reals(&self) -> Option<Vec<f64>> {
        self.elements.iter().map(Element::as_real).collect()
    }

    /// True when nothing is known about any element of a non-empty tensor.
    pub fn is_blank(&self) -> bool {
        !self.elements.is_empty() && self.elements.iter().all(|e| *e == Element::Unknown)
    }

    /// A tensor of integers or booleans with exactly these elements, when all are known.
    pub fn to_tensor(&self, dtype: DType) -> Option<Tensor> {
        let values = self.ints()?;
        macro_rules! of {
            ($ty:ty) => {{
                let values = values.iter().map(|v| <$ty>::try_from(*v).ok()).collect::<Option<Vec<_>>>()?;
                Tensor::from_slice(&self.dims, &values)
            }};
        }
        let tensor: Result<Tensor> = match dtype {
            DType::I64 => Tensor::from_slice(&self.dims, &values),
            DType::I32 => of!(i32),
            DType::I16 => of!(i16),
            DType::I8 => of!(i8),
            DType::U8 => of!(u8),
            DType::U16 => of!(u16),
            DType::U32 => of!(u32),
            DType::U64 => of!(u64),
            DType::Bool => {
                Tensor::from_bools(&self.dims, &values.iter().map(|v| *v != 0).collect::<Vec<_>>())
            }
            _ => return None,
        };
        tensor.ok()
    }

    /// Each element changed by `f`.
    pub fn map(&self, f: impl FnMut(&Element) -> Element) -> Contents {
        Contents { dims: self.dims.clone(), elements: self.elements.iter().map(f).collect() }
    }

    /// The contents repeated to `dims`, which the shape broadcasts to.
    pub fn broadcast_to(&self, dims: &[usize]) -> Option<Contents> {
        let count = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| *n <= LIMIT)?;
        let lead = dims.len().checked_sub(self.dims.len())?;
        let mut elements = Vec::with_capacity(count);
        for flat in 0..count {
            let (mut rest, mut index, mut stride) = (flat, 0, 1);
            for axis in (0..dims.len()).rev() {
                let at = rest % dims[axis];
                rest /= dims[axis];
                if let Some(own) = axis.checked_sub(lead).map(|a| self.dims[a]) {
                    index += if own == 1 { 0 } else { at * stride };
                    stride *= own;
                }
            }
            elements.push(self.elements.get(index)?.clone());
        }
        Contents::new(dims, elements)
    }

    /// The elements at `indices` of one axis, in that order.
    pub fn take(&self, axis: usize, indices: &[usize]) -> Option<Contents> {
        let size = *self.dims.get(axis)?;
        let outer: usize = self.dims[..axis].iter().product();
        let inner: usize = self.dims[axis + 1..].iter().product();
        let mut elements = Vec::with_capacity(outer * indices.len() * inner);
        for o in 0..outer {
            for &i in indices {
                let start = (o * size + i) * inner;
                elements.extend_from_slice(self.elements.get(start..start + inner).filter(|_| i < size)?);
            }
        }
        let mut dims = self.dims.clone();
        dims[axis] = indices.len();
        Contents::new(&dims, elements)
    }

    /// The contents with axis `order[i]` as axis `i`.
    pub fn transposed(&self, order: &[usize]) -> Option<Contents> {
        let strides: Vec<usize> =
            order.iter().map(|a| Some(self.dims.get(a + 1..)?.iter().product())).collect::<Option<_>>()?;
        let dims: Dims = order.iter().map(|a| self.dims[*a]).collect();
        let elements = (0..self.elements.len()).map(|flat| {
            let (mut rest, mut index) = (flat, 0);
            for (dim, stride) in dims.iter().zip(&strides).rev() {
                index += rest % dim * stride;
                rest /= dim;
            }
            self.elements.get(index).cloned()
        });
        Contents::new(&dims, elements.collect::<Option<_>>()?)
    }

    /// `f` of the elements of both, broadcast against each other.
    pub fn zip(&self, other: &Contents, f: impl Fn(&Element, &Element) -> Element) -> Option<Contents> {
        let rank = self.dims.len().max(other.dims.len());
        let at = |dims: &[usize], i: usize| (i + dims.len()).checked_sub(rank).map_or(1, |i| dims[i]);
        let mut dims = Dims::new();
        for i in 0..rank {
            match (at(&self.dims, i), at(&other.dims, i)) {
                (1, n) | (n, 1) => dims.push(n),
                (x, y) if x == y => dims.push(x),
                _ => return None,
            }
        }
        let (a, b) = (self.broadcast_to(&dims)?, other.broadcast_to(&dims)?);
        Contents::new(&dims, a.elements.iter().zip(&b.elements).map(|(x, y)| f(x, y)).collect())
    }
}

/// An arithmetic operation that contents are followed through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Min,
    Max,
}

/// `a op b` in `dtype`.
pub fn arithmetic(op: Arithmetic, dtype: DType, a: &Element, b: &Element) -> Element {
    let whole = dtype.is_integer();
    if !whole && dtype != DType::F32 && dtype != DType::F64 {
        return Element::Unknown;
    }
    if let (Element::Int(x), Element::Int(y)) = (a, b)
        && let Some(result) = whole_arithmetic(op, whole, x, y)
    {
        return match result {
            DimExpr::Const(c) if whole && !fits(c, dtype) => Element::Unknown,
            DimExpr::Const(c) if dtype == DType::F32 && c.unsigned_abs() > 1 << 24 => Element::Unknown,
            other => Element::Int(other),
        };
    }
    match (a.as_real(), b.as_real()) {
        (Some(x), Some(y)) if !whole => Element::real(rounded(real_arithmetic(op, x, y), dtype)),
        _ => Element::Unknown,
    }
}

/// `value` as `dtype` stores it.
pub fn rounded(value: f64, dtype: DType) -> f64 {
    if dtype == DType::F32 { f64::from(value as f32) } else { value }
}

fn whole_arithmetic(op: Arithmetic, integers: bool, a: &DimExpr, b: &DimExpr) -> Option<DimExpr> {
    match op {
        Arithmetic::Add => expr::add(a, b),
        Arithmetic::Sub => expr::sub(a, b),
        Arithmetic::Mul => expr::mul(a, b),
        Arithmetic::Min => expr::min(a, b),
        Arithmetic::Max => expr::max(a, b),
        Arithmetic::Div => match (a, b) {
            (DimExpr::Const(x), DimExpr::Const(y)) if integers => x.checked_div(*y).map(DimExpr::Const),
            _ => {
                let quotient = expr::floor_div(a, b)?;
                let exact = expr::mul(&quotient, b).as_ref() == Some(a);
                let truncates = integers && expr::is_non_negative(a) && expr::is_non_negative(b);
                (exact || truncates).then_some(quotient)
            }
        },
        Arithmetic::Mod if integers => expr::modulo(a, b),
        Arithmetic::Mod => None,
        Arithmetic::Pow => match (a, b) {
            (DimExpr::Const(x), DimExpr::Const(y)) => {
                x.checked_pow(u32::try_from(*y).ok()?).map(DimExpr::Const)
            }
            (x, DimExpr::Const(1)) => Some(x.clone()),
            (x, DimExpr::Const(2)) => expr::mul(x, x),
            _ => None,
        },
    }
}

fn real_arithmetic(op: Arithmetic, a: f64, b: f64) -> f64 {
    match op {
        Arithmetic::Add => a + b,
        Arithmetic::Sub => a - b,
        Arithmetic::Mul => a * b,
        Arithmetic::Div => a / b,
        Arithmetic::Mod => a % b,
        Arithmetic::Pow => a.powf(b),
        Arithmetic::Min => a.min(b),
        Arithmetic::Max => a.max(b),
    }
}

/// True when an integer dtype can hold `value`.
pub fn fits(value: i64, dtype: DType) -> bool {
    let bits = dtype.bits() as u32;
    match dtype {
        DType::I64 => true,
        DType::U64 => value >= 0,
        DType::U8 | DType::U16 | DType::U32 | DType::U4 | DType::U2 => value >= 0 && value < 1 << bits,
        d if d.is_integer() => value >= -(1 << (bits - 1)) && value < 1 << (bits - 1),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ints(dims: &[usize], values: &[i64]) -> Contents {
        Contents::new(dims, values.iter().copied().map(Element::int).collect()).unwrap()
    }

    #[test]
    fn contents_broadcast_row_major() {
        let sum = ints(&[2, 1], &[10, 20])
            .zip(&ints(&[3], &[1, 2, 3]), |a, b| arithmetic(Arithmetic::Add, DType::I64, a, b))
            .unwrap();
        assert_eq!(sum, ints(&[2, 3], &[11, 12, 13, 21, 22, 23]));
        assert!(ints(&[2], &[1, 2]).zip(&ints(&[3], &[1, 2, 3]), |a, _| a.clone()).is_none());
    }

    #[test]
    fn contents_are_taken_and_transposed_along_axes() {
        let c = ints(&[2, 3], &[1, 2, 3, 4, 5, 6]);
        assert_eq!(c.take(1, &[2, 0]).unwrap(), ints(&[2, 2], &[3, 1, 6, 4]));
        assert_eq!(c.take(0, &[1]).unwrap(), ints(&[1, 3], &[4, 5, 6]));
        assert_eq!(c.take(0, &[2]), None);
        assert_eq!(c.transposed(&[1, 0]).unwrap(), ints(&[3, 2], &[1, 4, 2, 5, 3, 6]));
    }

    #[test]
    fn integer_division_truncates_and_symbols_divide_only_where_that_is_the_floor() {
        let n = Element::Int(DimExpr::Symbol("n".into()));
        let div = |a: &Element, b: i64| arithmetic(Arithmetic::Div, DType::I64, a, &Element::int(b));
        assert_eq!(div(&Element::int(-7), 2), Element::int(-3));
        assert!(matches!(div(&n, 2), Element::Int(DimExpr::FloorDiv(..))));
        let less = arithmetic(Arithmetic::Sub, DType::I64, &n, &Element::int(1));
        assert_eq!(div(&less, 2), Element::Unknown);
        assert_eq!(arithmetic(Arithmetic::Div, DType::F32, &n, &Element::int(2)), Element::Unknown);
        assert_eq!(
            arithmetic(Arithmetic::Add, DType::I8, &Element::int(100), &Element::int(100)),
            Element::Unknown
        );
    }

    #[test]
    fn known_contents_become_tensors_of_their_dtype() {
        let c = ints(&[2], &[1, 300]);
        assert_eq!(c.to_tensor(DType::I32), Tensor::from_slice(&[2], &[1i32, 300]).ok());
        assert_eq!(c.to_tensor(DType::U8), None);
        assert_eq!(c.to_tensor(DType::F32), None);
    }
}
