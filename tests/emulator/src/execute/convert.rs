//! Conversions between number formats.

use super::{Machine, Operation, Shape, binary, long, table, unary, write_long};
use crate::error::Outcome;
use crate::float::{Format, bf8, fp8, half_to_single, single_to_brain, single_to_half};
use crate::inst::{Execute, Inst};
use crate::wave::{LANES, Register};

pub(super) fn lookup(name: &str) -> Option<Operation> {
    if let Some(execute) =
        words(name).or_else(|| pairs(name)).or_else(|| from_double(name)).or_else(|| to_double(name))
    {
        return Some(Operation { flushes: name.ends_with("_f32"), ..Operation::vector(execute) });
    }
    let update = |execute: Execute| Some(Operation::vector(execute).shaped(Shape::Update));
    match name {
        "v_ldexp_f32" => Some(Operation { flushes: false, ..Operation::vector(load_exponent) }),
        "v_ldexp_f16" => Some(Operation::vector(|m, i| {
            binary(m, i, |a, b| {
                let value = super::double::scale(f64::from(half_to_single(a as u16)), i32::from(b as i16));
                u32::from(half::f16::from_f64(value).to_bits())
            });
            Ok(())
        })),
        "v_cvt_f32_fp8" => Some(Operation::vector(|m, i| unpack(m, i, fp8(m.context.target)))),
        "v_cvt_f32_bf8" => Some(Operation::vector(|m, i| unpack(m, i, bf8(m.context.target)))),
        "v_cvt_pk_f32_fp8" => Some(Operation::vector(|m, i| unpack_pair(m, i, fp8(m.context.target)))),
        "v_cvt_pk_f32_bf8" => Some(Operation::vector(|m, i| unpack_pair(m, i, bf8(m.context.target)))),
        "v_cvt_pk_fp8_f32" => update(|m, i| pack_pair(m, i, fp8(m.context.target))),
        "v_cvt_pk_bf8_f32" => update(|m, i| pack_pair(m, i, bf8(m.context.target))),
        "v_cvt_sr_fp8_f32" => update(|m, i| pack_stochastic(m, i, fp8(m.context.target))),
        "v_cvt_sr_bf8_f32" => update(|m, i| pack_stochastic(m, i, bf8(m.context.target))),
        "v_cvt_sr_f16_f32" => update(|m, i| stochastic_half(m, i, 13, single_to_half)),
        "v_cvt_sr_bf16_f32" => update(|m, i| stochastic_half(m, i, 16, single_to_brain)),
        _ => None,
    }
}

fn single(word: u32) -> f32 {
    f32::from_bits(word)
}

fn words(name: &str) -> Option<Execute> {
    table!(name, unary;
        "v_cvt_f32_i32" => |a| (a as i32 as f32).to_bits(),
        "v_cvt_f32_u32" => |a| (a as f32).to_bits(),
        // Casts truncate, saturate, and give zero for NaN, as the instructions do.
        "v_cvt_i32_f32" => |a| single(a) as i32 as u32,
        "v_cvt_u32_f32" => |a| single(a) as u32,
        "v_cvt_rpi_i32_f32" => |a| (single(a) + 0.5).floor() as i32 as u32,
        "v_cvt_flr_i32_f32" => |a| single(a).floor() as i32 as u32,
        "v_cvt_f32_ubyte0" => |a| ((a & 255) as f32).to_bits(),
        "v_cvt_f32_ubyte1" => |a| ((a >> 8 & 255) as f32).to_bits(),
        "v_cvt_f32_ubyte2" => |a| ((a >> 16 & 255) as f32).to_bits(),
        "v_cvt_f32_ubyte3" => |a| ((a >> 24) as f32).to_bits(),
        "v_cvt_f16_f32" => |a| u32::from(single_to_half(single(a))),
        "v_cvt_f32_f16" => |a| half_to_single(a as u16).to_bits(),
        "v_cvt_f32_bf16" => |a| a << 16,
        "v_cvt_f16_u16" => |a| u32::from(single_to_half(f32::from(a as u16))),
        "v_cvt_f16_i16" => |a| u32::from(single_to_half(f32::from(a as i16))),
        "v_cvt_u16_f16" => |a| u32::from(half_to_single(a as u16) as u16),
        "v_cvt_i16_f16" => |a| u32::from(half_to_single(a as u16) as i16 as u16),
        "v_cvt_off_f32_i4" => |a| (((a << 28) as i32 >> 28) as f32 / 16.0).to_bits(),
        "v_frexp_exp_i16_f16" => |a| {
            let value = half_to_single(a as u16);
            let exponent = (f64::from(value).to_bits() >> 52 & 2047) as i32 - 1022;
            if value == 0.0 || !value.is_finite() { 0 } else { u32::from(exponent as u16) }
        },
        "v_frexp_mant_f16" => |a| {
            let value = half_to_single(a as u16);
            let exponent = (f64::from(value).to_bits() >> 52 & 2047) as i32 - 1022;
            if value == 0.0 || !value.is_finite() { a & 0xffff } else { u32::from(single_to_half(value * 2f32.powi(-exponent))) }
        },
    )
}

