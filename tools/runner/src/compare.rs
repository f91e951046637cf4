//! Comparison of values within tolerances, finding the element that is furthest outside.

use std::fmt;

use tenon_runtime::dtype::DType;
use tenon_runtime::tensor::{Tensor, Value};

use crate::quantity;

/// How far apart two elements may be: `|got - expected| <= absolute + relative * |expected| + scaled * max|expected|`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    pub relative: f64,
    pub absolute: f64,
    /// On the largest finite magnitude of the whole expected tensor.
    pub scaled: f64,
}

/// What a comparison of two values found.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Elements compared.
    pub elements: usize,
    /// Elements outside the tolerance.
    pub outside: usize,
    /// The element nearest to or furthest outside its tolerance; none when there is no element.
    pub worst: Option<Worst>,
    /// Why the values cannot be compared element by element.
    pub mismatch: Option<String>,
}

/// One element of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Worst {
    /// Where it is, as `[0, 3]`, after the path into sequences and maps.
    pub place: String,
    pub got: String,
    pub expected: String,
    /// The absolute difference; infinite when one side is NaN, or text differs.
    pub difference: f64,
    /// The difference as a multiple of what is allowed; at most 1 when the element agrees.
    pub excess: f64,
}

impl Comparison {
    fn empty() -> Self {
        Comparison { elements: 0, outside: 0, worst: None, mismatch: None }
    }

    fn mismatched(reason: String) -> Self {
        Comparison { mismatch: Some(reason), ..Self::empty() }
    }

    /// True when everything agrees.
    pub fn agrees(&self) -> bool {
        self.outside == 0 && self.mismatch.is_none()
    }

    /// How bad it is, to rank outputs: above 1 outside the tolerance, infinite for a mismatch.
    pub fn badness(&self) -> f64 {
        match (&self.mismatch, &self.worst) {
            (Some(_), _) => f64::INFINITY,
            (None, Some(worst)) => worst.excess,
            (None, None) => 0.0,
        }
    }

