//! Vector instructions on words and single floats.

use super::{Machine, Operation, Shape, binary, table, ternary, unary};
use crate::error::Outcome;
use crate::inst::{Class, Execute, Inst};
use crate::wave::{LANES, Register, VCC};

pub(super) fn lookup(name: &str) -> Option<Operation> {
    let word = word1(name).or_else(|| word2(name)).or_else(|| word3(name));
    if let Some(execute) = word {
        return Some(Operation::vector(execute));
    }
    if let Some(execute) = float1(name).or_else(|| float2(name)).or_else(|| float3(name)) {
        return Some(Operation { flushes: true, ..Operation::vector(execute) });
    }
    if let Some(execute) = transcendental(name) {
        let operation = Operation::new(Class::Transcendental, Shape::Result, execute);
        return Some(Operation { flushes: true, ..operation });
    }
    if let Some(execute) = updating_float(name) {
        return Some(Operation { flushes: true, ..Operation::vector(execute).shaped(Shape::Update) });
    }
    if let Some(execute) = updating(name) {
        return Some(Operation::vector(execute).shaped(Shape::Update));
    }
    let two = |execute: Execute| Some(Operation::vector(execute).shaped(Shape::TwoResults));
    match name {
        "v_nop" => Some(Operation::vector(super::nothing).shaped(Shape::NoResult)),
        "v_cndmask_b32" => Some(Operation::vector(select)),
        "v_mbcnt_lo_u32_b32" => Some(Operation::vector(count_below_low)),
        "v_mbcnt_hi_u32_b32" => Some(Operation::vector(count_below_high)),
        "v_bitop3_b32" | "v_bitop3_b16" => {
            Some(Operation::vector(truth_table).wide(if name.ends_with("16") { 16 } else { 32 }))
        }
        "v_add_co_u32" => two(|m, i| carry(m, i, |a, b, _| a + b)),
        "v_addc_co_u32" => two(|m, i| carry(m, i, |a, b, c| a + b + c)),
        "v_sub_co_u32" => two(|m, i| carry(m, i, |a, b, _| a.wrapping_sub(b))),
        "v_subrev_co_u32" => two(|m, i| carry(m, i, |a, b, _| b.wrapping_sub(a))),
        "v_subb_co_u32" => two(|m, i| carry(m, i, |a, b, c| a.wrapping_sub(b).wrapping_sub(c))),
        "v_subbrev_co_u32" => two(|m, i| carry(m, i, |a, b, c| b.wrapping_sub(a).wrapping_sub(c))),
        "v_div_scale_f32" => two(divide_scale),
        "v_div_fmas_f32" => Some(Operation::vector(divide_fused)),
        "v_swap_b32" => Some(Operation::vector(swap).shaped(Shape::Swap)),
        _ => None,
    }
}

fn word1(name: &str) -> Option<Execute> {
    table!(name, unary;
        "v_mov_b32" | "v_accvgpr_read_b32" | "v_accvgpr_write_b32" | "v_accvgpr_mov_b32"
            | "v_accvgpr_read" | "v_accvgpr_write" => |a| a,
        "v_not_b32" => |a| !a,
        "v_bfrev_b32" => |a| a.reverse_bits(),
        "v_ffbh_u32" => |a| if a == 0 { u32::MAX } else { a.leading_zeros() },
        "v_ffbl_b32" => |a| if a == 0 { u32::MAX } else { a.trailing_zeros() },
        "v_ffbh_i32" => |a| {
            let other = if (a as i32) < 0 { !a } else { a };
            if other == 0 { u32::MAX } else { other.leading_zeros() }
        },
        "v_sat_pk_u8_i16" => |a| {
            let clamp = |half: u32| (half as u16 as i16).clamp(0, 255) as u32;
            clamp(a) | clamp(a >> 16) << 8
        },
        "v_frexp_exp_i32_f32" => |a| frexp(f32::from_bits(a)).1 as u32,
        "v_prng_b32" => |a| a << 1 ^ if a >> 31 == 1 { 197 } else { 0 },
    )
}

