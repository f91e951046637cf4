//! Element types: the contract's [`DType`], the Rust type that stores each, and decoding of any numeric element to `f64`.

use half::{bf16, f16};

pub use tenon_plugin_api::DType;

/// A Rust type whose values are the elements of a tensor.
///
/// # Safety
/// Every bit pattern is a valid value and the type has no padding: slices of it are made from untyped bytes.
pub unsafe trait Element: Copy + Send + Sync + 'static {
    /// The element type a tensor of this gets.
    const DTYPE: DType;

    /// True when a tensor of `dtype` can be read as this type.
    fn reads(dtype: DType) -> bool {
        dtype == Self::DTYPE
    }
}

macro_rules! element {
    ($($ty:ty => $dtype:ident),* $(,)?) => {$(
        // SAFETY: plain integers and floats have no padding and no invalid bit pattern; `f16` and `bf16` wrap `u16`.
        unsafe impl Element for $ty {
            const DTYPE: DType = DType::$dtype;
        }
    )*};
}

element! {
    f32 => F32, f64 => F64, f16 => F16, bf16 => BF16,
    i8 => I8, i16 => I16, i32 => I32, i64 => I64,
    u16 => U16, u32 => U32, u64 => U64,
}

// SAFETY: as above; a byte reads booleans too, whose bytes may hold any value in a hostile file.
unsafe impl Element for u8 {
    const DTYPE: DType = DType::U8;

    fn reads(dtype: DType) -> bool {
        matches!(dtype, DType::U8 | DType::Bool)
    }
}

/// The elements of `bytes`, packed as ONNX packs raw data, as `f64`; complex numbers give their real part.
///
/// Returns `None` for strings and [`DType::Undefined`], and when `bytes` is too short for `elements`.
pub fn decode_f64(dtype: DType, bytes: &[u8], elements: usize) -> Option<Vec<f64>> {
    if bytes.len() < dtype.byte_len(elements)? {
        return None;
    }
    fn wide<const N: usize>(bytes: &[u8], n: usize, f: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        bytes.as_chunks::<N>().0.iter().take(n).map(|c| f(*c)).collect()
    }
    let codes = |f: fn(u8) -> f64| (0..elements).map(|i| f(code(bytes, dtype.bits(), i))).collect();
    Some(match dtype {
        DType::Undefined | DType::String => return None,
        DType::F32 => wide(bytes, elements, |c| f64::from(f32::from_le_bytes(c))),
        DType::F64 => wide(bytes, elements, f64::from_le_bytes),
        DType::F16 => wide(bytes, elements, |c| f16::from_le_bytes(c).to_f64()),
        DType::BF16 => wide(bytes, elements, |c| bf16::from_le_bytes(c).to_f64()),
        DType::I16 => wide(bytes, elements, |c| f64::from(i16::from_le_bytes(c))),
        DType::U16 => wide(bytes, elements, |c| f64::from(u16::from_le_bytes(c))),
        DType::I32 => wide(bytes, elements, |c| f64::from(i32::from_le_bytes(c))),
        DType::U32 => wide(bytes, elements, |c| f64::from(u32::from_le_bytes(c))),
        DType::I64 => wide(bytes, elements, |c| i64::from_le_bytes(c) as f64),
        DType::U64 => wide(bytes, elements, |c| u64::from_le_bytes(c) as f64),
        DType::Complex64 => {
            wide(bytes, elements, |c: [u8; 8]| f64::from(f32::from_le_bytes([c[0], c[1], c[2], c[3]])))
        }
        DType::Complex128 => wide(bytes, elements, |c: [u8; 16]| {
            f64::from_le_bytes([c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]])
        }),
        DType::U8 => codes(f64::from),
        DType::I8 => codes(|c| f64::from(c as i8)),
        DType::Bool => codes(|c| f64::from(u8::from(c != 0))),
        DType::U4 | DType::U2 => codes(f64::from),
        DType::I4 => codes(|c| f64::from(((c << 4) as i8) >> 4)),
        DType::I2 => codes(|c| f64::from(((c << 6) as i8) >> 6)),
        DType::F4E2M1 => codes(|c| minifloat(c, 2, 1, 1)),
        DType::F6E2M3 => codes(|c| minifloat(c, 2, 3, 1)),
        DType::F6E3M2 => codes(|c| minifloat(c, 3, 2, 3)),
        DType::F8E4M3FN => codes(|c| if c & 0x7f == 0x7f { f64::NAN } else { minifloat(c, 4, 3, 7) }),
        DType::F8E4M3FNUZ => codes(|c| if c == 0x80 { f64::NAN } else { minifloat(c, 4, 3, 8) }),
        DType::F8E5M2 => codes(|c| match c & 0x7f {
            0x7c => f64::INFINITY * if c & 0x80 == 0 { 1.0 } else { -1.0 },
            0x7d.. => f64::NAN,
            _ => minifloat(c, 5, 2, 15),
        }),
        DType::F8E5M2FNUZ => codes(|c| if c == 0x80 { f64::NAN } else { minifloat(c, 5, 2, 16) }),
        DType::F8E8M0 => codes(|c| if c == 0xff { f64::NAN } else { 2f64.powi(i32::from(c) - 127) }),
    })
}

