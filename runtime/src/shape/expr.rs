//! The normal form of [`DimExpr`]: sums of products with folded constants, and the arithmetic that keeps it.
//!
//! Every function takes and returns normal forms; symbols stand for sizes and are never negative. `None` means that a
//! constant overflows, a divisor is zero, or the result grows beyond what is worth keeping.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::graph::DimExpr;

/// Parts an expression may have before it is dropped.
const LIMIT: usize = 160;

/// A product of atoms (anything but sums, products and constants), sorted; empty for the constant term.
type Monomial = Vec<DimExpr>;

/// Coefficients by monomial; no coefficient is zero.
type Polynomial = BTreeMap<Monomial, i64>;

/// The normal form of any expression.
pub fn normalize(expr: &DimExpr) -> Option<DimExpr> {
    let fold = |items: &[DimExpr], start: Option<DimExpr>, f: fn(&DimExpr, &DimExpr) -> Option<DimExpr>| {
        let mut items = items.iter();
        let mut total = match start {
            Some(start) => start,
            None => normalize(items.next()?)?,
        };
        for item in items {
            total = f(&total, &normalize(item)?)?;
        }
        Some(total)
    };
    match expr {
        DimExpr::Const(_) | DimExpr::Symbol(_) => Some(expr.clone()),
        DimExpr::Add(items) => fold(items, Some(DimExpr::Const(0)), add),
        DimExpr::Mul(items) => fold(items, Some(DimExpr::Const(1)), mul),
        DimExpr::FloorDiv(a, b) => floor_div(&normalize(a)?, &normalize(b)?),
        DimExpr::CeilDiv(a, b) => ceil_div(&normalize(a)?, &normalize(b)?),
        DimExpr::Mod(a, b) => modulo(&normalize(a)?, &normalize(b)?),
        DimExpr::Min(items) => fold(items, None, min),
        DimExpr::Max(items) => fold(items, None, max),
    }
}

/// `a + b`.
pub fn add(a: &DimExpr, b: &DimExpr) -> Option<DimExpr> {
    match (a, b) {
        (DimExpr::Const(x), DimExpr::Const(y)) => x.checked_add(*y).map(DimExpr::Const),
        (DimExpr::Const(0), x) | (x, DimExpr::Const(0)) => Some(x.clone()),
        _ => {
            let mut sum = polynomial(a);
            for (monomial, coefficient) in polynomial(b) {
                add_term(&mut sum, monomial, coefficient)?;
            }
            expression(sum)
        }
    }
}

/// `a - b`.
pub fn sub(a: &DimExpr, b: &DimExpr) -> Option<DimExpr> {
    add(a, &mul(&DimExpr::Const(-1), b)?)
}

/// `a * b`.
pub fn mul(a: &DimExpr, b: &DimExpr) -> Option<DimExpr> {
    match (a, b) {
        (DimExpr::Const(x), DimExpr::Const(y)) => x.checked_mul(*y).map(DimExpr::Const),
        (DimExpr::Const(0), _) | (_, DimExpr::Const(0)) => Some(DimExpr::Const(0)),
        (DimExpr::Const(1), x) | (x, DimExpr::Const(1)) => Some(x.clone()),
        _ => {
            let (a, b) = (polynomial(a), polynomial(b));
            if a.len() * b.len() > LIMIT {
                return None;
            }
            let mut product = Polynomial::new();
            for (m, c) in &a {
                for (n, d) in &b {
                    let mut monomial = [m.as_slice(), n.as_slice()].concat();
                    monomial.sort();
                    add_term(&mut product, monomial, c.checked_mul(*d)?)?;
                }
            }
            expression(product)
        }
    }
}

/// `a / b` rounded towards negative infinity.
pub fn floor_div(a: &DimExpr, b: &DimExpr) -> Option<DimExpr> {
    match (a, b) {
        (_, DimExpr::Const(0)) => None,
        (_, DimExpr::Const(1)) => Some(a.clone()),
        (DimExpr::Const(x), DimExpr::Const(y)) => floor(*x, *y).map(DimExpr::Const),
        (DimExpr::Const(0), _) => Some(DimExpr::Const(0)),
        (_, DimExpr::Const(c)) if *c > 0 => floor_div_constant(polynomial(a), *c),
        (_, DimExpr::Const(_)) => expression_of(DimExpr::FloorDiv(Box::new(a.clone()), Box::new(b.clone()))),
        _ => {
            let (quotient, rest) = divide(polynomial(a), &polynomial(b))?;
            let quotient = expression(quotient)?;
            if rest.is_empty() {
                return Some(quotient);
            }
            let rest = expression(rest)?;
            add(&quotient, &expression_of(DimExpr::FloorDiv(Box::new(rest), Box::new(b.clone())))?)
        }
    }
}

