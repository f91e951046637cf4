//! Rotary position embedding, alone or on the way of new rows into a key and value cache. The kernel is
//! `device/rotary.cu`.

use super::attention::Strides;
use super::launch::{Arg, Plan};
use super::scalar::{self, Scalar, Structure, blocks, kernel, launch, overlapping, pointer};
use super::unit::{Text, Unit};
use crate::error::{KernelError, Result};
use crate::estimate::Cost;

/// Operand numbers of a plan. Those that the problem does not mention are not read.
pub mod operand {
    pub const Q_OUT: usize = 0;
    pub const K_OUT: usize = 1;
    pub const V_OUT: usize = 2;
    pub const Q: usize = 3;
    pub const K: usize = 4;
    pub const V: usize = 5;
    /// `[positions, half]`
    pub const COSINES: usize = 6;
    pub const SINES: usize = 7;
    /// i64, `[batch * rows]` or one number.
    pub const POSITIONS: usize = 8;
    /// i32 `[batch]`.
    pub const LENGTHS: usize = 9;
}

/// Queries, keys or values: from where to where, by strides in elements; columns are neighbours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    pub heads: u32,
    /// Elements of the operand before the first one.
    pub from_offset: u64,
    pub from: Strides,
    pub to: Strides,
    pub is_turned: bool,
    /// Rows go behind the past of their sequence, in a target of so many rows.
    pub room: Option<u32>,
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
    /// The tables have a line for each token.
    Token,
}

/// What is to be turned and moved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotary {
    pub scalar: Scalar,
    pub batch: u32,
    /// New rows of each sequence.
    pub rows: u32,
    /// Of a head.
    pub columns: u32,
    /// Columns that are turned: twice the angles of a position.
    pub turned: u32,
    /// Pairs are neighbours, not half the turned columns apart.
    pub is_interleaved: bool,
    /// Positions that the tables hold, and their element type.
    pub angles: u32,
    pub angle_scalar: Scalar,
    pub positions: Positions,
    /// Sequence b has `lengths[b] + bias` rows with the new ones; `None`: the new rows are all.
    pub length_bias: Option<i32>,
    /// Queries, keys, values; a part without heads is absent.
    pub parts: [Part; 3],
}

/// The launch. Numbers that lead out of the tables or the targets are held inside them.
pub fn plan(problem: &Rotary) -> Result<Plan> {
    let Rotary { scalar, batch, rows, columns, turned, .. } = *problem;
    if !scalar.is_float() || !problem.angle_scalar.is_float() {
        return Err(KernelError::parameter("rotary embedding of f32, f16 and bf16 only"));
    }
    if !columns.is_multiple_of(2) || !turned.is_multiple_of(2) || turned > columns {
        return Err(KernelError::shape(format!(
            "{turned} turned columns of {columns}: both must be even, and the former fit"
        )));
    }
    let heads: u32 = problem.parts.iter().map(|part| part.heads).sum();
    let slots = [heads, rows, columns / 2].iter().fold(batch as usize, |n, &extent| n * extent as usize);
    if slots == 0 {
        return Ok(Plan::default());
    }
    if slots >= 1 << 31 {
        return Err(KernelError::shape(format!("{slots} pairs of elements: at most 2^31 - 1")));
    }
    let is_wide = (turned / 2).is_multiple_of(4)
        && (columns / 2).is_multiple_of(4)
        && problem.parts.iter().all(|part| {
            let strides = [part.from, part.to].map(|s| [s.batch, s.row, s.head]);
            part.from_offset.is_multiple_of(4) && strides.as_flattened().iter().all(|stride| stride % 4 == 0)
        });
    let vector = if is_wide { 4 } else { 1 };
    let at = |number: usize, part: &Part, offset: u64| match part.heads {
        0 => Arg::I64(0),
        _ => Arg::Pointer { operand: number, offset_bytes: offset * scalar.bytes() as u64 },
    };
    let [q, k, v] = &problem.parts;
    let optional = |number, is_given| if is_given { pointer(number) } else { Arg::I64(0) };
    let is_turning = problem.parts.iter().any(|part| part.is_turned && part.heads > 0);
    let has_positions = matches!(problem.positions, Positions::Each | Positions::First);
    let args = vec![
        at(operand::Q_OUT, q, 0),
        at(operand::K_OUT, k, 0),
        at(operand::V_OUT, v, 0),
        at(operand::Q, q, q.from_offset),
        at(operand::K, k, k.from_offset),
        at(operand::V, v, v.from_offset),
        optional(operand::COSINES, is_turning),
        optional(operand::SINES, is_turning),
        optional(operand::POSITIONS, has_positions),
        optional(operand::LENGTHS, problem.length_bias.is_some()),
        parameters(problem),
    ];
    let cost = Cost { flops: 6.0 * slots as f64, bytes: (4 * slots * scalar.bytes()) as f64 };
    let grid = [blocks(slots / vector), 1, 1];
    Ok(overlapping(launch(format!("rotary_{}_v{vector}", scalar.suffix()), grid, args, cost)))
}

