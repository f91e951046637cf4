//! Numbers to elements of any dtype, for inputs that come as text or are generated.

use anyhow::{Context, Result, bail};
use half::{bf16, f16};
use tenon_runtime::dtype::{DType, decode_f64};
use tenon_runtime::tensor::Tensor;

/// A number as a user writes it: integers keep all their digits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    Integer(i128),
    Real(f64),
}

impl Number {
    fn real(self) -> f64 {
        match self {
            Number::Integer(i) => i as f64,
            Number::Real(r) => r,
        }
    }

    fn integer(self, dtype: DType) -> Result<i128> {
        match self {
            Number::Integer(i) => Ok(i),
            Number::Real(r) if r.fract() == 0.0 && r.abs() < 2f64.powi(64) => Ok(r as i128),
            Number::Real(r) => bail!("{r} is not an integer, and the input is {dtype}"),
        }
    }
}

/// The tensor of `dtype` and `dims` whose elements are `numbers`, rounded to the nearest; an error when an integer does
/// not fit or the count differs.
pub fn tensor(dtype: DType, dims: &[usize], numbers: &[Number]) -> Result<Tensor> {
    let bytes = match dtype {
        DType::F32 => wide(numbers, |n| Ok((n.real() as f32).to_le_bytes()))?,
        DType::F64 => wide(numbers, |n| Ok(n.real().to_le_bytes()))?,
        DType::F16 => wide(numbers, |n| Ok(f16::from_f64(n.real()).to_le_bytes()))?,
        DType::BF16 => wide(numbers, |n| Ok(bf16::from_f64(n.real()).to_le_bytes()))?,
        DType::Complex64 => wide(numbers, |n| Ok(u64::from((n.real() as f32).to_bits()).to_le_bytes()))?,
        DType::Complex128 => wide(numbers, |n| Ok(u128::from(n.real().to_bits()).to_le_bytes()))?,
        DType::Bool => wide(numbers, |n| Ok([u8::from(n.real() != 0.0)]))?,
        DType::I8 => wide(numbers, |n| Ok(fit::<i8>(n, dtype)?.to_le_bytes()))?,
        DType::I16 => wide(numbers, |n| Ok(fit::<i16>(n, dtype)?.to_le_bytes()))?,
        DType::I32 => wide(numbers, |n| Ok(fit::<i32>(n, dtype)?.to_le_bytes()))?,
        DType::I64 => wide(numbers, |n| Ok(fit::<i64>(n, dtype)?.to_le_bytes()))?,
        DType::U8 => wide(numbers, |n| Ok(fit::<u8>(n, dtype)?.to_le_bytes()))?,
        DType::U16 => wide(numbers, |n| Ok(fit::<u16>(n, dtype)?.to_le_bytes()))?,
        DType::U32 => wide(numbers, |n| Ok(fit::<u32>(n, dtype)?.to_le_bytes()))?,
        DType::U64 => wide(numbers, |n| Ok(fit::<u64>(n, dtype)?.to_le_bytes()))?,
        DType::String | DType::Undefined => bail!("numbers cannot fill a {dtype} tensor"),
        _ => packed(dtype, numbers)?,
    };
    Ok(Tensor::copy_from_bytes(dtype, dims, &bytes)?)
}

fn wide<const N: usize>(numbers: &[Number], encode: impl Fn(Number) -> Result<[u8; N]>) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(numbers.len() * N);
    for n in numbers {
        bytes.extend_from_slice(&encode(*n)?);
    }
    Ok(bytes)
}

fn fit<T: TryFrom<i128>>(number: Number, dtype: DType) -> Result<T> {
    let integer = number.integer(dtype)?;
    T::try_from(integer).ok().with_context(|| format!("{integer} is outside the range of {dtype}"))
}

