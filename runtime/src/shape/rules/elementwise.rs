//! Operators that work element by element: unary, binary with broadcasting, comparison, selection and casts.

use super::Rule;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::graph::{DimExpr, Shape};
use crate::shape::contents::{Arithmetic, Contents, Element, arithmetic, fits, rounded};
use crate::shape::expr;
use crate::shape::site::Site;

pub const RULES: &[Rule] = &[
    Rule::onnx("Abs", 1, abs),
    Rule::onnx("Acos", 1, same),
    Rule::onnx("Acosh", 1, same),
    Rule::onnx("Add", 2, add),
    Rule::onnx("And", 2, logical),
    Rule::onnx("Asin", 1, same),
    Rule::onnx("Asinh", 1, same),
    Rule::onnx("Atan", 1, same),
    Rule::onnx("Atanh", 1, same),
    Rule::onnx("BitCast", 1, bit_cast),
    Rule::onnx("BitShift", 2, binary),
    Rule::onnx("BitwiseAnd", 2, binary),
    Rule::onnx("BitwiseNot", 1, same),
    Rule::onnx("BitwiseOr", 2, binary),
    Rule::onnx("BitwiseXor", 2, binary),
    Rule::onnx("Cast", 1, cast),
    Rule::onnx("CastLike", 2, cast_like),
    Rule::onnx("Ceil", 1, round_up),
    Rule::onnx("Celu", 1, same),
    Rule::onnx("Clip", 1, clip),
    Rule::onnx("Cos", 1, same),
    Rule::onnx("Cosh", 1, same),
    Rule::onnx("Div", 2, div),
    Rule::onnx("Elu", 1, same),
    Rule::onnx("Equal", 2, equal),
    Rule::onnx("Erf", 1, same),
    Rule::onnx("Exp", 1, same),
    Rule::onnx("Floor", 1, round_down),
    Rule::onnx("Gelu", 1, same),
    Rule::onnx("Greater", 2, greater),
    Rule::onnx("GreaterOrEqual", 2, greater_or_equal),
    Rule::onnx("HardSigmoid", 1, same),
    Rule::onnx("HardSwish", 1, same),
    Rule::onnx("Identity", 1, identity),
    Rule::onnx("IsInf", 1, predicate),
    Rule::onnx("IsNaN", 1, predicate),
    Rule::onnx("LeakyRelu", 1, same),
    Rule::onnx("Less", 2, less),
    Rule::onnx("LessOrEqual", 2, less_or_equal),
    Rule::onnx("Log", 1, same),
    Rule::onnx("Max", 1, max),
    Rule::onnx("Mean", 1, variadic),
    Rule::onnx("Min", 1, min),
    Rule::onnx("Mish", 1, same),
    Rule::onnx("Mod", 2, modulo),
    Rule::onnx("Mul", 2, mul),
    Rule::onnx("Neg", 1, neg),
    Rule::onnx("Not", 1, not),
    Rule::onnx("Or", 2, logical),
    Rule::onnx("Pow", 2, pow),
    Rule::onnx("PRelu", 2, left_shape),
    Rule::onnx("Reciprocal", 1, same),
    Rule::onnx("Relu", 1, relu),
    Rule::onnx("Round", 1, round),
    Rule::onnx("Selu", 1, same),
    Rule::onnx("Shrink", 1, same),
    Rule::onnx("Sigmoid", 1, same),
    Rule::onnx("Sign", 1, same),
    Rule::onnx("Sin", 1, same),
    Rule::onnx("Sinh", 1, same),
    Rule::onnx("Softplus", 1, same),
    Rule::onnx("Softsign", 1, same),
    Rule::onnx("Sqrt", 1, sqrt),
    Rule::onnx("Sub", 2, sub),
    Rule::onnx("Sum", 1, sum),
    Rule::onnx("SwiGLU", 2, binary),
    Rule::onnx("Swish", 1, same),
    Rule::onnx("Tan", 1, same),
    Rule::onnx("Tanh", 1, same),
    Rule::onnx("ThresholdedRelu", 1, same),
    Rule::onnx("Where", 3, select),
    Rule::onnx("Xor", 2, logical),
];

/// The type of input 0.
pub fn same(s: &mut Site<'_>) -> Result<()> {
    s.copy(0, 0);
    Ok(())
}

/// The element type of input 0 and the shape that inputs 0 and 1 broadcast to.
pub fn binary(s: &mut Site<'_>) -> Result<()> {
    s.expect_same_dtype(0, 1)?;
    let shape = pair_shape(s)?;
    s.set_tensor(0, s.first_dtype(&[0, 1]), shape);
    Ok(())
}

