//! Derivatives of elementwise operators.

use super::rules::{Parts, Rule, Site};
use crate::error::Result;
use crate::graph::ValueId;

pub const RULES: &[(&str, Rule)] = &[
    ("Add", add),
    ("Sub", sub),
    ("Mul", mul),
    ("Div", div),
    ("Pow", pow),
    ("Sum", add),
    ("Mean", mean),
    ("Max", extreme),
    ("Min", extreme),
    ("Where", choose),
    ("Neg", |s| unary(s, |s, _, _, g| s.emitter.op("Neg", 13, &[g]))),
    ("Identity", |s| unary(s, |_, _, _, g| Ok(g))),
    ("Dropout", dropout),
    ("Cast", cast),
    ("CastLike", cast),
    ("Exp", |s| unary(s, |s, _, y, g| s.emitter.mul(g, y))),
    ("Log", |s| unary(s, |s, x, _, g| s.emitter.op("Div", 14, &[g, x]))),
    ("Sqrt", |s| unary(s, sqrt)),
    ("Reciprocal", |s| unary(s, reciprocal)),
    ("Abs", |s| unary(s, |s, x, _, g| s.times_op("Sign", 13, x, g))),
    ("Sigmoid", |s| unary(s, sigmoid)),
    ("Tanh", |s| unary(s, |s, _, y, g| one_minus_square(s, y, g))),
    ("Relu", |s| unary(s, |s, x, _, g| s.where_positive(x, g, 0.0))),
    ("LeakyRelu", leaky_relu),
    ("Elu", elu),
    ("Softplus", |s| unary(s, |s, x, _, g| s.times_op("Sigmoid", 13, x, g))),
    ("Erf", |s| unary(s, erf)),
    ("Gelu", gelu),
    ("Sin", |s| unary(s, |s, x, _, g| s.times_op("Cos", 7, x, g))),
    ("Cos", |s| unary(s, cos)),
    ("Sinh", |s| unary(s, |s, x, _, g| s.times_op("Cosh", 9, x, g))),
    ("Cosh", |s| unary(s, |s, x, _, g| s.times_op("Sinh", 9, x, g))),
    ("Atan", |s| unary(s, atan)),
    ("Clip", clip),
    ("Floor", flat),
    ("Ceil", flat),
    ("Round", flat),
    ("Sign", flat),
];

impl Site<'_, '_> {
    /// `g * op(x)`.
    fn times_op(&mut self, op: &str, since: i64, x: ValueId, g: ValueId) -> Result<ValueId> {
        let factor = self.emitter.op(op, since, &[x])?;
        self.emitter.mul(g, factor)
    }

    /// `g` where `x > 0`, else `g * otherwise`.
    fn where_positive(&mut self, x: ValueId, g: ValueId, otherwise: f64) -> Result<ValueId> {
        let zero = self.emitter.scalar(x, 0.0)?;
        let positive = self.emitter.op("Greater", 13, &[x, zero])?;
        let scaled = self.emitter.times(g, otherwise)?;
        let scaled = if otherwise == 0.0 { self.emitter.scalar(g, 0.0)? } else { scaled };
        self.emitter.op("Where", 16, &[positive, g, scaled])
    }
}

type Derivative = fn(&mut Site<'_, '_>, ValueId, ValueId, ValueId) -> Result<ValueId>;

/// A function of input 0 alone: `derivative(site, x, y, g)`.
fn unary(s: &mut Site<'_, '_>, derivative: Derivative) -> Result<Parts> {
    let (x, y, g) = (s.input(0)?, s.output(0)?, s.by_output()?);
    let part = derivative(s, x, y, g)?;
    s.only(0, part)
}

fn flat(s: &mut Site<'_, '_>) -> Result<Parts> {
    Ok(vec![None; s.node.inputs().len()])
}

fn add(s: &mut Site<'_, '_>) -> Result<Parts> {
    let g = s.by_output()?;
    each(s, |_, _| Ok(g))
}

/// `part(site, index)` for every wanted input, summed to its shape.
fn each(
    s: &mut Site<'_, '_>,
    mut part: impl FnMut(&mut Site<'_, '_>, usize) -> Result<ValueId>,
) -> Result<Parts> {
    let mut parts = vec![None; s.node.inputs().len()];
    for (index, slot) in parts.iter_mut().enumerate() {
        if s.wants(index) {
            let (input, value) = (s.input(index)?, part(s, index)?);
            *slot = Some(s.emitter.sum_to(value, input)?);
        }
    }
    Ok(parts)
}

fn sub(s: &mut Site<'_, '_>) -> Result<Parts> {
    let g = s.by_output()?;
    each(s, |s, index| if index == 0 { Ok(g) } else { s.emitter.op("Neg", 13, &[g]) })
}

fn mul(s: &mut Site<'_, '_>) -> Result<Parts> {
    let g = s.by_output()?;
    each(s, |s, index| {
        let other = s.input(1 - index)?;
        s.emitter.mul(g, other)
    })
}

