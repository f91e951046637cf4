//! Codecs of the 8-bit and 4-bit floats and of packed sub-byte integers. Rounding is to nearest even.

use crate::error::{Result, expect_len};

/// The 8-bit floats of ONNX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float8 {
    /// 4 exponent and 3 mantissa bits, no infinity, NaN at S.1111.111.
    E4M3Fn,
    /// As above with bias 8, one zero, NaN at 0x80.
    E4M3FnUz,
    /// 5 exponent and 2 mantissa bits, IEEE infinity and NaN.
    E5M2,
    /// 5 exponent and 2 mantissa bits, bias 16, one zero, NaN at 0x80, no infinity.
    E5M2FnUz,
}

impl Float8 {
    fn mantissa_bits(self) -> u32 {
        match self {
            Float8::E4M3Fn | Float8::E4M3FnUz => 3,
            Float8::E5M2 | Float8::E5M2FnUz => 2,
        }
    }

    fn bias(self) -> i32 {
        match self {
            Float8::E4M3Fn => 7,
            Float8::E4M3FnUz => 8,
            Float8::E5M2 => 15,
            Float8::E5M2FnUz => 16,
        }
    }

    fn one_zero(self) -> bool {
        matches!(self, Float8::E4M3FnUz | Float8::E5M2FnUz)
    }

    /// Code of the largest finite magnitude.
    fn largest(self) -> u8 {
        match self {
            Float8::E4M3Fn => 0x7e,
            Float8::E4M3FnUz | Float8::E5M2FnUz => 0x7f,
            Float8::E5M2 => 0x7b,
        }
    }

    fn nan(self, sign: u8) -> u8 {
        match self {
            Float8::E4M3FnUz | Float8::E5M2FnUz => 0x80,
            Float8::E4M3Fn | Float8::E5M2 => sign | 0x7f,
        }
    }

    /// What a magnitude beyond the range becomes when it is not saturated.
    fn overflow(self, sign: u8) -> u8 {
        match self {
            Float8::E5M2 => sign | 0x7c,
            _ => self.nan(sign),
        }
    }

    /// The value of a code; exact.
    pub fn decode(self, code: u8) -> f32 {
        let (sign, magnitude) = (code & 0x80 != 0, u32::from(code & 0x7f));
        let bits = self.mantissa_bits();
        if self.one_zero() {
            if code == 0x80 {
                return f32::NAN;
            }
        } else if self == Float8::E4M3Fn && magnitude == 0x7f {
            return f32::NAN;
        } else if self == Float8::E5M2 && magnitude >= 0x7c {
            let v = if magnitude == 0x7c { f32::INFINITY } else { f32::NAN };
            return if sign { -v } else { v };
        }
        let (exponent, mantissa) = ((magnitude >> bits) as i32, magnitude & ((1 << bits) - 1));
        let scale = |e: i32| f32::from_bits(((e + 127) as u32) << 23);
        let unit = scale(exponent.max(1) - self.bias() - bits as i32);
        let whole = if exponent == 0 { mantissa } else { mantissa | (1 << bits) };
        let v = whole as f32 * unit;
        if sign { -v } else { v }
    }

    /// The nearest code. Beyond the range: the largest finite value where `saturate`, else infinity or NaN.
    /// Infinity saturates too, except that NaN stays NaN.
    pub fn encode(self, v: f32, saturate: bool) -> u8 {
        let bits = v.to_bits();
        let sign = ((bits >> 24) & 0x80) as u8;
        if v.is_nan() {
            return self.nan(sign);
        }
        let beyond = if saturate { sign | self.largest() } else { self.overflow(sign) };
        if v.is_infinite() {
            return beyond;
        }
        let rounded = round_magnitude(bits & 0x7fff_ffff, self.mantissa_bits(), self.bias());
        if rounded > u32::from(self.largest()) {
            return beyond;
        }
        if rounded == 0 && self.one_zero() {
            return 0;
        }
        sign | rounded as u8
    }
}

/// Rounds the magnitude of a finite f32 to a float with `mantissa` bits and `bias`; the code may exceed the format.
fn round_magnitude(bits: u32, mantissa: u32, bias: i32) -> u32 {
    let exponent = (bits >> 23) as i32 - 127;
    if bits == 0 {
        return 0;
    }
    // f32 subnormals are far below half the smallest code of every format here.
    if bits < 1 << 23 {
        return 0;
    }
    let significand = u64::from(bits & 0x7f_ffff | 0x80_0000);
    let target = exponent + bias;
    // Bits dropped from the 23-bit significand; more for subnormal targets.
    let drop = (23 - mantissa) as i32 + (1 - target).max(0);
    if drop > 40 {
        return 0;
    }
    let half = 1u64 << (drop - 1);
    let kept = significand >> drop;
    let rest = significand & ((1u64 << drop) - 1);
    let up = rest > half || (rest == half && kept & 1 == 1);
    let kept = kept + u64::from(up);
    // The implicit bit adds one to the exponent field, and a carry out of the mantissa does so by itself.
    let base = (target.max(1) - 1) as u64;
    ((base << mantissa) + kept) as u32
}