fn left_shape(s: &mut Site<'_>) -> Result<()> {
    s.copy_shape(0, 0, s.first_dtype(&[0, 1]));
    Ok(())
}

/// Before version 7 the second input broadcasts to the first alone, at an axis that an attribute names.
fn pair_shape(s: &Site<'_>) -> Result<Option<Shape>> {
    if s.node.domain.is_empty() && s.version() < 7 { Ok(s.shape(0).cloned()) } else { s.broadcast(&[0, 1]) }
}

fn pair_contents(s: &mut Site<'_>, f: impl Fn(&Element, &Element) -> Element) {
    let contents = match (s.contents_of(0), s.contents_of(1)) {
        (Some(a), Some(b)) => a.zip(&b, f),
        _ => None,
    };
    s.set_contents(0, contents);
}

fn binary_arithmetic(s: &mut Site<'_>, op: Arithmetic) -> Result<()> {
    binary(s)?;
    let dtype = s.first_dtype(&[0, 1]);
    pair_contents(s, |a, b| arithmetic(op, dtype, a, b));
    Ok(())
}

fn add(s: &mut Site<'_>) -> Result<()> {
    binary_arithmetic(s, Arithmetic::Add)
}

fn sub(s: &mut Site<'_>) -> Result<()> {
    binary_arithmetic(s, Arithmetic::Sub)
}

fn mul(s: &mut Site<'_>) -> Result<()> {
    binary_arithmetic(s, Arithmetic::Mul)
}

fn div(s: &mut Site<'_>) -> Result<()> {
    binary_arithmetic(s, Arithmetic::Div)
}

fn modulo(s: &mut Site<'_>) -> Result<()> {
    if s.flag("fmod", false)? { binary(s) } else { binary_arithmetic(s, Arithmetic::Mod) }
}

fn pow(s: &mut Site<'_>) -> Result<()> {
    let shape = pair_shape(s)?;
    s.set_tensor(0, s.dtype(0), shape);
    let dtype = s.dtype(0);
    pair_contents(s, |a, b| arithmetic(Arithmetic::Pow, dtype, a, b));
    Ok(())
}

fn all_inputs(s: &Site<'_>) -> Vec<usize> {
    (0..s.input_count()).filter(|i| s.has(*i)).collect()
}

/// The element type of the inputs and the shape all broadcast to; before version 8 all have one shape.
fn variadic(s: &mut Site<'_>) -> Result<()> {
    let inputs = all_inputs(s);
    for &i in &inputs[1..] {
        s.expect_same_dtype(0, i)?;
    }
    let shape = s.broadcast(&inputs)?;
    s.set_tensor(0, s.first_dtype(&inputs), shape);
    Ok(())
}

fn variadic_arithmetic(s: &mut Site<'_>, op: Arithmetic) -> Result<()> {
    variadic(s)?;
    let inputs = all_inputs(s);
    let dtype = s.first_dtype(&inputs);
    let mut total = s.contents_of(0).map(|c| c.into_owned());
    for &i in &inputs[1..] {
        total = match (total, s.contents_of(i)) {
            (Some(a), Some(b)) => a.zip(&b, |x, y| arithmetic(op, dtype, x, y)),
            _ => None,
        };
    }
    s.set_contents(0, total);
    Ok(())
}

fn max(s: &mut Site<'_>) -> Result<()> {
    variadic_arithmetic(s, Arithmetic::Max)
}

fn min(s: &mut Site<'_>) -> Result<()> {
    variadic_arithmetic(s, Arithmetic::Min)
}

fn sum(s: &mut Site<'_>) -> Result<()> {
    variadic_arithmetic(s, Arithmetic::Add)
}

fn logical(s: &mut Site<'_>) -> Result<()> {
    let shape = pair_shape(s)?;
    s.set_tensor(0, DType::Bool, shape);
    let operator = s.node.op_type.clone();
    let truth = |e: &Element| e.as_int().map(|v| v != 0);
    pair_contents(s, |a, b| match (&*operator, truth(a), truth(b)) {
        ("And", Some(false), _) | ("And", _, Some(false)) => Element::bool(false),
        ("Or", Some(true), _) | ("Or", _, Some(true)) => Element::bool(true),
        ("And", Some(_), Some(_)) => Element::bool(true),
        ("Or", Some(_), Some(_)) => Element::bool(false),
        ("Xor", Some(x), Some(y)) => Element::bool(x != y),
        _ => Element::Unknown,
    });
    Ok(())
}