fn pairs(name: &str) -> Option<Execute> {
    table!(name, binary;
        "v_cvt_pk_bf16_f32" => |a, b| u32::from(single_to_brain(single(a))) | u32::from(single_to_brain(single(b))) << 16,
        "v_cvt_pk_f16_f32" => |a, b| u32::from(single_to_half(single(a))) | u32::from(single_to_half(single(b))) << 16,
        "v_cvt_pkrtz_f16_f32" => |a, b| u32::from(half_toward_zero(single(a))) | u32::from(half_toward_zero(single(b))) << 16,
        "v_cvt_pk_i16_i32" => |a, b| clamp_short(a) | clamp_short(b) << 16,
        "v_cvt_pk_u16_u32" => |a, b| a.min(0xffff) | b.min(0xffff) << 16,
        "v_cvt_pknorm_i16_f32" => |a, b| normalized(single(a)) | normalized(single(b)) << 16,
        "v_cvt_pknorm_u16_f32" => |a, b| normalized_unsigned(single(a)) | normalized_unsigned(single(b)) << 16,
    )
}

fn clamp_short(word: u32) -> u32 {
    u32::from((word as i32).clamp(-32768, 32767) as i16 as u16)
}

fn normalized(value: f32) -> u32 {
    u32::from((value.clamp(-1.0, 1.0) * 32767.0).round_ties_even() as i16 as u16)
}

fn normalized_unsigned(value: f32) -> u32 {
    u32::from((value.clamp(0.0, 1.0) * 65535.0).round_ties_even() as u16)
}

fn half_toward_zero(value: f32) -> u16 {
    let nearest = single_to_half(value);
    // An overflow stops at the largest finite value.
    if value.is_finite() && nearest & 0x7fff == 0x7c00 {
        return nearest & 0x8000 | 0x7bff;
    }
    if half_to_single(nearest).abs() > value.abs() { nearest - 1 } else { nearest }
}

fn from_double(name: &str) -> Option<Execute> {
    table!(name, narrow;
        "v_cvt_f32_f64" => |a| (a as f32).to_bits(),
        "v_cvt_i32_f64" => |a| a as i32 as u32,
        "v_cvt_u32_f64" => |a| a as u32,
    )
}

fn to_double(name: &str) -> Option<Execute> {
    table!(name, widen;
        "v_cvt_f64_f32" => |a| f64::from(single(a)),
        "v_cvt_f64_i32" => |a| f64::from(a as i32),
        "v_cvt_f64_u32" => f64::from,
    )
}

fn narrow(m: &mut Machine<'_>, i: &Inst, f: impl Fn(f64) -> u32) {
    let value = long(m, i, 1, 0).map(|bits| f(f64::from_bits(bits)));
    m.wave.write(i, 0, 0, &value);
}

fn widen(m: &mut Machine<'_>, i: &Inst, f: impl Fn(u32) -> f64) {
    let mut x = [0; LANES];
    let value = m.wave.source(i, 1, 0, &mut x).map(|word| f(word).to_bits());
    write_long(m, i, 0, &value);
}

