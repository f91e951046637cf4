//! Global and flat memory: loads, stores, loads straight into LDS.

use super::element::{self, Element, Places};
use super::lds_access::Touch;
use super::{Machine, Operation, Shape, atomic, lds_access, scratch};
use crate::counter::Queue;
use crate::error::{Error, Kind, Outcome, fault};
use crate::inst::{Class, Inst};
use crate::memory::Place;
use crate::shadow::Access;
use crate::syntax::Text;
use crate::wave::{LANES, M0, PRIVATE_BASE, SHARED_BASE};

pub(super) fn lookup(name: &str, text: &Text<'_>) -> Option<Operation> {
    let (flat, rest) = match name.strip_prefix("flat_") {
        Some(rest) => (true, rest),
        None => (false, name.strip_prefix("global_")?),
    };
    let queue = Some(if flat { Queue::Flat } else { Queue::Vector });
    if let Some(element) = rest.strip_prefix("load_lds_") {
        let operation = Operation::new(Class::DirectToLds, Shape::NoResult, load_to_lds);
        return Some(Operation { queue, ..operation.wide(Element::parse(element)?.code()) });
    }
    if let Some(element) = rest.strip_prefix("load_") {
        let execute = if flat { flat_load } else { load };
        let operation = Operation::new(Class::GlobalLoad, Shape::Result, execute);
        return Some(Operation { queue, ..operation.wide(Element::parse(element)?.code()) });
    }
    if let Some(element) = rest.strip_prefix("store_") {
        let execute = if flat { flat_store } else { store };
        let operation = Operation::new(Class::GlobalStore, Shape::NoResult, execute);
        let element = Element::parse(element)?;
        return Some(Operation { queue, ..operation.wide(element.code()) });
    }
    let operation = atomic::global(rest.strip_prefix("atomic_")?, text)?;
    Some(Operation { queue, ..operation })
}

/// The address of each lane: a 64-bit register pair, or a scalar base and a 32-bit register.
pub(super) fn addresses(m: &Machine<'_>, i: &Inst, vector: usize, scalar: usize) -> [u64; LANES] {
    let (mut x, mut y) = ([0; LANES], [0; LANES]);
    let offset = i.offsets[0] as i64 as u64;
    let low = m.wave.raw(&i.operands[vector], 0, &mut x);
    if i.operands[scalar].is_some() {
        let base = m.wave.uniform64(&i.operands[scalar]).wrapping_add(offset);
        return std::array::from_fn(|lane| base.wrapping_add(u64::from(low[lane])));
    }
    let high = m.wave.raw(&i.operands[vector], 1, &mut y);
    std::array::from_fn(|lane| (u64::from(low[lane]) | u64::from(high[lane]) << 32).wrapping_add(offset))
}

/// The place of each executing lane's `bytes` bytes.
pub(super) fn places(
    m: &mut Machine<'_>,
    addresses: &[u64; LANES],
    bytes: u32,
) -> Result<Places, Box<Error>> {
    let mut found = Places { places: [None; LANES], valid: [bytes as u8; LANES] };
    let exec = m.wave.exec();
    for lane in 0..LANES {
        if exec >> lane & 1 == 1 {
            found.places[lane] = Some(place(m, addresses[lane], bytes, lane)?);
        }
    }
    Ok(found)
}

#[inline]
pub(super) fn place(m: &mut Machine<'_>, address: u64, bytes: u32, lane: usize) -> Result<Place, Box<Error>> {
    match m.context.view.place(address, u64::from(bytes), &mut m.hint) {
        Some(place) => Ok(place),
        None => Err(outside(m, address, bytes, lane)),
    }
}

#[cold]
fn outside(m: &Machine<'_>, address: u64, bytes: u32, lane: usize) -> Box<Error> {
    let place = m.context.view.describe(address);
    fault(Kind::OutOfBounds, format!("lane {lane} touches {bytes} bytes at {address:#x}, {place}"))
}

