//! LDS instructions: reads, writes, pairs, transposed reads, atomics, and lane permutations that use its crossbar.

use super::element::{self, Element, Places};
use super::{Machine, Operation, Shape, atomic, lds_access};
use crate::bank;
use crate::counter::Queue;
use crate::error::{Error, Kind, Outcome, fault};
use crate::inst::{Class, Execute, Inst};
use crate::launch::Mutation;
use crate::shadow::Access;
use crate::wave::{LANES, Register};

pub(super) fn lookup(name: &str) -> Option<Operation> {
    let rest = name.strip_prefix("ds_")?;
    let make = |shape, execute: Execute| Operation {
        queue: Some(Queue::Lds),
        ..Operation::new(Class::Lds, shape, execute)
    };
    let width = |name: &str| if name.ends_with("b64") { 2 } else { 1 };
    let special = match rest {
        "nop" => Some(Operation::new(Class::Lds, Shape::NoResult, super::nothing)),
        "bpermute_b32" => Some(make(Shape::Result, pull)),
        "permute_b32" => Some(make(Shape::Result, push)),
        "swizzle_b32" => Some(make(Shape::Result, swizzle)),
        "read2_b32" | "read2_b64" => Some(make(Shape::Result, |m, i| read_pair(m, i, 1)).wide(width(rest))),
        "read2st64_b32" | "read2st64_b64" => {
            Some(make(Shape::Result, |m, i| read_pair(m, i, 64)).wide(width(rest)))
        }
        "write2_b32" | "write2_b64" => {
            Some(make(Shape::NoResult, |m, i| write_pair(m, i, 1)).wide(width(rest)))
        }
        "write2st64_b32" | "write2st64_b64" => {
            Some(make(Shape::NoResult, |m, i| write_pair(m, i, 64)).wide(width(rest)))
        }
        "read_b64_tr_b16" => Some(make(Shape::Result, |m, i| read_transposed(m, i, 16)).wide(2)),
        "read_b64_tr_b8" => Some(make(Shape::Result, |m, i| read_transposed(m, i, 8)).wide(2)),
        "read_b64_tr_b4" => Some(make(Shape::Result, |m, i| read_transposed(m, i, 4)).wide(2)),
        "read_b96_tr_b6" => Some(make(Shape::Result, |m, i| read_transposed(m, i, 6)).wide(3)),
        _ => None,
    };
    if special.is_some() {
        return special;
    }
    if let Some(element) = rest.strip_prefix("read_").and_then(Element::parse) {
        return Some(make(Shape::Result, read).wide(element.code()));
    }
    if let Some(element) = rest.strip_prefix("write_").and_then(Element::parse) {
        let granule = element.bytes().min(4) as u8;
        return Some(Operation { granule, ..make(Shape::NoResult, write).wide(element.code()) });
    }
    let operation = atomic::lds(rest)?;
    Some(Operation { queue: Some(Queue::Lds), ..operation })
}

/// The LDS address of each lane: a register plus an offset.
fn addresses(m: &Machine<'_>, i: &Inst, index: usize, offset: i32) -> Register {
    let mut x = [0; LANES];
    m.wave.raw(&i.operands[index], 0, &mut x).map(|address| address.wrapping_add(offset as u32))
}

/// The places of all executing lanes, checked for bounds and races, their cycles counted.
pub(super) fn places(
    m: &mut Machine<'_>,
    i: &Inst,
    index: usize,
    offset: i32,
    bytes: u32,
    access: Access,
) -> Result<Places, Box<Error>> {
    let addresses = addresses(m, i, index, offset);
    if m.context.options.bank_conflicts {
        let cycles = bank::cycles(m.context.target, &addresses, m.wave.exec(), bytes, access != Access::Read);
        m.report.lds_cycles += u64::from(cycles.total);
        m.report.lds_conflict_cycles += u64::from(cycles.conflicts);
    }
    let touch = lds_access::begin(m, access);
    let mut found = Places { places: [None; LANES], valid: [bytes as u8; LANES] };
    let exec = m.wave.exec();
    for lane in 0..LANES {
        if exec >> lane & 1 == 1 {
            found.places[lane] = Some(touch.lane(m, lane, addresses[lane], bytes)?);
        }
    }
    Ok(found)
}

fn read(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let element = Element::of(i);
    let places = places(m, i, 1, i.offsets[0], element.bytes(), Access::Read)?;
    element::load(m, i, 0, 0, element, &places);
    m.issue(Queue::Lds, i.operands[0].range());
    Ok(())
}

fn write(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let element = Element::of(i);
    let places = places(m, i, 0, i.offsets[0], element.bytes(), Access::Write)?;
    element::store(m, i, 1, element, &places);
    m.issue(Queue::Lds, None);
    Ok(())
}

/// The element of a pair, and the byte offsets of its two halves; offsets count elements times `stride`.
fn pair(i: &Inst, stride: i32) -> (Element, [i32; 2]) {
    let element = if i.width == 2 { Element::Words2 } else { Element::Words1 };
    (element, i.offsets.map(|offset| offset * stride * element.bytes() as i32))
}