/// `a / b` rounded towards positive infinity.
pub fn ceil_div(a: &DimExpr, b: &DimExpr) -> Option<DimExpr> {
    match (a, b) {
        (_, DimExpr::Const(c)) if *c > 0 => floor_div(&add(a, &DimExpr::Const(c - 1))?, b),
        (_, DimExpr::Const(_)) => {
            let minus = DimExpr::Const(-1);
            mul(&minus, &floor_div(&mul(&minus, a)?, b)?)
        }
        _ => {
            let (quotient, rest) = divide(polynomial(a), &polynomial(b))?;
            let quotient = expression(quotient)?;
            if rest.is_empty() {
                return Some(quotient);
            }
            let rest = expression(rest)?;
            add(&quotient, &expression_of(DimExpr::CeilDiv(Box::new(rest), Box::new(b.clone())))?)
        }
    }
}

/// The remainder of `a / b` with the sign of `b`.
pub fn modulo(a: &DimExpr, b: &DimExpr) -> Option<DimExpr> {
    let rest = match b {
        DimExpr::Const(0) => return None,
        DimExpr::Const(c) if *c > 0 => {
            let mut rest = Polynomial::new();
            for (monomial, coefficient) in polynomial(a) {
                add_term(&mut rest, monomial, coefficient.rem_euclid(*c))?;
            }
            let rest = expression(rest)?;
            if let (Some(low), Some(high)) = bounds(&rest)
                && low >= 0
                && high < *c
            {
                return Some(rest);
            }
            rest
        }
        DimExpr::Const(c) => match a {
            DimExpr::Const(x) => return x.checked_sub(floor(*x, *c)?.checked_mul(*c)?).map(DimExpr::Const),
            _ => a.clone(),
        },
        _ => expression(divide(polynomial(a), &polynomial(b))?.1)?,
    };
    if rest == DimExpr::Const(0) {
        return Some(rest);
    }
    expression_of(DimExpr::Mod(Box::new(rest), Box::new(b.clone())))
}

/// The smaller of both.
pub fn min(a: &DimExpr, b: &DimExpr) -> Option<DimExpr> {
    extreme(a, b, false)
}

/// The larger of both.
pub fn max(a: &DimExpr, b: &DimExpr) -> Option<DimExpr> {
    extreme(a, b, true)
}

/// The expression with every symbol that `values` names replaced.
pub fn substitute(expr: &DimExpr, values: &BTreeMap<Arc<str>, i64>) -> Option<DimExpr> {
    normalize(&replace(expr, values))
}

fn replace(expr: &DimExpr, values: &BTreeMap<Arc<str>, i64>) -> DimExpr {
    let each = |items: &[DimExpr]| items.iter().map(|e| replace(e, values)).collect();
    let one = |e: &DimExpr| Box::new(replace(e, values));
    match expr {
        DimExpr::Const(_) => expr.clone(),
        DimExpr::Symbol(s) => values.get(s).map_or_else(|| expr.clone(), |v| DimExpr::Const(*v)),
        DimExpr::Add(items) => DimExpr::Add(each(items)),
        DimExpr::Mul(items) => DimExpr::Mul(each(items)),
        DimExpr::Min(items) => DimExpr::Min(each(items)),
        DimExpr::Max(items) => DimExpr::Max(each(items)),
        DimExpr::FloorDiv(a, b) => DimExpr::FloorDiv(one(a), one(b)),
        DimExpr::CeilDiv(a, b) => DimExpr::CeilDiv(one(a), one(b)),
        DimExpr::Mod(a, b) => DimExpr::Mod(one(a), one(b)),
    }
}