fn word2(name: &str) -> Option<Execute> {
    table!(name, binary;
        "v_add_u32" => |a, b| a.wrapping_add(b),
        "v_sub_u32" => |a, b| a.wrapping_sub(b),
        "v_subrev_u32" => |a, b| b.wrapping_sub(a),
        "v_add_i32" => |a, b| a.wrapping_add(b),
        "v_sub_i32" => |a, b| a.wrapping_sub(b),
        "v_mul_lo_u32" => |a, b| a.wrapping_mul(b),
        "v_mul_hi_u32" => |a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32,
        "v_mul_hi_i32" => |a, b| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32,
        "v_mul_u32_u24" => |a, b| unsigned24(a).wrapping_mul(unsigned24(b)),
        "v_mul_i32_i24" => |a, b| signed24(a).wrapping_mul(signed24(b)) as u32,
        "v_mul_hi_u32_u24" => |a, b| ((u64::from(unsigned24(a)) * u64::from(unsigned24(b))) >> 32) as u32,
        "v_mul_hi_i32_i24" => |a, b| ((i64::from(signed24(a)) * i64::from(signed24(b))) >> 32) as u32,
        "v_and_b32" => |a, b| a & b,
        "v_or_b32" => |a, b| a | b,
        "v_xor_b32" => |a, b| a ^ b,
        "v_xnor_b32" => |a, b| !(a ^ b),
        "v_lshlrev_b32" => |a, b| b << (a & 31),
        "v_lshrrev_b32" => |a, b| b >> (a & 31),
        "v_ashrrev_i32" => |a, b| (b as i32 >> (a & 31)) as u32,
        "v_min_u32" => |a, b| a.min(b),
        "v_max_u32" => |a, b| a.max(b),
        "v_min_i32" => |a, b| (a as i32).min(b as i32) as u32,
        "v_max_i32" => |a, b| (a as i32).max(b as i32) as u32,
        "v_bcnt_u32_b32" => |a, b| a.count_ones().wrapping_add(b),
        "v_bfm_b32" => |a, b| ((1u32 << (a & 31)) - 1) << (b & 31),
        "v_add_u16" => |a, b| u32::from((a as u16).wrapping_add(b as u16)),
        "v_sub_u16" => |a, b| u32::from((a as u16).wrapping_sub(b as u16)),
        "v_subrev_u16" => |a, b| u32::from((b as u16).wrapping_sub(a as u16)),
        "v_add_i16" => |a, b| u32::from((a as u16).wrapping_add(b as u16)),
        "v_sub_i16" => |a, b| u32::from((a as u16).wrapping_sub(b as u16)),
        "v_mul_lo_u16" => |a, b| u32::from((a as u16).wrapping_mul(b as u16)),
        "v_min_u16" => |a, b| u32::from((a as u16).min(b as u16)),
        "v_max_u16" => |a, b| u32::from((a as u16).max(b as u16)),
        "v_min_i16" => |a, b| u32::from((a as i16).min(b as i16) as u16),
        "v_max_i16" => |a, b| u32::from((a as i16).max(b as i16) as u16),
        "v_lshlrev_b16" => |a, b| u32::from((b as u16) << (a & 15)),
        "v_lshrrev_b16" => |a, b| u32::from((b as u16) >> (a & 15)),
        "v_ashrrev_i16" => |a, b| u32::from((b as i16 >> (a & 15)) as u16),
        "v_pack_b32_f16" => |a, b| a & 0xffff | b << 16,
    )
}

