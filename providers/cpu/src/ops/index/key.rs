//! Maps elements of any type to integers of the same order, so that sorting and searching are written once.

use half::{bf16, f16};

use crate::error::{OpError, Result};
use crate::tensor::{Bool, DType, Tensor};

/// The elements as keys: `a < b` exactly when `key(a) < key(b)`, both zeros share a key and NaN is above all numbers.
pub fn keys(tensor: &Tensor) -> Result<Vec<u64>> {
    const SIGN: u64 = 1 << 63;
    let signed = |value: i64| value as u64 ^ SIGN;
    Ok(match tensor.dtype() {
        DType::F32 => map(tensor.as_slice::<f32>()?, |v| float(f64::from(v))),
        DType::F64 => map(tensor.as_slice::<f64>()?, float),
        DType::F16 => map(tensor.as_slice::<f16>()?, |v| float(v.to_f64())),
        DType::BF16 => map(tensor.as_slice::<bf16>()?, |v| float(v.to_f64())),
        DType::I8 => map(tensor.as_slice::<i8>()?, |v| signed(v.into())),
        DType::I16 => map(tensor.as_slice::<i16>()?, |v| signed(v.into())),
        DType::I32 => map(tensor.as_slice::<i32>()?, |v| signed(v.into())),
        DType::I64 => map(tensor.as_slice::<i64>()?, signed),
        DType::U8 => map(tensor.as_slice::<u8>()?, u64::from),
        DType::U16 => map(tensor.as_slice::<u16>()?, u64::from),
        DType::U32 => map(tensor.as_slice::<u32>()?, u64::from),
        DType::U64 => map(tensor.as_slice::<u64>()?, |v| v),
        DType::Bool => map(tensor.as_slice::<Bool>()?, |v| u64::from(v.0 != 0)),
        other => return Err(OpError::unsupported(format!("elements of {other} have no order here"))),
    })
}

fn map<T: Copy>(values: &[T], key: impl Fn(T) -> u64) -> Vec<u64> {
    values.iter().map(|&value| key(value)).collect()
}

fn float(value: f64) -> u64 {
    if value.is_nan() {
        return u64::MAX;
    }
    let bits = (value + 0.0).to_bits();
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_like_numbers_with_nan_last() {
        let ordered =
            [f64::NEG_INFINITY, -2.5, -f64::MIN_POSITIVE, 0.0, 5e-324, 1.0, f64::INFINITY, f64::NAN];
        assert!(ordered.windows(2).all(|pair| float(pair[0]) < float(pair[1])));
        assert_eq!(float(-0.0), float(0.0));
        assert_eq!(float(-f64::NAN), float(f64::NAN));
    }
}