/// `RotaryParams` of the device text.
fn parameters(problem: &Rotary) -> Arg {
    let mut structure = Structure::default();
    for part in &problem.parts {
        let strides = [part.from, part.to].map(|s| [s.batch, s.row, s.head].map(|stride| stride as i64));
        structure = structure
            .i64s::<6>(strides.as_flattened().iter().copied())
            .u32(part.heads)
            .u32(part.is_turned.into())
            .u32(part.room.is_some().into())
            .u32(part.room.unwrap_or(0));
    }
    let (mode, step) = match problem.positions {
        Positions::BehindPast => (0, 0),
        Positions::Each => (1, 1),
        Positions::First => (1, 0),
        Positions::Token => (2, 0),
    };
    structure
        .u32(problem.batch)
        .u32(problem.rows)
        .u32(problem.columns)
        .u32(problem.turned / 2)
        .u32(problem.is_interleaved.into())
        .u32(problem.angles)
        .u32(problem.angle_scalar as u32)
        .u32(step)
        .u32(mode)
        .u32(problem.length_bias.is_some().into())
        .u32(problem.length_bias.unwrap_or(0) as u32)
        .finish()
}

/// What the build compiles.
pub fn unit(arch: Text) -> Unit {
    let own = Text { path: "device/rotary.cu", text: include_str!("../../device/rotary.cu") };
    let kernels =
        ["f32", "f16", "bf16"].map(|suffix| [1, 4].map(|v| kernel(format!("rotary_{suffix}_v{v}"))));
    Unit {
        name: "rotary".into(),
        texts: vec![arch, scalar::TEXT, own],
        defines: Vec::new(),
        kernels: kernels.into_iter().flatten().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(columns: u32, turned: u32) -> Rotary {
        let strides = Strides::rows_first(3, 2, columns);
        let part = Part { heads: 2, from: strides, to: strides, is_turned: true, ..Part::default() };
        Rotary {
            scalar: Scalar::BF16,
            batch: 5,
            rows: 3,
            columns,
            turned,
            is_interleaved: false,
            angles: 7,
            angle_scalar: Scalar::F32,
            positions: Positions::BehindPast,
            length_bias: None,
            parts: [part, Part::default(), Part::default()],
        }
    }

    #[test]
    fn lines_of_four_need_everything_to_divide_by_it() {
        let symbol = |columns, turned| plan(&problem(columns, turned)).unwrap().launches[0].symbol.clone();
        assert_eq!(symbol(64, 64), "rotary_bf16_v4");
        assert_eq!(symbol(64, 32), "rotary_bf16_v4");
        assert_eq!(symbol(64, 36), "rotary_bf16_v1");
        assert_eq!(symbol(12, 8), "rotary_bf16_v1");
    }

    #[test]
    fn every_pair_has_a_thread_and_absent_parts_no_address() {
        let plan = plan(&problem(64, 64)).unwrap();
        // 5 x 3 tokens, 2 heads, 32 pairs by fours.
        assert_eq!(plan.launches[0].grid, [1, 1, 1]);
        let args = &plan.launches[0].args;
        assert_eq!((&args[operand::K_OUT], &args[operand::LENGTHS]), (&Arg::I64(0), &Arg::I64(0)));
        let Arg::Bytes { bytes, align } = &args[10] else { panic!("a structure is passed by value") };
        assert_eq!((bytes.len(), *align), (240, 8));
    }

    #[test]
    fn columns_that_do_not_pair_are_refused() {
        assert!(plan(&problem(7, 6)).unwrap_err().to_string().contains("even"));
        assert!(plan(&problem(8, 10)).unwrap_err().to_string().contains("fit"));
    }
}
