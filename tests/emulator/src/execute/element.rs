//! What one lane loads or stores, and moving it between registers and memory.

use super::Machine;
use crate::inst::{Inst, Source};
use crate::memory::Place;
use crate::wave::LANES;

/// The data of one lane: whole registers, or a byte or half word that is extended or goes to half a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Element {
    Words1 = 1,
    Words2 = 2,
    Words3 = 3,
    Words4 = 4,
    U8,
    I8,
    U16,
    I16,
    U8Low,
    U8High,
    I8Low,
    I8High,
    U16Low,
    U16High,
}

const ALL: [Element; 14] = [
    Element::Words1,
    Element::Words2,
    Element::Words3,
    Element::Words4,
    Element::U8,
    Element::I8,
    Element::U16,
    Element::I16,
    Element::U8Low,
    Element::U8High,
    Element::I8Low,
    Element::I8High,
    Element::U16Low,
    Element::U16High,
];

/// Where each executing lane finds its data.
pub(crate) struct Places {
    pub places: [Option<Place>; LANES],
    /// Bytes from the start of each lane's data that are in range; the rest loads zero and is not stored.
    pub valid: [u8; LANES],
}

impl Element {
    /// The element of the part of a mnemonic that names it, for memory and LDS instructions.
    pub fn parse(name: &str) -> Option<Element> {
        Some(match name {
            "dword" | "b32" => Element::Words1,
            "dwordx2" | "b64" => Element::Words2,
            "dwordx3" | "b96" => Element::Words3,
            "dwordx4" | "b128" => Element::Words4,
            "ubyte" | "byte" | "u8" | "b8" => Element::U8,
            "sbyte" | "i8" => Element::I8,
            "ushort" | "short" | "u16" | "b16" => Element::U16,
            "sshort" | "i16" => Element::I16,
            "ubyte_d16" | "u8_d16" => Element::U8Low,
            "ubyte_d16_hi" | "u8_d16_hi" | "byte_d16_hi" | "b8_d16_hi" => Element::U8High,
            "sbyte_d16" | "i8_d16" => Element::I8Low,
            "sbyte_d16_hi" | "i8_d16_hi" => Element::I8High,
            "short_d16" | "u16_d16" => Element::U16Low,
            "short_d16_hi" | "u16_d16_hi" | "b16_d16_hi" => Element::U16High,
            _ => return None,
        })
    }

    /// The element that decoding stored in an instruction.
    pub fn of(inst: &Inst) -> Element {
        ALL[usize::from(inst.width) - 1]
    }

    pub fn code(self) -> u8 {
        ALL.iter().position(|element| *element == self).map_or(1, |at| at as u8 + 1)
    }

    pub fn bytes(self) -> u32 {
        match self {
            Element::Words1 | Element::Words2 | Element::Words3 | Element::Words4 => 4 * self as u32,
            Element::U16 | Element::I16 | Element::U16Low | Element::U16High => 2,
            _ => 1,
        }
    }

    pub fn words(self) -> usize {
        (self.bytes() as usize).div_ceil(4)
    }

    /// The new value of the register: the old one matters to elements that fill half of it.
    fn load(self, place: Place, old: u32) -> u32 {
        let low = |half: u32| old & 0xffff_0000 | half & 0xffff;
        let high = |half: u32| old & 0xffff | half << 16;
        match self {
            Element::U8 => u32::from(place.load8()),
            Element::I8 => place.load8() as i8 as u32,
            Element::U16 => u32::from(place.load16()),
            Element::I16 => place.load16() as i16 as u32,
            Element::U8Low => low(u32::from(place.load8())),
            Element::U8High => high(u32::from(place.load8())),
            Element::I8Low => low(place.load8() as i8 as u32),
            Element::I8High => high(place.load8() as i8 as u32),
            Element::U16Low => low(u32::from(place.load16())),
            Element::U16High => high(u32::from(place.load16())),
            _ => place.load32(),
        }
    }

    fn store(self, place: Place, word: u32) {
        match self {
            Element::U8 | Element::I8 | Element::U8Low | Element::I8Low => place.store8(word as u8),
            Element::U8High | Element::I8High => place.store8((word >> 16) as u8),
            Element::U16 | Element::I16 | Element::U16Low => place.store16(word as u16),
            Element::U16High => place.store16((word >> 16) as u16),
            _ => place.store32(word),
        }
    }
}

/// Loads every lane's element into the registers of operand `index`, from its register `first` on.
pub(crate) fn load(m: &mut Machine<'_>, i: &Inst, index: usize, first: usize, element: Element, at: &Places) {
    let Source::Vector(register) = i.operands[index].source else { return };
    for part in 0..element.words() {
        let target = &mut m.wave.vectors[(usize::from(register) + first + part) & 511];
        let end = if element.bytes() < 4 { element.bytes() } else { 4 * (part as u32 + 1) };
        for lane in 0..LANES {
            let Some(place) = at.places[lane] else { continue };
            target[lane] = if u32::from(at.valid[lane]) >= end {
                element.load(place.add(4 * part), target[lane])
            } else {
                0
            };
        }
    }
}

/// Stores every lane's element from the registers of operand `index`.
pub(crate) fn store(m: &mut Machine<'_>, i: &Inst, index: usize, element: Element, at: &Places) {
    for part in 0..element.words() {
        let mut x = [0; LANES];
        let source = m.wave.raw(&i.operands[index], part, &mut x);
        let end = if element.bytes() < 4 { element.bytes() } else { 4 * (part as u32 + 1) };
        for lane in 0..LANES {
            let Some(place) = at.places[lane] else { continue };
            if u32::from(at.valid[lane]) >= end {
                element.store(place.add(4 * part), source[lane]);
            }
        }
    }
}