    fn merge(&mut self, other: Comparison, place: &str) {
        self.elements += other.elements;
        self.outside += other.outside;
        self.mismatch = self.mismatch.take().or_else(|| other.mismatch.map(|m| format!("{place}: {m}")));
        if let Some(mut worst) = other.worst
            && self.worst.as_ref().is_none_or(|w| worst.excess > w.excess)
        {
            worst.place = format!("{place}{}", worst.place);
            self.worst = Some(worst);
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(reason) = &self.mismatch {
            return f.write_str(reason);
        }
        let Some(w) = &self.worst else { return f.write_str("no elements") };
        write!(f, "element {}: got {}, expected {}", w.place, w.got, w.expected)?;
        if w.difference.is_finite() {
            write!(f, ", difference {:.3e}, {:.3} of the tolerance", w.difference, w.excess)?;
        }
        if self.outside > 0 {
            write!(f, "; {} of {} elements are outside the tolerance", self.outside, self.elements)?;
        }
        Ok(())
    }
}

/// Compares a value with what is expected of it. NaN equals NaN, infinities equal themselves, other types must be equal.
pub fn values(got: &Value, expected: &Value, tolerance: Tolerance) -> Comparison {
    match (got, expected) {
        (Value::Tensor(g), Value::Tensor(e)) => tensors(g, e, tolerance),
        (Value::Sequence(g), Value::Sequence(e)) if g.len() == e.len() => {
            let mut all = Comparison::empty();
            for (i, (g, e)) in g.iter().zip(e).enumerate() {
                all.merge(values(g, e, tolerance), &format!("[{i}]"));
            }
            all
        }
        (Value::Optional(Some(g)), Value::Optional(Some(e))) => values(g, e, tolerance),
        (Value::Optional(Some(g)), e) => values(g, e, tolerance),
        (g, Value::Optional(Some(e))) => values(g, e, tolerance),
        (Value::Optional(None), Value::Optional(None)) => Comparison::empty(),
        (Value::Map(g), Value::Map(e)) => {
            let mut all = Comparison::empty();
            all.merge(tensors(&g.keys, &e.keys, tolerance), "keys");
            all.merge(tensors(&g.values, &e.values, tolerance), "values");
            all
        }
        _ => {
            Comparison::mismatched(format!("got {}, expected {}", got.description(), expected.description()))
        }
    }
}

fn tensors(got: &Tensor, expected: &Tensor, tolerance: Tolerance) -> Comparison {
    if got.dtype() != expected.dtype() || got.dims() != expected.dims() {
        return Comparison::mismatched(format!("got {}, expected {}", got.type_info(), expected.type_info()));
    }
    match got.dtype() {
        DType::String => strings(got, expected),
        DType::Complex64 | DType::Complex128 => match (complex_parts(got), complex_parts(expected)) {
            (Some(g), Some(e)) => numbers(&g, &e, &with_parts(got.dims()), tolerance),
            _ => Comparison::mismatched("complex elements could not be read".into()),
        },
        _ => match (got.to_f64_vec(), expected.to_f64_vec()) {
            (Ok(g), Ok(e)) => numbers(&g, &e, got.dims(), tolerance),
            (Err(e), _) | (_, Err(e)) => Comparison::mismatched(e.to_string()),
        },
    }
}

/// Real and imaginary parts in turn.
fn complex_parts(tensor: &Tensor) -> Option<Vec<f64>> {
    let part = if tensor.dtype() == DType::Complex64 { DType::F32 } else { DType::F64 };
    tenon_runtime::dtype::decode_f64(part, tensor.as_bytes(), tensor.len() * 2)
}

fn with_parts(dims: &[usize]) -> Vec<usize> {
    dims.iter().copied().chain([2]).collect()
}

fn numbers(got: &[f64], expected: &[f64], dims: &[usize], tolerance: Tolerance) -> Comparison {
    let largest = expected.iter().filter(|v| v.is_finite()).fold(0.0, |m: f64, v| m.max(v.abs()));
    let floor = tolerance.absolute + tolerance.scaled * largest;
    let mut outside = 0;
    let mut worst: Option<(usize, f64)> = None;
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        let excess = excess(*g, *e, floor + tolerance.relative * e.abs());
        outside += usize::from(excess > 1.0);
        if worst.is_none_or(|(_, w)| excess > w) {
            worst = Some((i, excess));
        }
    }
    let worst = worst.map(|(i, excess)| Worst {
        place: place(i, dims),
        got: quantity::element(got[i]),
        expected: quantity::element(expected[i]),
        difference: if excess == 0.0 { 0.0 } else { difference(got[i], expected[i]) },
        excess,
    });
    Comparison { elements: got.len(), outside, worst, mismatch: None }
}

fn difference(got: f64, expected: f64) -> f64 {
    let difference = (got - expected).abs();
    if difference.is_nan() { f64::INFINITY } else { difference }
}

/// The difference as a multiple of `allowed`.
fn excess(got: f64, expected: f64, allowed: f64) -> f64 {
    if got == expected || (got.is_nan() && expected.is_nan()) {
        return 0.0;
    }
    let difference = difference(got, expected);
    if difference.is_infinite() || allowed == 0.0 {
        return f64::INFINITY;
    }
    difference / allowed
}

fn strings(got: &Tensor, expected: &Tensor) -> Comparison {
    let (Ok(g), Ok(e)) = (got.strings(), expected.strings()) else {
        return Comparison::mismatched("strings could not be read".into());
    };
    let mut result = Comparison::empty();
    for (i, (g, e)) in g.zip(e).enumerate() {
        result.elements += 1;
        if g == e {
            continue;
        }
        result.outside += 1;
        result.worst.get_or_insert_with(|| Worst {
            place: place(i, got.dims()),
            got: format!("{g:?}"),
            expected: format!("{e:?}"),
            difference: f64::INFINITY,
            excess: f64::INFINITY,
        });
    }
    result
}

