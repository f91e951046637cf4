//! Conversions with a block scale (gfx950): formats of 8, 6 and 4 bits from and to wider floats.
//!
//! The scale is the exponent of a single float: narrowing divides by that power of two, widening multiplies by it.
//! Narrowing saturates.

use super::{Machine, Operation, Shape};
use crate::error::Outcome;
use crate::float::{
    BF6, BF8, FP4, FP6, FP8, Format, brain_to_single, half_to_single, single_to_brain, single_to_half,
};
use crate::inst::Inst;
use crate::wave::LANES;

const SMALL: [(&str, Format); 5] = [("fp8", FP8), ("bf8", BF8), ("fp6", FP6), ("bf6", BF6), ("fp4", FP4)];
const WIDE: [&str; 3] = ["f32", "f16", "bf16"];

/// What a mnemonic says, packed into the operation's small number.
#[derive(Clone, Copy)]
struct Conversion {
    small: u8,
    wide: u8,
    stochastic: bool,
    widens: bool,
    packed: bool,
}

impl Conversion {
    fn parse(name: &str) -> Option<Conversion> {
        let rest = name.strip_prefix("v_cvt_scalef32_")?;
        let (stochastic, rest) = rest.strip_prefix("sr_").map_or((false, rest), |rest| (true, rest));
        let counts = ["2xpk16_", "pk32_", "pk_"];
        let unpacked = counts.iter().find_map(|count| rest.strip_prefix(count));
        let (packed, rest) = unpacked.map_or((false, rest), |rest| (true, rest));
        let (to, from) = rest.split_once('_')?;
        let small = |name: &str| SMALL.iter().position(|(small, _)| *small == name);
        let wide = |name: &str| WIDE.iter().position(|wide| *wide == name);
        let (widens, small, wide) = match (small(to), wide(from)) {
            (Some(to), Some(from)) => (false, to, from),
            _ => (true, small(from)?, wide(to)?),
        };
        Some(Conversion { small: small as u8, wide: wide as u8, stochastic, widens, packed })
    }

    fn pack(self) -> u8 {
        let flags = [self.stochastic, self.widens, self.packed].map(u8::from);
        self.small | self.wide << 3 | flags[0] << 5 | flags[1] << 6 | flags[2] << 7
    }

    fn unpack(bits: u8) -> Conversion {
        let flag = |at: u8| bits >> at & 1 == 1;
        Conversion {
            small: bits & 7,
            wide: bits >> 3 & 3,
            stochastic: flag(5),
            widens: flag(6),
            packed: flag(7),
        }
    }

    fn format(self) -> Format {
        SMALL[usize::from(self.small)].1
    }

    /// Elements a lane converts.
    fn count(self) -> usize {
        match (self.format().bits(), self.packed) {
            (6, _) => 32,
            (_, true) => 2,
            (_, false) => 1,
        }
    }

    fn wide_bits(self) -> usize {
        if self.wide == 0 { 32 } else { 16 }
    }
}

pub(super) fn lookup(name: &str) -> Option<Operation> {
    let conversion = Conversion::parse(name)?;
    let operation = if conversion.widens {
        Operation::vector(widen)
    } else if conversion.format().bits() == 6 {
        Operation::vector(narrow)
    } else {
        // The rest of the destination keeps its value.
        Operation::vector(narrow).shaped(Shape::Update)
    };
    Some(operation.wide(conversion.pack()))
}

fn scale_of(word: u32) -> f64 {
    2f64.powi((word >> 23 & 255) as i32 - 127)
}

/// Bits `at` to `at + bits` of a lane's words.
fn extract(words: &[u32], at: usize, bits: usize) -> u32 {
    let (word, shift) = (at / 32, at % 32);
    let low = u64::from(words[word]);
    let high = u64::from(words.get(word + 1).copied().unwrap_or(0));
    ((high << 32 | low) >> shift) as u32 & ((1u64 << bits) - 1) as u32
}