fn load_exponent(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let (mut x, mut y) = ([0; LANES], [0; LANES]);
    let a = m.wave.source(i, 1, 0, &mut x);
    let b = m.wave.source(i, 2, 0, &mut y);
    let mut result: Register = std::array::from_fn(|lane| {
        (super::double::scale(f64::from(single(a[lane])), b[lane] as i32) as f32).to_bits()
    });
    m.wave.write_float(i, 0, &mut result);
    Ok(())
}

/// The byte that `op_sel` picks, as a single.
fn unpack(m: &mut Machine<'_>, i: &Inst, format: Format) -> Outcome {
    let shift = 8 * u32::from(i.modifiers.op_sel & 3);
    unary(m, i, |a| format.decode((a >> shift) as u8).to_bits());
    Ok(())
}

/// The half word that `op_sel` picks, as two singles.
fn unpack_pair(m: &mut Machine<'_>, i: &Inst, format: Format) -> Outcome {
    let shift = 16 * u32::from(i.modifiers.op_sel & 1);
    let mut x = [0; LANES];
    let words = *m.wave.source(i, 1, 0, &mut x);
    for part in 0..2 {
        let value = words.map(|word| format.decode((word >> (shift + 8 * part)) as u8).to_bits());
        m.wave.write(i, 0, part as usize, &value);
    }
    Ok(())
}

/// Replaces the half of the destination that `op_sel` picks.
fn pack_pair(m: &mut Machine<'_>, i: &Inst, format: Format) -> Outcome {
    let shift = 16 * u32::from(i.modifiers.op_sel >> 3 & 1);
    let clamp = m.wave.mode.clamps_overflow();
    let (mut x, mut y, mut z) = ([0; LANES], [0; LANES], [0; LANES]);
    let a = m.wave.source(i, 1, 0, &mut x);
    let b = m.wave.source(i, 2, 0, &mut y);
    let old = m.wave.raw(&i.operands[0], 0, &mut z);
    let encode = |word: u32| u32::from(format.encode(single(word), clamp));
    let result: Register = std::array::from_fn(|lane| {
        let pair = encode(a[lane]) | encode(b[lane]) << 8;
        old[lane] & !(0xffff << shift) | pair << shift
    });
    m.wave.write(i, 0, 0, &result);
    Ok(())
}

/// Adds random bits below the kept ones and truncates, into the byte that `op_sel` picks.
fn pack_stochastic(m: &mut Machine<'_>, i: &Inst, format: Format) -> Outcome {
    let shift = 8 * u32::from(i.modifiers.op_sel >> 2 & 3);
    let clamp = m.wave.mode.clamps_overflow();
    let (mut x, mut y, mut z) = ([0; LANES], [0; LANES], [0; LANES]);
    let a = m.wave.source(i, 1, 0, &mut x);
    let random = m.wave.source(i, 2, 0, &mut y);
    let old = m.wave.raw(&i.operands[0], 0, &mut z);
    let result: Register = std::array::from_fn(|lane| {
        let byte = u32::from(format.encode_stochastic(single(a[lane]), clamp, random[lane]));
        old[lane] & !(255 << shift) | byte << shift
    });
    m.wave.write(i, 0, 0, &result);
    Ok(())
}

/// Adds random bits below the `dropped` ones and truncates, into the half that `op_sel` picks.
fn stochastic_half(m: &mut Machine<'_>, i: &Inst, dropped: u32, convert: fn(f32) -> u16) -> Outcome {
    let shift = 16 * u32::from(i.modifiers.op_sel >> 3 & 1);
    let below = (1u32 << dropped) - 1;
    let (mut x, mut y, mut z) = ([0; LANES], [0; LANES], [0; LANES]);
    let a = m.wave.source(i, 1, 0, &mut x);
    let random = m.wave.source(i, 2, 0, &mut y);
    let old = m.wave.raw(&i.operands[0], 0, &mut z);
    let result: Register = std::array::from_fn(|lane| {
        let finite = single(a[lane]).is_finite();
        let word =
            if finite { a[lane].wrapping_add(random[lane] >> (32 - dropped)) & !below } else { a[lane] };
        old[lane] & !(0xffff << shift) | u32::from(convert(single(word))) << shift
    });
    m.wave.write(i, 0, 0, &result);
    Ok(())
}
