//! Packed instructions (VOP3P): two halves, two integers of 16 bits or two single floats at once, dot products, and
//! multiply-adds that mix half and single floats.

use super::half::fused;
use super::vector::{maximum, minimum};
use super::{Machine, Operation, Shape, table};
use crate::error::Outcome;
use crate::float::{brain_to_single, half_to_single, single_to_half};
use crate::inst::{Execute, Inst};
use crate::wave::{LANES, Register, clamp};

pub(super) fn lookup(name: &str) -> Option<Operation> {
    let plain = halves(name).or_else(|| shorts(name)).or_else(|| singles(name)).or_else(|| dots(name));
    if let Some(execute) = plain {
        return Some(Operation::vector(execute));
    }
    Some(match name {
        "v_pk_mov_b32" => Operation::vector(move_pair),
        "v_fma_mix_f32" | "v_mad_mix_f32" => Operation::vector(mix_single),
        "v_fma_mixlo_f16" | "v_mad_mixlo_f16" => {
            Operation::vector(|m, i| mix_half(m, i, 0)).shaped(Shape::Update)
        }
        "v_fma_mixhi_f16" | "v_mad_mixhi_f16" => {
            Operation::vector(|m, i| mix_half(m, i, 16)).shaped(Shape::Update)
        }
        "v_pk_fmac_f16" => Operation::vector(multiply_add_to).shaped(Shape::Update),
        _ => return None,
    })
}

fn halves(name: &str) -> Option<Execute> {
    table!(name, half_pairs;
        "v_pk_add_f16" => |a, b, _| a + b,
        "v_pk_mul_f16" => |a, b, _| a * b,
        "v_pk_fma_f16" => fused,
        "v_pk_max_f16" => |a, b, _| maximum(a, b),
        "v_pk_min_f16" => |a, b, _| minimum(a, b),
        "v_pk_maximum3_f16" => |a: f32, b: f32, c: f32| {
            if a.is_nan() || b.is_nan() || c.is_nan() { f32::NAN } else { maximum(maximum(a, b), c) }
        },
        "v_pk_minimum3_f16" => |a: f32, b: f32, c: f32| {
            if a.is_nan() || b.is_nan() || c.is_nan() { f32::NAN } else { minimum(minimum(a, b), c) }
        },
    )
}

fn shorts(name: &str) -> Option<Execute> {
    table!(name, short_pairs;
        "v_pk_add_u16" | "v_pk_add_i16" => |a, b, _| a.wrapping_add(b),
        "v_pk_sub_u16" | "v_pk_sub_i16" => |a, b, _| a.wrapping_sub(b),
        "v_pk_mul_lo_u16" => |a, b, _| a.wrapping_mul(b),
        "v_pk_mad_u16" | "v_pk_mad_i16" => |a, b, c| a.wrapping_mul(b).wrapping_add(c),
        "v_pk_max_u16" => |a, b, _| a.max(b),
        "v_pk_min_u16" => |a, b, _| a.min(b),
        "v_pk_max_i16" => |a, b, _| (a as i16).max(b as i16) as u16,
        "v_pk_min_i16" => |a, b, _| (a as i16).min(b as i16) as u16,
        "v_pk_lshlrev_b16" => |a, b, _| b << (a & 15),
        "v_pk_lshrrev_b16" => |a, b, _| b >> (a & 15),
        "v_pk_ashrrev_i16" => |a, b, _| (b as i16 >> (a & 15)) as u16,
    )
}

fn singles(name: &str) -> Option<Execute> {
    table!(name, single_pairs;
        "v_pk_add_f32" => |a, b, _| a + b,
        "v_pk_mul_f32" => |a, b, _| a * b,
        "v_pk_fma_f32" => f32::mul_add,
    )
}