fn load(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let element = Element::of(i);
    let addresses = addresses(m, i, 1, 2);
    let places = places(m, &addresses, element.bytes())?;
    element::load(m, i, 0, 0, element, &places);
    m.report.bytes_read += u64::from(m.wave.exec().count_ones() * element.bytes());
    m.issue(Queue::Vector, i.operands[0].range());
    Ok(())
}

fn store(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let element = Element::of(i);
    let addresses = addresses(m, i, 0, 2);
    let places = places(m, &addresses, element.bytes())?;
    element::store(m, i, 1, element, &places);
    m.report.bytes_written += u64::from(m.wave.exec().count_ones() * element.bytes());
    m.issue(Queue::Vector, None);
    Ok(())
}

/// Where lane data of a flat instruction lies: LDS, scratch or global memory, by the upper half of the address.
fn flat_places(m: &mut Machine<'_>, i: &Inst, vector: usize, access: Access) -> Result<Places, Box<Error>> {
    const APERTURE: u64 = 0xffff_0000_0000_0000;
    let bytes = Element::of(i).bytes();
    let addresses = addresses(m, i, vector, 3);
    let mut found = Places { places: [None; LANES], valid: [bytes as u8; LANES] };
    let mut touch: Option<Touch> = None;
    for lane in m.lanes() {
        let address = addresses[lane];
        let inside = (address & !APERTURE) as u32;
        found.places[lane] = Some(match address & APERTURE {
            SHARED_BASE => {
                let touch = touch.get_or_insert_with(|| lds_access::begin(m, access));
                touch.lane(m, lane, inside, bytes)?
            }
            PRIVATE_BASE => scratch::place(m, i64::from(inside), bytes, lane)?,
            _ => place(m, address, bytes, lane)?,
        });
    }
    Ok(found)
}

fn flat_load(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let element = Element::of(i);
    let places = flat_places(m, i, 1, Access::Read)?;
    element::load(m, i, 0, 0, element, &places);
    m.report.bytes_read += u64::from(m.wave.exec().count_ones() * element.bytes());
    m.issue(Queue::Flat, i.operands[0].range());
    Ok(())
}

fn flat_store(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let element = Element::of(i);
    let places = flat_places(m, i, 0, Access::Write)?;
    element::store(m, i, 1, element, &places);
    m.report.bytes_written += u64::from(m.wave.exec().count_ones() * element.bytes());
    m.issue(Queue::Flat, None);
    Ok(())
}

/// Loads into LDS at M0 + offset + lane times the element's size, without registers between.
fn load_to_lds(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let element = Element::of(i);
    let addresses = addresses(m, i, 0, 1);
    let places = places(m, &addresses, element.bytes())?;
    m.report.bytes_read += u64::from(m.wave.exec().count_ones() * element.bytes());
    to_lds(m, i, element, &places)
}

/// Copies each lane's element to its place in LDS.
pub(super) fn to_lds(m: &mut Machine<'_>, i: &Inst, element: Element, from: &Places) -> Outcome {
    m.issue(Queue::Vector, None);
    let touch = lds_access::begin(m, Access::Direct);
    let base = m.wave.scalars[M0].wrapping_add(i.offsets[0] as u32);
    // Bytes and half words fill a whole word.
    let bytes = element.bytes().max(4);
    for lane in m.lanes() {
        let Some(source) = from.places[lane] else { continue };
        let to = touch.lane(m, lane, base.wrapping_add(lane as u32 * bytes), bytes)?;
        for part in 0..element.words() {
            let in_range = u32::from(from.valid[lane]) >= element.bytes().min(4 * (part as u32 + 1));
            let word = match element {
                _ if !in_range => 0,
                Element::U8 => u32::from(source.load8()),
                Element::I8 => source.load8() as i8 as u32,
                Element::U16 => u32::from(source.load16()),
                Element::I16 => source.load16() as i16 as u32,
                _ => source.add(4 * part).load32(),
            };
            to.add(4 * part).store32(word);
        }
    }
    Ok(())
}
