//! Float formats of 16 bits and less: decoding to f32 and encoding from f64 with one rounding.

use std::sync::LazyLock;

use crate::tensor::DType;

/// How a format spends its codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Specials {
    /// The top exponent holds infinity and NaN, as in IEEE 754.
    Ieee,
    /// All ones is NaN; no infinity (suffix FN).
    AllOnesNan,
    /// Negative zero's code is NaN; no infinity (suffix FNUZ).
    NegativeZeroNan,
    /// Every code is a finite number.
    None,
}

/// A sign-magnitude float format.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    exponent_bits: u32,
    mantissa_bits: u32,
    bias: i32,
    specials: Specials,
}

/// The format of a float type under 32 bits that has a sign; `None` for other types.
pub fn format(dtype: DType) -> Option<Format> {
    let (exponent_bits, mantissa_bits, bias, specials) = match dtype {
        DType::F16 => (5, 10, 15, Specials::Ieee),
        DType::BF16 => (8, 7, 127, Specials::Ieee),
        DType::F8E5M2 => (5, 2, 15, Specials::Ieee),
        DType::F8E4M3FN => (4, 3, 7, Specials::AllOnesNan),
        DType::F8E4M3FNUZ => (4, 3, 8, Specials::NegativeZeroNan),
        DType::F8E5M2FNUZ => (5, 2, 16, Specials::NegativeZeroNan),
        DType::F6E2M3 => (2, 3, 1, Specials::None),
        DType::F6E3M2 => (3, 2, 3, Specials::None),
        DType::F4E2M1 => (2, 1, 1, Specials::None),
        _ => return None,
    };
    Some(Format { exponent_bits, mantissa_bits, bias, specials })
}

impl Format {
    fn sign_bit(self) -> u32 {
        1 << (self.exponent_bits + self.mantissa_bits)
    }

    /// The code of the largest finite magnitude.
    fn largest(self) -> u32 {
        match self.specials {
            Specials::Ieee => (((1 << self.exponent_bits) - 1) << self.mantissa_bits) - 1,
            Specials::AllOnesNan => self.sign_bit() - 2,
            Specials::NegativeZeroNan | Specials::None => self.sign_bit() - 1,
        }
    }

    fn nan(self, sign: u32) -> u32 {
        match self.specials {
            Specials::Ieee => sign | ((self.largest() + 1) | 1 << (self.mantissa_bits - 1)),
            Specials::AllOnesNan => sign | (self.sign_bit() - 1),
            Specials::NegativeZeroNan => self.sign_bit(),
            // A format without NaN turns it into the zero of the same sign.
            Specials::None => sign,
        }
    }

    /// The code of `value` rounded to nearest, ties to even. Magnitudes above the largest become the largest when
    /// `saturate` is set or the format has nothing else, otherwise infinity or NaN.
    pub fn encode(self, value: f64, saturate: bool) -> u32 {
        let sign = if value.is_sign_negative() { self.sign_bit() } else { 0 };
        if value.is_nan() {
            return self.nan(sign);
        }
        let magnitude = value.abs();
        let smallest = 1 - self.bias;
        let exponent = ((magnitude.to_bits() >> 52) as i32 - 1023).max(smallest);
        let code = if magnitude.is_infinite() {
            u64::MAX
        } else {
            let steps =
                scale_by_power_of_two(magnitude, self.mantissa_bits as i32 - exponent).round_ties_even();
            (((exponent - smallest) as u64) << self.mantissa_bits) + steps as u64
        };
        if code <= u64::from(self.largest()) {
            let zero_without_sign = code == 0 && self.specials == Specials::NegativeZeroNan;
            return if zero_without_sign { 0 } else { sign | code as u32 };
        }
        match self.specials {
            Specials::None => sign | self.largest(),
            _ if saturate => sign | self.largest(),
            Specials::Ieee => sign | (self.largest() + 1),
            _ => self.nan(sign),
        }
    }

    /// The value of `code`.
    pub fn decode(self, code: u32) -> f32 {
        let negative = code & self.sign_bit() != 0;
        let magnitude = code & (self.sign_bit() - 1);
        let value = if self.specials == Specials::NegativeZeroNan && code == self.sign_bit() {
            f32::NAN
        } else if magnitude > self.largest() {
            let infinite = self.specials == Specials::Ieee && magnitude == self.largest() + 1;
            if infinite { f32::INFINITY } else { f32::NAN }
        } else {
            let exponent = (magnitude >> self.mantissa_bits) as i32;
            let mantissa = magnitude & ((1 << self.mantissa_bits) - 1);
            let hidden = if exponent == 0 { 0 } else { 1 << self.mantissa_bits };
            let power = exponent.max(1) - self.bias - self.mantissa_bits as i32;
            scale_by_power_of_two(f64::from(mantissa | hidden), power) as f32
        };
        if negative { -value } else { value }
    }
}

/// `value * 2^power` for powers whose factor is a normal f64.
fn scale_by_power_of_two(value: f64, power: i32) -> f64 {
    let half = power / 2;
    let factor = |power: i32| f64::from_bits(((power + 1023) as u64) << 52);
    value * factor(half) * factor(power - half)
}

/// Rounding to float8e8m0, a power of two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RoundMode {
    /// Away from zero.
    #[default]
    Up,
    /// Towards zero.
    Down,
    /// To the nearer power, ties up.
    Nearest,
}

