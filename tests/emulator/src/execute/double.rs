//! Vector instructions on 64-bit values: double floats and long integers.

use super::{Machine, Operation, Shape, long, table, write_long};
use crate::error::Outcome;
use crate::inst::{Execute, Inst};
use crate::wave::{LANES, VCC};

pub(super) fn lookup(name: &str) -> Option<Operation> {
    if let Some(execute) = floats(name).or_else(|| integers(name)) {
        return Some(Operation::vector(execute));
    }
    let two = |execute: Execute| Some(Operation::vector(execute).shaped(Shape::TwoResults));
    match name {
        "v_fmac_f64" => Some(Operation::vector(multiply_add_to).shaped(Shape::Update)),
        "v_mad_u64_u32" => two(|m, i| multiply_wide(m, i, |a, b| i128::from(a) * i128::from(b), u64_as_wide)),
        "v_mad_i64_i32" => {
            two(|m, i| multiply_wide(m, i, |a, b| i128::from(a as i32) * i128::from(b as i32), i64_as_wide))
        }
        "v_div_scale_f64" => two(divide_scale),
        "v_div_fmas_f64" => Some(Operation::vector(divide_fused)),
        "v_ldexp_f64" => Some(Operation::vector(load_exponent)),
        "v_frexp_exp_i32_f64" => Some(Operation::vector(|m, i| {
            let value = long(m, i, 1, 0).map(|a| frexp(f64::from_bits(a)).1 as u32);
            m.wave.write(i, 0, 0, &value);
            Ok(())
        })),
        _ => None,
    }
}

fn u64_as_wide(value: u64) -> i128 {
    i128::from(value)
}

fn i64_as_wide(value: u64) -> i128 {
    i128::from(value as i64)
}

fn floats(name: &str) -> Option<Execute> {
    let ones: Option<Execute> = table!(name, double1;
        "v_floor_f64" => f64::floor,
        "v_ceil_f64" => f64::ceil,
        "v_trunc_f64" => f64::trunc,
        "v_rndne_f64" => f64::round_ties_even,
        "v_fract_f64" => |a: f64| (a - a.floor()).min(f64::from_bits(0x3fef_ffff_ffff_ffff)),
        "v_rcp_f64" => |a| 1.0 / a,
        "v_rsq_f64" => |a: f64| 1.0 / a.sqrt(),
        "v_sqrt_f64" => f64::sqrt,
        "v_frexp_mant_f64" => |a| frexp(a).0,
    );
    let twos = || -> Option<Execute> {
        table!(name, double2;
            "v_add_f64" => |a, b| a + b,
            "v_mul_f64" => |a, b| a * b,
            "v_max_f64" => f64::max,
            "v_min_f64" => f64::min,
        )
    };
    let threes = || -> Option<Execute> {
        table!(name, double3;
            "v_fma_f64" => f64::mul_add,
            "v_div_fixup_f64" => divide_fixup,
        )
    };
    ones.or_else(twos).or_else(threes)
}

fn integers(name: &str) -> Option<Execute> {
    let shifts: Option<Execute> = table!(name, shift;
        "v_lshlrev_b64" => |a, b| b << (a & 63),
        "v_lshrrev_b64" => |a, b| b >> (a & 63),
        "v_ashrrev_i64" => |a, b| (b as i64 >> (a & 63)) as u64,
    );
    shifts.or(match name {
        "v_mov_b64" => Some(|m, i| {
            let value = long(m, i, 1, 0);
            write_long(m, i, 0, &value);
            Ok(())
        }),
        "v_lshl_add_u64" => Some(|m, i| {
            let (a, c) = (long(m, i, 1, 0), long(m, i, 3, 0));
            let mut x = [0; LANES];
            let b = m.wave.source(i, 2, 0, &mut x);
            let value = std::array::from_fn(|lane| (a[lane] << (b[lane] & 7)).wrapping_add(c[lane]));
            write_long(m, i, 0, &value);
            Ok(())
        }),
        _ => None,
    })
}

/// Special cases of a division: quotient, denominator, numerator.
fn divide_fixup(quotient: f64, denominator: f64, numerator: f64) -> f64 {
    let special = |value: f64| value == 0.0 || !value.is_finite();
    let sign = if (denominator.is_sign_negative()) ^ numerator.is_sign_negative() { -1.0 } else { 1.0 };
    if special(denominator) || special(numerator) {
        numerator / denominator
    } else if exponent(numerator) - exponent(denominator) < -1075 {
        0.0 * sign
    } else if quotient.is_nan() {
        // The steps before lost an overflow.
        f64::INFINITY * sign
    } else {
        quotient.abs() * sign
    }
}

fn write_double(m: &mut Machine<'_>, i: &Inst, value: [f64; LANES]) {
    let scale = [1.0, 2.0, 4.0, 0.5][usize::from(i.modifiers.output)];
    let bits = value.map(|value| {
        let scaled = value * scale;
        if i.modifiers.clamp { if scaled > 0.0 { scaled.min(1.0) } else { 0.0 } } else { scaled }.to_bits()
    });
    write_long(m, i, 0, &bits);
}

fn doubles(m: &Machine<'_>, i: &Inst, index: usize) -> [f64; LANES] {
    long(m, i, index, 0).map(f64::from_bits)
}

