//! The rows of `attention.toml`: which parameters serve which problem, and the units they are compiled from.

use super::{DecodeParams, ForwardParams, Problem, element_name};
use crate::error::{KernelError, Result};
use crate::gpu::arch::{self, Arch, Tables};
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

/// What a family's compiled kernels for an element type contain.
#[derive(Clone, Debug)]
pub struct Instructions {
    is_decode: bool,
    element: Element,
    /// Starts of mnemonics anywhere, and in the main loop.
    pub required: Vec<&'static str>,
    pub loop_required: Vec<&'static str>,
    /// Matrix instructions for operands of 16 bytes a lane.
    pub products_a_piece: u32,
    /// Reads of LDS for such an operand of values.
    pub reads_a_value_piece: u32,
    /// Vector instructions that round two weights to the element type.
    pub vector_a_pack: u32,
}

/// A row, the element types it is for, and the fewest and most query rows.
struct Ranged {
    row: Row,
    elements: Vec<Element>,
    q_min: u32,
    q_max: u32,
}

struct Table {
    rows: Vec<Ranged>,
    instructions: Vec<Instructions>,
}

/// All rows in the order of the table, with each element type that they are for.
pub fn rows(arch: &str) -> Result<Vec<(Row, Element)>> {
    let of = |ranged: &Ranged| ranged.elements.iter().map(|&e| (ranged.row, e)).collect::<Vec<_>>();
    Ok(table(arch)?.rows.iter().flat_map(of).collect())
}

/// What the family's compiled kernels contain.
pub fn instructions(arch: &str, row: &Row, element: Element) -> Result<&'static Instructions> {
    let is_decode = matches!(row, Row::Decode(_));
    let is_it = |has: &&Instructions| has.is_decode == is_decode && has.element == element;
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
            _ => table.rows.push(read(row)?),
        }
    }
    Ok(table)
}

fn element(name: &str) -> Result<Element> {
    let known = [Element::BF16, Element::F16, Element::F32];
    let found = known.into_iter().find(|e| element_name(*e).is_ok_and(|known| known == name));
    found.ok_or_else(|| KernelError::table(format!("element '{name}': bf16, f16 or f32")))
}

fn read_instructions(row: &'static table::Row) -> Result<Instructions> {
    let words = |key: &str| Ok(row.text(key)?.split_whitespace().collect::<Vec<_>>());
    let size = |key: &str| Ok(u32::try_from(row.size(key)?).unwrap_or(u32::MAX));
    Ok(Instructions {
        is_decode: row.text("kernel")? == "decode",
        element: element(row.text("element")?)?,
        required: words("required")?,
        loop_required: words("loop_required")?,
        products_a_piece: size("products_a_piece")?,
        reads_a_value_piece: size("reads_a_value_piece")?,
        vector_a_pack: size("vector_a_pack")?,
    })
}

fn read(row: &table::Row) -> Result<Ranged> {
    let size = |key: &str| Ok(u32::try_from(row.size(key)?).unwrap_or(u32::MAX));
    let bound = |key: &str, default: usize| {
        row.size_or(key, Some(default)).map(|value| u32::try_from(value).unwrap_or(u32::MAX))
    };
    let params = match row.name.as_str() {
        "forward" => Row::Forward(ForwardParams {
            head_qk: size("head_qk")?,
            head_v: size("head_v")?,
            bn: size("bn")?,
            waves: size("waves")?,
        }),
        "decode" => Row::Decode(DecodeParams {
            head_qk: size("head_qk")?,
            head_v: size("head_v")?,
            rows: size("rows")?,
            waves: size("waves")?,
            stages: size("stages")?,
        }),
        other => {
            return Err(KernelError::table(format!("row [[{other}]]: forward, decode or instructions")));
        }
    };
    Ok(Ranged {
        row: params,
        elements: row.text("elements")?.split_whitespace().map(element).collect::<Result<_>>()?,
        q_min: bound("q_min", 0)?,
        q_max: bound("q_max", usize::MAX)?,
    })
}

/// The row for a problem: a decode row where one is for so few query rows, else a forward row; among those the narrowest
/// head that holds the problem's, then the first in the table.
pub fn select(arch: &str, problem: &Problem) -> Result<Row> {
    let packed = problem.q_len.saturating_mul(problem.group());
    // The tile that reads the cache once, or the widest there is.
    let is_decode =
        |row: Row| matches!(row, Row::Decode(p) if p.rows >= packed || p.rows == 32 || p.head_v > 128);
    let is_forward = |row: Row| matches!(row, Row::Forward(_));
    if let Some(row) = narrowest(arch, problem, is_decode)? {
        return Ok(row);
    }
    narrowest(arch, problem, is_forward)?.ok_or_else(|| {
        KernelError::parameter(format!(
            "no attention kernel of {:?} holds heads of {} and {} columns",
            problem.element, problem.head_qk, problem.head_v
        ))
    })
}

fn narrowest(arch: &str, problem: &Problem, serves: impl Fn(Row) -> bool) -> Result<Option<Row>> {
    let mut best: Option<Row> = None;
    for ranged in &table(arch)?.rows {
        let (qk, v) = ranged.row.head();
        let holds = qk >= problem.head_qk
            && v >= problem.head_v
            && (ranged.q_min..=ranged.q_max).contains(&problem.q_len)
            && ranged.elements.contains(&problem.element);
        let is_better = |best: Row| qk + v < best.head().0 + best.head().1;
        if holds && serves(ranged.row) && best.is_none_or(is_better) {
            best = Some(ranged.row);
        }
    }
    Ok(best)
}

/// What the build compiles: every row for its element types.
pub fn units(arch: &str) -> Result<Vec<Unit>> {
    let operator = arch::find(arch)?.operator("attention")?;
    let (forward, decode) = (operator.texts("texts")?, operator.texts("decode_texts")?);
    let mut units: Vec<Unit> = Vec::new();
    for (row, element) in rows(arch)? {
        let has = instructions(arch, &row, element)?;
        let unit = match row {
            Row::Forward(params) => params.unit(arch, element, &forward, has)?,
            Row::Decode(params) => params.unit(arch, element, &decode, has)?,
        };
        if units.iter().all(|known| known.name != unit.name) {
            units.push(unit);
        }
    }
    Ok(units)
}
