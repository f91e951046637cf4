//! Vector instructions on half floats in the low or, by `op_sel`, high half of a register.

use super::vector::{maximum, minimum};
use super::{Machine, Operation, Shape, table};
use crate::float::{half_to_single, single_to_half};
use crate::inst::{Class, Execute, Inst};
use crate::wave::{LANES, Register, clamp};

pub(super) fn lookup(name: &str) -> Option<Operation> {
    if let Some(execute) = one(name).or_else(|| two(name)).or_else(|| three(name)) {
        return Some(Operation::vector(execute));
    }
    if let Some(execute) = transcendental(name) {
        return Some(Operation::new(Class::Transcendental, Shape::Result, execute));
    }
    updating(name).map(|execute| Operation::vector(execute).shaped(Shape::Update))
}

fn one(name: &str) -> Option<Execute> {
    table!(name, half1;
        "v_floor_f16" => f32::floor,
        "v_ceil_f16" => f32::ceil,
        "v_trunc_f16" => f32::trunc,
        "v_rndne_f16" => f32::round_ties_even,
        "v_fract_f16" => |a: f32| (a - a.floor()).min(0.999_511_7),
    )
}

fn transcendental(name: &str) -> Option<Execute> {
    table!(name, half1;
        "v_exp_f16" => |a| f64::from(a).exp2() as f32,
        "v_log_f16" => |a| f64::from(a).log2() as f32,
        "v_rcp_f16" => |a| 1.0 / a,
        "v_rsq_f16" => |a| (1.0 / f64::from(a).sqrt()) as f32,
        "v_sqrt_f16" => f32::sqrt,
        "v_sin_f16" => |a| (f64::from(a) * std::f64::consts::TAU).sin() as f32,
        "v_cos_f16" => |a| (f64::from(a) * std::f64::consts::TAU).cos() as f32,
    )
}

fn two(name: &str) -> Option<Execute> {
    table!(name, half2;
        "v_add_f16" => |a, b| a + b,
        "v_sub_f16" => |a, b| a - b,
        "v_subrev_f16" => |a, b| b - a,
        "v_mul_f16" => |a, b| a * b,
        "v_max_f16" => maximum,
        "v_min_f16" => minimum,
    )
}

fn three(name: &str) -> Option<Execute> {
    table!(name, half3;
        "v_fma_f16" | "v_mad_f16" | "v_mad_legacy_f16" | "v_fma_legacy_f16" | "v_fmaak_f16" | "v_fmamk_f16"
            | "v_madak_f16" | "v_madmk_f16" => fused,
        "v_max3_f16" => |a, b, c| maximum(maximum(a, b), c),
        "v_min3_f16" => |a, b, c| minimum(minimum(a, b), c),
        "v_med3_f16" => |a, b, c| maximum(minimum(maximum(a, b), c), minimum(a, b)),
        "v_div_fixup_f16" | "v_div_fixup_legacy_f16" => |q, d, n| {
            if d == 0.0 || !d.is_finite() || n == 0.0 || !n.is_finite() { n / d } else { q }
        },
    )
}

fn updating(name: &str) -> Option<Execute> {
    table!(name, update;
        "v_fmac_f16" | "v_mac_f16" => fused,
    )
}

/// A fused multiply-add whose result is still to be rounded to half: odd rounding in the unused bits keeps that one
/// rounding correct.
pub(super) fn fused(a: f32, b: f32, c: f32) -> f32 {
    let (product, addend) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + addend;
    let single = sum as f32;
    if f64::from(single) == sum || !single.is_finite() {
        return single;
    }
    // Truncate and set the last bit: a value between two singles never looks like a tie between two halves.
    let bits = single.to_bits();
    let truncated = if f64::from(single).abs() > sum.abs() { bits - 1 } else { bits };
    f32::from_bits(truncated | 1)
}

/// A source as single floats.
fn fetch(m: &Machine<'_>, i: &Inst, index: usize) -> [f32; LANES] {
    let mut x = [0; LANES];
    let high = i.modifiers.op_sel >> (index - 1) & 1 == 1;
    // The sign of the upper half is applied here, the one of the lower half where sources are read.
    if !high {
        return m.wave.source(i, index, 0, &mut x).map(|word| half_to_single(word as u16));
    }
    let operand = &i.operands[index];
    m.wave.raw(operand, 0, &mut x).map(|word| {
        let mut half = (word >> 16) as u16;
        if operand.absolute {
            half &= 0x7fff;
        }
        if operand.negate {
            half ^= 0x8000;
        }
        half_to_single(half)
    })
}

fn store(m: &mut Machine<'_>, i: &Inst, value: &[f32; LANES]) {
    let scale = [1.0, 2.0, 4.0, 0.5][usize::from(i.modifiers.output)];
    let half = |value: f32| {
        let scaled = value * scale;
        u32::from(single_to_half(if i.modifiers.clamp { clamp(scaled) } else { scaled }))
    };
    let high = i.modifiers.op_sel >> 3 & 1 == 1;
    let mut x = [0; LANES];
    let old = m.wave.raw(&i.operands[0], 0, &mut x);
    let result: Register = std::array::from_fn(|lane| {
        let bits = half(value[lane]);
        if high { old[lane] & 0xffff | bits << 16 } else { bits }
    });
    m.wave.write(i, 0, 0, &result);
}

fn half1(m: &mut Machine<'_>, i: &Inst, f: impl Fn(f32) -> f32) {
    let a = fetch(m, i, 1);
    store(m, i, &a.map(f));
}

fn half2(m: &mut Machine<'_>, i: &Inst, f: impl Fn(f32, f32) -> f32) {
    let (a, b) = (fetch(m, i, 1), fetch(m, i, 2));
    store(m, i, &std::array::from_fn(|lane| f(a[lane], b[lane])));
}

fn half3(m: &mut Machine<'_>, i: &Inst, f: impl Fn(f32, f32, f32) -> f32) {
    let (a, b, c) = (fetch(m, i, 1), fetch(m, i, 2), fetch(m, i, 3));
    store(m, i, &std::array::from_fn(|lane| f(a[lane], b[lane], c[lane])));
}

fn update(m: &mut Machine<'_>, i: &Inst, f: impl Fn(f32, f32, f32) -> f32) {
    let (a, b) = (fetch(m, i, 1), fetch(m, i, 2));
    let mut x = [0; LANES];
    let c = m.wave.raw(&i.operands[0], 0, &mut x).map(|word| half_to_single(word as u16));
    store(m, i, &std::array::from_fn(|lane| f(a[lane], b[lane], c[lane])));
}