fn word3(name: &str) -> Option<Execute> {
    table!(name, ternary;
        "v_add3_u32" => |a, b, c| a.wrapping_add(b).wrapping_add(c),
        "v_lshl_add_u32" => |a, b, c| (a << (b & 31)).wrapping_add(c),
        "v_add_lshl_u32" => |a, b, c| a.wrapping_add(b) << (c & 31),
        "v_lshl_or_b32" => |a, b, c| a << (b & 31) | c,
        "v_and_or_b32" => |a, b, c| a & b | c,
        "v_or3_b32" => |a, b, c| a | b | c,
        "v_xad_u32" => |a, b, c| (a ^ b).wrapping_add(c),
        "v_mad_u32_u24" => |a, b, c| unsigned24(a).wrapping_mul(unsigned24(b)).wrapping_add(c),
        "v_mad_i32_i24" => |a, b, c| (signed24(a).wrapping_mul(signed24(b)) as u32).wrapping_add(c),
        "v_mad_u32_u16" => |a, b, c| ((a & 0xffff) * (b & 0xffff)).wrapping_add(c),
        "v_mad_i32_i16" => |a, b, c| (i32::from(a as i16) * i32::from(b as i16)).wrapping_add(c as i32) as u32,
        "v_mad_u16" | "v_mad_i16" | "v_mad_legacy_u16" => |a, b, c| {
            u32::from((a as u16).wrapping_mul(b as u16).wrapping_add(c as u16))
        },
        "v_bfe_u32" => |a, b, c| bit_field(a, b, c & 31),
        "v_bfe_i32" => |a, b, c| sign_extend(bit_field(a, b, c & 31), c & 31),
        "v_bfi_b32" => |a, b, c| a & b | !a & c,
        "v_alignbit_b32" => |a, b, c| ((u64::from(a) << 32 | u64::from(b)) >> (c & 31)) as u32,
        "v_alignbyte_b32" => |a, b, c| ((u64::from(a) << 32 | u64::from(b)) >> (8 * (c & 3))) as u32,
        "v_perm_b32" => permute_bytes,
        "v_min3_u32" => |a, b, c| a.min(b).min(c),
        "v_max3_u32" => |a, b, c| a.max(b).max(c),
        "v_med3_u32" => |a, b, c| a.max(b).min(a.min(b).max(c)),
        "v_min3_i32" => |a, b, c| (a as i32).min(b as i32).min(c as i32) as u32,
        "v_max3_i32" => |a, b, c| (a as i32).max(b as i32).max(c as i32) as u32,
        "v_med3_i32" => |a, b, c| {
            let (a, b, c) = (a as i32, b as i32, c as i32);
            a.max(b).min(a.min(b).max(c)) as u32
        },
        "v_sad_u8" => |a, b, c| {
            (0..4).fold(c, |sum, byte| sum.wrapping_add(u32::from((a >> (8 * byte)) as u8).abs_diff(u32::from((b >> (8 * byte)) as u8))))
        },
        "v_min3_u16" => |a, b, c| u32::from((a as u16).min(b as u16).min(c as u16)),
        "v_max3_u16" => |a, b, c| u32::from((a as u16).max(b as u16).max(c as u16)),
        "v_med3_u16" => |a, b, c| {
            let (a, b, c) = (a as u16, b as u16, c as u16);
            u32::from(a.max(b).min(a.min(b).max(c)))
        },
        "v_min3_i16" => |a, b, c| u32::from((a as i16).min(b as i16).min(c as i16) as u16),
        "v_max3_i16" => |a, b, c| u32::from((a as i16).max(b as i16).max(c as i16) as u16),
        "v_med3_i16" => |a, b, c| {
            let (a, b, c) = (a as i16, b as i16, c as i16);
            u32::from(a.max(b).min(a.min(b).max(c)) as u16)
        },
        "v_lerp_u8" => |a, b, c| (0..4).fold(0, |bytes, at| {
            let byte = |word: u32| word >> (8 * at) & 255;
            bytes | ((byte(a) + byte(b) + (byte(c) & 1)) >> 1) << (8 * at)
        }),
        "v_sad_u16" => |a, b, c| {
            let half = |at: u32| ((a >> at) as u16).abs_diff((b >> at) as u16);
            c.wrapping_add(u32::from(half(0))).wrapping_add(u32::from(half(16)))
        },
        "v_sad_u32" => |a, b, c| a.abs_diff(b).wrapping_add(c),
        "v_cvt_pk_u8_f32" => |a, b, c| {
            let shift = 8 * (b & 3);
            c & !(255 << shift) | u32::from(f32::from_bits(a).round_ties_even() as u8) << shift
        },
    )
}

