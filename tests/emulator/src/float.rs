//! Conversions between single floats and the small formats: half, bfloat16, and formats of 8, 6 and 4 bits.

use crate::target::Target;

pub(crate) fn half_to_single(half: u16) -> f32 {
    // The exponent moves by a multiplication, which also makes denormals right.
    let magnitude = u32::from(half & 0x7fff) << 13;
    let value = f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23);
    let special = if magnitude >= 0x1f << 23 { 0x7f80_0000 } else { 0 };
    f32::from_bits(value.to_bits() | special | u32::from(half & 0x8000) << 16)
}

pub(crate) fn single_to_half(value: f32) -> u16 {
    half::f16::from_f32(value).to_bits()
}

pub(crate) fn brain_to_single(brain: u16) -> f32 {
    f32::from_bits(u32::from(brain) << 16)
}

pub(crate) fn single_to_brain(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// Which bit patterns are not numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Special {
    /// All exponent bits set: infinity and NaN.
    Ieee,
    /// Only the largest magnitude is NaN; no infinity.
    LargestNan,
    /// Only the pattern of minus zero is NaN; no infinity, no minus zero.
    ZeroNan,
    /// Every pattern is a number.
    None,
}

/// A float format of at most 8 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    exponent_bits: u32,
    mantissa_bits: u32,
    bias: i32,
    special: Special,
}

/// E4M3 as the OCP defines it.
pub(crate) const FP8: Format = format(4, 3, 7, Special::LargestNan);
/// E5M2 as the OCP defines it.
pub(crate) const BF8: Format = format(5, 2, 15, Special::Ieee);
pub(crate) const FP8_FNUZ: Format = format(4, 3, 8, Special::ZeroNan);
pub(crate) const BF8_FNUZ: Format = format(5, 2, 16, Special::ZeroNan);
/// E2M3.
pub(crate) const FP6: Format = format(2, 3, 1, Special::None);
/// E3M2.
pub(crate) const BF6: Format = format(3, 2, 3, Special::None);
/// E2M1.
pub(crate) const FP4: Format = format(2, 1, 1, Special::None);

const fn format(exponent_bits: u32, mantissa_bits: u32, bias: i32, special: Special) -> Format {
    Format { exponent_bits, mantissa_bits, bias, special }
}

/// The 8-bit format with four exponent bits that a target's instructions use.
pub(crate) fn fp8(target: Target) -> Format {
    if target == Target::Gfx942 { FP8_FNUZ } else { FP8 }
}

/// The 8-bit format with five exponent bits that a target's instructions use.
pub(crate) fn bf8(target: Target) -> Format {
    if target == Target::Gfx942 { BF8_FNUZ } else { BF8 }
}

impl Format {
    /// Bits of an element, sign included.
    pub fn bits(self) -> u32 {
        1 + self.exponent_bits + self.mantissa_bits
    }

    /// The exact value of a bit pattern.
    pub fn decode(self, pattern: u8) -> f32 {
        let sign_bit = 1u32 << (self.bits() - 1);
        let pattern = u32::from(pattern) & (sign_bit * 2 - 1);
        let magnitude = pattern & (sign_bit - 1);
        let (exponent, mantissa) =
            (magnitude >> self.mantissa_bits, magnitude & ((1 << self.mantissa_bits) - 1));
        let highest = (1 << self.exponent_bits) - 1;
        let sign = if pattern & sign_bit != 0 { -1.0 } else { 1.0 };
        match self.special {
            Special::Ieee if exponent == highest => {
                return if mantissa == 0 { sign * f32::INFINITY } else { f32::NAN };
            }
            Special::LargestNan if magnitude == sign_bit - 1 => return f32::NAN,
            Special::ZeroNan if pattern == sign_bit => return f32::NAN,
            _ => {}
        }
        let fraction = mantissa as f32 / (1u32 << self.mantissa_bits) as f32;
        let power = |exponent: i32| f32::from_bits(((exponent + 127) as u32) << 23);
        let value = if exponent == 0 {
            fraction * power(1 - self.bias)
        } else {
            (1.0 + fraction) * power(exponent as i32 - self.bias)
        };
        sign * value
    }

    /// The largest finite value's bit pattern.
    fn largest(self) -> u32 {
        let all = (1u32 << (self.bits() - 1)) - 1;
        match self.special {
            Special::Ieee => all - (1 << self.mantissa_bits),
            Special::LargestNan => all - 1,
            Special::ZeroNan | Special::None => all,
        }
    }

