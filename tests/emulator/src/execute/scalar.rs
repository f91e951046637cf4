//! Scalar arithmetic, logic, comparison and moves.

use super::{Machine, Operation, Shape};
use crate::counter::Queue;
use crate::error::{Kind, Outcome, fault};
use crate::inst::{Class, Execute, Inst};
use crate::wave::{M0, Mode, State};

pub(super) fn lookup(name: &str) -> Option<Operation> {
    if let Some(execute) = arithmetic(name).or_else(|| bits32(name)).or_else(|| bits64(name)) {
        return Some(Operation::scalar(execute));
    }
    if let Some(execute) = comparison(name) {
        return Some(Operation::scalar(execute).shaped(Shape::NoResult));
    }
    if let Some(execute) = updating(name) {
        return Some(Operation::scalar(execute).shaped(Shape::Update));
    }
    let loaded = match name {
        "s_load_dword" => 1,
        "s_load_dwordx2" => 2,
        "s_load_dwordx4" => 4,
        "s_load_dwordx8" => 8,
        "s_load_dwordx16" => 16,
        "s_memtime" | "s_memrealtime" => {
            let queue = Some(Queue::Scalar);
            return Some(Operation { queue, ..Operation::new(Class::ScalarLoad, Shape::Result, time) });
        }
        "s_buffer_load_dword"
        | "s_buffer_load_dwordx2"
        | "s_buffer_load_dwordx4"
        | "s_buffer_load_dwordx8"
        | "s_buffer_load_dwordx16" => {
            let count = name.rsplit_once('x').map_or(1, |(_, count)| count.parse().unwrap_or(1));
            let operation = Operation::new(Class::ScalarLoad, Shape::Result, load_buffer).wide(count);
            return Some(Operation { queue: Some(Queue::Scalar), ..operation });
        }
        _ => 0,
    };
    if loaded > 0 {
        let operation = Operation::new(Class::ScalarLoad, Shape::Result, load).wide(loaded);
        return Some(Operation { queue: Some(Queue::Scalar), ..operation });
    }
    let ignored: Execute = super::nothing;
    Some(match name {
        "s_nop" | "s_setprio" | "s_setkill" | "s_sethalt" | "s_inst_prefetch" | "s_icache_inv"
        | "s_dcache_wb" | "s_dcache_inv" | "s_ttracedata" | "s_incperflevel" | "s_decperflevel"
        | "s_clause" => Operation::scalar(ignored).shaped(Shape::NoResult),
        "s_set_gpr_idx_on" | "s_set_gpr_idx_mode" | "s_set_gpr_idx_off" | "s_set_gpr_idx_idx" => {
            // The first and the last take an index from a register.
            let sets_index = name.ends_with("on") || name.ends_with("idx");
            Operation::scalar(index_registers).shaped(Shape::NoResult).wide(sets_index.into())
        }
        "s_sleep" => Operation::scalar(give_way).shaped(Shape::NoResult),
        "s_getreg_b32" => Operation::scalar(get_register),
        "s_setreg_b32" | "s_setreg_imm32_b32" => Operation::scalar(set_register).shaped(Shape::NoResult),
        _ => return None,
    })
}

/// A function of two words and SCC that gives the result and SCC.
fn two(m: &mut Machine<'_>, i: &Inst, f: impl Fn(u32, u32, bool) -> (u32, bool)) {
    let (a, b) = (m.wave.uniform(&i.operands[1], 0), m.wave.uniform(&i.operands[2], 0));
    let (result, scc) = f(a, b, m.wave.scc);
    m.wave.set_uniform(&i.operands[0], 0, result);
    m.wave.scc = scc;
}

/// Like [`two`], leaving SCC as it is.
fn two_quiet(m: &mut Machine<'_>, i: &Inst, f: impl Fn(u32, u32) -> u32) {
    let (a, b) = (m.wave.uniform(&i.operands[1], 0), m.wave.uniform(&i.operands[2], 0));
    m.wave.set_uniform(&i.operands[0], 0, f(a, b));
}