fn div(s: &mut Site<'_, '_>) -> Result<Parts> {
    let (g, divisor, quotient) = (s.by_output()?, s.input(1)?, s.output(0)?);
    each(s, |s, index| {
        let by_dividend = s.emitter.op("Div", 14, &[g, divisor])?;
        if index == 0 {
            return Ok(by_dividend);
        }
        let product = s.emitter.mul(by_dividend, quotient)?;
        s.emitter.op("Neg", 13, &[product])
    })
}

fn pow(s: &mut Site<'_, '_>) -> Result<Parts> {
    let (g, base, exponent, y) = (s.by_output()?, s.input(0)?, s.input(1)?, s.output(0)?);
    each(s, |s, index| {
        if index == 0 {
            let as_base = s.emitter.op("CastLike", 15, &[exponent, base])?;
            let one = s.emitter.scalar(base, 1.0)?;
            let lower = s.emitter.op("Sub", 14, &[as_base, one])?;
            let power = s.emitter.op("Pow", 15, &[base, lower])?;
            let factor = s.emitter.mul(power, as_base)?;
            return s.emitter.mul(g, factor);
        }
        let log = s.emitter.op("Log", 13, &[base])?;
        let factor = s.emitter.mul(log, y)?;
        let part = s.emitter.mul(g, factor)?;
        s.emitter.op("CastLike", 15, &[part, exponent])
    })
}

fn mean(s: &mut Site<'_, '_>) -> Result<Parts> {
    let g = s.by_output()?;
    let share = s.emitter.times(g, 1.0 / s.node.inputs().len() as f64)?;
    each(s, |_, _| Ok(share))
}

/// Equal inputs share the derivative of a maximum or minimum.
fn extreme(s: &mut Site<'_, '_>) -> Result<Parts> {
    let (g, y) = (s.by_output()?, s.output(0)?);
    let mut hits = Vec::new();
    for index in 0..s.node.inputs().len() {
        let x = s.input(index)?;
        let hit = s.emitter.op("Equal", 13, &[x, y])?;
        hits.push(s.emitter.op("CastLike", 15, &[hit, y])?);
    }
    let count = s.emitter.op("Sum", 13, &hits)?;
    let share = s.emitter.op("Div", 14, &[g, count])?;
    each(s, |s, index| s.emitter.mul(share, hits[index]))
}

fn choose(s: &mut Site<'_, '_>) -> Result<Parts> {
    let (g, condition) = (s.by_output()?, s.input(0)?);
    let zero = s.emitter.scalar(g, 0.0)?;
    each(s, |s, index| {
        let (yes, no) = if index == 1 { (g, zero) } else { (zero, g) };
        s.emitter.op("Where", 16, &[condition, yes, no])
    })
}

/// Dropout without training passes its input on; with training the mask must be an output of the node.
fn dropout(s: &mut Site<'_, '_>) -> Result<Parts> {
    let g = s.by_output()?;
    let (Some(ratio), Some(_)) = (s.node.input(1), s.node.input(2)) else { return s.only(0, g) };
    let mask = s.output(1)?;
    let kept = s.emitter.op("CastLike", 15, &[mask, g])?;
    let (one, ratio) = (s.emitter.scalar(g, 1.0)?, s.emitter.op("CastLike", 15, &[ratio, g])?);
    let keep = s.emitter.op("Sub", 14, &[one, ratio])?;
    let scaled = s.emitter.op("Div", 14, &[g, keep])?;
    let part = s.emitter.mul(scaled, kept)?;
    s.only(0, part)
}

fn cast(s: &mut Site<'_, '_>) -> Result<Parts> {
    let (x, g) = (s.input(0)?, s.by_output()?);
    let part = s.emitter.op("CastLike", 15, &[g, x])?;
    s.only(0, part)
}

fn sqrt(s: &mut Site<'_, '_>, _: ValueId, y: ValueId, g: ValueId) -> Result<ValueId> {
    let half = s.emitter.times(g, 0.5)?;
    s.emitter.op("Div", 14, &[half, y])
}

fn reciprocal(s: &mut Site<'_, '_>, _: ValueId, y: ValueId, g: ValueId) -> Result<ValueId> {
    let square = s.emitter.mul(y, y)?;
    let product = s.emitter.mul(g, square)?;
    s.emitter.op("Neg", 13, &[product])
}

fn sigmoid(s: &mut Site<'_, '_>, _: ValueId, y: ValueId, g: ValueId) -> Result<ValueId> {
    let one = s.emitter.scalar(y, 1.0)?;
    let rest = s.emitter.op("Sub", 14, &[one, y])?;
    let slope = s.emitter.mul(y, rest)?;
    s.emitter.mul(g, slope)
}