/// Adds the symbols of `expr` to `symbols`.
pub fn collect_symbols(expr: &DimExpr, symbols: &mut BTreeSet<Arc<str>>) {
    match expr {
        DimExpr::Const(_) => {}
        DimExpr::Symbol(s) => {
            symbols.insert(s.clone());
        }
        DimExpr::Add(items) | DimExpr::Mul(items) | DimExpr::Min(items) | DimExpr::Max(items) => {
            items.iter().for_each(|e| collect_symbols(e, symbols));
        }
        DimExpr::FloorDiv(a, b) | DimExpr::CeilDiv(a, b) | DimExpr::Mod(a, b) => {
            collect_symbols(a, symbols);
            collect_symbols(b, symbols);
        }
    }
}

/// The least and the greatest value of an expression, where they follow from symbols being non-negative.
pub fn bounds(expr: &DimExpr) -> (Option<i64>, Option<i64>) {
    match expr {
        DimExpr::Const(c) => (Some(*c), Some(*c)),
        DimExpr::Symbol(_) => (Some(0), None),
        DimExpr::Add(items) => items.iter().map(bounds).fold((Some(0), Some(0)), |(low, high), (l, h)| {
            (both(low, l, i64::checked_add), both(high, h, i64::checked_add))
        }),
        DimExpr::Mul(items) => product_bounds(items),
        DimExpr::FloorDiv(a, b) | DimExpr::CeilDiv(a, b) => {
            let ((low, high), (least, most)) = (bounds(a), bounds(b));
            if low.is_none_or(|l| l < 0) || least.is_none_or(|l| l < 0) {
                return (None, None);
            }
            let low = both(low, most, floor).unwrap_or(0);
            (Some(low), high.and_then(|h| Some(floor(h, least?.max(1))? + 1)))
        }
        DimExpr::Mod(_, b) => match bounds(b) {
            (Some(least), most) if least >= 0 => (Some(0), most.map(|m| (m - 1).max(0))),
            _ => (None, None),
        },
        DimExpr::Min(items) => {
            let all: Vec<_> = items.iter().map(bounds).collect();
            let low = all.iter().map(|b| b.0).collect::<Option<Vec<_>>>().and_then(|l| l.into_iter().min());
            (low, all.iter().filter_map(|b| b.1).min())
        }
        DimExpr::Max(items) => {
            let all: Vec<_> = items.iter().map(bounds).collect();
            let high = all.iter().map(|b| b.1).collect::<Option<Vec<_>>>().and_then(|h| h.into_iter().max());
            (all.iter().filter_map(|b| b.0).max(), high)
        }
    }
}

/// True when `expr` cannot be negative.
pub fn is_non_negative(expr: &DimExpr) -> bool {
    bounds(expr).0.is_some_and(|low| low >= 0)
}

/// Whether two expressions are equal: `Some` when that holds for all sizes of the symbols or for none.
pub fn equal(a: &DimExpr, b: &DimExpr) -> Option<bool> {
    if a == b {
        return Some(true);
    }
    let difference = sub(a, b)?;
    if let DimExpr::Const(c) = difference {
        return Some(c == 0);
    }
    let (low, high) = bounds(&difference);
    if low.is_some_and(|l| l > 0) || high.is_some_and(|h| h < 0) { Some(false) } else { None }
}

fn both(a: Option<i64>, b: Option<i64>, f: fn(i64, i64) -> Option<i64>) -> Option<i64> {
    f(a?, b?)
}

fn product_bounds(items: &[DimExpr]) -> (Option<i64>, Option<i64>) {
    let (mut sign, mut low, mut high) = (1i64, Some(1i64), Some(1i64));
    for item in items {
        let (mut l, mut h) = match item {
            DimExpr::Const(c) if *c < 0 => {
                sign = -sign;
                let size = c.checked_neg();
                (size, size)
            }
            other => bounds(other),
        };
        if l.is_none_or(|l| l < 0) {
            (l, h) = (None, None);
        }
        low = both(low, l, i64::checked_mul);
        high = both(high, h, i64::checked_mul);
        if l.is_none() {
            return (None, None);
        }
    }
    if sign > 0 { (low, high) } else { (high.map(|h| -h), low.map(|l| -l)) }
}

fn floor(a: i64, b: i64) -> Option<i64> {
    let quotient = a.checked_div(b)?;
    Some(if a % b != 0 && (a < 0) != (b < 0) { quotient - 1 } else { quotient })
}

