//! Scratch: private memory of a lane.

use super::element::{self, Element, Places};
use super::{Machine, Operation, Shape};
use crate::counter::Queue;
use crate::error::{Error, Kind, Outcome, fault};
use crate::inst::{Class, Inst};
use crate::memory::Place;
use crate::wave::LANES;

pub(super) fn lookup(name: &str) -> Option<Operation> {
    let rest = name.strip_prefix("scratch_")?;
    let operation = if let Some(element) = rest.strip_prefix("load_") {
        Operation::new(Class::Scratch, Shape::Result, load).wide(Element::parse(element)?.code())
    } else {
        let element = Element::parse(rest.strip_prefix("store_")?)?;
        Operation::new(Class::Scratch, Shape::NoResult, store).wide(element.code())
    };
    Some(Operation { queue: Some(Queue::Vector), ..operation })
}

/// The place of `bytes` bytes at an offset in a lane's scratch.
pub(super) fn place(m: &mut Machine<'_>, offset: i64, bytes: u32, lane: usize) -> Result<Place, Box<Error>> {
    let size = m.wave.scratch.len() / LANES;
    if offset < 0 || offset as u64 + u64::from(bytes) > size as u64 {
        let message = format!("lane {lane} touches {bytes} bytes at {offset} of its {size} bytes of scratch");
        return Err(fault(Kind::OutOfBounds, message));
    }
    Ok(Place::inside(&mut m.wave.scratch[lane * size + offset as usize..]))
}

/// The address is the sum of a register, a scalar register and the offset; the first two may be absent.
fn places(m: &mut Machine<'_>, i: &Inst, vector: usize, scalar: usize) -> Result<Places, Box<Error>> {
    let bytes = Element::of(i).bytes();
    let mut x = [0; LANES];
    let register = *m.wave.raw(&i.operands[vector], 0, &mut x);
    let base = i64::from(m.wave.uniform(&i.operands[scalar], 0) as i32) + i64::from(i.offsets[0]);
    let mut found = Places { places: [None; LANES], valid: [bytes as u8; LANES] };
    for lane in m.lanes() {
        let own = if i.operands[vector].is_some() { i64::from(register[lane] as i32) } else { 0 };
        found.places[lane] = Some(place(m, base + own, bytes, lane)?);
    }
    Ok(found)
}

fn load(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let places = places(m, i, 1, 2)?;
    element::load(m, i, 0, 0, Element::of(i), &places);
    m.issue(Queue::Vector, i.operands[0].range());
    Ok(())
}

fn store(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let places = places(m, i, 0, 2)?;
    element::store(m, i, 1, Element::of(i), &places);
    m.issue(Queue::Vector, None);
    Ok(())
}