fn long_two(m: &mut Machine<'_>, i: &Inst, f: impl Fn(u64, u64) -> (u64, bool)) {
    let (a, b) = (m.wave.uniform64(&i.operands[1]), m.wave.uniform64(&i.operands[2]));
    let (result, scc) = f(a, b);
    m.wave.set_uniform64(&i.operands[0], result);
    m.wave.scc = scc;
}

fn one_quiet(m: &mut Machine<'_>, i: &Inst, f: impl Fn(u32) -> u32) {
    let a = m.wave.uniform(&i.operands[1], 0);
    m.wave.set_uniform(&i.operands[0], 0, f(a));
}

fn long_one_quiet(m: &mut Machine<'_>, i: &Inst, f: impl Fn(u64) -> u64) {
    let a = m.wave.uniform64(&i.operands[1]);
    m.wave.set_uniform64(&i.operands[0], f(a));
}

/// A function of 64 bits with a result of 32.
fn narrow(m: &mut Machine<'_>, i: &Inst, f: impl Fn(u64) -> u32) {
    let a = m.wave.uniform64(&i.operands[1]);
    m.wave.set_uniform(&i.operands[0], 0, f(a));
}

fn compare(m: &mut Machine<'_>, i: &Inst, f: impl Fn(u32, u32) -> bool) {
    m.wave.scc = f(m.wave.uniform(&i.operands[0], 0), m.wave.uniform(&i.operands[1], 0));
}

fn compare64(m: &mut Machine<'_>, i: &Inst, f: impl Fn(u64, u64) -> bool) {
    m.wave.scc = f(m.wave.uniform64(&i.operands[0]), m.wave.uniform64(&i.operands[1]));
}

/// The old value of the destination and an operand.
fn update(m: &mut Machine<'_>, i: &Inst, f: impl Fn(u32, u32, bool) -> (u32, bool)) {
    let (a, b) = (m.wave.uniform(&i.operands[0], 0), m.wave.uniform(&i.operands[1], 0));
    let (result, scc) = f(a, b, m.wave.scc);
    m.wave.set_uniform(&i.operands[0], 0, result);
    m.wave.scc = scc;
}

fn nonzero(value: u32) -> (u32, bool) {
    (value, value != 0)
}

fn nonzero64(value: u64) -> (u64, bool) {
    (value, value != 0)
}