/// The index of element `i` along every axis.
fn place(mut i: usize, dims: &[usize]) -> String {
    let mut index = vec![0; dims.len()];
    for (slot, d) in index.iter_mut().zip(dims).rev() {
        *slot = i % d;
        i /= d;
    }
    let parts: Vec<String> = index.iter().map(usize::to_string).collect();
    format!("[{}]", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIGHT: Tolerance = Tolerance { relative: 1e-3, absolute: 1e-6, scaled: 0.0 };

    fn compare(got: &[f32], expected: &[f32]) -> Comparison {
        let t = |v: &[f32]| Value::from(Tensor::from_slice(&[v.len()], v).unwrap());
        values(&t(got), &t(expected), TIGHT)
    }

    #[test]
    fn elements_agree_within_both_tolerances_together() {
        assert!(compare(&[1.0009, 0.0, -5e-7], &[1.0, 0.0, 0.0]).agrees());
        assert!(!compare(&[1.0021], &[1.0]).agrees());
        assert!(!compare(&[2e-6], &[0.0]).agrees());
    }

    #[test]
    fn the_worst_element_is_the_one_furthest_outside_its_own_tolerance() {
        // 1000.5 is off by more, 0.01 by more of what it may.
        let c = compare(&[1000.5, 0.01], &[1000.0, 0.0]);
        assert_eq!(c.outside, 1);
        assert_eq!(c.worst.as_ref().unwrap().place, "[1]");
        assert!(c.to_string().contains("element [1]: got 0.01, expected 0"), "{c}");
    }

    #[test]
    fn nan_and_infinity_agree_only_with_themselves() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        assert!(compare(&[nan, inf, -inf], &[nan, inf, -inf]).agrees());
        for (g, e) in [(nan, 0.0), (0.0, nan), (inf, -inf), (inf, 1e38), (1.0, inf), (nan, inf)] {
            let c = compare(&[g], &[e]);
            assert_eq!((c.outside, c.badness()), (1, f64::INFINITY), "{g} against {e}");
        }
    }

    #[test]
    fn the_scaled_tolerance_follows_the_largest_expected_magnitude() {
        let t = |v: &[f32]| Value::from(Tensor::from_slice(&[2], v).unwrap());
        let scaled = Tolerance { relative: 0.0, absolute: 0.0, scaled: 1e-2 };
        assert!(values(&t(&[0.9, 100.0]), &t(&[0.0, 100.0]), scaled).agrees());
        assert!(!values(&t(&[1.1, 100.0]), &t(&[0.0, 100.0]), scaled).agrees());
    }

    #[test]
    fn dtype_shape_and_kind_must_be_equal() {
        let f = Value::from(Tensor::from_slice(&[2], &[1f32, 2.0]).unwrap());
        let column = Value::from(Tensor::from_slice(&[2, 1], &[1f32, 2.0]).unwrap());
        let d = Value::from(Tensor::from_slice(&[2], &[1f64, 2.0]).unwrap());
        for other in [&column, &d, &Value::Sequence(vec![f.clone()])] {
            let c = values(other, &f, TIGHT);
            assert!(!c.agrees() && c.mismatch.is_some());
        }
        let two = Value::Sequence(vec![f.clone(), f.clone()]);
        assert!(!values(&Value::Sequence(vec![f]), &two, TIGHT).agrees());
    }

    #[test]
    fn sequences_strings_and_complex_numbers_name_their_element() {
        let text = |s: &[&str]| Value::from(Tensor::from_strings(&[s.len()], s).unwrap());
        let got = Value::Sequence(vec![text(&["a"]), text(&["b", "c"])]);
        let expected = Value::Sequence(vec![text(&["a"]), text(&["b", "d"])]);
        let c = values(&got, &expected, TIGHT);
        assert_eq!(c.worst.unwrap().place, "[1][1]");
        let complex = |re: f32, im: f32| {
            let bytes = [re.to_le_bytes(), im.to_le_bytes()].concat();
            Value::from(Tensor::copy_from_bytes(DType::Complex64, &[1], &bytes).unwrap())
        };
        assert!(values(&complex(1.0, 2.0), &complex(1.0, 2.0), TIGHT).agrees());
        let c = values(&complex(1.0, 2.0), &complex(1.0, 3.0), TIGHT);
        assert_eq!(c.worst.unwrap().place, "[0, 1]");
    }

    #[test]
    fn empty_tensors_agree() {
        assert!(compare(&[], &[]).agrees());
    }
}