fn read_pair(m: &mut Machine<'_>, i: &Inst, stride: i32) -> Outcome {
    let (element, offsets) = pair(i, stride);
    // The address register may be among the destinations, so both places come first.
    let first = places(m, i, 1, offsets[0], element.bytes(), Access::Read)?;
    let second = places(m, i, 1, offsets[1], element.bytes(), Access::Read)?;
    element::load(m, i, 0, 0, element, &first);
    element::load(m, i, 0, element.words(), element, &second);
    m.issue(Queue::Lds, i.operands[0].range());
    Ok(())
}

fn write_pair(m: &mut Machine<'_>, i: &Inst, stride: i32) -> Outcome {
    let (element, offsets) = pair(i, stride);
    for (half, offset) in offsets.into_iter().enumerate() {
        let places = places(m, i, 0, offset, element.bytes(), Access::Write)?;
        element::store(m, i, 1 + half, element, &places);
    }
    m.issue(Queue::Lds, None);
    Ok(())
}

/// Reads a tile of 16 columns per 16 lanes and transposes it: each lane reads consecutive elements of a row, and
/// receives elements of one column. A row of 16 elements lies in as many consecutive lanes as it needs.
fn read_transposed(m: &mut Machine<'_>, i: &Inst, bits: usize) -> Outcome {
    let words = usize::from(i.width);
    let places = places(m, i, 1, i.offsets[0], 4 * words as u32, Access::Read)?;
    let mut raw = [[0u32; 4]; LANES];
    for lane in 0..LANES {
        let Some(place) = places.places[lane] else {
            return Err(fault(Kind::Unsupported, "reads LDS transposed while some lanes do not execute"));
        };
        for (part, word) in raw[lane].iter_mut().take(words).enumerate() {
            *word = place.add(4 * part).load32();
        }
    }
    if m.context.options.mutation != Some(Mutation::TransposeIgnored) {
        raw = transpose(&raw, bits, words);
    }
    for part in 0..words {
        let value: Register = std::array::from_fn(|lane| raw[lane][part]);
        m.wave.write(i, 0, part, &value);
    }
    m.issue(Queue::Lds, i.operands[0].range());
    Ok(())
}

fn transpose(raw: &[[u32; 4]; LANES], bits: usize, words: usize) -> [[u32; 4]; LANES] {
    let elements = words * 32 / bits;
    let lanes_of_row = 16 / elements;
    let element = |lane: usize, at: usize| {
        let (word, shift) = (at * bits / 32, at * bits % 32);
        let next = raw[lane].get(word + 1).copied().unwrap_or(0);
        let pair = u64::from(raw[lane][word]) | u64::from(next) << 32;
        pair >> shift & ((1 << bits) - 1)
    };
    let mut result = [[0u32; 4]; LANES];
    for (lane, words) in result.iter_mut().enumerate() {
        let (group, column) = (lane & !15, lane & 15);
        let mut packed = 0u128;
        for row in 0..elements {
            let from = group + lanes_of_row * row + column / elements;
            packed |= u128::from(element(from, column % elements)) << (row * bits);
        }
        *words = std::array::from_fn(|part| (packed >> (32 * part)) as u32);
    }
    result
}

/// Each lane reads the data of the lane its address names; lanes that do not execute give zero.
fn pull(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let addresses = addresses(m, i, 1, i.offsets[0]);
    let mut x = [0; LANES];
    let data = m.wave.raw(&i.operands[2], 0, &mut x);
    let exec = m.wave.exec();
    let result: Register = std::array::from_fn(|lane| {
        let from = addresses[lane] as usize / 4 % LANES;
        if exec >> from & 1 == 1 { data[from] } else { 0 }
    });
    m.wave.write(i, 0, 0, &result);
    m.issue(Queue::Lds, i.operands[0].range());
    Ok(())
}

/// Each lane sends its data to the lane its address names; the highest sender wins.
fn push(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let addresses = addresses(m, i, 1, i.offsets[0]);
    let mut x = [0; LANES];
    let data = m.wave.raw(&i.operands[2], 0, &mut x);
    let mut result = [0; LANES];
    for lane in m.lanes() {
        result[addresses[lane] as usize / 4 % LANES] = data[lane];
    }
    m.wave.write(i, 0, 0, &result);
    m.issue(Queue::Lds, i.operands[0].range());
    Ok(())
}

/// Permutes lanes by the pattern in the offset: within groups of four, or by masks within groups of 32.
fn swizzle(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let pattern = i.immediate as usize;
    let mut x = [0; LANES];
    let data = m.wave.raw(&i.operands[1], 0, &mut x);
    let exec = m.wave.exec();
    let result: Register = std::array::from_fn(|lane| {
        let from = if pattern & 0x8000 != 0 {
            lane & !3 | pattern >> (2 * (lane & 3)) & 3
        } else {
            let (and, or, xor) = (pattern & 31, pattern >> 5 & 31, pattern >> 10 & 31);
            lane & 32 | (lane & and | or) ^ xor
        };
        if exec >> from & 1 == 1 { data[from] } else { 0 }
    });
    m.wave.write(i, 0, 0, &result);
    m.issue(Queue::Lds, i.operands[0].range());
    Ok(())
}