fn float1(name: &str) -> Option<Execute> {
    table!(name, single1;
        "v_floor_f32" => f32::floor,
        "v_ceil_f32" => f32::ceil,
        "v_trunc_f32" => f32::trunc,
        "v_rndne_f32" => f32::round_ties_even,
        "v_fract_f32" => |a: f32| (a - a.floor()).min(f32::from_bits(0x3f7f_ffff)),
        "v_frexp_mant_f32" => |a| frexp(a).0,
    )
}

fn float2(name: &str) -> Option<Execute> {
    table!(name, single2;
        "v_add_f32" => |a, b| a + b,
        "v_sub_f32" => |a, b| a - b,
        "v_subrev_f32" => |a, b| b - a,
        "v_mul_f32" => |a, b| a * b,
        "v_mul_legacy_f32" => |a, b| if a == 0.0 || b == 0.0 { 0.0 } else { a * b },
        "v_max_f32" => maximum,
        "v_min_f32" => minimum,
    )
}

fn float3(name: &str) -> Option<Execute> {
    table!(name, single3;
        "v_fma_f32" | "v_mad_f32" | "v_fmamk_f32" | "v_madmk_f32" | "v_fmaak_f32" | "v_madak_f32" => f32::mul_add,
        "v_max3_f32" => |a, b, c| maximum(maximum(a, b), c),
        "v_min3_f32" => |a, b, c| minimum(minimum(a, b), c),
        "v_med3_f32" => |a: f32, b: f32, c: f32| {
            if a.is_nan() || b.is_nan() || c.is_nan() {
                minimum(minimum(a, b), c)
            } else {
                maximum(minimum(maximum(a, b), c), minimum(a, b))
            }
        },
        "v_maximum3_f32" => |a, b, c| propagate(a, b, c, maximum),
        "v_minimum3_f32" => |a, b, c| propagate(a, b, c, minimum),
        "v_div_fixup_f32" => divide_fixup,
    )
}

fn transcendental(name: &str) -> Option<Execute> {
    // Computed in double precision; the hardware's results are within one unit in the last place of these.
    table!(name, single1;
        "v_exp_f32" => |a| f64::from(a).exp2() as f32,
        "v_log_f32" => |a| f64::from(a).log2() as f32,
        "v_rcp_f32" | "v_rcp_iflag_f32" => |a| 1.0 / a,
        "v_rsq_f32" => |a| (1.0 / f64::from(a).sqrt()) as f32,
        "v_sqrt_f32" => f32::sqrt,
        "v_sin_f32" => |a| (f64::from(a) * std::f64::consts::TAU).sin() as f32,
        "v_cos_f32" => |a| (f64::from(a) * std::f64::consts::TAU).cos() as f32,
    )
}

/// Destination times or plus a product.
fn updating_float(name: &str) -> Option<Execute> {
    table!(name, update;
        "v_fmac_f32" | "v_mac_f32" => f32::mul_add,
    )
}

fn updating(name: &str) -> Option<Execute> {
    table!(name, update_words;
        "v_dot2c_i32_i16" => |a, b, c| {
            let product = |at: u32| i32::from((a >> at) as i16).wrapping_mul(i32::from((b >> at) as i16));
            c.wrapping_add(product(0) as u32).wrapping_add(product(16) as u32)
        },
        "v_dot4c_i32_i8" => super::packed::dot4_signed,
        "v_dot2c_f32_f16" => super::packed::dot2_half,
        "v_dot2c_f32_bf16" => super::packed::dot2_brain,
    )
}

