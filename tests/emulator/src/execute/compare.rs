//! Vector comparisons: a mask of lanes into VCC or a scalar pair, for `cmpx` also into EXEC.

use super::{Machine, Operation, long};
use crate::inst::{Execute, Inst};
use crate::wave::LANES;

pub(super) fn lookup(name: &str) -> Option<Operation> {
    let (rest, sets_exec) = match name.strip_prefix("v_cmpx_") {
        Some(rest) => (rest, true),
        None => (name.strip_prefix("v_cmp_")?, false),
    };
    let (condition, kind) = rest.rsplit_once('_')?;
    let execute = match kind {
        "f32" => single(condition),
        "f16" => half(condition),
        "f64" => double(condition),
        "u32" => unsigned32(condition),
        "i32" => signed32(condition),
        "u16" => unsigned16(condition),
        "i16" => signed16(condition),
        "u64" => unsigned64(condition),
        "i64" => signed64(condition),
        _ => None,
    }?;
    // The width says whether EXEC is written too.
    Some(Operation { flushes: kind == "f32", ..Operation::vector(execute).wide(sets_exec.into()) })
}

/// Makes the table of ordered comparisons of integers.
macro_rules! integers {
    ($function:ident, $apply:ident, $convert:expr) => {
        fn $function(condition: &str) -> Option<Execute> {
            super::table!(condition, $apply;
                "f" => |_, _| false,
                "lt" => |a, b| $convert(a) < $convert(b),
                "eq" => |a, b| $convert(a) == $convert(b),
                "le" => |a, b| $convert(a) <= $convert(b),
                "gt" => |a, b| $convert(a) > $convert(b),
                "ne" | "lg" => |a, b| $convert(a) != $convert(b),
                "ge" => |a, b| $convert(a) >= $convert(b),
                "t" => |_, _| true,
            )
        }
    };
}

/// Makes the table of comparisons of floats; the negated ones are true for NaN.
macro_rules! floats {
    ($function:ident, $apply:ident, $convert:expr, $class:ident) => {
        #[expect(clippy::neg_cmp_op_on_partial_ord, reason = "the negated comparisons are true for NaN")]
        fn $function(condition: &str) -> Option<Execute> {
            super::table!(condition, $apply;
                "f" => |_, _| false,
                "lt" => |a, b| $convert(a) < $convert(b),
                "eq" => |a, b| $convert(a) == $convert(b),
                "le" => |a, b| $convert(a) <= $convert(b),
                "gt" => |a, b| $convert(a) > $convert(b),
                "lg" => |a, b| $convert(a) < $convert(b) || $convert(a) > $convert(b),
                "ge" => |a, b| $convert(a) >= $convert(b),
                "o" => |a, b| !$convert(a).is_nan() && !$convert(b).is_nan(),
                "u" => |a, b| $convert(a).is_nan() || $convert(b).is_nan(),
                "nge" => |a, b| !($convert(a) >= $convert(b)),
                "nlg" => |a, b| !($convert(a) < $convert(b) || $convert(a) > $convert(b)),
                "ngt" => |a, b| !($convert(a) > $convert(b)),
                "nle" => |a, b| !($convert(a) <= $convert(b)),
                "neq" => |a, b| !($convert(a) == $convert(b)),
                "nlt" => |a, b| !($convert(a) < $convert(b)),
                "tru" | "t" => |_, _| true,
                "class" => |a, b| $class(a, b),
            )
        }
    };
}

integers!(unsigned32, words, |a: u32| a);
integers!(signed32, words, |a: u32| a as i32);
integers!(unsigned16, words, |a: u32| a as u16);
integers!(signed16, words, |a: u32| a as i16);
integers!(unsigned64, longs, |a: u64| a);
integers!(signed64, longs, |a: u64| a as i64);
floats!(single, words, f32::from_bits, single_class);
floats!(half, words, |a: u32| ::half::f16::from_bits(a as u16).to_f32(), half_class);
floats!(double, longs, f64::from_bits, double_class);

fn words(m: &mut Machine<'_>, i: &Inst, f: impl Fn(u32, u32) -> bool) {
    let (mut x, mut y) = ([0; LANES], [0; LANES]);
    let a = m.wave.source(i, 1, 0, &mut x);
    let b = m.wave.source(i, 2, 0, &mut y);
    let mut mask = 0u64;
    for lane in 0..LANES {
        mask |= u64::from(f(a[lane], b[lane])) << lane;
    }
    write(m, i, mask);
}

fn longs(m: &mut Machine<'_>, i: &Inst, f: impl Fn(u64, u64) -> bool) {
    let (a, b) = (long(m, i, 1, 0), long(m, i, 2, 0));
    let mut mask = 0u64;
    for lane in 0..LANES {
        mask |= u64::from(f(a[lane], b[lane])) << lane;
    }
    write(m, i, mask);
}

fn write(m: &mut Machine<'_>, i: &Inst, mask: u64) {
    m.wave.write_mask(&i.operands[0], mask);
    if i.width == 1 {
        let exec = m.wave.exec() & mask;
        m.wave.set_exec(exec);
    }
}

/// Bit of the class mask: signalling and quiet NaN, then from minus infinity to infinity.
fn class_bit(nan: Option<bool>, infinite: bool, negative: bool, zero: bool, denormal: bool) -> u32 {
    match nan {
        Some(quiet) => u32::from(quiet),
        None if infinite => {
            if negative {
                2
            } else {
                9
            }
        }
        None if zero => {
            if negative {
                5
            } else {
                6
            }
        }
        None if denormal => {
            if negative {
                4
            } else {
                7
            }
        }
        None => {
            if negative {
                3
            } else {
                8
            }
        }
    }
}

fn single_class(a: u32, mask: u32) -> bool {
    let value = f32::from_bits(a);
    let nan = value.is_nan().then_some(a >> 22 & 1 == 1);
    let bit = class_bit(nan, value.is_infinite(), a >> 31 == 1, value == 0.0, value.is_subnormal());
    mask >> bit & 1 == 1
}

fn half_class(a: u32, mask: u32) -> bool {
    let magnitude = a & 0x7fff;
    let nan = (magnitude > 0x7c00).then_some(a >> 9 & 1 == 1);
    let bit = class_bit(nan, magnitude == 0x7c00, a >> 15 & 1 == 1, magnitude == 0, magnitude < 0x400);
    mask >> bit & 1 == 1
}

fn double_class(a: u64, mask: u64) -> bool {
    let value = f64::from_bits(a);
    let nan = value.is_nan().then_some(a >> 51 & 1 == 1);
    let bit = class_bit(nan, value.is_infinite(), a >> 63 == 1, value == 0.0, value.is_subnormal());
    mask >> bit & 1 == 1
}