fn add_term(sum: &mut Polynomial, monomial: Monomial, coefficient: i64) -> Option<()> {
    if coefficient == 0 {
        return Some(());
    }
    match sum.entry(monomial) {
        std::collections::btree_map::Entry::Vacant(slot) => {
            slot.insert(coefficient);
        }
        std::collections::btree_map::Entry::Occupied(mut slot) => {
            let total = slot.get().checked_add(coefficient)?;
            if total == 0 {
                slot.remove();
            } else {
                *slot.get_mut() = total;
            }
        }
    }
    Some(())
}

/// The terms of a normal form.
fn polynomial(expr: &DimExpr) -> Polynomial {
    let terms = match expr {
        DimExpr::Add(items) => items.as_slice(),
        other => std::slice::from_ref(other),
    };
    let mut sum = Polynomial::new();
    for term in terms {
        let (monomial, coefficient) = match term {
            DimExpr::Const(c) => (Vec::new(), *c),
            DimExpr::Mul(items) => match items.split_first() {
                Some((DimExpr::Const(c), atoms)) => (atoms.to_vec(), *c),
                _ => (items.clone(), 1),
            },
            atom => (vec![atom.clone()], 1),
        };
        if coefficient != 0 {
            sum.insert(monomial, coefficient);
        }
    }
    sum
}

/// The normal form of a sum of terms, its constant last.
fn expression(mut sum: Polynomial) -> Option<DimExpr> {
    let constant = sum.remove(&Vec::new());
    let mut terms: Vec<DimExpr> = sum
        .into_iter()
        .map(|(mut monomial, coefficient)| match (coefficient, monomial.len()) {
            (1, 1) => monomial.remove(0),
            (1, _) => DimExpr::Mul(monomial),
            _ => {
                monomial.insert(0, DimExpr::Const(coefficient));
                DimExpr::Mul(monomial)
            }
        })
        .collect();
    terms.extend(constant.map(DimExpr::Const));
    let whole = match terms.len() {
        0 => DimExpr::Const(0),
        1 => terms.remove(0),
        _ => DimExpr::Add(terms),
    };
    expression_of(whole)
}

fn expression_of(expr: DimExpr) -> Option<DimExpr> {
    (size(&expr) <= LIMIT).then_some(expr)
}

fn size(expr: &DimExpr) -> usize {
    match expr {
        DimExpr::Const(_) | DimExpr::Symbol(_) => 1,
        DimExpr::Add(items) | DimExpr::Mul(items) | DimExpr::Min(items) | DimExpr::Max(items) => {
            1 + items.iter().map(size).sum::<usize>()
        }
        DimExpr::FloorDiv(a, b) | DimExpr::CeilDiv(a, b) | DimExpr::Mod(a, b) => 1 + size(a) + size(b),
    }
}

/// `floor((c * q + r) / c) = q + floor(r / c)`, then `r` and `c` without common factor, then nested quotients merged.
fn floor_div_constant(dividend: Polynomial, divisor: i64) -> Option<DimExpr> {
    let (mut quotient, mut rest) = (Polynomial::new(), Polynomial::new());
    for (monomial, coefficient) in dividend {
        if coefficient % divisor == 0 {
            add_term(&mut quotient, monomial, coefficient / divisor)?;
        } else if monomial.is_empty() {
            add_term(&mut quotient, Vec::new(), floor(coefficient, divisor)?)?;
            add_term(&mut rest, monomial, coefficient.rem_euclid(divisor))?;
        } else {
            add_term(&mut rest, monomial, coefficient)?;
        }
    }
    let quotient = expression(quotient)?;
    let constant = rest.remove(&Vec::new()).unwrap_or(0);
    if rest.is_empty() {
        return Some(quotient);
    }
    let common = rest.values().fold(divisor, |g, c| gcd(g, c.unsigned_abs() as i64));
    let divisor = divisor / common;
    rest.values_mut().for_each(|c| *c /= common);
    add_term(&mut rest, Vec::new(), floor(constant, common)?)?;
    let rest = expression(rest)?;
    if divisor == 1 {
        return add(&quotient, &rest);
    }
    if let (Some(low), Some(high)) = bounds(&rest)
        && low >= 0
        && high < divisor
    {
        return Some(quotient);
    }
    let (inner, inner_divisor, offset) = match &rest {
        DimExpr::FloorDiv(x, m) => (x, m, 0),
        DimExpr::Add(terms) => match terms.as_slice() {
            [DimExpr::FloorDiv(x, m), DimExpr::Const(k)] => (x, m, *k),
            _ => return add(&quotient, &quotient_atom(rest, divisor)?),
        },
        _ => return add(&quotient, &quotient_atom(rest, divisor)?),
    };
    match **inner_divisor {
        DimExpr::Const(m) if m > 0 => {
            let shifted = add(inner, &DimExpr::Const(offset.checked_mul(m)?))?;
            add(&quotient, &floor_div(&shifted, &DimExpr::Const(m.checked_mul(divisor)?))?)
        }
        _ => add(&quotient, &quotient_atom(rest, divisor)?),
    }
}