fn single1(m: &mut Machine<'_>, i: &Inst, f: impl Fn(f32) -> f32) {
    let mut x = [0; LANES];
    let a = m.wave.source(i, 1, 0, &mut x);
    let mut result: Register = std::array::from_fn(|lane| f(f32::from_bits(a[lane])).to_bits());
    m.wave.write_float(i, 0, &mut result);
}

fn single2(m: &mut Machine<'_>, i: &Inst, f: impl Fn(f32, f32) -> f32) {
    let (mut x, mut y) = ([0; LANES], [0; LANES]);
    let a = m.wave.source(i, 1, 0, &mut x);
    let b = m.wave.source(i, 2, 0, &mut y);
    let mut result: Register =
        std::array::from_fn(|lane| f(f32::from_bits(a[lane]), f32::from_bits(b[lane])).to_bits());
    m.wave.write_float(i, 0, &mut result);
}

fn single3(m: &mut Machine<'_>, i: &Inst, f: impl Fn(f32, f32, f32) -> f32) {
    let (mut x, mut y, mut z) = ([0; LANES], [0; LANES], [0; LANES]);
    let a = m.wave.source(i, 1, 0, &mut x);
    let b = m.wave.source(i, 2, 0, &mut y);
    let c = m.wave.source(i, 3, 0, &mut z);
    let mut result: Register = std::array::from_fn(|lane| {
        f(f32::from_bits(a[lane]), f32::from_bits(b[lane]), f32::from_bits(c[lane])).to_bits()
    });
    m.wave.write_float(i, 0, &mut result);
}

fn update(m: &mut Machine<'_>, i: &Inst, f: impl Fn(f32, f32, f32) -> f32) {
    let (mut x, mut y, mut z) = ([0; LANES], [0; LANES], [0; LANES]);
    let a = m.wave.source(i, 1, 0, &mut x);
    let b = m.wave.source(i, 2, 0, &mut y);
    let c = m.wave.raw(&i.operands[0], 0, &mut z);
    let mut result: Register = std::array::from_fn(|lane| {
        f(f32::from_bits(a[lane]), f32::from_bits(b[lane]), f32::from_bits(c[lane])).to_bits()
    });
    m.wave.write_float(i, 0, &mut result);
}

fn update_words(m: &mut Machine<'_>, i: &Inst, f: impl Fn(u32, u32, u32) -> u32) {
    let (mut x, mut y, mut z) = ([0; LANES], [0; LANES], [0; LANES]);
    let a = m.wave.source(i, 1, 0, &mut x);
    let b = m.wave.source(i, 2, 0, &mut y);
    let c = m.wave.raw(&i.operands[0], 0, &mut z);
    let result: Register = std::array::from_fn(|lane| f(a[lane], b[lane], c[lane]));
    m.wave.write(i, 0, 0, &result);
}

fn select(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let mask = if i.operands[3].is_some() { m.wave.uniform64(&i.operands[3]) } else { m.wave.scalar64(VCC) };
    let (mut x, mut y) = ([0; LANES], [0; LANES]);
    let a = m.wave.source(i, 1, 0, &mut x);
    let b = m.wave.source(i, 2, 0, &mut y);
    let result: Register = std::array::from_fn(|lane| if mask >> lane & 1 == 1 { b[lane] } else { a[lane] });
    m.wave.write(i, 0, 0, &result);
    Ok(())
}

fn count_below_low(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    count_below(m, i, |lane| if lane >= 32 { u32::MAX } else { (1 << lane) - 1 });
    Ok(())
}

fn count_below_high(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    count_below(m, i, |lane| if lane < 32 { 0 } else { (1 << (lane - 32)) - 1 });
    Ok(())
}

fn count_below(m: &mut Machine<'_>, i: &Inst, below: impl Fn(usize) -> u32) {
    let (mut x, mut y) = ([0; LANES], [0; LANES]);
    let a = m.wave.source(i, 1, 0, &mut x);
    let b = m.wave.source(i, 2, 0, &mut y);
    let result: Register =
        std::array::from_fn(|lane| (a[lane] & below(lane)).count_ones().wrapping_add(b[lane]));
    m.wave.write(i, 0, 0, &result);
}

