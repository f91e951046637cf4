//! Memory through a buffer descriptor: base, stride, number of records; what is out of its range reads zero and is
//! not written.

use super::element::{self, Element, Places};
use super::{Machine, Operation, Shape, atomic, global};
use crate::counter::Queue;
use crate::error::{Error, Outcome};
use crate::inst::{Class, Inst};
use crate::memory::Place;
use crate::syntax::Text;
use crate::wave::LANES;

pub(super) fn lookup(name: &str, text: &Text<'_>) -> Option<Operation> {
    if matches!(name, "buffer_wbl2" | "buffer_inv" | "buffer_wbinvl1" | "buffer_wbinvl1_vol") {
        return super::flow::lookup(name);
    }
    let rest = name.strip_prefix("buffer_")?;
    let queue = Some(Queue::Vector);
    if let Some(element) = rest.strip_prefix("load_") {
        let code = Element::parse(element)?.code();
        let operation = if text.has("lds") {
            Operation::new(Class::DirectToLds, Shape::NoResult, load_to_lds)
        } else {
            Operation::new(Class::GlobalLoad, Shape::Result, load)
        };
        return Some(Operation { queue, ..operation.wide(code) });
    }
    if let Some(element) = rest.strip_prefix("store_") {
        let operation = Operation::new(Class::GlobalStore, Shape::NoResult, store);
        return Some(Operation { queue, ..operation.wide(Element::parse(element)?.code()) });
    }
    let operation = atomic::buffer(rest.strip_prefix("atomic_")?, text)?;
    Some(Operation { queue, ..operation })
}

/// The places of all lanes. Operands from `vector` on: register with index and offset, descriptor, scalar offset.
pub(super) fn places(m: &mut Machine<'_>, i: &Inst, vector: usize, bytes: u32) -> Result<Places, Box<Error>> {
    let descriptor: [u32; 4] = std::array::from_fn(|part| m.wave.uniform(&i.operands[vector + 1], part));
    let base = u64::from(descriptor[0]) | u64::from(descriptor[1] & 0xffff) << 32;
    let stride = u64::from(descriptor[1] >> 16 & 0x3fff);
    let records = u64::from(descriptor[2]);
    let scalar = u64::from(m.wave.uniform(&i.operands[vector + 2], 0));
    let (mut x, mut y) = ([0; LANES], [0; LANES]);
    let first = *m.wave.raw(&i.operands[vector], 0, &mut x);
    let second = *m.wave.raw(&i.operands[vector], 1, &mut y);
    let mut found = Places { places: [None; LANES], valid: [0; LANES] };
    for lane in m.lanes() {
        let index = if i.modifiers.idxen { u64::from(first[lane]) } else { 0 };
        let own = match (i.modifiers.offen, i.modifiers.idxen) {
            (true, true) => second[lane],
            (true, false) => first[lane],
            (false, _) => 0,
        };
        let offset = u64::from(own) + i.offsets[0] as u64;
        let valid = if stride == 0 || !i.modifiers.idxen {
            records.saturating_sub(scalar).saturating_sub(offset + index * stride).min(u64::from(bytes))
        } else if index < records && offset + u64::from(bytes) <= stride {
            u64::from(bytes)
        } else {
            0
        };
        // Words are in range or not as a whole.
        let valid = if bytes >= 4 { valid as u32 & !3 } else { valid as u32 };
        found.valid[lane] = valid as u8;
        let address = base.wrapping_add(index * stride).wrapping_add(offset).wrapping_add(scalar);
        // Lanes out of range still take part, so that they read zero; their place is never touched.
        found.places[lane] = Some(match valid {
            0 => Place::NOWHERE,
            _ => global::place(m, address, valid, lane)?,
        });
    }
    Ok(found)
}

fn load(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let element = Element::of(i);
    let places = places(m, i, 1, element.bytes())?;
    element::load(m, i, 0, 0, element, &places);
    m.report.bytes_read += places.valid.iter().map(|&bytes| u64::from(bytes)).sum::<u64>();
    m.issue(Queue::Vector, i.operands[0].range());
    Ok(())
}

fn store(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let element = Element::of(i);
    let places = places(m, i, 1, element.bytes())?;
    element::store(m, i, 0, element, &places);
    m.report.bytes_written += places.valid.iter().map(|&bytes| u64::from(bytes)).sum::<u64>();
    m.issue(Queue::Vector, None);
    Ok(())
}

fn load_to_lds(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let element = Element::of(i);
    let places = places(m, i, 0, element.bytes())?;
    m.report.bytes_read += places.valid.iter().map(|&bytes| u64::from(bytes)).sum::<u64>();
    global::to_lds(m, i, element, &places)
}
