//! New rows of queries, keys and values on their way into attention: bias, norm, rotation, and a place in a cache. The
//! kernel is `device/append.cu`.

use super::super::launch::{Arg, Plan};
use super::super::scalar::{Scalar, Structure, kernel, launch, overlapping};
use super::super::unit::{Kernel, Text, Unit};
use super::plain::{code_number, code_texts, scales_number};
use super::{Codes, Strides, optional};
use crate::error::{KernelError, Result};
use crate::estimate::Cost;

/// Columns of a head at most.
const COLUMNS: u32 = 1024;
/// Threads of a block.
const THREADS: u32 = 128;

/// Operand numbers of a plan. Those that the problem does not mention are not read.
pub mod operand {
    pub const Q_OUT: usize = 0;
    pub const K_OUT: usize = 1;
    pub const V_OUT: usize = 2;
    pub const Q: usize = 3;
    pub const K: usize = 4;
    pub const V: usize = 5;
    /// `[heads, columns]` of every part that has one.
    pub const BIAS: usize = 6;
    /// `[columns]`
    pub const Q_NORM: usize = 7;
    pub const K_NORM: usize = 8;
    /// `[positions, turned / 2]`
    pub const COSINES: usize = 9;
    pub const SINES: usize = 10;
    /// i64, `[tokens]` or one number.
    pub const POSITIONS: usize = 11;
    /// i32 `[batch]`.
    pub const LENGTHS: usize = 12;
    /// i32 `[batch + 1]`: where the rows of a sequence begin and end.
    pub const OFFSETS: usize = 13;
    /// i32 `[batch, columns]`: the pages of a sequence in order.
    pub const TABLE: usize = 14;
    /// i32 `[tokens]`: rows of the pool; negative: the token is not stored.
    pub const SLOTS: usize = 15;
    /// f32.
    pub const K_SCALES: usize = 16;
    pub const V_SCALES: usize = 17;
}

/// Where a part's rows go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// The same row of the target.
    #[default]
    Rows,
    /// Behind the past of their sequence.
    Cache,
    /// The same, in pages.
    Pages,
}

/// Queries, keys or values: from where to where, by strides in elements (of coded targets: codes); columns are neighbours.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Part {
    /// 0: absent.
    pub heads: u32,
    /// Elements of the operand before the first one.
    pub from_offset: u64,
    pub from: Strides,
    /// Elements of the target before the first one.
    pub to_offset: u64,
    pub to: Strides,
    pub target: Target,
    pub is_turned: bool,
    /// Elements of the bias before those of the first head; `None`: nothing is added.
    pub bias_offset: Option<u64>,
    /// Root mean square norm over a head's columns, with this added under the root.
    pub norm_epsilon: Option<f32>,
    pub codes: Option<Codes>,
}

/// Rotary embedding of the columns `offset .. offset + turned`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    pub turned: u32,
    pub offset: u32,
    /// Pairs are neighbours, not half the turned columns apart.
    pub is_interleaved: bool,
    /// Positions that the tables hold, and their element type.
    pub angles: u32,
    pub angle_scalar: Scalar,
    pub positions: Positions,
}

/// Where the positions of tokens come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// Row i of a sequence is at its past + i.
    BehindPast,
    /// One for each token.
    Each,
    /// One for row 0 of every sequence; the others follow.
    First,
}

/// What the lengths operand says of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    /// It has no past.
    Nothing,
    /// It has `lengths[b] + bias` rows with the new ones; new rows beyond them are padding.
    Total { bias: i32 },
    /// It has `lengths[b]` rows before the new ones.
    Before,
    /// Every one has so many rows before the new ones.
    Fixed(u32),
}

/// Pages of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages {
    pub pages: u32,
    pub page_rows: u32,
    pub table_columns: u32,
    /// Tokens say themselves which row of the pool is theirs.
    pub has_slots: bool,
}