fn dots(name: &str) -> Option<Execute> {
    table!(name, dot;
        "v_dot2_f32_f16" => dot2_half,
        "v_dot2_f32_bf16" => dot2_brain,
        "v_dot4_i32_i8" => dot4_signed,
        "v_dot4_u32_u8" => |a, b, c| (0..4).fold(c, |sum, at| sum.wrapping_add((a >> (8 * at) & 255) * (b >> (8 * at) & 255))),
        "v_dot2_i32_i16" => |a, b, c| {
            let product = |at: u32| i32::from((a >> at) as i16).wrapping_mul(i32::from((b >> at) as i16));
            c.wrapping_add(product(0) as u32).wrapping_add(product(16) as u32)
        },
        "v_dot2_u32_u16" => |a, b, c| c.wrapping_add((a & 0xffff).wrapping_mul(b & 0xffff)).wrapping_add((a >> 16).wrapping_mul(b >> 16)),
        "v_dot8_i32_i4" => |a, b, c| (0..8).fold(c, |sum, at| {
            let nibble = |word: u32| (word >> (4 * at) << 28) as i32 >> 28;
            sum.wrapping_add((nibble(a) * nibble(b)) as u32)
        }),
        "v_dot8_u32_u4" => |a, b, c| (0..8).fold(c, |sum, at| sum.wrapping_add((a >> (4 * at) & 15) * (b >> (4 * at) & 15))),
    )
}

pub(super) fn dot2_half(a: u32, b: u32, c: u32) -> u32 {
    let product = |at: u32| half_to_single((a >> at) as u16) * half_to_single((b >> at) as u16);
    (f32::from_bits(c) + product(0) + product(16)).to_bits()
}

pub(super) fn dot2_brain(a: u32, b: u32, c: u32) -> u32 {
    let product = |at: u32| brain_to_single((a >> at) as u16) * brain_to_single((b >> at) as u16);
    (product(0) + product(16) + f32::from_bits(c)).to_bits()
}

pub(super) fn dot4_signed(a: u32, b: u32, c: u32) -> u32 {
    (0..4).fold(c, |sum, at| {
        let byte = |word: u32| i32::from((word >> (8 * at)) as i8);
        sum.wrapping_add((byte(a) * byte(b)) as u32)
    })
}

/// The half of source `index` (from 0) that result half `high` reads, and whether its sign flips.
fn pick(i: &Inst, index: usize, high: bool) -> (u32, bool) {
    let m = &i.modifiers;
    let (select, negate) = if high { (m.op_sel_hi, m.neg_hi) } else { (m.op_sel, m.neg_lo) };
    (16 * u32::from(select >> index & 1), negate >> index & 1 == 1)
}

/// Sources 1 to 3; a missing one is zero.
fn sources(m: &Machine<'_>, i: &Inst) -> [Register; 3] {
    std::array::from_fn(|index| {
        let mut x = [0; LANES];
        *m.wave.raw(&i.operands[index + 1], 0, &mut x)
    })
}

fn half_pairs(m: &mut Machine<'_>, i: &Inst, f: impl Fn(f32, f32, f32) -> f32) {
    let words = sources(m, i);
    let value = |lane: usize, high: bool| {
        let [a, b, c] = std::array::from_fn(|index| {
            let (shift, negate) = pick(i, index, high);
            let half = half_to_single((words[index][lane] >> shift) as u16);
            if negate { -half } else { half }
        });
        let result = f(a, b, c);
        u32::from(single_to_half(if i.modifiers.clamp { clamp(result) } else { result }))
    };
    let result: Register = std::array::from_fn(|lane| value(lane, false) | value(lane, true) << 16);
    m.wave.write(i, 0, 0, &result);
}

fn multiply_add_to(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let words = sources(m, i);
    let mut x = [0; LANES];
    let old = *m.wave.raw(&i.operands[0], 0, &mut x);
    let value = |lane: usize, shift: u32| {
        let half = |word: u32| half_to_single((word >> shift) as u16);
        u32::from(single_to_half(fused(half(words[0][lane]), half(words[1][lane]), half(old[lane])))) << shift
    };
    let result: Register = std::array::from_fn(|lane| value(lane, 0) | value(lane, 16));
    m.wave.write(i, 0, 0, &result);
    Ok(())
}