fn arithmetic(name: &str) -> Option<Execute> {
    super::table!(name, two;
        "s_add_u32" => |a, b, _| a.overflowing_add(b),
        "s_sub_u32" => |a, b, _| a.overflowing_sub(b),
        "s_add_i32" => |a, b, _| signed((a as i32).overflowing_add(b as i32)),
        "s_sub_i32" => |a, b, _| signed((a as i32).overflowing_sub(b as i32)),
        "s_addc_u32" => |a, b, c| {
            let sum = u64::from(a) + u64::from(b) + u64::from(c);
            (sum as u32, sum >> 32 != 0)
        },
        "s_subb_u32" => |a, b, c| {
            let difference = u64::from(a).wrapping_sub(u64::from(b)).wrapping_sub(u64::from(c));
            (difference as u32, difference >> 32 != 0)
        },
        "s_min_i32" => |a, b, _| if (a as i32) < b as i32 { (a, true) } else { (b, false) },
        "s_max_i32" => |a, b, _| if (a as i32) >= b as i32 { (a, true) } else { (b, false) },
        "s_min_u32" => |a, b, _| if a < b { (a, true) } else { (b, false) },
        "s_max_u32" => |a, b, _| if a >= b { (a, true) } else { (b, false) },
        "s_and_b32" => |a, b, _| nonzero(a & b),
        "s_or_b32" => |a, b, _| nonzero(a | b),
        "s_xor_b32" => |a, b, _| nonzero(a ^ b),
        "s_andn2_b32" => |a, b, _| nonzero(a & !b),
        "s_orn2_b32" => |a, b, _| nonzero(a | !b),
        "s_nand_b32" => |a, b, _| nonzero(!(a & b)),
        "s_nor_b32" => |a, b, _| nonzero(!(a | b)),
        "s_xnor_b32" => |a, b, _| nonzero(!(a ^ b)),
        "s_lshl_b32" => |a, b, _| nonzero(a << (b & 31)),
        "s_lshr_b32" => |a, b, _| nonzero(a >> (b & 31)),
        "s_ashr_i32" => |a, b, _| nonzero((a as i32 >> (b & 31)) as u32),
        "s_bfe_u32" => |a, b, _| nonzero(field(u64::from(a), b & 31, b >> 16 & 127, 32) as u32),
        "s_bfe_i32" => |a, b, _| {
            let width = (b >> 16 & 127).min(32);
            let field = field(u64::from(a), b & 31, width, 32) as u32;
            nonzero(if width == 0 { 0 } else { ((field << (32 - width)) as i32 >> (32 - width)) as u32 })
        },
        "s_absdiff_i32" => |a, b, _| nonzero((a as i32).wrapping_sub(b as i32).wrapping_abs() as u32),
        "s_lshl1_add_u32" => |a, b, _| shift_add(a, b, 1),
        "s_lshl2_add_u32" => |a, b, _| shift_add(a, b, 2),
        "s_lshl3_add_u32" => |a, b, _| shift_add(a, b, 3),
        "s_lshl4_add_u32" => |a, b, _| shift_add(a, b, 4),
        "s_not_b32" => |a, _, _| nonzero(!a),
        "s_abs_i32" => |a, _, _| nonzero((a as i32).wrapping_abs() as u32),
        "s_bcnt1_i32_b32" => |a, _, _| nonzero(a.count_ones()),
        "s_bcnt0_i32_b32" => |a, _, _| nonzero(a.count_zeros()),
        "s_quadmask_b32" => |a, _, _| nonzero((0..8).fold(0, |mask, quad| mask | u32::from(a >> (4 * quad) & 15 != 0) << quad)),
        "s_wqm_b32" => |a, _, _| nonzero((0..8).fold(0, |mask, quad| mask | if a >> (4 * quad) & 15 != 0 { 15 << (4 * quad) } else { 0 })),
        "s_cselect_b32" => |a, b, scc| (if scc { a } else { b }, scc),
    )
}

fn bits32(name: &str) -> Option<Execute> {
    let pairs: Option<Execute> = super::table!(name, two_quiet;
        "s_mul_i32" => |a, b| a.wrapping_mul(b),
        "s_mul_hi_u32" => |a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32,
        "s_mul_hi_i32" => |a, b| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32,
        "s_bfm_b32" => |a, b| ((1u32 << (a & 31)) - 1) << (b & 31),
        "s_pack_ll_b32_b16" => |a, b| a & 0xffff | b << 16,
        "s_pack_lh_b32_b16" => |a, b| a & 0xffff | b & 0xffff_0000,
        "s_pack_hh_b32_b16" => |a, b| a >> 16 | b & 0xffff_0000,
    );
    let singles = || -> Option<Execute> {
        super::table!(name, one_quiet;
            "s_mov_b32" => |a| a,
            "s_movk_i32" => |a| a as i16 as u32,
            "s_brev_b32" => |a| a.reverse_bits(),
            "s_ff1_i32_b32" => |a| if a == 0 { u32::MAX } else { a.trailing_zeros() },
            "s_ff0_i32_b32" => |a| if a == u32::MAX { u32::MAX } else { a.trailing_ones() },
            "s_flbit_i32_b32" => |a| if a == 0 { u32::MAX } else { a.leading_zeros() },
            "s_flbit_i32" => |a| {
                let other = if (a as i32) < 0 { !a } else { a };
                if other == 0 { u32::MAX } else { other.leading_zeros() }
            },
            "s_sext_i32_i8" => |a| a as i8 as u32,
            "s_sext_i32_i16" => |a| a as i16 as u32,
        )
    };
    let narrowing = || -> Option<Execute> {
        super::table!(name, narrow;
            "s_ff1_i32_b64" => |a| if a == 0 { u32::MAX } else { a.trailing_zeros() },
            "s_ff0_i32_b64" => |a| if a == u64::MAX { u32::MAX } else { a.trailing_ones() },
            "s_flbit_i32_b64" => |a| if a == 0 { u32::MAX } else { a.leading_zeros() },
            "s_flbit_i32_i64" => |a| {
                let other = if (a as i64) < 0 { !a } else { a };
                if other == 0 { u32::MAX } else { other.leading_zeros() }
            },
        )
    };
    let counting: Option<Execute> = match name {
        "s_bcnt1_i32_b64" => Some(|m, i| {
            let count = m.wave.uniform64(&i.operands[1]).count_ones();
            m.wave.set_uniform(&i.operands[0], 0, count);
            m.wave.scc = count != 0;
            Ok(())
        }),
        "s_bcnt0_i32_b64" => Some(|m, i| {
            let count = m.wave.uniform64(&i.operands[1]).count_zeros();
            m.wave.set_uniform(&i.operands[0], 0, count);
            m.wave.scc = count != 0;
            Ok(())
        }),
        _ => None,
    };
    pairs.or_else(singles).or_else(narrowing).or(counting)
}