/// What is to be moved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Append {
    pub scalar: Scalar,
    pub batch: u32,
    /// New rows of each sequence; of all together where they are ragged.
    pub rows: u32,
    pub is_ragged: bool,
    pub columns: u32,
    pub turn: Option<Turn>,
    pub past: Past,
    /// Rows of a sequence in a cache without pages.
    pub room: u32,
    pub pages: Option<Pages>,
    /// Queries, keys, values.
    pub parts: [Part; 3],
}

/// The launch. What leads out of the tables or the targets is held inside them or not stored.
pub fn plan(problem: &Append) -> Result<Plan> {
    let Append { scalar, batch, rows, columns, .. } = *problem;
    check(problem)?;
    let heads: u32 = problem.parts.iter().map(|part| part.heads).sum();
    let tokens = if problem.is_ragged { u64::from(rows) } else { u64::from(batch) * u64::from(rows) };
    let lines = tokens * u64::from(heads);
    if lines == 0 || batch == 0 {
        return Ok(Plan::default());
    }
    if lines >= 1 << 31 {
        return Err(KernelError::shape(format!("{lines} heads of tokens: at most 2^31 - 1")));
    }
    let [q, k, v] = &problem.parts;
    let to = |number: usize, part: &Part| match part.heads {
        0 => Arg::I64(0),
        _ => Arg::Pointer { operand: number, offset_bytes: part.to_offset * scalar.bytes() as u64 },
    };
    let from = |number: usize, part: &Part| match part.heads {
        0 => Arg::I64(0),
        _ => Arg::Pointer { operand: number, offset_bytes: part.from_offset * scalar.bytes() as u64 },
    };
    let is_any = |holds: fn(&Part) -> bool| problem.parts.iter().any(|part| part.heads > 0 && holds(part));
    let is_turning = problem.turn.is_some() && is_any(|part| part.is_turned);
    let has_positions =
        is_turning && problem.turn.is_some_and(|turn| turn.positions != Positions::BehindPast);
    let has_slots = problem.pages.is_some_and(|pages| pages.has_slots);
    let args = vec![
        to(operand::Q_OUT, q),
        to(operand::K_OUT, k),
        to(operand::V_OUT, v),
        from(operand::Q, q),
        from(operand::K, k),
        from(operand::V, v),
        optional(operand::BIAS, is_any(|part| part.bias_offset.is_some())),
        optional(operand::Q_NORM, q.heads > 0 && q.norm_epsilon.is_some()),
        optional(operand::K_NORM, k.heads > 0 && k.norm_epsilon.is_some()),
        optional(operand::COSINES, is_turning),
        optional(operand::SINES, is_turning),
        optional(operand::POSITIONS, has_positions),
        optional(operand::LENGTHS, matches!(problem.past, Past::Total { .. } | Past::Before)),
        optional(operand::OFFSETS, problem.is_ragged),
        optional(operand::TABLE, problem.pages.is_some()),
        optional(operand::SLOTS, has_slots),
        optional(operand::K_SCALES, k.heads > 0 && k.codes.is_some()),
        optional(operand::V_SCALES, v.heads > 0 && v.codes.is_some()),
        parameters(problem),
    ];
    let elements = lines as f64 * f64::from(columns);
    let cost = Cost { flops: 8.0 * elements, bytes: 2.0 * elements * scalar.bytes() as f64 };
    // A wave of at most 64 threads takes a line: enough blocks for the widest.
    let blocks = lines.div_ceil(u64::from(THREADS / 64)) as u32;
    let mut plan = overlapping(launch(symbol(scalar.suffix()), [blocks, 1, 1], args, cost));
    plan.launches.iter_mut().for_each(|launch| launch.block = [THREADS, 1, 1]);
    Ok(plan)
}

