//! Tables of attention kernels: rows with the heads, element types and numbers of query rows that they are for, and the
//! choice among them.

use super::{Problem, element_name};
use crate::error::{KernelError, Result};
use crate::gpu::launch::Element;
use crate::gpu::unit::Unit;
use crate::table;

/// Parameters of one kernel of a family.
pub(super) trait Params: Copy {
    fn read(row: &table::Row) -> Result<Self>;
    /// Columns of queries and keys, and of values, that the kernel holds.
    fn head(&self) -> [u32; 2];
}

/// A row of a table: parameters, the element types that they are for, and the fewest and most query rows.
pub(super) struct Ranged<P> {
    pub params: P,
    pub elements: Vec<Element>,
    q_min: u32,
    q_max: u32,
}

impl<P: Params> Ranged<P> {
    /// Without `elements` the row is for both types of 16 bits.
    pub fn read(row: &table::Row) -> Result<Self> {
        let elements = match row.get("elements") {
            Some(_) => row.text("elements")?.split_whitespace().map(element).collect::<Result<_>>()?,
            None => vec![Element::BF16, Element::F16],
        };
        Ok(Self {
            params: P::read(row)?,
            elements,
            q_min: size_or(row, "q_min", 0)?,
            q_max: size_or(row, "q_max", u32::MAX)?,
        })
    }
}

/// The non-negative integer `key`.
pub(super) fn size(row: &table::Row, key: &str) -> Result<u32> {
    Ok(u32::try_from(row.size(key)?).unwrap_or(u32::MAX))
}

/// The same, or `default` where it is missing.
pub(super) fn size_or(row: &table::Row, key: &str, default: u32) -> Result<u32> {
    Ok(u32::try_from(row.size_or(key, Some(default as usize))?).unwrap_or(u32::MAX))
}

/// An element type as tables spell it.
pub(super) fn element(name: &str) -> Result<Element> {
    match name {
        "f32" => Ok(Element::F32),
        name => [Element::BF16, Element::F16]
            .into_iter()
            .find(|element| element_name(*element).is_ok_and(|known| known == name))
            .ok_or_else(|| KernelError::table(format!("element '{name}': bf16, f16 or f32"))),
    }
}

/// The parameters for a problem: those that `is_decode` takes come before those that `is_forward` takes. Among either the
/// narrowest head that holds the problem's counts, then the first in the table.
pub(super) fn select<P: Params>(
    rows: &[Ranged<P>],
    problem: &Problem,
    is_decode: impl Fn(&P) -> bool,
    is_forward: impl Fn(&P) -> bool,
) -> Result<P> {
    let found = narrowest(rows, problem, is_decode).or_else(|| narrowest(rows, problem, is_forward));
    found.ok_or_else(|| {
        KernelError::parameter(format!(
            "no attention kernel of {:?} holds heads of {} and {} columns",
            problem.element, problem.head_qk, problem.head_v
        ))
    })
}

fn narrowest<P: Params>(rows: &[Ranged<P>], problem: &Problem, serves: impl Fn(&P) -> bool) -> Option<P> {
    let holds = |ranged: &&Ranged<P>| {
        let [qk, v] = ranged.params.head();
        qk >= problem.head_qk
            && v >= problem.head_v
            && (ranged.q_min..=ranged.q_max).contains(&problem.typical_rows())
            && ranged.elements.contains(&problem.element)
            && serves(&ranged.params)
    };
    // The first of the least.
    let width = |ranged: &&Ranged<P>| ranged.params.head().iter().sum::<u32>();
    rows.iter().filter(holds).min_by_key(width).map(|ranged| ranged.params)
}

/// A unit for every row and each of its element types, those of one name once.
pub(super) fn units<P: Params>(
    rows: &[Ranged<P>],
    unit: impl Fn(&P, Element) -> Result<Unit>,
) -> Result<Vec<Unit>> {
    let mut units: Vec<Unit> = Vec::new();
    for ranged in rows {
        for &element in &ranged.elements {
            let unit = unit(&ranged.params, element)?;
            if units.iter().all(|known| known.name != unit.name) {
                units.push(unit);
            }
        }
    }
    Ok(units)
}
