//! Atomic operations on global memory, buffers and LDS.

use super::element::Places;
use super::{Machine, Operation, Shape, buffer, global as memory, lds as local};
use crate::counter::Queue;
use crate::error::{Error, Kind, Outcome, fault};
use crate::float::{brain_to_single, half_to_single, single_to_brain, single_to_half};
use crate::inst::{Class, Execute, Inst, Source};
use crate::shadow::Access;
use crate::syntax::Text;
use crate::wave::LANES;
use std::sync::atomic::Ordering::SeqCst;

/// Where an atomic's memory is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Space {
    Global,
    Buffer,
    Lds,
}

const GLOBAL: u8 = Space::Global as u8;
const BUFFER: u8 = Space::Buffer as u8;
const LDS: u8 = Space::Lds as u8;

pub(super) fn global(name: &str, text: &Text<'_>) -> Option<Operation> {
    from_name::<GLOBAL>(&canonical(name), text.has("sc0"))
}

pub(super) fn buffer(name: &str, text: &Text<'_>) -> Option<Operation> {
    // A buffer atomic that returns its old value overwrites its data.
    let operation = from_name::<BUFFER>(&canonical(name), false)?;
    Some(if text.has("sc0") { operation.shaped(Shape::Update) } else { operation })
}

/// The operation of an LDS mnemonic without `ds_`, e.g. `add_rtn_u32`.
pub(super) fn lds(name: &str) -> Option<Operation> {
    let returns = name.contains("_rtn_");
    from_name::<LDS>(&canonical(&name.replace("_rtn_", "_")), returns)
}

/// One name for the spellings of memory families: operation, then type.
fn canonical(name: &str) -> String {
    let (base, is_pair) = match name.strip_suffix("_x2") {
        Some(base) => (base, true),
        None => (name, false),
    };
    let long = if is_pair { "64" } else { "32" };
    match base {
        "swap" | "wrxchg_b32" | "wrxchg_b64" => {
            format!("swap_b{}", if base.ends_with("64") { "64" } else { long })
        }
        "cmpswap" => format!("cmpswap_b{long}"),
        "add" | "sub" | "inc" | "dec" => format!("{base}_u{long}"),
        "and" | "or" | "xor" => format!("{base}_b{long}"),
        "smin" | "smax" => format!("{}_i{long}", &base[1..]),
        "umin" | "umax" => format!("{}_u{long}", &base[1..]),
        _ => base.to_string(),
    }
}

fn from_name<const SPACE: u8>(name: &str, returns: bool) -> Option<Operation> {
    let execute = word_operation::<SPACE>(name)
        .or_else(|| long_operation::<SPACE>(name))
        .or_else(|| compare_and_swap::<SPACE>(name))?;
    let class = if SPACE == LDS { Class::Lds } else { Class::Atomic };
    let shape = if returns { Shape::Result } else { Shape::NoResult };
    Some(Operation::new(class, shape, execute))
}