fn bits64(name: &str) -> Option<Execute> {
    let pairs: Option<Execute> = super::table!(name, long_two;
        "s_and_b64" => |a, b| nonzero64(a & b),
        "s_or_b64" => |a, b| nonzero64(a | b),
        "s_xor_b64" => |a, b| nonzero64(a ^ b),
        "s_andn2_b64" => |a, b| nonzero64(a & !b),
        "s_orn2_b64" => |a, b| nonzero64(a | !b),
        "s_nand_b64" => |a, b| nonzero64(!(a & b)),
        "s_nor_b64" => |a, b| nonzero64(!(a | b)),
        "s_xnor_b64" => |a, b| nonzero64(!(a ^ b)),
        "s_lshl_b64" => |a, b| nonzero64(a << (b & 63)),
        "s_lshr_b64" => |a, b| nonzero64(a >> (b & 63)),
        "s_ashr_i64" => |a, b| nonzero64((a as i64 >> (b & 63)) as u64),
        "s_bfe_u64" => |a, b| nonzero64(field(a, b as u32 & 63, (b >> 16) as u32 & 127, 64)),
        "s_bfe_i64" => |a, b| {
            let width = ((b >> 16) as u32 & 127).min(64);
            let field = field(a, b as u32 & 63, width, 64);
            nonzero64(if width == 0 { 0 } else { ((field << (64 - width)) as i64 >> (64 - width)) as u64 })
        },
        "s_not_b64" => |a, _| nonzero64(!a),
        "s_quadmask_b64" => |a, _| nonzero64((0..16).fold(0, |mask, quad| mask | u64::from(a >> (4 * quad) & 15 != 0) << quad)),
        "s_wqm_b64" => |a, _| nonzero64((0..16).fold(0, |mask, quad| mask | if a >> (4 * quad) & 15 != 0 { 15 << (4 * quad) } else { 0 })),
    );
    let singles = || -> Option<Execute> {
        super::table!(name, long_one_quiet;
            "s_mov_b64" => |a| a,
            "s_brev_b64" => |a| a.reverse_bits(),
            "s_bitreplicate_b64_b32" => |a| (0..32).fold(0, |bits, at| bits | ((a >> at & 1) * 3) << (2 * at)),
        )
    };
    let special: Option<Execute> = match name {
        "s_bfm_b64" => Some(|m, i| {
            let (a, b) = (m.wave.uniform(&i.operands[1], 0), m.wave.uniform(&i.operands[2], 0));
            m.wave.set_uniform64(&i.operands[0], ((1u64 << (a & 63)) - 1) << (b & 63));
            Ok(())
        }),
        "s_cselect_b64" => Some(|m, i| {
            let chosen = if m.wave.scc { 1 } else { 2 };
            let value = m.wave.uniform64(&i.operands[chosen]);
            m.wave.set_uniform64(&i.operands[0], value);
            Ok(())
        }),
        _ => None,
    };
    pairs.or_else(singles).or(special).or_else(|| saving(name))
}