/// `g * (1 - y * y)`.
fn one_minus_square(s: &mut Site<'_, '_>, y: ValueId, g: ValueId) -> Result<ValueId> {
    let (one, square) = (s.emitter.scalar(y, 1.0)?, s.emitter.mul(y, y)?);
    let slope = s.emitter.op("Sub", 14, &[one, square])?;
    s.emitter.mul(g, slope)
}

fn erf(s: &mut Site<'_, '_>, x: ValueId, _: ValueId, g: ValueId) -> Result<ValueId> {
    let square = s.emitter.mul(x, x)?;
    let negative = s.emitter.op("Neg", 13, &[square])?;
    let bell = s.emitter.op("Exp", 13, &[negative])?;
    let slope = s.emitter.times(bell, std::f64::consts::FRAC_2_SQRT_PI)?;
    s.emitter.mul(g, slope)
}

/// The slope of `x * phi(x)` is `phi(x) + x * phi'(x)`; `phi` is the normal distribution or its approximation by Tanh.
fn gelu(s: &mut Site<'_, '_>) -> Result<Parts> {
    use std::f64::consts::{FRAC_1_PI, FRAC_1_SQRT_2, SQRT_2};
    let approximate = s.node.string_or("approximate", "none")? == "tanh";
    let (x, g) = (s.input(0)?, s.by_output()?);
    let (one, square) = (s.emitter.scalar(x, 1.0)?, s.emitter.mul(x, x)?);
    let (odd, slope) = if approximate {
        let factor = SQRT_2 * FRAC_1_PI.sqrt();
        let cubic = s.emitter.times(square, 0.044715)?;
        let inner = s.emitter.op("Add", 14, &[one, cubic])?;
        let inner = s.emitter.mul(x, inner)?;
        let inner = s.emitter.times(inner, factor)?;
        let odd = s.emitter.op("Tanh", 13, &[inner])?;
        let cubic = s.emitter.times(cubic, 3.0)?;
        let growth = s.emitter.op("Add", 14, &[one, cubic])?;
        let growth = s.emitter.times(growth, 0.5 * factor)?;
        (odd, one_minus_square(s, odd, growth)?)
    } else {
        let scaled = s.emitter.times(x, FRAC_1_SQRT_2)?;
        let odd = s.emitter.op("Erf", 13, &[scaled])?;
        let exponent = s.emitter.times(square, -0.5)?;
        let bell = s.emitter.op("Exp", 13, &[exponent])?;
        (odd, s.emitter.times(bell, FRAC_1_SQRT_2 * FRAC_1_PI.sqrt())?)
    };
    let sum = s.emitter.op("Add", 14, &[one, odd])?;
    let phi = s.emitter.times(sum, 0.5)?;
    let rest = s.emitter.mul(x, slope)?;
    let factor = s.emitter.op("Add", 14, &[phi, rest])?;
    let part = s.emitter.mul(g, factor)?;
    s.only(0, part)
}

fn cos(s: &mut Site<'_, '_>, x: ValueId, _: ValueId, g: ValueId) -> Result<ValueId> {
    let part = s.times_op("Sin", 7, x, g)?;
    s.emitter.op("Neg", 13, &[part])
}

fn atan(s: &mut Site<'_, '_>, x: ValueId, _: ValueId, g: ValueId) -> Result<ValueId> {
    let (one, square) = (s.emitter.scalar(x, 1.0)?, s.emitter.mul(x, x)?);
    let sum = s.emitter.op("Add", 14, &[one, square])?;
    s.emitter.op("Div", 14, &[g, sum])
}

fn leaky_relu(s: &mut Site<'_, '_>) -> Result<Parts> {
    let alpha = f64::from(s.node.float_or("alpha", 0.01)?);
    let (x, g) = (s.input(0)?, s.by_output()?);
    let part = s.where_positive(x, g, alpha)?;
    s.only(0, part)
}

fn elu(s: &mut Site<'_, '_>) -> Result<Parts> {
    let alpha = f64::from(s.node.float_or("alpha", 1.0)?);
    let (x, y, g) = (s.input(0)?, s.output(0)?, s.by_output()?);
    let (zero, alpha) = (s.emitter.scalar(x, 0.0)?, s.emitter.scalar(x, alpha)?);
    let positive = s.emitter.op("Greater", 13, &[x, zero])?;
    let slope = s.emitter.op("Add", 14, &[y, alpha])?;
    let below = s.emitter.mul(g, slope)?;
    let part = s.emitter.op("Where", 16, &[positive, g, below])?;
    s.only(0, part)
}

/// The derivative passes where the input was not cut off.
fn clip(s: &mut Site<'_, '_>) -> Result<Parts> {
    let (x, y, g) = (s.input(0)?, s.output(0)?, s.by_output()?);
    let inside = s.emitter.op("Equal", 13, &[x, y])?;
    let zero = s.emitter.scalar(g, 0.0)?;
    let part = s.emitter.op("Where", 16, &[inside, g, zero])?;
    s.only(0, part)
}