fn insert(words: &mut [u32], at: usize, bits: usize, value: u32) {
    let mask = ((1u64 << bits) - 1) as u32;
    for bit in 0..bits {
        let place = at + bit;
        words[place / 32] =
            words[place / 32] & !(1 << (place % 32)) | (value & mask) >> bit << 31 >> (31 - place % 32);
    }
}

/// A lane's words of an operand.
fn words_of(m: &Machine<'_>, i: &Inst, index: usize, lane: usize) -> [u32; 33] {
    let mut words = [0; 33];
    for part in 0..usize::from(i.operands[index].count.max(1)) {
        let mut x = [0; LANES];
        words[part] = m.wave.source(i, index, part, &mut x)[lane];
    }
    words
}

fn widen(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let conversion = Conversion::unpack(i.width);
    let (format, count) = (conversion.format(), conversion.count());
    let bits = format.bits() as usize;
    // Which part of the source holds the elements.
    let start = match (bits, conversion.packed) {
        (6, _) => 0,
        (8, true) => 16 * usize::from(i.modifiers.op_sel & 1),
        _ => 8 * usize::from(i.modifiers.op_sel & 3),
    };
    let high_half = !conversion.packed && conversion.wide != 0 && i.modifiers.op_sel >> 3 & 1 == 1;
    for lane in m.lanes() {
        let source = words_of(m, i, 1, lane);
        let scale = scale_of(words_of(m, i, 2, lane)[0]);
        let mut result = words_of(m, i, 0, lane);
        for element in 0..count {
            let pattern = extract(&source, start + element * bits, bits) as u8;
            let value = (f64::from(format.decode(pattern)) * scale) as f32;
            let encoded = match conversion.wide {
                0 => value.to_bits(),
                1 => u32::from(single_to_half(value)),
                _ => u32::from(single_to_brain(value)),
            };
            let wide = conversion.wide_bits();
            insert(&mut result, element * wide + 16 * usize::from(high_half), wide, encoded);
        }
        store(m, i, lane, &result);
    }
    Ok(())
}

fn narrow(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let conversion = Conversion::unpack(i.width);
    let (format, count) = (conversion.format(), conversion.count());
    let bits = format.bits() as usize;
    let start = match (bits, conversion.packed) {
        (6, _) => 0,
        (8, true) => 16 * usize::from(i.modifiers.op_sel >> 3 & 1),
        _ => 8 * usize::from(i.modifiers.op_sel >> 2 & 3),
    };
    let scale_index = (2..=3).rfind(|&index| i.operands[index].is_some()).unwrap_or(2);
    // Two sources of single floats are interleaved or one after the other; all others are one operand.
    let two_sources = conversion.wide == 0 && !conversion.stochastic;
    let wide = conversion.wide_bits();
    for lane in m.lanes() {
        let first = words_of(m, i, 1, lane);
        let second = words_of(m, i, 2, lane);
        let scale = scale_of(words_of(m, i, scale_index, lane)[0]);
        let mut random = second[0];
        let mut result = words_of(m, i, 0, lane);
        for element in 0..count {
            let word = if two_sources {
                [&first, &second][element % 2][element / 2]
            } else {
                extract(&first, element * wide, wide)
            };
            let value = match conversion.wide {
                0 => f32::from_bits(word),
                1 => half_to_single(word as u16),
                _ => brain_to_single(word as u16),
            };
            let value = (f64::from(value) / scale) as f32;
            let pattern = if conversion.stochastic {
                let pattern = format.encode_stochastic(value, true, random);
                random = random << 1 ^ if random >> 31 == 1 { 197 } else { 0 };
                pattern
            } else {
                format.encode(value, true)
            };
            insert(&mut result, start + element * bits, bits, u32::from(pattern));
        }
        store(m, i, lane, &result);
    }
    Ok(())
}

fn store(m: &mut Machine<'_>, i: &Inst, lane: usize, words: &[u32; 33]) {
    let Some(range) = i.operands[0].range() else { return };
    for part in 0..usize::from(range.count) {
        m.wave.vectors[usize::from(range.first) + part][lane] = words[part];
    }
}