fn short_pairs(m: &mut Machine<'_>, i: &Inst, f: impl Fn(u16, u16, u16) -> u16) {
    let words = sources(m, i);
    let value = |lane: usize, high: bool| {
        let [a, b, c] = std::array::from_fn(|index| (words[index][lane] >> pick(i, index, high).0) as u16);
        u32::from(f(a, b, c))
    };
    let result: Register = std::array::from_fn(|lane| value(lane, false) | value(lane, true) << 16);
    m.wave.write(i, 0, 0, &result);
}

fn single_pairs(m: &mut Machine<'_>, i: &Inst, f: impl Fn(f32, f32, f32) -> f32) {
    let flush = m.wave.mode.flushes_single();
    let results: [Register; 2] = [false, true].map(|high| {
        let words: [Register; 3] = std::array::from_fn(|index| {
            let (shift, negate) = pick(i, index, high);
            let mut x = [0; LANES];
            let mut word = *m.wave.raw(&i.operands[index + 1], (shift / 16) as usize, &mut x);
            if flush {
                word.iter_mut().for_each(|word| *word = crate::wave::flush_denormal(*word));
            }
            if negate {
                word.iter_mut().for_each(|word| *word ^= 1 << 31);
            }
            word
        });
        std::array::from_fn(|lane| {
            let [a, b, c] = [0, 1, 2].map(|index| f32::from_bits(words[index][lane]));
            let result = f(a, b, c);
            let result = if i.modifiers.clamp { clamp(result) } else { result }.to_bits();
            if flush { crate::wave::flush_denormal(result) } else { result }
        })
    });
    m.wave.write(i, 0, 0, &results[0]);
    m.wave.write(i, 0, 1, &results[1]);
}

fn dot(m: &mut Machine<'_>, i: &Inst, f: impl Fn(u32, u32, u32) -> u32) {
    let words = sources(m, i);
    let result: Register = std::array::from_fn(|lane| f(words[0][lane], words[1][lane], words[2][lane]));
    m.wave.write(i, 0, 0, &result);
}

/// Each result word is a word of a source: `op_sel` picks which.
fn move_pair(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let results: [Register; 2] = std::array::from_fn(|index| {
        let mut x = [0; LANES];
        let part = usize::from(i.modifiers.op_sel >> index & 1);
        *m.wave.raw(&i.operands[index + 1], part, &mut x)
    });
    m.wave.write(i, 0, 0, &results[0]);
    m.wave.write(i, 0, 1, &results[1]);
    Ok(())
}

/// Multiply-add of sources that are single floats or halves, by `op_sel_hi`.
fn mixed(m: &Machine<'_>, i: &Inst) -> [f32; LANES] {
    let values: [[f32; LANES]; 3] = std::array::from_fn(|index| {
        let mut x = [0; LANES];
        let operand = &i.operands[index + 1];
        let word = m.wave.raw(operand, 0, &mut x);
        let is_half = i.modifiers.op_sel_hi >> index & 1 == 1;
        let shift = 16 * u32::from(i.modifiers.op_sel >> index & 1);
        word.map(|word| {
            let value = if is_half { half_to_single((word >> shift) as u16) } else { f32::from_bits(word) };
            let value = if operand.absolute { value.abs() } else { value };
            if operand.negate { -value } else { value }
        })
    });
    std::array::from_fn(|lane| {
        let value = values[0][lane].mul_add(values[1][lane], values[2][lane]);
        if i.modifiers.clamp { clamp(value) } else { value }
    })
}

fn mix_single(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let result = mixed(m, i).map(f32::to_bits);
    m.wave.write(i, 0, 0, &result);
    Ok(())
}

fn mix_half(m: &mut Machine<'_>, i: &Inst, shift: u32) -> Outcome {
    let value = mixed(m, i);
    let mut x = [0; LANES];
    let old = m.wave.raw(&i.operands[0], 0, &mut x);
    let result: Register = std::array::from_fn(|lane| {
        old[lane] & !(0xffff << shift) | u32::from(single_to_half(value[lane])) << shift
    });
    m.wave.write(i, 0, 0, &result);
    Ok(())
}