fn check(problem: &Append) -> Result<()> {
    let columns = problem.columns;
    if !problem.scalar.is_float() || problem.turn.is_some_and(|turn| !turn.angle_scalar.is_float()) {
        return Err(KernelError::parameter("attention of f32, f16 and bf16 only"));
    }
    if problem.parts.iter().any(|part| part.codes.is_some() && part.to_offset != 0) {
        return Err(KernelError::parameter("codes begin where their target does"));
    }
    if columns == 0 || columns > COLUMNS {
        return Err(KernelError::shape(format!("heads of {columns} columns: at most {COLUMNS}")));
    }
    if let Some(turn) = problem.turn
        && (turn.turned % 2 != 0 || turn.turned + turn.offset > columns || turn.angles == 0)
    {
        return Err(KernelError::shape(format!(
            "{} turned columns of {columns} from column {} on, over {} positions",
            turn.turned, turn.offset, turn.angles
        )));
    }
    let needs_pages = problem.parts.iter().any(|part| part.heads > 0 && part.target == Target::Pages);
    if needs_pages && problem.pages.is_none_or(|pages| pages.page_rows == 0) {
        return Err(KernelError::shape("a cache in pages needs pages of a row at least"));
    }
    Ok(())
}

/// `AppendParams` of the device text.
fn parameters(problem: &Append) -> Arg {
    let mut structure = Structure::default();
    for part in &problem.parts {
        let strides = [part.from, part.to].map(|s| [s.batch, s.row, s.head].map(|stride| stride as i64));
        let target = match part.target {
            Target::Rows => 0,
            Target::Cache => 1,
            Target::Pages => 2,
        };
        structure = structure
            .i64s::<6>(strides.as_flattened().iter().copied())
            .i64s::<1>([part.bias_offset.map_or(-1, |offset| offset as i64)])
            .u32(part.heads)
            .u32(target)
            .u32((part.is_turned && problem.turn.is_some()).into())
            .u32(part.norm_epsilon.is_some().into())
            .u32(part.codes.map_or(0, |codes| code_number(codes.code)))
            .u32(part.codes.map_or(0, |codes| scales_number(codes.scales)))
            .f32(part.norm_epsilon.unwrap_or(0.0))
            .u32(0);
    }
    let turn = problem.turn.unwrap_or(Turn {
        turned: 0,
        offset: 0,
        is_interleaved: false,
        angles: 1,
        angle_scalar: problem.scalar,
        positions: Positions::BehindPast,
    });
    let (length_mode, bias) = match problem.past {
        Past::Nothing => (0, 0),
        Past::Total { bias } => (1, bias),
        Past::Before => (2, 0),
        Past::Fixed(rows) => (3, rows as i32),
    };
    let pages = problem.pages.unwrap_or(Pages { pages: 0, page_rows: 1, table_columns: 0, has_slots: false });
    structure
        .u32(problem.batch)
        .u32(problem.rows)
        .u32(problem.columns)
        .u32(turn.turned / 2)
        .u32(turn.offset)
        .u32(turn.is_interleaved.into())
        .u32(turn.angles)
        .u32(turn.angle_scalar as u32)
        .u32(match turn.positions {
            Positions::BehindPast => 0,
            Positions::Each => 1,
            Positions::First => 2,
        })
        .u32(length_mode)
        .u32(bias as u32)
        .u32(problem.room)
        .u32(pages.page_rows)
        .u32(pages.table_columns)
        .u32(pages.pages)
        .u32(problem.is_ragged.into())
        .u32(pages.has_slots.into())
        .finish()
}

fn symbol(suffix: &str) -> String {
    format!("attention_append_{suffix}")
}

/// What the build compiles.
pub fn unit(arch: Text) -> Unit {
    let own = Text { path: "device/append.cu", text: include_str!("../../../device/append.cu") };
    Unit {
        name: "attention_append".into(),
        texts: [code_texts(arch), vec![own]].concat(),
        defines: Vec::new(),
        kernels: ["f32", "f16", "bf16"]
            .map(|suffix| Kernel { threads: THREADS, ..kernel(symbol(suffix)) })
            .into(),
    }
}