/// `s_OP_saveexec_b64`: keeps EXEC in the destination and combines it with the source.
fn save(m: &mut Machine<'_>, i: &Inst, f: impl Fn(u64, u64) -> u64) {
    let (source, exec) = (m.wave.uniform64(&i.operands[1]), m.wave.exec());
    m.wave.set_uniform64(&i.operands[0], exec);
    m.wave.set_exec(f(source, exec));
    m.wave.scc = m.wave.exec() != 0;
}

/// `s_OP_wrexec_b64`: writes EXEC and the destination.
fn write_exec(m: &mut Machine<'_>, i: &Inst, f: impl Fn(u64, u64) -> u64) {
    let (source, exec) = (m.wave.uniform64(&i.operands[1]), m.wave.exec());
    m.wave.set_exec(f(source, exec));
    let exec = m.wave.exec();
    m.wave.set_uniform64(&i.operands[0], exec);
    m.wave.scc = exec != 0;
}

fn saving(name: &str) -> Option<Execute> {
    let kept: Option<Execute> = super::table!(name, save;
        "s_and_saveexec_b64" => |s, e| s & e,
        "s_or_saveexec_b64" => |s, e| s | e,
        "s_xor_saveexec_b64" => |s, e| s ^ e,
        "s_andn2_saveexec_b64" => |s, e| s & !e,
        "s_orn2_saveexec_b64" => |s, e| s | !e,
        "s_andn1_saveexec_b64" => |s, e| !s & e,
        "s_orn1_saveexec_b64" => |s, e| !s | e,
        "s_nand_saveexec_b64" => |s, e| !(s & e),
        "s_nor_saveexec_b64" => |s, e| !(s | e),
        "s_xnor_saveexec_b64" => |s, e| !(s ^ e),
    );
    kept.or({
        super::table!(name, write_exec;
            "s_andn1_wrexec_b64" => |s, e| !s & e,
            "s_andn2_wrexec_b64" => |s, e| s & !e,
        )
    })
}

fn comparison(name: &str) -> Option<Execute> {
    let words: Option<Execute> = super::table!(name, compare;
        "s_cmp_eq_i32" | "s_cmp_eq_u32" => |a, b| a == b,
        "s_cmp_lg_i32" | "s_cmp_lg_u32" => |a, b| a != b,
        "s_cmp_gt_i32" => |a, b| a as i32 > b as i32,
        "s_cmp_ge_i32" => |a, b| a as i32 >= b as i32,
        "s_cmp_lt_i32" => |a, b| (a as i32) < b as i32,
        "s_cmp_le_i32" => |a, b| a as i32 <= b as i32,
        "s_cmp_gt_u32" => |a, b| a > b,
        "s_cmp_ge_u32" => |a, b| a >= b,
        "s_cmp_lt_u32" => |a, b| a < b,
        "s_cmp_le_u32" => |a, b| a <= b,
        // The short forms hold a 16-bit constant, signed or not.
        "s_cmpk_eq_i32" => |a, b| a == b as i16 as u32,
        "s_cmpk_lg_i32" => |a, b| a != b as i16 as u32,
        "s_cmpk_gt_i32" => |a, b| a as i32 > i32::from(b as i16),
        "s_cmpk_ge_i32" => |a, b| a as i32 >= i32::from(b as i16),
        "s_cmpk_lt_i32" => |a, b| (a as i32) < i32::from(b as i16),
        "s_cmpk_le_i32" => |a, b| a as i32 <= i32::from(b as i16),
        "s_cmpk_eq_u32" => |a, b| a == b & 0xffff,
        "s_cmpk_lg_u32" => |a, b| a != b & 0xffff,
        "s_cmpk_gt_u32" => |a, b| a > b & 0xffff,
        "s_cmpk_ge_u32" => |a, b| a >= b & 0xffff,
        "s_cmpk_lt_u32" => |a, b| a < b & 0xffff,
        "s_cmpk_le_u32" => |a, b| a <= b & 0xffff,
        "s_bitcmp0_b32" => |a, b| a >> (b & 31) & 1 == 0,
        "s_bitcmp1_b32" => |a, b| a >> (b & 31) & 1 == 1,
    );
    words.or({
        super::table!(name, compare64;
            "s_cmp_eq_u64" => |a, b| a == b,
            "s_cmp_lg_u64" => |a, b| a != b,
            "s_bitcmp0_b64" => |a, b| a >> (b & 63) & 1 == 0,
            "s_bitcmp1_b64" => |a, b| a >> (b & 63) & 1 == 1,
        )
    })
}