fn truth_table(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let table = i.modifiers.bitop3;
    let keep = if i.width == 16 { 0xffff } else { u32::MAX };
    ternary(m, i, |a, b, c| {
        let mut result = 0;
        for term in (0..8).filter(|term| table >> term & 1 == 1) {
            let pick = |word: u32, bit: u32| if term >> bit & 1 == 1 { word } else { !word };
            result |= pick(a, 2) & pick(b, 1) & pick(c, 0);
        }
        result & keep
    });
    Ok(())
}

/// Adds or subtracts with a carry mask in and out; the carry is bit 32 of the result.
fn carry(m: &mut Machine<'_>, i: &Inst, f: impl Fn(u64, u64, u64) -> u64) -> Outcome {
    let into = if i.operands[4].is_some() { m.wave.uniform64(&i.operands[4]) } else { 0 };
    let (mut x, mut y) = ([0; LANES], [0; LANES]);
    let a = m.wave.source(i, 2, 0, &mut x);
    let b = m.wave.source(i, 3, 0, &mut y);
    let mut out = 0;
    let result: Register = std::array::from_fn(|lane| {
        let sum = f(u64::from(a[lane]), u64::from(b[lane]), into >> lane & 1);
        out |= (sum >> 32 & 1) << lane;
        sum as u32
    });
    m.wave.write(i, 0, 0, &result);
    m.wave.write_mask(&i.operands[1], out);
    Ok(())
}

fn swap(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let (mut x, mut y) = ([0; LANES], [0; LANES]);
    let (a, b) = (*m.wave.raw(&i.operands[0], 0, &mut x), *m.wave.raw(&i.operands[1], 0, &mut y));
    m.wave.write(i, 0, 0, &b);
    m.wave.write(i, 1, 0, &a);
    Ok(())
}

fn exponent(value: f32) -> i32 {
    (value.to_bits() >> 23 & 255) as i32
}

fn is_denormal(value: f32) -> bool {
    value != 0.0 && exponent(value) == 0
}

/// Scales an operand of a division so that the steps after it neither overflow nor lose denormals.
fn divide_scale(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let (mut x, mut y, mut z) = ([0; LANES], [0; LANES], [0; LANES]);
    let value = m.wave.source(i, 2, 0, &mut x);
    let denominator = m.wave.source(i, 3, 0, &mut y);
    let numerator = m.wave.source(i, 4, 0, &mut z);
    let up = f32::from_bits((127 + 64) << 23);
    let mut mask = 0u64;
    let result: Register = std::array::from_fn(|lane| {
        let [v, d, n] = [value[lane], denominator[lane], numerator[lane]].map(f32::from_bits);
        let scaled = v * up;
        let quotient_denormal = is_denormal((f64::from(n) / f64::from(d)) as f32);
        let mut flag = |set: bool| mask |= u64::from(set) << lane;
        let result = if n == 0.0 || d == 0.0 {
            f32::NAN
        } else if exponent(n) - exponent(d) >= 96 {
            flag(true);
            if v.to_bits() == d.to_bits() { scaled } else { v }
        } else if is_denormal(d) {
            scaled
        } else if quotient_denormal {
            flag(true);
            if v.to_bits() == n.to_bits() { scaled } else { v }
        } else if exponent(n) <= 23 {
            scaled
        } else {
            v
        };
        result.to_bits()
    });
    m.wave.write(i, 0, 0, &result);
    m.wave.write_mask(&i.operands[1], mask);
    Ok(())
}