/// A comparison: `decide` sees the elements.
fn compare(
    s: &mut Site<'_>,
    decide: impl Fn(&DimExpr, &DimExpr) -> Option<bool>,
    real: fn(f64, f64) -> bool,
) -> Result<()> {
    s.expect_same_dtype(0, 1)?;
    let shape = pair_shape(s)?;
    s.set_tensor(0, DType::Bool, shape);
    pair_contents(s, |a, b| match (a, b, a.as_real(), b.as_real()) {
        (Element::Int(x), Element::Int(y), ..) => decide(x, y).map_or(Element::Unknown, Element::bool),
        (.., Some(x), Some(y)) => Element::bool(real(x, y)),
        _ => Element::Unknown,
    });
    Ok(())
}

fn equal(s: &mut Site<'_>) -> Result<()> {
    compare(s, expr::equal, |a, b| a == b)
}

/// Whether `a - b >= least` for all sizes (`Some(true)`) or for none (`Some(false)`).
fn difference_at_least(a: &DimExpr, b: &DimExpr, least: i64) -> Option<bool> {
    let (low, high) = expr::bounds(&expr::sub(a, b)?);
    if low.is_some_and(|l| l >= least) {
        return Some(true);
    }
    high.is_some_and(|h| h < least).then_some(false)
}

fn greater(s: &mut Site<'_>) -> Result<()> {
    compare(s, |a, b| difference_at_least(a, b, 1), |a, b| a > b)
}

fn greater_or_equal(s: &mut Site<'_>) -> Result<()> {
    compare(s, |a, b| difference_at_least(a, b, 0), |a, b| a >= b)
}

fn less(s: &mut Site<'_>) -> Result<()> {
    compare(s, |a, b| difference_at_least(b, a, 1), |a, b| a < b)
}

fn less_or_equal(s: &mut Site<'_>) -> Result<()> {
    compare(s, |a, b| difference_at_least(b, a, 0), |a, b| a <= b)
}

/// Truth values in the shape of input 0.
pub fn predicate(s: &mut Site<'_>) -> Result<()> {
    s.copy_shape(0, 0, DType::Bool);
    Ok(())
}

fn map_contents(s: &mut Site<'_>, f: impl FnMut(&Element) -> Element) {
    let contents = s.contents_of(0).map(|c| c.map(f));
    s.set_contents(0, contents);
}

fn not(s: &mut Site<'_>) -> Result<()> {
    predicate(s)?;
    map_contents(s, |e| e.as_int().map_or(Element::Unknown, |v| Element::bool(v == 0)));
    Ok(())
}

fn neg(s: &mut Site<'_>) -> Result<()> {
    same(s)?;
    let dtype = s.dtype(0);
    map_contents(s, |e| arithmetic(Arithmetic::Mul, dtype, e, &Element::int(-1)));
    Ok(())
}

fn abs(s: &mut Site<'_>) -> Result<()> {
    same(s)?;
    map_contents(s, |e| match e {
        Element::Int(DimExpr::Const(c)) => c.checked_abs().map_or(Element::Unknown, Element::int),
        Element::Int(x) if expr::is_non_negative(x) => e.clone(),
        Element::Real(r) => Element::Real(r.abs()),
        _ => Element::Unknown,
    });
    Ok(())
}

fn relu(s: &mut Site<'_>) -> Result<()> {
    same(s)?;
    let dtype = s.dtype(0);
    map_contents(s, |e| arithmetic(Arithmetic::Max, dtype, e, &Element::int(0)));
    Ok(())
}

fn rounding(s: &mut Site<'_>, f: fn(f64) -> f64) -> Result<()> {
    same(s)?;
    map_contents(s, |e| match e {
        Element::Real(r) => Element::real(f(*r)),
        other => other.clone(),
    });
    Ok(())
}

fn round_up(s: &mut Site<'_>) -> Result<()> {
    rounding(s, f64::ceil)
}

fn round_down(s: &mut Site<'_>) -> Result<()> {
    rounding(s, f64::floor)
}

fn round(s: &mut Site<'_>) -> Result<()> {
    rounding(s, f64::round_ties_even)
}

fn sqrt(s: &mut Site<'_>) -> Result<()> {
    same(s)?;
    let dtype = s.dtype(0);
    map_contents(s, |e| match e.as_real() {
        Some(r) if r >= 0.0 => Element::real(rounded(r.sqrt(), dtype)),
        _ => Element::Unknown,
    });
    Ok(())
}