/// Element `index` of a stream of `bits`-wide codes, least significant bit first.
fn code(bytes: &[u8], bits: usize, index: usize) -> u8 {
    let bit = index * bits;
    let low = u16::from(bytes[bit / 8]);
    let high = u16::from(bytes.get(bit / 8 + 1).copied().unwrap_or(0));
    (((high << 8 | low) >> (bit % 8)) & ((1 << bits) - 1)) as u8
}

/// The value of a sign-exponent-mantissa code without infinities; subnormals included.
fn minifloat(code: u8, exponent_bits: u32, mantissa_bits: u32, bias: i32) -> f64 {
    let mantissa = f64::from(code & ((1 << mantissa_bits) - 1)) / f64::from(1u32 << mantissa_bits);
    let exponent = i32::from(code >> mantissa_bits & ((1 << exponent_bits) - 1));
    let sign = if code >> (exponent_bits + mantissa_bits) & 1 == 1 { -1.0 } else { 1.0 };
    let (significand, exponent) = if exponent == 0 { (mantissa, 1) } else { (1.0 + mantissa, exponent) };
    sign * significand * 2f64.powi(exponent - bias)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_codes_decode_low_bits_first() {
        assert_eq!(decode_f64(DType::I4, &[0x8f, 0x07], 3), Some(vec![-1.0, -8.0, 7.0]));
        assert_eq!(decode_f64(DType::U2, &[0b11_10_01_00, 0b01], 5), Some(vec![0.0, 1.0, 2.0, 3.0, 1.0]));
        assert_eq!(decode_f64(DType::I2, &[0b11_10_01_00], 4), Some(vec![0.0, 1.0, -2.0, -1.0]));
        // 1.0, -1.0, 0.125, 7.5 as E2M3 codes 8, 40, 1, 31: byte0 = 8 | (40 & 3) << 6, and so on.
        let packed = [8, 40 >> 2 | (1 & 0xf) << 4, 31 << 2];
        assert_eq!(decode_f64(DType::F6E2M3, &packed, 4), Some(vec![1.0, -1.0, 0.125, 7.5]));
    }

    #[test]
    fn small_floats_decode_their_extremes() {
        let one = |dtype, code: u8| decode_f64(dtype, &[code], 1).unwrap()[0];
        assert_eq!(one(DType::F8E4M3FN, 0x7e), 448.0);
        assert_eq!(one(DType::F8E4M3FN, 0x01), 2f64.powi(-9));
        assert!(one(DType::F8E4M3FN, 0xff).is_nan());
        assert_eq!(one(DType::F8E4M3FNUZ, 0x7f), 240.0);
        assert!(one(DType::F8E4M3FNUZ, 0x80).is_nan());
        assert_eq!(one(DType::F8E5M2, 0xfb), -57344.0);
        assert_eq!(one(DType::F8E5M2, 0xfc), f64::NEG_INFINITY);
        assert_eq!(one(DType::F8E5M2FNUZ, 0x7f), 57344.0);
        assert_eq!(one(DType::F8E8M0, 127), 1.0);
        assert_eq!(decode_f64(DType::F4E2M1, &[0xf7], 2), Some(vec![6.0, -6.0]));
        assert_eq!(one(DType::F6E3M2, 0x1f), 28.0);
        assert_eq!(decode_f64(DType::F32, &[0; 7], 2), None);
    }
}