/// How a value is rounded to a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerRounding {
    Up,
    Down,
    /// To the nearest power, halfway upwards.
    Nearest,
}

/// Value of an E8M0 code: 2^(code - 127); 0xff is NaN.
pub fn decode_e8m0(code: u8) -> f32 {
    match code {
        0xff => f32::NAN,
        0 => f32::from_bits(0x0040_0000),
        _ => f32::from_bits(u32::from(code) << 23),
    }
}

/// E8M0 code of |v|. Beyond the range: the nearest end where `saturate`, else NaN. NaN gives 0xff.
pub fn encode_e8m0(v: f32, saturate: bool, rounding: PowerRounding) -> u8 {
    if v.is_nan() {
        return 0xff;
    }
    if v.is_infinite() {
        return if saturate { 0xfe } else { 0xff };
    }
    let bits = v.to_bits() & 0x7fff_ffff;
    let (exponent, mantissa) = (bits >> 23, bits & 0x7f_ffff);
    let up = match rounding {
        PowerRounding::Up if exponent == 0 => mantissa > 0x40_0000,
        PowerRounding::Up => mantissa != 0,
        PowerRounding::Down => false,
        PowerRounding::Nearest if exponent == 0 => mantissa > 0x60_0000,
        PowerRounding::Nearest => mantissa >= 0x40_0000,
    };
    let code = exponent + u32::from(up);
    if code > 0xfe {
        return if saturate { 0xfe } else { 0xff };
    }
    code as u8
}

const E2M1: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// Value of a 4-bit E2M1 code in the low nibble.
pub fn decode_e2m1(code: u8) -> f32 {
    let v = E2M1[usize::from(code & 7)];
    if code & 8 != 0 { -v } else { v }
}

/// E2M1 code of `v` in the low nibble, saturating at 6; NaN becomes +6.
pub fn encode_e2m1(v: f32) -> u8 {
    if v.is_nan() {
        return 7;
    }
    let sign = if v.is_sign_negative() { 8 } else { 0 };
    if v.is_infinite() {
        return sign | 7;
    }
    sign | round_magnitude(v.to_bits() & 0x7fff_ffff, 1, 1).min(7) as u8
}

/// Encodes f32 values as 8-bit floats.
pub fn encode_float8(format: Float8, saturate: bool, x: &[f32], y: &mut [u8]) -> Result<()> {
    expect_len("output of the cast", y.len(), x.len())?;
    for (y, &x) in y.iter_mut().zip(x) {
        *y = format.encode(x, saturate);
    }
    Ok(())
}

/// Decodes 8-bit floats.
pub fn decode_float8(format: Float8, x: &[u8], y: &mut [f32]) -> Result<()> {
    expect_len("output of the cast", y.len(), x.len())?;
    let table: [f32; 256] = std::array::from_fn(|code| format.decode(code as u8));
    for (y, &x) in y.iter_mut().zip(x) {
        *y = table[usize::from(x)];
    }
    Ok(())
}

/// Packs values of `bits` (1, 2 or 4) low bits, the first in the lowest bits; the last byte is zero-padded.
pub fn pack_bits(bits: u32, x: &[u8], y: &mut [u8]) -> Result<()> {
    let per_byte = (8 / bits) as usize;
    expect_len("packed output", y.len(), x.len().div_ceil(per_byte))?;
    let mask = (1u8 << bits) - 1;
    for (y, values) in y.iter_mut().zip(x.chunks(per_byte)) {
        *y = values.iter().enumerate().fold(0, |byte, (i, &v)| byte | (v & mask) << (i as u32 * bits));
    }
    Ok(())
}

/// Unpacks unsigned values of `bits` (1, 2 or 4) bits.
pub fn unpack_unsigned(bits: u32, x: &[u8], y: &mut [u8]) -> Result<()> {
    let per_byte = (8 / bits) as usize;
    expect_len("packed input", x.len(), y.len().div_ceil(per_byte))?;
    let mask = (1u8 << bits) - 1;
    for (values, &byte) in y.chunks_mut(per_byte).zip(x) {
        for (i, v) in values.iter_mut().enumerate() {
            *v = byte >> (i as u32 * bits) & mask;
        }
    }
    Ok(())
}

/// Unpacks two's complement values of `bits` (1, 2 or 4) bits.
pub fn unpack_signed(bits: u32, x: &[u8], y: &mut [i8]) -> Result<()> {
    let per_byte = (8 / bits) as usize;
    expect_len("packed input", x.len(), y.len().div_ceil(per_byte))?;
    let lift = 8 - bits;
    for (values, &byte) in y.chunks_mut(per_byte).zip(x) {
        for (i, v) in values.iter_mut().enumerate() {
            *v = ((byte >> (i as u32 * bits)) << lift) as i8 >> lift;
        }
    }
    Ok(())
}