fn updating(name: &str) -> Option<Execute> {
    let words: Option<Execute> = super::table!(name, update;
        "s_addk_i32" => |a, b, _| signed((a as i32).overflowing_add(i32::from(b as i16))),
        "s_mulk_i32" => |a, b, scc| (a.wrapping_mul(b as i16 as u32), scc),
        "s_cmovk_i32" => |a, b, scc| (if scc { b as i16 as u32 } else { a }, scc),
        "s_cmov_b32" => |a, b, scc| (if scc { b } else { a }, scc),
        "s_bitset0_b32" => |a, b, scc| (a & !(1 << (b & 31)), scc),
        "s_bitset1_b32" => |a, b, scc| (a | 1 << (b & 31), scc),
    );
    let long: Option<Execute> = match name {
        "s_cmov_b64" => Some(|m, i| {
            if m.wave.scc {
                let value = m.wave.uniform64(&i.operands[1]);
                m.wave.set_uniform64(&i.operands[0], value);
            }
            Ok(())
        }),
        "s_bitset0_b64" => Some(|m, i| {
            let bit = m.wave.uniform(&i.operands[1], 0) & 63;
            let value = m.wave.uniform64(&i.operands[0]) & !(1 << bit);
            m.wave.set_uniform64(&i.operands[0], value);
            Ok(())
        }),
        "s_bitset1_b64" => Some(|m, i| {
            let bit = m.wave.uniform(&i.operands[1], 0) & 63;
            let value = m.wave.uniform64(&i.operands[0]) | 1 << bit;
            m.wave.set_uniform64(&i.operands[0], value);
            Ok(())
        }),
        _ => None,
    };
    words.or(long)
}

fn signed((value, overflow): (i32, bool)) -> (u32, bool) {
    (value as u32, overflow)
}

fn shift_add(a: u32, b: u32, shift: u32) -> (u32, bool) {
    let sum = (u64::from(a) << shift) + u64::from(b);
    (sum as u32, sum >> 32 != 0)
}

/// `width` bits from `offset`.
fn field(value: u64, offset: u32, width: u32, size: u32) -> u64 {
    let moved = value >> offset;
    if width >= size { moved } else { moved & ((1 << width) - 1) }
}

/// Loads words of memory into scalar registers; the offset may be a constant, a register or both.
fn load(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let base = m.wave.uniform64(&i.operands[1]);
    let offset = i.offsets[0] as i64 as u64 + scalar_offset(m, i);
    let address = base.wrapping_add(offset) & !3;
    let bytes = 4 * u64::from(i.width);
    let Some(place) = m.context.view.place(address, bytes, &mut m.hint) else {
        let message = format!("reads {bytes} bytes at {address:#x}, {}", m.context.view.describe(address));
        return Err(fault(Kind::OutOfBounds, message));
    };
    for part in 0..usize::from(i.width) {
        let word = place.add(4 * part).load32();
        m.wave.set_uniform(&i.operands[0], part, word);
    }
    m.issue(Queue::Scalar, i.operands[0].range());
    Ok(())
}

/// The offset operand: a constant is signed and has 21 bits, a register unsigned.
fn scalar_offset(m: &Machine<'_>, i: &Inst) -> u64 {
    let operand = &i.operands[2];
    if operand.range().is_some() { u64::from(m.wave.uniform(operand, 0)) } else { m.wave.uniform64(operand) }
}

