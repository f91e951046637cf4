//! The rows of `attention.toml`: which parameters serve which problem, and the units they are compiled from.

use super::{DecodeParams, ForwardParams, Problem};
use crate::error::{KernelError, Result};
use crate::gpu::arch::{self, Arch, Tables};
use crate::gpu::attention::Code;
use crate::gpu::attention::table::{self as shared, Params, Ranged, element, size, size_or};
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
    /// What its cache holds instead of elements.
    pub fn code(&self) -> Option<Code> {
        match self {
            Row::Forward(p) => p.code,
            Row::Decode(p) => p.code,
        }
    }
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
            "forward" => Ok(Row::Forward(ForwardParams {
                head_qk: size(row, "head_qk")?,
                head_v: size(row, "head_v")?,
                bn: size(row, "bn")?,
                waves: size(row, "waves")?,
                has_mask: size_or(row, "mask", 0)? != 0,
                code: code(row)?,
            })),
            "decode" => Ok(Row::Decode(DecodeParams {
                head_qk: size(row, "head_qk")?,
                head_v: size(row, "head_v")?,
                rows: size(row, "rows")?,
                waves: size(row, "waves")?,
                stages: size(row, "stages")?,
                has_mask: size_or(row, "mask", 0)? != 0,
                code: code(row)?,
            })),
            other => Err(KernelError::table(format!("row [[{other}]]: forward, decode or instructions"))),
        }
    }
}

/// The row's `codes`: none where it has no such key.
fn code(row: &table::Row) -> Result<Option<Code>> {
    if row.get("codes").is_none() {
        return Ok(None);
    }
    let name = row.text("codes")?;
    let known = [Code::E4M3, Code::I8].into_iter().find(|code| code.name() == name);
    let unknown = || KernelError::table(format!("codes '{name}': e4m3 or i8"));
    known.map(Some).ok_or_else(unknown)
}

/// What a family's compiled kernels for an element type contain.
#[derive(Clone, Debug)]
pub struct Instructions {
    is_decode: bool,
    element: Element,
    code: Option<Code>,
    /// Starts of mnemonics anywhere, and in the main loop.
    pub required: Vec<&'static str>,
    pub loop_required: Vec<&'static str>,
    /// Matrix instructions for operands of 16 bytes a lane.
    pub products_a_piece: u32,
    /// Reads of LDS for such an operand of values.
    pub reads_a_value_piece: u32,
    /// Vector instructions that round two weights to the element type.
    pub vector_a_pack: u32,
    /// Vector instructions that make elements of four codes.
    pub vector_a_code_word: u32,
}

struct Table {
    rows: Vec<Ranged<Row>>,
    instructions: Vec<Instructions>,
}

/// All rows in the order of the table, with each element type that they are for.
pub fn rows(arch: &str) -> Result<Vec<(Row, Element)>> {
    let of = |ranged: &Ranged<Row>| ranged.elements.iter().map(|&e| (ranged.params, e)).collect::<Vec<_>>();
    Ok(table(arch)?.rows.iter().flat_map(of).collect())
}

/// What the family's compiled kernels contain.
pub fn instructions(arch: &str, row: &Row, element: Element) -> Result<&'static Instructions> {
    let is_decode = matches!(row, Row::Decode(_));
    let is_it =
        |has: &&Instructions| has.is_decode == is_decode && has.element == element && has.code == row.code();
    table(arch)?.instructions.iter().find(is_it).ok_or_else(|| {
        KernelError::table(format!("arch '{arch}': no [[instructions]] of {element:?} for {row:?}"))
    })
}

fn table(arch: &str) -> Result<&'static Table> {
    static TABLES: Tables<Table> = Tables::new();
    TABLES.get(arch, read_all)
}

fn read_all(arch: &Arch) -> Result<Table> {
    // Parsed once for each family, for as long as the program runs: mnemonics are compared as static text.
    let rows: &'static [table::Row] = table::parse(arch.operator("attention")?.table)?.leak();
    let mut table = Table { rows: Vec::new(), instructions: Vec::new() };
    for row in rows {
        match row.name.as_str() {
            "instructions" => table.instructions.push(read_instructions(row)?),
            _ => table.rows.push(Ranged::read(row)?),
        }
    }
    Ok(table)
}

fn read_instructions(row: &'static table::Row) -> Result<Instructions> {
    let words = |key: &str| Ok(row.text(key)?.split_whitespace().collect::<Vec<_>>());
    Ok(Instructions {
        is_decode: row.text("kernel")? == "decode",
        element: element(row.text("element")?)?,
        code: code(row)?,
        required: words("required")?,
        loop_required: words("loop_required")?,
        products_a_piece: size(row, "products_a_piece")?,
        reads_a_value_piece: size(row, "reads_a_value_piece")?,
        vector_a_pack: size(row, "vector_a_pack")?,
        vector_a_code_word: size_or(row, "vector_a_code_word", 0)?,
    })
}

/// The row for a problem: a decode row where one is for so few query rows, else a forward row.
pub fn select(arch: &str, problem: &Problem) -> Result<Row> {
    let packed = problem.typical_rows().saturating_mul(problem.group());
    let (has_mask, code) = (problem.mask.is_some(), problem.codes.map(|codes| codes.code));
    let is_decode = |row: &Row| match row {
        // The tile that reads the cache once, or the widest there is.
        Row::Decode(p) => {
            p.has_mask == has_mask && p.code == code && (p.rows >= packed || p.rows == 32 || p.head_v > 128)
        }
        Row::Forward(_) => false,
    };
    let is_forward = |row: &Row| matches!(row, Row::Forward(p) if p.has_mask == has_mask && p.code == code);
    shared::select(&table(arch)?.rows, problem, is_decode, is_forward)
}

/// What the build compiles: every row for its element types.
pub fn units(arch: &str) -> Result<Vec<Unit>> {
    let operator = arch::find(arch)?.operator("attention")?;
    let (forward, decode) = (operator.texts("texts")?, operator.texts("decode_texts")?);
    shared::units(&table(arch)?.rows, |row, element| {
        let has = instructions(arch, row, element)?;
        match row {
            Row::Forward(params) => params.unit(arch, element, &forward, has),
            Row::Decode(params) => params.unit(arch, element, &decode, has),
        }
    })
}
