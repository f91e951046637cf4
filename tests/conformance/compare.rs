//! Whether a value equals the expected one by the suite's rules.

use tenon_runtime::dtype::{DType, decode_f64};
use tenon_runtime::tensor::{Tensor, Value};

/// `|got - expected| <= absolute + relative * |expected|`.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    pub relative: f64,
    pub absolute: f64,
}

/// The suite's own relative tolerance of bfloat16: one unit of its 8-bit significand, with room for one rounding more.
const BF16_RELATIVE: f64 = 1.0 / 64.0;

/// `Err` says where and how the values differ.
pub fn compare(got: &Value, expected: &Value, tolerance: Tolerance) -> Result<(), String> {
    match (got, expected) {
        (Value::Tensor(got), Value::Tensor(expected)) => compare_tensors(got, expected, tolerance),
        (Value::Sequence(got), Value::Sequence(expected)) if got.len() == expected.len() => {
            got.iter().zip(expected).enumerate().try_for_each(|(i, (g, e))| {
                compare(g, e, tolerance).map_err(|why| format!("item {i}: {why}"))
            })
        }
        (Value::Optional(None), Value::Optional(None)) => Ok(()),
        (Value::Optional(Some(got)), Value::Optional(Some(expected))) => compare(got, expected, tolerance),
        (Value::Optional(Some(got)), expected) => compare(got, expected, tolerance),
        (got, Value::Optional(Some(expected))) => compare(got, expected, tolerance),
        (Value::Map(got), Value::Map(expected)) => {
            compare_tensors(&got.keys, &expected.keys, tolerance)?;
            compare_tensors(&got.values, &expected.values, tolerance)
        }
        _ => Err(format!("got {}, expected {}", got.description(), expected.description())),
    }
}

fn compare_tensors(got: &Tensor, expected: &Tensor, tolerance: Tolerance) -> Result<(), String> {
    if got.dtype() != expected.dtype() || got.dims() != expected.dims() {
        return Err(format!(
            "got {}{:?}, expected {}{:?}",
            got.dtype(),
            got.dims(),
            expected.dtype(),
            expected.dims()
        ));
    }
    if got.dtype() == DType::String {
        let pairs = got.strings().and_then(|got| Ok((got, expected.strings()?)));
        let (got, expected) = pairs.map_err(|error| error.to_string())?;
        return match got.zip(expected).enumerate().find(|(_, (g, e))| g != e) {
            None => Ok(()),
            Some((i, (g, e))) => Err(format!("element {i}: got '{g}', expected '{e}'")),
        };
    }
    let (got_values, expected_values) = (numbers(got)?, numbers(expected)?);
    let relative = match got.dtype() {
        DType::BF16 => tolerance.relative.max(BF16_RELATIVE),
        _ => tolerance.relative,
    };
    let differs = |g: f64, e: f64| {
        let close = (g - e).abs() <= tolerance.absolute + relative * e.abs();
        !(close || g == e || g.is_nan() && e.is_nan())
    };
    let outside: Vec<usize> =
        (0..got_values.len()).filter(|&i| differs(got_values[i], expected_values[i])).collect();
    match outside.first() {
        None => Ok(()),
        Some(&i) => Err(format!(
            "{} of {} elements differ, first at {i}: got {}, expected {}",
            outside.len(),
            got_values.len(),
            got_values[i],
            expected_values[i]
        )),
    }
}

fn numbers(tensor: &Tensor) -> Result<Vec<f64>, String> {
    let part = match tensor.dtype() {
        DType::Complex64 => DType::F32,
        DType::Complex128 => DType::F64,
        _ => return tensor.to_f64_vec().map_err(|error| error.to_string()),
    };
    decode_f64(part, tensor.as_bytes(), tensor.len() * 2)
        .ok_or_else(|| "complex elements are cut short".into())
}