/// Loads words through a buffer descriptor; words past its end read zero.
fn load_buffer(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let low = m.wave.uniform(&i.operands[1], 0);
    let high = m.wave.uniform(&i.operands[1], 1);
    let records = u64::from(m.wave.uniform(&i.operands[1], 2));
    let base = u64::from(low) | u64::from(high & 0xffff) << 32;
    let offset = (i.offsets[0] as i64 as u64).wrapping_add(scalar_offset(m, i)) & !3;
    for part in 0..usize::from(i.width) {
        let at = offset + 4 * part as u64;
        let word = if at + 4 <= records {
            let address = base + at;
            let Some(place) = m.context.view.place(address, 4, &mut m.hint) else {
                let message = format!("reads 4 bytes at {address:#x}, {}", m.context.view.describe(address));
                return Err(fault(Kind::OutOfBounds, message));
            };
            place.load32()
        } else {
            0
        };
        m.wave.set_uniform(&i.operands[0], part, word);
    }
    m.issue(Queue::Scalar, i.operands[0].range());
    Ok(())
}

/// A clock that ticks with each instruction of the wave.
fn time(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let now = m.wave.executed;
    m.wave.set_uniform64(&i.operands[0], now);
    m.issue(Queue::Scalar, i.operands[0].range());
    Ok(())
}

fn give_way(m: &mut Machine<'_>, _: &Inst) -> Outcome {
    m.wave.state = State::Yielded;
    Ok(())
}

/// Turns register indexing on or off: M0 holds the index in bits 0 to 7 and the indexed operands in bits 12 to 15.
fn index_registers(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    if i.width == 1 {
        let index = m.wave.uniform(&i.operands[0], 0) & 255;
        m.wave.scalars[M0] = m.wave.scalars[M0] & !255 | index;
    }
    if !i.text.starts_with("s_set_gpr_idx_idx") {
        m.wave.indexed = i.immediate;
        m.wave.scalars[M0] = m.wave.scalars[M0] & !0xf000 | i.immediate << 12;
    }
    Ok(())
}

/// Numbers of hardware registers, as decoding stores them: register, offset and width in one immediate.
pub(crate) mod hardware {
    pub const MODE: u32 = 1;
    pub const STATUS: u32 = 2;
    pub const HW_ID: u32 = 4;
    pub const LDS_ALLOC: u32 = 6;
    pub const XCC_ID: u32 = 20;
}

fn get_register(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let (register, offset, width) = (i.immediate & 63, i.immediate >> 6 & 31, i.immediate >> 11);
    let value = match register {
        hardware::MODE => m.wave.mode.0,
        // Workgroups go to the eight accelerator dies in turn.
        hardware::XCC_ID => (m.group.linear % 8) as u32,
        hardware::STATUS => u32::from(m.wave.scc),
        hardware::HW_ID => m.group.wave as u32,
        hardware::LDS_ALLOC => (m.group.lds.len() as u32 / 512) << 12,
        _ => return Err(fault(Kind::Unsupported, "reads a hardware register that is not modelled")),
    };
    let result = field(u64::from(value), offset, width, 32) as u32;
    m.wave.set_uniform(&i.operands[0], 0, result);
    Ok(())
}

fn set_register(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let (register, offset, width) = (i.immediate & 63, i.immediate >> 6 & 31, i.immediate >> 11);
    if register != hardware::MODE {
        return Err(fault(Kind::Unsupported, "writes a hardware register that is not modelled"));
    }
    let mask = field(u64::MAX, 0, width, 32) as u32;
    let value = m.wave.uniform(&i.operands[1], 0) & mask;
    let mode = Mode(m.wave.mode.0 & !(mask << offset) | value << offset);
    if !mode.rounds_to_nearest() {
        return Err(fault(
            Kind::Unsupported,
            "selects a rounding mode other than to nearest, which is not modelled",
        ));
    }
    m.wave.mode = mode;
    Ok(())
}