fn clip(s: &mut Site<'_>) -> Result<()> {
    same(s)?;
    if s.version() < 11 {
        return Ok(());
    }
    let dtype = s.dtype(0);
    let mut contents = s.contents_of(0).map(|c| c.into_owned());
    for (i, op) in [(1, Arithmetic::Max), (2, Arithmetic::Min)] {
        if s.has(i) {
            contents = match (contents, s.contents_of(i)) {
                (Some(a), Some(b)) => a.zip(&b, |x, y| arithmetic(op, dtype, x, y)),
                _ => None,
            };
        }
    }
    s.set_contents(0, contents);
    Ok(())
}

/// Any type, contents included.
pub fn identity(s: &mut Site<'_>) -> Result<()> {
    s.copy(0, 0);
    let contents = s.contents_of(0).map(|c| c.into_owned());
    s.set_contents(0, contents);
    Ok(())
}

fn cast(s: &mut Site<'_>) -> Result<()> {
    let to = match s.node.attributes.get("to") {
        // Version 1 spells the type as a string.
        Some(crate::graph::Attribute::String(name)) => named_dtype(name)?,
        _ => s.dtype_attribute("to")?.ok_or_else(|| s.missing("to"))?,
    };
    cast_to(s, to);
    Ok(())
}

fn named_dtype(name: &str) -> Result<DType> {
    let lower = name.to_ascii_lowercase();
    DType::ALL.into_iter().find(|d| d.name() == lower).ok_or_else(|| {
        Error::invalid_model(format!("attribute 'to' is '{name}', which is no element type of ONNX"))
    })
}

fn cast_like(s: &mut Site<'_>) -> Result<()> {
    cast_to(s, s.dtype(1));
    Ok(())
}

fn cast_to(s: &mut Site<'_>, to: DType) {
    s.copy_shape(0, 0, to);
    if to == DType::Bool {
        map_contents(s, |e| match e {
            Element::Int(x) => match expr::bounds(x) {
                (Some(0), Some(0)) => Element::bool(false),
                (Some(low), _) if low > 0 => Element::bool(true),
                _ => Element::Unknown,
            },
            Element::Real(_) => Element::bool(true),
            Element::Unknown => Element::Unknown,
        });
    } else if to.is_integer() {
        map_contents(s, |e| match e {
            Element::Int(DimExpr::Const(c)) if !fits(*c, to) => Element::Unknown,
            Element::Int(_) => e.clone(),
            Element::Real(r) if r.abs() < 1e9 && fits(r.trunc() as i64, to) => Element::real(r.trunc()),
            _ => Element::Unknown,
        });
    } else if matches!(to, DType::F32 | DType::F64) {
        // A float32 holds integers to 2^24: sizes beyond that would round.
        map_contents(s, |e| match e.as_int() {
            Some(c) if to == DType::F32 && c.unsigned_abs() > 1 << 24 => Element::Unknown,
            _ => e.clone(),
        });
    }
}

fn bit_cast(s: &mut Site<'_>) -> Result<()> {
    let to = s.dtype_attribute("to")?.ok_or_else(|| s.missing("to"))?;
    s.copy_shape(0, 0, to);
    Ok(())
}

fn select(s: &mut Site<'_>) -> Result<()> {
    s.expect_same_dtype(1, 2)?;
    let shape = s.broadcast(&[0, 1, 2])?;
    s.set_tensor(0, s.first_dtype(&[1, 2]), shape);
    let contents = match (s.contents_of(0), s.contents_of(1), s.contents_of(2)) {
        (Some(condition), Some(yes), Some(no)) => select_contents(&condition, &yes, &no),
        _ => None,
    };
    s.set_contents(0, contents);
    Ok(())
}

fn select_contents(condition: &Contents, yes: &Contents, no: &Contents) -> Option<Contents> {
    let full = condition.zip(yes, |_, _| Element::Unknown)?.zip(no, |_, _| Element::Unknown)?;
    let (c, y, n) =
        (condition.broadcast_to(&full.dims)?, yes.broadcast_to(&full.dims)?, no.broadcast_to(&full.dims)?);
    let elements =
        c.elements.iter().zip(y.elements.iter().zip(&n.elements)).map(|(c, (y, n))| match c.as_int() {
            Some(0) => n.clone(),
            Some(_) => y.clone(),
            None if y == n => y.clone(),
            None => Element::Unknown,
        });
    Contents::new(&full.dims, elements.collect())
}
