//! The rows of `attention.toml`: which parameters serve which problem, and the units they are compiled from.

use super::{DecodeParams, ForwardParams, Problem, decode};
use crate::error::{KernelError, Result};
use crate::gpu::arch::{self, Arch, Tables};
use crate::gpu::attention::Mask;
use crate::gpu::chip::Chip;
use crate::gpu::launch::Element;
use crate::gpu::unit::Unit;
use crate::table;

/// Parameters of one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Row {
    Forward(ForwardParams),
    Decode(DecodeParams),
}

impl Row {
    fn head(&self) -> (u32, u32) {
        match self {
            Row::Forward(p) => (p.head_qk, p.head_v),
            Row::Decode(p) => (p.head_qk, p.head_v),
        }
    }
}

/// A row and the fewest and most query rows that it is for.
type Ranged = (Row, u32, u32);

/// All rows in the order of the table.
pub fn rows(arch: &str) -> Result<Vec<Row>> {
    Ok(ranges(arch)?.iter().map(|(row, ..)| *row).collect())
}

fn ranges(arch: &str) -> Result<&'static [Ranged]> {
    static TABLES: Tables<Vec<Ranged>> = Tables::new();
    TABLES.get(arch, read_all).map(Vec::as_slice)
}

fn read_all(arch: &Arch) -> Result<Vec<Ranged>> {
    let bound = |row: &table::Row, key: &str, default: usize| {
        row.size_or(key, Some(default)).map(|value| u32::try_from(value).unwrap_or(u32::MAX))
    };
    let ranged =
        |row: &table::Row| Ok((read(row)?, bound(row, "q_min", 0)?, bound(row, "q_max", usize::MAX)?));
    table::parse(arch.operator("attention")?.table)?.iter().map(ranged).collect()
}

fn read(row: &table::Row) -> Result<Row> {
    let size = |key: &str| Ok(u32::try_from(row.size(key)?).unwrap_or(u32::MAX));
    match row.name.as_str() {
        "forward" => Ok(Row::Forward(ForwardParams {
            head_qk: size("head_qk")?,
            head_v: size("head_v")?,
            mask: Mask::parse(row.text("mask")?)?,
            bm: size("bm")?,
            bn: size("bn")?,
            warps: size("warps")?,
            is_coded: row.size_or("codes", Some(0))? != 0,
        })),
        "decode" => Ok(Row::Decode(DecodeParams {
            head_qk: size("head_qk")?,
            head_v: size("head_v")?,
            rows: size("rows")?,
            stages: size("stages")?,
            is_coded: row.size_or("codes", Some(0))? != 0,
        })),
        other => Err(KernelError::table(format!("row [[{other}]]: forward or decode"))),
    }
}

/// The row for a problem: a decode row where one is for so few query rows, else a forward row; among those the narrowest
/// head that holds the problem's, then the first in the table.
pub(super) fn select(arch: &str, problem: &Problem, chip: &Chip) -> Result<Row> {
    let packed = problem.typical_rows().saturating_mul(problem.group());
    let is_coded = problem.codes.is_some();
    let is_decode = |row: Row| match row {
        // The tile that reads the cache once, or the widest there is.
        Row::Decode(p) => {
            problem.batch <= decode::MAX_BATCH
                && p.is_coded == is_coded
                && p.check(chip).is_ok()
                && (p.rows >= packed || p.rows == 32 || p.head_v > 128)
        }
        Row::Forward(_) => false,
    };
    let is_forward = |row: Row| match row {
        Row::Forward(p) => p.mask == Mask::of(problem) && p.is_coded == is_coded && p.check(chip).is_ok(),
        Row::Decode(_) => false,
    };
    if let Some(row) = narrowest(arch, problem, is_decode)? {
        return Ok(row);
    }
    narrowest(arch, problem, is_forward)?.ok_or_else(|| {
        KernelError::parameter(format!(
            "no attention kernel holds heads of {} and {} columns",
            problem.head_qk, problem.head_v
        ))
    })
}

fn narrowest(arch: &str, problem: &Problem, serves: impl Fn(Row) -> bool) -> Result<Option<Row>> {
    let mut best: Option<Row> = None;
    for &(row, q_min, q_max) in ranges(arch)? {
        let (qk, v) = row.head();
        let holds =
            qk >= problem.head_qk && v >= problem.head_v && (q_min..=q_max).contains(&problem.typical_rows());
        let is_better = |best: Row| qk + v < best.head().0 + best.head().1;
        if holds && serves(row) && best.is_none_or(is_better) {
            best = Some(row);
        }
    }
    Ok(best)
}

/// What the build compiles: every row for both element types.
pub fn units(arch: &str) -> Result<Vec<Unit>> {
    let operator = arch::find(arch)?.operator("attention")?;
    let (forward, decode) = (operator.texts("texts")?, operator.texts("decode_texts")?);
    let mut units: Vec<Unit> = Vec::new();
    for row in rows(arch)? {
        for element in [Element::BF16, Element::F16] {
            let unit = match row {
                Row::Forward(params) => params.unit(arch, element, &forward)?,
                Row::Decode(params) => params.unit(arch, element, &decode)?,
            };
            if units.iter().all(|known| known.name != unit.name) {
                units.push(unit);
            }
        }
    }
    Ok(units)
}