fn quotient_atom(dividend: DimExpr, divisor: i64) -> Option<DimExpr> {
    expression_of(DimExpr::FloorDiv(Box::new(dividend), Box::new(DimExpr::Const(divisor))))
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Polynomial division: `dividend = quotient * divisor + rest` with as much in the quotient as divides exactly.
fn divide(mut dividend: Polynomial, divisor: &Polynomial) -> Option<(Polynomial, Polynomial)> {
    let (lead, lead_coefficient) = leading(divisor)?;
    let (mut quotient, mut rest) = (Polynomial::new(), Polynomial::new());
    for _ in 0..LIMIT {
        let Some((monomial, coefficient)) = leading(&dividend) else { return Some((quotient, rest)) };
        let factor = without(&monomial, &lead).filter(|_| coefficient % lead_coefficient == 0);
        let Some(factor) = factor else {
            dividend.remove(&monomial);
            rest.insert(monomial, coefficient);
            continue;
        };
        let scale = coefficient / lead_coefficient;
        for (m, c) in divisor {
            let mut product = [m.as_slice(), factor.as_slice()].concat();
            product.sort();
            add_term(&mut dividend, product, c.checked_mul(scale)?.checked_neg()?)?;
        }
        add_term(&mut quotient, factor, scale)?;
    }
    None
}

/// The term of highest degree, the first in order among equals: an order that products keep.
fn leading(sum: &Polynomial) -> Option<(Monomial, i64)> {
    let (monomial, coefficient) =
        sum.iter().min_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.0.cmp(b.0)))?;
    Some((monomial.clone(), *coefficient))
}

/// `monomial / factor`, when it divides.
fn without(monomial: &[DimExpr], factor: &[DimExpr]) -> Option<Monomial> {
    let mut rest = monomial.to_vec();
    for atom in factor {
        let index = rest.iter().position(|a| a == atom)?;
        rest.remove(index);
    }
    Some(rest)
}

