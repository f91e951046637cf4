//! The rows of `attention.toml`: which parameters serve which problem, and the units they are compiled from.

use super::{DecodeParams, ForwardParams, Problem, decode, element_name};
use crate::error::{KernelError, Result};
use crate::gpu::arch::{self, Arch, Tables};
use crate::gpu::attention::table::{self as shared, Params, Ranged, size, size_or};
use crate::gpu::attention::{Mask, mma_sync};
use crate::gpu::chip::Chip;
use crate::gpu::unit::Unit;
use crate::table;

/// Parameters of one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Row {
    Forward(ForwardParams),
    Decode(DecodeParams),
    /// By warps, over a cache of codes.
    CodedForward(mma_sync::ForwardParams),
}

impl Params for Row {
    fn head(&self) -> [u32; 2] {
        match self {
            Row::Forward(p) => [p.head_qk, p.head_v],
            Row::Decode(p) => [p.head_qk, p.head_v],
            Row::CodedForward(p) => [p.head_qk, p.head_v],
        }
    }

    fn read(row: &table::Row) -> Result<Row> {
        match row.name.as_str() {
            "forward" => Ok(Row::Forward(ForwardParams {
                head_qk: size(row, "head_qk")?,
                head_v: size(row, "head_v")?,
                mask: Mask::parse(row.text("mask")?)?,
                bm: size(row, "bm")?,
                bn: size(row, "bn")?,
                stages: size(row, "stages")?,
                ping_pong: size(row, "ping_pong")? != 0,
            })),
            "decode" => Ok(Row::Decode(DecodeParams {
                head_qk: size(row, "head_qk")?,
                head_v: size(row, "head_v")?,
                rows: size(row, "rows")?,
                heads: size_or(row, "heads", 1)?,
                stages: size(row, "stages")?,
                is_coded: size_or(row, "codes", 0)? != 0,
                resident: size_or(row, "resident", 1)?,
            })),
            "coded_forward" => Ok(Row::CodedForward(mma_sync::read_forward(row, true)?)),
            other => Err(KernelError::table(format!("row [[{other}]]: forward, decode or coded_forward"))),
        }
    }
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
    let is_coded = problem.codes.is_some();
    // Fewer keys do not pay for cutting them into runs of twice as many blocks.
    let is_much = decode::key_blocks(problem) >= u64::from(chip.compute_units) * 96;
    let is_decode = |row: &Row| match row {
        Row::Decode(p) => {
            problem.batch <= decode::MAX_BATCH
                && p.is_coded == is_coded
                && !(is_coded && problem.mask.is_some())
                && (p.resident == 1 || is_much)
                && p.is_for_rows(problem)
        }
        Row::Forward(_) | Row::CodedForward(_) => false,
    };
    let is_forward = |row: &Row| match row {
        Row::Forward(p) => p.mask == Mask::of(problem) && !is_coded,
        Row::CodedForward(p) => p.mask == Mask::of(problem) && is_coded,
        Row::Decode(_) => false,
    };
    shared::select(ranges(arch)?, problem, is_decode, is_forward)
}

/// What the build compiles: every row for both element types.
pub fn units(arch: &str) -> Result<Vec<Unit>> {
    let operator = arch::find(arch)?.operator("attention")?;
    let (forward, decode) = (operator.texts("texts")?, operator.texts("decode_texts")?);
    let coded = operator.texts("coded_texts")?;
    shared::units(ranges(arch)?, |row, element| match row {
        Row::Forward(params) => params.unit(arch, element, &forward),
        Row::Decode(params) => params.unit(arch, element, &decode),
        Row::CodedForward(params) => params.unit(arch, element, &coded),
    })
}