/// The float8e8m0 code of `value`. NaN and infinity have code 255; the sign is ignored.
pub fn encode_e8m0(value: f64, mode: RoundMode, saturate: bool) -> u8 {
    let magnitude = value.abs();
    if !magnitude.is_finite() {
        return 255;
    }
    let exponent = if magnitude == 0.0 { -1075 } else { (magnitude.to_bits() >> 52) as i32 - 1023 };
    let code = if exponent < -127 {
        // Under the smallest power, 2^-127.
        0
    } else {
        let ratio = scale_by_power_of_two(magnitude, -exponent);
        let up = match mode {
            RoundMode::Up => ratio > 1.0,
            RoundMode::Down => false,
            RoundMode::Nearest => ratio >= 1.5,
        };
        exponent + 127 + i32::from(up)
    };
    if code < 255 {
        return code as u8;
    }
    if saturate { 254 } else { 255 }
}

/// The value of a float8e8m0 code.
pub fn decode_e8m0(code: u8) -> f32 {
    if code == 255 { f32::NAN } else { scale_by_power_of_two(1.0, i32::from(code) - 127) as f32 }
}

/// The f32 values of all codes of a type of at most 8 bits.
pub fn table(dtype: DType) -> Option<&'static [f32; 256]> {
    static TABLES: LazyLock<[[f32; 256]; 8]> = LazyLock::new(|| {
        let mut tables = [[0.0; 256]; 8];
        for (table, dtype) in tables.iter_mut().zip(ORDER) {
            for code in 0..1u32 << dtype.bits() {
                table[code as usize] =
                    format(dtype).map_or_else(|| decode_e8m0(code as u8), |format| format.decode(code));
            }
        }
        tables
    });
    const ORDER: [DType; 8] = [
        DType::F8E4M3FN,
        DType::F8E4M3FNUZ,
        DType::F8E5M2,
        DType::F8E5M2FNUZ,
        DType::F8E8M0,
        DType::F6E2M3,
        DType::F6E3M2,
        DType::F4E2M1,
    ];
    let index = ORDER.iter().position(|&known| known == dtype)?;
    Some(&TABLES[index])
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    #[test]
    fn sixteen_bit_formats_agree_with_the_half_crate() {
        let (half, brain) = (format(DType::F16).unwrap(), format(DType::BF16).unwrap());
        for code in 0..=u16::MAX {
            let (a, b) = (f16::from_bits(code).to_f32(), half.decode(u32::from(code)));
            assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(), "f16 {code:#x}");
            let (a, b) = (bf16::from_bits(code).to_f32(), brain.decode(u32::from(code)));
            assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(), "bf16 {code:#x}");
        }
        let mut bits = 0x1234_5678u32;
        for _ in 0..200_000 {
            bits = bits.wrapping_mul(0x9E37_79B1).wrapping_add(0x7F4A_7C15);
            let value = f32::from_bits(bits);
            if !value.is_nan() {
                assert_eq!(
                    half.encode(f64::from(value), false),
                    u32::from(f16::from_f32(value).to_bits()),
                    "{value}"
                );
                assert_eq!(
                    brain.encode(f64::from(value), false),
                    u32::from(bf16::from_f32(value).to_bits()),
                    "{value}"
                );
            }
        }
    }

    #[test]
    fn small_formats_round_trip_every_code() {
        for dtype in [
            DType::F8E4M3FN,
            DType::F8E4M3FNUZ,
            DType::F8E5M2,
            DType::F8E5M2FNUZ,
            DType::F6E2M3,
            DType::F6E3M2,
            DType::F4E2M1,
        ] {
            let format = format(dtype).unwrap();
            for code in 0..1u32 << dtype.bits() {
                let value = format.decode(code);
                assert!(
                    value.is_nan() || format.encode(f64::from(value), false) == code,
                    "{dtype} {code:#x} {value}"
                );
            }
        }
        for code in 0..255 {
            for mode in [RoundMode::Up, RoundMode::Down, RoundMode::Nearest] {
                assert_eq!(encode_e8m0(f64::from(decode_e8m0(code)), mode, true), code);
            }
        }
    }

    #[test]
    fn overflow_saturates_or_becomes_special() {
        let check = |dtype, value: f64, saturated: u32, special: u32| {
            let format = format(dtype).unwrap();
            assert_eq!(format.encode(value, true), saturated, "{dtype} {value}");
            assert_eq!(format.encode(value, false), special, "{dtype} {value}");
        };
        check(DType::F8E4M3FN, 464.0, 0x7E, 0x7E);
        check(DType::F8E4M3FN, 465.0, 0x7E, 0x7F);
        check(DType::F8E4M3FN, f64::NEG_INFINITY, 0xFE, 0xFF);
        check(DType::F8E5M2, 1e9, 0x7B, 0x7C);
        check(DType::F8E4M3FNUZ, 1e9, 0x7F, 0x80);
        check(DType::F8E5M2FNUZ, -0.0, 0x00, 0x00);
        check(DType::F4E2M1, 1e9, 0x07, 0x07);
        assert_eq!(encode_e8m0(f64::from(f32::MAX), RoundMode::Up, true), 254);
        assert_eq!(encode_e8m0(f64::from(f32::MAX), RoundMode::Up, false), 255);
        assert_eq!(encode_e8m0(1.25, RoundMode::Nearest, true), 127);
    }
}
