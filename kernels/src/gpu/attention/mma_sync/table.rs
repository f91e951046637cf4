//! The rows of `attention.toml`: which parameters serve which problem, and the units they are compiled from.

use super::{DecodeParams, ForwardParams, Problem, decode, element_name};
use crate::error::{KernelError, Result};
use crate::gpu::arch::{self, Arch, Tables};
use crate::gpu::attention::Mask;
use crate::gpu::attention::table::{self as shared, Params, Ranged, size, size_or};
use crate::gpu::chip::Chip;
use crate::gpu::unit::Unit;
use crate::table;

/// Parameters of one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Row {
    Forward(ForwardParams),
    Decode(DecodeParams),
}

impl Params for Row {
    fn head(&self) -> [u32; 2] {
        match self {
            Row::Forward(p) => [p.head_qk, p.head_v],
            Row::Decode(p) => [p.head_qk, p.head_v],
        }
    }

    fn read(row: &table::Row) -> Result<Row> {
        match row.name.as_str() {
            "forward" => Ok(Row::Forward(read_forward(row, size_or(row, "codes", 0)? != 0)?)),
            "decode" => Ok(Row::Decode(DecodeParams {
                head_qk: size(row, "head_qk")?,
                head_v: size(row, "head_v")?,
                rows: size(row, "rows")?,
                stages: size(row, "stages")?,
                is_coded: size_or(row, "codes", 0)? != 0,
            })),
            other => Err(KernelError::table(format!("row [[{other}]]: forward or decode"))),
        }
    }
}

/// A kernel for many query rows from its row.
pub(in crate::gpu::attention) fn read_forward(row: &table::Row, is_coded: bool) -> Result<ForwardParams> {
    Ok(ForwardParams {
        head_qk: size(row, "head_qk")?,
        head_v: size(row, "head_v")?,
        mask: Mask::parse(row.text("mask")?)?,
        bm: size(row, "bm")?,
        bn: size(row, "bn")?,
        warps: size(row, "warps")?,
        is_coded,
    })
}

/// All rows in the order of the table.
pub fn rows(arch: &str) -> Result<Vec<Row>> {
    Ok(ranges(arch)?.iter().map(|ranged| ranged.params).collect())
}

fn ranges(arch: &str) -> Result<&'static [Ranged<Row>]> {
    static TABLES: Tables<Vec<Ranged<Row>>> = Tables::new();
    let read =
        |arch: &Arch| table::parse(arch.operator("attention")?.table)?.iter().map(Ranged::read).collect();
    TABLES.get(arch, read).map(Vec::as_slice)
}

/// The row for a problem: a decode row where one is for so few query rows, else a forward row.
pub(super) fn select(arch: &str, problem: &Problem, chip: &Chip) -> Result<Row> {
    element_name(problem.element)?;
    let packed = problem.typical_rows().saturating_mul(problem.group());
    let is_coded = problem.codes.is_some();
    let is_decode = |row: &Row| match row {
        // The tile that reads the cache once, or the widest there is; masks only over elements.
        Row::Decode(p) => {
            problem.batch <= decode::MAX_BATCH
                && p.is_coded == is_coded
                && !(is_coded && problem.mask.is_some())
                && p.check(chip).is_ok()
                && (p.rows >= packed || p.rows == 32 || p.head_v > 128)
        }
        Row::Forward(_) => false,
    };
    let is_forward = |row: &Row| match row {
        Row::Forward(p) => p.mask == Mask::of(problem) && p.is_coded == is_coded && p.check(chip).is_ok(),
        Row::Decode(_) => false,
    };
    shared::select(ranges(arch)?, problem, is_decode, is_forward)
}

/// What the build compiles: every row for both element types.
pub fn units(arch: &str) -> Result<Vec<Unit>> {
    let operator = arch::find(arch)?.operator("attention")?;
    let (forward, decode) = (operator.texts("texts")?, operator.texts("decode_texts")?);
    shared::units(ranges(arch)?, |row, element| match row {
        Row::Forward(params) => params.unit(arch, element, &forward),
        Row::Decode(params) => params.unit(arch, element, &decode),
    })
}