/// Elements of at most 8 bits: the code whose value is nearest, least significant bits first.
fn packed(dtype: DType, numbers: &[Number]) -> Result<Vec<u8>> {
    let bits = dtype.bits();
    let values = codes(dtype)?;
    let mut bytes = vec![0u8; dtype.byte_len(numbers.len()).context("more elements than memory can hold")?];
    for (i, number) in numbers.iter().enumerate() {
        let value = number.real();
        if dtype.is_integer() && !values.contains(&value) {
            bail!("{value} is outside the range of {dtype}");
        }
        let code = nearest(&values, value).with_context(|| format!("{dtype} cannot hold {value}"))?;
        let bit = i * bits;
        let spread = (code as u16) << (bit % 8);
        bytes[bit / 8] |= spread as u8;
        if spread > 0xff {
            bytes[bit / 8 + 1] |= (spread >> 8) as u8;
        }
    }
    Ok(bytes)
}

/// The value of every code of a dtype of at most 8 bits.
fn codes(dtype: DType) -> Result<Vec<f64>> {
    (0..1u16 << dtype.bits())
        .map(|code| {
            let value = decode_f64(dtype, &[code as u8], 1).and_then(|v| v.first().copied());
            value.with_context(|| format!("numbers cannot fill a {dtype} tensor"))
        })
        .collect()
}

fn nearest(values: &[f64], wanted: f64) -> Option<usize> {
    if wanted.is_nan() {
        return values.iter().position(|v| v.is_nan());
    }
    let distance = |v: f64| if v == wanted { 0.0 } else { (v - wanted).abs() };
    (0..values.len())
        .filter(|i| !values[*i].is_nan())
        .min_by(|a, b| distance(values[*a]).total_cmp(&distance(values[*b])).then(a.cmp(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn integers(values: &[i128]) -> Vec<Number> {
        values.iter().map(|v| Number::Integer(*v)).collect()
    }

    #[test]
    fn integers_keep_every_digit() {
        let numbers = integers(&[i64::MAX.into(), i64::MIN.into()]);
        let t = tensor(DType::I64, &[2], &numbers).unwrap();
        assert_eq!(t.to_vec::<i64>().unwrap(), [i64::MAX, i64::MIN]);
        let t = tensor(DType::U64, &[1], &integers(&[u64::MAX.into()])).unwrap();
        assert_eq!(t.to_vec::<u64>().unwrap(), [u64::MAX]);
    }

    #[test]
    fn values_out_of_range_are_errors() {
        for (dtype, number, part) in [
            (DType::I8, Number::Integer(128), "128 is outside the range of int8"),
            (DType::U4, Number::Integer(16), "16 is outside the range of uint4"),
            (DType::I32, Number::Real(0.5), "0.5 is not an integer"),
            (DType::String, Number::Integer(1), "cannot fill a string tensor"),
        ] {
            let message = tensor(dtype, &[1], &[number]).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
        assert!(tensor(DType::F32, &[2], &integers(&[1])).is_err());
    }

    #[test]
    fn every_numeric_dtype_holds_small_integers() {
        for dtype in DType::ALL {
            if matches!(dtype, DType::String | DType::Bool | DType::F8E8M0) {
                continue;
            }
            let t = tensor(dtype, &[5], &integers(&[0, 1, 1, 0, 1])).unwrap();
            assert_eq!(t.to_f64_vec().unwrap(), [0.0, 1.0, 1.0, 0.0, 1.0], "{dtype}");
        }
    }

    #[test]
    fn small_floats_round_to_the_nearest_value() {
        let numbers = [Number::Real(0.3), Number::Real(-5.2), Number::Real(100.0)];
        let t = tensor(DType::F4E2M1, &[3], &numbers).unwrap();
        assert_eq!(t.to_f64_vec().unwrap(), [0.5, -6.0, 6.0]);
        let t = tensor(DType::F8E5M2, &[1], &[Number::Real(f64::INFINITY)]).unwrap();
        assert_eq!(t.to_f64_vec().unwrap(), [f64::INFINITY]);
    }
}