/// The last multiply-add of a division, undoing the scaling in lanes of VCC.
fn divide_fused(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let mask = m.wave.scalar64(VCC);
    let (mut x, mut y, mut z) = ([0; LANES], [0; LANES], [0; LANES]);
    let a = m.wave.source(i, 1, 0, &mut x);
    let b = m.wave.source(i, 2, 0, &mut y);
    let c = m.wave.source(i, 3, 0, &mut z);
    let mut result: Register = std::array::from_fn(|lane| {
        let [a, b, c] = [a[lane], b[lane], c[lane]].map(f32::from_bits);
        if mask >> lane & 1 == 0 {
            return a.mul_add(b, c).to_bits();
        }
        // The scale is a power of two, so one rounding at the end is what a wide fused unit gives.
        let scale = if exponent(c) > 127 { 64 } else { -64 };
        (((f64::from(a) * f64::from(b) + f64::from(c)) * 2f64.powi(scale)) as f32).to_bits()
    });
    m.wave.write_float(i, 0, &mut result);
    Ok(())
}

/// Special cases of a division: quotient, denominator, numerator.
fn divide_fixup(quotient: f32, denominator: f32, numerator: f32) -> f32 {
    let sign = (denominator.to_bits() ^ numerator.to_bits()) & 0x8000_0000;
    let signed = |magnitude: f32| f32::from_bits(magnitude.abs().to_bits() | sign);
    let invalid =
        numerator == 0.0 && denominator == 0.0 || numerator.is_infinite() && denominator.is_infinite();
    let vanishes = exponent(numerator) - exponent(denominator) < -150;
    if numerator.is_nan() || denominator.is_nan() || invalid {
        f32::NAN
    } else if denominator == 0.0 || numerator.is_infinite() {
        signed(f32::INFINITY)
    } else if denominator.is_infinite() || numerator == 0.0 || vanishes {
        signed(0.0)
    } else if quotient.is_nan() {
        // The steps before lost an overflow.
        signed(f32::INFINITY)
    } else {
        signed(quotient)
    }
}

pub(super) fn maximum(a: f32, b: f32) -> f32 {
    if a.is_nan() {
        b
    } else if b.is_nan() || a > b || (a == b && a.is_sign_positive()) {
        a
    } else {
        b
    }
}

pub(super) fn minimum(a: f32, b: f32) -> f32 {
    if a.is_nan() {
        b
    } else if b.is_nan() || a < b || (a == b && a.is_sign_negative()) {
        a
    } else {
        b
    }
}

fn propagate(a: f32, b: f32, c: f32, f: fn(f32, f32) -> f32) -> f32 {
    if a.is_nan() || b.is_nan() || c.is_nan() { f32::NAN } else { f(f(a, b), c) }
}

/// Mantissa in [0.5, 1) and exponent, as `frexp` gives them.
fn frexp(value: f32) -> (f32, i32) {
    if value == 0.0 || !value.is_finite() {
        return (value, 0);
    }
    let wide = f64::from(value);
    let exponent = (wide.to_bits() >> 52 & 2047) as i32 - 1022;
    ((wide * 2f64.powi(-exponent)) as f32, exponent)
}

fn unsigned24(word: u32) -> u32 {
    word & 0xff_ffff
}

fn signed24(word: u32) -> i32 {
    (word << 8) as i32 >> 8
}

fn bit_field(word: u32, offset: u32, width: u32) -> u32 {
    word >> (offset & 31) & ((1 << width) - 1)
}

fn sign_extend(field: u32, width: u32) -> u32 {
    if width == 0 { 0 } else { ((field << (32 - width)) as i32 >> (32 - width)) as u32 }
}

/// Picks each byte of the result from the eight bytes of `a` (upper) and `b` (lower), or a constant.
fn permute_bytes(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = u64::from(a) << 32 | u64::from(b);
    (0..4).fold(0, |result, at| {
        let pick = selector >> (8 * at) & 255;
        let byte = match pick {
            0..=7 => (bytes >> (8 * pick)) as u8,
            8..=11 => {
                if bytes >> (16 * (pick - 8) + 15) & 1 == 1 {
                    0xff
                } else {
                    0
                }
            }
            12 => 0,
            _ => 0xff,
        };
        result | u32::from(byte) << (8 * at)
    })
}