    /// Rounds to nearest even. Where there is no infinity an overflow gives NaN; with `clamp`, and in formats without
    /// NaN, the largest value.
    pub fn encode(self, value: f32, clamp: bool) -> u8 {
        self.encode_rounding(value, clamp, None)
    }

    /// Rounds stochastically: adds the random bits below the kept ones and truncates.
    pub fn encode_stochastic(self, value: f32, clamp: bool, random: u32) -> u8 {
        self.encode_rounding(value, clamp, Some(random))
    }

    fn encode_rounding(self, value: f32, clamp: bool, random: Option<u32>) -> u8 {
        let sign_bit = 1u32 << (self.bits() - 1);
        let sign = if value.is_sign_negative() { sign_bit } else { 0 };
        if value.is_nan() {
            return match self.special {
                Special::None => (sign | self.largest()) as u8,
                Special::ZeroNan => sign_bit as u8,
                Special::Ieee | Special::LargestNan => (sign | (sign_bit - 1)) as u8,
            };
        }
        let magnitude = if value.is_infinite() { None } else { self.round(value.abs(), random) };
        let magnitude = match magnitude {
            Some(magnitude) if magnitude <= self.largest() => magnitude,
            _ if clamp || self.special == Special::None => self.largest(),
            _ => match self.special {
                Special::ZeroNan => return sign_bit as u8,
                Special::Ieee => ((1 << self.exponent_bits) - 1) << self.mantissa_bits,
                _ => sign_bit - 1,
            },
        };
        // Without a minus zero, a negative value that rounds to zero is plain zero.
        let sign = if magnitude == 0 && self.special == Special::ZeroNan { 0 } else { sign };
        (sign | magnitude) as u8
    }

    /// The magnitude's bit pattern as if exponents had no upper end; `None` far beyond it.
    fn round(self, value: f32, random: Option<u32>) -> Option<u32> {
        let lowest = 1 - self.bias;
        let exponent = if value == 0.0 { lowest } else { ((value.to_bits() >> 23) as i32 - 127).max(lowest) };
        if exponent > 20 + lowest + (1 << self.exponent_bits) {
            return None;
        }
        // In units of the last place at this exponent.
        let units = f64::from(value) * 2f64.powi(self.mantissa_bits as i32 - exponent);
        let whole = match random {
            None => units.round_ties_even(),
            Some(random) => (units + f64::from(random) / 4_294_967_296.0).floor(),
        };
        let biased = (exponent - lowest) as u32;
        Some((biased << self.mantissa_bits) + whole as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMATS: [Format; 7] = [FP8, BF8, FP8_FNUZ, BF8_FNUZ, FP6, BF6, FP4];

    #[test]
    fn every_value_survives_decoding_and_encoding() {
        for format in FORMATS {
            for pattern in 0..=((1u32 << format.bits()) - 1) as u8 {
                let value = format.decode(pattern);
                let back = format.encode(value, false);
                let same = if value.is_nan() { format.decode(back).is_nan() } else { back == pattern };
                assert!(same, "{format:?} {pattern:#x} {value} {back:#x}");
            }
        }
    }

    #[test]
    fn values_between_two_neighbours_go_to_the_nearer_one() {
        for format in FORMATS {
            for pattern in 0..format.largest() as u8 {
                let (low, high) = (format.decode(pattern), format.decode(pattern + 1));
                let middle = (low + high) / 2.0;
                let even = if pattern % 2 == 0 { pattern } else { pattern + 1 };
                assert_eq!(format.encode(middle, false), even, "{format:?} {pattern:#x}");
                assert_eq!(format.encode(low + (middle - low) * 0.99, false), pattern);
                assert_eq!(format.encode(high - (high - middle) * 0.99, false), pattern + 1);
            }
        }
    }

    #[test]
    fn known_limits_of_the_formats() {
        let largest = FORMATS.map(|format| format.decode(format.largest() as u8));
        assert_eq!(largest, [448.0, 57344.0, 240.0, 57344.0, 7.5, 28.0, 6.0]);
        assert!(FP8.decode(FP8.encode(1e6, false)).is_nan());
        assert_eq!(FP8.decode(FP8.encode(-1e6, true)), -448.0);
        assert_eq!(BF8.decode(BF8.encode(1e6, false)), f32::INFINITY);
        assert_eq!(FP4.decode(FP4.encode(f32::INFINITY, false)), 6.0);
    }

    #[test]
    fn all_halves_convert_exactly() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (half_to_single(bits), half::f16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(), "{bits:#x}");
        }
    }
}