/// Makes a table whose functions may fail.
macro_rules! fallible {
    ($name:expr, $apply:path; $($text:pat => $function:expr,)*) => {
        match $name {
            $($text => Some((|m: &mut Machine<'_>, i: &Inst| $apply(m, i, $function)) as Execute),)*
            _ => None,
        }
    };
}

fn word_operation<const SPACE: u8>(name: &str) -> Option<Execute> {
    fallible!(name, word::<SPACE>;
        "swap_b32" => |_, data| data,
        "add_u32" => |old, data| old.wrapping_add(data),
        "sub_u32" => |old, data| old.wrapping_sub(data),
        "rsub_u32" => |old, data| data.wrapping_sub(old),
        "inc_u32" => |old, data| if old >= data { 0 } else { old + 1 },
        "dec_u32" => |old, data| if old == 0 || old > data { data } else { old - 1 },
        "min_i32" => |old, data| (old as i32).min(data as i32) as u32,
        "max_i32" => |old, data| (old as i32).max(data as i32) as u32,
        "min_u32" => |old, data| old.min(data),
        "max_u32" => |old, data| old.max(data),
        "and_b32" => |old, data| old & data,
        "or_b32" => |old, data| old | data,
        "xor_b32" => |old, data| old ^ data,
        "add_f32" => |old, data| (f32::from_bits(old) + f32::from_bits(data)).to_bits(),
        "min_f32" => |old, data| f32::from_bits(old).min(f32::from_bits(data)).to_bits(),
        "max_f32" => |old, data| f32::from_bits(old).max(f32::from_bits(data)).to_bits(),
        "pk_add_f16" => |old, data| halves(old, data, half_to_single, single_to_half),
        "pk_add_bf16" => |old, data| halves(old, data, brain_to_single, single_to_brain),
    )
}

fn long_operation<const SPACE: u8>(name: &str) -> Option<Execute> {
    fallible!(name, long::<SPACE>;
        "swap_b64" => |_, data| data,
        "add_u64" => |old, data| old.wrapping_add(data),
        "sub_u64" => |old, data| old.wrapping_sub(data),
        "rsub_u64" => |old, data| data.wrapping_sub(old),
        "inc_u64" => |old, data| if old >= data { 0 } else { old + 1 },
        "dec_u64" => |old, data| if old == 0 || old > data { data } else { old - 1 },
        "min_i64" => |old, data| (old as i64).min(data as i64) as u64,
        "max_i64" => |old, data| (old as i64).max(data as i64) as u64,
        "min_u64" => |old, data| old.min(data),
        "max_u64" => |old, data| old.max(data),
        "and_b64" => |old, data| old & data,
        "or_b64" => |old, data| old | data,
        "xor_b64" => |old, data| old ^ data,
        "add_f64" => |old, data| (f64::from_bits(old) + f64::from_bits(data)).to_bits(),
        "min_f64" => |old, data| f64::from_bits(old).min(f64::from_bits(data)).to_bits(),
        "max_f64" => |old, data| f64::from_bits(old).max(f64::from_bits(data)).to_bits(),
    )
}

/// Global memory takes new value and expected value in one register range, LDS the expected value first.
fn compare_and_swap<const SPACE: u8>(name: &str) -> Option<Execute> {
    match name {
        "cmpswap_b32" | "cmpst_b32" => Some(|m, i| exchange::<SPACE>(m, i, 1)),
        "cmpswap_b64" | "cmpst_b64" => Some(|m, i| exchange::<SPACE>(m, i, 2)),
        _ => None,
    }
}

fn halves(old: u32, data: u32, widen: fn(u16) -> f32, narrow: fn(f32) -> u16) -> u32 {
    let sum =
        |shift: u32| u32::from(narrow(widen((old >> shift) as u16) + widen((data >> shift) as u16))) << shift;
    sum(0) | sum(16)
}

/// The places of all lanes, the index of the first data operand, and the operand that receives the old value.
fn locate<const SPACE: u8>(
    m: &mut Machine<'_>,
    i: &Inst,
    bytes: u32,
) -> Result<(Places, usize, Option<usize>), Box<Error>> {
    if SPACE == BUFFER {
        let places = buffer::places(m, i, 1, bytes)?;
        return Ok((places, 0, i.modifiers.returns.then_some(0)));
    }
    let returned = usize::from(!i.writes.is_empty());
    let places = if SPACE == LDS {
        local::places(m, i, returned, i.offsets[0], bytes, Access::Atomic)?
    } else {
        let addresses = memory::addresses(m, i, returned, returned + 2);
        memory::places(m, &addresses, bytes)?
    };
    Ok((places, returned + 1, (returned == 1).then_some(0)))
}

fn finish<const SPACE: u8>(m: &mut Machine<'_>, i: &Inst, returned: Option<usize>, words: u8) {
    let otherwise = if SPACE == LDS { Queue::Lds } else { Queue::Vector };
    let queue = i.queue.unwrap_or(otherwise);
    let registers = returned.and_then(|index| i.operands[index].range());
    m.issue(queue, registers.map(|range| crate::inst::Range { count: words, ..range }));
}

fn misaligned(lane: usize, bytes: u32) -> Box<Error> {
    fault(
        Kind::OutOfBounds,
        format!("lane {lane}: an atomic of {bytes} bytes at an address that is no multiple of that"),
    )
}

fn set(m: &mut Machine<'_>, i: &Inst, returned: Option<usize>, part: usize, lane: usize, value: u32) {
    if let Some(index) = returned
        && let Source::Vector(register) = i.operands[index].source
    {
        m.wave.vectors[(usize::from(register) + part) & 511][lane] = value;
    }
}

fn word<const SPACE: u8>(m: &mut Machine<'_>, i: &Inst, f: impl Fn(u32, u32) -> u32) -> Outcome {
    let (places, data, returned) = locate::<SPACE>(m, i, 4)?;
    let mut x = [0; LANES];
    let data = *m.wave.raw(&i.operands[data], 0, &mut x);
    for lane in m.lanes() {
        let Some(place) = places.places[lane].filter(|_| places.valid[lane] == 4) else { continue };
        if !place.is_aligned(4) {
            return Err(misaligned(lane, 4));
        }
        let updated = place.atomic32().fetch_update(SeqCst, SeqCst, |old| Some(f(old, data[lane])));
        set(m, i, returned, 0, lane, updated.unwrap_or_default());
    }
    finish::<SPACE>(m, i, returned, 1);
    Ok(())
}

fn long<const SPACE: u8>(m: &mut Machine<'_>, i: &Inst, f: impl Fn(u64, u64) -> u64) -> Outcome {
    let (places, data, returned) = locate::<SPACE>(m, i, 8)?;
    let (mut x, mut y) = ([0; LANES], [0; LANES]);
    let low = *m.wave.raw(&i.operands[data], 0, &mut x);
    let high = *m.wave.raw(&i.operands[data], 1, &mut y);
    for lane in m.lanes() {
        let Some(place) = places.places[lane].filter(|_| places.valid[lane] == 8) else { continue };
        if !place.is_aligned(8) {
            return Err(misaligned(lane, 8));
        }
        let data = u64::from(low[lane]) | u64::from(high[lane]) << 32;
        let old = place.atomic64().fetch_update(SeqCst, SeqCst, |old| Some(f(old, data))).unwrap_or_default();
        set(m, i, returned, 0, lane, old as u32);
        set(m, i, returned, 1, lane, (old >> 32) as u32);
    }
    finish::<SPACE>(m, i, returned, 2);
    Ok(())
}

fn exchange<const SPACE: u8>(m: &mut Machine<'_>, i: &Inst, words: usize) -> Outcome {
    let bytes = 4 * words as u32;
    let (places, data, returned) = locate::<SPACE>(m, i, bytes)?;
    // In global memory one operand holds the new value and then the expected one.
    let (new, expected) = if SPACE == LDS { ((data + 1, 0), (data, 0)) } else { ((data, 0), (data, words)) };
    let value = |m: &Machine<'_>, (index, part): (usize, usize), lane: usize| {
        let (mut x, mut y) = ([0; LANES], [0; LANES]);
        let low = u64::from(m.wave.raw(&i.operands[index], part, &mut x)[lane]);
        let high = m.wave.raw(&i.operands[index], part + 1, &mut y)[lane];
        if words == 2 { low | u64::from(high) << 32 } else { low }
    };
    for lane in m.lanes() {
        let Some(place) = places.places[lane].filter(|_| u32::from(places.valid[lane]) == bytes) else {
            continue;
        };
        if !place.is_aligned(bytes as usize) {
            return Err(misaligned(lane, bytes));
        }
        let (new, expected) = (value(m, new, lane), value(m, expected, lane));
        let old = if words == 2 {
            place.atomic64().compare_exchange(expected, new, SeqCst, SeqCst).unwrap_or_else(|old| old)
        } else {
            let swapped = place.atomic32().compare_exchange(expected as u32, new as u32, SeqCst, SeqCst);
            u64::from(swapped.unwrap_or_else(|old| old))
        };
        set(m, i, returned, 0, lane, old as u32);
        if words == 2 {
            set(m, i, returned, 1, lane, (old >> 32) as u32);
        }
    }
    finish::<SPACE>(m, i, returned, words as u8);
    Ok(())
}