fn double1(m: &mut Machine<'_>, i: &Inst, f: impl Fn(f64) -> f64) {
    let a = doubles(m, i, 1);
    write_double(m, i, a.map(f));
}

fn double2(m: &mut Machine<'_>, i: &Inst, f: impl Fn(f64, f64) -> f64) {
    let (a, b) = (doubles(m, i, 1), doubles(m, i, 2));
    write_double(m, i, std::array::from_fn(|lane| f(a[lane], b[lane])));
}

fn double3(m: &mut Machine<'_>, i: &Inst, f: impl Fn(f64, f64, f64) -> f64) {
    let (a, b, c) = (doubles(m, i, 1), doubles(m, i, 2), doubles(m, i, 3));
    write_double(m, i, std::array::from_fn(|lane| f(a[lane], b[lane], c[lane])));
}

/// The shift is a word, the value a long integer.
fn shift(m: &mut Machine<'_>, i: &Inst, f: impl Fn(u32, u64) -> u64) {
    let mut x = [0; LANES];
    let a = *m.wave.source(i, 1, 0, &mut x);
    let b = long(m, i, 2, 0);
    write_long(m, i, 0, &std::array::from_fn(|lane| f(a[lane], b[lane])));
}

fn multiply_add_to(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let (a, b) = (doubles(m, i, 1), doubles(m, i, 2));
    let c = doubles(m, i, 0);
    write_double(m, i, std::array::from_fn(|lane| a[lane].mul_add(b[lane], c[lane])));
    Ok(())
}

fn multiply_wide(
    m: &mut Machine<'_>,
    i: &Inst,
    product: impl Fn(u32, u32) -> i128,
    widen: impl Fn(u64) -> i128,
) -> Outcome {
    let (mut x, mut y) = ([0; LANES], [0; LANES]);
    let (a, b) = (*m.wave.source(i, 2, 0, &mut x), *m.wave.source(i, 3, 0, &mut y));
    let c = long(m, i, 4, 0);
    let mut overflow = 0u64;
    let value = std::array::from_fn(|lane| {
        let sum = product(a[lane], b[lane]) + widen(c[lane]);
        overflow |= u64::from(widen(sum as u64) != sum) << lane;
        sum as u64
    });
    write_long(m, i, 0, &value);
    m.wave.write_mask(&i.operands[1], overflow);
    Ok(())
}

fn load_exponent(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let a = doubles(m, i, 1);
    let mut x = [0; LANES];
    let b = *m.wave.source(i, 2, 0, &mut x);
    write_double(m, i, std::array::from_fn(|lane| scale(a[lane], b[lane] as i32)));
    Ok(())
}

/// `value` times two to the power; in two steps, since the power alone may overflow.
pub(super) fn scale(value: f64, power: i32) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let power = power.clamp(-2200, 2200);
    let first = power / 2;
    let second = power - first;
    let part = |power: i32| 2f64.powi(power / 2) * 2f64.powi(power - power / 2);
    value * part(first) * part(second)
}

fn frexp(value: f64) -> (f64, i32) {
    if value == 0.0 || !value.is_finite() {
        return (value, 0);
    }
    let normal = if value.is_subnormal() { value * 2f64.powi(64) } else { value };
    let shift = if value.is_subnormal() { 64 } else { 0 };
    let exponent = (normal.to_bits() >> 52 & 2047) as i32 - 1022;
    (f64::from_bits(normal.to_bits() & !(2047 << 52) | 1022 << 52), exponent - shift)
}

fn exponent(value: f64) -> i32 {
    (value.to_bits() >> 52 & 2047) as i32
}

/// The steps of the single-precision one with the limits of doubles.
fn divide_scale(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let (value, denominator, numerator) = (doubles(m, i, 2), doubles(m, i, 3), doubles(m, i, 4));
    let mut mask = 0u64;
    let result = std::array::from_fn(|lane| {
        let (v, d, n) = (value[lane], denominator[lane], numerator[lane]);
        let scaled = scale(v, 128);
        let reciprocal_denormal = (1.0 / d).is_subnormal();
        let quotient_denormal = (n / d).is_subnormal();
        let mut flag = |set: bool| mask |= u64::from(set) << lane;
        let result = if n == 0.0 || d == 0.0 {
            f64::NAN
        } else if exponent(n) - exponent(d) >= 768 {
            flag(true);
            if v.to_bits() == d.to_bits() { scaled } else { v }
        } else if d.is_subnormal() {
            scaled
        } else if quotient_denormal {
            flag(true);
            if v.to_bits() == n.to_bits() { scaled } else { v }
        } else if reciprocal_denormal {
            scale(v, -128)
        } else if exponent(n) <= 53 {
            scaled
        } else {
            v
        };
        result.to_bits()
    });
    write_long(m, i, 0, &result);
    m.wave.write_mask(&i.operands[1], mask);
    Ok(())
}

fn divide_fused(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let mask = m.wave.scalar64(VCC);
    let (a, b, c) = (doubles(m, i, 1), doubles(m, i, 2), doubles(m, i, 3));
    let value = std::array::from_fn(|lane| {
        let fused = a[lane].mul_add(b[lane], c[lane]);
        let power = if exponent(c[lane]) > 1023 { 128 } else { -128 };
        if mask >> lane & 1 == 1 { scale(fused, power) } else { fused }
    });
    write_double(m, i, value);
    Ok(())
}