fn extreme(a: &DimExpr, b: &DimExpr, largest: bool) -> Option<DimExpr> {
    let items = |e: &DimExpr| match e {
        DimExpr::Max(items) if largest => items.clone(),
        DimExpr::Min(items) if !largest => items.clone(),
        other => vec![other.clone()],
    };
    let mut kept: Vec<DimExpr> = Vec::new();
    for item in items(a).into_iter().chain(items(b)) {
        let beats = |x: &DimExpr, y: &DimExpr| {
            let difference = if largest { sub(x, y) } else { sub(y, x) };
            difference.is_some_and(|d| is_non_negative(&d))
        };
        if kept.iter().any(|k| beats(k, &item)) {
            continue;
        }
        kept.retain(|k| !beats(&item, k));
        kept.push(item);
    }
    kept.sort();
    if kept.len() == 1 {
        return kept.pop();
    }
    expression_of(if largest { DimExpr::Max(kept) } else { DimExpr::Min(kept) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Bindings;

    fn n() -> DimExpr {
        DimExpr::Symbol("n".into())
    }

    fn m() -> DimExpr {
        DimExpr::Symbol("m".into())
    }

    fn c(v: i64) -> DimExpr {
        DimExpr::Const(v)
    }

    /// A small deterministic generator: the tests need variety, not secrecy.
    struct Random(u64);

    impl Random {
        fn below(&mut self, n: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % n
        }

        fn expr(&mut self, depth: u32) -> DimExpr {
            let leaf = depth == 0 || self.below(4) == 0;
            match if leaf { self.below(3) } else { 3 + self.below(7) } {
                0 => c(self.below(9) as i64 - 3),
                1 => n(),
                2 => m(),
                3 | 4 => DimExpr::Add(vec![self.expr(depth - 1), self.expr(depth - 1)]),
                5 => DimExpr::Mul(vec![self.expr(depth - 1), self.expr(depth - 1)]),
                6 => DimExpr::FloorDiv(self.expr(depth - 1).into(), self.expr(depth - 1).into()),
                7 => DimExpr::CeilDiv(self.expr(depth - 1).into(), self.expr(depth - 1).into()),
                8 => DimExpr::Mod(self.expr(depth - 1).into(), self.expr(depth - 1).into()),
                _ if self.below(2) == 0 => DimExpr::Min(vec![self.expr(depth - 1), self.expr(depth - 1)]),
                _ => DimExpr::Max(vec![self.expr(depth - 1), self.expr(depth - 1)]),
            }
        }
    }

    #[test]
    fn normal_forms_have_the_value_of_the_expression_and_lie_in_their_bounds() {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut compared = 0;
        for _ in 0..20_000 {
            let expr = random.expr(4);
            let Some(normal) = normalize(&expr) else { continue };
            assert_eq!(normalize(&normal).as_ref(), Some(&normal), "normal forms are fixed points: {expr}");
            let (low, high) = bounds(&normal);
            for (x, y) in [(0, 1), (1, 1), (2, 3), (7, 5), (64, 9)] {
                let at = Bindings::from([("n".into(), x), ("m".into(), y)]);
                let Some(expected) = expr.eval(&at) else { continue };
                assert_eq!(normal.eval(&at), Some(expected), "{expr} became {normal} at n={x} m={y}");
                assert!(low.is_none_or(|l| l <= expected) && high.is_none_or(|h| h >= expected), "{normal}");
                compared += 1;
            }
        }
        assert!(compared > 20_000, "{compared}");
    }

    #[test]
    fn equal_sizes_get_equal_forms() {
        let same = |a: Option<DimExpr>, b: Option<DimExpr>| assert_eq!(a.unwrap(), b.unwrap());
        same(mul(&add(&n(), &c(1)).unwrap(), &m()), add(&mul(&m(), &n()).unwrap(), &m()));
        same(sub(&add(&n(), &m()).unwrap(), &m()), Some(n()));
        same(
            floor_div(&mul(&c(6), &mul(&n(), &m()).unwrap()).unwrap(), &mul(&c(2), &n()).unwrap()),
            mul(&c(3), &m()),
        );
        let sum = add(&n(), &m()).unwrap();
        same(floor_div(&mul(&sum, &mul(&n(), &sum).unwrap()).unwrap(), &sum), mul(&n(), &sum));
        let half = |e: &DimExpr| floor_div(&add(e, &c(1)).unwrap(), &c(2)).unwrap();
        same(Some(half(&half(&n()))), floor_div(&add(&n(), &c(3)).unwrap(), &c(4)));
        same(modulo(&mul(&c(8), &n()).unwrap(), &c(4)), Some(c(0)));
        same(max(&n(), &c(0)), Some(n()));
        same(max(&add(&n(), &c(2)).unwrap(), &n()), add(&n(), &c(2)));
    }

    #[test]
    fn sizes_are_compared_where_that_holds_for_all_symbols() {
        assert_eq!(equal(&n(), &c(-1)), Some(false));
        assert_eq!(equal(&n(), &c(1)), None);
        assert_eq!(equal(&add(&n(), &c(1)).unwrap(), &n()), Some(false));
    }

    #[test]
    fn overflow_and_growth_give_nothing() {
        assert_eq!(add(&c(i64::MAX), &c(1)), None);
        assert_eq!(mul(&c(i64::MAX), &mul(&c(2), &n()).unwrap()), None);
        let mut e = add(&n(), &add(&m(), &c(1)).unwrap()).unwrap();
        let mut steps = 0;
        while let Some(next) = mul(&e, &e) {
            e = next;
            steps += 1;
            assert!(steps < 10);
        }
    }
}
